"""The density of one coordinate slot: a small denoising network over a short vector, given a hidden state."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from sciar.diffusion.gaussian import EDM, Cosine, Denoiser, likelihood_bound, log_likelihood, solve
from sciar.nn.embedding import Fourier


class DiffusionHead(nn.Module):
    """Adaptive-norm MLP that denoises x ∈ R³, or R^size, given z (MAR's diffusion loss, Li et al. 2024, eq. 4).

    The modulation is separable, A(σ) + B(z): B is computed once per slot and A once per solver step, so one
    solver step costs 2 W² per block instead of 5 W² (UniGenX notes §9.9).
    """

    def __init__(self, width_state: int, width: int, depth: int, process: EDM | Cosine, size: int = 3) -> None:
        super().__init__()
        self.process, self.width, self.depth, self.size = process, width, depth, size
        self.fourier_x, self.fourier_t = Fourier(16), Fourier(32, 0.05, 2.0)
        self.inside = nn.Linear(size + size * 16, width)
        self.from_state = nn.Linear(width_state, (3 * depth + 3) * width)
        self.time = nn.Linear(32, 64)
        self.from_time = nn.ModuleList(nn.Linear(64, width) for _ in range(3 * depth + 2))
        self.first = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.second = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.outside = nn.Linear(width, size)
        self._kept: dict[tuple[object, ...], tuple[Tensor, list[Tensor]]] = {}

    def reset(self) -> None:
        """Start as the identity: zero gates and zero output."""
        nn.init.normal_(self.from_state.weight, std=0.3 * self.from_state.in_features**-0.5)
        for part in self.from_time:
            nn.init.normal_(part.weight, std=0.01)  # type: ignore[arg-type]
        nn.init.zeros_(self.outside.weight)

    def condition(self, z: Float[Tensor, "*s d"]) -> Float[Tensor, "*s c"]:
        """What the solver steps share: B(z)."""
        return self.from_state(z)

    def times(self, sigma: Float[Tensor, "*l"]) -> list[Tensor]:
        """What depends on σ alone: A(σ), a tensor per modulation."""
        time = F.silu(self.time(self.fourier_t(sigma.log() / 4)))
        return [part(time) for part in self.from_time]

    def network(self, x: Float[Tensor, "*s k"], times: list[Tensor], state: Float[Tensor, "*r c"]) -> Float[Tensor, "*s k"]:
        """Raw network F; `x` already scaled by c_in."""
        w = self.width
        parts = state.split(w, -1)
        modulation = lambda k: parts[k] + times[k]  # noqa: E731
        with torch.autocast(x.device.type, enabled=False):  # bf16 would round a coordinate to 0.004 Å
            h = F.linear(torch.cat([x, self.fourier_x(x).flatten(-2)], -1), self.inside.weight.float(), self.inside.bias.float())
        h = h.to(parts[-1].dtype) + parts[-1]
        for i, (first, second) in enumerate(zip(self.first, self.second, strict=True)):
            u = F.layer_norm(h, (w,)) * (1 + modulation(3 * i)) + modulation(3 * i + 1)
            h = h + (1 + modulation(3 * i + 2)) * second(F.silu(first(u)))
        u = F.layer_norm(h, (w,)) * (1 + modulation(3 * self.depth)) + modulation(3 * self.depth + 1)
        with torch.autocast(x.device.type, enabled=False):
            return F.linear(u.float(), self.outside.weight.float(), self.outside.bias.float())

    def denoise(self, x: Tensor, sigma: Tensor, state: Tensor, times: list[Tensor] | None = None) -> Tensor:
        """Estimate of the clean vector; fp32 in and out."""
        skip, out, inside = (s[..., None] for s in self.process.scalings(sigma))
        return skip * x + out * self.network(inside * x, self.times(sigma) if times is None else times, state).float()

    def denoiser(self, state: Tensor) -> Denoiser:
        """`denoise` for one noise level at a time; A(σ) of every level is kept for as long as the weights stay."""
        return partial(self._at_level, state)

    def _at_level(self, state: Tensor, x: Tensor, sigma: float) -> Tensor:
        key = (sigma, x.device, torch.is_autocast_enabled(x.device.type))
        if key not in self._kept:
            level = torch.full((1,), sigma, device=x.device)
            self._kept[key] = level, self.times(level)
        level, times = self._kept[key]
        return self.denoise(x, level, state, times)

    def train(self, mode: bool = True) -> DiffusionHead:
        self._kept.clear()
        return super().train(mode)

    def loss(
        self,
        z: Float[Tensor, "*s d"],
        target: Float[Tensor, "*s k"],
        draws: int,
        generator: torch.Generator | None,
        used: Bool[Tensor, "*s k"] | None = None,
    ) -> Float[Tensor, "*s"]:
        """Weighted denoising error per slot, averaged over `draws` noise levels and over the `used` numbers of a slot (None: all)."""
        state = self.condition(z)[None]  # broadcasts over the draws
        clean = target[None].expand(draws, *target.shape)
        sigma = self.process.sigmas(tuple(clean.shape[:-1]), generator, clean.device)
        noise = torch.randn(clean.shape, generator=generator, device=clean.device)
        if used is None:
            error = self.denoise(clean + sigma[..., None] * noise, sigma, state) - clean
            return (self.process.weight(sigma) * error.square().mean(-1)).mean(0)
        error = (self.denoise(clean + sigma[..., None] * noise * used, sigma, state) - clean) * used
        return (self.process.weight(sigma) * error.square().sum(-1) / used.sum(-1)).mean(0)

    def sample(
        self,
        z: Float[Tensor, "*s d"],
        start: Float[Tensor, "*s k"],
        steps: int,
        solver: str = "2m",
        temperature: float = 1.0,
        noise: Callable[[int], Tensor] | None = None,
        used: Bool[Tensor, "*s k"] | None = None,
    ) -> Float[Tensor, "*s k"]:
        """Draw x given z; `start` is standard normal, `temperature` scales every noise; numbers that are not `used` are 0."""
        denoise = self.denoiser(self.condition(z))
        grid = self.process.grid(steps)
        if used is not None:
            every, start = denoise, start * used
            denoise = lambda x, sigma: every(x, sigma) * used  # noqa: E731
        return solve(denoise, temperature * grid[0] * start, grid, solver, noise, temperature)

    def likelihood_bound(
        self,
        z: Float[Tensor, "*s d"],
        x: Float[Tensor, "*s k"],
        noise: Float[Tensor, "*s k"],
        levels: int = 8,
        used: Bool[Tensor, "*s k"] | None = None,
    ) -> Float[Tensor, "*s"]:
        """A noisy lower bound of ln p(x | z) in nats for the cost of `levels` solver steps; numbers not `used` count as known."""
        denoise = self.denoiser(self.condition(z))
        return likelihood_bound(denoise, x, noise, 0.02, self.process.sigma_max, levels, used)

    def log_likelihood(self, z: Float[Tensor, "*s d"], x: Float[Tensor, "*s k"], steps: int = 16) -> Float[Tensor, "*s"]:
        """ln p(x | z) in nats (x in Å)."""
        state = self.condition(z)
        grid = self.process.grid(steps)
        grid[-1] = max(grid[-1], 0.02)  # below 0.02 Å the density of a bond length is dominated by the network's own error
        return log_likelihood(self.denoiser(state), x, grid)
