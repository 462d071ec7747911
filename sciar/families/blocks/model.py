"""The blocks family's network: one causal trunk over nodes and pairs, heads for the next block's header and for its edges.

p(graph) = Π_b p(size, degree, types of block b | earlier blocks) p(edges of block b | earlier blocks, header) · p(stop).
The header is read off the clean states of what is finished. The edges of a block come from a discrete diffusion on
*virtual* nodes: copies that see the finished nodes and each other but whose bonds are masked or noised. Clean nodes carry
no time and see nothing later, so their states are computed once and kept.

With the absorbing kernel a variable is the whole row of a new node: its neighbours given its degree (conditional
Bernoulli law) and the bond orders; rows are revealed in random order (RADD's any-order objective).

Source: PARD (Zhao et al. 2024, arXiv 2402.03687). Ours: one trunk for all heads, true pre-norm, types in the header,
rows instead of single edges, used bonds as input, several random blocks of a graph per step. `kernel="uniform",
steps=50` with the walk key of the tokenizer is nearest to the published system.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor, nn

from sciar.batch import Batch
from sciar.diffusion import categorical, subset
from sciar.errors import InputError
from sciar.families.blocks.finished import Clean, walk_features
from sciar.families.blocks.header import Header
from sciar.families.blocks.tokens import Tokenizer
from sciar.family import Draw, check_choices
from sciar.family import Model as AbstractModel
from sciar.nn.embedding import Fourier
from sciar.nn.graph_transformer import GraphTransformer, PairList, Pairs
from sciar.nn.transformer import initialise
from sciar.prompt import Prompt

KERNELS = ("absorbing", "marginal", "uniform", "block")
MASKED, SELF, NOISED = 4, 5, 6  # pair codes: 0 no bond · 1–3 bond order · masked · itself · 6–9 noised class 0–3
N_CODES = 10
CLEAN, VIRTUAL, READER = 0, 1, 2
MOST_USED, MOST_APART, MOST_LEFT = 8, 16, 16  # clipped counts: bond orders in use, blocks between two nodes, open bonds
MOST_PLACES, MOST_ALIKE = 4, 20  # clipped counts: free places of a node, nodes with equally many


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Sizes and choices; each choice is one row of the ablation table.

    Args:
        width, pair, heads, layers: of the trunk.
        kernel: "absorbing" (rows given the degree) or "marginal", "uniform", "block" (single edges, `steps` noise levels).
        steps: noise levels of a block in training and by default in sampling; not used by the absorbing kernel.
        blocks: random blocks of each graph that are trained per step; 1 is PARD's prefix graph, 0 = all, which doubles the nodes.
        partial: how often a masked row with several open bonds shows some of them.
        walk: random-walk probabilities (RRWP) of up to so many steps as features of finished nodes; 0 = none.
        shown: bonds of the open block that are drawn already count as used, too; else attention has to see that a mate took a last place.
        reader: besides the sum of the states that the finished nodes had when they came, the header knows what a node of its own reads,
            which sees the finished graph as it is at that moment (open valences, degrees).
        places: the network is told the free places of every node, which are the largest bond order sum of its type in the training data
            less what is used, and the header how many nodes have 1, 2, 3, 4 or more of them.
        row_bias: the log-odds of bond orders have a part that a row says whatever the other end is, as a hydrogen has single bonds only.
        count: the header is told how many nodes are still to come; the sampler draws the number first, from the training data.
        unconditional: share of the records whose properties are hidden in training.
    """

    width: int = 128
    pair: int = 32
    heads: int = 8
    layers: int = 6
    kernel: str = "absorbing"
    steps: int = 20
    blocks: int = 0
    partial: float = 0.3
    walk: int = 0
    shown: bool = False
    reader: bool = False
    places: bool = False
    row_bias: bool = False
    count: bool = False
    unconditional: float = 0.2

    def __post_init__(self) -> None:
        check_choices(self, {"kernel": KERNELS})
        if self.width % self.heads:
            raise InputError(f"ModelConfig.heads: expected a divisor of width {self.width}, got {self.heads}")
        if self.steps < 1 or self.blocks < 0 or self.walk < 0:
            raise InputError(f"ModelConfig: expected steps ≥ 1, blocks ≥ 0, walk ≥ 0, got {self.steps}, {self.blocks}, {self.walk}")


