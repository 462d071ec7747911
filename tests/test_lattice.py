"""Cells: numbers and back, Niggli cells, symmetry."""

from __future__ import annotations

import numpy as np
import pytest
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core import Lattice

from sciar import lattice
from sciar.convert import to_pymatgen
from sciar.errors import InputError
from sciar.structure import Structure


def sodium_chloride(a: float = 5.64) -> Structure:
    """The conventional cell, 8 atoms."""
    corners = np.array([[0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]])
    return Structure(np.repeat([11, 17], 4), np.concatenate([corners, corners + [0.5, 0, 0]]) * a, np.eye(3) * a)


def test_six_numbers_and_back() -> None:
    wanted = np.array([4.1, 5.2, 7.3, 81.0, 95.0, 112.0])
    cell = lattice.cell_of(wanted)
    assert np.allclose(lattice.parameters(cell), wanted) and np.linalg.det(cell) > 0 and np.allclose(np.triu(cell, 1), 0)
    assert np.isclose(np.linalg.det(cell), Lattice.from_parameters(*wanted).volume)
    with pytest.raises(InputError, match="expected angles of a cell"):
        lattice.cell_of(np.array([3, 3, 3, 20.0, 20.0, 100.0]))


@pytest.mark.parametrize("mirrored", [False, True])
def test_the_niggli_cell_is_the_same_crystal_in_the_same_handedness(mirrored: bool) -> None:
    rng = np.random.default_rng(3)
    for _ in range(10):
        cell = lattice.cell_of(np.array([4, 5, 6, 80, 75, 95.0])) @ (np.diag([1, 1, -1.0]) if mirrored else np.eye(3))
        skewed = np.array([[1, 0, 0], [1, 1, 0], [2, -1, 1]]) @ cell
        given = Structure(np.array([6, 7, 8, 9]), rng.random((4, 3)) @ skewed, skewed)
        reduced = lattice.niggli(given)
        assert reduced.cell is not None and reduced.positions is not None
        assert np.isclose(abs(np.linalg.det(reduced.cell)), abs(np.linalg.det(cell)))
        assert np.array_equal(reduced.numbers, given.numbers)
        images = lattice.niggli(Structure(given.numbers, given.positions @ np.diag([1, 1, -1.0]), skewed @ np.diag([1, 1, -1.0])))
        assert images.positions is not None and given.positions is not None
        # handedness: the signed volume of the shortest vectors between the four atoms is kept
        assert np.isclose(_handed(reduced), _handed(given)) and np.isclose(_handed(images), -_handed(given))
        assert StructureMatcher(primitive_cell=False).get_rms_dist(to_pymatgen(reduced), to_pymatgen(given))[0] < 1e-6


def _handed(structure: Structure) -> float:
    assert structure.cell is not None and structure.positions is not None
    steps = np.stack(np.meshgrid(*[np.arange(-4, 5)] * 3), axis=-1).reshape(-1, 3) @ structure.cell
    arms = []
    for k in (1, 2, 3):
        apart = structure.positions[k] - structure.positions[0] + steps
        arms.append(apart[np.linalg.norm(apart, axis=1).argmin()])
    return float(np.linalg.det(np.array(arms)))


def test_symmetry_of_rock_salt() -> None:
    salt = sodium_chloride()
    assert lattice.space_group(salt) == 225
    small = lattice.primitive(salt)
    assert small.n_atoms == 2 and lattice.parameters(small.cell)[3:] == pytest.approx([60, 60, 60])
    assert small.positions is not None
    rng = np.random.default_rng(0)
    shaken = salt.replace(positions=salt.positions + rng.normal(0, 0.02, (8, 3)))
    assert lattice.space_group(shaken, 1e-4) == 1 and lattice.space_group(shaken) == 225
    exact = lattice.symmetrized(shaken, conventional=True)
    assert exact.n_atoms == 8 and exact.info["space_group"] == 225 and lattice.space_group(exact, 1e-5) == 225
    assert lattice.symmetrized(shaken).n_atoms == 2


def test_arrangement_is_of_the_primitive_cell_and_free_of_numbers() -> None:
    salt = sodium_chloride()
    assert (
        lattice.arrangement(salt)
        == lattice.arrangement(lattice.primitive(sodium_chloride(5.1)))
        == (225, ((11, 1, "m-3m"), (17, 1, "m-3m")))
    )
    halves = salt.replace(numbers=np.array([11, 11, 17, 17, 17, 17, 11, 11]))
    assert lattice.arrangement(halves)[0] != 225
    assert lattice.arrangement(Structure(np.array([8, 6]), np.zeros((2, 3)), np.eye(3))) == (1, ((6, 1, "1"), (8, 1, "1")))


def test_flat_cell() -> None:
    with pytest.raises((InputError, np.linalg.LinAlgError)):
        lattice.niggli(Structure(np.array([6]), np.zeros((1, 3)), np.ones((3, 3))))
