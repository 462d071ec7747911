"""Crystals as their symmetry: a space group, orbits on Wyckoff positions, and the few numbers that symmetry leaves free.

A cell is the conventional one of its group in moyo's default setting, rows a = (a, 0, 0), b = (b₁, b₂, 0), c: no numbers can spell a
cell that cannot exist. An orbit is one point x = A u + b of a position, u its free coordinates; its images under the group are the
atoms. The cell that is stored and drawn is the primitive one. Positions of all 230 groups are in `wyckoff.json`.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from sciar.lattice import cell_of_form, form_of, fractional, niggli, placed, symmetry
from sciar.structure import Structure

SYSTEMS = ("triclinic", "monoclinic", "orthorhombic", "tetragonal", "hexagonal", "cubic")  # trigonal: hexagonal axes
FREE = (6, 4, 3, 2, 2, 1)  # numbers that each leaves free
LENGTHS = np.array([[k < min(free, 3) for k in range(6)] for free in FREE])  # which of them are logarithms of lengths
LETTERS = "abcdefghijklmnopqrstuvwxyzA"
TOLERANCES = (0.1, 0.03, 0.01, 0.001)  # Å, tried in this order
_LAST = (2, 15, 74, 142, 194, 230)  # last group of each system
_CENTRINGS = {  # rows: primitive vectors in units of the conventional ones
    "P": ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    "A": ((1, 0, 0), (0, 0.5, -0.5), (0, 0.5, 0.5)),
    "C": ((0.5, 0.5, 0), (-0.5, 0.5, 0), (0, 0, 1)),
    "I": ((-0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0.5, 0.5, -0.5)),
    "F": ((0, 0.5, 0.5), (0.5, 0, 0.5), (0.5, 0.5, 0)),
    "R": ((2 / 3, 1 / 3, 1 / 3), (-1 / 3, 1 / 3, 1 / 3), (-1 / 3, -2 / 3, 1 / 3)),
}
_TERM = re.compile(r"([+-]?)(\d*)([xyz])|([+-]?\d+)(?:/(\d+))?")


@dataclass(frozen=True, slots=True, eq=False)
class Position:
    """A Wyckoff position.

    Args:
        letter: its index in LETTERS.
        site: Hermann–Mauguin symbol of the site symmetry.
        directions: columns are what one free coordinate moves; zero columns pad.
        offset: the point at u = 0, fractions of the conventional cell.
        rotations, translations: the images of a point that are one primitive cell's atoms, the identity first.
    """

    letter: int
    site: str
    free: int
    directions: Float[np.ndarray, "3 3"]
    offset: Float[np.ndarray, "3"]
    rotations: Int[np.ndarray, "m 3 3"]
    translations: Float[np.ndarray, "m 3"]

    @property
    def multiplicity(self) -> int:
        """Atoms in the primitive cell."""
        return len(self.rotations)

    def atoms(self, u: Float[np.ndarray, "3"]) -> Float[np.ndarray, "m 3"]:
        """All atoms of the orbit in one primitive cell, fractions of the conventional cell."""
        return (self.rotations @ (self.directions @ u + self.offset)) + self.translations


@dataclass(frozen=True, slots=True, eq=False)
class Group:
    """A space group.

    Args:
        number: 1..230. system: index of SYSTEMS. primitive: rows are primitive vectors in units of the conventional ones.
        positions: by letter. start: number of the first one among the positions of all groups.
    """

    number: int
    system: int
    primitive: Float[np.ndarray, "3 3"]
    positions: tuple[Position, ...]
    start: int

    @property
    def copies(self) -> int:
        """Primitive cells in a conventional one."""
        return round(1 / abs(np.linalg.det(self.primitive)))


@dataclass(frozen=True, slots=True, eq=False)
class Orbits:
    """A crystal as its symmetry.

    Args:
        group: number 1..230.
        lattice: free numbers of the conventional cell, see `cell_of`; the first FREE[system] count.
        numbers, letters: element and position of each orbit.
        free: free coordinates of each orbit; the first `Position.free` count.
    """

    group: int
    lattice: Float[np.ndarray, "6"]
    numbers: Int[np.ndarray, "o"]
    letters: Int[np.ndarray, "o"]
    free: Float[np.ndarray, "o 3"]


def system_of(number: int) -> int:
    """Index of SYSTEMS."""
    return int(np.searchsorted(_LAST, number))


@cache
def group(number: int) -> Group:
    """A space group by its number."""
    import moyopy

    operations = moyopy.operations_from_number(number)
    rotations = np.array(operations.rotations, dtype=np.int64)
    translations = np.array(operations.translations, dtype=float)
    centring = translations[(rotations == np.eye(3, dtype=int)).all((1, 2))]
    primitive = next(m for rows in _CENTRINGS.values() if _spans(m := np.array(rows, dtype=float), centring))
    table = _table()[str(number)].items()
    return Group(
        number,
        system_of(number),
        primitive,
        tuple(_position(letter, site, text, rotations, translations, primitive) for letter, (site, text) in table),
        sum(len(_table()[str(other)]) for other in range(1, number)),
    )


@cache
def _table() -> dict[str, dict[str, list[str]]]:
    table: dict[str, dict[str, list[str]]] = json.loads((Path(__file__).parent / "wyckoff.json").read_text())
    return table


def _spans(primitive: np.ndarray, centring: np.ndarray) -> bool:
    inside = centring @ np.linalg.inv(primitive)
    return round(1 / abs(np.linalg.det(primitive))) == len(centring) and bool(np.allclose(inside, inside.round(), atol=1e-6))


def _position(letter: str, site: str, text: str, rotations: np.ndarray, translations: np.ndarray, primitive: np.ndarray) -> Position:
    directions, offset = np.zeros((3, 3)), np.zeros(3)
    for axis, part in enumerate(text.split(",")):
        for sign, factor, name, numerator, denominator in _TERM.findall(part.strip()):
            if name:
                directions[axis, "xyz".index(name)] += float((sign or "+") + (factor or "1"))
            else:
                offset[axis] += int(numerator) / int(denominator or 1)
    used = np.flatnonzero(directions.any(0))
    directions = np.concatenate([directions[:, used], np.zeros((3, 3 - len(used)))], 1)
    point = directions @ np.array([0.1234, 0.3571, 0.7193]) + offset
    images = (rotations @ point + translations) @ np.linalg.inv(primitive)
    keys = np.round(images * 1e4).astype(np.int64) % 10000
    _, first = np.unique(keys, axis=0, return_index=True)
    first = np.sort(first)
    return Position(LETTERS.index(letter), site, len(used), directions, offset, rotations[first], translations[first])


# --- cells ---


@cache
def lattice_form(system: int) -> tuple[Float[np.ndarray, "6 6"], Float[np.ndarray, "6"]]:
    """(B, c): B p + c = (ln a, ln b₂, ln c₃, b₁/b₂, c₁/c₃, c₂/c₃) of the free numbers p of a crystal system."""
    basis, constant = np.zeros((6, 6)), np.zeros(6)
    rows = {
        "triclinic": (0, 1, 2, 3, 4, 5),
        "monoclinic": (0, 1, 2, None, 3, None),  # unique axis b
        "orthorhombic": (0, 1, 2, None, None, None),
        "tetragonal": (0, 0, 1, None, None, None),
        "hexagonal": (0, 0, 1, None, None, None),
        "cubic": (0, 0, 0, None, None, None),
    }[SYSTEMS[system]]
    for row, column in enumerate(rows):
        if column is not None:
            basis[row, column] = 1
    if SYSTEMS[system] == "hexagonal":
        constant[1], constant[3] = np.log(3**0.5 / 2), -(3**-0.5)
    return basis, constant


def cell_of(system: int, lattice: Float[np.ndarray, "6"]) -> Float[np.ndarray, "3 3"]:
    """The conventional cell in Å of the free numbers: logarithms of lengths, then slopes."""
    basis, constant = lattice_form(system)
    return cell_of_form(basis @ lattice + constant)


def lattice_of(system: int, cell: Float[np.ndarray, "3 3"]) -> Float[np.ndarray, "6"]:
    """The free numbers of a cell that has the system's symmetry; the inverse of `cell_of` up to a rotation."""
    basis, constant = lattice_form(system)
    return np.asarray(np.linalg.pinv(basis) @ (form_of(cell) - constant))


