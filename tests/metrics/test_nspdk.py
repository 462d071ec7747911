"""NSPDK: by hand, against a plain restatement without hashes, and its floor on QM9."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import networkx as nx
import numpy as np
import pytest

from sciar import datasets
from sciar.convert import from_smiles
from sciar.metrics import nspdk as metrics
from sciar.structure import Structure

SMILES = ["C", "CC", "CCO", "c1ccccc1O", "CC(=O)NC1CC1", "C1CC2CC1C2", "C#CC#CCN", "O=C1C=CC=C1", "Cc1nc2ccccc2s1", "[O-][n+]1ccccc1CCC"]


def graph(smiles: str) -> metrics.Labelled:
    found = metrics.by_smiles(smiles)
    assert found is not None
    return found


def plain(one: metrics.Labelled) -> dict[object, float]:
    """The feature vector: bonds as nodes, neighbourhoods as nested tuples, each block and then the whole of length 1."""
    labels, edges = one
    wide = nx.Graph()
    wide.add_nodes_from((k, {"is": ("node", int(z))}) for k, z in enumerate(labels))
    for k, (i, j, kind) in enumerate(edges.tolist()):
        wide.add_node(("edge", k), **{"is": ("edge", kind)})
        wide.add_edges_from([(i, ("edge", k)), (("edge", k), j)])
    far = {v: nx.single_source_shortest_path_length(wide, v, 8) for v in range(len(labels))}

    def around(v: int, radius: int) -> object:
        depths = range(2 * radius + 1)
        found = tuple(tuple(sorted((wide.nodes[u]["is"], wide.degree(u)) for u in far[v] if far[v][u] == k)) for k in depths)
        return found if found[-1] else None

    vector: dict[object, float] = {}
    blocks = 0
    for distance in range(5):
        pairs = [(v, u) for v in far for u in far if far[v].get(u) == 2 * distance]
        for radius in range(5):
            counts: Counter[object] = Counter()
            for v, u in pairs:
                a, b = around(v, radius), around(u, radius)
                if a is not None and b is not None:
                    counts.update([("pair", *sorted([a, b], key=repr)), ("half", b)])
            length = np.sqrt(sum(count**2 for count in counts.values()))
            blocks += bool(counts)
            vector |= {(radius, distance, key): count / length for key, count in counts.items()}
    return {key: value / np.sqrt(blocks) for key, value in vector.items()}


def test_by_hand() -> None:
    """A lone atom has another degree than one of ethane: k = 0. Ethane and methanol have four blocks each (radius 0 and 1, distance 0 and
    1) and share features in those of radius 0 only. Distance 0: pair CC 2, half C 2 · pairs CC 1, OO 1, halves C 1, O 1 = 4 of √8 √4;
    distance 1: pair CC 2, half C 2 · pair CO 2, halves C 1, O 1 = 2 of √8 √6."""
    assert metrics.nspdk([graph("C")], [graph("CC")]) == pytest.approx(2)
    assert metrics.nspdk([graph("CC")], [graph("CO")]) == pytest.approx(2 - 2 * (4 / np.sqrt(32) + 2 / np.sqrt(48)) / 4)
    assert metrics.nspdk([graph("CC"), graph("C")], [graph("C"), graph("CC")]) == 0


def test_against_the_plain_restatement() -> None:
    vectors = [plain(graph(text)) for text in SMILES]
    kernel = np.array([[sum(value * b.get(key, 0.0) for key, value in a.items()) for b in vectors] for a in vectors])
    assert np.allclose(np.diag(kernel), 1)
    graphs = [graph(text) for text in SMILES]
    for split in (1, 4, 6):
        blocks = [kernel[:split, :split], kernel[split:, split:], kernel[:split, split:]]
        expected = blocks[0].mean() + blocks[1].mean() - 2 * blocks[2].mean()
        assert metrics.nspdk(graphs[:split], graphs[split:]) == pytest.approx(expected, abs=1e-12)


def test_numbering_and_chunks_do_not_matter() -> None:
    rng = np.random.default_rng(0)
    graphs, others = [graph(text) for text in SMILES], []
    for labels, edges in graphs:
        place = rng.permutation(len(labels))
        edges = np.concatenate([place[edges[:, :2]], edges[:, 2:]], 1)[rng.permutation(len(edges))]
        others.append((labels[np.argsort(place)], edges))
    rng.shuffle(others)
    assert metrics.nspdk(graphs, others) == pytest.approx(0, abs=1e-12)
    whole, parts = metrics.features(graphs), metrics.features(graphs, at_once=3)
    assert np.array_equal(whole.names, parts.names) and np.allclose(whole.values, parts.values)


def test_every_label_counts() -> None:
    one = graph("CCCO")
    assert all(metrics.nspdk([one], [graph(text)]) > 0.1 for text in ("CCCN", "CC=CO", "CCO", "CC(C)O"))
    assert np.isnan(metrics.nspdk([one], [])) and metrics.nspdk([one], [one, (np.zeros(0, int), np.zeros((0, 3), int))]) == 0


def test_bonds_and_smiles_give_the_same_graph() -> None:
    for text in SMILES:
        structure = from_smiles(text)
        assert metrics.nspdk([graph(text)], [metrics.by_bonds(structure)]) == pytest.approx(0, abs=1e-12)
    phenol = from_smiles("c1ccccc1O")
    found = metrics.by_bonds(phenol)
    assert found is not None and found[1][:, 2].tolist() == [1] * 7  # kekulé forms are not told apart
    water = metrics.by_bonds(Structure(np.array([1, 8, 1]), bonds=np.array([[0, 1, 1], [1, 2, 1]])))
    assert water is not None and water[0].tolist() == [8] and not len(water[1])
    assert metrics.by_bonds(None) is None and metrics.by_smiles("C(C)(C)(C)(C)C") is None


def test_floor_of_qm9() -> None:
    """Training against test molecules: the discrepancy of two samples of one law, (1/n + 1/m)(1 − mean kernel), is far below a model's."""
    if not (Path(os.environ.get("SCIAR_DATA", "")) / "qm9_3d.npz").is_file():
        pytest.skip("QM9 is not here")
    rng = np.random.default_rng(0)
    sides = [datasets.load("qm9", split).column("smiles") for split in ("train", "test")]
    train, test = ([graph(str(side[k])) for k in rng.permutation(len(side))[:2000]] for side in sides)
    assert 5e-4 < metrics.nspdk(train, test) < 1.2e-3
    assert metrics.nspdk([one for one in train if 7 in one[0]], test) > 3e-3
