"""Structure: invariants, and what follows the atoms when they are reordered."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from molecules import DRUGS, conformer, quick
from scipy.spatial.transform import Rotation

from sciar.convert import from_smiles, to_smiles
from sciar.structure import Structure


def test_arrays_are_read_only_copies_and_bonds_canonical() -> None:
    numbers = np.array([6, 8, 6])
    s = Structure(numbers, bonds=np.array([[2, 1, 1], [1, 0, 2]]))
    numbers[0] = 7
    assert s.numbers[0] == 6
    assert s.bonds is not None and s.bonds.tolist() == [[0, 1, 2], [1, 2, 1]]
    with pytest.raises(ValueError, match="read-only"):
        s.numbers[0] = 1


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"numbers": [119]}, "numbers"),
        ({"numbers": [6], "positions": [[0, 0]]}, "positions"),
        ({"numbers": [6], "positions": [[0, 0, np.nan]]}, "finite"),
        ({"numbers": [6, 6], "bonds": [[0, 2, 1]]}, "bonds"),
        ({"numbers": [6, 6], "bonds": [[0, 0, 1]]}, "bonds"),
        ({"numbers": [6, 6], "bonds": [[0, 1, 1], [1, 0, 2]]}, "twice"),
        ({"numbers": [6], "tetrahedral": [[0, 1, 2, 3, 4]]}, "tetrahedral"),
    ],
)
def test_nonsense_is_refused_by_name(fields: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Structure(**{name: np.array(value) for name, value in fields.items()})


def test_formula_counts_hydrogens_that_are_not_atoms() -> None:
    assert from_smiles("CCO", explicit_hydrogens=False).formula == from_smiles("CCO").formula == "C2H6O"
    assert Structure(np.array([], dtype=int)).formula == ""


@quick
@given(st.randoms(use_true_random=False), st.sampled_from(DRUGS))
def test_a_permutation_changes_nothing_but_the_order(random, smiles: str) -> None:
    s = conformer(smiles)
    order = list(range(s.n_atoms))
    random.shuffle(order)
    p = s.permuted(np.array(order))
    assert to_smiles(p) == to_smiles(s) and p.formula == s.formula
    back = p.permuted(np.argsort(order))
    assert np.array_equal(back.bonds, s.bonds) and np.array_equal(back.positions, s.positions)
    assert np.array_equal(back.tetrahedral, s.tetrahedral)


def test_permuted_wants_a_permutation_and_isotopes_follow() -> None:
    s = from_smiles("[13CH4]", explicit_hydrogens=True)
    assert s.permuted(np.array([4, 3, 2, 1, 0])).info["isotopes"] == (0, 0, 0, 0, 13)
    with pytest.raises(ValueError, match="permutation"):
        s.permuted(np.array([0, 0, 1, 2, 3]))


def test_subset_drops_what_loses_an_atom() -> None:
    s = from_smiles("C[C@H](F)Cl")
    part = s.subset(s.numbers > 1)
    assert part.bonds is not None and part.bonds.tolist() == [[0, 1, 1], [1, 2, 1], [1, 3, 1]]
    assert part.tetrahedral is not None and not len(part.tetrahedral)
    assert s.fragments().max() == 0 and s.subset(np.array([0, 2])).fragments().tolist() == [0, 1]


@quick
@given(st.integers(0, 10_000))
def test_rotation_and_shift_keep_distances(seed: int) -> None:
    s = conformer(DRUGS[1])
    t = s.rotated(Rotation.random(random_state=seed).as_matrix()).shifted(np.array([1.0, -2, 3]))
    assert s.positions is not None and t.positions is not None
    d = [np.linalg.norm(x[:, None] - x, axis=-1) for x in (s.positions, t.positions)]
    assert np.allclose(*d, atol=1e-9)
