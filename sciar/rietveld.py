"""Refine a crystal against a powder pattern: cell and positions move together to where the simulated profile fits best.

A predicted crystal of the right kind is still a tenth of an Å off, which spoils the heights of its peaks; once refined it stands out from
those of the wrong kind. The misfit has the symmetry of the crystal and so has its gradient: a symmetric crystal stays symmetric.

Source: Rietveld 1969, J. Appl. Cryst. 2, 65 (the whole profile, by gradients), here with the cosine of two profiles as the measure.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from scipy.optimize import minimize

from sciar.lattice import fractional
from sciar.pxrd import FWHM, STRAIN, Agreement, Pattern, agreement, compared, floor_of, strained
from sciar.reflections import AXES, Reflections, levelled, scattering
from sciar.structure import Structure

STAGES = ((0.8, False), (FWHM, False), (FWHM, True))  # widths of the peaks in degrees 2θ: broad ones see further; weak ones count at last
ROUNDS = 20  # steps of the minimiser in each stage
SHIFT = 0.5  # Å along each axis of the cell, how far an atom may move
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


def refined(structure: Structure, wanted: Pattern, strain: float = STRAIN, shift: float = SHIFT) -> tuple[Structure, Agreement]:
    """The crystal refined against a pattern, how well it then fits and its strain; only strained where nothing fits better.

    Args:
        structure: the candidate. wanted: the pattern. strain: largest entry of the strain. shift: see SHIFT.

    Raises:
        InputError: no crystal.
    """
    first = agreement(structure, wanted, strain)
    start = first.strained(structure)
    at, targets = compared(wanted, [fwhm for fwhm, _ in STAGES])
    if first.cosine <= 0 or not targets[-1].any():
        return start, first
    crystal = Crystal.of(start)
    assert start.cell is not None and start.positions is not None
    lengths = np.linalg.norm(start.cell, axis=1)
    n = start.n_atoms
    unit = np.concatenate([np.tile(UNIT_SHIFT / lengths, n), np.full(6, UNIT_STRAIN)])
    most = np.concatenate([np.tile(shift / lengths, n), np.full(6, strain)]) / unit
    found = np.zeros(3 * n + 6)
    bounds = list(zip(-most, most, strict=True))
    for (fwhm, weak), target in zip(STAGES, targets, strict=True):
        floor = floor_of(wanted) if weak else 0.0
        goal = levelled(target / target.max(), floor)[0] if weak else target

        def misfit(z: np.ndarray, *how: Any) -> tuple[float, np.ndarray]:
            value, by_moved, by_strain = crystal.misfit((z * unit)[:-6].reshape(n, 3), (z * unit)[-6:], at, *how)
            return value, np.concatenate([by_moved.ravel(), by_strain]) * unit

        how = goal / np.linalg.norm(goal), fwhm, floor
        found = minimize(misfit, found, how, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": ROUNDS}).x
    moved = start.replace(positions=start.positions + (found * unit)[:-6].reshape(n, 3) @ start.cell)
    moved = strained(moved, (found * unit)[-6:])
    last = agreement(moved, wanted, strain)
    if last.likeness <= first.likeness:
        return start, first
    moved = last.strained(moved)
    assert structure.cell is not None and moved.cell is not None
    whole = np.eye(3) - np.linalg.inv(moved.cell) @ structure.cell
    return moved, replace(last, strain=np.array([(whole[i, j] + whole[j, i]) / 2 for i, j in AXES]))
