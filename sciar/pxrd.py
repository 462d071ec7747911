"""Powder patterns: read from files, simulated, binned, and compared.

A pattern is rows of (2θ in degrees, intensity) at Cu Kα: patterns of another wavelength are turned into it when they are read.
It is either a list of peaks or a measured profile with many equally spaced points.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from sciar.convert import to_pymatgen
from sciar.errors import InputError
from sciar.lattice import operations
from sciar.reflections import AXES, CU_KA, ROUNDS, WIDTHS, Reflections, levelled, tensor
from sciar.structure import Structure

START, STOP, STEP = 5.0, 90.0, 0.1  # degrees 2θ of the binned profile
FWHM = 0.4  # degrees 2θ, of a peak that is broadened
STRAIN = 0.03  # entries of the strain of a cell that a comparison may absorb
PROFILE = 300  # points from which a pattern with equal steps is a measured profile
BACKGROUND = 6.0  # degrees 2θ: what is broader than this is background
NOISE, WEAK = 0.01, 1e-4  # of the highest point, below which heights say little: of a measured profile, of a list of peaks
FLOOR = 0.01  # of the highest point, added to the variance in Rwp so that empty parts do not count for everything
COMMENT = "#!;'\"/*%"
LEVELS, UNKNOWN = 254, 255  # highest level of a profile that a network reads, and what stands where nothing was measured
WAVELENGTH = re.compile(r"(?:wave\s*length|lambda|λ)[^0-9\n]{0,24}(\d*\.\d+)", re.IGNORECASE)

Pattern = Float[np.ndarray, "p 2"]


@dataclass(frozen=True, slots=True, eq=False)
class Agreement:
    """How well a simulated pattern fits another.

    Args:
        cosine: of the two binned profiles, 1 = the same. likeness: the same with weak peaks counting, too (`sciar.reflections.levelled`).
        rwp: weighted profile R-factor at the best scale, 0 = the same.
        strain: η that fits best, in Voigt's order: the cell becomes cell (1 - η)⁻¹.
    """

    cosine: float
    likeness: float
    rwp: float
    strain: Float[np.ndarray, "6"]

    @property
    def fit(self) -> float:
        """Mean of both cosines."""
        return (self.cosine + self.likeness) / 2

    def strained(self, structure: Structure) -> Structure:
        """The crystal in the cell that fits best, atoms at the same fractions."""
        return strained(structure, self.strain)


def strained(structure: Structure, strain: Float[np.ndarray, "6"]) -> Structure:
    """The crystal in the cell (1 - η)⁻¹ times its own, atoms at the same fractions."""
    assert structure.cell is not None and structure.positions is not None
    change = np.linalg.inv(np.eye(3) - tensor(strain))
    return structure.replace(cell=structure.cell @ change, positions=structure.positions @ change)


def pattern_of(given: object) -> Pattern:
    """A pattern from rows or from a file.

    Raises:
        InputError: as `read` and `checked`.
    """
    return read(given) if isinstance(given, (str, os.PathLike)) else checked(given)


def read(path: str | os.PathLike[str], wavelength: float | None = None) -> Pattern:
    """The pattern of a .xy, .xye, .csv or .txt file: 2θ and intensity in the first two columns, commas or blanks between them.

    Lines before the first two numbers are a header. A wavelength stated in a comment or header (`wavelength: 0.7093`) is used.

    Args:
        path: of the file.
        wavelength: Å; None = as the file says, else Cu Kα.

    Raises:
        InputError: not a file, not two columns of numbers, or no pattern (see `checked`).
    """
    path = Path(path)
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise InputError(f"pxrd: expected a file, got {(error.strerror or str(error)).lower()} ({path}); check the path") from None
    rows: list[tuple[float, float]] = []
    for number, line in enumerate(lines, 1):
        words = re.split(r"[\s,;]+", line.strip().strip(",;"))
        if not line.strip() or line.strip()[0] in COMMENT:
            said = WAVELENGTH.search(line)
        else:
            try:
                rows.append((float(words[0]), float(words[1])))
                continue
            except (ValueError, IndexError):
                if rows:
                    got = f"{line.strip()[:40]!r} in line {number} of {path.name}"
                    raise InputError(f"pxrd: expected two columns (2θ in degrees, intensity), got {got}; correct it") from None
            said = WAVELENGTH.search(line)
        if said and wavelength is None and 0.1 < float(said[1]) < 10:
            wavelength = float(said[1])
    if not rows:
        raise InputError(f"pxrd: expected two columns (2θ in degrees, intensity), got no line with two numbers in {path.name}; check it")
    return checked(rows, wavelength)


def checked(rows: object, wavelength: float | None = None) -> Pattern:
    """Rows of (2θ, intensity) as a pattern at Cu Kα.

    Args:
        rows: p × 2 (further columns, such as errors, are left out).
        wavelength: Å, of these rows; None = Cu Kα.

    Raises:
        InputError: other columns, angles that do not increase or are out of range, negative intensities, or no peaks.
    """
    try:
        table = np.asarray(rows, dtype=float)
    except (TypeError, ValueError):
        raise InputError("pxrd: expected rows (2θ in degrees, intensity), got something that is not numbers; check the columns") from None
    if table.ndim != 2 or table.shape[1] < 2 or not len(table) or not np.isfinite(table[:, :2]).all():
        raise InputError(f"pxrd: expected rows (2θ in degrees, intensity), got an array of shape {table.shape}; check the columns")
    angle, intensity = table[:, 0], table[:, 1]
    if (np.diff(angle) <= 0).any():
        at = int(np.flatnonzero(np.diff(angle) <= 0)[0])
        got = f"{angle[at]:g} before {angle[at + 1]:g}"
        raise InputError(f"pxrd: expected increasing 2θ, got {got}; sort the rows or check which column is which")
    if angle[0] < 0 or angle[-1] > 180:
        raise InputError(f"pxrd: expected 2θ from 0 to 180°, got {angle[0]:g} to {angle[-1]:g}; check the columns")
    if (intensity < 0).any():
        got = f"{intensity.min():g} at {angle[intensity.argmin()]:g}°"
        raise InputError(f"pxrd: expected intensities of at least 0, got {got}; leave the background in or cut at 0")
    if wavelength is not None and wavelength <= 0:
        raise InputError(f"pxrd: expected a wavelength above 0 Å, got {wavelength}; correct it")
    scale = CU_KA / (wavelength or CU_KA)
    sine = np.sin(np.radians(angle / 2)) * scale
    seen = sine < 1
    pattern = np.stack([2 * np.degrees(np.arcsin(sine[seen])), intensity[seen]], axis=1)
    steps = np.diff(angle)
    flat = len(steps) > 8 and np.ptp(intensity) == 0 and np.ptp(steps) < 0.02 * steps.mean()  # a curve too short to be taken for one
    if flat or not len(pattern) or not len(peaks(pattern)):
        raise InputError("pxrd: expected a pattern with peaks, got none; check the intensities")
    pattern[:, 1] *= 100 / pattern[:, 1].max()
    return pattern


def is_profile(pattern: Pattern) -> bool:
    """Many points at about equal steps: a measured curve, not a list of peaks."""
    if len(pattern) < PROFILE:
        return False
    steps = np.diff(pattern[:, 0])
    return bool(np.quantile(steps, 0.95) < 3 * np.median(steps))


def peaks(pattern: Pattern) -> Pattern:
    """The peaks: those of a profile above its background by 2 % of the highest, the rows themselves of a list."""
    if not is_profile(pattern):
        return pattern[pattern[:, 1] > 0]
    from scipy.signal import find_peaks

    height = _without_background(pattern)
    if height.max() <= 0:
        return pattern[:0]
    found, _ = find_peaks(np.concatenate([[0], height, [0]]), prominence=0.02 * height.max())
    at = found - 1
    return np.stack([pattern[at, 0], height[at]], axis=1)


def grid(start: float = START, stop: float = STOP, step: float = STEP) -> Float[np.ndarray, "g"]:
    """Angles of the binned profile, in degrees 2θ."""
    return start + step * np.arange(round((stop - start) / step) + 1)


def binned(pattern: Pattern, start: float = START, stop: float = STOP, step: float = STEP, fwhm: float = FWHM) -> Float[np.ndarray, "g"]:
    """The pattern on a grid, highest point 1: peaks become Gaussians, a profile loses its background. The same rows give the same numbers.

    Args:
        pattern: rows at Cu Kα.
        start, stop, step: of the grid, degrees 2θ.
        fwhm: of the Gaussians, degrees 2θ.
    """
    at = grid(start, stop, step)
    angle = pattern[:, 0]
    sigma = fwhm / 2.3548
    if is_profile(pattern):
        curve = np.interp(at, angle, _without_background(pattern, sigma), left=0.0, right=0.0)
    else:
        width = int(np.ceil(5 * sigma / step))  # beyond, a Gaussian is nothing
        place = np.round((angle - start) / step).astype(np.int64)[:, None] + np.arange(-width, width + 1)
        height = pattern[:, 1, None] * np.exp(-0.5 * ((start + step * place - angle[:, None]) / sigma) ** 2)
        seen = (place >= 0) & (place < len(at))
        curve = np.bincount(place[seen], height[seen], len(at))
    highest = curve.max() if len(curve) else 0.0
    return curve / highest if highest > 0 else np.zeros_like(at)


def levels(given: Structure | Pattern, points: int) -> UInt8[np.ndarray, "g"]:
    """A profile as a network reads it: √(height / highest) from 0 to `LEVELS` at `points` angles, `UNKNOWN` where it was not measured.

    Args:
        given: a crystal, all of whose profile is known, or a pattern: a list of peaks is known up to its last one.
        points: of the grid from `START` to `STOP`.

    Raises:
        InputError: no crystal, or an element without scattering factors.
    """
    at = np.linspace(START, STOP, points)
    if isinstance(given, Structure):
        curve, first, last = Reflections.of(given).profile(at, FWHM, np.zeros(6)), START, STOP
    else:
        curve = binned(given, START, STOP, (STOP - START) / (points - 1))
        first, last = (given[0, 0] if is_profile(given) else START), given[-1, 0] + FWHM
    height = np.round(LEVELS * np.sqrt(np.clip(curve, 0, None) / max(float(curve.max()), 1e-300)))
    return np.where((at >= first) & (at <= last), height, UNKNOWN).astype(np.uint8)


def simulated(structure: Structure, stop: float = 120.0) -> Pattern:
    """The peaks of a crystal at Cu Kα up to `stop` degrees 2θ, highest 100; pymatgen's calculator.

    Raises:
        InputError: no crystal.
    """
    from pymatgen.analysis.diffraction.xrd import XRDCalculator

    if structure.cell is None:
        raise InputError("pxrd: expected a crystal, got a structure without a cell; give it one")
    found = XRDCalculator(wavelength=CU_KA).get_pattern(to_pymatgen(structure), two_theta_range=(0, stop))  # type: ignore[arg-type]
    return np.stack([np.asarray(found.x, dtype=float), np.asarray(found.y, dtype=float)], axis=1).reshape(-1, 2)


def agreement(structure: Structure, wanted: Pattern, strain: float = STRAIN) -> Agreement:
    """Compare a crystal's pattern with a wanted one where the latter was measured, its cell strained as fits best.

    A predicted cell is a few per cent off, which moves every peak; so the strain is looked for with broad peaks first, all lengths
    together, then whatever the crystal's symmetry leaves free. Rwp = √(Σ w (y − s ŷ)² / Σ w y²) with w = 1 / (y + floor) and the best s.

    Args:
        structure: the candidate.
        wanted: the pattern that was given.
        strain: largest entry of the strain; 0 = none.

    Raises:
        InputError: no crystal.

    Source: Young, The Rietveld Method, 1993, for Rwp; `sciar.reflections` for the fit.
    """
    at, targets = compared(wanted, (*WIDTHS, FWHM))
    mine, target = Reflections.of(structure), targets[-1]
    found = [np.zeros(6)]
    if strain and target.any():
        found.append(_strain(mine, targets, at, strain, free_strain(operations(structure)[0])))
    curves = [mine.profile(at, FWHM, entries) for entries in found]
    cosines = [float(curve @ target) / (float(np.linalg.norm(curve) * np.linalg.norm(target)) or 1.0) for curve in curves]
    best = int(np.argmax(cosines))
    if cosines[best] <= 0:
        return Agreement(0.0, 0.0, 1.0, np.zeros(6))
    curve, target = curves[best] / curves[best].max(), target / target.max()
    mine_level, level = (levelled(c, floor_of(wanted))[0] for c in (curve, target))
    likeness = float(mine_level @ level) / float(np.linalg.norm(mine_level) * np.linalg.norm(level))
    weight = 1 / (target + FLOOR)
    scale = float((weight * target * curve).sum() / (weight * curve**2).sum())
    rwp = float(np.sqrt((weight * (target - scale * curve) ** 2).sum() / (weight * target**2).sum()))
    return Agreement(cosines[best], likeness, rwp, found[best])


def floor_of(wanted: Pattern) -> float:
    """Heights of the highest point below which a pattern says little: a measured profile has noise, a list of peaks has none."""
    return NOISE if is_profile(wanted) else WEAK


def compared(wanted: Pattern, widths: Sequence[float]) -> tuple[Float[np.ndarray, "g"], list[Float[np.ndarray, "g"]]]:
    """Angles where a pattern is compared, and the pattern there with peaks of each width (FWHM, degrees 2θ), of length 1 or zero."""
    low, high = (max(START, wanted[0, 0]), min(STOP, wanted[-1, 0])) if is_profile(wanted) else (START, STOP)
    if high - low < 1.0:  # nothing of it is where patterns are compared
        low, high = START, STOP
    curves = [binned(wanted, low, high, fwhm=fwhm) for fwhm in widths]
    return grid(low, high), [curve / max(float(np.linalg.norm(curve)), 1e-300) for curve in curves]


def free_strain(rotations: Float[np.ndarray, "g 3 3"]) -> Float[np.ndarray, "6 6"]:
    """The projection of strains in Voigt's order on those that a crystal with these Cartesian rotations can have."""
    means = [np.einsum("gij,jk,glk->il", rotations, tensor(unit), rotations) / len(rotations) for unit in np.eye(6)]
    return np.array([[mean[i, j] for mean in means] for i, j in AXES])


