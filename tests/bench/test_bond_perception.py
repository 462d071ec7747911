from sciar import bench


def test_every_perception_sees_the_same_molecules() -> None:
    result = bench.run("bonds", n=40, data="sample:qm9", noises=(0.0, 0.06))
    right = {(row["perception"], row["noise Å"]): row["right"] for row in result.rows}
    assert right["sciar", 0.0] >= 0.97 and right["sciar", 0.06] >= 0.9
    assert right["RDKit DetermineBonds", 0.0] > 0.85
    assert right["EDM look-up", 0.06] < 0.2  # its margins are narrower than the noise: the reason why it is strict
    assert all(row["right"] <= row["answered"] <= 1 for row in result.rows)
