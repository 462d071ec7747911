"""In which order the nodes of a graph are generated.

Structural partial order: peel away the nodes that reach least, generate in the reverse order. Source: PARD (Zhao et al.
2024, arXiv 2402.03687), section 3.2; the key of its text counts nodes within h hops ("shell"), that of its code counts
walks ("walk"). Or one by one as a search finds them. Nothing here depends on how the nodes are numbered.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Int, UInt64

KEYS = ("shell", "walk")


def peel(
    adjacency: Bool[np.ndarray, "b n n"],
    mask: Bool[np.ndarray, "b n"],
    hops: int,
    key: str = "shell",
    score: Float[np.ndarray, "b n"] | None = None,
) -> tuple[Int[np.ndarray, "b n"], Int[np.ndarray, "b n"]]:
    """Block of each node (0 = generated first, -1 = no node) and its degree among the blocks up to its own.

    In each round the nodes with the lexicographically least (reach in 1 hop, …, reach in `hops` hops) among those still
    there are taken away together. Comparing the tuple hop by hop needs no radix, so nothing can overflow.

    Args:
        adjacency: symmetric, without loops; b graphs padded to n nodes.
        mask: which rows are nodes.
        hops: depth of the key; 0 puts the whole graph into one block. From 1 on all nodes of a block have one degree.
        key: "shell" counts nodes within h hops, "walk" counts walks of up to h steps.
        score: take of the least nodes only that of the least score: an order of single nodes, random if the scores are.
    """
    if key not in KEYS:
        raise ValueError(f"peel: expected key {' or '.join(KEYS)}, got {key!r}")
    alive = mask.copy()
    rank = np.full(mask.shape, -1)
    degree = np.zeros(mask.shape, dtype=np.int64)
    real = np.float32 if key == "shell" else np.float64  # counts of walks grow fast
    rounds = 0
    while alive.any():
        near = (adjacency & alive[:, :, None] & alive[:, None, :]).astype(real)
        least, reach = alive.copy(), np.eye(mask.shape[1], dtype=real)[None] if key == "shell" else np.ones((*mask.shape, 1))
        for hop in range(hops):
            reach = reach + near @ reach if hop else reach + (near if key == "shell" else near.sum(-1, keepdims=True))
            if key == "shell":
                reach = (reach > 0).astype(real)
            count = reach.sum(-1)
            least &= count == np.where(least, count, np.inf).min(1, keepdims=True)
        if score is not None:
            least &= score == np.where(least, score, np.inf).min(1, keepdims=True)
        rank[least], degree[least] = rounds, near.sum(-1)[least].astype(np.int64)
        alive &= ~least
        rounds += 1
    return np.where(mask, rank.max(1, keepdims=True, initial=-1) - rank, -1), degree


def search(
    adjacency: Bool[np.ndarray, "b n n"], mask: Bool[np.ndarray, "b n"], score: Float[np.ndarray, "b n"]
) -> tuple[Int[np.ndarray, "b n"], Int[np.ndarray, "b n"]]:
    """Block of each node (0 = first, -1 = no node) and its degree among those before it: always a node of most of them comes next.

    So a community is filled before the next one is opened, and a triangulation grows at its rim. Source: maximum cardinality
    search (Tarjan & Yannakakis, SIAM J. Comput. 13 (1984) 566).

    Args:
        adjacency, mask: see `peel`.
        score: of nodes of equally many that of least score comes first; the order is random if the scores are.
    """
    rank, degree, found = np.full(mask.shape, -1), np.zeros(mask.shape, dtype=np.int64), np.zeros(mask.shape, dtype=np.int64)
    for turn in range(int(mask.sum(1).max(initial=0))):
        rows = np.nonzero((mask & (rank < 0)).any(1))[0]
        most = np.where(mask & (rank < 0), found, -1)[rows]
        next_ = np.where(most == most.max(1, keepdims=True), score[rows], np.inf).argmin(1)
        rank[rows, next_], degree[rows, next_] = turn, found[rows, next_]
        found[rows] += adjacency[rows, next_]
    return rank, degree


def canonical(colour: Int[np.ndarray, "b n"], orders: Int[np.ndarray, "b n n"], mask: Bool[np.ndarray, "b n"]) -> Int[np.ndarray, "b n"]:
    """A position 0 … n-1 for each node of each graph that follows from the graph alone; padding comes last.

    Colours are refined by those of the neighbours until no class splits (Weisfeiler–Lehman, with 64-bit hashes); of a
    class that is left one node is singled out, and so on. Among nodes that an automorphism exchanges the choice has no
    effect; nodes that only look alike to refinement are rare and then the order depends on the numbering.
    """
    mixed = np.where(mask, _mix(colour.astype(np.uint64) + np.uint64(1)), 0).astype(np.uint64)
    weight = (2 * orders + 1).astype(np.uint64) * (orders > 0)
    rows = np.arange(len(mixed))  # graphs with a class left that has two nodes; the others must not change any more
    while True:
        mixed[rows] = _refined(mixed[rows], weight[rows], mask[rows])
        order = _sorted(mixed[rows], mask[rows])
        ranked = np.take_along_axis(mixed[rows], order, 1)
        twin = (ranked[:, 1:] == ranked[:, :-1]) & np.take_along_axis(mask[rows], order, 1)[:, 1:]
        left = twin.any(1)
        if not left.any():
            break
        rows, chosen = rows[left], order[left, twin[left].argmax(1)]
        mixed[rows, chosen] = _mix(mixed[rows, chosen] + np.uint64(0x51ED27))
    order = _sorted(mixed, mask)
    position = np.empty_like(order)
    np.put_along_axis(position, order, np.arange(order.shape[1])[None].repeat(len(order), 0), 1)
    return position


def _sorted(mixed: UInt64[np.ndarray, "b n"], mask: Bool[np.ndarray, "b n"]) -> Int[np.ndarray, "b n"]:
    return np.lexsort((mixed, ~mask), axis=1)


def _refined(
    mixed: UInt64[np.ndarray, "b n"], weight: UInt64[np.ndarray, "b n n"], mask: Bool[np.ndarray, "b n"]
) -> UInt64[np.ndarray, "b n"]:
    classes = np.zeros(len(mixed), dtype=np.int64)
    while True:
        with np.errstate(over="ignore"):
            around = (weight * _mix(mixed)[:, None, :]).sum(-1, dtype=np.uint64)
            following = np.where(mask, _mix(mixed + _mix(around)), 0).astype(np.uint64)
        ranked = np.sort(following, axis=1)
        found = 1 + (ranked[:, 1:] != ranked[:, :-1]).sum(1)
        split = found > classes
        if not split.any():
            return mixed
        mixed, classes = np.where(split[:, None], following, mixed), np.maximum(found, classes)


def _mix(x: np.ndarray) -> np.ndarray:
    """SplitMix64's finaliser (Steele, Lea & Flood 2014): every input bit reaches every output bit."""
    with np.errstate(over="ignore"):
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(x ^ (x >> np.uint64(31)))
