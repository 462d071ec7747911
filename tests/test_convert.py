"""Structure ↔ RDKit, SMILES, pymatgen, ASE, networkx: nothing is lost, nothing foreign is changed."""

from __future__ import annotations

import os
from pathlib import Path

import networkx as nx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from molecules import DRUGS, SMILES, conformer, quick, rock_salt
from rdkit import Chem

from sciar.convert import (
    from_ase,
    from_networkx,
    from_pymatgen,
    from_rdkit,
    from_smiles,
    to_ase,
    to_conformers,
    to_networkx,
    to_pymatgen,
    to_rdkit,
    to_smiles,
)
from sciar.errors import InputError
from sciar.structure import Structure

FIELDS = ("numbers", "charges", "hydrogens", "bonds", "tetrahedral", "double_bonds", "positions", "cell")


def equal(a: Structure, b: Structure) -> bool:
    return all(
        getattr(a, f) is getattr(b, f) is None
        or (getattr(a, f) is not None and getattr(b, f) is not None and np.allclose(getattr(a, f), getattr(b, f), atol=1e-9))
        for f in FIELDS
    )


@pytest.mark.parametrize("hydrogens", [False, True])
@pytest.mark.parametrize("smiles", SMILES)
def test_rdkit_round_trip(smiles: str, hydrogens: bool) -> None:
    mol = Chem.MolFromSmiles(smiles)
    mol = Chem.AddHs(mol) if hydrogens else mol
    before = mol.ToBinary()
    s = from_rdkit(mol)
    again = to_rdkit(s)
    assert mol.ToBinary() == before, "the molecule given was changed"
    assert Chem.MolToSmiles(again) == Chem.MolToSmiles(mol)
    assert [a.GetNumRadicalElectrons() for a in again.GetAtoms()] == [a.GetNumRadicalElectrons() for a in mol.GetAtoms()]
    assert equal(from_rdkit(again).replace(bonds=None), s.replace(bonds=None))


@quick
@given(st.sampled_from(SMILES), st.randoms(use_true_random=False), st.booleans())
def test_conversion_commutes_with_permutation(smiles: str, random, hydrogens: bool) -> None:
    mol = Chem.MolFromSmiles(smiles)
    mol = Chem.AddHs(mol) if hydrogens else mol
    order = list(range(mol.GetNumAtoms()))
    random.shuffle(order)
    wanted = Chem.MolToSmiles(mol)
    assert Chem.MolToSmiles(to_rdkit(from_rdkit(mol).permuted(np.array(order)))) == wanted
    assert Chem.MolToSmiles(to_rdkit(from_rdkit(Chem.RenumberAtoms(mol, order)))) == wanted


@pytest.mark.skipif("SCIAR_DATA" not in os.environ, reason="needs the real data")
@pytest.mark.parametrize(("file", "column"), [("zinc250k.npz", "smiles_utf8"), ("geom_drugs_smiles.npz", "test_smiles_utf8")])
def test_round_trip_of_real_molecules(file: str, column: str) -> None:
    lines = bytes(np.load(Path(os.environ["SCIAR_DATA"]) / file)[column]).decode().split("\n")
    for k in np.random.default_rng(0).choice(len(lines), 200, replace=False):
        mol = Chem.MolFromSmiles(lines[k])
        for m in (mol, Chem.AddHs(mol)):
            assert Chem.MolToSmiles(to_rdkit(from_rdkit(m))) == Chem.MolToSmiles(m)


@pytest.mark.parametrize("smiles", DRUGS)
def test_marks_are_those_of_the_coordinates(smiles: str) -> None:
    s = conformer(smiles)
    bare = to_rdkit(s.replace(tetrahedral=None, double_bonds=None))
    seen = from_rdkit(bare, perceive_stereo_from_3d=True)
    assert equal(seen.replace(bonds=None), s.replace(bonds=None))
    mirror = from_rdkit(to_rdkit(s.replace(positions=-s.positions, tetrahedral=None)), perceive_stereo_from_3d=True)  # type: ignore[operator]
    assert (to_smiles(mirror) == smiles) == (s.tetrahedral is None) or "@" in smiles


def test_atom_maps_make_no_centres() -> None:
    rules = Chem.SmilesParserParams()
    rules.removeHs = False
    mol = Chem.MolFromSmiles("[C@:1]([H:2])([H:3])([H:4])[O:5][H:6]", rules)
    assert from_rdkit(mol).tetrahedral is None


