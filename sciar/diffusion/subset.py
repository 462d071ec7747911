"""Which m of n? The conditional Bernoulli law: independent coins of odds w_j, given that exactly m of them show heads.

p(S) = Π_{j ∈ S} w_j / e_m(w) for |S| = m, with e_m the elementary symmetric polynomial. It is how a node of known degree
chooses its neighbours. Source: Chen, Dempster & Liu, Biometrika 81 (1994) 457.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

NEVER = -1e4  # log-odds of what cannot be chosen; finite, so that gradients are


def log_partition(log_odds: Float[Tensor, "*b n"], most: int) -> Float[Tensor, "*b m"]:
    """ln e_0 … ln e_most of the odds, differentiable; where fewer than m can be chosen about m × NEVER.

    The polynomials Π_j (1 + w_j z) are multiplied pairwise in log space: log₂ n steps.
    """
    parts = torch.stack([torch.zeros_like(log_odds), log_odds], -1)
    while parts.shape[-2] > 1:
        if parts.shape[-2] % 2:
            one = parts.new_full((*parts.shape[:-2], 1, parts.shape[-1]), NEVER)
            one[..., 0] = 0.0
            parts = torch.cat([parts, one], -2)
        left, right = parts[..., 0::2, :], parts[..., 1::2, :]
        k = parts.shape[-1]
        size = min(2 * k - 1, most + 1)
        parts = torch.stack(
            [
                torch.stack([left[..., a] + right[..., c - a] for a in range(max(0, c - k + 1), min(k, c + 1))], -1).logsumexp(-1)
                for c in range(size)
            ],
            -1,
        )
    missing = most + 1 - parts.shape[-1]
    out = parts[..., 0, : most + 1]
    return out if missing <= 0 else torch.cat([out, out.new_full((*out.shape[:-1], missing), NEVER)], -1)


def marginals(log_odds: Float[np.ndarray, "n"], m: int) -> Float[np.ndarray, "n"]:
    """Probability of each to be among the m."""
    n = len(log_odds)
    odds = _odds(log_odds)
    if m == 1:
        return np.asarray(odds / max(float(odds.sum()), 1e-300))
    before, after = _table(odds, m), _table(odds[::-1], m)[::-1]
    without = (before[:n, :m] * after[1:, :m][:, ::-1]).sum(1)
    return np.asarray(odds * without / max(float(before[n, m]), 1e-300))


def log_probability(log_odds: Float[np.ndarray, "n"], chosen: Int[np.ndarray, "m"]) -> float:
    """ln p of a drawn subset."""
    odds = _odds(log_odds)
    return float(np.log(odds[chosen]).sum() - np.log(_table(odds, len(chosen))[-1, -1]))


def draw(log_odds: Float[np.ndarray, "n"], m: int, stream: np.random.Generator) -> Int[np.ndarray, "m"]:
    """m different indices; fewer where fewer have any odds."""
    odds = _odds(log_odds)
    m = min(m, int((odds > 0).sum()))
    after = _table(odds[::-1], m)[::-1]
    chosen: list[int] = []
    for j in range(len(odds)):
        if len(chosen) == m:
            break
        left = m - len(chosen)
        if stream.random() * after[j, left] < odds[j] * after[j + 1, left - 1]:
            chosen.append(j)
    return np.array(chosen, dtype=np.int64)


def _odds(log_odds: np.ndarray) -> np.ndarray:
    """Odds up to a common factor, which does not matter; what is e³⁰ below the likeliest is left out."""
    log_odds = np.asarray(log_odds, dtype=np.float64)
    top = log_odds.max(initial=NEVER)
    return np.where((log_odds > NEVER / 2) & (log_odds > top - 30), np.exp(log_odds - top), 0.0)


def _table(odds: np.ndarray, m: int) -> np.ndarray:
    """Row j: e_0 … e_m of the first j odds."""
    table = np.zeros((len(odds) + 1, m + 1))
    table[:, 0] = 1.0
    for k in range(1, m + 1):
        table[1:, k] = np.cumsum(odds * table[:-1, k - 1])
    return table
