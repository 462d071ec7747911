"""What the table of speeds counts and divides by; no test looks at how long anything took."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import sciar
from sciar import bench
from sciar.bench import speed
from sciar.errors import InputError, SciarError


def test_rows_columns_and_denominators(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "_fresh", lambda code, argument: 7.0)
    told: list[tuple[str, int, int]] = []
    monkeypatch.setattr(speed, "SMALL", ("CCO", "CC=O"))
    monkeypatch.setattr(speed, "COUNTED", 2)
    monkeypatch.setattr(speed, "_cases", lambda model, task: [("qm9-hybrid", "conformer"), ("qm9-blocks", "graph")])
    result = bench.run("speed", n=4, batch_sizes=[3, 4], progress=lambda *step: told.append(step))
    labels = [(row["model"], row["task"], row["batch_size"]) for row in result.rows]
    ours = [("qm9-hybrid", "conformer", 3), ("qm9-hybrid", "conformer", 4), ("qm9-blocks", "graph", 3), ("qm9-blocks", "graph", 4)]
    assert labels == [*ours[:2], (speed.BASELINE, "conformer", None), *ours[2:]]
    assert [(done, total) for _, done, total in told] == [(0, 4), (1, 4), (2, 4), (3, 4)]
    assert result.n_drawn == result.n_requested == 16  # without the baseline's
    for row in result.rows:
        assert row["draws"] == 4 and row["import_seconds"] == row["peak_memory_mib"] == 7.0 and row["first_sample_seconds"] > 0
        assert row["seconds_per_1000"] == pytest.approx(1000 * row["seconds"] / 4)
        assert row["seconds_per_1000_valid"] * row["valid"] == pytest.approx(row["seconds_per_1000"])
        assert row["set"] == ("eight small molecules" if row["task"] == "conformer" else "")  # drugs have atoms that QM9 lacks
        if row["model"] != speed.BASELINE:
            rate = row["gflop_per_draw"] * row["draws"] / row["seconds"]
            assert row["utilisation"] == pytest.approx(rate / row["matmul_gflop_per_s"]) and row["gflop_per_draw"] > 0.01
    best = min((row for row in result.rows[:2]), key=lambda row: row["seconds_per_1000"])
    assert result.raw["qm9-hybrid/conformer/batch_size"] == best["batch_size"] and "qm9-blocks/graph/utilisation" in result.raw


def test_all_bundled_models_and_their_tasks() -> None:
    found = speed._cases(None, None)
    expected = {(m.name, task) for m in sciar.models() for task in m.task.split(", ") if task != "predict"}
    assert set(found) == expected and len(found) == len(expected)
    assert {task for _, task in speed._cases(None, "graph")} == {"graph"}
    with pytest.raises(InputError, match="expected task conformer, .*got 'predict'"):
        bench.run("speed", task="predict")
    with pytest.raises(InputError, match="expected a model for task crystal, got qm9-blocks"):
        bench.run("speed", model="qm9-blocks", task="crystal")


def test_attention_and_products_are_counted() -> None:
    """Two draws: q kᵀ and its product with v, each 2 · 2 · 4 · 16 · 16 · 8 FLOPs, and a product of 3 × 5 × 7."""

    def generate(task: str, **asked: Any) -> list[None]:
        with torch.inference_mode():
            query = torch.zeros(2, 4, 16, 8)
            torch.nn.functional.scaled_dot_product_attention(query, query, query)
            torch.zeros(3, 5) @ torch.zeros(5, 7)
        return [None] * asked["n"]

    assert speed._flop(SimpleNamespace(generate=generate), "molecule", {"n": 2}, 0) == (2 * 2 * 2 * 4 * 16 * 16 * 8 + 2 * 3 * 5 * 7) / 2
    assert speed.matmul_rate(torch.device("cpu"), torch.float32, 1) > 1e6


def test_no_valid_draw() -> None:
    found = speed._times(4, 0, 2.0, 1.0, 0.5)
    assert (
        found["seconds_per_1000"] == 500
        and found["cpu_seconds_per_1000"] == 250
        and found["valid"] == 0
        and math.isnan(found["seconds_per_1000_valid"])
    )


def test_memory_is_that_of_a_fresh_process() -> None:
    ballast = np.ones(2**26)  # 512 MiB
    alone = speed._fresh("from sciar.bench.speed import _resident; print(_resident())", "")
    assert 10 < alone < 300 and ballast.nbytes / 2**20 > 500 < speed._resident()
    assert speed.import_seconds("json") > 0
    with pytest.raises(SciarError, match="no such thing"):
        speed._fresh("raise ValueError('no such thing')", "")
