"""The conditional Bernoulli law against enumeration."""

from __future__ import annotations

import itertools

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sciar.diffusion import subset

odds = st.lists(st.floats(-4, 4), min_size=1, max_size=7)


def enumerated(log_odds: list[float], m: int) -> dict[tuple[int, ...], float]:
    weights = {s: float(np.exp(sum(log_odds[j] for j in s))) for s in itertools.combinations(range(len(log_odds)), m)}
    return {s: w / sum(weights.values()) for s, w in weights.items()}


@settings(deadline=None, max_examples=40)
@given(odds, st.integers(0, 4))
def test_partition_and_marginals_are_those_of_enumeration(log_odds: list[float], m: int) -> None:
    m = min(m, len(log_odds))
    total = sum(np.exp(sum(log_odds[j] for j in s)) for s in itertools.combinations(range(len(log_odds)), m))
    values = torch.tensor(log_odds, dtype=torch.double, requires_grad=True)
    found = subset.log_partition(values, 4)
    assert found.shape == (5,) and abs(found[m].item() - np.log(total)) < 1e-6
    law = enumerated(log_odds, m)
    for chosen, p in law.items():
        assert abs(subset.log_probability(np.array(log_odds), np.array(chosen, dtype=np.int64)) - np.log(p)) < 1e-9
    marginals = [sum(p for s, p in law.items() if j in s) for j in range(len(log_odds))]
    assert np.allclose(subset.marginals(np.array(log_odds), m), marginals, atol=1e-9)
    found[m].backward()  # the gradient of ln e_m is the vector of marginals
    assert values.grad is not None and np.allclose(values.grad.numpy(), marginals, atol=1e-6)


def test_draws_follow_the_law() -> None:
    log_odds = [0.5, -1.0, 2.0, 0.0]
    stream = np.random.default_rng(0)
    counts: dict[tuple[int, ...], int] = {}
    for _ in range(20_000):
        chosen = tuple(subset.draw(np.array(log_odds), 2, stream).tolist())
        counts[chosen] = counts.get(chosen, 0) + 1
    for s, p in enumerated(log_odds, 2).items():
        assert abs(counts.get(s, 0) / 20_000 - p) < 0.015


def test_what_cannot_be_chosen_is_not() -> None:
    stream = np.random.default_rng(0)
    log_odds = np.array([subset.NEVER, 1.0, subset.NEVER, 0.0, subset.NEVER])
    assert subset.draw(log_odds, 4, stream).tolist() == [1, 3]
    assert subset.draw(np.full(3, subset.NEVER), 2, stream).tolist() == []
    assert torch.isfinite(subset.log_partition(torch.from_numpy(log_odds), 3)).all()
