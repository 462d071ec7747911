"""Powder profiles that an octree of a crystal is drawn for: read by composition, cell and every event."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from sciar.batch import Batch
from sciar.nn.profile import Profile, disturbed, profiles
from sciar.nn.sites import matrix
from sciar.pxrd import UNKNOWN

STRAIN = 0.04  # of all lengths of a cell whose profile is learnt from


class Powder(nn.Module):
    """What a profile adds to every event (`width`) and to what composition and cell are drawn from (`header`).

    Args:
        points: of the profile, see `sciar.pxrd.levels`. drop: share of the crystals whose profile is hidden in training.
    """

    def __init__(self, points: int, width: int, header: int, drop: float) -> None:
        super().__init__()
        self.points, self.widths, self.drop = points, (width, header), drop
        self.profile = Profile(points, width + header, readers=1)

    def forward(self, levels: Int[Tensor, "b g"]) -> tuple[Float[Tensor, "b 1 d"], Float[Tensor, "b h"]]:
        events, header = self.profile(levels)[0].split(self.widths, -1)
        return events[:, None], header

    def learnt(self, batch: Batch, generator: torch.Generator | None = None) -> tuple[Int[Tensor, "b g"], Batch]:
        """Profiles of the crystals and the batch; in training of crystals a few per cent larger or smaller, as measured, some hidden."""
        lattice, told, broader = batch["lattice"][:, 0], batch.masks["reflections"].any(1), None
        if self.training:
            chance = torch.rand(2, len(batch), generator=generator, device=lattice.device)
            told, broader = told & (chance[0] >= self.drop), 0.75 + 0.75 * chance[1]
            scale = STRAIN * torch.randn(len(batch), 1, generator=generator, device=lattice.device) * told[:, None]
            lattice = torch.cat([lattice[:, :3] + scale, lattice[:, 3:]], 1)  # logarithms of lengths, then what is free of them
        with torch.autocast(lattice.device.type, enabled=False):
            q = torch.linalg.solve(matrix(lattice.float()), batch["index"].to(lattice).mT)  # b 3 r
            found = profiles(q.norm(dim=1), batch["square"] * batch.masks["reflections"], self.points, broader)
        levels = disturbed(found, ~told, generator) if self.training else found
        return levels, dataclasses.replace(batch, tokens={**batch.tokens, "lattice": lattice[:, None]})

    def wanted(self, asked: Sequence[tuple[int, ...]]) -> tuple[Float[Tensor, "b 1 d"], Float[Tensor, "b h"]]:
        """What is added for wanted profiles; nothing for the empty ones."""
        rows = [row or (UNKNOWN,) * self.points for row in asked]
        events, header = self(torch.tensor(rows, device=self.profile.out.weight.device))
        return events.float(), header.float()
