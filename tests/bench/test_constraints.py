from sciar import bench
from sciar.bench.constraints import _benzene, phenyl
from sciar.convert import from_smiles


def test_the_ring_is_benzene_without_a_hydrogen() -> None:
    assert phenyl().formula == "C6H5"
    with_bonds = [from_smiles(s) for s in ("Oc1ccccc1", "OC1CCCCC1")]
    assert [_benzene(s) for s in with_bonds] == [True, False]


def test_what_is_asked_for_is_counted() -> None:
    result = bench.run("constraints", model="qm9-hybrid", n=2, seed=1)
    shares = {row["constraint"]: row["satisfied"] for row in result.rows}
    assert list(shares) == ["none", "18 atoms", "C6H6O", "C, N", "benzene ring fixed"]
    ring = result.rows[-1]
    assert 0 <= ring["intact"] <= ring["accepted"] and "intact, benzene ring fixed" in result.raw
    assert shares["none"] == shares["18 atoms"] == 1.0 and all(row["draws"] == 2 for row in result.rows)
