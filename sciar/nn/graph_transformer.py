"""A transformer over the nodes *and* pairs of a graph, causal in blocks, with a cache of what is finished.

A node sees nodes; a pair belongs to the later of its two nodes and sees what that node sees. Pair states are symmetric,
e_ij = e_ji, so rows × columns of them suffice when only some nodes (rows) are new. Sources: edge-augmented attention,
Hussain et al. 2022 (EGT) and Ma et al. 2023 (GRIT); matrix product over pairs, Maron et al. 2019 (PPGN) in the causal form
of PARD (Zhao et al. 2024). For symmetric factors one product P·P says as much as P·Q + Q·P, by polarisation.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn


@runtime_checkable
class Memory(Protocol):
    """What one layer keeps of finished nodes: adds the new rows and answers with all columns."""

    def nodes(self, new: Float[Tensor, "b r w"]) -> Float[Tensor, "b c w"]:
        """Node projections of every column, the rows' own included."""

    def pairs(self, new: Float[Tensor, "b r c p"]) -> Float[Tensor, "b p c c"]:
        """Pair factors of every pair of columns, the rows' own included."""


class GraphLayer(nn.Module):
    """Attention with pair states, pair product (PPGN), feed-forward of nodes and of pairs; all residual and pre-norm.

    Args:
        width: of the node states. pair: of the pair states and factors. heads: of the attention.
    """

    def __init__(self, width: int, pair: int, heads: int) -> None:
        super().__init__()
        self.width, self.pair, self.heads = width, pair, heads
        hidden = int(-(-width * 2 // 32) * 32)
        self.norm_node, self.norm_feed = nn.RMSNorm(width, eps=1e-6), nn.RMSNorm(width, eps=1e-6)
        # pairs are many and narrow: the fused LayerNorm costs a third of RMSNorm's separate steps
        self.norm_pair, self.norm_product = nn.LayerNorm(pair, bias=False), nn.LayerNorm(pair, bias=False)
        self.query = nn.Linear(width, width, bias=False)
        self.shared = nn.Linear(width, 2 * width + pair, bias=False)  # key, value and the node's part in its pairs
        self.from_pair = nn.Linear(pair, 2 * pair)
        self.to_logits = nn.Linear(pair, heads)
        self.out = nn.Linear(width + heads * pair, width, bias=False)
        self.pair_out = nn.Linear(pair, pair, bias=False)
        self.factor = nn.Linear(pair, pair)
        self.pair_in, self.pair_feed_out = nn.Linear(2 * pair, 2 * pair), nn.Linear(2 * pair, pair, bias=False)
        self.feed_in, self.feed_out = nn.Linear(width, 2 * hidden, bias=False), nn.Linear(hidden, width, bias=False)

    def forward(
        self,
        x: Float[Tensor, "b r d"],
        e: Float[Tensor, "b r c p"],
        sees: Bool[Tensor, "b r c"],
        memory: Memory | None = None,
    ) -> tuple[Float[Tensor, "b r d"], Float[Tensor, "b r c p"]]:
        """Without `memory` the rows are all nodes (r = c); with it they are new nodes that see every real column."""
        b, r, c = sees.shape
        h = self.norm_node(x)
        own = self.shared(h)
        every = own if memory is None else memory.nodes(own)
        key, value, mine = every.split([self.width, self.width, self.pair], -1)
        split = lambda t: t.view(b, -1, self.heads, self.width // self.heads).transpose(1, 2)  # noqa: E731
        gate, bias = self.from_pair(self.norm_pair(e)).chunk(2, -1)
        both = own[:, :, None, 2 * self.width :] + mine[:, None]
        mixed = F.silu(both * gate + bias + both)
        scores = split(self.query(h)) @ split(key).transpose(-1, -2) * (self.width // self.heads) ** -0.5
        scores = scores.float() + self.to_logits(mixed).permute(0, 3, 1, 2).float()
        weights = scores.masked_fill(~sees[:, None], -1e9).softmax(-1).to(value.dtype)
        nodes = (weights @ split(value)).transpose(1, 2).reshape(b, r, self.width)
        pairs = (weights.transpose(1, 2) @ mixed.to(weights.dtype)).reshape(b, r, self.heads * self.pair)
        x = x + self.out(torch.cat([nodes, pairs], -1))
        e = e + self.pair_out(mixed)
        e = e + self._product(self.norm_product(e), sees, memory)
        gate, up = self.feed_in(self.norm_feed(x)).chunk(2, -1)
        return x + self.feed_out(F.silu(gate) * up), e

    def _product(self, z: Float[Tensor, "b r c p"], sees: Bool[Tensor, "b r c"], memory: Memory | None) -> Float[Tensor, "b r c p"]:
        """R_ij = Σ_k P_ik P_kj over the k that the later of i and j sees, then the pairs' feed-forward.

        With A = P ⊙ [i sees k] the sum over what i *or* j sees is A P + (A P)ᵀ - A Aᵀ.
        """
        known = sees if memory is not None else sees | sees.transpose(1, 2)
        p = F.silu(self.factor(z)) * known[..., None]
        seen = sees.sum(-1).to(p.dtype)
        if memory is not None:
            product = p.permute(0, 3, 1, 2) @ memory.pairs(p).to(p.dtype)
            count = seen[:, :, None].expand(known.shape)
        else:
            p = p.permute(0, 3, 1, 2)
            a = p * sees[:, None]
            once = a @ p
            product = once + once.transpose(-1, -2) - a @ a.transpose(-1, -2)
            count = torch.maximum(seen[:, :, None], seen[:, None])
        product = product.permute(0, 2, 3, 1) * count.clamp(min=1).rsqrt()[..., None]
        return self.pair_feed_out(F.silu(self.pair_in(torch.cat([z, product.to(z.dtype)], -1))))


class GraphTransformer(nn.Module):
    """A stack of layers with final norms."""

    def __init__(self, width: int, pair: int, heads: int, layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(GraphLayer(width, pair, heads) for _ in range(layers))
        self.norm_node, self.norm_pair = nn.RMSNorm(width, eps=1e-6), nn.LayerNorm(pair, bias=False)

    def forward(
        self, x: Tensor, e: Tensor, sees: Bool[Tensor, "b r c"], memories: list[Memory] | None = None
    ) -> tuple[Float[Tensor, "b r d"], Float[Tensor, "b r c p"]]:
        if torch.is_autocast_enabled(e.device.type):
            e = e.to(torch.get_autocast_dtype(e.device.type))  # nearly all of the memory traffic
        for i, layer in enumerate(self.layers):
            x, e = layer(x, e, sees, None if memories is None else memories[i])
        return self.norm_node(x), self.norm_pair(e)


class PairCache:
    """`Memory` of a batch whose rows are at different places: node k of graph b is column k of row b.

    Args:
        graphs, columns: capacity; one more column takes what is padding. width, pair: of the projections kept.
    """

    def __init__(self, graphs: int, columns: int, width: int, pair: int, device: torch.device, dtype: torch.dtype = torch.float32) -> None:
        self._nodes = torch.zeros(graphs, columns + 1, width, device=device, dtype=dtype)
        self._pairs = torch.zeros(graphs, pair, columns + 1, columns + 1, device=device, dtype=dtype)
        self.spare, self.graphs = columns, torch.arange(graphs, device=device)[:, None]
        self.at: Tensor = self.graphs  # column of each row (b r); `spare` for padding
        self.columns = columns

    def place(self, at: Tensor, columns: int) -> None:
        """Where the next rows are written and how many columns are looked at."""
        self.at, self.columns = at, columns

    def nodes(self, new: Tensor) -> Tensor:
        self._nodes[self.graphs, self.at] = new.to(self._nodes.dtype)
        return self._nodes[:, : self.columns].to(new.dtype)

    def pairs(self, new: Tensor) -> Tensor:
        c = self.columns
        by_row, by_column = self._pairs.permute(0, 2, 3, 1), self._pairs.permute(0, 3, 2, 1)
        for view in (by_row, by_column):
            view[:, :, :c][self.graphs, self.at] = new.to(view.dtype)
        return self._pairs[:, :, :c, :c]
