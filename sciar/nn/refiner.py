"""Joint denoiser of all atoms: an E(3)-equivariant network over the pairs of one molecule."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from sciar.nn.embedding import Fourier, RadialBasis

BINS = 250  # per Å
FARTHEST = 8.0  # Å; the radial basis ends at 7


def denoised(
    estimate: Callable[[Tensor, Tensor], Tensor],
    x: Float[Tensor, "b n 3"],
    free: Bool[Tensor, "b n 1"],
    first: float,
    count: int,
    noise: Float[Tensor, "s b n 3"] | None = None,
    churn: float = 0.0,
) -> Float[Tensor, "b n 3"]:
    """Coordinates of the free atoms after `count` steps from an error of `first` Å to none; the others stay.

    Euler steps in σ, geometric down to 0.02 Å; the last one returns the estimate itself. `estimate(x, σ)` is a refiner's answer. With
    `noise`, normal numbers for count - 2 steps, σ is raised by the share `churn` before each step but the first and the last (Karras et
    al. 2022, algorithm 2): errors of earlier steps are forgotten.
    """
    sigmas = np.geomspace(first, 0.02, count) if count > 1 else np.array([first])
    for i, sigma in enumerate(sigmas):
        if noise is not None and churn and 0 < i < count - 1:
            x = torch.where(free, x + sigma * ((1 + churn) ** 2 - 1) ** 0.5 * noise[i - 1], x)
            sigma *= 1 + churn
        clean = estimate(x, torch.full((len(x),), float(sigma), device=x.device)).float()
        ratio = 0.0 if i + 1 == count else float(sigmas[i + 1] / sigma)
        x = torch.where(free, clean + ratio * (x - clean), x)
    return x


class Refiner(nn.Module):
    """x̂ = x + σ F(x, σ | graph), F a sum of vectors between atoms (EGNN, Satorras et al. 2021, eq. 3–6).

    It removes what one irrevocable pass leaves behind: rings that do not close, errors passed on along a chain
    (UniGenX notes §9.4). Reflections commute with it, so it never changes a stereo centre on purpose.
    """

    def __init__(self, width_state: int, width: int, layers: int, codes: int) -> None:
        super().__init__()
        self.layers, self.n_codes = layers, codes
        self._tables: dict[tuple[int, torch.dtype, torch.device], Tensor] = {}
        self.inside = nn.Linear(width_state, width)
        self.level = nn.Sequential(nn.Linear(16, width), nn.SiLU(), nn.Linear(width, width))
        self.fourier, self.radial = Fourier(16, 0.05, 1.0), RadialBasis(24, 7.0)
        self.ends = nn.ModuleList(nn.Linear(width, 2 * width, bias=False) for _ in range(layers))
        self.codes = nn.ModuleList(nn.Embedding(codes, width) for _ in range(layers))
        self.distance = nn.ModuleList(nn.Linear(24, width, bias=False) for _ in range(layers))
        self.message = nn.ModuleList(nn.Linear(width, width) for _ in range(layers))
        self.push = nn.ModuleList(nn.Linear(width, 1, bias=False) for _ in range(layers))
        self.update = nn.ModuleList(
            nn.Sequential(nn.Linear(2 * width, 2 * width), nn.SiLU(), nn.Linear(2 * width, width)) for _ in range(layers - 1)
        )

    def forward(
        self,
        x: Float[Tensor, "b n 3"],
        sigma: Float[Tensor, "b"],
        state: Float[Tensor, "b n d"],
        codes: Int[Tensor, "b n n"],
        mask: Bool[Tensor, "b n"],
    ) -> Float[Tensor, "b n 3"]:
        """Estimate of the clean coordinates in Å."""
        h = self.inside(state) + self.level(self.fourier(sigma.log() / 4))[:, None]
        pairs = (mask[:, :, None] & mask[:, None, :] & ~torch.eye(x.shape[1], dtype=torch.bool, device=x.device)).float()
        start = x
        for i in range(self.layers):
            difference = x[:, :, None] - x[:, None]
            length = (difference.square().sum(-1) + 1e-8).sqrt()
            left, right = self.ends[i](h).chunk(2, -1)
            m = left[:, :, None] + right[:, None] + self._pair(i, codes, length, left.dtype)
            m = F.silu(self.message[i](F.silu(m)))
            shift = (self.push[i](m).squeeze(-1).float() * pairs / (length + 0.5))[..., None] * difference
            x = x + sigma[:, None, None] * shift.sum(2)
            if i + 1 < self.layers:
                h = h + self.update[i](torch.cat([h, (m * pairs[..., None].to(m.dtype)).sum(2) * 0.1], -1))
        return start + (x - start) * mask[..., None]

    def _pair(self, layer: int, codes: Tensor, length: Tensor, dtype: torch.dtype) -> Tensor:
        """What a pair's code and distance contribute; without gradients from a table in steps of 1/250 Å."""
        if torch.is_grad_enabled():
            return self.codes[layer](codes).to(dtype) + self.distance[layer](self.radial(length).to(dtype))
        key = (layer, dtype, length.device)
        if key not in self._tables:
            bins = torch.arange(int(FARTHEST * BINS) + 1, device=length.device) / BINS
            every = torch.arange(self.n_codes, device=length.device)
            rows = self.codes[layer](every).to(dtype)[:, None] + self.distance[layer](self.radial(bins).to(dtype))
            self._tables[key] = rows.flatten(0, 1).to(dtype)
        size = int(FARTHEST * BINS) + 1
        place = codes * size + (length * BINS).round().long().clamp(max=size - 1)
        return F.embedding(place, self._tables[key])

    def train(self, mode: bool = True) -> Refiner:
        self._tables.clear()
        return super().train(mode)
