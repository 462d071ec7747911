"""The slots family's network: a formula, then blocks of numbers (the cell, then atoms), each given those before it.

p(crystal) = p(composition) Π_b p(numbers of block b | composition, blocks < b). One transformer holds every slot twice, as it is
(clean) and as it is being drawn (open): a clean slot sees clean ones up to its own block, an open one sees clean ones of earlier blocks
and the open ones of its own (the skip-causal mask of ACDiT, Hu et al. 2024, arXiv 2412.07720, §3). Clean states are computed once and kept.

An open block is drawn by flow matching: fractions on the torus from uniform ones along shortest ways (Miller et al. 2024, arXiv 2406.04713,
eq. 9), lattice numbers from normal ones. With `head="mlp"` an open slot carries no numbers and a small diffusion head draws them from its
state (UniGenX, arXiv 2503.06687). `blocks="slots", lattice="rows", order="sorted", head="mlp", process="cosine", periodic=False,
history_noise=0, refiner_layers=0` is nearest to the published layout.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from sciar.batch import Batch
from sciar.diffusion.gaussian import EDM, Cosine
from sciar.errors import InputError
from sciar.families.slots.tokens import Tokenizer
from sciar.family import Draw, check_choices
from sciar.family import Model as AbstractModel
from sciar.nn.composition import Compositions
from sciar.nn.embedding import Fourier, RadialBasis
from sciar.nn.head import DiffusionHead
from sciar.nn.periodic import nearest, wrapped
from sciar.nn.sites import Sites, atoms_loss, forms, matrix
from sciar.nn.transformer import Block, Cache, initialise
from sciar.prompt import Prompt

ELEMENTS = 119
HARMONICS = 3
SPREAD = 12**-0.5  # of a uniform number in [-1/2, 1/2)
ROW = 2.0  # Å, a lattice vector's entry in a cell of one atom


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Sizes and choices; each choice is one row of the ablation table.

    Args:
        width, heads, layers: of the trunk. pair: width of the pair features.
        blocks: what is drawn together: "slots" (each slot alone, as UniGenX), "species" (the lattice, then the atoms of each element) or
            "cell" (the lattice, then all atoms).
        lattice: "form", six numbers that are always a cell (`lattice.form_of`), "rows", three vectors in Å (UniGenX), or "corners", eight
            points (Uni-3DAR, arXiv 2503.16278), of which the nearest cell is taken.
        order: of the atoms of one element: "random", with a random origin, or "sorted" by their fractions as they are in the data.
        head: "trunk", an open block goes through the whole network at each solver step, or "mlp", a small head (with blocks="slots").
        process: of that head: "edm" or "cosine" (published, raw numbers). head_width, head_depth, draws: its sizes, noise levels per slot.
        periodic: slots know each other by wrapped displacements and distances in Å; else by their numbers alone.
        history_noise: largest disturbance of clean fractions in training, in half of the crystals.
        refiner_layers, refiner_width, neighbours: of the joint denoiser of atoms and cell (sciar/nn/sites.py; 0 layers = none).
            refiner_sigma: largest error it learns to remove, Å.
        slots_weight, composition_weight, refiner_weight: of the loss; what has none is left alone.
        composition_width: of the law of compositions. unconditional: share of properties, and of space groups, hidden in training.
    """

    width: int = 192
    heads: int = 6
    layers: int = 6
    pair: int = 32
    blocks: str = "species"
    lattice: str = "form"
    order: str = "random"
    head: str = "trunk"
    process: str = "edm"
    head_width: int = 256
    head_depth: int = 3
    draws: int = 4
    periodic: bool = True
    history_noise: float = 0.02
    refiner_layers: int = 4
    refiner_width: int = 96
    refiner_sigma: float = 1.0
    neighbours: int = 24
    slots_weight: float = 1.0
    composition_weight: float = 0.1
    refiner_weight: float = 1.0
    composition_width: int = 192
    unconditional: float = 0.5

    def __post_init__(self) -> None:
        choices = {
            "blocks": ("slots", "species", "cell"),
            "lattice": ("form", "rows", "corners"),
            "order": ("random", "sorted"),
            "head": ("trunk", "mlp"),
            "process": ("edm", "cosine"),
        }
        check_choices(self, choices)
        if self.head == "mlp" and self.blocks != "slots":
            raise InputError(f"ModelConfig.head: expected trunk for blocks={self.blocks!r}, got mlp; a small head draws one slot at a time")
        if self.width % self.heads:
            raise InputError(f"ModelConfig.heads: expected a divisor of width {self.width}, got {self.heads}")
        if not (self.slots_weight or self.composition_weight or (self.refiner_weight and self.refiner_layers)):
            raise InputError("ModelConfig: expected one of slots_weight, composition_weight, refiner_weight above 0; raise one")


