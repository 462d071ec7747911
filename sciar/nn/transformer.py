"""Pre-norm transformer blocks whose attention takes a bias and values from pairs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

Cache = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]  # (key, value) of new tokens -> keys and values (b, h, n, d/h) of all


@runtime_checkable
class Turn(Protocol):
    """What positions do to attention (see rotary.py): queries, keys and values are turned before it, its result after it."""

    def __call__(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]: ...

    def back(self, mixed: Tensor) -> Tensor: ...


class Attention(nn.Module):
    """Multi-head attention with an additive bias per head and, optionally, values that belong to pairs.

    out_i = Σ_j softmax_j(q_i·k_j/√d + a_i·pair_ij + bias_ij) (v_j ⊕ pair_ij): the pair part of the values is how a token reads
    where another atom lies (as in AlphaFold's invariant point attention, with explicit pair features). With `asks`, a_i is a
    second query, for pairs (the content-position term of Dai et al. 2019, eq. 5, with features for positions); else it is 0.
    """

    def __init__(self, width: int, heads: int, pair: int = 0, asks: bool = False) -> None:
        super().__init__()
        self.heads, self.pair = heads, pair
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        if asks:
            self.asks = nn.Linear(width, heads * pair, bias=False)
        self.out = nn.Linear(width + heads * pair, width, bias=False)

    def forward(
        self,
        x: Float[Tensor, "b q d"],
        bias: Float[Tensor, "#b #h q k"] | None,
        pair: Float[Tensor, "b q k p"] | None = None,
        cache: Cache | None = None,
        causal: bool = False,
        turn: Turn | None = None,
    ) -> Float[Tensor, "b q d"]:
        """With a `cache`, q are the new tokens and the cache answers their keys and values with those of all tokens so far."""
        b, q, d = x.shape
        query, key, value = self.qkv(x).view(b, q, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        if turn is not None:
            query, key, value = turn(query, key, value)
        if cache is not None:
            key, value = cache(key, value)
        if pair is None:
            mixed = _attend(query, key, value, bias, causal)
            if turn is not None:
                mixed = turn.back(mixed)
            return self.out(mixed.transpose(1, 2).reshape(b, q, d))
        logits = query @ key.transpose(-1, -2) * (d // self.heads) ** -0.5
        if hasattr(self, "asks"):
            asked = self.asks(x).view(b, q, self.heads, self.pair) @ pair.transpose(-1, -2)
            logits = logits + asked.transpose(1, 2) * self.pair**-0.5
        if bias is not None:
            logits = logits.float() + bias
        weights = (logits.float()).softmax(-1).to(value.dtype)
        own = weights @ value
        if turn is not None:
            own = turn.back(own)
        own = own.transpose(1, 2).reshape(b, q, d)
        seen = (weights.transpose(1, 2) @ pair.to(value.dtype)).reshape(b, q, self.heads * self.pair)
        return self.out(torch.cat([own, seen], -1))


def _attend(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, causal: bool) -> Tensor:
    """Plain attention; on a CPU in fp32, whose kernels are 3.6 (training, 72 tokens) to 4.8 times (one new token) faster than bf16."""
    with torch.autocast(query.device.type, enabled=False):
        kind = torch.float32 if query.device.type == "cpu" else query.dtype
        query, key, value = query.to(kind), key.to(kind), value.to(kind)
        return F.scaled_dot_product_attention(query, key, value, attn_mask=None if bias is None else bias.to(kind), is_causal=causal)


class Block(nn.Module):
    """x += attention(norm x); x += SwiGLU(norm x)."""

    def __init__(self, width: int, heads: int, pair: int = 0, asks: bool = False, expansion: float = 8 / 3) -> None:
        super().__init__()
        hidden = int(-(-width * expansion // 32) * 32)
        self.norm_attention, self.norm_feed = nn.RMSNorm(width, eps=1e-6), nn.RMSNorm(width, eps=1e-6)
        self.attention = Attention(width, heads, pair, asks)
        self.feed_in, self.feed_out = nn.Linear(width, 2 * hidden, bias=False), nn.Linear(hidden, width, bias=False)

    def forward(
        self,
        x: Tensor,
        bias: Tensor | None,
        pair: Tensor | None = None,
        cache: Cache | None = None,
        causal: bool = False,
        turn: Turn | None = None,
    ) -> Tensor:
        x = x + self.attention(self.norm_attention(x), bias, pair, cache, causal, turn)
        gate, up = self.feed_in(self.norm_feed(x)).chunk(2, -1)
        return x + self.feed_out(F.silu(gate) * up)


def initialise(module: nn.Module, layers: int) -> None:
    """Linear and embedding weights N(0, 0.02²)-like at width 512; residual outputs shrunk by √(2 layers)."""
    for name, part in module.named_modules():
        if isinstance(part, nn.Linear):
            std = part.in_features**-0.5
            if name.endswith((".out", ".feed_out")):
                std /= (2 * layers) ** 0.5
            nn.init.normal_(part.weight, std=std)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
        elif isinstance(part, nn.Embedding):
            nn.init.normal_(part.weight, std=0.5)
