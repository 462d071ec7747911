from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import wasserstein_distance

from sciar.metrics.distance import bootstrap, ratio_of_means, wasserstein, weighted_wasserstein


def test_wasserstein_agrees_with_scipy_for_samples_of_different_size():
    rng = np.random.default_rng(0)
    for n, m in ((1, 1), (3, 7), (200, 50)):
        a, b = rng.normal(size=n), rng.normal(1.0, 2.0, size=m)
        assert wasserstein(a, b) == pytest.approx(wasserstein_distance(a, b))
        assert wasserstein(a, rng.permutation(a)) == 0
    with pytest.raises(ValueError, match="not empty"):
        wasserstein(np.zeros(0), np.ones(2))


def test_weighted_wasserstein_weighs_by_the_reference_and_drops_rare_kinds():
    reference = {"a": np.zeros(30), "b": np.zeros(10), "rare": np.zeros(2)}
    samples = {"a": np.full(5, 1.0), "b": np.full(90, 3.0)}
    assert weighted_wasserstein(reference, samples) == pytest.approx(0.75 * 1 + 0.25 * 3)
    with pytest.raises(ValueError, match="none of"):
        weighted_wasserstein(reference, {"a": np.ones(1)})


def test_bootstrap_covers_the_mean_and_is_repeatable():
    values = np.random.default_rng(1).normal(5.0, 1.0, size=400)
    low, high = bootstrap(values)
    assert low < values.mean() < high and high - low == pytest.approx(2 * 1.96 / 20, rel=0.15)
    assert bootstrap(values) == (low, high)
    assert bootstrap(2 * values, values, statistic=ratio_of_means) == pytest.approx((2, 2))  # rows stay paired
    assert np.isnan(bootstrap(np.zeros(0))).all()
