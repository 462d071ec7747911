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
from sciar.families.blocks.finished import Clean, several_of
from sciar.families.blocks.header import Before, Header
from sciar.families.blocks.task import MOST_EXCESS, MOST_PLACES, MOST_RING, NOISED, READER, VIRTUAL, Rows, Task, limit_of, task_of
from sciar.families.blocks.tokens import Tokenizer
from sciar.family import Draw, check_choices
from sciar.family import Model as AbstractModel
from sciar.nn.embedding import Fourier
from sciar.nn.graph_transformer import GraphTransformer, PairList, Pairs
from sciar.nn.transformer import initialise
from sciar.prompt import Prompt

KERNELS = ("absorbing", "marginal", "uniform", "block")
N_CODES = 10  # of pairs, see `task`
MOST_USED, MOST_APART, MOST_LEFT = 8, 16, 16  # clipped counts: bond orders in use, blocks between two nodes, open bonds
FAR = 20.0  # nats of `Model.beyond`, `Model.closing` and `Model.next_size` for a weight of 1, as they go far
MOST_ALIKE = 20  # clipped count of nodes with equally many free places


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
        room: besides, which sizes and types are likely is learnt for each combination of free places by itself, and the types of a block
            are drawn knowing what those before them leave of all places, for how many nodes; needs `places`.
        excess: the log-odds of bond orders beyond the free places of an end have a part that depends on how far beyond alone, so that what
            is never seen in any state is learnt for all states at once; absorbing kernel only.
        rings: the network is told the size of the ring that a bond would close, and the log-odds of bonds have a part that depends on that
            alone; absorbing kernel only.
        pieces: the log-odds of the end have a part that is learnt apart for graphs in several pieces.
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
    room: bool = False
    excess: bool = False
    rings: bool = False
    pieces: bool = False
    row_bias: bool = False
    count: bool = False
    unconditional: float = 0.2

    def __post_init__(self) -> None:
        check_choices(self, {"kernel": KERNELS})
        if self.width % self.heads:
            raise InputError(f"ModelConfig.heads: expected a divisor of width {self.width}, got {self.heads}")
        if self.room and not self.places:
            raise InputError("ModelConfig.room: expected model.places=true with it; set both")
        for name in ("excess", "rings"):
            if getattr(self, name) and self.kernel != "absorbing":
                raise InputError(f"ModelConfig.{name}: expected kernel absorbing with it, got {self.kernel}; leave it out")
        if self.steps < 1 or self.blocks < 0 or self.walk < 0:
            raise InputError(f"ModelConfig: expected steps ≥ 1, blocks ≥ 0, walk ≥ 0, got {self.steps}, {self.blocks}, {self.walk}")


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
        self.header = Header(w, limits.max_block + 1, limits.max_degree + 1, self.n_types, config.room)
        self.ends, self.middle = nn.Linear(w, 2 * p), nn.Linear(p, 2 * p)
        self.edge = nn.Linear(2 * p, self.n_orders)
        if config.row_bias:
            self.of_row = nn.Linear(w, self.n_orders, bias=False)
        if config.excess:
            self.excess = nn.Parameter(torch.zeros(MOST_EXCESS))
        if config.rings:
            self.ring, self.rings = nn.Embedding(MOST_RING + 1, p), nn.Parameter(torch.zeros(MOST_RING - 2))
        if config.pieces:
            self.pieces = nn.Parameter(torch.zeros(1))
        initialise(self, config.layers)
        for table in (self.used, self.near, self.apart, self.left, self.sizes, self.degrees, self.virtual):
            nn.init.normal_(table.weight, std=0.2)
        if config.shown:
            nn.init.zeros_(self.spent.weight)
        if config.places:
            for table in (self.spare, self.free, self.alike):
                nn.init.zeros_(table.weight)
        if config.rings:
            nn.init.zeros_(self.ring.weight)
        self.header.reset()
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
        if rows.ring is not None:
            e = e + self.ring(pairs.pick(rows.ring))
        return e if rows.walks is None else e + self.walks(pairs.pick(rows.walks))

    def joint(
        self, x: Float[Tensor, "b r d"], columns: Float[Tensor, "b c d"], e: Float[Tensor, "P p"], pairs: Pairs
    ) -> Float[Tensor, "P q"]:
        """What the heads know of a pair: its state and those of its two nodes."""
        return F.silu(pairs.ends(self.ends(pairs.listed(x)), self.ends(columns)) + self.middle(e))

    def edges(self, x: Float[Tensor, "b r d"], joint: Float[Tensor, "P q"], pairs: Pairs) -> Float[Tensor, "b r c o"]:
        """Log-odds of every bond order against no bond, of what each row sees; `beyond` and `closing` are not in them."""
        odds = pairs.by_row(self.edge(joint).float())
        if self.config.row_bias:
            odds = odds + self.of_row(x).float()[:, :, None]
        return odds

    def next_size(
        self, summary: Float[Tensor, "*b d"], alike: Int[Tensor, "*b k"] | None, several: Bool[Tensor, "*b"] | None
    ) -> Float[Tensor, "*b s"]:
        """Logits of the size of the next block, where what is finished is in `several` pieces or not; None without `pieces`."""
        logits = self.header.size(summary, alike)
        if several is not None:
            logits = torch.cat([logits[..., :1] + FAR * self.pieces * several[..., None], logits[..., 1:]], -1)
        return logits

    def beyond(self, limit: Int[Tensor, "*b"]) -> Float[Tensor, "*b o"]:
        """What `excess` adds to the log-odds of every bond order where there are free places for an order of `limit`, see `limit_of`.

        It is apart from the network's part, since it changes with each bond that is drawn, and the sampler may draw several for one call.
        """
        order = torch.arange(1, self.n_orders + 1, device=limit.device) - limit[..., None]
        if not self.config.excess:
            return torch.zeros(order.shape, device=limit.device)
        # compared, not indexed: on a GPU the gradient of an index goes through its repeats one after the other (600 ms a step)
        far = (order - 1).clamp(0, MOST_EXCESS - 1)[..., None] == torch.arange(MOST_EXCESS, device=limit.device)
        return torch.where(order > 0, FAR * (far * self.excess.float()).sum(-1), 0.0)

    def closing(self, ring: Int[Tensor, "*b"]) -> Float[Tensor, "*b"]:
        """What `rings` adds to the log-odds of every bond that closes a ring of so many nodes, see `Rows.ring`; apart as `beyond` is."""
        if not self.config.rings:
            return torch.zeros(ring.shape, device=ring.device)
        size = ring[..., None] == torch.arange(3, MOST_RING + 1, device=ring.device)
        return FAR * (size * self.rings.float()).sum(-1)

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
        task = task_of(self, clean, draw)
        x, logits, read = self.answers(task.rows, condition)
        n, v = clean.kind.shape[1], task.truth.shape[1]
        blocks = clean.sizes.gt(0).sum().clamp(min=1)
        parts = self._header_loss(clean, x[:, :n], read, condition)
        chosen = task.n_chosen.clamp(min=1)
        parts = {name: value / blocks for name, value in parts.items()}
        if self.config.excess:
            logits = logits + self.beyond(limit_of(task.rows, self.capacity))
        logits = logits[:, n : n + v, : n + v]
        if task.rows.ring is not None:
            logits = logits + self.closing(task.rows.ring[:, n : n + v, : n + v])[..., None]
        parts["edges"] = self._edge_loss(task, logits) / chosen
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
        several = several_of(clean.orders > 0, before) if self.config.pieces else None
        sizes = torch.cat([clean.sizes, torch.zeros_like(clean.sizes[:, :1])], 1)
        asked = torch.arange(levels + 1, device=x.device) <= clean.sizes.gt(0).sum(1, keepdim=True)
        nats = lambda logits, truth: F.cross_entropy(logits.flatten(0, 1), truth.flatten(), reduction="none").view_as(truth)  # noqa: E731
        size, degree = nats(self.next_size(summary, alike, several), sizes), nats(self.header.degree(summary, sizes), clean.block_degree)
        place = clean.block.clamp(min=0)
        node = lambda t: t.gather(1, place[..., None].expand(-1, -1, t.shape[-1]))  # noqa: E731
        mates = (clean.block[:, :, None] == clean.block[:, None]) & torch.ones(n, n, dtype=torch.bool, device=x.device).tril(-1)
        so_far = mates.to(x.dtype) @ self.header.type_table(clean.kind).to(x.dtype)
        last = torch.where(mates.any(-1), clean.kind.roll(1, 1), self.n_types)
        earlier = Before(so_far, last, mates.sum(-1), (mates * self.capacity[clean.kind][:, None]).sum(-1))
        each = sizes.gather(1, place), clean.block_degree.gather(1, place), earlier
        logits = self.header.kind(node(summary), *each, None if alike is None else node(alike))
        kind = nats(logits, clean.kind)
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
