"""Unit cells: six numbers and back, the Niggli cell, primitive cells, symmetry at a tolerance."""

from __future__ import annotations

import logging
from collections import Counter
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from sciar.errors import InputError
from sciar.structure import Structure

TOLERANCE = 0.1  # Å, of symmetry: what models draw is not exact, and DFT cells keep their space group up to here


def parameters(cell: Float[np.ndarray, "3 3"]) -> Float[np.ndarray, "6"]:
    """a, b, c in Å and α, β, γ in degrees of a cell whose rows are lattice vectors.

    >>> parameters(np.diag([3.0, 4.0, 5.0])).tolist()
    [3.0, 4.0, 5.0, 90.0, 90.0, 90.0]
    """
    lengths = np.linalg.norm(cell, axis=1)
    cosines = [cell[i] @ cell[j] / max(lengths[i] * lengths[j], 1e-300) for i, j in ((1, 2), (0, 2), (0, 1))]
    return np.concatenate([lengths, np.degrees(np.arccos(np.clip(cosines, -1, 1)))])


def cell_of(parameters: Float[np.ndarray, "6"]) -> Float[np.ndarray, "3 3"]:
    """The right-handed cell of a, b, c (Å), α, β, γ (degrees) with a along x and b in the xy plane.

    Raises:
        InputError: angles that no parallelepiped has.
    """
    a, b, c, *angles = np.asarray(parameters, dtype=np.float64).tolist()
    cos_a, cos_b, cos_g = (0.0 if angle == 90 else float(np.cos(np.radians(angle))) for angle in angles)
    sin_g = float(np.sqrt(1 - cos_g**2))
    y = (cos_a - cos_b * cos_g) / sin_g if sin_g > 0 else np.nan
    height = 1 - cos_b**2 - y**2
    if not height > 0:
        raise InputError(f"cell_of: expected angles of a cell, got {', '.join(f'{x:.6g}' for x in angles)}°; correct them")
    return np.array([[a, 0, 0], [b * cos_g, b * sin_g, 0], [c * cos_b, c * y, c * np.sqrt(height)]])


def form_of(cell: Float[np.ndarray, "3 3"]) -> Float[np.ndarray, "6"]:
    """(ln a, ln b₂, ln c₃, b₁/b₂, c₁/c₃, c₂/c₃) of a cell turned so that a lies along x and b in the xy plane; lengths in Å.

    Any six numbers are a cell: `cell_of_form` is the inverse up to a rotation.
    """
    lower = np.linalg.cholesky(cell @ cell.T)
    a, b, c = np.diag(lower)
    return np.array([np.log(a), np.log(b), np.log(c), lower[1, 0] / b, lower[2, 0] / c, lower[2, 1] / c])


def cell_of_form(form: Float[np.ndarray, "6"]) -> Float[np.ndarray, "3 3"]:
    """The cell of these six numbers, see `form_of`.

    >>> cell_of_form(np.array([0.0, 0.0, 0.0, 0.5, 0.0, 0.0])).tolist()
    [[1.0, 0.0, 0.0], [0.5, 1.0, 0.0], [0.0, 0.0, 1.0]]
    """
    (a, b, c), (s1, s2, s3) = np.exp(form[:3]), form[3:]
    return np.array([[a, 0, 0], [s1 * b, b, 0], [s2 * c, s3 * c, c]])


def fractional(structure: Structure) -> Float[np.ndarray, "n 3"]:
    """Positions as fractions of the lattice vectors, wrapped into [0, 1).

    Raises:
        InputError: no cell or no positions.
    """
    if structure.cell is None or structure.positions is None:
        raise InputError("fractional: expected a crystal with positions, got a structure without; give it a cell and positions")
    fraction = np.linalg.solve(structure.cell.T, structure.positions.T).T % 1.0
    return np.where(fraction >= 1.0, 0.0, fraction)  # -1e-17 % 1 is 1


def placed(structure: Structure, cell: Float[np.ndarray, "3 3"], fraction: Float[np.ndarray, "n 3"]) -> Structure:
    """The structure with another cell and its atoms at these fractions of it, wrapped."""
    fraction = fraction % 1.0
    return structure.replace(cell=cell, positions=np.where(fraction >= 1.0, 0.0, fraction) @ cell)


def niggli(structure: Structure) -> Structure:
    """The same crystal in its Niggli cell, a along x and b in the xy plane; atoms in the same order, wrapped, handedness kept.

    Raises:
        InputError: no cell, no positions, or a flat cell.

    Source: Křivý & Gruber, Acta Cryst. A32 (1976) 297, as in moyopy.
    """
    import moyopy

    fraction = fractional(structure)
    assert structure.cell is not None
    try:
        reduced, _ = moyopy.niggli_reduce(structure.cell.tolist())
    except ValueError as error:
        raise InputError(f"niggli: expected a cell with a volume, got one that cannot be reduced ({error}); correct it") from None
    positions = fraction @ structure.cell
    return placed(structure, cell_of(parameters(np.array(reduced))), np.linalg.solve(np.array(reduced).T, positions.T).T)


