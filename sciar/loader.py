"""Batches of similar length within a budget of padded tokens, as a function of (seed, step) alone.

The order is recomputed from (seed, epoch), so a run that was killed goes on with the very batch it had
not yet seen, on any number of ranks.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
from torch.utils.data import IterableDataset

from sciar.batch import Batch, TokenArrays


def plan(arrays: TokenArrays, budget: int, seed: int, epoch: int, multiple: int = 8) -> list[np.ndarray]:
    """Rows of each batch of an epoch: shuffled, then sorted by length in chunks, so that little is padding.

    A batch costs (records × longest record), counted on the axis that is longest, and stays within `budget`
    (one record may exceed it alone).
    """
    rng = np.random.default_rng([seed, epoch])
    length = np.max([arrays.lengths(axis) for axis in arrays.offsets], axis=0)
    width = -(-length // multiple) * multiple
    order = rng.permutation(len(arrays))
    chunk = max(1, 64 * budget // max(1, int(width.mean())))
    batches: list[np.ndarray] = []
    for start in range(0, len(order), chunk):
        rows = order[start : start + chunk]
        rows = rows[np.argsort(width[rows], kind="stable")]
        widths, first = width[rows], 0
        while first < len(rows):
            # widths rise, so the cost of rows[first:last] is (last - first) · widths[last - 1]
            cost = (np.arange(first, len(rows)) - first + 1) * widths[first:]
            last = first + max(1, int(np.searchsorted(cost, budget, side="right")))
            batches.append(rows[first:last])
            first = last
    return [batches[i] for i in rng.permutation(len(batches))]


class Batches(IterableDataset):
    """An endless stream of batches from step `start`; rank r of w takes every w-th batch."""

    def __init__(self, arrays: TokenArrays, budget: int, seed: int, start: int = 0, rank: int = 0, ranks: int = 1) -> None:
        self.arrays, self.budget, self.seed, self.start, self.rank, self.ranks = arrays, budget, seed, start, rank, ranks

    def __iter__(self) -> Iterator[Batch]:
        skip, epoch = self.start, 0
        while True:
            batches = plan(self.arrays, self.budget, self.seed, epoch)
            usable = max(1, len(batches) // self.ranks)
            for i in range(min(skip, usable), usable):
                rows = batches[(i * self.ranks + self.rank) % len(batches)]
                yield dataclasses.replace(self.arrays.batch(rows), share=len(rows) * len(batches) / len(self.arrays))
            skip, epoch = max(0, skip - usable), epoch + 1
