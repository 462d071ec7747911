"""A transformer over the nodes *and* pairs of a graph, causal in blocks, with a cache of what is finished.

A node sees nodes; a pair belongs to the later of its two nodes and sees what that node sees. Pair states are symmetric,
e_ij = e_ji, so each is kept once, in a list of the pairs that some node sees: of whole graphs in training, of new nodes in sampling.
Sources: edge-augmented attention, Hussain et al. 2022 (EGT) and Ma et al. 2023 (GRIT); matrix product over pairs, Maron et al. 2019
(PPGN) in the causal form of PARD (Zhao et al. 2024). For symmetric factors one product P·P says as much as P·Q + Q·P, by polarisation.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor, nn


@runtime_checkable
class Pairs(Protocol):
    """The R rows (nodes) of tables of r rows, the P pairs of rows and c columns that a layer works on, and how nodes and pairs meet.

    `sees`: what each row attends to (b r c).
    """

    sees: Tensor

    def listed(self, table: Float[Tensor, "b r k"]) -> Float[Tensor, "R k"]:
        """The rows that are worked on."""

    def table(self, listed: Float[Tensor, "R k"]) -> Float[Tensor, "b r k"]:
        """Each row in its place; zero where none is worked on."""

    def pick(self, square: Shaped[Tensor, "b r c *k"]) -> Shaped[Tensor, "P *k"]:
        """What a full table says of the pairs."""

    def columns(self, own: Float[Tensor, "R w"]) -> Float[Tensor, "b c w"]:
        """Node projections of every column, the rows' own included."""

    def ends(self, rows: Float[Tensor, "R k"], columns: Float[Tensor, "b c k"]) -> Float[Tensor, "P k"]:
        """Sum of what a pair's two nodes say."""

    def by_row(self, pairs: Float[Tensor, "P k"]) -> Float[Tensor, "b r c k"]:
        """The pairs that each row sees, zero elsewhere."""

    def product(self, factors: Float[Tensor, "P k"]) -> Float[Tensor, "P k"]:
        """R_ij = Σ_k P_ik P_kj / √n over the n columns k that the later of i and j sees."""


