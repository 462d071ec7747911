"""Plain graphs: valid, unique and novel; how far the statistics of two sets lie apart (maximum mean discrepancy).

A graph is a symmetric boolean adjacency matrix without loops. Two protocols of the discrepancy are in use and must never
stand in one table: "emd" (GraphRNN, GDSS: community, ego) and "tv" (GRAN, SPECTRE, DiGress: planar, tree, SBM).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import permutations

import numpy as np
from jaxtyping import Bool, Float, Int

Adjacency = Bool[np.ndarray, "n n"]
P_INTRA, P_INTER = 0.3, 0.005  # edge probabilities of the SBM set (SPECTRE)
COMMUNITIES, COMMUNITY = (2, 5), (20, 40)  # how many, and how many nodes in each
LENGTH_SCALE = {
    "emd": {"degree": 1.0, "clustering": 0.1, "orbit": 30.0, "spectral": 1.0},
    "tv": {"degree": 1.0, "clustering": 0.1, "orbit": 30.0, "spectral": 1.0, "wavelet": 1.0},
}


# --- valid, unique, novel ---


@dataclass(frozen=True, slots=True)
class Counts:
    """Of n drawn graphs: how many are valid, unlike every graph before them, unlike every training graph, and all three."""

    n: int
    valid: int
    unique: int
    novel: int
    vun: int


def vun(graphs: Sequence[Adjacency | None], train: Sequence[Adjacency], valid: Callable[[Adjacency], bool]) -> Counts:
    """Valid, unique and novel draws up to isomorphism; None is a draw that is no graph and counts as none of the three.

    Graphs of different Weisfeiler–Lehman hash are different; the others are compared by exact search, except that the fast
    tests of degrees and triangles come first.
    """
    seen: dict[str, list[Adjacency]] = {}
    known: dict[str, list[Adjacency]] = {}
    for old in train:
        known.setdefault(fingerprint(old), []).append(old)
    rows = []
    for graph in (drawn for drawn in graphs if drawn is not None):
        name = fingerprint(graph)
        unique = not any(isomorphic(graph, other) for other in seen.get(name, ()))
        novel = not any(isomorphic(graph, other) for other in known.get(name, ()))
        seen.setdefault(name, []).append(graph)
        rows.append((valid(graph), unique, novel))
    table = np.array(rows, dtype=bool).reshape(-1, 3)
    count_valid, count_unique, count_novel = table.sum(0).tolist()
    return Counts(len(graphs), count_valid, count_unique, count_novel, int(table.all(1).sum()))


def interval(count: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Wilson's interval of a share; (0, 1) without draws.

    >>> tuple(round(x, 3) for x in interval(200, 200))
    (0.981, 1.0)
    """
    from scipy.stats import binomtest

    if not n:
        return 0.0, 1.0
    found = binomtest(count, n).proportion_ci(level, method="wilson")
    return float(found.low), float(found.high)


def fingerprint(graph: Adjacency, rounds: int = 4) -> str:
    """Weisfeiler–Lehman hash: equal for isomorphic graphs, rarely for others."""
    import networkx as nx

    whole = nx.from_numpy_array(graph.astype(np.int8))
    nx.set_node_attributes(whole, {node: str(degree) for node, degree in whole.degree}, "degree")
    return str(nx.weisfeiler_lehman_graph_hash(whole, node_attr="degree", iterations=rounds))


def isomorphic(a: Adjacency, b: Adjacency) -> bool:
    """Whether a renumbering of the nodes makes the graphs equal."""
    import networkx as nx

    if a.shape != b.shape or not np.array_equal(np.sort(a.sum(0)), np.sort(b.sum(0))):
        return False
    return bool(nx.vf2pp_is_isomorphic(nx.from_numpy_array(a.astype(np.int8)), nx.from_numpy_array(b.astype(np.int8))))


def connected(graph: Adjacency) -> bool:
    """One component, at least one node."""
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import connected_components

    return bool(len(graph)) and int(connected_components(csr_array(graph), directed=False, return_labels=False)) == 1


def planar(graph: Adjacency) -> bool:
    """Connected and drawable without crossings."""
    import networkx as nx

    return connected(graph) and bool(nx.check_planarity(nx.from_numpy_array(graph.astype(np.int8)))[0])


def tree(graph: Adjacency) -> bool:
    """Connected and without a cycle."""
    return connected(graph) and int(graph.sum()) == 2 * (len(graph) - 1)


