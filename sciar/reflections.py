"""Reflections of a crystal, its powder profile as a function of a small strain, and the strain that fits a profile best.

The structure factors are kept while the cell is strained, and the peaks move: |q'| with q' = q (1 - η) for a symmetric η.

Source: structure factors and Lorentz-polarisation factor as in International Tables C, 6.1 and 6.2 (scattering factors from pymatgen's
table); fitting a whole profile: Rietveld 1969, J. Appl. Cryst. 2, 65, here with all but the cell fixed.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from jaxtyping import Float, Int

from sciar.errors import InputError
from sciar.lattice import fractional
from sciar.structure import SYMBOLS, Structure

CU_KA = 1.54184  # Å, mean of Kα1 and Kα2, as pymatgen's "CuKa"
STOP = 95.0  # degrees 2θ, somewhat beyond where profiles are compared, as peaks move
STRONGEST = 192  # that records keep of a crystal, to make profiles from
NO_REFLECTIONS = np.zeros((0, 3), dtype=np.int64), np.zeros(0)
WEAKEST = 1e-4  # of the strongest |F|²
WIDTHS = (1.6, 0.8)  # degrees 2θ: a strain is looked for with broad peaks first, which see further
ROUNDS = 15  # steps of the minimiser at each width
AXES = ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))  # Voigt's order


@dataclass(frozen=True, slots=True, eq=False)
class Reflections:
    """One of each pair ±q.

    Args:
        q: in 1/Å, |q| = 1 / d. square: |F|² in electrons².
    """

    q: Float[np.ndarray, "p 3"]
    square: Float[np.ndarray, "p"]

    @classmethod
    def of(cls, structure: Structure) -> Reflections:
        """All of a crystal up to `STOP` at Cu Kα that are not too weak to be seen.

        Raises:
            InputError: no crystal, or an element without scattering factors.
        """
        index, q, factor = scattering(structure)
        square = np.abs((factor * np.exp(2j * np.pi * (index @ fractional(structure).T))).sum(1)) ** 2
        strong = square > WEAKEST * square.max(initial=0)
        return cls(q[strong], square[strong])

    def strongest(self, cell: Float[np.ndarray, "3 3"], most: int) -> tuple[Int[np.ndarray, "r 3"], Float[np.ndarray, "r"]]:
        """Indices in the given cell and Σ|F|² of the reflections that make the highest peaks; of those at one angle, the indices of one.

        Args:
            cell: of the crystal. most: reflections.
        """
        length = np.linalg.norm(self.q, axis=1)
        _, first, which = np.unique(length.round(6), return_index=True, return_inverse=True)
        square = np.bincount(which, self.square, len(first))
        order = np.argsort(-square * _lorentz(np.arcsin(length[first] * CU_KA / 2)))[:most]
        return np.rint(self.q[first[order]] @ cell.T).astype(np.int64), square[order]

    def profile(self, at: Float[np.ndarray, "g"], fwhm: float, strain: Float[np.ndarray, "6"]) -> Float[np.ndarray, "g"]:
        """Intensity on an even grid of 2θ in degrees, peaks as Gaussians, after a strain η in Voigt's order."""
        return self._peaks(at, fwhm, strain)[0]

    def misfit(
        self, strain: Float[np.ndarray, "6"], at: Float[np.ndarray, "g"], wanted: Float[np.ndarray, "g"], fwhm: float
    ) -> tuple[float, Float[np.ndarray, "6"]]:
        """The first two of `gradients`."""
        return self.gradients(strain, at, wanted, fwhm)[:2]

    def gradients(
        self, strain: Float[np.ndarray, "6"], at: Float[np.ndarray, "g"], wanted: Float[np.ndarray, "g"], fwhm: float, floor: float = 0.0
    ) -> tuple[float, Float[np.ndarray, "6"], Float[np.ndarray, "p"]]:
        """Minus the cosine with a profile of length 1, and its gradient by the strain and by each |F|².

        That of the Lorentz-polarisation factor by the strain, a hundredth, and that of the highest point are left out. With a `floor`
        above 0 the profiles are compared as `levelled` makes them.
        """
        curve, place, peak, slope, speed = self._peaks(at, fwhm, strain)
        highest = float(curve.max(initial=0.0))
        if not highest:
            return 0.0, np.zeros(6), np.zeros(len(self.square))
        level, rise = levelled(curve / highest, floor) if floor else (curve / highest, np.ones_like(curve))
        norm = float(np.linalg.norm(level))
        cosine = float(level @ wanted) / norm
        pull = ((wanted / norm - cosine * level / norm**2) * rise / highest)[place]
        moved = self.square[:, None] * (slope * pull).sum(1)[:, None] * speed  # of the cosine by each entry of q'
        by = -(self.q.T @ moved)
        by = by + by.T
        return -cosine, -np.array([by[i, j] / (2 if i == j else 1) for i, j in AXES]), -(peak * pull).sum(1)

    def _peaks(self, at: np.ndarray, fwhm: float, strain: np.ndarray) -> tuple[np.ndarray, ...]:
        """The profile; places on the grid that each peak reaches, its height there and its slope by 2θ, both for |F|² = 1; ∂2θ/∂q'."""
        q = self.q - self.q @ tensor(strain)
        length = np.linalg.norm(q, axis=1)
        theta = np.arcsin(np.clip(length * CU_KA / 2, 1e-6, 0.999))
        sigma, step, angle = fwhm / 2.3548, at[1] - at[0], 2 * np.degrees(theta)
        width = int(np.ceil(5 * sigma / step))
        place = np.round((angle - at[0]) / step).astype(np.int64)[:, None] + np.arange(-width, width + 1)
        off = at[0] + step * place - angle[:, None]
        seen = (place >= 0) & (place < len(at))
        place = np.where(seen, place, 0)
        peak = _lorentz(theta)[:, None] * np.exp(-0.5 * (off / sigma) ** 2) * seen
        curve = np.bincount(place.ravel(), (self.square[:, None] * peak).ravel(), len(at))
        speed = (np.degrees(CU_KA) / (np.cos(theta) * length))[:, None] * q
        return curve, place, peak, peak * off / sigma**2, speed


