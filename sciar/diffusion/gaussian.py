"""Gaussian diffusion of small vectors in σ-space: preconditioning, loss, few-step solvers, exact likelihood.

Source: Karras et al. 2022 (EDM), table 1 and algorithm 1; DPM-Solver++(2M), Lu et al. 2022, algorithm 2 in
the variables α = 1, λ = -ln σ; the cosine DDPM of Nichol & Dhariwal 2021 as the baseline parametrisation.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

Denoiser = Callable[[Tensor, float], Tensor]  # (x, σ) -> estimate of the clean x


@dataclass(frozen=True, slots=True)
class EDM:
    """Preconditioned denoising: D(x, σ) = c_skip x + c_out F(c_in x, c_noise).

    Args:
        sigma_data: standard deviation of the data, Å.
        log_mean, log_std: ln σ ~ N(log_mean, log_std²) in training.
        sigma_min, sigma_max: ends of the sampling grid, Å.
        rho: curvature of the grid.
    """

    sigma_data: float = 0.9
    log_mean: float = -1.2
    log_std: float = 1.4
    sigma_min: float = 0.002
    sigma_max: float = 9.0
    rho: float = 7.0

    def sigmas(self, shape: tuple[int, ...], generator: torch.Generator | None, device: torch.device) -> Tensor:
        """Training noise levels."""
        noise = torch.randn(shape, generator=generator, device=device)
        return (self.log_mean + self.log_std * noise).exp()

    def scalings(self, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(c_skip, c_out, c_in); c_noise is ln σ / 4."""
        total = sigma**2 + self.sigma_data**2
        return self.sigma_data**2 / total, sigma * self.sigma_data * total.rsqrt(), total.rsqrt()

    def weight(self, sigma: Tensor) -> Tensor:
        """λ(σ) that makes the effective loss of every σ one at initialisation."""
        return (sigma**2 + self.sigma_data**2) / (sigma * self.sigma_data) ** 2

    def grid(self, steps: int, sigma_max: float | None = None) -> list[float]:
        """`steps` decreasing noise levels; the step after the last goes to 0."""
        top, low = (sigma_max or self.sigma_max) ** (1 / self.rho), self.sigma_min ** (1 / self.rho)
        return [(top + i / max(steps - 1, 1) * (low - top)) ** self.rho for i in range(steps)]


def solve(
    denoise: Denoiser,
    x: Float[Tensor, "*b k"],
    grid: list[float],
    solver: str = "2m",
    noise: Callable[[int], Tensor] | None = None,
    churn: float = 1.0,
) -> Float[Tensor, "*b k"]:
    """Integrate from noise level grid[0] to 0.

    Args:
        denoise: the network, given x and the noise level of all of it; called len(grid) times by "2m" and "sde",
             2 len(grid) - 1 times by "heun".
        x: start, already at noise level grid[0].
        solver: "2m" (DPM-Solver++ multistep), "heun" (EDM algorithm 1), "sde" (ancestral, with `noise`).
        noise: step -> standard normal of the shape of x; needed by "sde".
        churn: noise temperature of "sde": every fresh noise is multiplied by it.

    Raises:
        ValueError: unknown solver.
    """
    if solver not in ("2m", "heun", "sde"):
        raise ValueError(f"solve: expected solver 2m, heun or sde, got {solver!r}")
    previous: Tensor | None = None
    h_previous = 0.0
    for i, sigma in enumerate(grid):
        clean = denoise(x, sigma)
        if i + 1 == len(grid):
            return clean
        following = grid[i + 1]
        if solver == "sde":
            assert noise is not None
            # exact ancestral step: x_s | x_t, x_0 for σ_s < σ_t
            ratio = following**2 / sigma**2
            x = ratio * x + (1 - ratio) * clean + churn * following * math.sqrt(1 - ratio) * noise(i)
        elif solver == "heun":
            slope = (x - clean) / sigma
            trial = x + (following - sigma) * slope
            x = x + (following - sigma) * 0.5 * (slope + (trial - denoise(trial, following)) / following)
        else:
            h = math.log(sigma / following)
            estimate = clean
            if previous is not None:
                r = h_previous / h
                estimate = (1 + 1 / (2 * r)) * clean - 1 / (2 * r) * previous
            x = following / sigma * x - math.expm1(-h) * estimate
            previous, h_previous = clean, h
    return x


