"""What lies around an event: the cubes that are known to hold atoms, seen from where its own atoms may be.

While an octree is drawn, the queue of open nodes and their finished siblings' children tile everything known so far: the
*frontier*. Where a node's atoms lie is a question of distances from its eight children to the frontier, and the network would
have to infer each of these from bytes of the parents' level. Here they are given: for each child and each kind of
cube a sum of Gaussians of the distances, which turns with the molecule only as the cube does. One small network reads the eight.

In a crystal distances are those of all images near by, and of many elements an atom shows its column of the periodic table alone.

Atoms that are given beforehand (a scaffold, fixed atoms) belong to the frontier of every node, with their elements.

Ours; after the local densities of Bartók et al. 2013 (SOAP). Positions of the frontier follow from events already drawn, so
nothing is seen too early, and as nothing in the sums is learnt, no gradient visits the pairs.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from sciar.families.octree.events import Events
from sciar.families.octree.tree import POPCOUNT, Grid
from sciar.nn.embedding import RadialBasis
from sciar.nn.periodic import images

GAUSSIANS, REACH = 16, 5.0  # of a distance, Å
WIDTH = 48  # of what is known of one child
SAME, FINER, ELEMENT, NOTHING = 0, 1, 2, -1  # kinds: an open cube of the event's level, one level finer, ELEMENT + e an atom
MOST_KINDS = 24  # elements that are told apart; of more only the columns are


def columns_of(numbers: Int[np.ndarray, "e"]) -> Int[np.ndarray, "e"]:
    """What each element shows of itself: its own number 0, 1 …, or, of many elements, the number of its column."""
    if len(numbers) <= MOST_KINDS:
        return np.arange(len(numbers))
    from pymatgen.core import Element

    every = [Element.from_Z(int(z)) for z in numbers if z]
    columns = [0 if e.is_lanthanoid else 19 if e.is_actinoid else e.group for e in every]
    if len(every) < len(numbers):  # corners of cells are like no element
        columns.insert(int(np.flatnonzero(numbers == 0)[0]), 20)
    return np.unique(columns, return_inverse=True)[1]


class Surroundings(nn.Module):
    """Features of the eight children of each event, and their sum for the event itself.

    Args:
        width: of an event's state. columns: what each element shows of itself, see `columns_of`.
    """

    corners: Tensor
    columns: Tensor

    def __init__(self, width: int, columns: Int[np.ndarray, "e"]) -> None:
        super().__init__()
        self.kinds = ELEMENT + int(columns.max()) + 1
        # by kind + 1: nothing, same, finer, atoms
        self.register_buffer("columns", torch.from_numpy(np.concatenate([[0, 1, 2], 3 + columns])), persistent=False)
        self.radial = RadialBasis(GAUSSIANS, REACH)
        bit = torch.arange(8)
        self.register_buffer("corners", torch.stack([bit & 1, bit >> 1 & 1, bit >> 2 & 1], -1).float() - 0.5, persistent=False)
        self.level = nn.Embedding(16, WIDTH)
        self.child = nn.Linear(self.kinds * GAUSSIANS, WIDTH, bias=False)
        self.mix = nn.Linear(WIDTH, WIDTH)
        self.out = nn.Linear(8 * WIDTH, width, bias=False)

    def forward(
        self,
        centre: Float[Tensor, "b q 3"],
        side: Float[Tensor, "b q"],
        level: Int[Tensor, "b q"],
        frontier: Float[Tensor, "b q k 3"],
        kind: Int[Tensor, "b q k"],
        cell: Float[Tensor, "b 3 3"] | None = None,
    ) -> tuple[Float[Tensor, "b q d"], Float[Tensor, "b q 8 c"]]:
        """What to add to events at `centre` in cubes of `side`, Å or fractions of a `cell`, and what is known of their children."""
        z = self.level(level)[..., None, :] + self.child(self.density(centre, side, frontier, kind, cell))
        z = F.silu(self.mix(F.silu(z)))
        return self.out(z.flatten(-2)), z

    @torch.no_grad()
    def density(
        self,
        centre: Float[Tensor, "b q 3"],
        side: Float[Tensor, "b q"],
        frontier: Float[Tensor, "b q k 3"],
        kind: Int[Tensor, "b q k"],
        cell: Float[Tensor, "b 3 3"] | None = None,
    ) -> Float[Tensor, "b q 8 f"]:
        """Σ over the frontier of Gaussians of its distance to each child's centre, for each kind."""
        device = centre.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else torch.float32
        gaussians: Tensor | float = 0.0
        with torch.autocast(device, enabled=False):
            child = centre[..., None, :].float() + self.corners * (side / 2)[..., None, None]
            apart = child[..., None, :] - frontier[..., None, :, :].float()
            every = [apart] if cell is None else images(apart, cell[:, None, None, None])
            of_kind = F.one_hot(self.columns[kind + 1], self.kinds + 1)[..., 1:]
            for image in every:
                gaussians = gaussians + self.radial.rounded((image.square().sum(-1) + 1e-6).sqrt(), dtype)  # b q 8 k g
        assert isinstance(gaussians, Tensor)
        return (gaussians.transpose(-1, -2) @ of_kind[..., None, :, :].to(dtype)).flatten(-2)


