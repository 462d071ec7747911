"""Rows of a batch that draw octrees: a queue of open nodes each, a static cache, rows refilled as they finish.

The queue of a row is its event sequence itself: drawing node i appends its children, and breadth first order is the
order of the queue. All of it is tensors; the host looks at them every `poll` steps only. The noise of a draw comes
from its key alone, so the batch it happens to sit in does not matter.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sciar import precision
from sciar.families.octree import grown
from sciar.families.octree.constraints import Room, Wish, allowed_bytes
from sciar.families.octree.events import END
from sciar.families.octree.grown import Grown, Job
from sciar.families.octree.heads import log_likelihood
from sciar.families.octree.model import FIRST_ELEMENT, with_children
from sciar.families.octree.options import Options
from sciar.families.octree.proofread import Cells
from sciar.families.octree.surroundings import ELEMENT, FINER, NOTHING, SAME, with_given
from sciar.families.octree.tokens import NO_CELL, Tokens
from sciar.family import Draw
from sciar.lattice import cell_of_form
from sciar.nn.cache import StaticCache

if TYPE_CHECKING:
    from sciar.families.octree.model import Model

CHUNK = 32  # trees that are finished at once on a CPU
WIDTH = 32  # the cache is read in multiples of it: few shapes


def choose(
    logits: Float[Tensor, "b k"], allowed: Bool[Tensor, "b k"] | None, uniform: Float[Tensor, "b"], temperature: float
) -> Int[Tensor, "b"]:
    """The class at which the cumulated probability passes `uniform`; class 0 where nothing is allowed."""
    scaled = logits.double() / temperature
    if allowed is not None:
        scaled = scaled.masked_fill(~allowed, -torch.inf)
    cumulated = scaled.softmax(-1).nan_to_num().cumsum(-1)
    drawn = (cumulated <= uniform[:, None].double() * cumulated[:, -1:]).sum(-1)
    return torch.where(drawn < logits.shape[-1], drawn, 0)


class Rows:
    """A batch whose rows are at different events of different molecules."""

    def __init__(self, model: Model, jobs: list[Job], rows: int, options: Options) -> None:
        self.model, self.options, self.grid = model, options, model.grid
        self.device = next(model.parameters()).device
        self.trunk = torch.compile(model.trunk, dynamic=False) if options.compile else model.trunk
        self.jobs, self.rows = jobs, min(rows, len(jobs))
        self.poll = 1 if options.previews else options.poll or (1 if self.device.type == "cpu" else 8)
        c, t, b = model.config, model.tokenizer.config, self.rows
        self.longest = sum(min(8**depth, t.max_atoms) for depth in range(t.levels + 1))
        self.stride = 2 if c.layout == "interleaved" else 1
        self.guided = options.guidance != 1 and any(self._asked(job.wish) for job in jobs)
        # attention without pairs computes in fp32 on a CPU, see nn/transformer.py
        narrow = precision.narrow(options.precision, self.device) and (c.pair or self.device.type != "cpu")
        dtype = torch.bfloat16 if narrow else torch.float32
        self.together = options.together
        slots = -(-(self.stride * self.longest + self.together + 3) // WIDTH) * WIDTH
        copies = 2 * b if self.guided else b
        self.caches = [StaticCache(copies, c.heads, slots, c.width // c.heads, self.device, dtype) for _ in model.blocks]
        self.seen_at = torch.zeros(copies, slots, 3, device=self.device)
        fixed = max((len(job.wish.code) for job in jobs), default=0) or 1

        def zeros(*shape: int, dtype: torch.dtype = torch.long) -> Tensor:
            return torch.zeros(b, *shape, dtype=dtype, device=self.device)

        last = self.longest + 1  # one place more, for what is not written
        self.code, self.level = zeros(last), zeros(last)
        self.byte, self.element, self.bins = zeros(last), zeros(last), zeros(last, 3)
        self.position = zeros(last, 3, dtype=torch.float32)
        self.at, self.end, self.level_end, self.made, self.floor, self.last, self.calls = (zeros() for _ in range(7))
        self.atoms, self.due = zeros(2), zeros(model.n_elements)
        self.fixed, self.fixed_element, self.fixed_bins = zeros(fixed), zeros(fixed), zeros(fixed, 3)
        self.knows_given = bool(c.given) and any(len(job.wish.code) for job in jobs)
        self.noise = zeros(last, 4, dtype=torch.float64)
        self.cell = torch.eye(3, device=self.device).expand(b, 3, 3).contiguous() if model.periodic else None
        self.score = zeros(3, dtype=torch.float64)
        self.dead = zeros(dtype=torch.bool)
        self.condition = torch.zeros(copies, 1, c.width, device=self.device)
        self.row = torch.arange(b, device=self.device)
        self.job: list[Job | None] = [None] * b
        self.pool: list[Grown] = []
        self.tries, self.age, self.width = [0] * b, [0] * b, 0
        self.waiting = deque((job, 0, 0) for job in jobs)  # with tries and calls so far
        self.promise = Room(t.elements, options.min_distance, options.valence) if options.min_distance or options.valence else None
        self.room = self.promise if c.place == "bins" else None  # kept by masks; else the finished structure is looked at
        self.evaluations = options.refine if c.refiner_layers and self.room is None else 0

    def run(self) -> Iterator[Draw]:
        self._fill(list(range(self.rows)))
        while self.pool or self.waiting or any(job is not None for job in self.job):
            finished: list[Draw] = []
            # one autocast region for many steps: it keeps the cast weights until it ends
            with torch.inference_mode(), precision.autocast(self.options.precision, self.device):
                while not finished:
                    for _ in range(self.poll):
                        self._step()
                    finished = [*(self._previews() if self.options.previews else ()), *self._collect()]
            yield from finished

    # ---- rows begin and end

    def _fill(self, rows: list[int]) -> None:
        new = rows[: len(self.waiting)]
        for r in new:
            job, self.tries[r], self.calls[r] = self.waiting.popleft()
            self.job[r] = job
            self._begin(r, job)
        self._tell(new)

    def _begin(self, r: int, job: Job) -> None:
        wish, device = job.wish, self.device
        held = len(wish.code)
        for store in (self.code, self.level, self.byte, self.element, self.at, self.made, self.last, self.score, self.dead):
            store[r] = 0
        self.level[r, 0], self.end[r], self.level_end[r] = self.grid.levels, 1, 0
        self.floor[r] = max(1, held)
        if self.cell is not None and wish.lattice is not None:
            self.cell[r] = torch.from_numpy(cell_of_form(wish.lattice)).float().to(device)
        self.atoms[r] = torch.tensor(wish.atoms, device=device)
        self.due[r] = torch.from_numpy(wish.due).to(device)
        self.fixed[r] = -1
        if held:
            self.fixed[r, :held] = torch.from_numpy(wish.code).to(device)
            self.fixed_element[r, :held] = torch.from_numpy(wish.element).to(device)
            self.fixed_bins[r, :held] = torch.from_numpy(wish.bins).to(device)
        rng = np.random.default_rng([*job.key, 0, self.tries[r]])
        self.noise[r, : self.longest] = torch.from_numpy(rng.random((self.longest, 4))).to(device)
        self.age[r] = 0

    def _tell(self, rows: list[int]) -> None:
        """What the network is told of the wishes of new rows."""
        if not self.model.config.condition or not rows:
            return
        nan = float("nan")
        wishes = [job.wish for r in rows if (job := self.job[r])]
        exact = [float(w.atoms[0]) if w.atoms[0] == w.atoms[1] else nan for w in wishes]
        counts = [w.composition.tolist() if w.composition is not None else [nan] * self.model.n_elements for w in wishes]
        values = [[w.properties.get(name, nan) for name in self.model.tokenizer.config.properties] for w in wishes]
        lattices = [wish.lattice for wish in wishes if wish.lattice is not None]
        facts = (exact, counts, values, np.stack(lattices)) if lattices else (exact, counts, values)
        told = [torch.tensor(v, dtype=torch.float32, device=self.device) for v in facts]
        with torch.inference_mode():
            scaled = self.model.scaled(*told)
            where = torch.tensor(rows, device=self.device)
            self.condition[where] = self.model.conditions(scaled).float()
            if self.model.powder is not None:
                self.condition[where] += self.model.powder.wanted([w.profile for w in wishes])[0]
            if self.guided:  # of a crystal number, composition and cell stay
                told[2] = torch.full_like(told[2], nan)
                free = self.model.scaled(*told) if lattices else torch.full_like(scaled, nan)
                self.condition[self.rows + where] = self.model.conditions(free).float()

    def _asked(self, wish: Wish) -> bool:
        if wish.lattice is not None:
            return bool(wish.properties or wish.profile)
        return self.model.config.condition and bool(wish.properties or wish.composition is not None or wish.atoms[0] == wish.atoms[1])

    def _collect(self) -> list[Draw]:
        state = torch.stack([self.at, self.end, self.dead.long(), self.calls]).tolist()
        draws = []
        for r, job in enumerate(self.job):
            at, end, dead, calls = (column[r] for column in state)
            if job is None:
                continue
            if dead and self.tries[r] + 1 < self.options.tries:
                self.tries[r] += 1
                self._begin(r, job)
            elif dead:
                draws.append(self._failed(job, "no place left for an atom", calls))
                self.job[r] = None
            elif at >= end:
                self.pool.append(self._grown(r, job, end, calls))
                self.job[r] = None
        self._fill([r for r, job in enumerate(self.job) if job is None])
        # the refiner is for many at once
        if self.pool and (not self.evaluations or len(self.pool) >= self.rows or all(job is None for job in self.job)):
            alike = sorted(self.pool, key=lambda g: len(g.tokens.element))  # little padding; small enough for the caches of a CPU
            size = CHUNK if self.device.type == "cpu" else len(alike)
            draws += [draw for k in range(0, len(alike), size) for draw in self._finish(alike[k : k + size])]
            self.pool = []
        return draws

    def _previews(self) -> list[Draw]:
        """Of rows that have just ended a level: the nodes that wait, which are all of the next level."""
        state = torch.stack([self.at, self.level_end, self.end, self.dead.long(), self.calls]).tolist()
        found = []
        for r, job in enumerate(self.job):
            at, level_end, end, dead, calls = (column[r] for column in state)
            if job is None or at != level_end or at >= end or dead:
                continue
            level = self.level[r, at:end]
            middle = 0.0 if self.model.periodic else self.grid.side / 2
            centres = (self.grid.centre(self.code[r, at:end], level).float() - middle).cpu().numpy()
            left = int(level[0]) + 1
            tree = self.byte[r, :at].cpu().numpy().copy()
            unknown, order = self._unknown(), np.arange(end - at)
            bins = np.zeros((end - at, 3), dtype=np.int64)
            tokens = Tokens(tree, 0 * order, bins, order, centres, unknown, self._lattice(job.wish), job.wish.pose, left=left)
            found.append(Draw(job.index, tokens, float("nan"), calls, left))
        return found

    def _grown(self, r: int, job: Job, end: int, calls: int) -> Grown:
        """What is left of a row whose tree is complete."""
        tokens = self._tokens(r, job.wish, end)
        at = slice(end - len(tokens.element), end)
        held = self.fixed[r][self.fixed[r] >= 0]
        origin = self.grid.cell / 2 if self.model.periodic else (self.grid.side + self.grid.cell) / 2
        corner = self.grid.centre(self.code[r, at], self.level[r, at]).float() - origin
        cells = Cells(
            x=(corner + torch.from_numpy(tokens.bins).to(self.device) * self.grid.step)[None],
            element=self.element[r, at][None].clone(),
            mask=torch.ones(1, len(tokens.element), dtype=torch.bool, device=self.device),
            free=(self.code[r, at, None] != held).all(1)[None],
            allowed=self.due[r][None] > 0,
            condition=self.condition[r][None].clone() if self.model.config.condition else None,
        )
        return Grown(job, tokens, self.tries[r], calls, self.score[r].clone(), cells)

    def _finish(self, trees: list[Grown]) -> list[Draw]:
        """The draws of complete trees, see grown.py; those that must start again wait."""
        if self.evaluations:
            trees = (grown.crystals if self.model.periodic else grown.molecules)(self.model, trees, self.options)
        draws = []
        for g in trees:
            cells = g.cells
            if self.promise is None or self.room or self.promise.kept(cells.x[0], cells.element[0]):
                draws.append(Draw(g.job.index, g.tokens, grown.rank(self.model, g, self.options), g.calls))
            elif g.tries + 1 < self.options.tries:
                self.waiting.append((g.job, g.tries + 1, g.calls))
            else:
                draws.append(self._failed(g.job, "atoms too near or with too many neighbours", g.calls))
        return draws

    def _failed(self, job: Job, what: str, calls: int) -> Draw:
        none = np.zeros(0, dtype=np.int64)
        failure = f"{what} after {self.options.tries} starts"
        nowhere = np.zeros((0, 3))
        tokens = Tokens(
            none, none, none.reshape(0, 3), none, nowhere, self._unknown(), self._lattice(job.wish), pose=job.wish.pose, failure=failure
        )
        return Draw(job.index, tokens, float("nan"), calls)

    def _tokens(self, r: int, wish: Wish, events: int) -> Tokens:
        inner = int((self.level[r, :events] > 0).sum())
        tree, element, bins = (s[r].cpu().numpy().copy() for s in (self.byte, self.element, self.bins))
        atoms = events - inner
        if len(wish.code):
            bins[inner + np.searchsorted(self.code[r, inner:events].cpu().numpy(), wish.code)] = wish.bins  # the trunk saw others
        return Tokens(
            tree=tree[:inner],
            element=element[inner:events],
            bins=bins[inner:events],
            order=np.arange(atoms),
            positions=np.zeros((atoms, 3)),
            properties=self._unknown(),
            lattice=self._lattice(wish),
            pose=wish.pose,
        )

    def _lattice(self, wish: Wish) -> np.ndarray:
        return NO_CELL if wish.lattice is None else wish.lattice[None]

    def _unknown(self) -> np.ndarray:
        return np.full((1, len(self.model.tokenizer.config.properties)), np.nan)

    # ---- some events of every row

    def _step(self) -> None:
        """One pass of the network, then up to `together` events of a level, one after the other, as far as they are sure."""
        opens = self.at == self.level_end
        self.level_end = torch.where(opens, self.end, self.level_end)
        self.made = torch.where(opens, 0, self.made)
        count = (self.level_end - self.at).clamp(max=self.together)
        h = self._states(count)
        begin, sure = self.at, count > 0
        for k in range(self.together):
            sure = sure & (k < count)
            if k and np.isfinite(self.options.sure):
                sure = sure & self._sure(h[:, k])
            if self.device.type == "cpu" and not bool(sure.any()):
                break  # on a GPU the look would cost more than the idle events
            self._event(h[:, k], sure)
        self.last = self.at - begin
        self.calls += count > 0
        self.age = [a + self.together for a in self.age]

    def _sure(self, h: Float[Tensor, "b d"]) -> Bool[Tensor, "b"]:
        """Whether the next event of each row is decided well enough to be drawn beside those before it."""
        law = self.model.byte_logits(h).log_softmax(-1)
        of_node = -(law.exp() * law).sum(-1)
        law = self.model.leaf_head.element(h[..., : self.model.config.width])[:, : self.model.n_elements].log_softmax(-1)
        entropy = torch.where(self.level[self.row, self.at.clamp(max=self.longest)] > 0, of_node, -(law.exp() * law).sum(-1))
        return entropy <= self.options.sure

    def _event(self, h: Float[Tensor, "b d"], active: Bool[Tensor, "b"]) -> None:
        row = self.row
        at = torch.where(active, self.at, self.longest)  # rows that wait write where nothing is read
        level, code = self.level[row, at], self.code[row, at]
        centre = self.grid.centre(code, level).float()
        inner = level > 0
        inside = (self.fixed >> (3 * level)[:, None] == code[:, None]) & (self.fixed >= 0)
        held = inside.sum(1)
        child = (self.fixed >> (3 * (level.clamp(min=1) - 1))[:, None]) & 7
        bit = torch.arange(8, device=self.device)
        required = (((child[..., None] == bit) & inside[..., None]).any(1) << bit).sum(1)
        logits = self.model.byte_logits(h)
        allowed = allowed_bytes(level, self.level_end - self.at, self.made, self.floor, self.atoms, held, required)
        byte = torch.where(inner, 1 + choose(logits, allowed, self.noise[row, at, 0], self.options.tree_temperature), 0)
        self.score[:, 0] += torch.where(inner & active, log_likelihood(logits, (byte - 1).clamp(min=0)), 0.0)
        self._atom(h, at, active & ~inner, centre, inside)
        self.byte[row, at] = byte
        self.position[row, at] = torch.where(inner[:, None], centre, centre - self.grid.cell / 2 + self.bins[row, at] * self.grid.step)
        # children of the node join the queue
        bits = ((byte[:, None] >> bit) & 1) * (inner & active)[:, None]
        place = torch.where(bits > 0, self.end[:, None] + bits.cumsum(1) - 1, self.longest)
        self.code.scatter_(1, place, (code[:, None] << 3) | bit)
        self.level.scatter_(1, place, (level - 1).clamp(min=0)[:, None].expand(-1, 8))
        new = bits.sum(1)
        self.end, self.made = self.end + new, self.made + new
        fewest = new - ((required[:, None] >> bit) & 1).sum(1) + held - held.clamp(min=1)
        self.floor = self.floor + torch.where(inner & active, fewest, 0)
        self.at = self.at + active

    def _states(self, count: Int[Tensor, "b"]) -> Float[Tensor, "b c d"]:
        """The states from which the next events are drawn; the events drawn last enter the cache."""
        model, row = self.model, self.row[:, None]
        ahead = torch.arange(self.together, device=self.device)
        drawn = self.at[:, None] - 1 - ahead.flip(0)
        known = ahead.flip(0) < self.last[:, None]
        before = drawn.clamp(min=0)
        last_level = torch.where(known, self.level[row, before], END)
        atom = last_level == 0
        kind = torch.where(atom, FIRST_ELEMENT + self.element[row, before], self.byte[row, before])
        content = model.content(kind, last_level, torch.where(atom[..., None], self.bins[row, before], model.null)) * known[..., None]
        come = torch.where(known[..., None], self.position[row, before], self.grid.side / 2)
        coming = (self.at[:, None] + ahead).clamp(max=self.longest)
        level = self.level[row, coming]
        centre = self.grid.centre(self.code[row, coming], level).float()
        place = model.place(level, (self.level_end[:, None] - coming).clamp(min=0))
        around = None
        if model.config.around:
            more, around = model.surroundings(centre, self.grid.edge(level), level + 1, *self._frontier(coming, level), self.cell)
            place = place + more
        asked = -(-(max(self.age) * self.stride + self.together + 3) // WIDTH) * WIDTH
        width = self.width = max(self.width, min(asked, self.caches[0].longest))
        spare = width - 1  # a slot that nobody sees
        if model.config.layout == "fused":
            h, queries, keys = content + place, centre, come
            slots = visible = coming.clamp(max=self.longest - 1)
            lowest = 0
        else:
            # the real copy of event i lies in slot stride · (i + 1), the masked one in the slot after that of event i - 1
            h, queries = torch.cat([content, place], 1), torch.cat([come, centre], 1)
            keys = queries
            real = torch.where(known, (drawn + 1) * self.stride, spare)
            mask = torch.where(ahead < count[:, None], coming * self.stride + 1, spare)
            slots = torch.cat([real, mask], 1)
            visible = torch.cat([real, (self.at * self.stride)[:, None].expand_as(mask)], 1)
            lowest = 1
        if self.guided:
            h, slots, visible = (torch.cat([part, part]) for part in (h, slots, visible))
            queries, keys = queries.repeat(2, 1, 1), keys.repeat(2, 1, 1)
        if model.config.condition:
            h = h + self.condition
        index = torch.arange(width, device=self.device)
        seen = ((index <= visible[..., None]) & (index >= lowest)) | (index == slots[..., None])
        bias = torch.zeros(seen.shape, device=self.device).masked_fill(~seen, -1e4)[:, None]
        self.seen_at[torch.arange(len(h), device=self.device)[:, None], slots] = keys
        caches = [cache.at(slots, width) for cache in self.caches]
        cell = self.cell if self.cell is None or not self.guided else self.cell.repeat(2, 1, 1)
        h = self.trunk(h, queries, keys, bias, caches, seen_at=self.seen_at[:, :width], cell=cell)[:, -self.together :]
        if self.guided:
            told, free = h.chunk(2)
            h = free + self.options.guidance * (told - free)
        return with_children(h, around)

    def _frontier(self, coming: Int[Tensor, "b c"], level: Int[Tensor, "b c"]) -> tuple[Float[Tensor, "b c k 3"], Int[Tensor, "b c k"]]:
        """Cubes known to hold atoms and their kinds: the queue, and of atoms those drawn before."""
        index = torch.arange(self.code.shape[1], device=self.device)
        inner = ((self.level > 0) & (index < self.end[:, None])).sum(1)
        begin = torch.where(level[:, 0] == 0, inner, self.at)
        at = begin[:, None] + torch.arange(self.model.tokenizer.config.max_atoms, device=self.device)
        there = at < self.end[:, None]
        at = at.clamp(max=self.longest)
        row = self.row[:, None]
        found = self.level[row, at]
        centre = self.grid.centre(self.code[row, at], found).float()
        kind = torch.where(found[:, None] == level[..., None], SAME, FINER)
        drawn = (found == 0) & (at < self.at[:, None])
        kind = torch.where(drawn[:, None], ELEMENT + self.element[row, at][:, None], kind)
        if self.knows_given:
            same = self.code[row, at][..., None] == self.fixed[:, None]
            element = self.fixed_element.gather(1, same.long().argmax(-1))
            kind = torch.where(same.any(-1)[:, None] & (level == 0)[..., None], ELEMENT + element[:, None], kind)
        kind = torch.where(there[:, None] & (at[:, None] != coming[..., None]), kind, NOTHING)
        places = centre[:, None].expand(-1, coming.shape[1], -1, -1)
        if not self.knows_given:
            return places, kind
        given_at = self.grid.centre(self.fixed.clamp(min=0), torch.zeros_like(self.fixed)).float()
        return with_given(places, kind, level, given_at, torch.where(self.fixed >= 0, self.fixed_element, NOTHING - ELEMENT))

    def _atom(self, h: Tensor, at: Tensor, drawn: Tensor, centre: Tensor, inside: Tensor) -> None:
        """Element and place of the rows that are at a leaf."""
        model, options, row = self.model, self.options, self.row
        head, noise, h = model.leaf_head, self.noise[row, at], h[..., : model.config.width]
        room = self._free(at, drawn & ~inside.any(1), centre) if self.room else None
        logits = head.element(h)[:, : model.n_elements]
        allowed = self.due > 0
        if room is not None:
            allowed = allowed & room.flatten(2).any(2)
        given = inside.any(1)
        which = inside.long().argmax(1)
        element = torch.where(given, self.fixed_element[row, which], choose(logits, allowed, noise[:, 0], options.element_temperature))
        self.dead |= drawn & ~given & ~allowed.any(1)
        likely = log_likelihood(logits, element)
        if model.config.place == "bins":
            room_of = None if room is None else room[row, element]
            bins, places = self._bins(h, element, noise, room_of, given, self.fixed_bins[row, which])
        elif model.config.place == "refined":
            bins = torch.full_like(self.bins[:, 0], self.grid.bins // 2)  # of given atoms too: the trunk knows no other
            places = torch.zeros_like(likely)
        else:
            start = torch.special.ndtri(noise[:, 1:].clamp(1e-12, 1 - 1e-12)).float()
            offset = head.offset.sample(head.given(h, element), start, options.steps, temperature=options.place_temperature)
            bins = ((offset / self.grid.step).round().long() + self.grid.bins // 2).clamp(0, self.grid.bins - 1)
            bins = torch.where(given[:, None], self.fixed_bins[row, which], bins)
            places = torch.zeros_like(likely)
        self.score[:, 1] += torch.where(drawn, likely, 0.0)
        self.score[:, 2] += torch.where(drawn, places, 0.0)
        self.element[row, at] = torch.where(drawn, element, 0)
        self.bins[row, at] = torch.where(drawn[:, None], bins, 0)
        self.due[row, element] -= (drawn & ~given).long()

    def _bins(
        self, h: Tensor, element: Tensor, noise: Tensor, room: Tensor | None, given: Tensor, fixed: Tensor
    ) -> tuple[Int[Tensor, "b 3"], Float[Tensor, "b"]]:
        """x, then y, then z; a bin is allowed if a free place remains behind it."""
        head = self.model.leaf_head
        drawn: list[Tensor] = []
        likely = torch.zeros(len(h), device=h.device)
        for axis in range(3):
            logits = head.axes[axis](head.given(h, element, tuple(drawn)))
            allowed = None if room is None else room.flatten(2).any(2) if axis < 2 else room
            bin_ = choose(logits, allowed, noise[:, 1 + axis], self.options.place_temperature)
            bin_ = torch.where(given, fixed[:, axis], bin_)
            likely = likely + log_likelihood(logits, bin_)
            drawn.append(bin_)
            if room is not None:
                room = room[self.row, bin_]
        return torch.stack(drawn, -1), likely

    def _free(self, at: Tensor, drawn: Tensor, centre: Tensor) -> Bool[Tensor, "b k x y z"]:
        """Free places in the cells of the rows that draw an atom; everything in those of the others."""
        assert self.room is not None
        n = self.grid.bins
        out = torch.ones(self.rows, self.model.n_elements, n, n, n, dtype=torch.bool, device=self.device)
        for r in drawn.nonzero()[:, 0].tolist():
            # atoms placed so far, and the fixed ones that come later
            earlier = (self.level[r, : int(at[r])] == 0).nonzero()[:, 0]
            held = self.fixed[r][self.fixed[r] >= 0]
            later = held > self.code[r, at[r]]
            corner = self.grid.centre(held[later], torch.zeros_like(held[later])).float() - self.grid.cell / 2
            ahead = corner + self.fixed_bins[r][self.fixed[r] >= 0][later] * self.grid.step
            placed = torch.cat([self.position[r, earlier], ahead])
            kinds = torch.cat([self.element[r, earlier], self.fixed_element[r][self.fixed[r] >= 0][later]])
            out[r] = self.room.free(centre[r] - self.grid.cell / 2, n, self.grid.step, placed, kinds)
        return out
