import math

import pytest
import torch

from sciar.diffusion.gaussian import EDM, Cosine, likelihood_bound, log_likelihood, solve


def gaussian_oracle(mean: torch.Tensor, std: float):
    """The exact denoiser of N(mean, std²): E[x₀ | x]."""
    return lambda x, sigma: (std**2 * x + sigma**2 * mean) / (std**2 + sigma**2)


@pytest.mark.parametrize(("solver", "steps"), [("2m", 30), ("heun", 30), ("sde", 400)])
@pytest.mark.parametrize("process", [EDM(sigma_max=80), Cosine()])
def test_an_oracle_network_leads_to_the_data(solver: str, steps: int, process: EDM | Cosine) -> None:
    generator = torch.Generator().manual_seed(0)
    mean, std = torch.tensor([0.5, -1.0, 0.2]), 0.3
    grid = process.grid(steps)
    x = grid[0] * torch.randn(10000, 3, generator=generator)
    x = solve(gaussian_oracle(mean, std), x, grid, solver, lambda i: torch.randn(10000, 3, generator=generator))
    assert torch.allclose(x.mean(0), mean, atol=0.03)
    assert torch.allclose(x.std(0), torch.full((3,), std), rtol=0.05)


def test_a_point_is_reached_exactly() -> None:
    point = torch.tensor([1.0, 2.0, 3.0])
    grid = EDM().grid(8)
    x = solve(lambda x, s: point.expand_as(x), torch.randn(5, 3) * grid[0], grid)
    assert torch.allclose(x, point.expand(5, 3), atol=1e-5)


def test_one_exact_ancestral_step_maps_q_t_to_q_s() -> None:
    generator = torch.Generator().manual_seed(1)
    std, high, low = 0.7, 2.0, 0.8
    n = 200_000
    x_t = torch.randn(n, 3, generator=generator) * math.sqrt(std**2 + high**2)
    seen: list[torch.Tensor] = []

    def denoise(x: torch.Tensor, sigma: float) -> torch.Tensor:
        seen.append(x)
        # a sample of x₀ | x_t, not its mean: then the step is exact in law
        variance = std**2 * sigma**2 / (std**2 + sigma**2)
        return std**2 / (std**2 + sigma**2) * x + math.sqrt(variance) * torch.randn(n, 3, generator=generator)

    solve(denoise, x_t, [high, low], "sde", lambda i: torch.randn(n, 3, generator=generator))
    assert torch.allclose(seen[1].std(0), torch.full((3,), math.sqrt(std**2 + low**2)), rtol=0.01)


def test_likelihood_of_a_gaussian() -> None:
    mean, std = torch.tensor([0.1, 0.0, -0.3]), 0.4
    x = mean + std * torch.randn(64, 3, generator=torch.Generator().manual_seed(2))
    grid = EDM(sigma_min=0.002, sigma_max=80.0).grid(160)
    got = log_likelihood(gaussian_oracle(mean, std), x, grid)
    want = torch.distributions.Normal(mean, std).log_prob(x).sum(-1)
    assert (got - want).abs().max() < 0.03


def test_the_bound_of_a_gaussian_is_near_its_likelihood() -> None:
    mean, std = torch.tensor([0.3, -0.2, 0.1]), 0.5
    x = mean + std * torch.randn(400, 3, generator=torch.Generator().manual_seed(0))
    noise = torch.randn(64, 400, 3, generator=torch.Generator().manual_seed(1))
    got = likelihood_bound(gaussian_oracle(mean, std), x.expand(64, -1, -1), noise, 0.005, 20.0, 64).mean(0)
    exact = torch.distributions.Normal(mean, std).log_prob(x).sum(-1)
    assert (got - exact).abs().mean() < 0.1 and (got - exact).mean() < 0.02


def test_preconditioning_gives_unit_loss_at_initialisation() -> None:
    process = EDM(sigma_data=0.9)
    x = 0.9 * torch.randn(100_000, 3)
    for level in (0.02, 0.3, 3.0):
        sigma = torch.full((100_000,), level)
        skip, _, inside = process.scalings(sigma)
        noisy = x + level * torch.randn_like(x)
        assert abs((inside[:, None] * noisy).std().item() - 1) < 0.02
        assert abs((process.weight(sigma)[:, None] * (skip[:, None] * noisy - x) ** 2).mean().item() - 1) < 0.02


def test_unknown_solver() -> None:
    with pytest.raises(ValueError, match="expected solver"):
        solve(lambda x, s: x, torch.zeros(1, 3), [1.0], "euler")
