"""COV-R and COV-P of crystals: which references have a draw near them, which draws are near a reference (extra `coverage`).

A crystal's fingerprint is the mean of its sites' CrystalNN order parameters and its composition's Magpie statistics, both by matminer.
"""

from __future__ import annotations

import csv
import importlib.util
import warnings
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from sciar.convert import to_pymatgen
from sciar.errors import InputError
from sciar.lattice import symmetry
from sciar.metrics.crystal import SECONDS, limit
from sciar.processes import pool
from sciar.structure import Structure

# of MP-20: Xie et al., CDVAE, ICLR 2022
NEAR_STRUCTURE, NEAR_COMPOSITION = 0.4, 10.0
SAME = 1e-4  # Å within which sites are equivalent; on 60 test crystals no fingerprint moved by more than 0.005, and half the time is saved
N_ORDER = 61  # order parameters in front of the Magpie statistics
_ROWS = 512  # draws whose distances are in memory at a time


def fingerprints(
    structures: Sequence[Structure | None], jobs: int = 1, seconds: float = SECONDS
) -> Iterator[Float[np.ndarray, "193"] | str]:
    """The fingerprint of each crystal in order, or why it has none.

    61 order parameters, then 132 statistics of elements in units of CDVAE's standard deviations about its means; what an element has
    no value for is its mean.

    Args:
        structures: crystals; None = a failed draw.
        jobs: processes.
        seconds: of CPU time for one crystal; one that takes longer has none.

    Raises:
        InputError: matminer is not installed.

    Source: Zimmermann and Jain, RSC Adv. 10 (2020) 6063; Ward et al., npj Comput. Mater. 2 (2016) 16028; CDVAE.
    """
    if importlib.util.find_spec("matminer") is None:
        raise InputError("coverage: expected the package matminer, got none; pip install 'sciar[coverage]'")
    tasks = ((structure, seconds) for structure in structures)
    if jobs <= 1:
        return map(_timed, tasks)
    return _spread(tasks, jobs)


def coverage(
    draws: Sequence[Float[np.ndarray, "193"] | str], references: Sequence[Float[np.ndarray, "193"] | str]
) -> tuple[Bool[np.ndarray, "n"], Bool[np.ndarray, "r"]]:
    """Which draws are near a reference, and which references are near a draw.

    Near: some other's order parameters are at most 0.4 away, and some other's statistics, not necessarily the same one's, at most 10, as
    CDVAE counts. What has no fingerprint is not near. COV-P and COV-R are the shares.

    Args:
        draws: from `fingerprints`.
        references: from `fingerprints`.

    Source: Xie et al., CDVAE, ICLR 2022; Ganea et al., GeoMol, 2021.

    >>> here, there = np.zeros(193), np.ones(193)
    >>> [side.tolist() for side in coverage([here, "no time"], [there, here])]
    [[True, False], [False, True]]
    """
    mine, theirs = ([k for k, one in enumerate(side) if not isinstance(one, str)] for side in (draws, references))
    near = np.zeros(len(draws), dtype=bool), np.zeros(len(references), dtype=bool)
    if mine and theirs:
        a, b = np.stack([draws[k] for k in mine]), np.stack([references[k] for k in theirs])
        order, statistics = _nearest(a[:, :N_ORDER], b[:, :N_ORDER]), _nearest(a[:, N_ORDER:], b[:, N_ORDER:])
        for side, rows, x, y in zip(near, (mine, theirs), order, statistics, strict=True):
            side[rows] = (x <= NEAR_STRUCTURE) & (y <= NEAR_COMPOSITION)
    return near


def _nearest(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distance of each row of a to the nearest of b, and of each row of b to the nearest of a."""
    from scipy.spatial.distance import cdist

    rows, columns = np.empty(len(a)), np.full(len(b), np.inf)
    for start in range(0, len(a), _ROWS):
        part = cdist(a[start : start + _ROWS], b)
        rows[start : start + _ROWS] = part.min(1)
        columns = np.minimum(columns, part.min(0))
    return rows, columns


def _spread(tasks: Iterator[tuple[Structure | None, float]], jobs: int) -> Iterator[np.ndarray | str]:
    with pool(jobs) as workers:
        yield from workers.imap(_timed, tasks, chunksize=8)


def _timed(task: tuple[Structure | None, float]) -> np.ndarray | str:
    structure, seconds = task
    if structure is None or structure.cell is None or structure.positions is None:
        return "no crystal"
    sites, statistics, mean, deviation = _featurizers()
    try:
        with limit(seconds), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # CDVAE gives no oxidation states either, of which CrystalNN warns for each site
            crystal: Any = to_pymatgen(structure)
            firsts, counts = _orbits(structure)
            order = np.average([sites.featurize(crystal, k) for k in firsts], axis=0, weights=counts)
            scaled = (np.array(statistics.featurize(crystal.composition), dtype=float) - mean) / deviation
    except TimeoutError:
        return f"not done after {seconds:g} s of CPU time"
    except Exception as error:  # pymatgen's Voronoi search raises many kinds; the reason is kept and the crystal counts as without one
        return type(error).__name__
    if not np.isfinite(order).all():
        return "not finite"
    return np.concatenate([order, np.nan_to_num(scaled, nan=0.0)])


def _orbits(structure: Structure) -> tuple[list[int], list[int]]:
    """One site of each set of equivalent ones, and how many it stands for: what surrounds them is the same."""
    found = symmetry(structure, SAME)
    labels = found.orbits if found is not None else range(structure.n_atoms)
    _, firsts, counts = np.unique(labels, return_index=True, return_counts=True)
    return firsts.tolist(), counts.tolist()


@lru_cache(maxsize=1)
def _featurizers() -> tuple[Any, Any, np.ndarray, np.ndarray]:
    """Of sites and of compositions, with CDVAE's means and standard deviations of the latter."""
    from matminer.featurizers.composition import ElementProperty
    from matminer.featurizers.site import CrystalNNFingerprint

    statistics = ElementProperty.from_preset("magpie")
    with open(Path(__file__).with_name("magpie.csv"), encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    names = [name.removeprefix("MagpieData ") for name in statistics.feature_labels()]
    if names != [row["statistic"] for row in rows]:
        raise InputError("coverage: expected matminer's Magpie statistics in CDVAE's order, got another order; install matminer 0.10")
    mean, deviation = (np.array([float(row[key]) for row in rows]) for key in ("mean", "deviation"))
    return CrystalNNFingerprint.from_preset("ops"), statistics, mean, deviation