def stochastic_block(graph: Adjacency) -> bool:
    """Whether the graph passes for one of the SBM set: 2–5 communities of 20–40 nodes, edges inside with 0.3, between with 0.005.

    SPECTRE's test: one Wald statistic (p̂ − p)² / (p̂ (1 − p̂) + 1e-6) per ordered pair of communities, χ² with one degree of
    freedom, mean p-value above 0.9. It does not divide by the number of pairs: a loose test, kept as it is. The deviation: the
    communities are found here by `communities`, not by graph-tool's stochastic search.

    Source: Martinkus et al. 2022 (SPECTRE), evaluation code.
    """
    from scipy.stats import chi2

    labels = communities(graph)
    sizes = np.bincount(labels)
    if not COMMUNITIES[0] <= len(sizes) <= COMMUNITIES[1] or sizes.min() < COMMUNITY[0] or sizes.max() > COMMUNITY[1]:
        return False
    member = np.eye(len(sizes))[labels]
    found = member.T @ graph @ member / (np.outer(sizes, sizes) - np.diag(sizes))
    wanted = np.where(np.eye(len(sizes)), P_INTRA, P_INTER)
    wald = (found - wanted) ** 2 / (found * (1 - found) + 1e-6)
    return bool(chi2.sf(wald, 1).mean() > 0.9)


def communities(graph: Adjacency) -> Int[np.ndarray, "n"]:
    """Community of each node: the labelling of 1 to 6 communities of least description length.

    Start: k-means of the k leading eigenvectors of the normalised adjacency; refinement: each node moves to where the
    Bernoulli likelihood of a block model with free edge probabilities is greatest, until nothing moves; choice of k: that
    likelihood less the cost of labels and probabilities (½ k (k + 1) · ln n² / 2 + n ln k nats). Deterministic.
    """
    n = len(graph)
    if n < 2:
        return np.zeros(n, dtype=np.int64)
    a = graph.astype(float)
    scale = 1 / np.sqrt(np.maximum(a.sum(1), 1.0))
    vectors = np.linalg.eigh(a * scale[:, None] * scale)[1][:, ::-1]
    best, least = np.zeros(n, dtype=np.int64), np.inf
    for k in range(1, min(COMMUNITIES[1] + 1, n) + 1):
        labels = _refined(a, _k_means(vectors[:, :k], k), k)
        used = len(np.unique(labels))
        cost = -_likelihood(a, labels, k) + used * (used + 1) / 4 * np.log(n * (n - 1) / 2) + n * np.log(max(used, 1))
        if cost < least:
            best, least = np.unique(labels, return_inverse=True)[1], cost
    return best


def _k_means(points: Float[np.ndarray, "n k"], k: int) -> Int[np.ndarray, "n"]:
    """Lloyd's algorithm from the farthest-first centres."""
    points = points / np.maximum(np.linalg.norm(points, axis=1, keepdims=True), 1e-12)
    centres = points[:1]
    for _ in range(k - 1):
        distance = ((points[:, None] - centres) ** 2).sum(-1).min(1)
        centres = np.concatenate([centres, points[distance.argmax()][None]])
    for _ in range(50):
        labels = ((points[:, None] - centres) ** 2).sum(-1).argmin(1)
        moved = np.stack([points[labels == c].mean(0) if (labels == c).any() else centres[c] for c in range(k)])
        if np.allclose(moved, centres):
            break
        centres = moved
    return np.asarray(labels)