def elongation(structure: Structure) -> float:
    """Longest edge of the Niggli cell over the cube root of its volume; 1 for a cube.

    Raises:
        InputError: as `niggli`.
    """
    cell = niggli(structure).cell
    assert cell is not None
    return float(np.linalg.norm(cell, axis=1).max() / np.linalg.det(cell) ** (1 / 3))


def symmetry(structure: Structure, tolerance: float = TOLERANCE) -> Any:
    """moyopy's data set of the symmetry of a crystal; None where none can be found at this tolerance.

    Args:
        structure: a crystal.
        tolerance: Å.
    """
    import moyopy

    logging.getLogger("moyo").setLevel(logging.ERROR)  # it tells of supercells, which are no fault here
    fraction = fractional(structure)
    assert structure.cell is not None
    cell = moyopy.Cell(structure.cell.tolist(), fraction.tolist(), structure.numbers.tolist())
    try:
        return moyopy.MoyoDataset(cell, symprec=tolerance)
    except ValueError:  # atoms closer than the tolerance, or a search that does not settle
        return None


def space_group(structure: Structure, tolerance: float = TOLERANCE) -> int:
    """International number of the space group at a tolerance in Å; 1 where nothing is found."""
    found = symmetry(structure, tolerance)
    return int(found.number) if found is not None else 1


def arrangement(structure: Structure, tolerance: float = TOLERANCE) -> tuple[int, tuple[tuple[int, int, str], ...]]:
    """Space group, and of each orbit element, atoms in the primitive cell and site symmetry: all but the numbers of a crystal.

    Args:
        structure: a crystal.
        tolerance: Å; where nothing is found every atom is an orbit of group 1.
    """
    found = symmetry(structure, tolerance)
    if found is None:
        return 1, tuple((z, 1, "1") for z in sorted(structure.numbers.tolist()))
    cells = structure.n_atoms // len(found.prim_std_cell.numbers)
    orbits = Counter(zip(found.orbits, structure.numbers.tolist(), found.site_symmetry_symbols, strict=True))
    return int(found.number), tuple(sorted((z, n // cells, symbol) for (_, z, symbol), n in orbits.items()))


def operations(structure: Structure, tolerance: float = 0.01) -> tuple[Float[np.ndarray, "g 3 3"], Int[np.ndarray, "g n"]]:
    """Operations of the space group: Cartesian rotations (of columns), and which atom each atom becomes; the identity if none is found."""
    assert structure.cell is not None
    found, n = symmetry(structure, tolerance), structure.n_atoms
    if found is None:
        return np.eye(3)[None], np.arange(n)[None]
    turns, shifts = np.array(found.operations.rotations, dtype=float), np.array(found.operations.translations)
    return structure.cell.T @ turns @ np.linalg.inv(structure.cell).T, images(structure, turns, shifts)


def images(structure: Structure, turns: Float[np.ndarray, "g 3 3"], shifts: Float[np.ndarray, "g 3"]) -> Int[np.ndarray, "g n"]:
    """Which atom each atom becomes by operations on fractional coordinates: the nearest one of its element."""
    x = fractional(structure)
    off = (np.einsum("gij,nj->gni", turns, x) + shifts[:, None])[:, :, None] - x
    far = np.linalg.norm((off - np.round(off)) @ structure.cell, axis=-1)
    far[:, structure.numbers[:, None] != structure.numbers] = np.inf
    return far.argmin(-1)


def symmetrized(structure: Structure, tolerance: float = TOLERANCE, conventional: bool = False) -> Structure:
    """The crystal with lattice and positions made exact in the space group found; the structure itself where none is found.

    Args:
        structure: a crystal.
        tolerance: Å.
        conventional: the conventional cell; otherwise the primitive one.

    Returns:
        Structure of the standard cell (its atoms are not those of the input one by one); `info` is kept, `space_group` added.
    """
    found = symmetry(structure, tolerance)
    if found is None:
        return structure
    cell = found.std_cell if conventional else found.prim_std_cell
    basis = np.array(cell.basis)
    bare = Structure(np.array(cell.numbers), info={**structure.info, "space_group": int(found.number)})
    return placed(bare, basis, np.array(cell.positions))


def primitive(structure: Structure, tolerance: float = 0.01) -> Structure:
    """The Niggli cell of the primitive lattice; of a cell that is primitive at the tolerance in Å, the atoms stay in order."""
    found = symmetry(structure, tolerance)
    if found is not None and len(found.prim_std_cell.numbers) < structure.n_atoms:
        cell = found.prim_std_cell
        structure = placed(Structure(np.array(cell.numbers), info=structure.info), np.array(cell.basis), np.array(cell.positions))
    return niggli(structure)
