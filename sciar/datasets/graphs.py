"""Plain graphs of the generative benchmarks: the files everybody uses, or new ones by the published recipes.

Each set is a module of its own that names its recipe. The published graphs are read from `graphs.npz` where that file is
there; else graphs of the same law are made here from a fixed seed. A table must say which of the two it is about: they
are different stores. Splits: 128 train, 32 validation, 40 test for 200 graphs (SPECTRE).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sciar.datasets.store import SPLITS
from sciar.structure import Structure

if TYPE_CHECKING:
    import networkx as nx

NAME = "graphs.npz"
CHECKSUM = "sha256:c96d1e9307f4fe92480169999a09bf87ece46ddd622e8de4cd49601aa6b6f3b2"
LICENCE = "MIT (files of SPECTRE, DiGress, GDSS); made here: MIT"
Recipe = Callable[[np.random.Generator], "nx.Graph"]


def read(root: Path, name: str, split: str, recipe: Recipe, count: int, start: int = 0) -> Iterator[Structure]:
    """The graphs of one set with their split, from row `start` on.

    Args:
        root: folder that may hold `graphs.npz`.
        name: of the set in that file. split: its column of splits.
        recipe: makes one graph where the file is not there. count: how many.
    """
    rows = _published(root / NAME, name, split) if (root / NAME).exists() else _made(recipe, count)
    return islice(rows, start, None)


def _published(path: Path, name: str, split: str) -> Iterator[Structure]:
    with np.load(path, allow_pickle=False) as arrays:
        nodes, counts = arrays[f"{name}/n_nodes"].tolist(), arrays[f"{name}/n_edges"]
        edges = np.split(arrays[f"{name}/edges"].astype(np.int64), np.cumsum(counts)[:-1])
        splits = arrays[f"{name}/{split}"].tolist()
    for n, pairs, code in zip(nodes, edges, splits, strict=True):
        yield _graph(n, pairs, SPLITS[code])


def _made(recipe: Recipe, count: int) -> Iterator[Structure]:
    import networkx as nx

    for row in range(count):
        graph = nx.convert_node_labels_to_integers(recipe(np.random.default_rng([2022, row])))
        place = row / count
        pairs = np.array(list(graph.edges), dtype=np.int64).reshape(-1, 2)
        yield _graph(graph.number_of_nodes(), pairs, "train" if place < 0.64 else "validation" if place < 0.8 else "test")


def _graph(n: int, pairs: np.ndarray, split: str) -> Structure:
    bonds = np.concatenate([pairs, np.ones((len(pairs), 1), dtype=np.int64)], 1)
    return Structure(np.zeros(n, dtype=np.int64), bonds=bonds, info={"split": split})


def planar(rng: np.random.Generator) -> nx.Graph:
    """Delaunay triangulation of 64 points, uniform in the unit square (Martinkus et al. 2022, SPECTRE)."""
    import networkx as nx
    from scipy.spatial import Delaunay

    simplices = Delaunay(rng.random((64, 2))).simplices
    return nx.Graph([(int(t[a]), int(t[b])) for t in simplices for a, b in ((0, 1), (1, 2), (0, 2))])


def tree(rng: np.random.Generator) -> nx.Graph:
    """A uniformly random labelled tree of 64 nodes, from a Prüfer sequence (Bergmeister et al. 2024, HSpectre)."""
    import networkx as nx

    return nx.from_prufer_sequence(rng.integers(0, 64, 62).tolist())


def sbm(rng: np.random.Generator) -> nx.Graph:
    """2–5 communities of 20–40 nodes, edges inside with 0.3 and between with 0.005 (SPECTRE)."""
    import networkx as nx

    while True:
        sizes = rng.integers(20, 41, int(rng.integers(2, 6))).tolist()
        inside = np.full((len(sizes), len(sizes)), 0.005) + np.eye(len(sizes)) * 0.295
        graph = nx.stochastic_block_model(sizes, inside.tolist(), seed=int(rng.integers(2**31)))
        if nx.is_connected(graph):
            return nx.Graph(graph.edges)


def community(rng: np.random.Generator) -> nx.Graph:
    """Two communities of 6–10 nodes, edges inside with 0.7, 5 % of the nodes as edges between (You et al. 2018, GraphRNN)."""
    import networkx as nx

    sizes = rng.integers(6, 11, 2).tolist()
    parts = [nx.gnp_random_graph(n, 0.7, seed=int(rng.integers(2**31))) for n in sizes]
    graph = nx.disjoint_union(*parts)
    for _ in range(max(1, round(0.05 * sum(sizes)))):
        graph.add_edge(int(rng.integers(sizes[0])), sizes[0] + int(rng.integers(sizes[1])))
    return graph.subgraph(max(nx.connected_components(graph), key=len)).copy()


def ego(rng: np.random.Generator) -> nx.Graph:
    """Neighbourhoods of 4–18 nodes in a scale-free graph; the published ones are from Citeseer, which is not made but found."""
    import networkx as nx

    while True:
        whole = nx.barabasi_albert_graph(200, 1 + int(rng.integers(2)), seed=int(rng.integers(2**31)))
        graph = nx.ego_graph(whole, int(rng.integers(200)), radius=1)
        if 4 <= graph.number_of_nodes() <= 18:
            return graph


def grid(rng: np.random.Generator) -> nx.Graph:
    """A square lattice of 10–19 × 10–19 nodes (GraphRNN)."""
    import networkx as nx

    return nx.grid_2d_graph(int(rng.integers(10, 20)), int(rng.integers(10, 20)))
