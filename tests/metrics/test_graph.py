"""Metrics of plain graphs: hand examples, brute force, and the published distances between training and test sets."""

from __future__ import annotations

import os
from itertools import combinations
from pathlib import Path

import networkx as nx
import numpy as np
import pytest

from sciar import datasets
from sciar.datasets import graphs as recipes
from sciar.metrics import graph as metrics


def matrix(graph: nx.Graph) -> np.ndarray:
    return nx.to_numpy_array(graph) > 0


def shuffled(a: np.ndarray, seed: int = 0) -> np.ndarray:
    order = np.random.default_rng(seed).permutation(len(a))
    return a[np.ix_(order, order)]


K5, PATH, CYCLE = matrix(nx.complete_graph(5)), matrix(nx.path_graph(6)), matrix(nx.cycle_graph(6))


def test_planar_and_tree() -> None:
    two_paths = matrix(nx.disjoint_union(nx.path_graph(3), nx.path_graph(3)))
    assert [metrics.planar(g) for g in (K5, PATH, CYCLE, two_paths, matrix(nx.complete_graph(4)))] == [False, True, True, False, True]
    assert [metrics.tree(g) for g in (K5, PATH, CYCLE, two_paths)] == [False, True, False, False]
    assert metrics.tree(np.zeros((1, 1), bool)) and not metrics.connected(np.zeros((0, 0), bool))


def test_stochastic_block_model() -> None:
    drawn = [matrix(recipes.sbm(np.random.default_rng(seed))) for seed in range(12)]
    assert np.mean([metrics.stochastic_block(g) for g in drawn]) >= 0.75  # the test is a statistical one
    assert not any(metrics.stochastic_block(matrix(nx.gnp_random_graph(100, p, seed=1))) for p in (0.05, 0.3))
    assert not metrics.stochastic_block(PATH)
    dense = nx.stochastic_block_model([30, 30], [[0.9, 0.005], [0.005, 0.9]], seed=0)
    assert not metrics.stochastic_block(matrix(dense))


def test_communities_are_found() -> None:
    sizes = [25, 38, 20]
    planted = nx.stochastic_block_model(sizes, (np.full((3, 3), 0.005) + np.eye(3) * 0.295).tolist(), seed=3)
    truth, found = np.repeat(range(3), sizes), metrics.communities(matrix(planted))
    assert all(len({*found[truth == c].tolist()}) == 1 for c in range(3)) and len({*found.tolist()}) == 3
    assert not metrics.communities(matrix(nx.gnp_random_graph(60, 0.3, seed=0))).any()  # no structure: one community


def test_every_draw_counts() -> None:
    drawn = [PATH, shuffled(PATH), CYCLE, None, K5, np.zeros((0, 0), bool)]
    found = metrics.vun(drawn, [shuffled(K5)], metrics.planar)
    assert found == metrics.Counts(n=6, valid=3, unique=4, novel=4, vun=2)


def test_same_hash_is_not_the_same_graph() -> None:
    """Two hexagons that share an edge, two pentagons joined by one: no refinement of colours tells them apart."""
    hexagons = nx.Graph([*nx.cycle_graph(6).edges, (0, 6), (6, 7), (7, 8), (8, 9), (9, 1)])
    pentagons = nx.Graph([*nx.cycle_graph(5).edges, *((5 + a, 5 + b) for a, b in nx.cycle_graph(5).edges), (0, 5)])
    a, b = matrix(hexagons), matrix(pentagons)
    assert metrics.fingerprint(a) == metrics.fingerprint(b) and not metrics.isomorphic(a, b) and metrics.isomorphic(a, shuffled(a))
    assert metrics.vun([a], [b], metrics.planar).vun == 1


def test_interval() -> None:
    low, high = metrics.interval(50, 100)
    assert (round(low, 4), round(high, 4)) == (0.4038, 0.5962)  # Wilson, by hand
    assert metrics.interval(0, 0) == (0.0, 1.0)


