"""Where the structures of a batch lie when their octrees are built: turned, shifted, with any origin; anew each time it is asked."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from sciar.batch import Batch
from sciar.families.octree.events import Events, events_of
from sciar.nn.sites import matrix

if TYPE_CHECKING:
    from sciar.families.octree.model import Model

GIVEN = 16  # most atoms that training tells beforehand


def posed(model: Model, batch: Batch, generator: torch.Generator | None = None) -> Events:
    """The octrees of a batch. Molecules are turned, in training shifted too, and some of their atoms given; crystals get any origin."""
    mask, config, grid = batch.masks["atoms"], model.config, model.grid
    b = len(mask)
    record = torch.arange(b, device=mask.device)[:, None].expand_as(mask)[mask]
    element = batch["element"][mask]
    with torch.autocast(mask.device.type, enabled=False):
        x = batch["positions"].float()
        if grid.periodic:
            x = (x + torch.rand(b, 1, 3, generator=generator, device=x.device)) % 1.0
            return dataclasses.replace(events_of(grid, record, element, x[mask], b), cell=matrix(batch["lattice"][:, 0]))
        if model.tokenizer.config.pose == "random":
            x = torch.einsum("bij,bnj->bni", random_rotations(b, generator, x.device), x)
        shift = torch.full((b, 1, 3), grid.side / 2, device=x.device)
        deleted = told = None
        if model.training and config.given:
            told = _given(x, mask, config.given, generator)
            # the middle of the cube is theirs, as in drawing: where that of the molecule lies is not known then
            shift = shift - (x * told[..., None]).sum(1, keepdim=True) / told.sum(1).clamp(min=1)[:, None, None]
        if model.training:
            noise = torch.randn(shift.shape, generator=generator, device=x.device).clamp(-2, 2)
            whole = torch.randint(-config.shift, config.shift + 1, shift.shape, generator=generator, device=x.device)
            shift = shift + grid.cell * (config.jitter * noise + whole)
            if config.deletion:
                deleted = config.deletion * torch.rand(b, generator=generator, device=x.device)
        # the shift is an augmentation: a molecule that would stick out of the cube is pushed back in
        low = x.masked_fill(~mask[..., None], torch.inf).amin(1, keepdim=True) + shift
        high = x.masked_fill(~mask[..., None], -torch.inf).amax(1, keepdim=True) + shift
        shift = shift + (grid.step - low).clamp(min=0) - (high - grid.side + 2 * grid.step).clamp(min=0)
        return events_of(grid, record, element, (x + shift)[mask], b, None if told is None else told[mask], deleted, generator)


def _given(x: Float[Tensor, "b n 3"], mask: Bool[Tensor, "b n"], share: float, generator: torch.Generator | None) -> Bool[Tensor, "b n"]:
    """Atoms that training tells beforehand: of a `share` of the records up to `GIVEN` of those nearest to a random point, never all."""
    b, device = len(mask), mask.device
    chance = torch.rand(2, b, generator=generator, device=device)
    count = 1 + (chance[0] * (mask.sum(1) - 1).clamp(max=GIVEN)).long()
    # around an atom, or, from farther away, a side of the molecule
    seed = torch.rand(mask.shape, generator=generator, device=device).masked_fill(~mask, -1).argmax(1)
    point = x[torch.arange(b, device=device), seed] + 3 * torch.randn(b, 3, generator=generator, device=device)
    rank = (x - point[:, None]).square().sum(-1).masked_fill(~mask, torch.inf).argsort(1).argsort(1)
    return mask & (rank < count[:, None]) & (chance[1] < share)[:, None] & (mask.sum(1) > 1)[:, None]


def random_rotations(count: int, generator: torch.Generator | None, device: torch.device) -> Float[Tensor, "b 3 3"]:
    """Haar-uniform rotations from normalised Gaussian quaternions."""
    w, x, y, z = F.normalize(torch.randn(count, 4, generator=generator, device=device), dim=-1).unbind(-1)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return torch.stack([torch.stack(row, -1) for row in rows], -2)
