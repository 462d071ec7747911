"""Drawing crystals block by block: composition, lattice, atoms; then all numbers together.

The noise of a draw comes from its key alone, so the batch it happens to sit in does not matter.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sciar import precision
from sciar.errors import InputError
from sciar.families.slots.model import ELEMENTS, Slots, relation_of
from sciar.families.slots.options import Options
from sciar.families.slots.tokens import Tokens, place_of
from sciar.family import Draw, options_of
from sciar.nn.composition import Space, space_of
from sciar.nn.sites import Frame, denoised, forms, matrix
from sciar.prompt import Prompt
from sciar.structure import SYMBOLS

if TYPE_CHECKING:
    from sciar.families.slots.model import Model


def sample(
    model: Model, prompts: Sequence[Prompt], keys: Sequence[tuple[int, int]], batch_size: int = 64, **options: object
) -> Iterator[Draw]:
    """See `sciar.family.Model.sample`; `options` are the fields of `Options`.

    Raises:
        InputError: an unknown option, or a prompt that cannot be kept (see `sciar.nn.composition.space_of`).
    """
    chosen = options_of(Options, options)
    if chosen.refine and not model.config.refiner_layers:
        chosen = options_of(Options, dict(options) | {"refine": 0})
    spaces: dict[int, Space] = {}
    for prompt in prompts:  # the draws of one row share their prompt
        if id(prompt) not in spaces:
            spaces[id(prompt)] = _space(model, prompt)
    device = next(model.parameters()).device
    for start in range(0, len(prompts), batch_size):
        part = range(start, min(start + batch_size, len(prompts)))
        streams = [np.random.default_rng([*keys[i], 6]) for i in part]
        group = torch.tensor([prompts[i].space_group or 0 for i in part], device=device)
        with torch.inference_mode(), precision.autocast(chosen.precision, device):
            drawn = _Batch(model, [spaces[id(prompts[i])] for i in part], group, streams, chosen).run()
        for i, (tokens, calls) in zip(part, drawn, strict=True):
            yield Draw(i, tokens, float("nan"), calls)


def _space(model: Model, prompt: Prompt) -> Space:
    if not prompt.crystal:
        raise InputError("slots: expected a crystal, got a molecule to be drawn; use another model")
    if prompt.fixed is not None:
        raise InputError("slots: expected no fixed atoms in a crystal, got some; this model draws whole cells")
    c = model.tokenizer.config
    known = model.statistics.get("elements") or SYMBOLS[1:]
    space = space_of(prompt, known, c.max_atoms, c.properties)
    place = np.array([SYMBOLS.index(symbol) for symbol in known])
    spread = lambda values: np.bincount(place, values, ELEMENTS).astype(int)  # noqa: E731
    compositions = tuple(tuple(spread(counts).tolist()) for counts in space.compositions)
    return Space(compositions, spread(space.allowed) > 0, space.atoms, space.properties, space.narrow)


class _Batch:
    """b crystals that are drawn together; what is drawn already is kept per layer as keys and values."""

    def __init__(
        self, model: Model, spaces: list[Space], group: Int[Tensor, "b"], streams: list[np.random.Generator], options: Options
    ) -> None:
        self.model, self.options, self.device = model, options, group.device
        asked = torch.tensor(np.stack([space.properties for space in spaces]), dtype=torch.float32, device=self.device)
        wanted = model.wanted(asked)
        counts = model.compositions.drawn(spaces, streams, wanted, (options.composition_temperature, options.count_temperature))
        elements = [_elements(row) for row in counts.cpu().numpy()]
        most = max(len(row) for row in elements)
        self.elements = torch.tensor([row + [0] * (most - len(row)) for row in elements], device=self.device)
        self.mask = self.elements > 0
        self.slots = model.slots(self.elements, self.mask)
        b, s = self.slots.block.shape
        lattice = model.n_lattice
        # all noise at once, atom by atom, so that padding changes nothing
        noise, evaluations = np.zeros((b, s, 3), dtype=np.float32), max(0, options.refine - 2)
        self.fresh = torch.zeros(evaluations, b, most, 3, device=self.device)
        for k, (row, stream) in enumerate(zip(elements, streams, strict=True)):
            noise[k, :lattice] = stream.standard_normal((lattice, 3))
            drawn = stream.random((len(row), 3)) if model.config.head == "trunk" else stream.standard_normal((len(row), 3))
            noise[k, lattice : lattice + len(row)] = drawn
            self.fresh[:, k, : len(row)] = torch.from_numpy(stream.standard_normal((evaluations, len(row), 3), dtype=np.float32)).to(
                self.device
            )
        self.noise = torch.from_numpy(noise).to(self.device)
        self.numbers = torch.zeros(b, s, 3, device=self.device)
        self.cell = torch.eye(3, device=self.device).expand(b, 3, 3).contiguous()
        c = model.config
        shape = (b, c.heads, 1 + s, c.width // c.heads)
        self.kept = [[torch.zeros(shape, device=self.device) for _ in range(2)] for _ in range(c.layers)]
        self.block = torch.cat([torch.zeros(b, 1, dtype=torch.long, device=self.device), self.slots.block], 1)  # of the kept tokens
        self.there = torch.cat([torch.ones(b, 1, dtype=torch.bool, device=self.device), self.slots.real], 1)
        word = model.word(counts, group, wanted)
        self._keep(word, torch.zeros(b, 1, dtype=torch.long, device=self.device), None)

    def run(self) -> list[tuple[Tokens, int]]:
        """Every block in turn, then the joint denoiser; tokens of each draw and its network evaluations."""
        blocks = int((self.slots.block * self.slots.real).max())
        for number in range(1, blocks + 1):
            self._draw(number)
            if number == int(self.slots.block[0, self.model.n_lattice - 1]):  # the cell is complete
                self.cell = self.model.cell_of(self.numbers[:, : self.model.n_lattice], self.slots.atoms)
            if number < blocks:
                at, part = self._of(number)
                self._keep(self.model.embedded(part, self._taken(self.numbers, at), None), at + 1, part)
        x, cell = self.numbers[:, self.model.n_lattice :], self.cell
        if self.options.refine:
            x, cell = self._refined(x, cell)
        group = np.zeros(1, dtype=np.int64)
        columns = (v.double().cpu().numpy() for v in (x, cell))
        made = []
        for row, there, fractions, vectors in zip(self.elements.cpu().numpy(), self.mask.cpu().numpy(), *columns, strict=True):
            nothing = np.full((1, len(self.model.tokenizer.config.properties)), np.nan)
            made.append(Tokens(row[there], fractions[there], vectors.reshape(1, 9), group, nothing))
        # the word, every block, every block but the last as it is kept, the joint denoiser
        own = (self.slots.block * self.slots.real).amax(1)
        each = self.options.steps + (self.model.config.head == "mlp")
        return list(zip(made, (own * (each + 1) + self.options.refine).tolist(), strict=True))

    def _of(self, number: int) -> tuple[Int[Tensor, "b q"], Slots]:
        """Which slots belong to a block, those of it first, and what is known of them."""
        mine = (self.slots.block == number) & self.slots.real
        most = int(mine.sum(1).max())
        at = (~mine).byte().sort(dim=1, stable=True).indices[:, :most]
        s = self.slots
        kind, element, place, block, real = (t.gather(1, at) for t in (s.kind, s.element, s.place, s.block, mine))
        return at, Slots(kind, element, place, block, real, s.atoms)

    def _taken(self, values: Float[Tensor, "b s 3"], at: Int[Tensor, "b q"]) -> Float[Tensor, "b q 3"]:
        return values.gather(1, at[..., None].expand(-1, -1, 3))

    def _keep(self, h: Float[Tensor, "b q d"], at: Int[Tensor, "b q"], part: Slots | None) -> None:
        """Clean tokens through the trunk, their keys and values kept at `at`."""
        real = torch.ones_like(at, dtype=torch.bool) if part is None else part.real
        own = torch.where(real, self.block.gather(1, at), -1)
        x = torch.zeros(*at.shape, 3, device=self.device) if part is None else self._taken(self.numbers, at - 1)
        known = real & (part is not None) & (self.block.gather(1, at) > self._last_of_cell)
        sees = (self.block[:, None] <= own[:, :, None]) & self.there[:, None] | (self.block[:, None] == 0)
        pair, bias = self._pairs(x, known, sees, torch.zeros_like(real))
        place = torch.where(real, at, self.block.shape[1])
        self.model.states(h, pair, bias, [partial(self._write, place, layer) for layer in range(len(self.kept))])

    def _write(self, place: Int[Tensor, "b q"], layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Keeps a layer's keys and values at their places (beyond the last one: not kept) and answers with all."""
        for kept, new in zip(self.kept[layer], (key, value), strict=True):
            wide = torch.cat([kept, torch.zeros_like(kept[:, :, :1])], 2)
            kept.copy_(wide.scatter(2, place[:, None, :, None].expand_as(new), new.to(kept.dtype))[:, :, :-1])
        return self.kept[layer][0].to(key.dtype), self.kept[layer][1].to(value.dtype)

    def _joined(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """What is kept of a layer, and what is not kept behind it."""
        keys, values = (torch.cat([kept.to(new.dtype), new], 2) for kept, new in zip(self.kept[layer], (key, value), strict=True))
        return keys, values

    @property
    def _last_of_cell(self) -> Int[Tensor, "b 1"]:
        """The block that completes the cell."""
        return self.slots.block[:, self.model.n_lattice - 1 : self.model.n_lattice]

    def _pairs(self, x: Tensor, known: Bool[Tensor, "b q"], sees: Tensor, is_open: Bool[Tensor, "b q"]) -> tuple[Tensor, Tensor]:
        """`Model.pairs` towards what is kept."""
        others = torch.cat([torch.zeros_like(self.numbers[:, :1]), self.numbers], 1)
        theirs = self.there & (self.block > self._last_of_cell)
        clean = torch.zeros_like(theirs)
        return self.model.pairs(x, others, (known, theirs), self.cell, sees, relation_of(is_open, clean, known, theirs))

    def _draw(self, number: int) -> None:
        """The numbers of a block."""
        model, options = self.model, self.options
        at, part = self._of(number)
        sites = part.sites
        trunk = model.config.head == "trunk"
        noise = self._taken(self.noise, at)
        earlier = (self.block[:, None] < number) & self.there[:, None].expand(-1, at.shape[1], -1)
        is_open = torch.ones_like(part.real)
        own = (part.real[:, None] & part.real[:, :, None]) | torch.eye(at.shape[1], dtype=torch.bool, device=self.device)

        def states(x: Float[Tensor, "b q 3"], h: Float[Tensor, "b q d"]) -> Float[Tensor, "b q d"]:
            known = sites & trunk
            before, bias = self._pairs(x, known, earlier, is_open)
            inside, more = model.pairs(x, x, (known, known), self.cell, own, relation_of(is_open, is_open, known, known))
            caches = [partial(self._joined, layer) for layer in range(len(self.kept))]
            return model.states(h, torch.cat([before, inside], 2), torch.cat([bias, more], 3), caches)

        if trunk:
            x = torch.where(sites[..., None], noise, options.cell_temperature * noise)
            for step in range(options.steps):
                time = torch.full(at.shape, step / options.steps, device=self.device)
                speed = model.velocity(states(x, model.embedded(part, x, time)), sites)
                x = x + speed * torch.where(sites, 1 + options.push * time, 1.0)[..., None] / options.steps
        else:
            z = states(torch.zeros_like(noise), model.embedded(part, None, None))
            x = model.head.sample(z, noise, options.steps, temperature=options.temperature)
            x = torch.where(sites[..., None], model.fractions_of(x), x)
        x = torch.where(sites[..., None], x % 1.0, x)
        index = torch.where(part.real, at, self.numbers.shape[1])[..., None].expand_as(x)
        wide = torch.cat([self.numbers, torch.zeros_like(self.numbers[:, :1])], 1)
        self.numbers = wide.scatter(1, index, x)[:, :-1]

    def _refined(self, x: Float[Tensor, "b n 3"], cell: Float[Tensor, "b 3 3"]) -> tuple[Tensor, Tensor]:
        """All atoms and the cell together; what is no cell stays as it is."""
        options = self.options
        volume = torch.linalg.det(cell.double()).abs() / self.slots.atoms
        fit = volume.isfinite() & (volume > 0.5)
        form = forms(torch.where(fit[:, None, None], cell, 3 * torch.eye(3, device=self.device)))
        first, nothing = (options.site_sigma, options.strain), self.elements.new_zeros(*self.elements.shape, 0)
        fresh = self.fresh if len(self.fresh) else None
        frame = Frame.of_atoms(self.mask)
        moved, form = denoised(self.model.sites, frame, x, form, self.elements, nothing, first, options.refine, fresh, options.churn)
        return torch.where(fit[:, None, None], moved, x), torch.where(fit[:, None, None], matrix(form), cell)


def _elements(counts: Int[np.ndarray, "e"]) -> list[int]:
    """Atomic numbers of the atoms of a composition, in the order of the slots."""
    present = sorted(np.flatnonzero(counts).tolist(), key=place_of)
    return [z for z in present for _ in range(counts[z])]
