"""Verdicts: sound structures pass, each way of breaking one gives its reason."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from molecules import DRUGS, conformer, moved, quick, rock_salt
from rdkit import Chem
from scipy.spatial.transform import Rotation

from sciar.convert import from_smiles, to_smiles
from sciar.prompt import Prompt
from sciar.structure import Structure
from sciar.validate import validate

IBUPROFEN = DRUGS[0]


def graph_of(structure: Structure) -> Structure:
    return structure.replace(positions=None, info={})


def kinds(structure: Structure, prompt: Prompt | None = None) -> list[str]:
    return [reason.split(":")[0] for reason in validate(structure, prompt).reasons]


SOUND = (*DRUGS, "C1CC1", "C12CC1C2", "C[N+](C)(C)C", "CS(=O)(=O)N", "OP(=O)(O)O", "C#CC#N", "C/C=C\\C", "BrC(Cl)I")
MARKED = ("C[S@](=O)CC", "C[S@@](=O)CC", "N[C@@H](C)C(=O)O", "F/C(Cl)=C(/Br)I", "C/C=N/O")


@pytest.mark.parametrize("smiles", SOUND)
def test_sound_molecules_pass(smiles: str) -> None:
    s = conformer(smiles)
    verdict = validate(s, Prompt(graph=graph_of(s)))
    assert verdict.valid and verdict.reasons == ()
    assert Chem.MolToSmiles(Chem.RemoveHs(verdict.native)) == Chem.CanonSmiles(smiles)
    assert np.allclose(verdict.native.GetConformer().GetPositions(), s.positions)
    assert validate(s).valid


@quick
@given(st.randoms(use_true_random=False), st.integers(0, 1000), st.sampled_from(DRUGS))
def test_the_verdict_does_not_depend_on_pose_and_order(random, seed: int, smiles: str) -> None:
    s = conformer(smiles)
    order = list(range(s.n_atoms))
    random.shuffle(order)
    other = s.permuted(np.array(order)).rotated(Rotation.random(random_state=seed).as_matrix()).shifted(np.array([5.0, 0, 0]))
    assert validate(other, Prompt(graph=graph_of(other))).valid
    mirror = s.replace(positions=-s.positions)  # type: ignore[operator]
    assert validate(mirror, Prompt(graph=graph_of(s))).valid == (s.tetrahedral is None)


@quick
@given(st.integers(0, 32), st.integers(0, 32), st.integers(0, 1000))
def test_an_atom_put_on_another_is_found(atom: int, target: int, seed: int) -> None:
    s = conformer(IBUPROFEN)
    assert s.positions is not None
    if atom == target:
        return
    noise = 0.2 * np.random.default_rng(seed).standard_normal(3).clip(-1, 1)
    broken = moved(s, atom, s.positions[target] + noise)
    found = kinds(broken, Prompt(graph=graph_of(s)))
    assert {"bond length", "bond angle", "clash"} & set(found)


@quick
@given(st.integers(0, 32), st.floats(2, 20))
def test_an_atom_far_away_is_found(atom: int, far: float) -> None:
    s = conformer(IBUPROFEN)
    assert s.positions is not None
    outward = s.positions[atom] - s.positions.mean(axis=0)
    broken = moved(s, atom, s.positions[atom] + far * outward / np.linalg.norm(outward))
    assert "bond length" in kinds(broken, Prompt(graph=graph_of(s)))


def test_the_empty_structure_is_invalid() -> None:
    empty = Structure(np.array([], dtype=int), positions=np.zeros((0, 3)))
    for prompt in (None, Prompt(graph=from_smiles("C")), Prompt(composition={"Na": 1})):
        assert validate(empty, prompt).reasons == ("no atoms",)
    failed = empty.with_info(failure="unparsable words: 3 of 9")
    assert validate(failed).reasons == ("unparsable words: 3 of 9", "no atoms")


def test_a_decoders_failure_is_the_first_reason() -> None:
    s = conformer("CCO").with_info(failure="unparsable words: 2 of 40")
    assert validate(s, Prompt(graph=graph_of(s))).reasons == ("unparsable words: 2 of 40",)


def test_faults_of_the_graph() -> None:
    assert validate(from_smiles("C.C")).reasons == ("disconnected: 2 fragments",)
    (reason,) = validate(Structure(np.array([6] + [1] * 5), bonds=np.array([[0, k, 1] for k in range(1, 6)]))).reasons
    assert reason.startswith("valence: Explicit valence for atom # 0 C, 5")
    assert kinds(Structure(np.array([6]))) == ["no coordinates"]
    (reason,) = validate(from_smiles("[CH3]")).reasons
    assert reason == "valence: unpaired electrons: C0 1"
    assert validate(from_smiles("CCO", explicit_hydrogens=False)).valid


def test_conformers_keep_the_graph() -> None:
    s = conformer("CCO")
    prompt = Prompt(graph=graph_of(s))
    assert kinds(s.replace(positions=None), prompt) == ["no coordinates"]
    assert kinds(conformer("CCN"), prompt) == ["wrong graph"]
    assert kinds(s.permuted(np.arange(s.n_atoms)[::-1]), prompt) == ["wrong graph"]
    assert kinds(s.replace(bonds=s.bonds[:-1]), prompt) == ["wrong graph"]  # type: ignore[index]
    assert validate(s.replace(bonds=None), prompt).valid
    ring = conformer("Cc1ccccc1C")
    other = ring.replace(bonds=np.array([[i, j, {1: 2, 2: 1}[o] if max(i, j) < 7 and min(i, j) > 0 else o] for i, j, o in ring.bonds]))  # type: ignore[union-attr]
    assert validate(other, Prompt(graph=graph_of(ring))).valid, "the other Kekulé form is the same molecule"
    # what was asked for is not the sample's fault
    salt = conformer("O").subset(np.array([0, 1, 2]))
    assert validate(salt, Prompt(graph=graph_of(salt))).valid


def test_each_fault_of_the_coordinates_is_named() -> None:
    s = conformer("CC")
    assert s.positions is not None
    prompt = Prompt(graph=graph_of(s))
    axis = s.positions[1] - s.positions[0]
    far = s.replace(positions=s.positions + np.outer(np.isin(np.arange(8), [1, 5, 6, 7]), 0.42 * axis / np.linalg.norm(axis)))
    (reason,) = validate(far, prompt).reasons
    assert reason.startswith("bond length: C0-C1 1.9") and "expected 1.2" in reason
    bent = moved(s, 2, s.positions[0] + 1.09 * axis / np.linalg.norm(axis) + [0, 0, 0.3])
    assert "bond angle" in kinds(bent, prompt)


def test_planarity() -> None:
    s = conformer("c1ccccc1")
    assert s.positions is not None
    normal = np.cross(s.positions[0] - s.positions[1], s.positions[2] - s.positions[1])
    up = np.outer(np.isin(np.arange(12), [0, 6]), 0.6 * normal / np.linalg.norm(normal))
    assert "planarity" in kinds(s.replace(positions=s.positions + up), Prompt(graph=graph_of(s)))
    ethene = conformer("C=C")
    assert ethene.positions is not None and ethene.bonds is not None
    axis = ethene.positions[1] - ethene.positions[0]
    mine = np.isin(np.arange(6), ethene.bonds[ethene.bonds[:, 0] == 0][:, 1][1:])
    quarter = Rotation.from_rotvec(np.pi / 2 * axis / np.linalg.norm(axis))
    turned = quarter.apply(ethene.positions - ethene.positions[0]) + ethene.positions[0]
    twisted = ethene.replace(positions=np.where(mine[:, None], turned, ethene.positions))
    assert kinds(twisted, Prompt(graph=graph_of(ethene))) == ["planarity"]


def test_stereo() -> None:
    right, left = conformer("C[C@H](F)Cl"), conformer("C[C@@H](F)Cl")
    (reason,) = validate(right, Prompt(graph=graph_of(left))).reasons
    assert reason in ("stereo changed: atom 1 R→S", "stereo changed: atom 1 S→R")
    free = graph_of(left).replace(tetrahedral=None)
    assert validate(right, Prompt(graph=free)).valid and validate(left, Prompt(graph=free)).valid
    cis, trans = conformer("C/C=C\\C"), conformer("C/C=C/C")
    assert validate(cis, Prompt(graph=graph_of(trans))).reasons == ("stereo changed: bond C1-C2 E→Z",)
    assert validate(cis, Prompt(graph=graph_of(trans).replace(double_bonds=None))).valid


@pytest.mark.parametrize("smiles", MARKED)
def test_marks_agree_with_rdkit(smiles: str) -> None:
    s = conformer(smiles)
    assert (s.tetrahedral is not None) or (s.double_bonds is not None)
    assert validate(s, Prompt(graph=graph_of(s))).valid
    if s.tetrahedral is not None:
        assert kinds(s.replace(positions=-s.positions), Prompt(graph=graph_of(s))) == ["stereo changed"]  # type: ignore[operator]


def test_marks_that_depend_on_each_other_may_all_turn_over() -> None:
    """trans-1,4-dimethylcyclohexane is its own mirror image, and so is what the validator says of it."""
    s = conformer("C[C@H]1CC[C@@H](C)CC1")
    prompt = Prompt(graph=graph_of(s))
    assert validate(s, prompt).valid and validate(s.replace(positions=-s.positions), prompt).valid  # type: ignore[operator]
    cis = conformer("C[C@H]1CC[C@H](C)CC1")
    assert kinds(s.replace(positions=cis.positions), prompt)[0] == "stereo changed"


def test_de_novo_molecules_get_bonds_and_stereo_from_their_coordinates() -> None:
    s = conformer(IBUPROFEN)
    verdict = validate(s.replace(bonds=None, tetrahedral=None))
    assert verdict.valid and verdict.structure.bonds is not None
    assert Chem.MolToSmiles(Chem.RemoveHs(verdict.native)) == to_smiles(s)
    assert kinds(s.replace(bonds=None).subset(np.arange(s.n_atoms - 1))) == ["valence"]


def test_what_was_asked_for() -> None:
    s = conformer("CCO")
    assert validate(s, Prompt(n_atoms=(9, 9), scaffold="CO")).valid
    assert kinds(s, Prompt(n_atoms=(10, 20))) == ["wrong size"]
    assert kinds(s, Prompt(scaffold="*c1ccccc1")) == ["scaffold"]
    assert validate(conformer(IBUPROFEN), Prompt(scaffold="*c1ccc(*)cc1")).valid


def test_crystals() -> None:
    salt = rock_salt()
    assert salt.positions is not None and salt.cell is not None
    assert validate(salt).valid and validate(salt, Prompt(composition={"Na": 1, "Cl": 1})).valid
    assert validate(salt).native.composition.reduced_formula == "NaCl"
    assert validate(salt, Prompt(composition={"Na": 1, "K": 1})).reasons == ("wrong composition: Cl4Na4, expected KNa",)
    assert kinds(moved(salt, 0, salt.positions[1] + [0.1, 0, 0])) == ["clash"]
    assert kinds(moved(salt, 0, salt.positions[1] + salt.cell[0])) == ["clash"], "images count"
    assert kinds(salt.replace(cell=np.zeros((3, 3)))) == ["volume"]
    tiny = Structure(np.array([6]), positions=np.zeros((1, 3)), cell=np.diag([0.3, 4, 4]))
    assert kinds(tiny) == ["clash"], "an atom and its own image"
    assert kinds(salt.replace(cell=None), Prompt(composition={"Na": 1}, crystal=True)) == ["no cell"]
    assert kinds(salt.replace(positions=None)) == ["no coordinates"]


def test_plain_graphs() -> None:
    graph = Structure(np.zeros(3, dtype=int), bonds=np.array([[0, 1, 1]]))
    verdict = validate(graph)
    assert verdict.valid and sorted(verdict.native.edges) == [(0, 1)]


def test_verdicts_are_frozen_and_quick() -> None:
    s = conformer(IBUPROFEN)
    prompt = Prompt(graph=graph_of(s))
    verdict = validate(s, prompt)
    assert replace(verdict, reasons=("x",)).valid is False
    best = min(_seconds(s, prompt) for _ in range(20))
    assert best < 5e-3  # measured: 0.3 ms


def _seconds(structure: Structure, prompt: Prompt) -> float:
    start = time.perf_counter()
    validate(structure, prompt)
    return time.perf_counter() - start
