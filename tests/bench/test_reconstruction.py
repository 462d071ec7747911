from sciar import bench


def test_nothing_is_lost() -> None:
    result = bench.run("reconstruction", n=100, data="sample:qm9")
    fine, coarse = result.rows
    for row in (fine, coarse):
        assert row["worst error Å"] <= 0.005 + 1e-6 and row["collisions"] == 0 and row["elements exact"]
    assert coarse["tokens"] < 0.85 * fine["tokens"]
