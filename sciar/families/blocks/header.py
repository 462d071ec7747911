"""What comes next: how many nodes, of which degree, of which types."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn


class Header(nn.Module):
    """p(size, degree, types of the next block | summary of what is finished). Size 0 is the end.

    Types come sorted, each given those before it: an exact law of the multiset, so that equal nodes need no order.

    Args:
        width: of the states. sizes, degrees, types: how many of each. layers: residual layers before every choice.
    """

    def __init__(self, width: int, sizes: int, degrees: int, types: int, layers: int = 0) -> None:
        super().__init__()
        self.size_table, self.degree_table = nn.Embedding(sizes, width), nn.Embedding(degrees, width)
        self.type_table = nn.Embedding(types + 1, width)  # the last one: none yet
        self.previous = nn.Embedding(types + 1, width)
        heads = [nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, k)) for k in (sizes, degrees, types)]
        self.to_size, self.to_degree, self.to_type = heads

        self.norms = nn.ModuleList(nn.RMSNorm(width, eps=1e-6) for _ in range(layers))
        self.mixes = nn.ModuleList(
            nn.Sequential(nn.Linear(width, 2 * width), nn.SiLU(), nn.Linear(2 * width, width, bias=False)) for _ in range(layers)
        )

    def reset(self) -> None:
        """Layers that change nothing at first, so that weights without them go on from where they are."""
        for mix in self.mixes:
            nn.init.zeros_(mix[2].weight)  # type: ignore[index]

    def mixed(self, h: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
        """The layers."""
        for norm, mix in zip(self.norms, self.mixes, strict=True):
            h = h + mix(norm(h))
        return h

    def size(self, summary: Float[Tensor, "*b d"]) -> Float[Tensor, "*b s"]:
        return self.to_size(self.mixed(summary)).float()

    def degree(self, summary: Float[Tensor, "*b d"], size: Int[Tensor, "*b"]) -> Float[Tensor, "*b g"]:
        return self.to_degree(self.mixed(summary + self.size_table(size))).float()

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
        logits = self.to_type(self.mixed(h)).float()
        types = logits.shape[-1]
        smaller = torch.arange(types, device=logits.device) < torch.where(last == types, 0, last)[..., None]
        return logits.masked_fill(smaller, -1e9)
