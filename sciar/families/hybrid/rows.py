"""Rows of a batch that place atoms: each at its own slot of its own molecule, refilled as molecules finish, refined at the end."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from sciar import precision
from sciar.batch import Batch, collate
from sciar.families.hybrid.fixed import laid_over
from sciar.families.hybrid.model import gather, local_geometry
from sciar.families.hybrid.tokens import Tokens
from sciar.family import Draw
from sciar.nn.cache import StaticCache
from sciar.nn.refiner import denoised

if TYPE_CHECKING:
    from sciar.families.hybrid.model import Model
    from sciar.families.hybrid.sample import Options


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Pins:
    """Fixed atoms: their numbers in the graph, where the user has them, and where they stand in the frame of the slots (both m × 3)."""

    atoms: np.ndarray
    given: np.ndarray
    placed: np.ndarray


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Job:
    index: int
    key: tuple[int, int]
    tokens: Tokens
    word_score: float
    calls: int
    pins: Pins | None = None


class Rows:
    """A batch whose rows are at different slots of different molecules."""

    def __init__(self, model: Model, jobs: list[Job], rows: int, options: Options) -> None:
        self.model, self.options = model, options
        self.device = next(model.parameters()).device
        self.jobs = jobs
        self.rows = min(rows, len(jobs))
        c, n, b = model.config, len(jobs[0].tokens.order), self.rows
        self.width, self.seen = n, 0
        dtype = torch.bfloat16 if precision.narrow(options.precision, self.device) else torch.float32
        self.caches = [StaticCache(b, c.heads, n, c.width // c.heads, self.device, dtype) for _ in model.decoder]
        zeros = lambda *shape, dtype=torch.float32: torch.zeros(b, *shape, dtype=dtype, device=self.device)  # noqa: E731
        self.state, self.codes = zeros(n, c.width), zeros(n, n, dtype=torch.long)
        self.positions, self.noise, self.probe = zeros(n, 3), zeros(n, 3), zeros(n, 3)
        self.fields = {
            "anchor": zeros(n, dtype=torch.long),
            "refs": zeros(n, 5, dtype=torch.long),
            "side": zeros(n, 4, dtype=torch.long),
            "twist": zeros(n, 4, dtype=torch.long),
        }
        self.heavy = zeros(n, dtype=torch.bool)
        self.length, self.at, self.pinned = zeros(dtype=torch.long), zeros(dtype=torch.long), zeros(dtype=torch.long)
        self.strict = zeros(dtype=torch.bool)  # marks that were drawn with the graph are no demands: they may be impossible
        self.score = zeros(dtype=torch.float64)
        self.job: list[Job | None] = [None] * b
        self.calls = np.zeros(b, dtype=int)

    def run(self) -> Iterator[Draw]:
        waiting = iter(self.jobs)
        self._fill(waiting, list(range(self.rows)))
        while any(job is not None for job in self.job):
            ready: list[int] = []
            # one autocast region for many steps: it keeps the cast weights until it ends
            with torch.inference_mode(), precision.autocast(self.options.precision, self.device):
                while not ready:
                    self._step()
                    ready = self._ready()
            finished = self._finish(ready)
            self._fill(waiting, ready)
            yield from finished

    def _ready(self) -> list[int]:
        """Finished rows, once they are worth it: encoding and refining a few at a time costs more than letting them wait."""
        at, length = self.at.tolist(), self.length.tolist()
        done = [r for r, job in enumerate(self.job) if job is not None and at[r] >= length[r]]
        running = sum(job is not None for job in self.job) - len(done)
        return done if running == 0 or len(done) >= max(1, self.rows // 4) else []

    @torch.inference_mode()
    def _fill(self, waiting: Iterator[Job], rows: list[int]) -> None:
        new = [(r, job) for r, job in zip(rows, waiting, strict=False)]
        if not new:
            return
        where = torch.tensor([r for r, _ in new], device=self.device)
        batch: Batch = collate(Tokens, [job.tokens for _, job in new], multiple=1).to(self.device)
        n = batch["anchor"].shape[1]
        with precision.autocast(self.options.precision, self.device):
            state, codes = self.model.encode(batch)
        self.state[where, :n], self.codes[where, :n, :n] = state.float(), codes
        for name, store in self.fields.items():
            store[where, :n] = batch[name]
        self.heavy[where] = False
        self.heavy[where, :n] = batch["features"][..., 0] != self.model.tokenizer.element_code.get(1, -1)
        self.length[where] = batch.masks["atoms"].sum(1)
        self.at[where], self.score[where], self.positions[where], self.pinned[where] = 0, 0.0, 0.0, 0
        for r, job in new:
            stream, slots = np.random.default_rng([*job.key, 0]), len(job.tokens.order)
            for store in (self.noise, self.probe):  # of the draw and of its likelihood
                store[r, :slots] = torch.from_numpy(stream.standard_normal((slots, 3), dtype=np.float32)).to(self.device)
            self.job[r], self.calls[r], self.strict[r] = job, job.calls, not job.tokens.de_novo
            if job.pins is not None:
                self.pinned[r] = len(job.pins.atoms)
                self.positions[r, : len(job.pins.atoms)] = torch.from_numpy(job.pins.placed).to(self.positions)

    def _step(self) -> None:
        """Place one atom in every row."""
        model, options = self.model, self.options
        at = torch.minimum(self.at, self.length - 1).clamp(min=0)
        w = self.seen = max(self.seen, min(self.width, -(-(int(at.max()) + 1) // 8) * 8))  # few widths, none smaller than before
        rows = torch.arange(self.rows, device=self.device)
        anchor, refs, side, twist = (self.fields[name][rows, at][:, None] for name in ("anchor", "refs", "side", "twist"))
        codes = self.codes[rows, at, :w][:, None]
        positions = self.positions[:, :w]
        geometry = local_geometry(positions, anchor, refs, side, twist, codes, model.config.frame)
        slot = torch.arange(w, device=self.device)
        pair, bias = model.pairs(geometry, codes, (slot <= at[:, None])[:, None], (slot == at[:, None])[:, None])
        level = torch.full((self.rows,), float(np.log(options.history)), device=self.device)
        previous = self.positions[rows, (at - 1).clamp(min=0)][:, None]
        h = model.slots(self.state[rows, at][:, None], gather(self.state, anchor), geometry, level, previous)
        heads = model.config.heads
        for i, (block, cache) in enumerate(zip(model.decoder, self.caches, strict=True)):
            h = block(h, bias[:, i * heads : (i + 1) * heads], pair, cache.at(at[:, None], w))
        z = model.decoder_norm(h)[:, 0]
        drawn, running = (anchor[:, 0] >= 0) & (at >= self.pinned), self.at < self.length
        local = torch.zeros_like(positions[:, 0])
        wanted = torch.where(self.heavy[rows, at], options.steps, options.hydrogen_steps)
        if options.anneal:  # DiSA (arXiv 2505.20297), linear: later slots are easier
            left = 1 - at / (self.length - 1).clamp(min=1)
            wanted = torch.minimum(wanted, options.anneal + (left * (options.steps - options.anneal)).round().long())
        for steps in wanted[running & drawn].unique().tolist():  # a row's steps must not depend on the others
            some = (running & drawn & (wanted == steps)).nonzero()[:, 0]
            noise = self._fresh(some, at) if options.solver == "sde" else None
            local[some] = model.head.sample(z[some], self.noise[some, at[some]], steps, options.solver, options.temperature, noise)
        origin = geometry.origin[:, 0] if model.config.target == "residual" else torch.zeros_like(local)
        axes = geometry.axes[:, 0]
        if model.config.frame == "local" and model.config.target == "residual":
            # all that a stereo mark demands is a side of a plane; the mirror image of a miss is there
            demand = torch.stack([torch.zeros_like(geometry.side), geometry.twist, geometry.side], -1)[:, 0]
            local = torch.where(local * demand * self.strict[:, None] < 0, -local, local)
        if options.score:
            probe = self.probe[rows, at]
            value = model.head.log_likelihood(z, local) if options.score == "exact" else model.head.likelihood_bound(z, local, probe)
            self.score += torch.where(drawn & running, value, 0.0).double()
        placed = origin + torch.einsum("bij,bi->bj", axes, local)
        active = self.at < self.length
        self.positions[rows[active], at[active]] = torch.where(drawn[:, None], placed, self.positions[rows, at])[active]
        self.calls += torch.where(active, wanted * drawn + 1, 0).cpu().numpy()
        self.at += active

    def _fresh(self, some: Tensor, at: Tensor) -> Callable[[int], Tensor]:
        """Noise of the stochastic solver: a function of (key, slot, step)."""
        places = [(job.key, int(at[r])) for r in some.tolist() if (job := self.job[r])]
        made = lambda step: [np.random.default_rng([*key, 3, place, step]).standard_normal(3) for key, place in places]  # noqa: E731
        return lambda step: torch.from_numpy(np.array(made(step), dtype=np.float32)).to(self.device)

    @torch.inference_mode()
    def _finish(self, ready: list[int]) -> list[Draw]:
        finished = []
        where = torch.tensor(ready, device=self.device)
        n = int(self.length[where].max())
        x = self.positions[where, :n]
        mask = torch.arange(n, device=self.device) < self.length[where, None]
        if self.options.refine and self.model.config.refiner_layers:
            with precision.autocast(self.options.precision, self.device):
                free = (torch.arange(n, device=self.device) >= self.pinned[where, None])[..., None]
                x = self._refined(x, self.state[where, :n], self.codes[where, :n, :n], mask, free)
        positions, scores = x.float().cpu().numpy(), self.score.tolist()
        for r, xyz in zip(ready, positions, strict=True):
            job = self.job[r]
            assert job is not None
            self.job[r] = None
            xyz = xyz[: len(job.tokens.order)]
            if job.pins is not None:
                xyz = laid_over(xyz, np.arange(len(job.pins.atoms)), job.pins.given[np.argsort(_slots_of(job))])
            tokens = dataclasses.replace(job.tokens, positions=xyz)
            score = job.word_score + scores[r] if self.options.score or job.word_score else float("nan")
            finished.append(Draw(job.index, tokens, score, int(self.calls[r]) + self.options.refine))
        return finished

    def _refined(self, x: Tensor, state: Tensor, codes: Tensor, mask: Tensor, free: Tensor) -> Tensor:
        count = self.options.refine
        first = self.options.refine_sigma or (0.1 if count <= 2 else 0.3 if count <= 4 else 1.0)
        return denoised(lambda x, sigma: self.model.refiner(x, sigma, state, codes, mask), x, free, first, count)


def _slots_of(job: Job) -> np.ndarray:
    """The slot of each fixed atom, in the order they were given."""
    assert job.pins is not None
    slot = np.empty(len(job.tokens.order), dtype=int)
    slot[job.tokens.order] = np.arange(len(slot))
    return slot[job.pins.atoms]
