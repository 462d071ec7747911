"""Can a graph still become one piece? Counts of open places decide; nothing has to be tried.

k pieces are joined by k - 1 bonds, each of which takes two places of different pieces; between finished nodes no bond
comes any more. A tree whose node i has at most o_i ≥ 1 edges exists iff Σ o_i ≥ 2 (k - 1).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int

from sciar.families.blocks.growing import Growing
from sciar.families.blocks.tokens import TokenizerConfig

NOWHERE = 10**9  # more bonds than any node can have


def joinable(
    old: Int[np.ndarray, "*c k"],
    new: Int[np.ndarray, "*c k"],
    spare: Int[np.ndarray, "*c k"],
    real: Bool[np.ndarray, "*c k"],
    rest: Int[np.ndarray, "*c"],
    most: int,
    strict: bool = True,
) -> Bool[np.ndarray, "*c"]:
    """Whether the block at hand can join all pieces, or leave some that one later node can join.

    Args:
        old: bonds that the finished nodes of a piece may still get.
        new: open bonds of its nodes in the block.
        spare: bonds that these may get from later blocks besides.
        real: which of the k places hold a piece.
        rest: nodes that may come after the block. most: bonds of one of them.
        strict: do not count on a node that gets fewer bonds than its degree.
    """
    old, new, spare = (np.where(real, a, 0) for a in (old, new, spare))
    pieces, places = real.sum(-1), old + new
    bonds = pieces - 1
    now = (places >= 1) | ~real
    at_once = (bonds <= 0) | (now.all(-1) & (places.sum(-1) >= 2 * bonds) & (new.sum(-1) >= bonds))
    # else the pieces with open bonds are joined with each other and with the finished piece of most places
    group = new >= 1
    some = group.any(-1)
    finished = np.where(group, 0, old)
    best = finished.max(-1)
    group |= (np.arange(old.shape[-1]) == finished.argmax(-1)[..., None]) & (some & (best >= 1))[..., None]
    joins = np.maximum(group.sum(-1) - 1, 0)
    reach = old + spare
    later = (rest >= 1) & (pieces - joins <= most) & ((reach >= 1) | group | ~real).all(-1)
    later &= ~some | (((places * group).sum(-1) >= 2 * joins) & ((reach * group).sum(-1) > joins))
    if strict:
        later &= ~some | (joins > 0)
    return np.asarray(at_once | later)


@dataclass(frozen=True, slots=True)
class Joints:
    """Which blocks and bonds leave a graph that can become one piece.

    Args:
        capacity: bonds of a node of each type. config: of the tokenizer. connected: False asks nothing.
    """

    capacity: Int[np.ndarray, "t"]
    config: TokenizerConfig
    connected: bool

    def _places(self, g: Growing) -> np.ndarray:
        """Bonds that each finished node may still get."""
        free = self.capacity[g.kind[: g.start]] - g.orders[: g.start, : g.n].sum(1)
        return np.maximum(np.where(g.room[: g.start] >= 0, np.minimum(free, g.room[: g.start]), free), 0)

    def needs(self, g: Growing) -> np.ndarray:
        """Bonds that the nodes of a next block must be able to have, for each size and degree (s d); NOWHERE: it cannot be joined."""
        config = self.config
        sizes, degrees = np.arange(config.max_block + 1), np.arange(config.max_degree + 1)
        if not self.connected:
            return np.zeros((len(sizes), len(degrees)), dtype=np.int64)
        old = np.bincount(np.unique(g.piece, return_inverse=True)[1], self._places(g)).astype(np.int64)
        k, best = len(old), int(self.capacity[g.allowed].max())
        shape = (len(sizes), len(degrees), k + len(sizes) - 1)
        fresh = np.arange(shape[2]) >= k
        real = np.broadcast_to(np.arange(shape[2]) < k + sizes[:, None, None], shape)
        places = np.broadcast_to(np.pad(old, (0, shape[2] - k)), shape)
        new = np.broadcast_to(fresh * degrees[:, None], shape)
        rest = np.broadcast_to(g.most - g.n - sizes[:, None], shape[:2])
        full, loose = (joinable(places, new, np.broadcast_to(fresh * t, shape), real, rest, min(config.max_degree, best)) for t in (0, 1))
        needs = np.where(full, degrees, np.where(loose, degrees + 1, NOWHERE))
        needs[needs > best] = NOWHERE
        needs[0] = 0
        return needs

    def joining(self, g: Growing, row: int, possible: np.ndarray) -> np.ndarray:
        """Which of the possible bonds (n o) of a row leave a graph that can become one piece."""
        if not self.connected or not g.several or not possible.any():
            return possible
        names, piece = np.unique(g.piece, return_inverse=True)
        (n, n_orders), k, me = possible.shape, len(names), g.start + row
        block, left = np.arange(n) >= g.start, np.where(g.shown, 0, g.left)
        free = self.capacity[g.kind[g.start : n]] - g.orders[g.start : n, :n].sum(1) - left
        count = lambda place, values: np.bincount(place, values, k).astype(np.int64)  # noqa: E731
        start = (count(piece[: g.start], self._places(g)), count(piece[g.start :], left), count(piece[g.start :], free))
        # bonds of one order to the open or the finished part of one piece are alike
        column, order = possible.nonzero()
        _, first, alike = np.unique((piece[column] * 2 + block[column]) * n_orders + order, return_index=True, return_inverse=True)
        target, fresh, order = piece[column[first]], block[column[first]], order[first]
        rows = np.arange(len(first))
        old, new, spare = (np.tile(a, (len(first), 1)) for a in start)
        # what the bond takes: `order` + 1 places of a finished node, of a node of the block one open bond and `order` spare ones
        old[rows, target] -= np.where(fresh, 0, order + 1)
        new[rows, target] -= fresh
        spare[rows, target] -= np.where(fresh, order, 0)
        new[:, piece[me]] -= 1
        spare[:, piece[me]] -= order
        real = np.ones((len(first), k), dtype=bool)
        other = rows[target != piece[me]]
        for table in (old, new, spare):
            table[other, piece[me]] += table[other, target[other]]
        real[other, target[other]] = False
        most = min(self.config.max_degree, int(self.capacity[g.allowed].max()))
        for strict in (True, False):
            joined = joinable(old, new, spare, real, np.full(len(first), g.most - n), most, strict)
            if joined.any():
                break
        found = np.zeros_like(possible)
        found[possible] = joined[alike]
        return found
