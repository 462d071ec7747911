"""Causal in blocks to the last bit, equivariant, and the same row by row with a cache."""

from __future__ import annotations

import pytest
import torch

from sciar.nn.graph_transformer import GraphTransformer, PairCache

N, WIDTH, PAIR = 9, 32, 8


@pytest.fixture(scope="module")
def network() -> GraphTransformer:
    torch.manual_seed(0)
    return GraphTransformer(WIDTH, PAIR, 4, 3).eval()


def inputs(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    e = torch.randn(1, N, N, PAIR, generator=generator)
    return torch.randn(1, N, WIDTH, generator=generator), e + e.transpose(1, 2)


LEVEL = torch.tensor([0, 0, 1, 1, 1, 2, 3, 3, 4])
SEES = (LEVEL[None, :] <= LEVEL[:, None])[None]


@torch.no_grad()
def test_later_nodes_change_nothing(network: GraphTransformer) -> None:
    x, e = inputs()
    before = network(x, e, SEES)
    for level in (1, 2, 3, 4):
        late = level <= LEVEL
        y, f = x.clone(), e.clone()
        y[0, late] += 1.0
        f[0, late] += 1.0
        f[0, :, late] += 1.0
        after = network(y, f, SEES)
        early = ~late
        assert torch.equal(before[0][0, early], after[0][0, early])
        assert torch.equal(before[1][0][early][:, early], after[1][0][early][:, early])
        assert not torch.allclose(before[0][0, late], after[0][0, late])


@torch.no_grad()
def test_pairs_stay_symmetric_and_relabelling_relabels(network: GraphTransformer) -> None:
    x, e = inputs(1)
    h, f = network(x, e, SEES)
    both = (SEES | SEES.transpose(1, 2))[..., None]
    assert ((f - f.transpose(1, 2)) * both).abs().max() < 1e-5
    p = torch.randperm(N, generator=torch.Generator().manual_seed(2))
    moved = network(x[:, p], e[:, p][:, :, p], SEES[:, p][:, :, p])
    assert (moved[0] - h[:, p]).abs().max() < 1e-4 and (moved[1] - f[:, p][:, :, p]).abs().max() < 1e-4


@torch.no_grad()
def test_cached_equals_full_forward(network: GraphTransformer) -> None:
    """Two graphs at different places of one cache, block by block; rows that are padding change nothing."""
    x, e = inputs(3)
    full, pairs = network(x, e, SEES)
    caches = [PairCache(2, N, 2 * WIDTH + PAIR, PAIR, torch.device("cpu")) for _ in network.layers]
    starts = [0, 2, 5, 6, 8, N]
    worst = 0.0
    for a, b in zip(starts, starts[1:], strict=False):
        rows = b - a + 1  # one row too many
        at = torch.full((2, rows), N)
        at[:, : b - a] = torch.arange(a, b)
        some = torch.zeros(2, rows, WIDTH)
        some[:, :-1] = x[:, a:b]
        between = torch.randn(2, rows, b, PAIR)
        between[:, :-1] = e[:, a:b, :b]
        sees = torch.zeros(2, rows, b, dtype=torch.bool)
        sees[:, :-1] = True
        for cache in caches:
            cache.place(at, b)
        h, f = network(some, between, sees, list(caches))
        worst = max(worst, (h[:, :-1] - full[:, a:b]).abs().max().item(), (f[:, :-1] - pairs[:, a:b, :b]).abs().max().item())
    assert worst < 1e-5


@torch.no_grad()
def test_an_item_alone_is_the_item_in_a_padded_batch(network: GraphTransformer) -> None:
    x, e = inputs(4)
    y, f = (torch.cat([x, torch.randn(1, 2, WIDTH)], 1), torch.randn(1, N + 2, N + 2, PAIR))
    f[:, :N, :N] = e
    sees = torch.eye(N + 2, dtype=torch.bool)[None].clone()
    sees[:, :N, :N] = SEES
    alone, padded = network(x, e, SEES)[0], network(y, f, sees)[0]
    assert (alone - padded[:, :N]).abs().max() < 1e-5