@dataclass(frozen=True, slots=True)
class Rows:
    """What the trunk is told of r nodes, against c columns (the rows themselves, or also what is finished).

    Args:
        kind: node type. level: block. role: CLEAN, VIRTUAL (not yet finished) or READER (of the header of block `level`).
        degree: residual degree of the block. left, spent: open bonds and bond orders in use of a virtual node. size: nodes of the block.
        codes: state of each pair. apart: blocks between its nodes. used, near: bond orders and neighbours that the
        earlier node of a pair has in the blocks before the later node's. walks: RRWP features of the pair.
        free: 1 + free places of the earlier node of a pair, 0 where there is none; None where they are not told.
        sees: what each row attends to. time: noise level of each row in [0, 1], 0 where there is none.
    """

    kind: Int[Tensor, "b r"]
    level: Int[Tensor, "b r"]
    role: Int[Tensor, "b r"]
    degree: Int[Tensor, "b r"]
    left: Int[Tensor, "b r"]
    spent: Int[Tensor, "b r"]
    size: Int[Tensor, "b r"]
    codes: Int[Tensor, "b r c"]
    apart: Int[Tensor, "b r c"]
    used: Int[Tensor, "b r c"]
    near: Int[Tensor, "b r c"]
    free: Int[Tensor, "b r c"] | None
    sees: Bool[Tensor, "b r c"]
    walks: Float[Tensor, "b r c w"] | None
    time: Float[Tensor, "b r"]


