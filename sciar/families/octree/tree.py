"""Octrees of many point sets at once: Morton codes, occupancy bytes, and back.

A cube of 2^L cells a side is halved L times. A node that is not empty becomes one event, the byte of its eight
children ("two-level subtree compression": parent and children are one token); a leaf is a cell that holds a point.
Events are listed breadth first, each level in Morton order, x the fastest axis.

The tree knows whole numbers alone. A `Grid` says what they mean: ångströms in a cube of space, or fractions of a
unit cell. All functions take ragged records laid end to end and any device, so the same code prepares a data set
and rebuilds freshly rotated trees inside a training step.

Source: Uni-3DAR (arXiv 2503.16278), §"Hierarchical tokenization"; Morton, "A computer oriented geodetic data base" (1966).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sciar.errors import InputError

POPCOUNT = torch.tensor([bin(v).count("1") for v in range(256)])  # children of a node with this byte
MAX_LEVELS = 10  # bits an axis of a code

_SPREAD = ((16, 0x030000FF), (8, 0x0300F00F), (4, 0x030C30C3), (2, 0x09249249))


@dataclass(frozen=True, slots=True)
class Grid:
    """A cube of 2^levels cells a side, each cut into `bins` steps a side.

    Args:
        levels: halvings of the cube, 1 to 10.
        bins: steps in a cell, even.
        step: length of a step, Å, or a fraction of a lattice vector.
        periodic: the far face is the near face (a unit cell).
    """

    levels: int
    bins: int
    step: float
    periodic: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.levels <= MAX_LEVELS or self.bins < 2 or self.bins % 2 or not self.step > 0:
            raise InputError(
                f"Grid: expected 1 to {MAX_LEVELS} levels, an even number of bins and a step above 0, "
                f"got {self.levels}, {self.bins}, {self.step}"
            )

    @classmethod
    def unit_cell(cls, levels: int, bins: int) -> Grid:
        """The grid of fractional coordinates."""
        return cls(levels, bins, 1.0 / ((1 << levels) * bins), periodic=True)

    @property
    def size(self) -> int:
        """Steps along a side of the cube."""
        return (1 << self.levels) * self.bins

    @property
    def side(self) -> float:
        """Side of the cube."""
        return self.size * self.step

    @property
    def cell(self) -> float:
        """Side of a cell."""
        return self.bins * self.step

    def edge(self, level: Int[Tensor, "*s"]) -> Float[Tensor, "*s"]:
        """Side of a node of this level; of a leaf, and of what has no level, that of a cell."""
        return (1 << level.clamp(min=0)) * self.cell

    def quantise(self, x: Float[Tensor, "*s 3"]) -> Int[Tensor, "*s 3"]:
        """Nearest steps; at most step / 2 away along each axis."""
        p = (x / self.step).round().long()
        return p % self.size if self.periodic else p

    def inside(self, p: Int[Tensor, "*s 3"]) -> Bool[Tensor, "*s"]:
        """Which points lie in the cube."""
        return ((p >= 0) & (p < self.size)).all(-1)

    def centre(self, code: Int[Tensor, "*s"], level: Int[Tensor, "*s"]) -> Float[Tensor, "*s 3"]:
        """Centres of nodes, in the unit of `step`; level 0 = a cell."""
        half = 0.5 * (1 << level)[..., None]
        return ((cells(code) << level[..., None]) + half) * self.cell


def morton(cell: Int[Tensor, "*s 3"]) -> Int[Tensor, "*s"]:
    """Codes of cells: bit 3k of a code is bit k of x, 3k + 1 of y, 3k + 2 of z.

    >>> morton(torch.tensor([[1, 0, 0], [0, 1, 0], [3, 0, 4]])).tolist()
    [1, 2, 265]
    """
    x = cell.long()
    for shift, mask in _SPREAD:
        x = (x | (x << shift)) & mask
    return x[..., 0] | (x[..., 1] << 1) | (x[..., 2] << 2)


def cells(code: Int[Tensor, "*s"]) -> Int[Tensor, "*s 3"]:
    """The inverse of `morton`."""
    x = torch.stack([code, code >> 1, code >> 2], -1) & 0x09249249
    for (shift, _), mask in zip(reversed(_SPREAD), (0x030C30C3, 0x0300F00F, 0x030000FF, 0x3FF), strict=True):
        x = (x | (x >> shift)) & mask
    return x


@dataclass(frozen=True, slots=True, eq=False)
class Forest:
    """The events of r octrees, level after level, coarsest first; within a level by record, then in Morton order.

    Args:
        record: which octree. level: levels … 1 of a tree node, 0 of a leaf. code: Morton code of the node at its level.
        byte: occupancy 1 … 255 of a tree node, 0 of a leaf.
        place: number of the event in the sequence of its record. left: nodes of its level and record from this one on.
        lengths: events of each record.
    """

    record: Int[Tensor, "e"]
    level: Int[Tensor, "e"]
    code: Int[Tensor, "e"]
    byte: Int[Tensor, "e"]
    place: Int[Tensor, "e"]
    left: Int[Tensor, "e"]
    lengths: Int[Tensor, "r"]


def grow(record: Int[Tensor, "n"], code: Int[Tensor, "n"], levels: int, records: int) -> Forest:
    """The octrees of sorted leaves.

    Args:
        record: which octree a leaf belongs to, 0 … records - 1.
        code: Morton code of its cell; sorted within a record, none twice.
        levels: of the tree.
        records: number of octrees; those without a leaf get no event.
    """
    device = code.device
    keys, byte = (record << (3 * levels)) | code, torch.zeros_like(code)
    parts = [(keys, byte)]
    for _ in range(levels):
        up = keys >> 3
        first = torch.ones_like(up, dtype=torch.bool)
        first[1:] = up[1:] != up[:-1]
        parent = first.long().cumsum(0) - 1
        nodes = up[first]
        byte = torch.zeros_like(nodes).index_add_(0, parent, 1 << (keys & 7))  # children are distinct: the sum is the union
        parts.append((nodes, byte))
        keys = nodes
    parts.reverse()
    owners = [key >> (3 * depth) for depth, (key, _) in enumerate(parts)]
    counts = torch.stack([torch.bincount(owner, minlength=records) for owner in owners])  # level × record
    begins = counts.cumsum(0) - counts
    place, left = [], []
    for owner, count, begin in zip(owners, counts, begins, strict=True):
        rank = torch.arange(len(owner), device=device) - (count.cumsum(0) - count)[owner]
        place.append(begin[owner] + rank)
        left.append(count[owner] - rank)
    sizes = torch.tensor([len(owner) for owner in owners], device=device)
    return Forest(
        record=torch.cat(owners),
        level=torch.arange(levels, -1, -1, device=device).repeat_interleave(sizes),
        code=torch.cat([key & ((1 << (3 * depth)) - 1) for depth, (key, _) in enumerate(parts)]),
        byte=torch.cat([byte for _, byte in parts]),
        place=torch.cat(place),
        left=torch.cat(left),
        lengths=counts.sum(0),
    )


def expand(byte: Int[Tensor, "m"], lengths: Int[Tensor, "r"], levels: int) -> tuple[Int[Tensor, "n"], Int[Tensor, "n"], Bool[Tensor, "r"]]:
    """The leaves that occupancy bytes describe.

    Args:
        byte: bytes of all tree nodes, breadth first, record after record.
        lengths: bytes of each record.
        levels: of the tree.

    Returns:
        Record and Morton code of each leaf, in order, and which records are sound: no byte 0, none missing, none left over.
    """
    device = byte.device
    records = len(lengths)
    start = lengths.cumsum(0) - lengths
    record = torch.arange(records, device=device)
    code, used = torch.zeros_like(record), torch.zeros_like(record)
    sound = torch.ones(records, dtype=torch.bool, device=device)
    bit = torch.arange(8, device=device)
    padded = torch.cat([byte.long(), byte.new_zeros(1, dtype=torch.long)])
    for _ in range(levels):
        count = torch.bincount(record, minlength=records)
        number = used[record] + torch.arange(len(record), device=device) - (count.cumsum(0) - count)[record]
        found = padded[torch.where(number < lengths[record], start[record] + number, len(byte))]
        sound[record[(found < 1) | (found > 255)]] = False
        used += count
        node, child = ((found[:, None] >> bit) & 1).nonzero(as_tuple=True)
        record, code = record[node], (code[node] << 3) | child
    return record, code, sound & (used == lengths)
