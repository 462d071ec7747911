"""Distances between samples of numbers, and how sure a mean is."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from jaxtyping import Float


def wasserstein(a: Float[np.ndarray, "n"], b: Float[np.ndarray, "m"]) -> float:
    """Wasserstein-1 distance of two samples: ∫ |F_a(x) − F_b(x)| dx, in the unit of the samples.

    Raises:
        ValueError: a sample is empty.

    >>> wasserstein(np.array([0.0, 1.0]), np.array([1.0, 2.0]))
    1.0
    """
    a, b = np.sort(np.asarray(a, dtype=float)), np.sort(np.asarray(b, dtype=float))
    if not len(a) or not len(b):
        raise ValueError(f"wasserstein: expected two samples that are not empty, got {len(a)} and {len(b)} values")
    grid = np.sort(np.concatenate([a, b]))
    below_a = np.searchsorted(a, grid[:-1], side="right") / len(a)
    below_b = np.searchsorted(b, grid[:-1], side="right") / len(b)
    return float(np.sum(np.abs(below_a - below_b) * np.diff(grid)))


def weighted_wasserstein(reference: Mapping[object, np.ndarray], samples: Mapping[object, np.ndarray], at_least: int = 10) -> float:
    """Σ_k w_k W1(reference_k, samples_k) over the kinds k of the reference, w_k its share of the values.

    Kinds with fewer than `at_least` reference values are left out; nan when none is left. A kind that the samples
    lack altogether raises: there is no distance to nothing.

    Source: Vignac et al. 2023 (MiDi), "bond lengths W1": distances per bond type, averaged by how often it occurs.
    """
    kinds = [k for k, values in reference.items() if len(values) >= at_least]
    missing = [k for k in kinds if not len(samples.get(k, ()))]
    if missing:
        raise ValueError(f"weighted_wasserstein: expected samples of every kind, got none of {missing[:3]}")
    if not kinds:
        return float("nan")
    weights = np.array([len(reference[k]) for k in kinds], dtype=float)
    distances = np.array([wasserstein(reference[k], samples[k]) for k in kinds])
    return float(weights @ distances / weights.sum())


def bootstrap(
    *columns: Float[np.ndarray, "n"],
    statistic: Callable[..., Float[np.ndarray, "r"]] | None = None,
    n_resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile bootstrap interval of a statistic of paired columns (rows are resampled together).

    Args:
        columns: arrays of one value per independent unit (molecule, draw).
        statistic: of the resampled columns, each (r, n), along the last axis; default: the mean of the first column.
        n_resamples: resamples.
        level: coverage of the interval.
        seed: of the resampling.

    Returns:
        (low, high); (nan, nan) without data.

    Source: Efron and Tibshirani 1993, chapter 13.
    """
    arrays = [np.asarray(c, dtype=float) for c in columns]
    n = len(arrays[0])
    if not n:
        return float("nan"), float("nan")
    rng = np.random.default_rng(seed)
    chunk = max(1, 2_000_000 // n)  # keeps the index table below 16 MB
    values = []
    for start in range(0, n_resamples, chunk):
        rows = rng.integers(0, n, size=(min(chunk, n_resamples - start), n))
        picked = [a[rows] for a in arrays]
        values.append(picked[0].mean(axis=-1) if statistic is None else statistic(*picked))
    low, high = np.quantile(np.concatenate(values), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def ratio_of_means(a: Float[np.ndarray, "r n"], b: Float[np.ndarray, "r n"]) -> Float[np.ndarray, "r"]:
    """mean(a) / mean(b) along the last axis: a `statistic` for `bootstrap`."""
    return a.mean(axis=-1) / b.mean(axis=-1)
