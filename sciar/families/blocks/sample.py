"""Drawing block by block: header, then edges until the block is finished, then one call that commits it to the cache.

Every call advances each graph of the batch by one phase of its own, and a finished graph makes room for the next prompt.
The random numbers of a draw come from its key alone, so the batch it happens to sit in does not matter.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from sciar import precision
from sciar.diffusion import categorical, subset
from sciar.errors import InputError
from sciar.families.blocks.finished import powers
from sciar.families.blocks.growing import UNREACHED, Growing, begun
from sciar.families.blocks.header import Before
from sciar.families.blocks.joined import NOWHERE, Joints
from sciar.families.blocks.options import Options
from sciar.families.blocks.task import CLEAN, MASKED, MOST_EXCESS, MOST_PLACES, MOST_RING, NOISED, READER, SELF, VIRTUAL, Rows
from sciar.family import Draw, options_of
from sciar.nn.graph_transformer import Memory, NewPairs
from sciar.prompt import Prompt

if TYPE_CHECKING:
    from sciar.families.blocks.model import Model

TIE = 1e-3  # nats; rows of equal nodes differ by rounding only, which must not decide


def sample(
    model: Model, prompts: Sequence[Prompt], keys: Sequence[tuple[int, int]], batch_size: int = 64, **options: object
) -> Iterator[Draw]:
    """See `sciar.family.Model.sample`; `options` are the fields of `Options`."""
    chosen = options_of(Options, options)
    graphs = [begun(model, i, prompt, key) for i, (prompt, key) in enumerate(zip(prompts, keys, strict=True))]
    if graphs:
        yield from _Batch(model, graphs, prompts, min(batch_size, len(graphs)), chosen).run()


class _Batch:
    """Slots that each hold one graph; `ways` rows of every tensor per slot: with the condition, and without it if guided."""

    def __init__(self, model: Model, graphs: list[Growing], prompts: Sequence[Prompt], slots: int, options: Options) -> None:
        self.model, self.options, self.prompts, self.waiting = model, options, prompts, iter(graphs)
        self.device = next(model.parameters()).device
        self.absorbing = model.config.kernel == "absorbing"
        self.steps = options.steps or model.config.steps
        guided = options.guidance != 1 and any(p.properties for p in prompts)
        self.slots, self.ways = slots, 2 if guided else 1
        w, c, rows = model.config.width, model.tokenizer.config.max_atoms + model.config.reader, slots * self.ways
        dtype = torch.bfloat16 if precision.narrow(options.precision, self.device) else torch.float32
        sizes = (rows, c, 2 * w + model.config.pair, model.config.pair)
        self.memories = [Memory.empty(*sizes, self.device, dtype) for _ in model.trunk.layers]
        self.states = torch.zeros(rows, c + 1, w, device=self.device)
        self.total, self.reading = (torch.zeros(rows, w, device=self.device) for _ in range(2))
        self.wanted = torch.full((rows, len(model.tokenizer.config.properties)), float("nan"), device=self.device)
        self.graphs: list[Growing | None] = [None] * slots
        types = [z for z, _, _ in model.tokenizer.types]
        capacity = model.statistics.get("capacity")
        self.largest = model.capacity.cpu().numpy()  # bond order sum of each type, as the network is told
        orders = torch.arange(-MOST_EXCESS, model.n_orders + 1, device=self.device)
        rings = torch.arange(MOST_RING + 1, device=self.device)
        parts = (model.beyond(orders), model.closing(rings))
        self.beyond, self.closing = (p.detach().double().cpu().numpy() / (options.bond_temperature or options.temperature) for p in parts)
        self.masked = bool(options.valence and capacity)
        self.capacity = np.array(capacity if self.masked else [10**6] * len(types))
        self.connected = options.connected and self.absorbing
        self.joints = Joints(self.capacity, model.tokenizer.config, self.connected)
        if options.within and not self.absorbing:
            raise InputError(f"within: expected weights of the absorbing kernel, got {model.config.kernel}; use others or leave it out")

    def run(self) -> Iterator[Draw]:
        self._fill()
        while any(g is not None for g in self.graphs):
            autocast = precision.autocast(self.options.precision, self.device)
            with torch.inference_mode(), autocast:
                self._advance()
            for slot, g in enumerate(self.graphs):
                if g is not None and g.phase == "done":
                    yield Draw(g.index, g.tokens(self.wanted.shape[1]), g.score, g.calls)
                    self.graphs[slot] = None
            self._fill()

    def _fill(self) -> None:
        for slot in range(self.slots):
            if self.graphs[slot] is None and (g := next(self.waiting, None)) is not None:
                self.graphs[slot] = g
                names = self.model.tokenizer.config.properties
                values = [self.prompts[g.index].properties.get(name, float("nan")) for name in names]
                self.total[slot :: self.slots] = 0.0
                self.wanted[slot] = torch.tensor(values, device=self.device)

    def _advance(self) -> None:
        """Headers where they are due, then one call of the trunk."""
        condition = self.model.conditioned(self.wanted)
        if condition is not None:
            condition = condition * (~self.wanted.isnan()).any(1, keepdim=True)
        self._headers(condition)
        active = [(slot, g) for slot, g in enumerate(self.graphs) if g is not None and g.phase in ("edges", "commit")]
        for _, g in active:
            if g.phase == "edges" and self._ready(g):
                g.phase = "commit"
        if not active:
            return
        rows, at = self._rows()
        pairs = NewPairs(at, rows.sees)
        x, e = self.model.trunk(self.model.nodes(rows, condition), self.model.pairs(rows, pairs), [pairs.of(m) for m in self.memories])
        x = x.float()
        self.states[torch.arange(len(at), device=self.device)[:, None], at] = x
        joint = self.model.joint(x, self.states[:, : rows.sees.shape[2]], e, pairs)
        drawing = any(g.phase == "edges" for _, g in active)
        logits = self._guided(self.model.edges(x, joint, pairs)).double().cpu().numpy() if drawing else None
        summands = (self.model.summands(x).float() * (rows.role == CLEAN)[..., None] * rows.sees.any(-1, keepdim=True)).sum(1)
        if self.model.config.reader:
            one = torch.arange(len(x), device=x.device), (rows.role == READER).long().argmax(1)
            read = self.model.read(x[one][:, None], pairs.by_row(joint)[one][:, None])[:, 0].float()
        for slot, g in active:
            g.calls += 1
            if g.phase == "commit":
                mine = slice(slot, None, self.slots)
                self.total[mine] += summands[mine]
                if self.model.config.reader:
                    self.reading[mine] = read[mine]
                g.start, g.phase = g.n, "header"
            elif logits is not None:
                own = logits[slot, : g.size, : g.n] / (self.options.bond_temperature or self.options.temperature)
                if self.absorbing:
                    self._reveal(g, own)
                else:
                    self._denoise(g, own)

    def _guided(self, logits: Tensor) -> Tensor:
        if self.ways == 1:
            return logits
        conditional, free = logits.chunk(2)
        return free + self.options.guidance * (conditional - free)

    # ---- header

    def _headers(self, condition: Tensor | None) -> None:
        """Open the next block of every graph that is due, or end it."""
        due = [(slot, g) for slot, g in enumerate(self.graphs) if g is not None and g.phase == "header"]
        for _, g in due:
            if g.forced:
                piece = g.forced.pop(0)
                g.begin(piece.kind, 0)
                block = slice(g.start, g.n)
                g.degree[block], g.phase = piece.degree, "commit"
                g.put(piece.orders)
        due = [(slot, g) for slot, g in due if g.phase == "header"]
        if not due:
            return
        index = torch.tensor([slot + way * self.slots for way in range(self.ways) for slot, _ in due], device=self.device)
        head, b = self.model.header, len(due)
        to_come = torch.tensor([g.most - g.n for _, g in due] * self.ways, device=self.device)
        alike = torch.cat([self._alike([g for _, g in due])] * self.ways) if self.model.config.places else None
        known = self.total[index] + self.reading[index]
        summary = self.model.summary(known, None if condition is None else condition[index], to_come, alike)
        needs = np.stack([self.joints.needs(g) for _, g in due])
        several = torch.tensor([g.several for _, g in due] * self.ways, device=self.device) if self.model.config.pieces else None
        sizes = self._guided(self.model.next_size(summary, alike, several)).masked_fill(self._impossible(due, needs), -torch.inf)
        sizes = self._chosen(sizes, due)
        end = sizes == 0
        for (_, g), done in zip(due, end.tolist(), strict=True):
            if done:
                g.phase = "done"
        if bool(end.all()):
            return
        repeat = lambda t: t.repeat(self.ways, *[1] * (t.ndim - 1))  # noqa: E731
        skip = end.tolist()
        ruled = self.model.tokenizer.config.hops > 0
        needs = needs[np.arange(b), sizes.cpu().numpy()]
        barred = torch.from_numpy(needs == NOWHERE).to(self.device)
        degree_logits = self._guided(head.degree(summary, repeat(sizes))).masked_fill(barred, -torch.inf)
        degrees = self._chosen(degree_logits, due, skip) if ruled else torch.zeros_like(sizes)
        none, kinds = repeat(torch.zeros_like(sizes)), []
        before = Before(torch.zeros_like(summary), none + self.model.n_types, none, none)
        needs = needs[np.arange(b), degrees.cpu().numpy()]
        small = self.capacity < np.where(end.cpu().numpy(), 0, needs)[:, None]
        forbidden = torch.from_numpy(~np.stack([g.allowed for _, g in due]) | small).to(self.device)
        for k in range(int(sizes.max())):
            logits = self._guided(head.kind(summary, repeat(sizes), repeat(degrees), before, alike))
            last = self._chosen(logits.masked_fill(forbidden, -torch.inf), due, (sizes <= k).tolist())
            kinds.append(last)
            last = repeat(last)
            before = Before(before.total + head.type_table(last), last, before.count + 1, before.taken + self.model.capacity[last])
        table = torch.stack(kinds, 1).cpu().numpy()
        for (_, g), size, degree, kind in zip(due, sizes.tolist(), degrees.tolist(), table, strict=True):
            if size:
                g.begin(kind[:size], degree)

    def _alike(self, graphs: list[Growing]) -> Tensor:
        """See `Model.alike_of`."""
        n = max(1, max(g.n for g in graphs))
        kind, used = (torch.from_numpy(np.stack(a)) for a in ([g.kind[:n] for g in graphs], [g.orders[:n, :n].sum(1) for g in graphs]))
        finished = torch.arange(n) < torch.tensor([[g.n] for g in graphs])
        return self.model.alike_of(*(t.to(self.device) for t in (kind, used, finished)))

    def _chosen(self, logits: Tensor, due: list[tuple[int, Growing]], skip: list[bool] | None = None) -> Tensor:
        """One class per graph, drawn with the graph's own stream; 0 where skipped."""
        likely = (logits.double() / self.options.temperature).log_softmax(-1).cpu().numpy()
        chosen = []
        for r, (_, g) in enumerate(due):
            k = 0 if skip and skip[r] else _pick(np.exp(likely[r]), g.stream)
            g.score += 0.0 if skip and skip[r] else float(likely[r, k])
            chosen.append(k)
        return torch.tensor(chosen, device=self.device)

    def _impossible(self, due: list[tuple[int, Growing]], needs: np.ndarray) -> Tensor:
        """Sizes that break a limit: no end before `few` nodes, in pieces or with an open scaffold, no more than `most` or than can bond."""
        config = self.model.tokenizer.config
        table = np.zeros((len(due), config.max_block + 1), dtype=bool)
        for row, need, (_, g) in zip(table, needs, due, strict=True):
            row[1:] = (g.n + np.arange(1, len(row)) > g.most) | (need[1:] == NOWHERE).all(1)
            if g.n and (g.room[: g.n] >= 0).all():  # nothing but a scaffold: its open places are all there is to bond to
                row[1:] |= np.arange(1, len(row)) > g.room[: g.n].sum()
            in_pieces, starred = self.connected and g.several, g.starred and bool((g.room > 0).any())
            row[0] = not row[1:].all() and (g.n < max(g.few, 1) or in_pieces or starred)
        return torch.from_numpy(table).to(self.device)

    # ---- edges

    def _rows(self) -> tuple[Rows, Tensor]:
        """Input of the next call, and the cache column of each row."""
        live = [(slot, g) for slot, g in enumerate(self.graphs) if g is not None and g.phase in ("edges", "commit")]
        reader = self.model.config.reader
        reading = {slot for slot, g in live if reader and g.phase == "commit"}
        r, c = max(g.size + (slot in reading) for slot, g in live), max(g.n + (slot in reading) for slot, g in live)
        b = self.slots
        node = {name: np.zeros((b, r), dtype=np.int64) for name in ("kind", "level", "degree", "left", "spent", "size")}
        pair = {name: np.zeros((b, r, c), dtype=np.int64) for name in ("codes", "apart", "used", "near")}
        role, sees = np.full((b, r), CLEAN), np.zeros((b, r, c), dtype=bool)
        time, at = np.zeros((b, r), dtype=np.float32), np.full((b, r), self.states.shape[1] - 1)
        walks = np.zeros((b, r, c, 2 * self.model.config.walk), dtype=np.float32) if self.model.config.walk else None
        config = self.model.config
        free, ring = (np.zeros((b, r, c), dtype=np.int64) if asked else None for asked in (config.places, config.rings))
        for slot, g in live:
            s, n, block = g.size, g.n, slice(g.start, g.n)
            edges = g.phase == "edges"
            for name, values in (("kind", g.kind), ("level", g.level), ("degree", g.degree)):
                node[name][slot, :s] = values[block]
            at[slot, :s] = np.arange(g.start, n)
            sees[slot, :s, :n] = True
            role[slot, :s] = VIRTUAL if edges else CLEAN
            pair["codes"][slot, :s, :n] = self._codes(g) if edges else g.orders[block, :n]
            pair["codes"][slot, np.arange(s), np.arange(g.start, n)] = SELF
            pair["apart"][slot, :s, :n] = g.level[block, None] - g.level[None, :n]
            past = g.orders[: g.start, : n if edges and self.model.config.shown else g.start]
            pair["used"][slot, :s, : g.start] = past.sum(1)
            pair["near"][slot, :s, : g.start] = (past > 0).sum(1)
            if free is not None:
                free[slot, :s, : g.start] = self._free(g.kind[: g.start], past.sum(1))
            if edges:
                node["left"][slot, :s], node["size"][slot, :s] = g.left, s
                node["spent"][slot, :s] = g.orders[block, :n].sum(1)
                time[slot, :s] = g.time / self.steps
                if ring is not None:
                    ring[slot, :s, :n] = _ring(g.apart[block, :n])
            if walks is not None:
                walks[slot, :s, :n] = _walks(g, self.model.config.walk)
            if slot in reading:  # it stands where the next node will
                level = g.level[n - 1] + 1 if n else 0
                role[slot, s], node["level"][slot, s], at[slot, s] = READER, level, n
                sees[slot, s, : n + 1], pair["codes"][slot, s, n] = True, SELF
                pair["apart"][slot, s, :n] = level - g.level[:n]
                bonds = g.orders[:n, :n]
                pair["used"][slot, s, :n], pair["near"][slot, s, :n] = bonds.sum(1), (bonds > 0).sum(1)
                if free is not None:
                    free[slot, s, :n] = self._free(g.kind[:n], bonds.sum(1))
                if walks is not None:
                    walks[slot, s, :n, : self.model.config.walk] = _returns(g, n, self.model.config.walk)
        if not self.absorbing:
            node["left"] = np.where(role == VIRTUAL, node["degree"], 0)
        send = lambda a: torch.from_numpy(np.concatenate([a] * self.ways)).to(self.device)  # noqa: E731
        return Rows(
            **{name: send(a) for name, a in (node | pair).items()},
            role=send(role),
            sees=send(sees),
            walks=None if walks is None else send(walks),
            free=None if free is None else send(free),
            ring=None if ring is None else send(ring),
            time=send(time),
        ), send(at)

    def _free(self, kind: np.ndarray, used: np.ndarray) -> np.ndarray:
        """`Rows.free` of earlier nodes."""
        return np.asarray(np.clip(self.largest[kind] - used, 0, MOST_PLACES) + 1)

    def _codes(self, g: Growing) -> np.ndarray:
        """Pair codes of an open block: known bonds, masked or noised pairs."""
        if not self.absorbing:
            return NOISED + g.noisy
        codes = g.orders[g.start : g.n, : g.n].copy()
        hidden = np.repeat(~g.shown[:, None], g.n, 1)
        hidden[:, g.start :] &= ~g.shown
        codes[hidden & (codes == 0)] = MASKED
        return codes

    def _reveal(self, g: Growing, logits: np.ndarray) -> None:
        """Draw the rows that are certain enough, at least one; see `Options.entropy`."""
        rows = np.flatnonzero(~g.shown)
        found = self._law(g, rows, logits)
        laws, entropies = (dict(zip(rows.tolist(), each, strict=True)) for each in (found, _entropy(found, g.left[rows])))
        spent, left, first = 0.0, g.left.copy(), True
        while entropies and (first or spent <= self.options.entropy):
            least = min(entropies.values())
            i = next(i for i, h in entropies.items() if h <= least + TIE)
            law = laws[i] if first else None  # those of the others change with the first draw
            spent, first = spent + entropies[i], False
            entropy = entropies.pop(i)
            if g.shown[i] or g.left[i] != left[i]:
                continue  # a mate's draw has changed it: it waits for the next look
            self._draw_row(g, i, logits, entropy, law)

    def _law(self, g: Growing, rows: np.ndarray, logits: np.ndarray) -> np.ndarray:
        """Log-odds (r n o) of the bonds of some rows; NEVER where there can be none."""
        n, me = g.n, g.start + rows
        limit = self._limit(g, rows)
        law = logits[rows] + self.beyond[np.minimum(np.maximum(limit + MOST_EXCESS, 0), len(self.beyond) - 1)]
        law += self.closing[_ring(g.apart[me, :n])][..., None]
        never = g.orders[me, :n] > 0
        never[np.arange(len(rows)), me] = True
        never[:, g.start :] |= g.shown
        never[:, : g.start] |= g.room[: g.start] == 0
        if self.options.within == "forest":
            never |= g.apart[me, :n] < UNREACHED
        law[never] = subset.NEVER
        law[:, : g.start, 1:][:, g.room[: g.start] > 0] = subset.NEVER  # a star of the scaffold is one single bond
        if self.masked:
            law[np.arange(1, law.shape[-1] + 1) > limit[..., None]] = subset.NEVER
        for row, own in zip(rows.tolist(), law, strict=True):
            own[~self.joints.joining(g, row, own > subset.NEVER / 2)] = subset.NEVER
        return law

    def _limit(self, g: Growing, rows: np.ndarray) -> np.ndarray:
        """See `task.limit_of`: of some rows of the block and each node (r n), as the graph is now."""
        free = self.largest[g.kind[: g.n]] - g.orders[: g.n, : g.n].sum(1)
        free[g.start :] -= np.maximum(g.left - 1, 0)
        return np.minimum(free, free[g.start + rows][:, None])

    def _draw_row(self, g: Growing, row: int, logits: np.ndarray, entropy: float, known: np.ndarray | None) -> None:
        """The bonds of a row: together, or one by one where the next depends on the last (the law is the same).

        `known`: the law of the row as it is now, if it has been found already.
        """
        again = self.options.singly and entropy > self.options.entropy  # the network looks again after one bond
        crossing: list[int] = []  # columns found to break planarity, which costs too much to ask of all
        while not g.shown[row]:
            law, known = self._law(g, np.array([row]), logits)[0] if known is None else known, None
            law[crossing] = subset.NEVER
            odds = _lse(law)
            m = min(int(g.left[row]), int((odds > subset.NEVER / 2).sum()))
            columns = subset.draw(odds, m, g.stream)
            learnt = self.model.config.excess or self.model.config.rings
            bound = self.masked or learnt or self.options.within or (self.connected and g.several)
            single = len(columns) > 1 and bool(again or bound)
            if single:
                columns = columns[[int(g.stream.integers(len(columns)))]]
            if self.options.within == "planar" and len(columns) and not g.stays_planar(g.start + row, int(columns[0])):
                crossing.append(int(columns[0]))
                continue
            if single:
                g.score += float(np.log(max(subset.marginals(odds, m)[columns[0]], 1e-300) / m))
            elif len(columns):
                g.score += subset.log_probability(odds, columns)
            else:
                g.shown[row] = True
            for column in columns.tolist():
                share = np.exp(law[column] - odds[column])
                order = _pick(share, g.stream)
                g.score += float(np.log(max(share[order], 1e-300)))
                g.connect(row, column, order + 1)
            if again or not single:
                return

    def _ready(self, g: Growing) -> bool:
        """Whether the block is finished; begins one of the kernels with noise levels from pure noise."""
        if self.absorbing:
            return bool(g.shown.all())
        if g.time < 0:
            g.time = self.steps if g.n > 1 else 0
            law = self._noise(g)
            g.noisy = self._symmetric(g, categorical.draw(torch.from_numpy(law), torch.from_numpy(g.stream.random(law.shape[:2]))).numpy())
        return g.time == 0

    def _noise(self, g: Growing) -> np.ndarray:
        degree, others = torch.from_numpy(g.degree[g.start : g.n, None]).float(), torch.tensor([[g.n - 1.0]])
        law = self.model.noise_law(degree.to(self.device), others.to(self.device).expand_as(degree))
        return law.expand(g.size, g.n, -1).double().cpu().numpy()

    def _denoise(self, g: Growing, logits: np.ndarray) -> None:
        """One step towards the clean block; at the last one the bonds are drawn."""
        clean = torch.from_numpy(np.concatenate([np.zeros((*logits.shape[:2], 1)), logits], -1)).softmax(-1)
        if g.time > 1:
            law = torch.from_numpy(self._noise(g))
            now, then = (categorical.cosine(torch.full(g.noisy.shape, t / self.steps, dtype=torch.double)) for t in (g.time, g.time - 1))
            if self.options.sampler == "sid":
                clean = categorical.renoised(clean, then, law)
            else:
                clean = categorical.posterior(torch.from_numpy(g.noisy), clean, now, then, law)
        g.noisy = self._symmetric(g, categorical.draw(clean, torch.from_numpy(g.stream.random(g.noisy.shape))).numpy())
        g.time -= 1
        if g.time == 0:
            g.put(g.noisy)

    def _symmetric(self, g: Growing, classes: np.ndarray) -> np.ndarray:
        square = np.triu(classes[:, g.start :], 1)
        classes = classes.copy()
        classes[:, g.start :] = square + square.T
        return classes


