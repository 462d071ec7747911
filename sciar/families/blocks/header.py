"""What comes next: how many nodes, of which degree, of which types."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

MOST_ROOM, MOST_COMING = 24, 8  # clipped counts: free places that the types of a block leave, nodes of it whose types are still to come
MOST_OPEN, MOST_SIZE = (4, 4, 3, 1), 6  # clipped counts of the tables: nodes with 1, 2, … free places; nodes of a block


@dataclass(frozen=True, slots=True)
class Before:
    """The types of a block that are known already.

    Args:
        total: sum of their `Header.type_table`. last: the last one, or the number of types if there is none.
        count: how many. taken: free places that they can take.
    """

    total: Float[Tensor, "*b d"]
    last: Int[Tensor, "*b"]
    count: Int[Tensor, "*b"]
    taken: Int[Tensor, "*b"]


class Header(nn.Module):
    """p(size, degree, types of the next block | summary of what is finished). Size 0 is the end.

    Types come sorted, each given those before it: an exact law of the multiset, so that equal nodes need no order.
    With `room` sizes and types have tables by combinations of free places besides; `alike` is how many finished nodes have 1, 2, …
    free places, None without.
    """

    def __init__(self, width: int, sizes: int, degrees: int, types: int, room: bool = False) -> None:
        super().__init__()
        self.size_table, self.degree_table = nn.Embedding(sizes, width), nn.Embedding(degrees, width)
        self.type_table = nn.Embedding(types + 1, width)  # the last one: none yet
        self.previous = nn.Embedding(types + 1, width)
        heads = [nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, k)) for k in (sizes, degrees, types)]
        self.to_size, self.to_degree, self.to_type = heads
        self.room = room
        if room:
            states = math.prod(most + 1 for most in MOST_OPEN)
            self.rest = nn.Embedding((MOST_ROOM + 1) * (MOST_COMING + 1), width)
            self.size_of = nn.Embedding(states, sizes)
            self.type_of = nn.Embedding(states * (MOST_SIZE + 1) * MOST_SIZE, types)

    def reset(self) -> None:
        """Tables that say nothing at first, so that weights without them go on from where they are."""
        if self.room:
            for table in (self.rest, self.size_of, self.type_of):
                nn.init.zeros_(table.weight)

    def size(self, summary: Float[Tensor, "*b d"], alike: Int[Tensor, "*b k"] | None) -> Float[Tensor, "*b s"]:
        logits = self.to_size(summary).float()
        return logits + self.size_of(_state(alike)).float() if self.room and alike is not None else logits

    def degree(self, summary: Float[Tensor, "*b d"], size: Int[Tensor, "*b"]) -> Float[Tensor, "*b g"]:
        return self.to_degree(summary + self.size_table(size)).float()

    def kind(
        self,
        summary: Float[Tensor, "*b d"],
        size: Int[Tensor, "*b"],
        degree: Int[Tensor, "*b"],
        before: Before,
        alike: Int[Tensor, "*b k"] | None,
    ) -> Float[Tensor, "*b t"]:
        """Logits of the next type."""
        h = summary + self.size_table(size) + self.degree_table(degree) + before.total + self.previous(before.last)
        if self.room and alike is not None:
            free = (alike * torch.arange(1, alike.shape[-1] + 1, device=alike.device)).sum(-1)
            rest = (free - before.taken + MOST_ROOM // 3).clamp(0, MOST_ROOM)  # the types may be able to take more than there is
            h = h + self.rest(rest * (MOST_COMING + 1) + (size - before.count).clamp(0, MOST_COMING))
        logits = self.to_type(h).float()
        if self.room and alike is not None:
            step = size.clamp(max=MOST_SIZE) * MOST_SIZE + before.count.clamp(max=MOST_SIZE - 1)
            logits = logits + self.type_of(_state(alike) * (MOST_SIZE + 1) * MOST_SIZE + step).float()
        types = logits.shape[-1]
        smaller = torch.arange(types, device=logits.device) < torch.where(before.last == types, 0, before.last)[..., None]
        return logits.masked_fill(smaller, -1e9)


def _state(alike: Int[Tensor, "*b k"]) -> Int[Tensor, "*b"]:
    """One number for each combination of clipped counts."""
    state = torch.zeros_like(alike[..., 0])
    for count, most in zip(alike.unbind(-1), MOST_OPEN, strict=True):
        state = state * (most + 1) + count.clamp(max=most)
    return state
