"""Refine a crystal against a powder pattern: cell and positions move together to where the simulated profile fits best.

A predicted crystal of the right kind is still a tenth of an Å off, which spoils the heights of its peaks; once refined it stands out from
those of the wrong kind. What is moved is averaged over the operations of the crystal's space group, so it keeps its symmetry.

Source: Rietveld 1969, J. Appl. Cryst. 2, 65 (the whole profile, by gradients), here with the cosine of two profiles as the measure.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from scipy.optimize import minimize

from sciar.lattice import fractional, operations
from sciar.pxrd import FWHM, STRAIN, Agreement, Pattern, agreement, compared, floor_of, free_strain, strained
from sciar.reflections import Reflections, levelled, scattering
from sciar.structure import Structure

STAGES = ((0.8, False), (FWHM, False), (FWHM, True))  # widths of the peaks in degrees 2θ: broad ones see further; weak ones count at last
ROUNDS = 30  # steps of the minimiser in each stage
SHIFT = 0.5  # Å along each axis, how far an atom may move
UNIT_SHIFT, UNIT_STRAIN = 0.1, 0.01  # Å and entries of the strain that the minimiser takes for one


@dataclass(frozen=True, slots=True, eq=False)
class Crystal:
    """What the structure factors of a crystal are made of.

    Args:
        index: Miller indices, one of each pair. q: in 1/Å. factor: scattering factor of each atom. x: fractional coordinates.
    """

    index: Int[np.ndarray, "p 3"]
    q: Float[np.ndarray, "p 3"]
    factor: Float[np.ndarray, "p n"]
    x: Float[np.ndarray, "n 3"]

    @classmethod
    def of(cls, structure: Structure) -> Crystal:
        """Raises InputError: no crystal, or an element without scattering factors."""
        index, q, factor = scattering(structure)
        return cls(index, q, factor, fractional(structure))

    def misfit(
        self, moved: Float[np.ndarray, "n 3"], strain: Float[np.ndarray, "6"], at: np.ndarray, wanted: np.ndarray, fwhm: float, floor: float
    ) -> tuple[float, Float[np.ndarray, "n 3"], Float[np.ndarray, "6"]]:
        """`Reflections.gradients` after moving the atoms and straining the cell, by both."""
        wave = np.exp(2j * np.pi * (self.index @ (self.x + moved).T)) * self.factor
        total = wave.sum(1)
        mine = Reflections(self.q, np.abs(total) ** 2)
        value, by_strain, by_square = mine.gradients(strain, at, wanted, fwhm, floor)
        by_moved = (by_square[:, None] * -4 * np.pi * (total.conj()[:, None] * wave).imag).T @ self.index
        return value, by_moved, by_strain


@dataclass(frozen=True, slots=True, eq=False)
class Freedom:
    """What the symmetry of a crystal leaves free: projections onto it.

    Args:
        rotations: Cartesian, of each operation. images: the atom that each atom becomes. strain: projection of Voigt's six numbers.
    """

    rotations: Float[np.ndarray, "g 3 3"]
    images: Int[np.ndarray, "g n"]
    strain: Float[np.ndarray, "6 6"]

    @classmethod
    def of(cls, structure: Structure) -> Freedom:
        rotations, images = operations(structure)
        return cls(rotations, images, free_strain(rotations))

    def moves(self, moved: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n 3"]:
        """The symmetric part of displacements in Å, or of a gradient by them."""
        total = np.zeros_like(moved)
        for rotation, image in zip(self.rotations, self.images, strict=True):
            total[image] += moved @ rotation.T
        return total / len(self.images)


def refined(structure: Structure, wanted: Pattern, strain: float = STRAIN, shift: float = SHIFT) -> tuple[Structure, Agreement]:
    """The crystal refined against a pattern, and how well it then fits; only strained where nothing fits better.

    Args:
        structure: the candidate. wanted: the pattern. strain: largest entry of the strain. shift: see SHIFT.

    Raises:
        InputError: no crystal.
    """
    first = agreement(structure, wanted, strain)
    at, targets = compared(wanted, [fwhm for fwhm, _ in STAGES])
    if first.cosine <= 0 or not targets[-1].any():
        return first.strained(structure), first
    assert structure.cell is not None and structure.positions is not None
    crystal, freedom, n = Crystal.of(structure), Freedom.of(structure), structure.n_atoms
    to_fractions = np.linalg.inv(structure.cell)
    unit = np.repeat([UNIT_SHIFT, UNIT_STRAIN], [3 * n, 6])
    most = np.repeat([shift, strain], [3 * n, 6]) / unit
    found = np.concatenate([np.zeros(3 * n), first.strain / UNIT_STRAIN])
    for (fwhm, weak), target in zip(STAGES, targets, strict=True):
        floor = floor_of(wanted) if weak else 0.0
        goal = levelled(target / target.max(), floor)[0] if weak else target

        def misfit(z: np.ndarray, *how: Any) -> tuple[float, np.ndarray]:
            moved, entries = _parts(z * unit, freedom)
            value, by_moved, by_strain = crystal.misfit(moved @ to_fractions, entries, at, *how)
            return value, np.concatenate([freedom.moves(by_moved @ to_fractions.T).ravel(), by_strain @ freedom.strain]) * unit

        how = goal / np.linalg.norm(goal), fwhm, floor
        bounds = list(zip(-most, most, strict=True))
        found = minimize(misfit, found, how, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": ROUNDS}).x
    moved, entries = _parts(found * unit, freedom)
    there = strained(structure.replace(positions=structure.positions + moved), entries)
    last = replace(agreement(there, wanted, 0.0), strain=entries)
    return (there, last) if last.fit > first.fit else (first.strained(structure), first)


def _parts(z: np.ndarray, freedom: Freedom) -> tuple[Float[np.ndarray, "n 3"], Float[np.ndarray, "6"]]:
    """Displacements in Å and the strain, both within the symmetry."""
    return freedom.moves(z[:-6].reshape(-1, 3)), freedom.strain @ z[-6:]
