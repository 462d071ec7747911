"""Crystals in space, as published: the cell is eight corners among the atoms, and the crystal a molecule of both.

Eight drawn points need not be a cell, and every atom's images are as far as they are; the baseline of the octree of fractions.

Source: Uni-3DAR (arXiv 2503.16278), which gives corners an octree of their own; here they share the atoms' one.
"""

from __future__ import annotations

import dataclasses
from itertools import combinations

import numpy as np
from jaxtyping import Float

from sciar.errors import InputError
from sciar.lattice import fractional, placed
from sciar.prompt import Prompt
from sciar.structure import SYMBOLS, Structure

CORNER = SYMBOLS[0]  # an element that no atom has
OFFSETS = np.array([[i, j, k] for i in (0, 1) for j in (0, 1) for k in (0, 1)])
_IMAGES = np.stack(np.meshgrid(*[(-1, 0, 1)] * 3), -1).reshape(-1, 3)
_ORIGINS = np.stack(np.meshgrid(*[np.arange(4) / 4] * 3), -1).reshape(-1, 3)


def cornered(crystal: Structure) -> Structure:
    """Eight corners, then the atoms between them; of 64 origins that which is farthest from all atoms, so that no two points meet.

    >>> salt = Structure(np.array([11, 17]), np.array([[0.0, 0, 0], [2.8, 2.8, 2.8]]), cell=5.6 * np.eye(3))
    >>> cornered(salt).n_atoms, round(float(np.linalg.det(uncornered(cornered(salt)).cell)), 3)
    (10, 175.616)
    """
    assert crystal.cell is not None
    x = fractional(crystal)
    apart = ((x[None] - _ORIGINS[:, None] + 0.5) % 1 - 0.5)[:, :, None] + _IMAGES  # 64 × n × 27
    nearest = np.linalg.norm(apart @ crystal.cell, axis=-1).min((1, 2))
    inside = (x - _ORIGINS[int(nearest.round(6).argmax())]) % 1
    points = np.concatenate([OFFSETS, inside]) @ crystal.cell
    return Structure(np.concatenate([np.zeros(8, dtype=np.int64), crystal.numbers]), points, info=crystal.info)


def uncornered(molecule: Structure) -> Structure:
    """The crystal whose cell fits the eight corners best; no atoms and `info["failure"]` where they are no cell."""
    assert molecule.positions is not None
    corner = molecule.numbers == 0
    if corner.sum() != 8:
        return Structure(np.zeros(0, dtype=np.int64), info={"failure": f"no cell: {int(corner.sum())} corners, expected 8"})
    found = _cell_of(molecule.positions[corner])
    if found is None:
        return Structure(np.zeros(0, dtype=np.int64), info={"failure": "no cell: the corners are those of no parallelepiped"})
    origin, cell = found
    atoms = Structure(molecule.numbers[~corner], info=molecule.info)
    return placed(atoms, cell, (molecule.positions[~corner] - origin) @ np.linalg.inv(cell))


def _cell_of(points: Float[np.ndarray, "8 3"]) -> tuple[Float[np.ndarray, "3"], Float[np.ndarray, "3 3"]] | None:
    """Origin and right-handed lattice vectors by least squares, over all ways to call a corner the origin and three its neighbours.

    Whichever corner that is, the lattice is the same.
    """
    ways = [(o, *t) for o in range(8) for t in combinations([k for k in range(8) if k != o], 3)]
    first = points[np.array(ways)]
    expected = first[:, :1] + OFFSETS @ (first[:, 1:] - first[:, :1])
    squares = ((expected[:, :, None] - points) ** 2).sum(-1)
    called = squares.argmin(2)
    whole = (np.sort(called, axis=1) == np.arange(8)).all(1)
    if not whole.any():
        return None
    best = int(np.where(whole, squares.min(2).sum(1), np.inf).argmin())
    design = np.concatenate([np.ones((8, 1)), OFFSETS], 1)
    origin, *vectors = np.linalg.lstsq(design, points[called[best]], rcond=None)[0]
    cell = np.array(vectors)
    if abs(np.linalg.det(cell)) < 1e-3:
        return None
    return origin, cell if np.linalg.det(cell) > 0 else cell[[1, 0, 2]]


def asked(prompt: Prompt, most: int) -> Prompt:
    """What is asked of the molecule of corners and atoms, `most` in all, where this is asked of the crystal.

    Raises:
        InputError: a molecule, too many atoms, or facts of a crystal that points in space do not know.
    """
    if not prompt.crystal:
        raise InputError("octree: expected a crystal for these weights, got a molecule to be drawn; use another model")
    if prompt.space_group is not None or prompt.pxrd is not None or prompt.fixed is not None:
        raise InputError("octree: expected a formula, elements or numbers of atoms for these weights, got more; use another model")
    if prompt.composition is not None and prompt.formula_units is None:
        raise InputError("n_formula_units: expected a number for these weights, which do not draw it, got none; give one")
    counts = None
    if prompt.composition is not None and prompt.formula_units is not None:
        counts = {CORNER: 8, **{e: n * prompt.formula_units for e, n in prompt.composition.items()}}
        if (total := sum(counts.values())) > most:
            raise InputError(f"formula: expected at most {most - 8} atoms for this model, got {total - 8}; use fewer formula units")
    return dataclasses.replace(
        prompt,
        crystal=False,
        formula_units=None,
        composition=counts,
        elements=(*prompt.elements, CORNER) if prompt.elements is not None else None,
        n_atoms=(prompt.n_atoms[0] + 8, prompt.n_atoms[1] + 8) if prompt.n_atoms is not None else None,
    )