# --- crystals ---


def orbits_of(structure: Structure, symmetric: bool = True) -> Orbits:
    """The symmetry of a crystal, found within 0.1 Å or less; of its equivalent descriptions the one with the earliest letters.

    Args:
        structure: with a cell.
        symmetric: False leaves out all symmetry but translations: group 1 and one orbit per atom.
    """
    exact = symmetry(structure, TOLERANCES[-1]) if symmetric else None
    if exact is not None:
        atoms = len(exact.prim_std_cell.numbers)  # a larger tolerance must not take a distorted supercell for its parent
        for tolerance in TOLERANCES:
            found = symmetry(structure, tolerance)
            if found is not None and len(found.prim_std_cell.numbers) == atoms and (orbits := _read(found)) is not None:
                return orbits
    return _plain(structure)


def _read(found: Any) -> Orbits | None:
    """Orbits of a moyo data set; None where an atom is on none of the positions it is said to be on."""
    standard = found.std_cell
    numbers, positions = np.array(standard.numbers), np.array(standard.positions)
    number, basis = found.number, np.array(standard.basis)
    choices: list[tuple[list[tuple[int, int]], int, Any, np.ndarray]] = []
    try:
        equivalent = found.normalizer_wyckoff_positions(preserve_chirality=True).coset_representatives
    except ValueError:  # moyo's way to say that the tolerance was too large
        return None
    for change, wyckoffs in equivalent:
        letters = np.array([LETTERS.index(w.letter) for w in wyckoffs])
        choices.append((sorted(zip(numbers.tolist(), letters.tolist(), strict=True)), len(choices), change, letters))
    for _, _, change, letters in sorted(choices, key=lambda choice: choice[:2]):
        linear = np.array(change.linear)
        moved = (positions - np.array(change.origin_shift)) @ np.linalg.inv(linear).T
        orbits = _assigned(number, linear.T @ basis, numbers, letters, moved)
        if orbits is not None:
            return orbits
    return None