def _strain(
    mine: Reflections, targets: list[np.ndarray], at: Float[np.ndarray, "g"], most: float, free: Float[np.ndarray, "6 6"]
) -> Float[np.ndarray, "6"]:
    """The strain of at most so much that fits best, of those that are `free`."""
    from scipy.optimize import minimize

    def misfit(z: np.ndarray, *how: Any) -> tuple[float, np.ndarray]:
        value, by_strain = mine.misfit(free @ z, at, *how)
        return value, by_strain @ free

    alike = [np.array([k] * 3 + [0.0] * 3) for k in np.linspace(-most, most, 2 * round(most / 2e-3) + 1)]
    entries = min(alike, key=lambda strain: mine.misfit(strain, at, targets[0], WIDTHS[0])[0])
    for target, fwhm in zip(targets, (*WIDTHS, FWHM), strict=True):
        found = minimize(misfit, entries, (target, fwhm), "L-BFGS-B", jac=True, bounds=[(-most, most)] * 6, options={"maxiter": ROUNDS})
        entries = found.x
    return np.asarray(free @ entries)


def _without_background(pattern: Pattern, sigma: float = 0.0) -> np.ndarray:
    """Heights of a profile, broadened by a Gaussian of sigma in degrees, above what varies slowly: the smoothed opening."""
    from scipy.ndimage import gaussian_filter1d, grey_opening, uniform_filter1d

    step = float(np.median(np.diff(pattern[:, 0])))
    height = gaussian_filter1d(pattern[:, 1], sigma / step) if sigma else pattern[:, 1]
    width = max(3, round(BACKGROUND / step))
    width = min(width, len(height) - 1)
    longer = np.pad(height, width, mode="reflect", reflect_type="odd")  # a slope goes on beyond the ends
    return np.maximum(height - uniform_filter1d(grey_opening(longer, width), width)[width:-width], 0.0)
