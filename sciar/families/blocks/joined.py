"""Can a graph still become one piece? Counts of open places decide; nothing has to be tried.

k pieces are joined by k - 1 bonds, each of which takes two places of different pieces; between finished nodes no bond
comes any more. A tree whose node i has at most o_i ≥ 1 edges exists iff Σ o_i ≥ 2 (k - 1).
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Int


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
