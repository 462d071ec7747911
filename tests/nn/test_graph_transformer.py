"""Causal in blocks to the last bit, equivariant, and the same row by row with a cache."""

from __future__ import annotations

import pytest
import torch

from sciar.nn.graph_transformer import GraphTransformer, Memory, NewPairs, PairList

N, WIDTH, PAIR = 9, 32, 8


@pytest.fixture(scope="module")
def network() -> GraphTransformer:
    torch.manual_seed(0)
    return GraphTransformer(WIDTH, PAIR, 4, 3).eval()


def inputs(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    e = torch.randn(1, N, N, PAIR, generator=generator)
    return torch.randn(1, N, WIDTH, generator=generator), e + e.transpose(1, 2)


def whole(network: GraphTransformer, x: torch.Tensor, e: torch.Tensor, sees: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """One pass over whole graphs; pairs come back as a table, zero where nothing is seen."""
    pairs = PairList(sees)
    x, e = network(x, pairs.pick(e), pairs)
    return x, pairs.by_row(e)


LEVEL = torch.tensor([0, 0, 1, 1, 1, 2, 3, 3, 4])
SEES = (LEVEL[None, :] <= LEVEL[:, None])[None]


@torch.no_grad()
def test_later_nodes_change_nothing(network: GraphTransformer) -> None:
    x, e = inputs()
    before = whole(network, x, e, SEES)
    for level in (1, 2, 3, 4):
        late = level <= LEVEL
        y, f = x.clone(), e.clone()
        y[0, late] += 1.0
        f[0, late] += 1.0
        f[0, :, late] += 1.0
        after = whole(network, y, f, SEES)
        early = ~late
        assert torch.equal(before[0][0, early], after[0][0, early])
        assert torch.equal(before[1][0][early][:, early], after[1][0][early][:, early])
        assert not torch.allclose(before[0][0, late], after[0][0, late])


@torch.no_grad()
def test_relabelling_relabels(network: GraphTransformer) -> None:
    x, e = inputs(1)
    h, f = whole(network, x, e, SEES)
    mutual = (SEES & SEES.transpose(1, 2))[..., None]
    assert torch.equal(f * mutual, (f * mutual).transpose(1, 2))
    p = torch.randperm(N, generator=torch.Generator().manual_seed(2))
    moved = whole(network, x[:, p], e[:, p][:, :, p], SEES[:, p][:, :, p])
    assert (moved[0] - h[:, p]).abs().max() < 1e-4 and (moved[1] - f[:, p][:, :, p]).abs().max() < 1e-4


@torch.no_grad()
def test_cached_equals_full_forward(network: GraphTransformer) -> None:
    """Two graphs at different places of one cache, block by block; rows that are padding change nothing."""
    x, e = inputs(3)
    full, pairs = whole(network, x, e, SEES)
    memories = [Memory.empty(2, N, 2 * WIDTH + PAIR, PAIR, torch.device("cpu")) for _ in network.layers]
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
        new = NewPairs(at, sees)
        h, f = network(some, new.pick(between), [new.of(memory) for memory in memories])
        f = new.by_row(f)
        worst = max(worst, (h[:, :-1] - full[:, a:b]).abs().max().item(), (f[:, :-1] - pairs[:, a:b, :b]).abs().max().item())
    assert worst < 1e-5


@torch.no_grad()
def test_an_item_alone_is_the_item_in_a_padded_batch(network: GraphTransformer) -> None:
    x, e = inputs(4)
    y, f = (torch.cat([x, torch.randn(1, 2, WIDTH)], 1), torch.randn(1, N + 2, N + 2, PAIR))
    f[:, :N, :N] = e
    sees = torch.eye(N + 2, dtype=torch.bool)[None].clone()
    sees[:, :N, :N] = SEES
    alone, padded = whole(network, x, e, SEES)[0], whole(network, y, f, sees)[0]
    assert (alone - padded[:, :N]).abs().max() < 1e-5


def test_a_list_of_pairs_is_a_full_table() -> None:
    """Values and gradients of what `PairList` does with the pairs, against einsum over tables with masks."""
    generator = torch.Generator().manual_seed(5)
    table = torch.randn(2, N, N, PAIR, generator=generator, dtype=torch.float64)
    table = table + table.transpose(1, 2)
    sees = torch.cat([SEES, SEES.clone()])
    sees[1, 7:] = sees[1, :, 7:] = False
    sees[1] |= torch.eye(N, dtype=torch.bool)
    pairs = PairList(sees)
    listed = pairs.pick(table).clone().requires_grad_()
    known = (sees | sees.transpose(1, 2))[..., None]
    full = (table * known).clone().requires_grad_()

    product = torch.einsum("bikp,bkjp->bijp", full * sees[..., None], full) * sees.sum(-1)[:, :, None, None].rsqrt()
    assert torch.allclose(pairs.by_row(listed), full * sees[..., None])
    assert torch.allclose(pairs.by_row(pairs.product(listed)), product * sees[..., None])

    weight = torch.randn(2, N, N, PAIR, generator=generator, dtype=torch.float64)
    mutual = sees & sees.transpose(1, 2)
    once = sees & ~(mutual & torch.ones(N, N, dtype=torch.bool).triu(1))
    (pairs.product(listed) * pairs.pick(weight)).sum().backward()
    (product * weight * once[..., None]).sum().backward()
    both_ways = full.grad + full.grad.transpose(1, 2) * (1 - torch.eye(N, dtype=torch.float64))[..., None]
    assert torch.allclose(listed.grad, pairs.pick(both_ways))
