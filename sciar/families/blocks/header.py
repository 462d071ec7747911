"""What comes next: how many nodes, of which degree, of which types."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn


class Header(nn.Module):
    """p(size, degree, types of the next block | summary of what is finished). Size 0 is the end.

    Types come sorted, each given those before it: an exact law of the multiset, so that equal nodes need no order.
    """

    def __init__(self, width: int, sizes: int, degrees: int, types: int) -> None:
        super().__init__()
        self.size_table, self.degree_table = nn.Embedding(sizes, width), nn.Embedding(degrees, width)
        self.type_table = nn.Embedding(types + 1, width)  # the last one: none yet
        self.previous = nn.Embedding(types + 1, width)
        heads = [nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, k)) for k in (sizes, degrees, types)]
        self.to_size, self.to_degree, self.to_type = heads

    def size(self, summary: Float[Tensor, "*b d"]) -> Float[Tensor, "*b s"]:
        return self.to_size(summary).float()

    def degree(self, summary: Float[Tensor, "*b d"], size: Int[Tensor, "*b"]) -> Float[Tensor, "*b g"]:
        return self.to_degree(summary + self.size_table(size)).float()

    def kind(
        self,
        summary: Float[Tensor, "*b d"],
        size: Int[Tensor, "*b"],
        degree: Int[Tensor, "*b"],
        so_far: Float[Tensor, "*b d"],
        last: Int[Tensor, "*b"],
    ) -> Float[Tensor, "*b t"]:
        """Logits of the next type; `so_far`: sum of `type_table` of those before, `last`: the one before or `types`."""
        h = summary + self.size_table(size) + self.degree_table(degree) + so_far + self.previous(last)
        logits = self.to_type(h).float()
        types = logits.shape[-1]
        smaller = torch.arange(types, device=logits.device) < torch.where(last == types, 0, last)[..., None]
        return logits.masked_fill(smaller, -1e9)
