"""Discrete diffusion: classes that are kept with probability ᾱ_t or else drawn anew from a fixed law m.

q(x_t | x_0) = ᾱ_t δ(x_0) + (1 - ᾱ_t) m. The kernel is the choice of m: all classes alike (uniform), as often as in the
data (marginal), as often as the block at hand lets one expect (block-aware), or always one extra class (absorbing).
All posteriors are closed forms for any pair of times s < t; no class × class matrix is made.

Sources: Austin et al. 2021 (D3PM), Zhao et al. 2024 (USD3, arXiv 2402.03701), Seo et al. 2025 (SID), Ou et al. 2024
(RADD, arXiv 2406.03736), Sahoo et al. 2024 (MDLM).
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

Law = Float[Tensor, "*b k"]
Noise = Float[Tensor, "*m k"]  # m, alike for all variables or one for each


def cosine(t: Float[Tensor, "*b"], offset: float = 0.008) -> Float[Tensor, "*b"]:
    """ᾱ at time t in [0, 1]: cos(½π (t + o) / (1 + o)), 1 at t = 0; not squared, as in PARD."""
    start = math.cos(0.5 * math.pi * offset / (1 + offset))
    return (torch.cos(0.5 * math.pi * (t + offset) / (1 + offset)) / start).clamp(1e-10, 1 - 1e-10)


def uniform(classes: int) -> Float[Tensor, "k"]:
    """Every class alike."""
    return torch.full((classes,), 1 / classes)


def absorbing(classes: int) -> Float[Tensor, "k"]:
    """`classes` true classes and one more, the mask, which takes everything."""
    return torch.cat([torch.zeros(classes), torch.ones(1)])


def block_aware(present: Float[Tensor, "*b"], split: Float[Tensor, "e"]) -> Law:
    """No edge with probability 1 - present, else an edge class as often as `split` says; class 0 is none, e edge classes follow."""
    present = present.clamp(0.0, 1.0)[..., None]
    return torch.cat([1 - present, present * split], -1)


def draw(law: Law, uniforms: Float[Tensor, "*b"]) -> Int[Tensor, "*b"]:
    """Classes by inverse distribution function, so that a caller's uniform numbers decide alone."""
    edges = law.double().cumsum(-1)
    return (edges <= uniforms.double()[..., None] * edges[..., -1:]).sum(-1).clamp(max=law.shape[-1] - 1)


def noised(x: Int[Tensor, "*b"], alpha: Float[Tensor, "*b"], m: Noise, uniforms: Float[Tensor, "*b 2"]) -> Int[Tensor, "*b"]:
    """x_t of clean classes; two uniform numbers each: kept or not, and what instead."""
    return torch.where(uniforms[..., 0] < alpha, x, draw(m.expand(*x.shape, m.shape[-1]), uniforms[..., 1]))


def posterior(x_t: Int[Tensor, "*b"], clean: Law, alpha_t: Float[Tensor, "*b"], alpha_s: Float[Tensor, "*b"], m: Noise) -> Law:
    """q(x_s | x_t, x_0) averaged over x_0 ~ `clean` *as if* x_0 were independent of x_t given it: the reverse kernel.

    For one-hot `clean` it is the exact posterior. With f = clean, α = ᾱ_t/ᾱ_s and μ = (1-ᾱ_s)/(1-ᾱ_t):
    (1-μ) f + [μα + g] δ(x_t) + [μ(1-α) - g] m, with g = μα(ᾱ_s-ᾱ_t) f(x_t) / (ᾱ_t + (1-ᾱ_t) m(x_t)).
    """
    a_t, a_s = alpha_t[..., None], alpha_s[..., None]
    m = m.expand_as(clean)
    here = torch.nn.functional.one_hot(x_t, clean.shape[-1]).to(clean.dtype)
    m_x, f_x = (m * here).sum(-1, keepdim=True), (clean * here).sum(-1, keepdim=True)
    alpha, mu = a_t / a_s, (1 - a_s) / (1 - a_t)
    g = mu * alpha * (a_s - a_t) * f_x / (a_t + (1 - a_t) * m_x)
    return ((1 - mu) * clean + (mu * alpha + g) * here + (mu * (1 - alpha) - g) * m).clamp(min=0)


def renoised(clean: Law, alpha_s: Float[Tensor, "*b"], m: Noise) -> Law:
    """SID's step: predict clean, noise again independently of x_t: ᾱ_s f + (1-ᾱ_s) m. Errors can be mended later."""
    a_s = alpha_s[..., None]
    return a_s * clean + (1 - a_s) * m


def divergence(
    logits: Float[Tensor, "*b k"],
    x: Int[Tensor, "*b"],
    x_t: Int[Tensor, "*b"],
    alpha_t: Float[Tensor, "*b"],
    alpha_s: Float[Tensor, "*b"],
    m: Noise,
    cross_entropy: float = 0.1,
) -> Float[Tensor, "*b"]:
    """KL(posterior ‖ reverse kernel) + `cross_entropy` × -ln f(x_0), nats per variable; PARD's loss for s ≥ 1.

    At s = 0 (ᾱ_s ≈ 1) the first term is itself -ln f(x_0).
    """
    clean = logits.log_softmax(-1)
    truth = torch.nn.functional.one_hot(x, logits.shape[-1]).to(clean.dtype)
    wanted = posterior(x_t, truth, alpha_t, alpha_s, m).clamp(min=1e-12)
    given = posterior(x_t, clean.exp(), alpha_t, alpha_s, m).clamp(min=1e-12)
    return (wanted * (wanted.log() - given.log())).sum(-1) - cross_entropy * (clean * truth).sum(-1)


def any_order(total: Int[Tensor, "*b"], uniforms: Float[Tensor, "*b"]) -> tuple[Int[Tensor, "*b"], Float[Tensor, "*b"]]:
    """How many of `total` variables to mask, uniform in 1 … total, and the weight total/masked of the sum over the masked.

    This is RADD's k-form of the absorbing objective: weight × Σ_masked CE is an unbiased estimate of the negative
    log-likelihood of drawing the variables one by one in random order. The network needs no time.
    """
    masked = (1 + (uniforms * total).floor().long()).clamp(max=total).clamp(min=1)
    return masked, total / masked


def masked_cross_entropy(
    logits: Float[Tensor, "*b n k"], x: Int[Tensor, "*b n"], masked: torch.Tensor, weight: Float[Tensor, "*b"]
) -> Float[Tensor, "*b"]:
    """weight × Σ_masked -ln p(x): RADD/MDLM's loss of one record; `masked` (*b n) is boolean."""
    losses = -logits.log_softmax(-1).gather(-1, x[..., None])[..., 0]
    return weight * (losses * masked).sum(-1)


def expected_calls(variables: int, steps: int) -> float:
    """Network calls of the cached absorbing sampler, which calls only where something changed: n (1 - (1 - 1/n)^L)."""
    return float(steps * (1 - (1 - 1 / steps) ** variables))
