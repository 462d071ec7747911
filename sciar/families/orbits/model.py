"""Autoregression over a crystal's words, then diffusion of the numbers that its symmetry leaves free.

Words: (element, count) pairs by rising atomic number, an end, the space group, then the Wyckoff position of each orbit, element by
element and letter by letter. Then the lattice from a diffusion head, and all free coordinates together with the lattice from an
equivariant denoiser (sciar/nn/sites.py). This is UniGenX's order (words, then numbers by diffusion) with symmetry as the vocabulary.
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

from sciar.batch import Batch, TokenArrays
from sciar.diffusion.gaussian import EDM
from sciar.errors import InputError
from sciar.families.orbits.memory import Memory, stacked
from sciar.families.orbits.tokens import Tokenizer
from sciar.families.orbits.words import BEGIN, END, GROUP, ORBIT, PAIR, Words
from sciar.families.orbits.wyckoff import LENGTHS, LETTERS, group, lattice_form
from sciar.family import Draw
from sciar.family import Model as AbstractModel
from sciar.nn.elements import ELEMENTS, facts
from sciar.nn.embedding import Fourier
from sciar.nn.head import DiffusionHead
from sciar.nn.profile import Profile, disturbed, profiles
from sciar.nn.sites import Frame, Sites, denoising_loss, matrix, replacement_loss
from sciar.nn.transformer import Block, Cache, initialise
from sciar.prompt import Prompt

STRAIN_ALL, STRAIN_EACH = 0.04, 0.1  # of cells whose profile is learnt from: all lengths; each number, in units of its spread in the data


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Sizes and noise levels.

    Args:
        width, layers, heads: of the transformer over words. dropout: of its residual branches.
        head_width, head_depth: of the lattice's diffusion head.
        draws: noise levels per crystal and step of that head.
        facts: elements are known by their place in the periodic table, size and valences too, not by a vector of each alone.
        memory: compositions and words of the training crystals are kept and take part in drawing (see `memory.py`).
        sites_width, sites_layers: of the denoiser. neighbours: that it sees of each atom.
        sigma_low, sigma_high: range of its noise, Å. strain_low, strain_high: of the lattice numbers.
        unconditional: share of training crystals none of whose properties is told. condition_drop: of the others, share whose property is
            hidden, each for itself. profile_drop: share whose powder profile is.
        words_weight, lattice_weight, sites_weight: of the loss parts. The denoiser shares nothing with the rest: with sites_weight 0 it is
            left alone, with the other two 0 nothing else is trained.
    """

    width: int = 256
    layers: int = 6
    heads: int = 8
    dropout: float = 0.1
    head_width: int = 192
    head_depth: int = 3
    draws: int = 4
    facts: bool = False
    memory: bool = False
    sites_width: int = 128
    sites_layers: int = 4
    neighbours: int = 24
    sigma_low: float = 0.02
    sigma_high: float = 2.0
    strain_low: float = 0.003
    strain_high: float = 0.4
    unconditional: float = 0.5
    condition_drop: float = 0.3
    profile_drop: float = 0.3
    words_weight: float = 0.1
    lattice_weight: float = 1.0
    sites_weight: float = 1.0

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise InputError(f"ModelConfig: expected width divisible by heads, got {self.width} and {self.heads}")
        if not (0 < self.sigma_low < self.sigma_high and 0 < self.strain_low < self.strain_high):
            raise InputError("ModelConfig: expected 0 < low < high for sigma and strain; swap them")
        if not (self.words_weight or self.lattice_weight or self.sites_weight):
            raise InputError("ModelConfig.words_weight: expected a part of the loss above 0, got none")