def kept(crystal: Structure) -> tuple[Int[np.ndarray, "r 3"], Float[np.ndarray, "r"]]:
    """Its `STRONGEST` reflections, see `Reflections.strongest`; none of elements without scattering factors."""
    assert crystal.cell is not None
    try:
        return Reflections.of(crystal).strongest(crystal.cell, STRONGEST)
    except InputError:
        return NO_REFLECTIONS


def levelled(curve: Float[np.ndarray, "g"], floor: float) -> tuple[Float[np.ndarray, "g"], Float[np.ndarray, "g"]]:
    """(y + floor)^¼ - floor^¼ of a profile whose highest point is 1, and its slope: weak peaks count, what is below the floor hardly."""
    root = (curve + floor) ** 0.25
    return root - floor**0.25, 0.25 * root / (curve + floor)


def scattering(structure: Structure) -> tuple[Int[np.ndarray, "p 3"], Float[np.ndarray, "p 3"], Float[np.ndarray, "p n"]]:
    """Miller indices up to `STOP` at Cu Kα, one of each pair ±; the q of each in 1/Å; the scattering factor of every atom there.

    Raises:
        InputError: no crystal, or an element without scattering factors.
    """
    if structure.cell is None or structure.positions is None:
        raise InputError("pxrd: expected a crystal, got a structure without a cell; give it one")
    longest = 2 / CU_KA * np.sin(np.radians(STOP / 2))
    most = np.floor(longest * np.linalg.norm(structure.cell, axis=1)).astype(int)
    index = np.stack(np.meshgrid(*[np.arange(-k, k + 1) for k in most], indexing="ij"), -1).reshape(-1, 3)
    index = index[len(index) // 2 + 1 :]  # the other half is its mirror image, (0 0 0) in the middle
    q = index @ np.linalg.inv(structure.cell).T
    seen = np.linalg.norm(q, axis=1) < longest
    index, q = index[seen], q[seen]
    s = (q**2).sum(1) / 4  # (sin θ / λ)²
    factor = np.zeros((len(q), structure.n_atoms))
    for z in np.unique(structure.numbers).tolist():
        if SYMBOLS[z] not in _scattering():
            raise InputError(f"pxrd: expected elements with known scattering factors, got {SYMBOLS[z]}; leave the pattern out")
        a, b = np.array(_scattering()[SYMBOLS[z]]).T
        factor[:, structure.numbers == z] = (z - 41.78214 * s * (a * np.exp(-b * s[:, None])).sum(1))[:, None]
    return index, q, factor


def _lorentz(theta: Float[np.ndarray, "p"]) -> Float[np.ndarray, "p"]:
    """Lorentz and polarisation factor of a powder."""
    return np.asarray((1 + np.cos(2 * theta) ** 2) / (np.sin(theta) ** 2 * np.cos(theta)))


def tensor(strain: Float[np.ndarray, "6"]) -> Float[np.ndarray, "3 3"]:
    """The symmetric matrix of six numbers in Voigt's order.

    >>> tensor(np.array([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])).tolist()
    [[1.0, 6.0, 5.0], [6.0, 2.0, 4.0], [5.0, 4.0, 3.0]]
    """
    out = np.zeros((3, 3))
    for value, (i, j) in zip(strain, AXES, strict=True):
        out[i, j] = out[j, i] = value
    return out


@cache
def _scattering() -> dict[str, list[list[float]]]:
    from pymatgen.analysis.diffraction.xrd import ATOMIC_SCATTERING_PARAMS

    return dict(ATOMIC_SCATTERING_PARAMS)