@dataclass(frozen=True, slots=True, eq=False)
class Slots:
    """What is known of the slots of b crystals before their numbers: those of the lattice first, then one for each atom.

    Args:
        kind: which of the lattice, or their number for an atom. element: 0 for the lattice. place: of an atom among those of its element.
        block: 1 … in the order of drawing. real: which slots are no padding. atoms: of each crystal.
    """

    kind: Int[Tensor, "b s"]
    element: Int[Tensor, "b s"]
    place: Int[Tensor, "b s"]
    block: Int[Tensor, "b s"]
    real: Bool[Tensor, "b s"]
    atoms: Int[Tensor, "b"]

    @property
    def sites(self) -> Bool[Tensor, "b s"]:
        return self.real & (self.element > 0)


class Model(AbstractModel):
    """See the module. `statistics`: of the tokenizer."""

    tokenizer: Tokenizer
    form_mean: Tensor
    form_std: Tensor
    mean: Tensor
    std: Tensor

    def __init__(self, config: ModelConfig, tokenizer: Tokenizer, statistics: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        self.config, self.tokenizer, self.statistics = config, tokenizer, dict(statistics or {})
        c, w, most = config, config.width, tokenizer.config.max_atoms
        self.n_lattice = {"form": 2, "rows": 3, "corners": 8}[c.lattice]
        wanted = len(tokenizer.config.properties)
        self.fourier = Fourier(16, 0.1, 2.0)
        self.compositions = Compositions(c.composition_width, ELEMENTS, most, 16 * wanted)
        self.atoms, self.group = nn.Embedding(most + 1, c.composition_width), nn.Embedding(231, c.composition_width)
        self.formula = nn.Linear(c.composition_width, w)
        self.kind, self.element, self.count = nn.Embedding(self.n_lattice + 1, w), nn.Embedding(ELEMENTS, w), nn.Embedding(most + 1, w)
        self.place = nn.Embedding(most, w) if c.order == "sorted" else None
        self.open = nn.Parameter(torch.zeros(w))
        self.numbers = Fourier(16, 0.25, 8.0)
        self.of_lattice, self.of_site = nn.Linear(3 * 17, w), None if c.periodic else nn.Linear(3 * 17, w)
        if c.head == "trunk":
            self.levels, self.time = Fourier(32, 0.25, 8.0), nn.Sequential(nn.Linear(32, w), nn.SiLU(), nn.Linear(w, w))
            self.to_lattice, self.to_site = nn.Linear(w, 3), nn.Linear(w, 3)
        else:
            process = EDM(sigma_data=1.0, sigma_max=10.0) if c.process == "edm" else Cosine()
            self.head = DiffusionHead(w, c.head_width, c.head_depth, process)
        self.radial = RadialBasis(20, 10.0)
        self.relation = nn.Embedding(4, 64)
        self.displacement = nn.Linear(6 * HARMONICS + 23, 64) if c.periodic else None
        self.pair_out, self.pair_bias = nn.Linear(64, c.pair), nn.Linear(c.pair, c.layers * c.heads, bias=False)
        self.trunk = nn.ModuleList(Block(w, c.heads, c.pair) for _ in range(c.layers))
        self.norm = nn.RMSNorm(w, eps=1e-6)
        if c.refiner_layers:
            self.sites = Sites(ELEMENTS, (), c.refiner_width, c.refiner_layers, c.neighbours)
        initialise(self, c.layers)
        if c.head == "trunk":
            nn.init.zeros_(self.to_lattice.weight)
            nn.init.zeros_(self.to_site.weight)
        else:
            self.head.reset()
        if c.refiner_layers:
            nn.init.normal_(self.sites.push.weight, std=1e-3)
        keep = lambda name, value: self.register_buffer(name, torch.tensor(value, dtype=torch.float32), persistent=False)  # noqa: E731
        keep("form_mean", self.statistics.get("form_mean", [0.9] * 3 + [0.0] * 3))
        keep("form_std", self.statistics.get("form_std", [0.2] * 6))
        keep("mean", self.statistics.get("mean", [0.0] * wanted))
        keep("std", self.statistics.get("std", [1.0] * wanted))

    # ---- numbers

    def lattice_numbers(self, cell: Float[Tensor, "b 3 3"], atoms: Int[Tensor, "b"]) -> Float[Tensor, "b l 3"]:
        """The lattice slots of a cell, as the network sees them."""
        if self.config.lattice != "form":
            points = cell if self.config.lattice == "rows" else corners(cell) @ cell
            return points if self._raw else points / (ROW * atoms[:, None, None] ** (1 / 3))
        size = F.pad((atoms.log() / 3)[:, None].expand(-1, 3), (0, 3))
        return ((forms(cell) - size - self.form_mean) / self.form_std).view(-1, 2, 3)

    def cell_of(self, numbers: Float[Tensor, "b l 3"], atoms: Int[Tensor, "b"]) -> Float[Tensor, "b 3 3"]:
        """The cell of lattice slots; the inverse of `lattice_numbers` up to a rotation."""
        if self.config.lattice != "form":
            points = numbers if self._raw else numbers * (ROW * atoms[:, None, None] ** (1 / 3))
            return points if self.config.lattice == "rows" else corners(points).T @ points / 2  # least squares: the columns are orthogonal
        form = numbers.flatten(1) * self.form_std + self.form_mean
        lengths = (form[:, :3] + atoms[:, None].log() / 3).clamp(-3, 6)  # what diverges stays a cell
        return matrix(torch.cat([lengths, form[:, 3:]], 1))

    @property
    def _raw(self) -> bool:
        return self.config.head == "mlp" and self.config.process == "cosine"

    def site_numbers(self, fractions: Tensor) -> Tensor:
        """Fractions as the small head sees them."""
        return fractions if self._raw else (fractions - 0.5) / SPREAD

    def fractions_of(self, numbers: Tensor) -> Tensor:
        """The inverse of `site_numbers`."""
        return numbers if self._raw else numbers * SPREAD + 0.5

    # ---- shared by training and sampling

    def slots(self, elements: Int[Tensor, "b n"], mask: Bool[Tensor, "b n"]) -> Slots:
        """The slots of crystals of these atoms, which come element by element."""
        b, n = elements.shape
        at, device, lattice = torch.arange(n, device=elements.device), elements.device, self.n_lattice
        elements = torch.where(mask, elements, 0)
        same = elements[:, :, None] == elements[:, None]
        place = (same & (at < at[:, None])).sum(-1)
        species = F.pad((elements[:, 1:] != elements[:, :-1]).long(), (1, 0)).cumsum(1)
        alone = self.config.blocks == "slots"
        first = lattice if alone else 1
        of_site = {"slots": at.expand(b, n), "species": species, "cell": torch.zeros_like(species)}[self.config.blocks]
        every = torch.arange(lattice, device=device).expand(b, lattice)
        row = lambda left, right: torch.cat([left, right], 1)  # noqa: E731
        return Slots(
            kind=row(every, torch.full_like(elements, lattice)),
            element=row(torch.zeros_like(every), elements),
            place=row(torch.zeros_like(every), place),
            block=row(every + 1 if alone else torch.ones_like(every), of_site + first + 1),
            real=row(torch.ones_like(every, dtype=torch.bool), mask),
            atoms=mask.sum(1),
        )

    def counts(self, elements: Int[Tensor, "b n"], mask: Bool[Tensor, "b n"]) -> Int[Tensor, "b e"]:
        """Atoms of each element."""
        return torch.zeros(len(elements), ELEMENTS, dtype=torch.long, device=elements.device).scatter_add_(1, elements, mask.long())

    def wanted(self, properties: Float[Tensor, "b p"]) -> Tensor | float:
        """What properties in their own units (nan = free) add to the law of compositions."""
        z = (properties - self.mean) / self.std
        return self.compositions.wanted((self.fourier(z.nan_to_num()) * ~z.isnan()[..., None]).flatten(1))

    def word(self, counts: Int[Tensor, "b e"], group: Int[Tensor, "b"], wanted: Tensor | float) -> Float[Tensor, "b 1 d"]:
        """The token of the formula, the space group (0 = free) and the properties."""
        element, count = self.compositions.pairs(counts)
        total = self.compositions.added(element, count).sum(1) + self.atoms(counts.sum(1)) + self.group(group) + wanted
        return self.formula(self.compositions.mixed(total))[:, None]

    def embedded(self, slots: Slots, numbers: Float[Tensor, "b s 3"] | None, time: Float[Tensor, "b s"] | None) -> Float[Tensor, "b s d"]:
        """Input of the trunk: clean slots (time None), open ones at time 0 … 1, or open ones without numbers."""
        h = self.kind(slots.kind) + self.element(slots.element) + self.count(slots.atoms)[:, None]
        if self.place is not None:
            h = h + self.place(slots.place.clamp(max=self.place.num_embeddings - 1))
        if numbers is None:
            return h + self.open
        with torch.autocast(numbers.device.type, enabled=False):
            features = torch.cat([numbers[..., None], self.numbers(numbers)], -1).flatten(-2)
        known: Tensor = self.of_lattice(features)
        sites = (slots.element > 0)[..., None]
        h = h + torch.where(sites, 0.0 if self.of_site is None else self.of_site(features), known)
        return h if time is None else h + self.open + self.time(self.levels(time))

    def pairs(
        self,
        x: Float[Tensor, "b q 3"],
        others: Float[Tensor, "b k 3"],
        known: tuple[Bool[Tensor, "b q"], Bool[Tensor, "b k"]],
        cell: Float[Tensor, "b 3 3"],
        sees: Bool[Tensor, "b q k"],
        relation: Int[Tensor, "b q k"],
    ) -> tuple[Float[Tensor, "b q k p"], Float[Tensor, "b h q k"]]:
        """Pair features and attention biases; x: fractions where `known`. relation: 0 none · 1 clean–clean · 2 open–clean · 3 open–open."""
        hidden = self.relation(relation)
        if self.displacement is not None:
            with torch.autocast(x.device.type, enabled=False):
                apart = x[:, :, None] - others[:, None]
                phase = 2 * np.pi * apart[..., None] * torch.arange(1, HARMONICS + 1, device=x.device)
                vector = nearest(apart, cell[:, None, None])
                distance = (vector.square().sum(-1) + 1e-6).sqrt()
                waves = torch.cat([phase.sin(), phase.cos()], -1).flatten(-2)
                features = torch.cat([waves, vector / (distance + 0.3)[..., None], self.radial.rounded(distance, x.dtype)], -1)
            both = known[0][:, :, None] & known[1][:, None]
            hidden = hidden + self.displacement(features) * both[..., None]
        pair: Tensor = self.pair_out(F.silu(hidden))
        bias = self.pair_bias(pair).permute(0, 3, 1, 2).float().masked_fill(~sees[:, None], -1e9)
        return pair, bias

    def states(
        self, h: Float[Tensor, "b q d"], pair: Tensor, bias: Tensor, caches: Sequence[Cache] | None = None
    ) -> Float[Tensor, "b q d"]:
        """The trunk; with caches h are the new tokens."""
        for i, block in enumerate(self.trunk):
            own = bias[:, i * self.config.heads : (i + 1) * self.config.heads]
            h = block(h, own, pair, cache=None if caches is None else caches[i])
        return self.norm(h)

    def velocity(self, h: Float[Tensor, "b s d"], sites: Bool[Tensor, "b s"]) -> Float[Tensor, "b s 3"]:
        """Of lattice numbers, and of fractions."""
        with torch.autocast(h.device.type, enabled=False):
            h = h.float()
            return torch.where(sites[..., None], SPREAD * self.to_site(h), self.to_lattice(h))

    # ---- training

    def loss(self, batch: Batch, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Nats of the composition per crystal; mean errors of lattice slots and of sites; those of the joint denoiser."""
        c = self.config
        elements, mask = batch["elements"], batch.masks["atoms"]
        counts = self.counts(elements, mask)
        draw = lambda *shape: torch.rand(shape, generator=generator, device=mask.device)  # noqa: E731
        properties = batch["properties"][:, 0]
        wanted = self.wanted(properties.masked_fill(draw(*properties.shape) < c.unconditional, torch.nan))
        parts: dict[str, Tensor] = {}
        total: list[Tensor] = []
        if c.composition_weight:
            parts["composition"] = batch.mean(self.compositions.composition_nats(counts, wanted))
            total.append(c.composition_weight * parts["composition"])
        if c.slots_weight:
            group = batch["group"][:, 0].masked_fill(draw(len(mask)) < c.unconditional, 0)
            parts |= self._slots_loss(batch, self.word(counts, group, wanted), generator)
            total.append(c.slots_weight * (parts["lattice"] + parts["positions"]))
        if c.refiner_layers and c.refiner_weight:
            x, cell = batch["fractions"], batch["lattice"].view(-1, 3, 3)
            parts |= atoms_loss(self.sites, mask, x, forms(cell), elements, c.refiner_sigma, generator)
            total.append(c.refiner_weight * (parts["sites"] + parts["cell"]))
        return {"loss": torch.stack(total).sum(), **parts}

    def _slots_loss(self, batch: Batch, word: Float[Tensor, "b 1 d"], generator: torch.Generator | None) -> dict[str, Tensor]:
        c = self.config
        mask, elements = batch.masks["atoms"], batch["elements"]
        slots = self.slots(elements, mask)
        b, s = slots.block.shape
        device = mask.device
        draw = lambda *shape: torch.rand(shape, generator=generator, device=device)  # noqa: E731
        cell, x = batch["lattice"].view(-1, 3, 3), batch["fractions"]
        if c.order == "random":
            x = shuffled(x, slots.element[:, self.n_lattice :], draw(*mask.shape)) + draw(b, 1, 3)
        lattice = self.lattice_numbers(cell, slots.atoms)
        start, level = draw(*x.shape), torch.randn(lattice.shape, generator=generator, device=device)
        if c.head == "trunk" and c.order == "random":  # where the origin is free, the first atoms do not drift on their way
            first = (slots.block == slots.block[:, self.n_lattice :][:, :1])[:, self.n_lattice :] & mask
            drift = (wrapped(x - start) * first[..., None]).sum(1, keepdim=True) / first.sum(1)[:, None, None]
            x = x - drift
        way = torch.cat([lattice - level, wrapped(x - start)], 1)
        time = draw(b, s + 2).gather(1, slots.block)  # one for every block
        open_numbers = torch.cat([level, start], 1) + time[..., None] * way
        history = c.history_noise * draw(b, 1, 1) * (draw(b, 1, 1) < 0.5) * torch.randn(x.shape, generator=generator, device=device)
        numbers = torch.cat([lattice, (x + history) % 1.0], 1)
        pair, bias = self._whole(slots, numbers, open_numbers, cell)
        known = c.head == "trunk"
        opened = self.embedded(slots, open_numbers if known else None, time if known else None)
        h = self.states(torch.cat([word, self.embedded(slots, numbers, None), opened], 1), pair, bias)[:, 1 + s :]
        if known:
            error = (self.velocity(h, slots.sites) - way).square().mean(-1)
            error = torch.where(slots.sites, error / SPREAD**2, error)
        else:
            target = torch.cat([lattice, self.site_numbers(x % 1.0)], 1)
            error = self.head.loss(h, target, c.draws, generator)
        of_cell, of_atoms = error[:, : self.n_lattice], error[:, self.n_lattice :] * mask
        return {"lattice": of_cell.mean(), "positions": of_atoms.sum() / mask.sum()}

    def _whole(
        self, slots: Slots, numbers: Float[Tensor, "b s 3"], open_numbers: Float[Tensor, "b s 3"], cell: Float[Tensor, "b 3 3"]
    ) -> tuple[Tensor, Tensor]:
        """`pairs` of the word, all clean slots and all open slots of whole crystals."""
        b = len(cell)
        zero = torch.zeros(b, 1, dtype=torch.long, device=cell.device)
        row = lambda *parts: torch.cat(parts, 1)  # noqa: E731
        block, real = row(zero, slots.block, slots.block), row(zero == 0, slots.real, slots.real)
        is_open = row(zero, torch.zeros_like(slots.block), torch.ones_like(slots.block)).bool()
        sees = self.sees(block, is_open, block, is_open) & real[:, None] | torch.eye(block.shape[1], dtype=torch.bool, device=cell.device)
        place = row(zero, slots.kind, slots.kind) == self.n_lattice
        known = place & real & (~is_open | (self.config.head == "trunk"))
        x = row(torch.zeros_like(numbers[:, :1]), numbers, open_numbers)
        return self.pairs(x, x, (known, known), cell, sees, relation_of(is_open, is_open, known, known))

    def sees(
        self, block: Int[Tensor, "b q"], is_open: Bool[Tensor, "b q"], others: Int[Tensor, "b k"], others_open: Bool[Tensor, "b k"]
    ) -> Bool[Tensor, "b q k"]:
        """Skip-causal: clean to clean up to the own block, open to clean below it and to open within it."""
        earlier, same = others[:, None] < block[:, :, None], others[:, None] == block[:, :, None]
        clean = ~others_open[:, None] & (earlier | (same & ~is_open[:, :, None]))
        return clean | (same & is_open[:, :, None] & others_open[:, None])

    # ---- sampling

    def sample(self, prompts: Sequence[Prompt], keys: Sequence[tuple[int, int]], batch_size: int = 64, **options: Any) -> Iterator[Draw]:
        """See `sciar.family.Model.sample`; options: `sciar.families.slots.options.Options`."""
        from sciar.families.slots.sample import sample

        return sample(self, prompts, keys, batch_size, **options)


def corners(like: Tensor) -> Float[Tensor, "8 3"]:
    """Fractions of the corners of a cell about its middle."""
    half = like.new_tensor([-0.5, 0.5])
    return torch.cartesian_prod(half, half, half)


def shuffled(x: Float[Tensor, "b n 3"], element: Int[Tensor, "b n"], scores: Float[Tensor, "b n"]) -> Float[Tensor, "b n 3"]:
    """Atoms of one element exchanged at random; those of an element stand together."""
    start = F.pad((element[:, 1:] != element[:, :-1]).long(), (1, 0)).cumsum(1)
    order = (start + scores).argsort(1)
    return x.gather(1, order[..., None].expand_as(x))


def relation_of(
    is_open: Bool[Tensor, "b q"], others_open: Bool[Tensor, "b k"], known: Bool[Tensor, "b q"], others_known: Bool[Tensor, "b k"]
) -> Int[Tensor, "b q k"]:
    """See `Model.pairs`."""
    both = known[:, :, None] & others_known[:, None]
    return both * (1 + is_open[:, :, None].long() + others_open[:, None].long())