class Catalogue(nn.Module):
    """All Wyckoff positions of all groups as tensors, and an embedding of each from what it is.

    Position number `start[g] + letter`; the last one is padding.
    """

    start: Tensor
    letters: Tensor
    system: Tensor
    copies: Tensor
    primitive: Tensor
    basis: Tensor
    constant: Tensor
    lengths: Tensor
    size: Tensor
    free: Tensor
    directions: Tensor
    offset: Tensor
    rotation: Tensor
    translation: Tensor
    facts: Tensor

    def __init__(self, width: int, max_atoms: int) -> None:
        super().__init__()
        groups = [group(g) for g in range(1, 231)]
        every = [(g, p) for g in groups for p in g.positions]
        n = len(every)
        sites = {name: k for k, name in enumerate(sorted({p.site for _, p in every}))}
        keep = lambda name, value: self.register_buffer(name, torch.as_tensor(np.asarray(value)), persistent=False)  # noqa: E731
        known = [0, *(len(g.positions) for g in groups)]
        keep("start", [0, *(g.start for g in groups)])
        keep("letters", known)
        keep("system", [0, *(g.system for g in groups)])
        keep("copies", [1, *(g.copies for g in groups)])
        keep("primitive", np.stack([np.eye(3), *(g.primitive for g in groups)]).astype(np.float32))
        forms = [lattice_form(k) for k in range(6)]
        keep("basis", np.stack([f[0] for f in forms]).astype(np.float32))
        keep("constant", np.stack([f[1] for f in forms]).astype(np.float32))
        keep("lengths", LENGTHS)
        keep("size", [*(p.multiplicity for _, p in every), 0])
        keep("free", [*(p.free for _, p in every), 0])
        keep("directions", np.stack([*(p.directions for _, p in every), np.zeros((3, 3))]).astype(np.float32))
        keep("offset", np.stack([*(p.offset for _, p in every), np.zeros(3)]).astype(np.float32))
        rotation, translation = np.zeros((n + 1, max_atoms, 3, 3), np.float32), np.zeros((n + 1, max_atoms, 3), np.float32)
        for k, (_, p) in enumerate(every):
            m = min(p.multiplicity, max_atoms)  # larger ones cannot be used
            rotation[k, :m], translation[k, :m] = p.rotations[:m], p.translations[:m]
        keep("rotation", rotation)
        keep("translation", translation)
        facts = [(g.number, p.letter, sites[p.site], min(p.multiplicity, 32), p.free) for g, p in every]
        keep("facts", [*facts, (0, len(LETTERS), len(sites), 0, 0)])
        self.count, self.longest, self.max_atoms = n, max(known), max_atoms
        self.sizes = (231, len(LETTERS) + 1, len(sites) + 1, 33, 4)
        self.parts = nn.ModuleList(nn.Embedding(size, width) for size in self.sizes)
        self.own = nn.Embedding(n + 1, width)

    def vectors(self) -> Float[Tensor, "p d"]:
        """Every position's embedding: a sum over its group, letter, site symmetry, multiplicity, free coordinates and itself."""
        total: Tensor = self.own.weight
        for k, part in enumerate(self.parts):
            total = total + part(self.facts[:, k])
        return total

    def of_group(self, number: Int[Tensor, "b"]) -> Int[Tensor, "b l"]:
        """Numbers of a group's positions, padded."""
        index = torch.arange(self.longest, device=number.device)
        return torch.where(index < self.letters[number][:, None], self.start[number][:, None] + index, self.count)

    def frame(self, number: Int[Tensor, "b"], position: Int[Tensor, "b o"]) -> Frame:
        """Geometry of crystals of these groups and positions."""
        size = self.size[position]
        image = torch.arange(self.max_atoms, device=number.device)
        real = image < size[..., None]  # b o k
        most = int(real.flatten(1).sum(1).max())
        place = (~real.flatten(1)).byte().sort(dim=1, stable=True).indices[:, :most]  # atoms first
        owner, copy = place // self.max_atoms, place % self.max_atoms
        which = position.gather(1, owner)
        system = self.system[number]
        return Frame(
            self.directions[position],
            self.offset[position],
            size,
            owner,
            self.rotation[which, copy],
            self.translation[which, copy],
            real.flatten(1).gather(1, place),
            self.primitive[number],
            self.basis[system],
            self.constant[system],
        )


