"""Padded sequences of octree events: what the network reads and what it must say."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sciar.families.octree.tokens import plant
from sciar.families.octree.tree import Grid

END = -1  # level of the closing event of a record, and of padding


@dataclass(frozen=True, slots=True, eq=False)
class Events:
    """Where and what. The first part of an event is known before it is drawn, the second is what is drawn.

    Args:
        level: levels … 1 of a tree node, 0 of an atom, END of the closing event that reads the whole structure.
        centre: of the node's cube, Å from the cube's corner; of the whole cube for END.
        left: nodes of its level from this one on.
        byte: occupancy of a tree node, else 0. element: of an atom, else 0. bins: steps of an atom inside its cell, else 0.
        mask: True = real, the closing event included.
        given: atoms that every event knows (fixed atoms); None = none.
        cell: lattice vectors of crystals, whose centres are fractions; None = molecules.
    """

    level: Int[Tensor, "b t"]
    centre: Float[Tensor, "b t 3"]
    left: Int[Tensor, "b t"]
    byte: Int[Tensor, "b t"]
    element: Int[Tensor, "b t"]
    bins: Int[Tensor, "b t 3"]
    mask: Bool[Tensor, "b t"]
    given: Bool[Tensor, "b t"] | None = None
    cell: Float[Tensor, "b 3 3"] | None = None

    @property
    def tree(self) -> Bool[Tensor, "b t"]:
        return self.level > 0

    @property
    def leaf(self) -> Bool[Tensor, "b t"]:
        return self.level == 0

    def exact(self, grid: Grid) -> Float[Tensor, "b t 3"]:
        """Position of an atom where there is one, else the centre of the node."""
        return torch.where(self.leaf[..., None], self.centre - grid.cell / 2 + self.bins * grid.step, self.centre)


def events_of(
    grid: Grid,
    record: Int[Tensor, "n"],
    element: Int[Tensor, "n"],
    x: Float[Tensor, "n 3"],
    records: int,
    given: Bool[Tensor, "n"] | None = None,
    deleted: Float[Tensor, "r"] | None = None,
    generator: torch.Generator | None = None,
    multiple: int = 8,
) -> Events:
    """The events of points given record after record, x from the corner of the cube.

    Args:
        given: points that every event knows.
        deleted: for each record the share of level-1 nodes that are left out (an augmentation of the published recipe).
        multiple: sequences are padded to a multiple of it: few shapes, few compiled kernels.

    Raises:
        InputError: see `plant`.
    """
    p, order, forest = plant(grid, record, x, records)
    device = x.device
    place, kept = forest.place, torch.ones_like(forest.place, dtype=torch.bool)
    lengths = forest.lengths
    if deleted is not None:
        kept = (forest.level != 1) | (torch.rand(len(place), generator=generator, device=device) >= deleted[forest.record])
        gone = torch.zeros(records, int(lengths.max()), dtype=torch.long, device=device)
        gone[forest.record, place] = (~kept).long()
        place = place - gone.cumsum(1)[forest.record, place]
        lengths = lengths - gone.sum(1)
    width = -(-(int(lengths.max()) + 1) // multiple) * multiple
    r, at = forest.record[kept], place[kept]

    def padded(values: Tensor, fill: float, size: tuple[int, ...] = ()) -> Tensor:
        out = torch.full((records, width, *size), fill, dtype=values.dtype, device=device)
        out[r, at] = values[kept]
        return out

    inner = len(place) - len(order)
    zeros = torch.zeros(inner, dtype=torch.long, device=device)
    told = None if given is None else padded(torch.cat([zeros.bool(), given[order]]), False)
    return Events(
        level=padded(forest.level, END),
        centre=padded(grid.centre(forest.code, forest.level).float(), grid.side / 2, (3,)),
        left=padded(forest.left, 0),
        byte=padded(forest.byte, 0),
        element=padded(torch.cat([zeros, element[order]]), 0),
        bins=padded(torch.cat([zeros[:, None].expand(inner, 3), p % grid.bins]), 0, (3,)),
        mask=torch.arange(width, device=device) <= lengths[:, None],
        given=told,
    )
