from __future__ import annotations

import types

import numpy as np
import pytest

from sciar import bench, datasets
from sciar.errors import InputError
from sciar.samples import Run


def test_samples_are_judged_and_missing_ones_are_failures():
    molecules = list(datasets.samples("qm9"))[:60]
    whole = bench.run("qm9", samples=molecules, novelty=False)
    assert whole.n_drawn == 60 and whole.ranked is None
    assert whole.raw["atom_stable"] > 0.9 and whole.raw["own_valid"] > 0.9
    assert whole.intervals["mol_stable"][0] <= whole.raw["mol_stable"] <= whole.intervals["mol_stable"][1]
    half = bench.run("qm9", samples=molecules, n=120, novelty=False)
    for name in ("atom_stable", "mol_stable", "valid", "own_valid"):
        assert half.raw[name] == pytest.approx(whole.raw[name] / 2)


def test_ranked_column_keeps_the_best_by_score():
    good = [m for m in datasets.samples("qm9") if m.bonds is not None][:8]
    broken = [m.subset(np.arange(1, m.n_atoms)) for m in good]
    verdicts = [types.SimpleNamespace(verdict=types.SimpleNamespace(structure=s)) for s in good + broken]
    drawn = types.SimpleNamespace(
        records=verdicts, scores=np.r_[np.zeros(8), -np.ones(8)], run=Run("molecule", "m", "", 0, 16, seconds=2.0, calls=160)
    )
    model = types.SimpleNamespace(name="toy", generate=lambda task, **arguments: drawn)
    result = bench.run("qm9", model=model, n=16, keep=0.5, novelty=False)
    assert result.ranked["own_mol_stable"] > result.raw["own_mol_stable"]
    assert result.raw["network_calls_per_sample"] == 10 and result.raw["seconds_per_1000"] == 125 and len(result.rows) == 2


def test_published_rows_say_where_they_are_from():
    for protocol in ("qm9", "conformers"):
        for row in bench.published(protocol):
            assert {"model", "values", "source", "protocol", "comparable"} <= set(row)
            assert row["protocol"] and row["source"]


def test_model_or_samples():
    for arguments in ({}, {"model": "a", "samples": "b"}):
        with pytest.raises(InputError, match="both or none"):
            bench.run("qm9", **arguments)
