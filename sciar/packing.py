"""What is wrong with a crystal: one check is one function that returns a reason or None.

Limits are from 20,000 crystals of MP-20: every one of them passes all checks.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from sciar.errors import InputError
from sciar.lattice import TOLERANCE, elongation
from sciar.structure import Structure

MIN_DISTANCE = 0.5  # Å, between two atoms; Xie et al., CDVAE, ICLR 2022
MIN_VOLUME = 0.1  # Å³, of a unit cell; the same source
CONTACT = 0.6  # of the sum of covalent radii; MP-20: 0.62 and above, 99.9 % above 0.68
DENSITY = (0.05, 25.0)  # g/cm³; MP-20: 0.12–22.8
ELONGATION = 8.0  # longest edge of the Niggli cell over V^(1/3); MP-20: up to 6.2
SHOWN = 3  # faults of one kind that are named


def small_volume(cell: np.ndarray) -> str | None:
    """A unit cell that is all but flat."""
    volume = abs(float(np.linalg.det(cell)))
    return None if volume >= MIN_VOLUME else f"volume: {volume:.2g} Å³, expected ≥ {MIN_VOLUME}"


def extreme_lattice(structure: Structure) -> str | None:
    """A lattice whose reduced cell is a needle or a plate."""
    try:
        ratio = elongation(structure)
    except InputError as error:
        return f"lattice: {error}"
    return None if ratio <= ELONGATION else f"lattice: longest edge {ratio:.3g} × the cube root of the volume, expected ≤ {ELONGATION:g}"


def close_sites(crystal: Any) -> str | None:
    """Two atoms of a pymatgen Structure, or one and its own image, closer than MIN_DISTANCE or than bonds are."""
    radii = np.array([covalent_radius(z) for z in crystal.atomic_numbers])
    i, j, _, distance = crystal.get_neighbor_list(max(MIN_DISTANCE, 2 * CONTACT * radii.max()))
    least = np.maximum(MIN_DISTANCE, CONTACT * (radii[i] + radii[j]))
    bad = np.flatnonzero((distance < least) & (i <= j))
    names = [
        f"{crystal[i[k]].specie}{i[k]}…{crystal[j[k]].specie}{j[k]} {distance[k]:.2f} Å, expected > {least[k]:.2f}" for k in bad[:SHOWN]
    ]
    more = f" and {len(bad) - SHOWN} more" if len(bad) > SHOWN else ""
    return f"clash: {', '.join(names)}{more}" if names else None


def odd_density(crystal: Any) -> str | None:
    """Lighter or heavier than any solid, of a pymatgen Structure."""
    density = float(crystal.density)
    return None if DENSITY[0] <= density <= DENSITY[1] else f"density: {density:.3g} g/cm³, expected {DENSITY[0]}–{DENSITY[1]:g}"


def wrong_space_group(found: int, wanted: int | None) -> str | None:
    """Another space group, found at TOLERANCE, than asked for."""
    if wanted is None or found == wanted:
        return None
    return f"space group: {found} at {TOLERANCE} Å, expected {wanted}"


@lru_cache(maxsize=118)
def covalent_radius(number: int) -> float:
    """Covalent radius in Å; Cordero et al., Dalton Trans. 2008, 2832, as in RDKit."""
    from rdkit.Chem import GetPeriodicTable

    return float(GetPeriodicTable().GetRcovalent(int(number)))