class GraphLayer(nn.Module):
    """Attention with pair states, pair product (PPGN), feed-forward of nodes and of pairs; all residual and pre-norm.

    Args:
        width: of the node states. pair: of the pair states and factors. heads: of the attention.
    """

    compiled = True  # by `train.compile`

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

    def forward(self, x: Float[Tensor, "R d"], e: Float[Tensor, "P p"], pairs: Pairs) -> tuple[Float[Tensor, "R d"], Float[Tensor, "P p"]]:
        b, r, _ = pairs.sees.shape
        h = self.norm_node(x)
        own = self.shared(h)
        key, value, mine = pairs.columns(own).split([self.width, self.width, self.pair], -1)
        split = lambda t: t.view(b, -1, self.heads, self.width // self.heads).transpose(1, 2)  # noqa: E731
        gate, bias = self.from_pair(self.norm_pair(e)).chunk(2, -1)
        both = pairs.ends(own[:, 2 * self.width :], mine)
        mixed = F.silu(both * gate + bias + both)
        scores = split(pairs.table(self.query(h))) @ split(key).transpose(-1, -2) * (self.width // self.heads) ** -0.5
        scores = scores.float() + pairs.by_row(self.to_logits(mixed)).permute(0, 3, 1, 2).float()
        weights = scores.masked_fill(~pairs.sees[:, None], -1e9).softmax(-1).to(value.dtype)
        nodes = (weights @ split(value)).transpose(1, 2).reshape(b, r, self.width)
        between = (weights.transpose(1, 2) @ pairs.by_row(mixed).to(weights.dtype)).reshape(b, r, self.heads * self.pair)
        x = x + self.out(pairs.listed(torch.cat([nodes, between], -1)))
        e = e + self.pair_out(mixed)
        z = self.norm_product(e)
        product = pairs.product(F.silu(self.factor(z)))
        e = e + self.pair_feed_out(F.silu(self.pair_in(torch.cat([z, product.to(z.dtype)], -1))))
        gate, up = self.feed_in(self.norm_feed(x)).chunk(2, -1)
        return x + self.feed_out(F.silu(gate) * up), e


class GraphTransformer(nn.Module):
    """A stack of layers with final norms."""

    def __init__(self, width: int, pair: int, heads: int, layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(GraphLayer(width, pair, heads) for _ in range(layers))
        self.norm_node, self.norm_pair = nn.RMSNorm(width, eps=1e-6), nn.LayerNorm(pair, bias=False)

    def forward(self, x: Float[Tensor, "b r d"], e: Tensor, pairs: Pairs | Sequence[Pairs]) -> tuple[Float[Tensor, "b r d"], Tensor]:
        """`e`: states of `pairs`, which is one layout or, with caches, one for each layer. The states of rows that see nothing are zero."""
        if torch.is_autocast_enabled(e.device.type):
            e = e.to(torch.get_autocast_dtype(e.device.type))  # nearly all of the memory traffic
        of = pairs if isinstance(pairs, Sequence) else [pairs] * len(self.layers)
        listed = of[0].listed(x)
        for layer, own in zip(self.layers, of, strict=True):
            listed, e = layer(listed, e, own)
        return of[0].table(self.norm_node(listed)), self.norm_pair(e)


class PairList:
    """`Pairs` of whole graphs, rows = columns: a list of those that some node sees, each once, under its later node.

    Of a graph whose blocks are all trained at once that is about a quarter of the square of its nodes.
    """

    def __init__(self, sees: Bool[Tensor, "b r r"]) -> None:
        b, r, _ = sees.shape
        self.sees = sees
        mutual = sees & sees.transpose(1, 2)
        self._index = (sees & ~(mutual & torch.ones(r, r, dtype=torch.bool, device=sees.device).triu(1))).nonzero().unbind(-1)
        graph, row, column = self._index
        n, cells = len(graph), b * r * r
        self._row, self._column = graph * r + row, graph * r + column
        # which pair stands in a cell, the number after the last one for none; and the other way round, with what counts of a mirrored cell
        self._cell, mirrored = self._row * r + column, self._column * r + row
        own, none = torch.arange(n, device=sees.device), torch.full((cells,), n, device=sees.device)
        self._at = none.scatter(0, self._cell, own)
        self._known = _Table(self._at.scatter(0, mirrored, own), self._cell, mirrored, row != column)
        twice = mutual[self._index] & (row != column)
        self._seen = _Table(self._at.scatter(0, mirrored[twice], own[twice]), self._cell, mirrored, twice)
        self._scale = sees.sum(-1).float().flatten()[self._row].rsqrt()

    def listed(self, table: Tensor) -> Tensor:
        return table.flatten(0, 1)  # all: hardly any is padding

    def table(self, listed: Tensor) -> Tensor:
        return listed.unflatten(0, self.sees.shape[:2])

    def pick(self, square: Shaped[Tensor, "b r r *k"]) -> Shaped[Tensor, "P *k"]:
        """What a full table says of the pairs."""
        return square[self._index]

    def columns(self, own: Tensor) -> Tensor:
        return self.table(own)

    def ends(self, rows: Tensor, columns: Tensor) -> Tensor:
        return F.embedding(self._row, rows) + F.embedding(self._column, columns.flatten(0, 1))

    def by_row(self, pairs: Tensor) -> Tensor:
        made: Tensor = _Spread.apply(pairs, self._seen, 0)
        return made.view(*self.sees.shape, -1)

    def product(self, factors: Tensor) -> Tensor:
        flat = factors.t().contiguous()
        seen, known = (_Spread.apply(flat, table, 1).view(-1, *self.sees.shape[1:]) for table in (self._seen, self._known))
        made: Tensor = _Collect.apply((seen @ known).view(len(flat), -1), self._cell, self._at)
        return (made * self._scale).t()


@dataclass(frozen=True, slots=True, eq=False)
class _Table:
    """Cells filled with pairs: the pair of each cell (n = none), and each pair's one or two cells.

    Args:
        at: by cell. cell, mirrored: by pair. twice: whether the mirrored cell is filled as well.
    """

    at: Int[Tensor, "m"]
    cell: Int[Tensor, "n"]
    mirrored: Int[Tensor, "n"]
    twice: Bool[Tensor, "n"]


class _Spread(torch.autograd.Function):
    """Pairs along `dim` → cells. Its gradient gathers too: on a CPU several times faster than adding up scattered rows."""

    @staticmethod
    def forward(ctx: Any, pairs: Tensor, table: _Table, dim: int) -> Tensor:
        ctx.table, ctx.dim = table, dim
        return _taken(F.pad(pairs, (0, 1) if dim else (0, 0, 0, 1)), table.at, dim)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        table, dim = ctx.table, ctx.dim
        twice = table.twice if dim else table.twice[:, None]
        grad = grad.contiguous()
        return _taken(grad, table.cell, dim) + _taken(grad, table.mirrored, dim) * twice, None, None


class _Collect(torch.autograd.Function):
    """Cells → pairs along the second dimension."""

    @staticmethod
    def forward(ctx: Any, cells: Tensor, cell: Tensor, at: Tensor) -> Tensor:
        ctx.at = at
        return _taken(cells, cell, 1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return _taken(F.pad(grad, (0, 1)), ctx.at, 1), None, None


def _taken(values: Tensor, index: Tensor, dim: int) -> Tensor:
    if dim and values.device.type == "cpu":  # three times as fast as index_select along the second dimension
        return torch.stack([row.index_select(0, index) for row in values])
    return values.index_select(dim, index)


@dataclass(frozen=True, slots=True, eq=False)
class Memory:
    """What one layer keeps of finished nodes: node projections (b c+1 w) and pair factors (b p c+1 c+1); the last column takes padding."""

    nodes: Tensor
    pairs: Tensor

    @classmethod
    def empty(cls, graphs: int, columns: int, width: int, pair: int, device: torch.device, dtype: torch.dtype = torch.float32) -> Memory:
        """Room for `columns` nodes of each graph. `width`, `pair`: of the projections."""
        nodes = torch.zeros(graphs, columns + 1, width, device=device, dtype=dtype)
        return cls(nodes, torch.zeros(graphs, pair, columns + 1, columns + 1, device=device, dtype=dtype))


class NewPairs:
    """`Pairs` of new rows against all columns: a list of those that are seen, of graphs that are at different places.

    Rows that see nothing are padding, half of all where blocks of different sizes are drawn together, and left out.

    Args:
        at: the column that each row becomes, the last one for padding (b r).
        sees: of the first c columns (b r c).
        memory: of the layer, which `of` changes.
    """

    def __init__(self, at: Int[Tensor, "b r"], sees: Bool[Tensor, "b r c"], memory: Memory | None = None) -> None:
        b, r, c = sees.shape
        self.sees, self._memory = sees, memory
        self._index = sees.nonzero().unbind(-1)
        graph, row, column = self._index
        self._real = sees.any(-1).nonzero().unbind(-1)
        place = torch.zeros(b, r, dtype=torch.long, device=sees.device)
        place[self._real] = torch.arange(len(self._real[0]), device=sees.device)
        self._row, self._column = place[graph, row], graph * c + column
        self._table = torch.full((b, r, c), len(graph), device=sees.device)
        self._table[self._index] = torch.arange(len(graph), device=sees.device)
        # what is kept also has pairs that only their later row sees: of a reader and a node that is finished in the same call
        last = int(at.max()) + 1
        wide, own = F.pad(self._table, (0, max(0, last - c)), value=len(graph)), at[:, None].expand(-1, r, -1)
        mutual = wide.gather(2, own)
        wide = wide.scatter(2, own, torch.minimum(mutual, mutual.transpose(1, 2)))
        self._known = wide[:, :, :c][self._real]
        self._place = self._real[0], at[self._real]
        self._scale = sees.sum(-1)[self._real].float()[self._row, None].rsqrt()

    def of(self, memory: Memory) -> NewPairs:
        """The same pairs in another layer."""
        other = copy.copy(self)
        other._memory = memory
        return other

    def listed(self, table: Tensor) -> Tensor:
        return table[self._real]

    def table(self, listed: Tensor) -> Tensor:
        table = listed.new_zeros(*self.sees.shape[:2], listed.shape[-1])
        table[self._real] = listed
        return table

    def pick(self, square: Shaped[Tensor, "b r c *k"]) -> Shaped[Tensor, "P *k"]:
        """What a full table says of the pairs."""
        return square[self._index]

    def columns(self, own: Tensor) -> Tensor:
        kept = self._kept().nodes
        kept[self._place] = own.to(kept.dtype)
        return kept[:, : self.sees.shape[2]].to(own.dtype)

    def ends(self, rows: Tensor, columns: Tensor) -> Tensor:
        return F.embedding(self._row, rows) + F.embedding(self._column, columns.flatten(0, 1))

    def by_row(self, pairs: Tensor) -> Tensor:
        return F.embedding(self._table, F.pad(pairs, (0, 0, 0, 1)))

    def product(self, factors: Tensor) -> Tensor:
        kept, c = self._kept().pairs, self.sees.shape[2]
        known, table = (F.embedding(t, F.pad(factors, (0, 0, 0, 1))) for t in (self._known, self._table))
        for view in (kept.permute(0, 2, 3, 1), kept.permute(0, 3, 2, 1)):
            view[:, :, :c][self._place] = known.to(view.dtype)
        made = table.permute(0, 3, 1, 2) @ kept[:, :, :c, :c].to(table.dtype)
        return made.permute(0, 2, 3, 1)[self._index] * self._scale

    def _kept(self) -> Memory:
        if self._memory is None:
            raise RuntimeError("NewPairs: expected the memory of a layer, got none; use of(memory)")
        return self._memory
