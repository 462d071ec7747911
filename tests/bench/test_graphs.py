"""The protocols of plain graphs, with real graphs in the place of a model."""

from __future__ import annotations

import json
from pathlib import Path

import networkx as nx
import numpy as np
import pytest

from sciar import bench, datasets
from sciar.convert import from_networkx
from sciar.errors import InputError
from sciar.files import write
from sciar.structure import Structure


def graphs(name: str, split: str) -> list[Structure]:
    return list(datasets.load(name, split))


@pytest.mark.parametrize("name", ["planar", "tree"])
def test_real_graphs_are_valid_and_training_graphs_are_not_novel(name: str, tmp_path: Path) -> None:
    test, train = graphs(name, "test")[:12], graphs(name, "train")
    write(tmp_path / "test.g6", test)
    result = bench.run(name, samples=tmp_path / "test.g6", json=tmp_path / "result.json")
    first, whole, floor, some = result.rows
    assert whole["model"] == "test set" and whole["vun"] == 1 and "degree" not in whole
    assert some["model"] == "training set, 12 at a time" and some["ratio"] > floor["ratio"]  # few graphs are further
    assert first["vun"] == first["valid"] == 1 and first["draws"] == len(test) and first["degree"] < 0.01
    assert floor["model"] == "training set" and floor["valid"] == 1 and floor["ratio"] == pytest.approx(1)
    low, high = json.loads((tmp_path / "result.json").read_text())["intervals"]["vun"]
    assert 0.7 < low < 1 and high == 1
    again = bench.run(name, samples=[*train[:4], None]).rows[0]
    assert again["valid"] == pytest.approx(4 / 5) and again["vun"] == again["novel"] == 0


def test_most_graphs_of_the_sbm_set_pass_for_one() -> None:
    result = bench.run("sbm", samples=graphs("sbm", "test")[:12])
    assert result.raw["vun"] >= 0.75 and any("graph-tool" in note for note in result.notes)
    assert "training set" in str(result)


@pytest.mark.parametrize("name", ["community", "ego"])
def test_small_sets_are_scored_by_earth_movers_distance(name: str) -> None:
    test = graphs(f"{name}_small", "test")
    lonely = [Structure(np.zeros(s.n_atoms + 1, dtype=np.int64), bonds=s.bonds) for s in test]
    first, whole, floor, some = bench.run(name, samples=lonely).rows
    assert whole["valid"] == 1 and 0 < whole["vun"] <= whole["novel"] <= 1
    assert some["average"] > floor["average"] and some["draws"] == len(test)
    assert first["average"] == pytest.approx(0, abs=1e-12) and first["valid"] == 0  # isolated nodes: not scored, but not connected
    assert 0 < floor["average"] < 0.05 and set(first) >= {"degree", "clustering", "orbit"} and "spectral" not in first


def test_wrong_graphs_are_far_away() -> None:
    first, *_ = bench.run("tree", samples=[from_networkx(nx.gnp_random_graph(64, 0.2, seed=k)) for k in range(4)]).rows
    assert first["vun"] == 0 and first["ratio"] > 20


def test_what_cannot_be_measured_is_refused() -> None:
    for arguments, words in (({}, "model= or samples="), ({"samples": [None]}, "got none"), ({"samples": [], "nfe": 3}, "'nfe'")):
        with pytest.raises(InputError, match=words):
            bench.run("planar", **arguments)  # type: ignore[arg-type]
