"""Rotary positions in one and three dimensions: a query and a key see each other's displacement.

Channel pairs of a query at x and a key at y are turned by k·x and k·y, so their product depends on k·(x - y) alone
(Su et al. 2021, RoFormer). What differs between the variants is the set of wave vectors k.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


def published_waves(pairs: int, step: float = 0.01) -> Float[Tensor, "1 p 3"]:
    """Uni-3DAR's spectrum: frequencies 10000^(-j/n) per step along each axis, n = pairs // 3; pairs left over are not turned.

    Wavelengths run from 2π · 0.01 Å, which is noise, to 250 Å.
    """
    n = pairs // 3
    waves = torch.zeros(1, pairs, 3)
    for axis in range(3):
        waves[0, axis * n : (axis + 1) * n, axis] = 10000.0 ** (-torch.arange(n) / n) / step
    return waves


def axis_waves(pairs: int, shortest: float, longest: float) -> Float[Tensor, "1 p 3"]:
    """Wavelengths from `shortest` to `longest` in a geometric row along each axis."""
    n = pairs // 3
    waves = torch.zeros(1, pairs, 3)
    for axis in range(3):
        waves[0, axis * n : (axis + 1) * n, axis] = 2 * math.pi / torch.logspace(math.log10(shortest), math.log10(longest), n)
    return waves


def sphere_waves(heads: int, pairs: int, shortest: float, longest: float) -> Float[Tensor, "h p 3"]:
    """Wavelengths as in `axis_waves`, directions spread over the sphere, others in each head.

    A sum over directions of cos k·(x - y) tends to sin(kr) / kr, so heads can measure distances in any orientation.
    """
    index = torch.arange(heads * pairs)
    z = 1 - (2 * index + 1) / (heads * pairs)
    angle = index * math.pi * (3 - math.sqrt(5))  # Fibonacci lattice
    flat = (1 - z * z).sqrt()
    directions = torch.stack([flat * angle.cos(), flat * angle.sin(), z], -1)
    lengths = torch.logspace(math.log10(shortest), math.log10(longest), pairs)
    # strides 0, h, 2h …: the directions of one head, and those of one wavelength in all heads, are both spread
    return (2 * math.pi / lengths)[None, :, None] * directions.view(pairs, heads, 3).transpose(0, 1)


def periodic_waves(pairs: int) -> Float[Tensor, "1 p 3"]:
    """2π times the shortest whole vectors, one of ±k each: positions are fractions of a unit cell and wrap around."""
    reach = 1 + math.ceil((2 * pairs) ** (1 / 3) / 2)
    axis = torch.arange(-reach, reach + 1)
    every = torch.cartesian_prod(axis, axis, axis)
    half = every[len(every) // 2 + 1 :]  # of k and -k the later one; the origin is in the middle
    order = half.square().sum(-1).sort(stable=True).indices
    return 2 * math.pi * half[order[:pairs]].float()[None]


def line_waves(pairs: int, base: float = 10000.0) -> Float[Tensor, "1 p 1"]:
    """The usual one-dimensional spectrum; positions are (…, 1)."""
    return (base ** (-torch.arange(pairs) / pairs))[None, :, None]


def angles(waves: Float[Tensor, "h p k"], positions: Float[Tensor, "b t k"]) -> tuple[Float[Tensor, "b h t p"], Float[Tensor, "b h t p"]]:
    """Cosines and sines of k·x in fp32; computed once for all layers."""
    with torch.autocast(positions.device.type, enabled=False):
        phase = torch.einsum("hpk,btk->bhtp", waves, positions.float())
    return phase.cos(), phase.sin()


def turned(x: Float[Tensor, "b h t c"], by: tuple[Tensor, Tensor], back: bool = False) -> Float[Tensor, "b h t c"]:
    """Channel pairs (j, j + c/2) turned by their angles, or back."""
    cos, sin = (part.to(x.dtype) for part in by)
    real, imaginary = x.chunk(2, -1)
    if back:
        sin = -sin
    return torch.cat([real * cos - imaginary * sin, real * sin + imaginary * cos], -1)


@dataclass(frozen=True, slots=True)
class Turning:
    """The hook of `Attention`: queries turned by the angles `query`, keys by `key`.

    With `values` the values are turned like keys and the mixture is turned back like a query, so that what a token
    reads is also a function of displacements, not of the attention weights alone (Miyato et al. 2024, GTA, eq. 6).
    """

    query: tuple[Tensor, Tensor]
    key: tuple[Tensor, Tensor]
    values: bool = False

    def __call__(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return turned(query, self.query), turned(key, self.key), turned(value, self.key) if self.values else value

    def back(self, mixed: Tensor) -> Tensor:
        return turned(mixed, self.query, back=True) if self.values else mixed