class Children(nn.Module):
    """Logits of bytes from how likely each child is on its own: Σ of the children's scores over the bits of a byte."""

    bits: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        byte = torch.arange(1, 256)
        self.register_buffer("bits", (byte >> torch.arange(8)[:, None] & 1).float(), persistent=False)
        self.state = nn.Linear(width, WIDTH, bias=False)
        self.score = nn.Linear(WIDTH, 1, bias=False)

    def forward(self, h: Float[Tensor, "*s d"], z: Float[Tensor, "*s 8 c"]) -> Float[Tensor, "*s k"]:
        scores = self.score(F.silu(z + self.state(h)[..., None, :])).squeeze(-1).float()
        logits: Tensor = scores @ self.bits
        return logits


def frontier(events: Events, grid: Grid, most: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor | None]:
    """Arguments of `Surroundings` for whole sequences of trees with at most `most` atoms.

    The frontier of node i are the events after it up to its first child; of an atom all other atoms, with the elements of those before it.
    """
    given = events.given
    t, device = events.level.shape[1], events.level.device
    event = torch.arange(t, device=device)
    children = POPCOUNT.to(device)[events.byte]
    first_child = 1 + children.cumsum(1) - children
    atoms = events.tree.sum(1, keepdim=True)
    slot = torch.where(events.leaf, atoms, event + 1)[..., None] + torch.arange(min(t, most), device=device)
    end = torch.where(events.leaf, atoms + events.leaf.sum(1, keepdim=True), first_child)[..., None]
    at = slot.clamp(max=t - 1)
    record = torch.arange(len(at), device=device)[:, None, None]
    kind = torch.where(events.level[record, at] == events.level[..., None], SAME, FINER)
    known = at < event[:, None] if given is None else (at < event[:, None]) | given[record, at]
    kind = torch.where(events.leaf[..., None] & known, ELEMENT + events.element[record, at], kind)
    there = (slot < end) & (at != event[:, None]) & (events.level >= 0)[..., None]
    kind = torch.where(there, kind, NOTHING)
    places = events.centre[record, at]
    if given is not None:
        first = given.long().argsort(dim=1, descending=True, stable=True)[:, : int(given.sum(1).max())]
        row = record[:, 0]
        element = torch.where(given[row, first], events.element[row, first], NOTHING - ELEMENT)
        places, kind = with_given(places, kind, events.level, events.centre[row, first], element)
    return events.centre, grid.edge(events.level), events.level + 1, places, kind, events.cell


def with_given(
    places: Float[Tensor, "b q k 3"],
    kind: Int[Tensor, "b q k"],
    level: Int[Tensor, "b q"],
    given_at: Float[Tensor, "b g 3"],
    element: Int[Tensor, "b g"],
) -> tuple[Float[Tensor, "b q n 3"], Int[Tensor, "b q n"]]:
    """The frontier and the atoms given beforehand (`element` NOTHING - ELEMENT = none); that of an atom holds them already."""
    q = level.shape[1]
    more = torch.where((level > 0)[..., None], ELEMENT + element[:, None], NOTHING)
    return torch.cat([places, given_at[:, None].expand(-1, q, -1, -1)], 2), torch.cat([kind, more], 2)
