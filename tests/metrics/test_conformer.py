from __future__ import annotations

import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import rdDistGeom, rdMolAlign

from sciar.metrics import conformer
from sciar.metrics.conformer import coverage, diverse, internal_distances, internals, rmsd, stereo_kept, symmetry


def embedded(smiles: str, n: int = 4) -> tuple[Chem.Mol, np.ndarray]:
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    rdDistGeom.EmbedMultipleConfs(mol, n, randomSeed=7)
    return mol, np.array([c.GetPositions() for c in mol.GetConformers()])


def haar(rng: np.random.Generator) -> np.ndarray:
    q, r = np.linalg.qr(rng.normal(size=(3, 3)))
    q = q * np.sign(np.diag(r))
    return q * np.sign(np.linalg.det(q))


@pytest.mark.parametrize(
    "smiles",
    ["CC(C)Cc1ccc(cc1)[C@H](C)C(=O)O", "[O-][N+](=O)c1ccc(C(C)(C)C)cc1C(F)(F)F", "[H]/N=C(\\C)N", "CC(=O)[O-]", "C", "O=S(=O)(c1ccccc1)N"],
)
def test_rmsd_is_rdkits_best_rms(smiles):
    mol, x = embedded(smiles)
    heavy = Chem.RemoveAllHs(mol)
    matrix = rmsd(x, x, symmetry(mol))
    for i in range(len(x)):
        for j in range(len(x)):
            assert matrix[i, j] == pytest.approx(rdMolAlign.GetBestRMS(Chem.Mol(heavy), Chem.Mol(heavy), j, i), abs=1e-5)


def test_rmsd_ignores_motion_and_relabelling_but_not_mirrors():
    rng = np.random.default_rng(0)
    mol, x = embedded("CC(C)(C)c1ccccc1[C@H](F)Cl")
    sym = symmetry(mol)
    moved = np.array([a @ haar(rng).T + rng.normal(size=3) for a in x])
    assert np.diag(rmsd(x, moved, sym)).max() < 1e-6
    assert rmsd(x, x[:, _swapped(mol, sym)], sym).diagonal().max() < 1e-6
    assert rmsd(x, x * [1, 1, -1], sym).min() > 0.05


def _swapped(mol, sym):
    order = np.arange(mol.GetNumAtoms())
    order[sym.maps[0]] = sym.maps[-1]
    return order


def test_symmetry_is_capped_and_says_so():
    mol = Chem.AddHs(Chem.MolFromSmiles("C(c1ccccc1)(c1ccccc1)(c1ccccc1)c1ccccc1"))
    assert symmetry(mol).complete and len(symmetry(mol).maps) == 24 * 2**4
    few = symmetry(mol, max_maps=10)
    assert not few.complete and few.maps.shape == (10, 25)
    assert (few.maps[0] == np.arange(25)).all()


def test_rmsd_stops_in_time_with_an_upper_bound(monkeypatch):
    mol, x = embedded("CC(C)(C)CC(C)(C)C")
    monkeypatch.setattr(conformer.time, "monotonic", iter(range(10**6)).__next__)
    late = rmsd(np.repeat(x, 40, axis=0), np.repeat(x, 40, axis=0), symmetry(mol), seconds=0)
    assert (late[::40, ::40] >= rmsd(x, x, symmetry(mol), seconds=10**9) - 1e-9).all()


def test_reference_against_itself_is_perfect_and_nothing_covers_nothing():
    mol, x = embedded("CCCCO")
    perfect = coverage(rmsd(x, x, symmetry(mol)), 0.5)
    assert perfect["cov_recall"] == perfect["cov_precision"] == 1
    assert perfect["amr_recall"] == pytest.approx(0, abs=1e-6) and perfect["amr_precision"] == pytest.approx(0, abs=1e-6)
    nothing = coverage(np.zeros((3, 0)), 0.5)
    assert nothing["cov_recall"] == 0 and np.isnan(nothing["amr_recall"])
    matrix = np.array([[0.1, 0.9], [0.2, 0.8], [2.0, 0.7]])
    assert coverage(matrix, 0.5) == {
        "cov_recall": pytest.approx(2 / 3),
        "amr_recall": pytest.approx(1.0 / 3),
        "cov_precision": 0.5,
        "amr_precision": pytest.approx(0.4),
    }
    assert coverage(matrix[::-1, ::-1], 0.5) == pytest.approx(coverage(matrix, 0.5))


@pytest.mark.parametrize(
    "smiles",
    [
        "C[C@H](O)[C@@H](N)C#N",
        "C[S@@](=O)c1ccccc1",
        "C[P@](CC)c1ccccc1",
        "C[N@@+](CC)(CCC)c1ccccc1",
        "C[C@@H]1CN1",
        "FC1=C[C@@H]1/C=C\\Cl",
    ],
)
def test_stereo_is_seen(smiles):
    mol, x = embedded(smiles)
    assert all(stereo_kept(mol, a) for a in x)
    assert not any(stereo_kept(mol, a * [1, 1, -1]) for a in x)


def test_double_bonds_are_seen_and_unmarked_atoms_are_free():
    cis, trans, free = (embedded(s)[0] for s in ("F/C=C\\Cl", "F/C=C/Cl", "FC=CCl"))
    x = embedded("F/C=C\\Cl")[1][0]
    assert stereo_kept(cis, x) and not stereo_kept(trans, x) and stereo_kept(free, x)
    mol, x = embedded("CC(O)N")
    assert stereo_kept(mol, x[0]) and stereo_kept(mol, -x[0])


def test_para_stereo_is_a_relation():
    # the mirror image of a cis-1,3-disubstituted cyclobutane has both signs turned and is the same molecule
    mol, x = embedded("OCCO[C@H]1C[C@@H](O)C1")
    assert stereo_kept(mol, x[0]) and stereo_kept(mol, x[0] * [1, 1, -1])
    other = embedded("OCCO[C@H]1C[C@H](O)C1")[1][0]
    assert not stereo_kept(mol, other)


def test_internals_of_ethane_like_shapes():
    mol, x = embedded("CCCC", n=2)
    found = internals([(mol, x)])
    assert set(found["bond"]) == {(6, 6, 1.0), (1, 6, 1.0)} and len(found["bond"][(6, 6, 1.0)]) == 6
    assert len(found["torsion"][(6, 6, 1.0)]) == 2 and (found["torsion"][(6, 6, 1.0)] >= 0).all()
    assert found["angle"][(6, 6, 6)] == pytest.approx(112, abs=6)


def test_internal_distances_are_zero_on_itself_and_independent_of_order():
    items = [embedded(s) for s in ("CCCCO", "c1ccccc1CC(=O)N", "CC(F)(F)CCl")]
    here, there = internals(items), internals([(m, x[::-1]) for m, x in reversed(items)])
    assert all(v == pytest.approx(0, abs=1e-9) for v in internal_distances(here, there).values() if not np.isnan(v))
    longer = internals([(m, 1.1 * x) for m, x in items])
    assert internal_distances(here, longer)["bond_w1"] == pytest.approx(0.12, abs=0.03)
    assert internal_distances(here, longer)["angle_w1"] == pytest.approx(0, abs=1e-6)


def test_diverse_takes_the_far_ones():
    points = np.array([0.0, 0.1, 5.0, 5.1, 9.0])
    assert diverse(np.abs(points[:, None] - points), 3).tolist() == [0, 4, 2]
    assert diverse(np.zeros((0, 0)), 3).tolist() == [] and len(diverse(np.zeros((2, 2)), 5)) == 2