def log_likelihood(denoise: Denoiser, x: Float[Tensor, "*b 3"], grid: list[float]) -> Float[Tensor, "*b"]:
    """ln p(x) in nats by the probability-flow ODE from grid[-1] up to grid[0], with the exact 3 × 3 divergence.

    The density at grid[0] is taken as N(0, σ²); Heun steps. Source: Song et al. 2021, eq. 39; EDM eq. 4.
    """
    levels = grid[::-1]

    def slope(state: Tensor, sigma: float) -> tuple[Tensor, Tensor]:
        field = lambda s: (s - denoise(s, sigma)) / sigma  # noqa: E731
        divergence = torch.zeros_like(state[..., 0])
        value = state
        for axis in range(state.shape[-1]):
            direction = torch.zeros_like(state)
            direction[..., axis] = 1
            value, push = torch.func.jvp(field, (state,), (direction,))[:2]
            divergence = divergence + push[..., axis]
        return value, divergence

    state, log_det = x, torch.zeros_like(x[..., 0])
    for low, high in zip(levels, levels[1:], strict=False):
        first, div_first = slope(state, low)
        second, div_second = slope(state + (high - low) * first, high)
        state = state + (high - low) * 0.5 * (first + second)
        log_det = log_det + (high - low) * 0.5 * (div_first + div_second)
    top = levels[-1]
    prior = -0.5 * (state / top).square().sum(-1) - state.shape[-1] * (math.log(top) + 0.5 * math.log(2 * math.pi))
    return prior + log_det


def likelihood_bound(
    denoise: Denoiser,
    x: Float[Tensor, "*b k"],
    noise: Float[Tensor, "*b k"],
    low: float,
    high: float,
    levels: int,
    used: Bool[Tensor, "*b k"] | None = None,
) -> Float[Tensor, "*b"]:
    """A lower bound of ln p(x) in nats by one denoising error per noise level; the expectation over `noise` is the bound.

    ln p(x) ≥ -k/2 ln(2πe low²) - |x|²/(2 high²) - ∫ E|x - D(x + σε)|²/σ² d ln σ: Kingma et al. 2021 (VDM), eq. 15 with SNR = σ⁻².
    Levels are the midpoints of `levels` equal steps of ln σ from `low` to `high`; the sign of ε alternates and its length is set to √k,
    because at small σ the error is |ε|²: its chance deviation from k would say nothing about x. Numbers that are not `used` are no
    part of x: they count as known to the lowest level, so that vectors of different length can be compared.
    """
    if used is None:
        noise = noise * (noise.shape[-1] ** 0.5 / noise.norm(dim=-1, keepdim=True))
    else:
        noise = noise * used * (used.sum(-1, keepdim=True) ** 0.5 / (noise * used).norm(dim=-1, keepdim=True).clamp(min=1e-9))
    step = math.log(high / low) / levels
    error = torch.zeros_like(x[..., 0])
    for i in range(levels):
        sigma = low * math.exp((i + 0.5) * step)
        off = (x - denoise(x + (-1) ** i * sigma * noise, sigma)) / sigma
        error = error + (off if used is None else off * used).square().sum(-1)
    size = x.shape[-1]
    return -0.5 * size * (math.log(2 * math.pi * math.e) + 2 * math.log(low)) - (x / high).square().sum(-1) / 2 - step * error


@dataclass(frozen=True, slots=True)
class Cosine:
    """The published parametrisation as a baseline: ε-prediction under the cosine schedule of 1000 steps, raw Å.

    Written in σ-space (x = x₀ + σ ε, σ = √((1-ᾱ)/ᾱ)), so that the same solvers serve; see UniGenX §2.4.
    """

    steps: int = 1000
    sigma_max: float = 32.0
    sigma_min: float = 0.0064

    def sigmas(self, shape: tuple[int, ...], generator: torch.Generator | None, device: torch.device) -> Tensor:
        """σ of uniform integer times."""
        t = torch.randint(1, self.steps, shape, generator=generator, device=device)
        return ((t + 1) / self.steps + 0.008).div(1.008).mul(math.pi / 2).tan().clamp(self.sigma_min, 200.0)

    def scalings(self, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """D = x - σ ε(x / √(1+σ²)): c_skip 1, c_out -σ (F is ε), c_in 1/√(1+σ²)."""
        return torch.ones_like(sigma), -sigma, (1 + sigma**2).rsqrt()

    def weight(self, sigma: Tensor) -> Tensor:
        """Plain mean-squared error on ε."""
        return sigma**-2

    def grid(self, steps: int, sigma_max: float | None = None) -> list[float]:
        """`steps` noise levels, uniform in log-SNR."""
        top, low = math.log(sigma_max or self.sigma_max), math.log(self.sigma_min)
        return [math.exp(top + i / max(steps - 1, 1) * (low - top)) for i in range(steps)]