def _assigned(number: int, basis: np.ndarray, numbers: np.ndarray, letters: np.ndarray, positions: np.ndarray) -> Orbits | None:
    space = group(number)
    to_primitive = np.linalg.inv(space.primitive)
    rows: list[tuple[int, int, tuple[float, ...]]] = []
    for z, letter in sorted(set(zip(numbers.tolist(), letters.tolist(), strict=True))):
        position = space.positions[letter]
        left = positions[(numbers == z) & (letters == letter)]
        while len(left):
            points = [u for x in left if (u := _coordinates(position, x)) is not None]
            if not points:
                return None
            u = min(points, key=lambda point: np.round(point, 3).tolist())
            images = position.atoms(u)
            apart = (left[:, None] - images) @ to_primitive
            near = (np.abs(apart - apart.round()) < 0.01).all(-1)
            if near.any(1).sum() != position.multiplicity * space.copies:
                return None
            left = left[~near.any(1)]
            rows.append((z, letter, tuple(u.tolist())))
    rows.sort()
    return Orbits(
        number,
        lattice_of(space.system, basis),
        np.array([row[0] for row in rows]),
        np.array([row[1] for row in rows]),
        np.array([row[2] for row in rows]),
    )


def _coordinates(position: Position, x: np.ndarray) -> np.ndarray | None:
    """u with A u + b = x up to whole cells; None if x is not of this form."""
    u = np.zeros(3)
    for k in range(position.free):
        column = position.directions[:, k]
        row = next(r for r in range(3) if abs(column[r]) == 1 and np.abs(position.directions[r]).sum() == 1)
        u[k] = (column[row] * (x[row] - position.offset[row])) % 1
    u[u > 0.9995] = 0.0
    apart = position.directions @ u + position.offset - x
    return u if (np.abs(apart - apart.round()) < 5e-3).all() else None


def _plain(structure: Structure) -> Orbits:
    reduced = niggli(structure)
    order = np.argsort(structure.numbers, kind="stable")
    assert reduced.cell is not None
    return Orbits(1, lattice_of(0, reduced.cell), structure.numbers[order], np.zeros(len(order), dtype=int), fractional(reduced)[order])


def structure_of(orbits: Orbits) -> Structure:
    """The primitive cell of a crystal, its atoms orbit by orbit; positions inside the cell."""
    space = group(orbits.group)
    numbers, fractions = [np.zeros(0, dtype=np.int64)], [np.zeros((0, 3))]
    for z, letter, u in zip(orbits.numbers.tolist(), orbits.letters.tolist(), orbits.free, strict=True):
        position = space.positions[letter]
        numbers.append(np.full(position.multiplicity, z))
        fractions.append(position.atoms(u) @ np.linalg.inv(space.primitive))
    bare = Structure(np.concatenate(numbers), info={"space_group": orbits.group})
    return placed(bare, space.primitive @ cell_of(space.system, orbits.lattice), np.concatenate(fractions))
