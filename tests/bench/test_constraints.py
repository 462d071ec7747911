from sciar import bench
from sciar.bench.constraints import phenyl


def test_the_ring_is_benzene_without_a_hydrogen() -> None:
    assert phenyl().formula == "C6H5"


def test_what_is_asked_for_is_counted() -> None:
    result = bench.run("constraints", model="qm9-hybrid", n=2, seed=1)
    shares = {row["constraint"]: row["satisfied"] for row in result.rows}
    assert list(shares) == ["none", "18 atoms", "C6H6O", "C, N", "benzene ring fixed"]
    assert shares["none"] == shares["18 atoms"] == 1.0 and all(row["draws"] == 2 for row in result.rows)