@pytest.mark.parametrize(
    ("smiles", "message"),
    [("N->[Cu]", "dative"), ("C[Mg]Br", "metal"), ("F[Pt@SP1](Cl)(Br)I", "metal|SQUAREPLANAR")],
)
def test_what_cannot_be_held_is_refused(smiles: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        from_rdkit(Chem.MolFromSmiles(smiles))


def test_refusals_of_rdkit_side() -> None:
    with pytest.raises(InputError, match="None"):
        from_rdkit(None)
    with pytest.raises(InputError, match="query"):
        from_rdkit(Chem.MolFromSmarts("[C,N]"))
    with pytest.raises(InputError, match="conformer ids"):
        from_rdkit(to_rdkit(conformer(DRUGS[1])), conformer=7)
    with pytest.raises(InputError, match="bonds"):
        to_rdkit(Structure(np.array([6])))
    with pytest.raises(InputError, match="valence"):
        to_rdkit(Structure(np.array([6, 8]), bonds=np.array([[0, 1, 3]]), hydrogens=np.array([3, 0])))
    assert to_rdkit(Structure(np.array([6] * 6), bonds=[[0, k, 1] for k in range(1, 6)]), sanitize=False).GetNumAtoms() == 6  # type: ignore[arg-type]
    with pytest.raises(InputError, match="stereo mark"):
        to_rdkit(from_smiles("CCO").replace(tetrahedral=np.array([[0, 1, 2, 3, 8]])))


@pytest.mark.parametrize("smiles", ["", "   ", "C1CC", "C(C)(C)(C)(C)C", "not a molecule", "c1cccc1", "[Xx]", "C(", None, 5])
def test_bad_smiles_is_one_sentence_with_the_reason(smiles: object, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InputError, match="smiles") as caught:
        from_smiles(smiles)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value) and len(str(caught.value)) > 30
    assert capfd.readouterr() == ("", "")


def test_rdkits_own_reason_is_kept() -> None:
    with pytest.raises(InputError, match="unclosed ring"):
        from_smiles("C1CC")
    with pytest.raises(InputError, match="valence for atom # 0 C, 5"):
        from_smiles("C(C)(C)(C)(C)C")
    with pytest.raises(InputError, match="kekulize"):
        from_smiles("c1cccc1")


@pytest.mark.parametrize("smiles", SMILES)
@pytest.mark.parametrize("hydrogens", [False, True])
def test_smiles_round_trip(smiles: str, hydrogens: bool) -> None:
    assert to_smiles(from_smiles(smiles, explicit_hydrogens=hydrogens)) == Chem.CanonSmiles(smiles)


def test_conformers_of_one_molecule() -> None:
    s = conformer(DRUGS[0])
    mol = to_conformers([s, s.shifted(np.array([1.0, 0, 0]))])
    assert [c.GetId() for c in mol.GetConformers()] == [0, 1]
    assert np.allclose(mol.GetConformer(1).GetPositions() - mol.GetConformer(0).GetPositions(), [1, 0, 0])
    for bad, message in (([], "at least one"), ([s, conformer(DRUGS[1])], "another graph"), ([s.replace(positions=None)], "no positions")):
        with pytest.raises(InputError, match=message):
            to_conformers(bad)


def test_pymatgen_and_ase_round_trips() -> None:
    crystal, molecule = rock_salt(), conformer(DRUGS[1])
    assert equal(from_pymatgen(to_pymatgen(crystal)), crystal)
    assert equal(from_ase(to_ase(crystal)), crystal)
    bare = molecule.replace(bonds=None)
    assert equal(from_pymatgen(to_pymatgen(molecule)), bare)
    assert equal(from_ase(to_ase(molecule)), bare)
    charged = Structure(np.array([11]), positions=np.zeros((1, 3)), charges=np.array([1]))
    assert equal(from_ase(to_ase(charged)), charged)


def test_pymatgen_and_ase_refusals() -> None:
    from ase import Atoms
    from pymatgen.core import Structure as Crystal

    with pytest.raises(InputError, match="one element on each site"):
        from_pymatgen(Crystal(np.eye(3) * 4, [{"Na": 0.5, "K": 0.5}], [[0, 0, 0]]))
    with pytest.raises(InputError, match="no or all directions"):
        from_ase(Atoms("H", cell=[1, 1, 1], pbc=[True, True, False]))
    with pytest.raises(InputError, match="positions"):
        to_ase(from_smiles("C"))
    with pytest.raises(InputError, match="volume"):
        to_pymatgen(Structure(np.array([6]), positions=np.zeros((1, 3)), cell=np.zeros((3, 3))))


@quick
@given(st.integers(0, 12), st.floats(0, 1), st.integers(0, 1000))
def test_plain_graph_round_trip(n: int, p: float, seed: int) -> None:
    graph = nx.gnp_random_graph(n, p, seed=seed)
    again = to_networkx(from_networkx(graph))
    assert nx.utils.graphs_equal(again, graph)


def test_molecular_graph_round_trip_and_refusals() -> None:
    s = from_smiles("[NH3+]CC(=O)[O-]", explicit_hydrogens=False)
    assert equal(from_networkx(to_networkx(s)), s)
    for graph, message in ((nx.DiGraph([(0, 1)]), "undirected"), (nx.Graph([(0, 0)]), "loop"), (nx.MultiGraph([(0, 1)]), "simple")):
        with pytest.raises(InputError, match=message):
            from_networkx(graph)
