"""The structural partial order of a graph: peel away the nodes that reach least, generate in the reverse order.

Nothing here depends on how the nodes are numbered. Source: PARD (Zhao et al. 2024, arXiv 2402.03687), section 3.2;
the key of its text counts nodes within h hops ("shell"), that of its code counts walks ("walk").
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Int, UInt64

KEYS = ("shell", "walk")


def peel(
    adjacency: Bool[np.ndarray, "b n n"], mask: Bool[np.ndarray, "b n"], hops: int, key: str = "shell"
) -> tuple[Int[np.ndarray, "b n"], Int[np.ndarray, "b n"]]:
    """Block of each node (0 = generated first, -1 = no node) and its degree among the blocks up to its own.

    In each round the nodes with the lexicographically least (reach in 1 hop, …, reach in `hops` hops) among those still
    there are taken away together. Comparing the tuple hop by hop needs no radix, so nothing can overflow.

    Args:
        adjacency: symmetric, without loops; b graphs padded to n nodes.
        mask: which rows are nodes.
        hops: depth of the key; 0 puts the whole graph into one block. From 1 on all nodes of a block have one degree.
        key: "shell" counts nodes within h hops, "walk" counts walks of up to h steps.
    """
    if key not in KEYS:
        raise ValueError(f"peel: expected key {' or '.join(KEYS)}, got {key!r}")
    alive = mask.copy()
    rank = np.full(mask.shape, -1)
    degree = np.zeros(mask.shape, dtype=np.int64)
    rounds = 0
    while alive.any():
        near = (adjacency & alive[:, :, None] & alive[:, None, :]).astype(np.float64)
        least, reach = alive.copy(), np.eye(mask.shape[1])[None] if key == "shell" else np.ones((*mask.shape, 1))
        for hop in range(hops):
            reach = reach + near @ reach if hop else reach + (near if key == "shell" else near.sum(-1, keepdims=True))
            if key == "shell":
                reach = (reach > 0).astype(np.float64)
            count = reach.sum(-1)
            least &= count == np.where(least, count, np.inf).min(1, keepdims=True)
        rank[least], degree[least] = rounds, near.sum(-1)[least].astype(np.int64)
        alive &= ~least
        rounds += 1
    return np.where(mask, rank.max(1, keepdims=True, initial=-1) - rank, -1), degree


def canonical(colour: Int[np.ndarray, "b n"], orders: Int[np.ndarray, "b n n"], mask: Bool[np.ndarray, "b n"]) -> Int[np.ndarray, "b n"]:
    """A position 0 … n-1 for each node of each graph that follows from the graph alone; padding comes last.

    Colours are refined by those of the neighbours until no class splits (Weisfeiler–Lehman, with 64-bit hashes); of a
    class that is left one node is singled out, and so on. Among nodes that an automorphism exchanges the choice has no
    effect; nodes that only look alike to refinement are rare and then the order depends on the numbering.
    """
    mixed = np.where(mask, _mix(colour.astype(np.uint64) + np.uint64(1)), 0).astype(np.uint64)
    weight = (2 * orders + 1).astype(np.uint64) * (orders > 0)
    while True:
        mixed = _refined(mixed, weight, mask)
        order = np.argsort(np.where(mask, mixed, np.iinfo(np.uint64).max), axis=1, kind="stable")
        ranked = np.take_along_axis(mixed, order, 1)
        real = np.take_along_axis(mask, order, 1)
        twin = np.zeros_like(mask)
        twin[:, :-1] = (ranked[:, 1:] == ranked[:, :-1]) & real[:, 1:] & real[:, :-1]
        open_ = twin.any(1)
        if not open_.any():
            break
        rows = np.flatnonzero(open_)
        chosen = order[rows, twin[rows].argmax(1)]
        mixed[rows, chosen] = _mix(mixed[rows, chosen] + np.uint64(0x51ED27))
    position = np.empty_like(order)
    np.put_along_axis(position, order, np.arange(order.shape[1])[None].repeat(len(order), 0), 1)
    return position


def _refined(mixed: UInt64[np.ndarray, "b n"], weight: UInt64[np.ndarray, "b n n"], mask: np.ndarray) -> UInt64[np.ndarray, "b n"]:
    classes = np.zeros(len(mixed), dtype=np.int64)
    while True:
        with np.errstate(over="ignore"):
            around = (weight * _mix(mixed)[:, None, :]).sum(-1, dtype=np.uint64)
            following = np.where(mask, _mix(mixed + _mix(around)), 0).astype(np.uint64)
        found = 1 + (np.diff(np.sort(following, axis=1), axis=1) != 0).sum(1)
        if (found <= classes).all():
            return mixed
        mixed, classes = following, found


def _mix(x: np.ndarray) -> np.ndarray:
    """SplitMix64's finaliser (Steele, Lea & Flood 2014): every input bit reaches every output bit."""
    with np.errstate(over="ignore"):
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(x ^ (x >> np.uint64(31)))
