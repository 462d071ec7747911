from sciar import bench


def test_nothing_is_lost() -> None:
    result = bench.run("reconstruction", n=100, data="sample:qm9")
    fine, coarse = result.rows
    for row in (fine, coarse):
        assert row["worst error Å"] <= 0.005 + 1e-6 and row["collisions"] == 0 and row["elements exact"]
    assert coarse["tokens"] < 0.85 * fine["tokens"]


def test_crystals_take_half_the_events_of_the_published_layout() -> None:
    raw = bench.run("reconstruction", n=60, data="sample:mp20").raw
    assert raw["events of fractions"] < 0.5 * raw["events of space"] and raw["refused"] == 0
    assert raw["worst error Å"] < 0.04  # half a step of 1/512 along each axis of a cell up to 20 Å