def brute_force(a: np.ndarray) -> np.ndarray:
    """Orbits by looking at every subset of up to four nodes."""
    out = np.zeros((len(a), 15), dtype=np.int64)
    for k in (2, 3, 4):
        for nodes in combinations(range(len(a)), k):
            part = a[np.ix_(nodes, nodes)]
            if not metrics.connected(part):
                continue
            degree = part.sum(1)
            table = {
                (2, 1): {1: 0},
                (3, 2): {1: 1, 2: 2},
                (3, 3): {2: 3},
                (4, 3): {1: 4, 2: 5} if degree.max() == 2 else {1: 6, 3: 7},
                (4, 4): {2: 8} if degree.max() == 2 else {1: 9, 2: 10, 3: 11},
                (4, 5): {2: 12, 3: 13},
                (4, 6): {3: 14},
            }[k, int(degree.sum()) // 2]
            for node, d in zip(nodes, degree.tolist(), strict=True):
                out[node, table[d]] += 1
    return out


@pytest.mark.parametrize("p", [0.15, 0.35, 0.6, 0.9])
def test_orbits_by_brute_force(p: float) -> None:
    for seed in range(3):
        a = matrix(nx.gnp_random_graph(10, p, seed=seed))
        assert np.array_equal(metrics.orbits(a), brute_force(a))


def test_orbits_of_known_graphs() -> None:
    assert metrics.orbits(K5)[0].tolist() == [4, 0, 0, 6] + [0] * 10 + [4]
    star = metrics.orbits(matrix(nx.star_graph(4)))
    assert star[0, 7] == 4 and star[1, 6] == 3 and star[0, 2] == 6
    assert metrics.orbits(matrix(nx.petersen_graph()))[:, [0, 1, 2, 3, 8, 14]].tolist() == [[3, 6, 3, 0, 0, 0]] * 10


def test_descriptors() -> None:
    assert metrics.degrees(PATH).tolist() == [0, 1 / 3, 2 / 3]
    assert metrics.clustering(K5)[99] == 1 and metrics.clustering(PATH)[0] == 1
    lone = matrix(nx.disjoint_union(nx.path_graph(2), nx.path_graph(1)))
    assert np.allclose(np.linalg.eigvalsh(metrics.laplacian(lone)), [0, 0, 2])
    assert np.allclose(metrics.wavelets(CYCLE), metrics.wavelets(shuffled(CYCLE)))


def test_wavelets_have_the_gains_of_pygsp() -> None:
    """Abspline of PyGSP 0.5.1 with 12 filters and λ_max = 2, at four eigenvalues, for four of the filters."""
    gains = [[1.383832, 0.000617, 0, 0], [0.04, 1, 0.020408, 0.003906], [0.001, 0.1, 0.816327, 0.15625], [2.5e-05, 0.0025, 0.1225, 0.64]]
    found = metrics.abspline(np.array([0.01, 0.1, 0.7, 1.6]), 12)[[0, 1, 6, 11]]
    assert np.allclose(found, gains, atol=1e-6)


def test_discrepancy_by_hand() -> None:
    """One graph on each side: MMD² = 2 − 2 k(p, q)."""
    a, b = {"degree": [np.array([0.0, 1.0])]}, {"degree": [np.array([0.0, 0.5, 0.0, 0.5])]}
    assert metrics.discrepancies(a, b, "tv")["degree"] == pytest.approx(2 - 2 * np.exp(-(0.5**2) / 2))  # TV = ½
    assert metrics.discrepancies(a, b, "emd")["degree"] == pytest.approx(2 - 2 * np.exp(-(1.0**2) / 2))  # half the mass moves by 2
    c, d = {"clustering": [np.eye(100)[0]]}, {"clustering": [np.eye(100)[20]]}
    assert metrics.discrepancies(c, d, "emd")["clustering"] == pytest.approx(2 - 2 * np.exp(-(0.2**2) / (2 * 0.1**2)))
    e, f = {"orbit": [np.array([3.0, 0.0])]}, {"orbit": [np.array([0.0, 4.0])]}
    assert metrics.discrepancies(e, f, "emd")["orbit"] == pytest.approx(2 - 2 * np.exp(-25 / 1800))
    assert metrics.discrepancies(e, f, "tv")["orbit"] == pytest.approx(2 - 2 * np.exp(-(3.5**2) / 1800))
    assert metrics.discrepancies(a, a, "tv")["degree"] == 0 and np.isnan(metrics.discrepancies({"degree": []}, a, "tv")["degree"])


def test_ratio_leaves_out_what_the_training_set_has_exactly() -> None:
    assert metrics.ratio({"degree": 0.2, "clustering": 0.3}, {"degree": 0.1, "clustering": 0.0}) == pytest.approx(2)


# test ← train of the published files, as printed in Bergmeister et al. 2024, tables 1 and 2
FLOORS = {
    "planar": {"degree": 0.0002, "clustering": 0.0310, "orbit": 0.0005, "spectral": 0.0038, "wavelet": 0.0012},
    "sbm": {"degree": 0.0008, "clustering": 0.0332, "orbit": 0.0255, "spectral": 0.0027, "wavelet": 0.0007},
}


@pytest.mark.parametrize("name", FLOORS)
def test_published_floors_are_reproduced(name: str) -> None:
    if not (Path(os.environ.get("SCIAR_DATA", "")) / recipes.NAME).is_file():
        pytest.skip("the published graphs are not here")
    parts = [[g.adjacency() > 0 for g in datasets.load(name, split)] for split in ("train", "test")]
    train, test = (metrics.described(part, list(FLOORS[name])) for part in parts)
    assert metrics.discrepancies(train, test, "tv") == pytest.approx(FLOORS[name], abs=6e-5)