def _walks(g: Growing, steps: int) -> np.ndarray:
    """RRWP features (s n w) of the block's rows, see `finished.walk_features`."""
    out = np.zeros((g.size, g.n, 2 * steps), dtype=np.float32)
    bonds = torch.from_numpy((g.orders[: g.n, : g.n] > 0).astype(np.float32))[None]
    if g.start:
        out[:, : g.start, :steps] = _returns(g, g.start, steps)
    if g.phase == "commit":
        walks = powers(bonds, steps)[0]
        out[:, :, steps:] = ((walks + walks.transpose(0, 1)) / 2)[g.start :].numpy()
    return out


def _ring(apart: np.ndarray) -> np.ndarray:
    """`Rows.ring` of nodes so many bonds apart."""
    return np.where((apart < 2) | (apart == UNREACHED), 0, np.minimum(apart + 1, MOST_RING))


def _returns(g: Growing, n: int, steps: int) -> np.ndarray:
    """Return probabilities (n w) of the first n nodes."""
    bonds = torch.from_numpy((g.orders[:n, :n] > 0).astype(np.float32))
    return np.asarray(powers(bonds, steps).diagonal().T.numpy())


def _pick(law: np.ndarray, stream: np.random.Generator) -> int:
    edges = np.cumsum(law)
    return min(int(np.searchsorted(edges, stream.random() * edges[-1], side="right")), len(law) - 1)


def _lse(law: np.ndarray) -> np.ndarray:
    top = law.max(-1)
    return np.asarray(top + np.log(np.exp(law - top[..., None]).sum(-1)))


def _entropy(law: np.ndarray, m: np.ndarray) -> np.ndarray:
    """Nats of some rows (r n o) with m open bonds: exact for one, else the sum over the pairs of the row, which bounds it from above."""
    odds = _lse(law)
    possible = (odds > subset.NEVER / 2).sum(-1)
    share = np.exp(law - odds[..., None])
    orders = -(share * np.log(np.maximum(share, 1e-300))).sum(-1)
    each = zip(odds, np.minimum(m, possible).tolist(), strict=True)
    present = np.stack([subset.marginals(row, k) if k > 0 else np.zeros(len(row)) for row, k in each])
    absent = np.where(m[:, None] > 1, np.maximum(1 - present, 1e-300), 1.0)
    which = -present * np.log(np.maximum(present, 1e-300)) - absent * np.log(absent)
    return np.asarray((which + present * orders).sum(-1))