class Model(AbstractModel):
    """See the module's docstring. `statistics`: from the tokenizer: types, pairs, capacity, mean, std."""

    tokenizer: Tokenizer

    def __init__(self, config: ModelConfig, tokenizer: Tokenizer, statistics: dict[str, Any] | None = None) -> None:
        super().__init__()
        self.config, self.tokenizer, self.statistics = config, tokenizer, statistics or {}
        if config.kernel == "absorbing" and not tokenizer.config.hops:
            raise InputError("ModelConfig.kernel: expected another one than absorbing for hops=0, where a block has no common degree")
        w, p, limits = config.width, config.pair, tokenizer.config
        self.n_types, self.n_orders = len(tokenizer.types), tokenizer.n_orders
        self.types = nn.Embedding(self.n_types, w)
        self.virtual = nn.Embedding(2, w)
        self.degrees, self.left = nn.Embedding(limits.max_degree + 1, w), nn.Embedding(MOST_LEFT + 1, w)
        self.sizes = nn.Embedding(limits.max_block + 1, w)
        self.codes, self.apart = nn.Embedding(N_CODES, p), nn.Embedding(MOST_APART + 1, p)
        self.used, self.near = nn.Embedding(MOST_USED + 1, p), nn.Embedding(MOST_USED + 1, p)
        if config.kernel != "absorbing":
            self.fourier = Fourier(32)
            self.time = nn.Sequential(nn.Linear(32, w), nn.SiLU(), nn.Linear(w, w))
        if config.walk:
            self.walks = nn.Linear(2 * config.walk, p)
        if limits.properties:
            self.scalar = Fourier(16, 0.1, 2.0)
            self.condition = nn.Linear(16 * len(limits.properties), w, bias=False)
        if config.shown:
            self.spent = nn.Embedding(MOST_USED + 1, w)
        if config.places:
            self.spare, self.free = nn.Embedding(MOST_PLACES + 2, w), nn.Embedding(MOST_PLACES + 2, p)
            self.alike = nn.Embedding(MOST_PLACES * (MOST_ALIKE + 1), w)
        if config.count:
            self.to_come = nn.Embedding(limits.max_atoms + 1, w)
        self.trunk = GraphTransformer(w, p, config.heads, config.layers)
        self.summand = nn.Linear(w, w)
        if config.reader:
            self.reader, self.told = nn.Parameter(0.2 * torch.randn(w)), nn.Linear(w + 2 * p, w)
        self.header = Header(w, limits.max_block + 1, limits.max_degree + 1, self.n_types)
        self.ends, self.middle = nn.Linear(w, 2 * p), nn.Linear(p, 2 * p)
        self.edge = nn.Linear(2 * p, self.n_orders)
        if config.row_bias:
            self.of_row = nn.Linear(w, self.n_orders, bias=False)
        initialise(self, config.layers)
        for table in (self.used, self.near, self.apart, self.left, self.sizes, self.degrees, self.virtual):
            nn.init.normal_(table.weight, std=0.2)
        if config.shown:
            nn.init.zeros_(self.spent.weight)
        if config.places:
            for table in (self.spare, self.free, self.alike):
                nn.init.zeros_(table.weight)
        if config.reader:  # nothing read at first, so that weights without a reader go on from where they are
            nn.init.zeros_(self.told.weight)
        if config.row_bias:
            nn.init.zeros_(self.of_row.weight)
        shares = torch.tensor(self.statistics.get("pairs") or [0.9] + [0.1 / self.n_orders] * self.n_orders)
        self.register_buffer("shares", shares, persistent=False)
        capacity = self.statistics.get("capacity") or [MOST_USED] * self.n_types
        self.register_buffer("capacity", torch.tensor(capacity), persistent=False)

    shares: Tensor  # of the pair classes in the data
    capacity: Tensor  # largest bond order sum of each type in the data

    # ---- shared by training and sampling

    def nodes(self, rows: Rows, condition: Float[Tensor, "b d"] | None) -> Float[Tensor, "b r d"]:
        """Input states of the nodes."""
        virtual = rows.role == VIRTUAL
        x = self.types(rows.kind) + self.virtual(virtual.long()) + self.degrees(rows.degree.clamp(max=self.degrees.num_embeddings - 1))
        x = x + virtual[..., None] * (self.left(rows.left.clamp(0, MOST_LEFT)) + self.sizes(rows.size))
        if self.config.shown:
            x = x + virtual[..., None] * self.spent(rows.spent.clamp(max=MOST_USED))
        if self.config.places:
            spare = (self.capacity[rows.kind] - rows.spent - rows.left).clamp(-1, MOST_PLACES) + 1
            x = x + virtual[..., None] * self.spare(spare)
        if self.config.kernel != "absorbing":
            x = x + virtual[..., None] * self.time(self.fourier(rows.time))
        if self.config.reader:
            x = torch.where((rows.role == READER)[..., None], self.reader, x)
        return x if condition is None else x + condition[:, None]

    def pairs(self, rows: Rows, pairs: Pairs) -> Float[Tensor, "P p"]:
        """Input states of the pairs."""
        e = self.codes(pairs.pick(rows.codes)) + self.apart(pairs.pick(rows.apart).clamp(max=MOST_APART))
        e = e + self.used(pairs.pick(rows.used).clamp(max=MOST_USED)) + self.near(pairs.pick(rows.near).clamp(max=MOST_USED))
        if rows.free is not None:
            e = e + self.free(pairs.pick(rows.free))
        return e if rows.walks is None else e + self.walks(pairs.pick(rows.walks))

    def joint(
        self, x: Float[Tensor, "b r d"], columns: Float[Tensor, "b c d"], e: Float[Tensor, "P p"], pairs: Pairs
    ) -> Float[Tensor, "P q"]:
        """What the heads know of a pair: its state and those of its two nodes."""
        return F.silu(pairs.ends(self.ends(x), self.ends(columns)) + self.middle(e))

    def edges(self, x: Float[Tensor, "b r d"], joint: Float[Tensor, "P q"], pairs: Pairs) -> Float[Tensor, "b r c o"]:
        """Log-odds of every bond order against no bond, of what each row sees."""
        odds = pairs.by_row(self.edge(joint).float())
        return odds + self.of_row(x).float()[:, :, None] if self.config.row_bias else odds

    def conditioned(self, properties: Float[Tensor, "b p"]) -> Float[Tensor, "b d"] | None:
        """State of the wanted properties in their own units; nan = free."""
        if not self.tokenizer.config.properties:
            return None
        mean, std = (
            torch.tensor(self.statistics.get(k) or [v] * properties.shape[-1], device=properties.device)
            for k, v in (("mean", 0.0), ("std", 1.0))
        )
        known = ~properties.isnan()
        values = self.scalar(((properties.nan_to_num() - mean) / std).float()) * known[..., None]
        return self.condition(values.flatten(1))

    def noise_law(self, degree: Tensor, others: Tensor) -> Float[Tensor, "*b k"]:
        """m of the kernel for pairs of a node of `degree` with `others` candidates; the absorbing kernel has none."""
        shares = self.shares
        if self.config.kernel == "uniform":
            return categorical.uniform(len(shares)).to(shares).expand(*degree.shape, len(shares))
        if self.config.kernel == "marginal" or not self.tokenizer.config.hops:
            return shares.expand(*degree.shape, len(shares))
        return categorical.block_aware(degree / others.clamp(min=1), shares[1:] / shares[1:].sum().clamp(min=1e-9))

    # ---- training

    def loss(self, batch: Batch, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Nats per block: header (size, degree, types) and edges."""
        draw = lambda *shape: torch.rand(shape, generator=generator, device=batch["kind"].device)  # noqa: E731
        clean = Clean.of(batch)
        condition = self.conditioned(batch["properties"].flatten(1))
        if condition is not None:
            condition = condition * (draw(len(batch), 1) >= self.config.unconditional)
        task = self._task(clean, draw)
        x, logits, read = self.answers(task.rows, condition)
        n, v = clean.kind.shape[1], task.truth.shape[1]
        blocks = clean.sizes.gt(0).sum().clamp(min=1)
        parts = self._header_loss(clean, x[:, :n], read, condition)
        chosen = task.n_chosen.clamp(min=1)
        parts = {name: value / blocks for name, value in parts.items()}
        parts["edges"] = self._edge_loss(task, logits[:, n : n + v, : n + v]) / chosen
        return {"loss": torch.stack(list(parts.values())).sum(), **parts}

    def answers(
        self, rows: Rows, condition: Float[Tensor, "b d"] | None
    ) -> tuple[Float[Tensor, "b r d"], Float[Tensor, "b r r o"], Float[Tensor, "b l d"] | None]:
        """States of all nodes of whole graphs, the log-odds of the bonds that each sees, and what the readers read."""
        pairs = PairList(rows.sees)
        x, e = self.trunk(self.nodes(rows, condition), self.pairs(rows, pairs), pairs)
        joint = self.joint(x, x, e, pairs)
        readers = int((rows.role[0] == READER).sum())
        read = self.read(x[:, -readers:], pairs.by_row(joint)[:, -readers:]) if readers else None
        return x, self.edges(x, joint, pairs), read

    def read(self, x: Float[Tensor, "b l d"], joint: Float[Tensor, "b l c q"]) -> Float[Tensor, "b l d"]:
        """What readers add to the summary: of their own states, and of a sum over all they see, in which numbers of nodes count."""
        return self.told(torch.cat([x, joint.sum(2) * 0.2], -1))

    def _header_loss(
        self, clean: Clean, x: Float[Tensor, "b n d"], read: Float[Tensor, "b l d"] | None, condition: Tensor | None
    ) -> dict[str, Tensor]:
        """Sums over all blocks of -ln p(size), -ln p(degree), -ln p(types); the end counts as a size."""
        b, n = clean.kind.shape
        levels = clean.sizes.shape[1]
        before = clean.block[:, None] < torch.arange(levels + 1, device=x.device)[:, None]
        before = before & clean.mask[:, None]
        to_come = clean.mask.sum(1, keepdim=True) - before.sum(-1)
        total = before.to(x.dtype) @ self.summands(x)  # prefix a = blocks below a
        alike = self.alike_of(clean.kind[:, None], before.to(x.dtype) @ clean.orders.to(x.dtype), before) if self.config.places else None
        summary = self.summary(total if read is None else total + read, condition, to_come, alike)
        sizes = torch.cat([clean.sizes, torch.zeros_like(clean.sizes[:, :1])], 1)
        asked = torch.arange(levels + 1, device=x.device) <= clean.sizes.gt(0).sum(1, keepdim=True)
        size = F.cross_entropy(self.header.size(summary).flatten(0, 1), sizes.flatten(), reduction="none").view_as(asked)
        degree = F.cross_entropy(self.header.degree(summary, sizes).flatten(0, 1), clean.block_degree.flatten(), reduction="none").view_as(
            asked
        )
        place = clean.block.clamp(min=0)
        node = lambda t: t.gather(1, place[..., None].expand(-1, -1, t.shape[-1]))  # noqa: E731
        mates = (clean.block[:, :, None] == clean.block[:, None]) & torch.ones(n, n, dtype=torch.bool, device=x.device).tril(-1)
        so_far = mates.to(x.dtype) @ self.header.type_table(clean.kind).to(x.dtype)
        first = ~mates.any(-1)
        last = torch.where(first, self.n_types, clean.kind.roll(1, 1))
        logits = self.header.kind(node(summary), sizes.gather(1, place), clean.block_degree.gather(1, place), so_far, last)
        kind = F.cross_entropy(logits.flatten(0, 1), clean.kind.flatten(), reduction="none").view_as(clean.mask)
        ruled = sizes.gt(0) if self.tokenizer.config.hops else torch.zeros_like(asked)
        return {"size": (size * asked).sum(), "degree": (degree * ruled).sum(), "types": (kind * clean.mask).sum()}

    def summands(self, x: Tensor) -> Tensor:
        """What each finished node adds to the summary."""
        return F.silu(self.summand(x)) * 0.2

    def alike_of(self, kind: Int[Tensor, "*#b n"], used: Shaped[Tensor, "*b n"], finished: Bool[Tensor, "*b n"]) -> Int[Tensor, "*b k"]:
        """How many finished nodes have 1, 2, …, MOST_PLACES or more free places, of nodes with so many bond orders `used`."""
        free = (self.capacity[kind] - used.long()).clamp(0, MOST_PLACES) * finished
        return (free[..., None] == torch.arange(1, MOST_PLACES + 1, device=free.device)).sum(-2)

    def summary(self, total: Tensor, condition: Tensor | None, to_come: Tensor, alike: Tensor | None) -> Tensor:
        """Input of the header from what was summed up and read (b l d or b d), the number of nodes to come (b l or b) and `alike_of`."""
        if self.config.count:
            total = total + self.to_come(to_come)
        if alike is not None:
            places = torch.arange(MOST_PLACES, device=alike.device) * (MOST_ALIKE + 1)
            total = total + self.alike(places + alike.clamp(max=MOST_ALIKE)).sum(-2)
        if condition is None:
            return total
        return total + (condition[:, None] if total.ndim == 3 else condition)

    def _task(self, clean: Clean, draw: Any) -> Task:
        """The clean graph, and virtual copies of some random blocks with part of their bonds shown."""
        b, n = clean.kind.shape
        levels = clean.sizes.shape[1]
        score = draw(b, levels).masked_fill(clean.sizes == 0, 2.0)
        wanted = self.config.blocks or levels
        picked = (score.argsort(1).argsort(1) < wanted) & clean.sizes.gt(0)
        place = clean.block.clamp(min=0)
        virtual = picked.gather(1, place) & clean.mask
        v = max(1, int(virtual.sum(1).max()))
        index = (~virtual).long().argsort(dim=1, stable=True)[:, :v]
        real = virtual.gather(1, index)
        take = lambda t: t.gather(1, index)  # noqa: E731
        level, kind = take(clean.block).masked_fill(~real, -2), take(clean.kind)
        size, degree = take(clean.sizes.gather(1, place)), take(clean.degree)
        # bonds of the virtual nodes: to earlier clean nodes, and to their mates
        orders = clean.orders.gather(1, index[..., None].expand(-1, -1, n))
        earlier = (clean.block[:, None] < level[:, :, None]) & clean.mask[:, None] & real[..., None]
        inner = orders.gather(2, index[:, None].expand(-1, v, -1))
        mates = (level[:, :, None] == level[:, None]) & real[..., None] & real[:, None]
        mates = mates & ~torch.eye(v, dtype=torch.bool, device=mates.device)
        truth = torch.cat([orders * earlier, inner * mates], 2)
        candidate = torch.cat([earlier, mates], 2)
        time = torch.zeros(b, v, device=truth.device)
        if self.config.kernel == "absorbing":
            mask, weight = self._hidden(candidate, truth, mates, real, size, draw)
            codes = torch.where(mask, MASKED, truth)
        else:
            # one noise level per block, given to all its nodes
            level_time = (1 + (draw(b, levels) * self.config.steps).floor()) / self.config.steps
            time = level_time.gather(1, level.clamp(min=0))
            law = self.noise_law(degree[..., None].float(), candidate.sum(-1, keepdim=True)).expand(*truth.shape, -1)
            alpha = categorical.cosine(time)[..., None].expand(truth.shape)
            mixed = categorical.noised(truth, alpha, law, draw(*truth.shape, 2))
            square = mixed[:, :, n:]
            upper = torch.ones(v, v, dtype=torch.bool, device=square.device).triu()
            mixed = torch.cat([mixed[:, :, :n], torch.where(upper, square, square.transpose(1, 2))], 2)
            mask, weight = candidate, torch.where(candidate, 1.0, 0.0)
            weight = torch.cat([weight[:, :, :n], weight[:, :, n:] * upper], 2)
            codes = NOISED + mixed
        codes = torch.where(candidate, codes, 0)
        shown = torch.where(candidate & ~mask, truth > 0, False).sum(-1)
        left, role = degree - shown, torch.full_like(kind, VIRTUAL)
        if self.config.reader:
            extra = torch.arange(levels + 1, device=kind.device).expand(b, -1)
            asked = extra <= clean.sizes.gt(0).sum(1, keepdim=True)
            role = torch.cat([role, torch.full_like(extra, READER)], 1)
            level, real = torch.cat([level, extra.masked_fill(~asked, -2)], 1), torch.cat([real, asked], 1)
            kind, degree, left, size, time = (F.pad(t, (0, levels + 1)) for t in (kind, degree, left, size, time))
            codes = F.pad(codes, (0, levels + 1, 0, levels + 1))
        return Task(self._rows(clean, kind, level, role, real, degree, left, size, codes, time), truth, mask, weight, picked.sum())

    def _hidden(
        self, candidate: Tensor, truth: Tensor, mates: Tensor, real: Tensor, size: Tensor, draw: Any
    ) -> tuple[Bool[Tensor, "b v c"], Float[Tensor, "b v"]]:
        """Which pairs are masked, and the weight of each masked row (size / masked rows of its block, 0 if it is shown)."""
        b, v = real.shape
        n = candidate.shape[2] - v
        score = draw(b, v)
        rank = (mates & (score[:, None] < score[:, :, None])).sum(-1)
        # any_order asks for one number per block: that of its first node
        uniform = draw(b, v)
        same = mates | torch.eye(v, dtype=torch.bool, device=mates.device)
        uniform = uniform.gather(1, same.long().argmax(-1))
        masked, weight = categorical.any_order(size, uniform)
        hidden = (rank < masked) & real
        mask = candidate & hidden[..., None]
        mask = torch.cat([mask[:, :, :n], mask[:, :, n:] & hidden[:, None]], 2)
        # some rows show part of their bonds, as when neighbours are drawn one at a time
        open_ = mask & (truth > 0)
        left = open_.sum(-1)
        tell = (draw(b, v) < self.config.partial) & (left > 1)
        shown = (draw(b, v) * (left - 1)).floor() + 1
        place = draw(*mask.shape).masked_fill(~open_, 2.0).argsort(-1).argsort(-1)
        told = open_ & (place < shown[..., None]) & tell[..., None]
        inner = told[:, :, n:] | told[:, :, n:].transpose(1, 2)
        return mask & ~torch.cat([told[:, :, :n], inner], 2), weight * hidden

    def _rows(
        self,
        clean: Clean,
        kind: Tensor,
        level: Tensor,
        role: Tensor,
        real: Tensor,
        degree: Tensor,
        left: Tensor,
        size: Tensor,
        codes: Tensor,
        time: Tensor,
    ) -> Rows:
        """Clean nodes followed by virtual ones and readers, everything against everything."""
        b, n = clean.kind.shape
        v = kind.shape[1]
        join = lambda a, c: torch.cat([a, c], 1)  # noqa: E731
        levels = join(clean.block.masked_fill(~clean.mask, -1), level)
        roles = join(torch.full_like(clean.kind, CLEAN), role)
        valid = join(clean.mask, real)
        eye = torch.eye(n + v, dtype=torch.bool, device=kind.device)
        below = levels[:, None] < levels[:, :, None]
        same = (levels[:, None] == levels[:, :, None]) & (roles[:, None] == roles[:, :, None])
        sees = ((below & (roles == CLEAN)[:, None]) | same) & valid[:, None] & valid[:, :, None] | eye
        left_columns = torch.cat([torch.where(eye[:n, :n], SELF, clean.orders), codes[:, :, :n]], 1)
        square = torch.where(eye[n:, n:], SELF, codes[:, :, n:])
        right_columns = torch.cat([codes[:, :, :n].transpose(1, 2), square], 1)
        strict = (clean.block[:, None] < levels[:, :, None]) & clean.mask[:, None]
        known = torch.where(codes <= self.n_orders, codes, 0)
        mates = same[:, n:, n:].float()
        counts = []
        for table, drawn in ((clean.orders, known), (clean.orders.clamp(max=1), known.clamp(max=1))):
            count = strict.float() @ table.float()
            if self.config.shown:
                count[:, n:] += mates @ drawn[..., :n].float()
            count = F.pad(count.long() * strict, (0, v))
            counts.append(count + count.transpose(1, 2))
        free = None
        if self.config.places:
            earlier = F.pad(strict, (0, v))
            left_of = ((self.capacity[join(clean.kind, kind)][:, None] - counts[0]).clamp(0, MOST_PLACES) + 1) * earlier
            free = left_of + left_of.transpose(1, 2)
        distance = (levels[:, None] - levels[:, :, None]).abs()
        walks = walk_features(clean, levels, self.config.walk) if self.config.walk else None
        return Rows(
            kind=join(clean.kind, kind),
            level=levels,
            role=roles,
            degree=join(clean.degree, degree),
            left=join(torch.zeros_like(clean.degree), left),
            spent=join(torch.zeros_like(clean.degree), known.sum(-1)),
            size=join(torch.zeros_like(clean.degree), size),
            codes=torch.cat([left_columns, right_columns], 2),
            apart=distance,
            used=counts[0],
            near=counts[1],
            free=free,
            sees=sees,
            walks=walks,
            time=join(torch.zeros(b, n, device=time.device), time),
        )

    def _edge_loss(self, task: Task, logits: Float[Tensor, "b v c o"]) -> Tensor:
        truth, mask = task.truth, task.mask
        some = logits.gather(-1, (truth - 1).clamp(min=0)[..., None])[..., 0]
        if self.config.kernel == "absorbing":
            open_ = mask & (truth > 0)
            m = open_.sum(-1)
            odds = logits.logsumexp(-1).masked_fill(~mask, subset.NEVER)
            total = subset.log_partition(odds, int(m.max())).gather(-1, m[..., None])[..., 0]
            return ((total - (some * open_).sum(-1)) * task.weight).sum()
        classes = torch.cat([torch.zeros_like(logits[..., :1]), logits], -1)
        _, v, columns = truth.shape
        own = slice(columns - v, columns)  # the virtual rows
        time = task.rows.time[:, own]
        step = 1 / self.config.steps
        alpha_t, alpha_s = (categorical.cosine(t.clamp(min=0))[..., None].expand(truth.shape) for t in (time, time - step))
        degree = task.rows.degree[:, own, None].float()
        codes = task.rows.codes[:, own, :columns]
        others = (codes >= NOISED).sum(-1, keepdim=True)
        law = self.noise_law(degree, others).expand(*truth.shape, -1)
        x_t = (codes - NOISED).clamp(min=0, max=self.n_orders)
        return (categorical.divergence(classes, truth, x_t, alpha_t, alpha_s, law) * task.weight).sum()

    # ---- sampling

    def sample(self, prompts: Sequence[Prompt], keys: Sequence[tuple[int, int]], batch_size: int = 64, **options: Any) -> Iterator[Draw]:
        from sciar.families.blocks.sample import sample

        return sample(self, prompts, keys, batch_size, **options)


@dataclass(frozen=True, slots=True)
class Task:
    """One training step: input rows (n clean, v virtual, readers) and what is to be found.

    Args:
        rows: for the trunk.
        truth: bond orders of the virtual rows to clean and virtual ones (v, n + v). mask: pairs to be found. weight: of each row or pair.
        n_chosen: virtual blocks in the batch.
    """

    rows: Rows
    truth: Int[Tensor, "b v c"]
    mask: Bool[Tensor, "b v c"]
    weight: Tensor
    n_chosen: Tensor
