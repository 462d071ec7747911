"""Plain graphs: the published file, the recipes without it; ZINC250k."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path

import networkx as nx
import numpy as np
import pytest

from sciar import datasets
from sciar.convert import to_networkx
from sciar.datasets import File, Item, Rejected, download, graphs, planar, tree, zinc250k
from sciar.errors import DataError


def one(item: Item) -> nx.Graph:
    assert not isinstance(item, (tuple, Rejected))
    return to_networkx(item)


def test_published_graphs(tmp_path: Path) -> None:
    arrays = {"n_nodes": [3, 2], "n_edges": [2, 1], "edges": [[0, 1], [1, 2], [0, 1]], "split_spectre": [0, 2]}
    np.savez(tmp_path / graphs.NAME, **{f"planar/{name}": np.array(values) for name, values in arrays.items()})
    found = list(planar.read(tmp_path))
    assert [(g.n_atoms, len(g.bonds), g.info["split"]) for g in found if g.bonds is not None] == [(3, 2, "train"), (2, 1, "test")]
    assert not found[0].numbers.any() and len(list(planar.read(tmp_path, start=1))) == 1


@pytest.mark.parametrize("recipe", ["planar", "tree", "sbm", "community", "ego", "grid"])
def test_recipes_keep_their_law(recipe: str) -> None:
    for seed in range(3):
        graph = getattr(graphs, recipe)(np.random.default_rng(seed))
        n = graph.number_of_nodes()
        assert nx.is_connected(graph) and not list(nx.selfloop_edges(graph))
        if recipe == "planar":
            assert n == 64 and nx.check_planarity(graph)[0]
        elif recipe == "tree":
            assert n == 64 and nx.is_tree(graph)
        elif recipe == "sbm":
            assert 40 <= n <= 200
        elif recipe == "grid":
            assert 100 <= n <= 361 and max(d for _, d in graph.degree) == 4
        else:
            assert 4 <= n <= 20


def test_new_graphs_without_the_file_are_the_same_every_time(tmp_path: Path) -> None:
    first, again = list(tree.read(tmp_path)), list(tree.read(tmp_path, start=150))
    assert len(first) == 200 and [g.info["split"] for g in first].count("train") == 128
    assert np.array_equal(first[150].adjacency(), again[0].adjacency())
    assert nx.is_tree(one(first[7]))


def test_zinc250k(tmp_path: Path) -> None:
    text = np.frombuffer(b"C[NH+](C)C\nO=C([O-])c1ccccc1\nC1CC", np.uint8)
    np.savez(tmp_path / "zinc250k.npz", smiles_utf8=text, split_gdss=np.array([0, 2, 0], np.uint8))
    found = list(zinc250k.read(tmp_path))
    assert isinstance(found[2], Rejected) and found[2].row == 2
    first, second = found[:2]
    assert not isinstance(first, (tuple, Rejected)) and first.charges is not None and first.charges.sum() == 1
    assert not isinstance(second, (tuple, Rejected)) and second.info["split"] == "test"


def test_the_published_file_goes_before_graphs_made_earlier(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store made without the file must not answer for it once it is there, nor the other way round."""
    monkeypatch.setenv("SCIAR_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("SCIAR_DATA", raising=False)
    arrays = {"n_nodes": [3, 2], "n_edges": [2, 1], "edges": [[0, 1], [1, 2], [0, 1]], "split": [0, 2]}
    np.savez(tmp_path / graphs.NAME, **{f"tree/{name}": np.array(values) for name, values in arrays.items()})
    digest = hashlib.sha256((tmp_path / graphs.NAME).read_bytes()).hexdigest()
    files = ((File(graphs.NAME, f"sha256:{digest}"),), ())
    monkeypatch.setattr(tree, "INFO", dataclasses.replace(tree.INFO, files=files))
    monkeypatch.setattr(download, "get", lambda *args: (_ for _ in ()).throw(DataError("no network")))
    assert len(datasets.load("tree")) == 200 and not datasets.published("tree")
    monkeypatch.setenv("SCIAR_DATA", str(tmp_path))
    assert len(datasets.load("tree")) == 2 and datasets.published("tree")
    monkeypatch.delenv("SCIAR_DATA")
    assert len(datasets.load("tree")) == 2  # prepared from the file, which is better