def _rates(a: np.ndarray, labels: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Edges (both directions) and pairs between and inside the communities."""
    member = np.eye(k)[labels]
    sizes = member.sum(0)
    return member.T @ a @ member, np.outer(sizes, sizes) - np.diag(sizes)


def _likelihood(a: np.ndarray, labels: np.ndarray, k: int) -> float:
    edges, pairs = _rates(a, labels, k)
    p = np.clip(edges / np.maximum(pairs, 1), 1e-12, 1 - 1e-12)
    return float((edges * np.log(p) + (pairs - edges) * np.log1p(-p)).sum() / 2)


def _refined(a: np.ndarray, labels: np.ndarray, k: int) -> np.ndarray:
    for _ in range(30):
        edges, pairs = _rates(a, labels, k)
        p = (edges + 0.5) / (pairs + 1)
        member = np.eye(k)[labels]
        to, all_ = a @ member, member.sum(0) - member
        moved = (to @ np.log(p) + (all_ - to) @ np.log1p(-p)).argmax(1)
        if np.array_equal(moved, labels):
            break
        labels = moved
    return labels


# --- descriptors of one graph ---


def degrees(graph: Adjacency) -> Float[np.ndarray, "k"]:
    """Share of nodes of degree 0, 1, …"""
    return _shares(np.bincount(graph.sum(1)))


def clustering(graph: Adjacency, bins: int = 100) -> Float[np.ndarray, "k"]:
    """Histogram on [0, 1] of the nodes' clustering coefficients, as shares."""
    a = graph.astype(float)
    degree = a.sum(1)
    triangles = ((a @ a) * a).sum(1)
    found = triangles / np.maximum(degree * (degree - 1), 1)
    return _shares(np.histogram(found, bins=bins, range=(0.0, 1.0))[0])


def spectrum(graph: Adjacency, bins: int = 200) -> Float[np.ndarray, "k"]:
    """Histogram on [-1e-5, 2] of the eigenvalues of the normalised Laplacian, as shares."""
    return _shares(np.histogram(np.linalg.eigvalsh(laplacian(graph)), bins=bins, range=(-1e-5, 2.0))[0])


def wavelets(graph: Adjacency, filters: int = 12, bins: int = 100) -> Float[np.ndarray, "k"]:
    """Histograms of what each spectral filter leaves at each node, Σ over the other nodes of its squared matrix, as shares.

    The filters are a low pass and band passes on logarithmic scales of the normalised Laplacian (SPECTRE).
    """
    values, vectors = np.linalg.eigh(laplacian(graph))
    top = float(abspline(np.arange(0, 2, 0.01), filters).max())
    responses = [(vectors**2) @ gain**2 for gain in abspline(np.maximum(values, 0.0), filters)]
    return _shares(np.concatenate([np.histogram(r, bins=bins, range=(0.0, top))[0] for r in responses]))


def abspline(x: Float[np.ndarray, "n"], filters: int) -> Float[np.ndarray, "f n"]:
    """Gains at eigenvalues x in [0, 2]: the scaling function, then the spline wavelets from the coarsest to the finest.

    Source: Hammond, Vandergheynst & Gribonval 2011, section 8.1, with λ_max / λ_min = 20.
    """

    def wavelet(t: np.ndarray) -> np.ndarray:
        middle = -5 + 11 * t - 6 * t**2 + t**3
        return np.where(t < 1, t**2, np.where(t < 2, middle, 4 / np.maximum(t, 1.0) ** 2))

    least = 2 / 20
    scales = np.exp(np.linspace(np.log(2 / least), np.log(1 / 2), filters - 1))
    height = float(wavelet(np.array([2 - 1 / np.sqrt(3)]))[0])  # the cubic's maximum
    return np.stack([height * np.exp(-((x / (0.6 * least)) ** 4)), *(wavelet(s * x) for s in scales)])


def laplacian(graph: Adjacency) -> Float[np.ndarray, "n n"]:
    """I − D^-½ A D^-½; a node without edges has a row of zeros."""
    a = graph.astype(float)
    degree = a.sum(1)
    scale = np.where(degree > 0, 1 / np.sqrt(np.maximum(degree, 1)), 0.0)
    return np.diag((degree > 0).astype(float)) - a * scale[:, None] * scale


def _shares(counts: np.ndarray) -> np.ndarray:
    return np.asarray(counts / max(counts.sum(), 1e-12), dtype=float)


# --- orbits ---

_EDGES = ((0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3))


@cache
def _induced() -> Float[np.ndarray, "11 11"]:
    """Turns counts of orbits 4 … 14 that need not be induced into counts of induced ones: the inverse of how often orbit i lies in j."""
    patterns = {  # (edges, node) of orbits 4 … 14
        4: ("01 12 23", 0),
        5: ("01 12 23", 1),
        6: ("01 02 03", 1),
        7: ("01 02 03", 0),
        8: ("01 12 23 03", 0),
        9: ("01 12 02 03", 3),
        10: ("01 12 02 03", 1),
        11: ("01 12 02 03", 0),
        12: ("01 12 23 03 02", 1),
        13: ("01 12 23 03 02", 0),
        14: ("01 12 23 03 02 13", 0),
    }
    edges = [frozenset(frozenset(map(int, pair)) for pair in text.split()) for text, _ in patterns.values()]
    roots = [root for _, root in patterns.values()]
    contained = np.zeros((11, 11))
    for row, (small, root) in enumerate(zip(edges, roots, strict=True)):
        for column, (large, other) in enumerate(zip(edges, roots, strict=True)):
            images = set()
            for p in permutations(range(4)):
                image = frozenset(frozenset(p[k] for k in pair) for pair in small)
                if p[root] == other and image <= large:
                    images.add(image)
            contained[row, column] = len(images)
    return np.linalg.inv(contained)


def orbits(graph: Adjacency) -> Int[np.ndarray, "n 15"]:
    """How often each node lies in each orbit of the connected induced subgraphs of 2 to 4 nodes, numbered as in ORCA.

    Matrix products count the subgraphs that need not be induced; a small linear system makes them induced.

    Source: Hočevar & Demšar 2014 (orbits); Przulj 2007 (numbering).
    """
    a = graph.astype(np.int64)
    d = a.sum(1)
    square = a @ a
    np.fill_diagonal(square, 0)  # common neighbours of two different nodes
    common = square * a  # … along an edge: its triangles
    triangles = common.sum(1) // 2
    wedge = d * (d - 1) // 2
    two = a @ (d - 1)  # paths of two steps from a node
    choose = lambda x: x * (x - 1) // 2  # noqa: E731
    not_induced = np.stack(
        [
            a @ (a @ (d - 1)) - d * (d - 1) - 2 * triangles,  # 4: end of a path of four
            (d - 1) * two - 2 * triangles,  # 5: second of a path of four
            a @ choose(d - 1),  # 6: leaf of a star
            d * (d - 1) * (d - 2) // 6,  # 7: its centre
            choose(square).sum(1),  # 8: cycle of four
            a @ triangles - 2 * triangles,  # 9: handle of a triangle
            common @ (d - 2),  # 10: in the triangle, off the handle
            triangles * (d - 2),  # 11: where the handle is
            _opposite(a, common),  # 12: diamond, off the chord
            choose(common).sum(1),  # 13: on the chord
            _cliques(a),  # 14
        ],
        1,
    )
    induced = np.rint(not_induced @ _induced().T).astype(np.int64)
    return np.concatenate([np.stack([d, two - 2 * triangles, wedge - triangles, triangles], 1), induced], 1)


def _opposite(a: np.ndarray, common: np.ndarray) -> np.ndarray:
    """Diamonds in which a node is off the chord: over the edges jk of its triangles the other triangles on jk."""
    return np.asarray(((a @ (a * np.maximum(common - 1, 0))) * a).sum(1) // 2)


def _cliques(a: np.ndarray) -> np.ndarray:
    """Cliques of four at each node: triangles among its neighbours."""
    found = []
    for row in a:
        near = np.flatnonzero(row)
        inner = a[np.ix_(near, near)]
        found.append(int(((inner @ inner) * inner).sum()) // 6)
    return np.array(found, dtype=np.int64)


def orbit_means(graph: Adjacency) -> Float[np.ndarray, "15"]:
    """Mean orbit counts of the nodes; not normalised."""
    return orbits(graph).mean(0)


DESCRIPTORS: Mapping[str, Callable[[Adjacency], np.ndarray]] = {
    "degree": degrees,
    "clustering": clustering,
    "orbit": orbit_means,
    "spectral": spectrum,
    "wavelet": wavelets,
}


# --- discrepancy of two sets ---


def described(graphs: Sequence[Adjacency], names: Sequence[str]) -> dict[str, list[np.ndarray]]:
    """Each descriptor of each graph that has a node."""
    return {name: [DESCRIPTORS[name](graph) for graph in graphs if len(graph)] for name in names}


def discrepancies(
    samples: Mapping[str, Sequence[np.ndarray]], reference: Mapping[str, Sequence[np.ndarray]], protocol: str
) -> dict[str, float]:
    """Squared maximum mean discrepancy (biased) of each descriptor, see `described`.

    Args:
        protocol: "emd": exp(−EMD²/2σ²) (orbits: Euclidean distance), or "tv": exp(−TV²/2σ²), TV = ½ Σ|p − q|.
    """
    return {name: _mmd(samples[name], reference[name], name, protocol) for name in samples}


def ratio(found: Mapping[str, float], floor: Mapping[str, float]) -> float:
    """Mean of the discrepancies, each divided by that of the training set; 1 = as good as the training set (SPECTRE).

    Descriptors on which training and test set agree to four decimals (trees have no triangles) are left out; nan if none is left.
    """
    parts = [found[name] / floor[name] for name in floor if floor[name] >= 5e-5]
    return float(np.mean(parts)) if parts else float("nan")


def _mmd(samples: Sequence[np.ndarray], reference: Sequence[np.ndarray], name: str, protocol: str) -> float:
    from scipy.spatial.distance import cdist

    if not samples or not reference:
        return float("nan")
    width = max(len(h) for h in (*samples, *reference))
    x, y = (np.stack([np.pad(h, (0, width - len(h))) for h in part]) for part in (samples, reference))
    metric, step = "cityblock", 0.5  # total variation
    if protocol == "emd" and name == "orbit":
        metric, step = "euclidean", 1.0
    elif protocol == "emd":  # earth mover's distance on a line; the bins of clustering are 0.01 apart
        x, y, step = np.cumsum(x, 1), np.cumsum(y, 1), 0.01 if name == "clustering" else 1.0
    scale = LENGTH_SCALE[protocol][name]
    kernel = lambda p, q: float(np.exp(-((step * cdist(p, q, metric)) ** 2) / (2 * scale**2)).mean())  # noqa: E731
    return kernel(x, x) + kernel(y, y) - 2 * kernel(x, y)
