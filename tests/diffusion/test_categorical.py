"""Closed forms against brute force with matrices, the objective against enumeration, samplers against an oracle."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sciar.diffusion import categorical as c


def kernel(alpha: float, m: torch.Tensor) -> torch.Tensor:
    """q(x_t | x_0) as a matrix: row = x_0."""
    return alpha * torch.eye(len(m), dtype=torch.double) + (1 - alpha) * m[None].double()


LAWS = {
    "uniform": c.uniform(4),
    "marginal": torch.tensor([0.7, 0.2, 0.06, 0.04]),
    "block": c.block_aware(torch.tensor(0.3), torch.tensor([0.5, 0.3, 0.2])),
    "absorbing": c.absorbing(3),
}


@pytest.mark.parametrize("name", LAWS)
@pytest.mark.parametrize(("late", "early"), [(0.2, 0.6), (0.01, 0.02), (0.5, 0.99)])
def test_the_posterior_is_bayes_rule(name: str, late: float, early: float) -> None:
    m = LAWS[name].double()
    k = len(m)
    forward = kernel(late / early, m)  # q(x_t | x_s): the same form with ᾱ_t/ᾱ_s
    assert torch.allclose(kernel(early, m) @ forward, kernel(late, m))
    for x_0, x_t in itertools.product(range(k), range(k)):
        joint = kernel(early, m)[x_0] * forward[:, x_t]
        if joint.sum() < 1e-12:
            continue
        clean = torch.nn.functional.one_hot(torch.tensor(x_0), k).double()
        got = c.posterior(torch.tensor(x_t), clean, torch.tensor(late).double(), torch.tensor(early).double(), m)
        assert torch.allclose(got, joint / joint.sum(), atol=1e-6)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.floats(0.01, 1.0), min_size=4, max_size=4), st.integers(0, 3))
def test_the_reverse_kernel_is_the_average_over_predicted_classes(weights: list[float], x_t: int) -> None:
    """Σ_x0 f(x0) q(x_s | x_t, x0) for every f."""
    m, f = LAWS["marginal"].double(), torch.tensor(weights).double()
    f = f / f.sum()
    t, s = torch.tensor(0.3).double(), torch.tensor(0.7).double()
    parts = [c.posterior(torch.tensor(x_t), row, t, s, m) for row in torch.eye(4, dtype=torch.double)]
    whole = c.posterior(torch.tensor(x_t), f, t, s, m)
    assert torch.allclose(whole, sum(w * p for w, p in zip(f, parts, strict=True)), atol=1e-9) and abs(whole.sum() - 1) < 1e-7


def test_the_schedule_falls_from_one_to_nothing() -> None:
    alpha = c.cosine(torch.linspace(0, 1, 51))
    assert alpha[0] > 0.999 and alpha[-1] < 0.02 and (alpha.diff() < 0).all()


def test_noise_keeps_with_alpha_and_ends_in_its_law() -> None:
    uniforms = torch.rand(100_000, 2, generator=torch.Generator().manual_seed(0))
    x = torch.full((100_000,), 2)
    m = LAWS["marginal"]
    for alpha in (0.0, 0.6):
        noised = c.noised(x, torch.full((100_000,), alpha), m, uniforms)
        share = torch.bincount(noised, minlength=4) / 100_000
        expected = (1 - alpha) * m + alpha * torch.tensor([0.0, 0.0, 1.0, 0.0])
        assert (share - expected).abs().max() < 0.006


def test_block_aware_law_expects_the_degree() -> None:
    law = c.block_aware(torch.tensor([2 / 5, 7 / 5]), torch.tensor([0.5, 0.3, 0.2]))
    assert torch.allclose(law.sum(-1), torch.ones(2)) and torch.isclose(1 - law[0, 0], torch.tensor(0.4)) and law[1, 0] == 0


@pytest.mark.parametrize("sampler", ["posterior", "sid"])
def test_an_oracle_leads_to_the_data(sampler: str) -> None:
    generator, steps, m = torch.Generator().manual_seed(1), 12, LAWS["marginal"]
    data = torch.tensor([0, 3, 1, 2] * 50)
    clean = torch.nn.functional.one_hot(data, 4).float()
    x = c.draw(m.expand(200, 4), torch.rand(200, generator=generator))
    for t in range(steps, 0, -1):
        now, then = (c.cosine(torch.full((200,), k / steps)) for k in (t, t - 1))
        law = c.renoised(clean, then, m) if sampler == "sid" else c.posterior(x, clean, now, then, m)
        x = c.draw(law if t > 1 else clean, torch.rand(200, generator=generator))
    assert torch.equal(x, data)


def test_a_perfect_network_has_no_divergence() -> None:
    x = torch.tensor([0, 1, 2, 3])
    logits = 50.0 * torch.nn.functional.one_hot(x, 4).float()
    levels = torch.tensor([0.1, 0.3, 0.5, 0.9]), torch.tensor([0.4, 0.6, 0.8, 0.99])
    assert c.divergence(logits, x, torch.tensor([3, 1, 0, 2]), *levels, LAWS["uniform"]).abs().max() < 1e-4
    assert (c.divergence(torch.zeros(4, 4), x, x, *levels, LAWS["uniform"]) > 0.05).all()


def test_the_any_order_objective_is_the_likelihood_of_random_orders() -> None:
    """Two variables of two classes with a known joint law: the expected loss is the mean over both orders of -ln p."""
    joint = torch.tensor([[0.4, 0.1], [0.2, 0.3]])
    truth = torch.tensor([0, 1])
    first = joint.sum(1), joint.sum(0)

    def conditional(shown: list[bool]) -> torch.Tensor:
        laws = [first[0] if not shown[1] else joint[:, truth[1]], first[1] if not shown[0] else joint[truth[0]]]
        return torch.stack([law / law.sum() for law in laws]).log()

    total = 0.0
    for k in (1, 2):
        masked, weight = c.any_order(torch.tensor(2), torch.tensor((k - 0.5) / 2))
        assert int(masked) == k
        subsets = list(itertools.combinations(range(2), k))
        for hidden in subsets:
            mask = torch.tensor([i in hidden for i in range(2)])
            loss = c.masked_cross_entropy(conditional((~mask).tolist()), truth, mask, weight)
            total += float(loss) / len(subsets) / 2
    assert abs(total + float(joint[0, 1].log())) < 1e-5


def test_expected_calls_are_those_of_the_reference() -> None:
    assert [round(c.expected_calls(24, n), 1) for n in (8, 16, 50)] == [7.7, 12.6, 19.2]
