"""Differences of fractions in a crystal: the shortest way, the images near by."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor


def wrapped(apart: Tensor) -> Tensor:
    """Differences of fractions by the shortest way, in [-1/2, 1/2)."""
    return (apart + 0.5) % 1.0 - 0.5


def images(x: Float[Tensor, "*s 3"], cell: Float[Tensor, "*#s 3 3"]) -> Iterator[Float[Tensor, "*s 3"]]:
    """The eight images, Å, around the origin of a difference of fractions; of a reduced cell the nearest one is among them."""
    near = x - x.round()
    far = near - torch.where(near < 0, -1.0, 1.0)
    for bits in range(8):
        some = torch.tensor([bool(bits >> axis & 1) for axis in range(3)], device=x.device)
        yield (torch.where(some, far, near)[..., None, :] @ cell).squeeze(-2)


def nearest(x: Float[Tensor, "*s 3"], cell: Float[Tensor, "*#s 3 3"] | None) -> Float[Tensor, "*s 3"]:
    """A difference of positions, Å; in a crystal, whose positions are fractions, of the nearest image."""
    if cell is None:
        return x
    best, least = x, torch.full(x.shape[:-1], torch.inf, device=x.device)
    for image in images(x, cell):
        square = image.square().sum(-1)
        best, least = torch.where((square < least)[..., None], image, best), torch.minimum(square, least)
    return best
