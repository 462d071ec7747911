"""A crystal as it is drawn: the atoms of its cell, those on faces repeated, its bonds and its twelve edges."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from pathlib import Path

import numpy as np

from sciar.lattice import fractional
from sciar.packing import covalent_radius
from sciar.structure import SYMBOLS, Structure

FACE = 0.02  # of a lattice vector: an atom this close to a face is on it
REACH = 1.2  # bonds are shorter than this times the sum of the covalent radii
METALS_APART = 1.05  # the same between two metals, which are drawn bonded only where nothing else is near


@dataclass(frozen=True, slots=True, eq=False)
class Drawing:
    """What is drawn of a crystal; positions in Å with the eye on +z and up on +y.

    Args:
        structure: atoms of the cell and their copies on its faces, with bonds of order 1.
        edges: 12 × 2 × 3, ends of the cell's edges.
    """

    structure: Structure
    edges: np.ndarray


def drawing(structure: Structure) -> Drawing:
    """The atoms, bonds and edges of one unit cell, turned so that c points up and the cell is seen from the front, a little from above.

    Raises:
        InputError: no cell or no positions.
    """
    fraction = fractional(structure)
    assert structure.cell is not None
    fraction = np.where(fraction > 1 - FACE, fraction - 1, fraction)
    atoms, numbers = [], []
    for row, z in zip(fraction, structure.numbers, strict=True):
        steps = product(*[(0, 1) if abs(x) < FACE else (0,) for x in row])
        for step in steps:
            atoms.append(row + step)
            numbers.append(z)
    corners = np.array(list(product((0, 1), repeat=3)), dtype=float)
    ends = [(i, j) for i in range(8) for j in range(i + 1, 8) if np.abs(corners[i] - corners[j]).sum() == 1]
    turn = _turn(structure.cell)
    middle = np.full(3, 0.5)
    at = (np.array(atoms) - middle) @ structure.cell @ turn
    edges = (corners[np.array(ends)] - middle) @ structure.cell @ turn
    return Drawing(Structure(np.array(numbers), at, bonds=_bonds(np.array(numbers), at)), edges)


@lru_cache(maxsize=1)
def colours() -> dict[int, tuple[int, int, int]]:
    """Colours of the elements as Jmol shows them, from pymatgen's table; empty if this pymatgen has none."""
    import pymatgen.vis
    import yaml

    table = Path(next(iter(pymatgen.vis.__path__))) / "ElementColorSchemes.yaml"
    if not table.exists():
        return {}
    scheme = yaml.safe_load(table.read_text())["Jmol"]
    return {z: tuple(scheme[symbol]) for z, symbol in enumerate(SYMBOLS) if symbol in scheme}


def _turn(cell: np.ndarray) -> np.ndarray:
    """Columns are the picture's right, up and towards the eye."""
    up = cell[2] / np.linalg.norm(cell[2])
    right = cell[0] - (cell[0] @ up) * up
    right = right / np.linalg.norm(right)
    frame = np.stack([right, up, np.cross(right, up)], axis=1)
    a, b = 0.22, -0.42  # rad, from above and to the side
    tilt = np.array([[1, 0, 0], [0, np.cos(a), np.sin(a)], [0, -np.sin(a), np.cos(a)]])
    side = np.array([[np.cos(b), 0, -np.sin(b)], [0, 1, 0], [np.sin(b), 0, np.cos(b)]])
    turned: np.ndarray = frame @ side @ tilt
    return turned


def _bonds(numbers: np.ndarray, at: np.ndarray) -> np.ndarray:
    from pymatgen.core import Element

    radii = np.array([covalent_radius(z) for z in numbers])
    metal = np.array([Element.from_Z(int(z)).is_metal for z in numbers])
    i, j = np.triu_indices(len(numbers), 1)
    reach = np.where(metal[i] & metal[j], METALS_APART, REACH) * (radii[i] + radii[j])
    if metal.any() and not metal.all():
        reach = np.where(metal[i] & metal[j], 0.0, reach)  # cations among anions
    close = np.linalg.norm(at[i] - at[j], axis=1) < reach
    return np.stack([i[close], j[close], np.ones(close.sum(), dtype=np.int64)], axis=1)