class Model(AbstractModel):
    """See the module."""

    tokenizer: Tokenizer
    lattice_mean: Tensor
    lattice_std: Tensor
    mean: Tensor
    std: Tensor
    facts: Tensor

    def __init__(self, config: ModelConfig, tokenizer: Tokenizer, statistics: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        self.config, self.tokenizer, self.statistics = config, tokenizer, dict(statistics or {})
        w, most = config.width, tokenizer.config.max_atoms
        self.catalogue = Catalogue(w, most)
        self.kind, self.element, self.count = nn.Embedding(5, w), nn.Embedding(ELEMENTS, w), nn.Embedding(most + 1, w)
        self.group = nn.Embedding(231, w)
        self.next_element, self.next_left = nn.Embedding(ELEMENTS, w), nn.Embedding(most + 1, w)
        self.blocks = nn.ModuleList(Block(w, config.heads) for _ in range(config.layers))
        self.norm = nn.RMSNorm(w, eps=1e-6)
        self.to_element, self.to_group = nn.Linear(w, ELEMENTS), nn.Linear(w, 231)
        self.to_count = nn.Sequential(nn.Linear(w, w), nn.SiLU(), nn.Linear(w, most + 1))
        self.count_of = nn.Embedding(ELEMENTS, w)
        if config.facts:
            self.register_buffer("facts", facts(), persistent=False)
            known = self.facts.shape[1]
            self.known = nn.ModuleList(nn.Linear(known, w, bias=False) for _ in range(3))  # element, next_element, count_of
            self.to_known = nn.Linear(w, known, bias=False)
        self.to_position = nn.Sequential(nn.Linear(w, w), nn.SiLU(), nn.Linear(w, w))
        wanted = len(tokenizer.config.properties)
        self.fourier = Fourier(16, 0.1, 2.0)
        self.conditions = nn.ModuleList(nn.Linear(16, w, bias=False) for _ in range(wanted))
        if tokenizer.config.profile:  # read by the words and by the lattice
            self.profile = Profile(tokenizer.config.profile, w, readers=2)
        process = EDM(sigma_data=1.0, log_mean=-1.5, log_std=1.4, sigma_min=0.005, sigma_max=10.0)
        self.lattice_head = DiffusionHead(w, config.head_width, config.head_depth, process, size=6)
        if config.memory:
            self.memory = Memory(tokenizer.config.max_elements, most)
        known = self.memory.facts.shape[1] if config.memory else 0
        self.sites = Sites(ELEMENTS, self.catalogue.sizes[2:], config.sites_width, config.sites_layers, config.neighbours, known=known)
        initialise(self, config.layers)
        self.lattice_head.reset()
        if tokenizer.config.profile:
            self.profile.reset()
        nn.init.normal_(self.sites.push.weight, std=1e-3)
        if config.memory:
            nn.init.zeros_(self.sites.replaced.weight)
        nn.init.normal_(self.catalogue.own.weight, std=0.1)
        if config.facts:  # what all elements of a kind share first, then what sets one apart
            for part in (self.element, self.next_element, self.count_of):
                nn.init.normal_(part.weight, std=0.1)
            nn.init.zeros_(self.to_known.weight)
        keep = lambda name, value: self.register_buffer(name, torch.tensor(value, dtype=torch.float32), persistent=False)  # noqa: E731
        keep("lattice_mean", self.statistics.get("lattice_mean", np.zeros((6, 6)).tolist()))
        keep("lattice_std", self.statistics.get("lattice_std", np.ones((6, 6)).tolist()))
        keep("mean", self.statistics.get("mean", [0.0] * wanted))
        keep("std", self.statistics.get("std", [1.0] * wanted))

    def remember(self, arrays: TokenArrays) -> None:
        if self.config.memory:
            self.memory.add(arrays)

    # --- words ---

    def words(self, batch: Batch) -> Words:
        """The words of a batch of tokens."""
        elements, counts, real = batch["elements"], batch["counts"], batch.masks["elements"]
        owner, there = batch["owner"], batch.masks["orbits"]
        b, o = owner.shape
        number = batch["group"][:, 0]
        position = torch.where(there, self.catalogue.start[number][:, None] + batch["letters"], self.catalogue.count)
        element = elements.gather(1, owner)
        size = self.catalogue.size[position]
        same = (owner[:, :, None] == owner[:, None]) & there[:, None]
        before = torch.ones(o, o, dtype=torch.bool, device=owner.device).tril()
        left = counts.gather(1, owner) - (same & before).mul(size[:, None]).sum(-1)  # after this orbit
        one = torch.ones(b, 1, dtype=torch.long, device=owner.device)
        zero, zeros, none = 0 * one, torch.zeros_like(owner), torch.zeros_like(elements)
        follows = torch.cat([element[:, 1:], zero], 1)  # element of the orbit after each orbit
        lacking = torch.cat([(left + size)[:, 1:], zero], 1)
        row = lambda *parts: torch.cat(parts, 1)  # noqa: E731
        return Words(
            kind=row(zero + BEGIN, none + PAIR, zero + END, zero + GROUP, zeros + ORBIT),
            element=row(zero, elements, zero, zero, element),
            count=row(zero, counts, zero, zero, left.clamp(min=0)),
            group=row(zero, none, zero, number[:, None], zeros),
            position=row(*(torch.full_like(part, self.catalogue.count) for part in (zero, none, zero, zero)), position),
            next_element=row(zero, none, zero, element[:, :1], follows),
            next_left=row(zero, none, zero, (left + size)[:, :1], lacking.clamp(min=0)),
            real=row(one.bool(), real, one.bool(), one.bool(), there),
        )

    def told(self, profile: Int[Tensor, "b g"]) -> tuple[Float[Tensor, "b d"], Float[Tensor, "b d"]]:
        """What a wanted powder profile adds to every token after the composition and to the state that the lattice is drawn from."""
        if not self.tokenizer.config.profile:
            nothing = torch.zeros(len(profile), self.config.width, device=profile.device)
            return nothing, nothing
        words, lattice = self.profile(profile)
        return words, lattice

    def begin(self, properties: Float[Tensor, "b p"]) -> Float[Tensor, "b d"]:
        """What the wanted properties add to the first token; nan = not asked for."""
        z = (properties - self.mean) / self.std
        total = torch.zeros(len(properties), self.config.width, device=properties.device)
        for part, v in zip(self.conditions, z.T, strict=True):
            total = total + torch.where(v.isfinite()[:, None], part(self.fourier(v.nan_to_num())), 0.0)
        return total

    def embedded(
        self, words: Words, begin: Float[Tensor, "b d"], told: Float[Tensor, "b d"], table: Float[Tensor, "p d"]
    ) -> Float[Tensor, "b t d"]:
        """Input of the transformer; `begin` is added to the first token, `told` to those after the composition."""
        x = self.kind(words.kind) + self.count(words.count) + self.group(words.group) + table[words.position]
        x = x + self._of(0, self.element, words.element) + self._of(1, self.next_element, words.next_element)
        x = x + self.next_left(words.next_left)
        return x + (words.kind == BEGIN)[..., None] * begin[:, None] + (words.kind >= END)[..., None] * told[:, None]

    def states(
        self,
        x: Float[Tensor, "b t d"],
        bias: Float[Tensor, "b 1 t k"] | None,
        caches: Sequence[Cache] | None = None,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "b t d"]:
        """The transformer; with caches only new tokens are given. In training residual branches are dropped here and there."""
        kept = 1 - self.config.dropout * self.training
        for i, block in enumerate(self.blocks):
            y = block(x, bias, cache=None if caches is None else caches[i])
            if kept < 1:
                y = x + (y - x) * (torch.rand(x.shape, generator=generator, device=x.device) < kept) / kept
            x = y
        return self.norm(x)

    def _packed_states(
        self, x: Float[Tensor, "b t d"], real: Bool[Tensor, "b t"], generator: torch.Generator | None = None
    ) -> Float[Tensor, "b t d"]:
        """The transformer over the real tokens only, moved together: most of a padded batch is padding."""
        length = real.sum(1)
        most = -(-int(length.max()) // 4) * 4
        order = (~real).byte().sort(dim=1, stable=True).indices[:, :most, None].expand(-1, -1, x.shape[-1])
        index = torch.arange(order.shape[1], device=x.device)
        sees = (index < length[:, None])[:, None] & (index <= index[:, None]) | (index == index[:, None])
        bias = torch.zeros(sees.shape, device=x.device).masked_fill(~sees, -1e9)
        packed = self.states(x.gather(1, order), bias[:, None], generator=generator)
        return torch.zeros_like(x, dtype=packed.dtype).scatter(1, order, packed)

    def _of(self, k: int, own: nn.Embedding, element: Int[Tensor, "*s"]) -> Float[Tensor, "*s d"]:
        """An element's vector, in its k-th use."""
        vector: Tensor = own(element)
        return vector + F.embedding(element, self.known[k](self.facts)) if self.config.facts else vector

    def element_logits(self, state: Float[Tensor, "*s d"]) -> Float[Tensor, "*s e"]:
        """Which element comes next; 0 ends the composition."""
        logits: Tensor = self.to_element(state)
        return logits + self.to_known(state) @ self.facts.mT if self.config.facts else logits

    def count_logits(self, state: Float[Tensor, "*s d"], element: Int[Tensor, "*s"]) -> Float[Tensor, "*s c"]:
        """How many atoms, given the element."""
        return self.to_count(state + self._of(2, self.count_of, element))

    def position_logits(self, state: Float[Tensor, "b s d"], candidates: Float[Tensor, "b l d"]) -> Float[Tensor, "b s l"]:
        """Which of a group's positions."""
        return self.to_position(state) @ candidates.transpose(-1, -2) * self.config.width**-0.5

    def loss(self, batch: Batch, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Nats of the words per crystal, denoising errors of the lattice and of the sites."""
        c = self.config
        parts: dict[str, Tensor] = {}
        if c.words_weight or c.lattice_weight:
            parts |= self._words_loss(batch, generator)
        if c.sites_weight:
            parts |= self._sites_loss(batch, generator)
        words = [parts[name] for name in ("composition", "group", "positions") if name in parts]
        weighted = [c.words_weight * part for part in words]
        weighted += [c.lattice_weight * parts["lattice"]] if "lattice" in parts else []
        weighted += [c.sites_weight * parts[name] for name in ("sites", "cell", "replaced") if name in parts]
        return {"loss": torch.stack(weighted).sum(), **parts}

    def _words_loss(self, batch: Batch, generator: torch.Generator | None) -> dict[str, Tensor]:
        words = self.words(batch)
        device = batch["group"].device
        number = batch["group"][:, 0]
        properties = batch["properties"][:, 0]
        if len(self.conditions):
            draw = lambda *shape: torch.rand(*shape, generator=generator, device=device)  # noqa: E731
            hidden = (draw(len(batch), 1) < self.config.unconditional) | (draw(properties.shape) < self.config.condition_drop)
            properties = properties.masked_fill(hidden, torch.nan)
        profile, lattice = self._profiles(batch, generator)
        told, told_lattice = self.told(profile)
        table = self.catalogue.vectors()
        states = self._packed_states(self.embedded(words, self.begin(properties), told, table), words.real, generator)
        m, o = batch["elements"].shape[1], batch["owner"].shape[1]
        real, there = batch.masks["elements"], batch.masks["orbits"]
        nats = self._pair_nats(states[:, : m + 1], batch["elements"], batch["counts"], real)
        nats_group = _nats(self.to_group(states[:, m + 1 : m + 2]), batch["group"], torch.ones_like(real[:, :1]))
        candidates = self.catalogue.of_group(number)
        logits = self.position_logits(states[:, m + 2 : m + 2 + o], table[candidates])
        allowed = self.allowed(candidates, batch["letters"], batch["owner"], words.next_left[:, m + 2 : m + 2 + o])
        nats_positions = _nats(logits.float().masked_fill(~allowed, -1e9), batch["letters"], there)
        last = (words.real * torch.arange(words.real.shape[1], device=device)).argmax(1)
        summary = states[torch.arange(len(batch), device=device), last] + told_lattice
        return {
            "composition": batch.mean(nats),
            "group": batch.mean(nats_group),
            "positions": batch.mean(nats_positions),
            "lattice": self._lattice_loss(summary, number, lattice, batch, generator),
        }

    def _profiles(self, batch: Batch, generator: torch.Generator | None) -> tuple[Int[Tensor, "b g"], Float[Tensor, "b 6"]]:
        """Powder profiles of the crystals, and their lattices; in training others of the same symmetry where a profile is known."""
        number, lattice = batch["group"][:, 0], batch["lattice"][:, 0]
        points, c, b = self.tokenizer.config.profile, self.catalogue, len(batch)
        if not points:
            return number.new_zeros(b, 0), lattice
        told, broader, system = batch.masks["reflections"].any(1), None, c.system[number]
        if self.training:
            draw = lambda *shape: torch.randn(b, *shape, generator=generator, device=lattice.device)  # noqa: E731
            uniform = torch.rand(2, b, generator=generator, device=lattice.device)
            told, broader = told & (uniform[0] >= self.config.profile_drop), 0.75 + 0.75 * uniform[1]
            moved = STRAIN_ALL * c.lengths[system] * draw(1) + STRAIN_EACH * self.lattice_std[system] * draw(6)
            lattice = lattice + moved * (c.basis[system] != 0).any(1) * told[:, None]
        with torch.autocast(lattice.device.type, enabled=False):
            cell = c.primitive[number] @ matrix(torch.einsum("bij,bj->bi", c.basis[system], lattice) + c.constant[system])
            q = torch.linalg.solve(cell, batch["index"].to(cell).mT)  # b 3 r
            found = profiles(q.norm(dim=1), batch["square"] * batch.masks["reflections"], points, broader)
        return (disturbed(found, ~told, generator) if self.training else found), lattice

    def _pair_nats(
        self, states: Float[Tensor, "b k d"], elements: Int[Tensor, "b m"], counts: Int[Tensor, "b m"], real: Bool[Tensor, "b m"]
    ) -> Float[Tensor, "b"]:
        """-ln p of compositions; each pair, or the end, is told by the token before it, and padding stands between the two."""
        element = torch.where(real, elements, 0)
        asked = torch.cat([torch.ones_like(real[:, :1]), real], 1)
        nats = _nats(self.element_logits(states), torch.cat([element, torch.zeros_like(element[:, :1])], 1), asked)
        return nats + _nats(self.count_logits(states[:, :-1], element), counts, real)

    def composition_nats(self, elements: Int[Tensor, "b m"], counts: Int[Tensor, "b m"], real: Bool[Tensor, "b m"]) -> Float[Tensor, "b"]:
        """-ln p of whole compositions, nothing else given."""
        zero = torch.zeros_like(elements[:, :1])
        none = torch.zeros_like(elements)
        row = lambda first, rest: torch.cat([first, rest], 1)  # noqa: E731
        kind = row(zero + BEGIN, none + PAIR)
        nothing, nowhere = 0 * kind, 0 * kind + self.catalogue.count
        words = Words(kind, row(zero, elements), row(zero, counts), nothing, nowhere, nothing, nothing, row(zero == 0, real))
        begin = self.begin(torch.full((len(elements), len(self.conditions)), torch.nan, device=elements.device))
        states = self._packed_states(self.embedded(words, begin, torch.zeros_like(begin), self.catalogue.vectors()), words.real)
        return self._pair_nats(states, elements, counts, real)

    def allowed(
        self, candidates: Int[Tensor, "b l"], letters: Int[Tensor, "b o"], owner: Int[Tensor, "b o"], left: Int[Tensor, "b o"]
    ) -> Bool[Tensor, "b o l"]:
        """Positions that may come at each orbit: not too large, letters of one element rising, a point without freedom only once."""
        index = torch.arange(candidates.shape[1], device=letters.device)
        size, free = self.catalogue.size[candidates], self.catalogue.free[candidates]
        fits = (size[:, None] <= left[..., None]) & (size[:, None] > 0)
        chosen = F.one_hot(letters, len(index)).byte()
        taken = chosen.cumsum(1) > chosen
        previous = torch.cat([torch.zeros_like(letters[:, :1]), letters[:, :-1]], 1)
        again = torch.cat([torch.zeros_like(owner[:, :1], dtype=torch.bool), owner[:, 1:] == owner[:, :-1]], 1)
        rising = ~again[..., None] | (index >= previous[..., None])
        return fits & rising & ~(taken & (free == 0)[:, None])

    # --- numbers ---

    def scaled(
        self, lattice: Float[Tensor, "b 6"], number: Int[Tensor, "b"], atoms: Int[Tensor, "b"], back: bool = False
    ) -> Float[Tensor, "b 6"]:
        """Lattice numbers as the head sees them: of a cell of one atom per Å³, standardised in each crystal system; or back."""
        c = self.catalogue
        system = c.system[number]
        shift = self.lattice_mean[system] + c.lengths[system] * ((atoms * c.copies[number]).log() / 3)[:, None]
        used = (c.basis[system] != 0).any(1)
        return torch.where(used, lattice * self.lattice_std[system] + shift if back else (lattice - shift) / self.lattice_std[system], 0.0)

    def _lattice_loss(self, summary: Tensor, number: Tensor, lattice: Tensor, batch: Batch, generator: torch.Generator | None) -> Tensor:
        target = self.scaled(lattice, number, batch["counts"].sum(1))
        used = (self.catalogue.basis[self.catalogue.system[number]] != 0).any(1)
        return batch.mean(self.lattice_head.loss(summary, target, self.config.draws, generator, used))

    def _sites_loss(self, batch: Batch, generator: torch.Generator | None) -> dict[str, Tensor]:
        c, config = self.catalogue, self.config
        number = batch["group"][:, 0]
        position = torch.where(batch.masks["orbits"], c.start[number][:, None] + batch["letters"], c.count)
        frame = c.frame(number, position)
        u, lattice = batch["free"], batch["lattice"][:, 0]
        draw = lambda low, high: torch.exp(np.log(low) + np.log(high / low) * torch.rand(len(number), generator=generator, device=u.device))  # noqa: E731
        sigma, strain = draw(config.sigma_low, config.sigma_high), draw(config.strain_low, config.strain_high)
        used = (c.basis[c.system[number]] != 0).any(1)
        element, facts = batch["elements"].gather(1, batch["owner"]), c.facts[position][..., 2:]
        parts = denoising_loss(self.sites, frame, u, lattice, element, facts, c.free[position], used, (sigma, strain), generator)
        return parts | ({"replaced": self._replacement_loss(batch, position, element, generator)} if config.memory else {})

    def _replacement_loss(self, batch: Batch, position: Tensor, element: Tensor, generator: torch.Generator | None) -> Tensor:
        """Crystals put right that begin as remembered ones of their words do, in training as others than they are themselves."""
        luck = torch.rand(len(batch), generator=generator, device=element.device).tolist()
        numbers = self.memory.starts(batch, luck, itself=not self.training)
        rows = torch.tensor([k for k, found in enumerate(numbers) if found is not None], dtype=torch.long, device=element.device)
        if not len(rows):
            return torch.zeros((), device=element.device)
        free, lattice, known = (
            column.to(element.device) for column in stacked([found for found in numbers if found is not None], element.shape[1])
        )
        position, element = position[rows], element[rows]
        frame, facts = self.catalogue.frame(batch["group"][rows, 0], position), self.catalogue.facts[position][..., 2:]
        truth = batch["free"][rows], batch["lattice"][rows, 0]
        return replacement_loss(self.sites, frame, (free, lattice), truth, self.memory.facts[element] - known, element, facts)

    def sample(self, prompts: Sequence[Prompt], keys: Sequence[tuple[int, int]], batch_size: int = 64, **options: Any) -> Iterator[Draw]:
        """See `sciar.family.Model.sample`; options: `sciar.families.orbits.sample.Options`."""
        from sciar.families.orbits.sample import sample

        return sample(self, prompts, keys, batch_size, **options)


def _nats(logits: Float[Tensor, "b t c"], answer: Int[Tensor, "b t"], asked: Bool[Tensor, "b t"]) -> Float[Tensor, "b"]:
    """Cross entropy summed over the tokens that were asked."""
    nats = F.cross_entropy(logits.float().transpose(1, 2), answer, reduction="none")
    return (nats * asked).sum(1)
