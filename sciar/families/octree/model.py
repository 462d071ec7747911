"""The octree family's network: a causal transformer over octree events with three-dimensional rotary positions.

p(structure) = Π_i p(event_i | events_<i, where event_i is): the place of an event follows from its parent, so a
query that knows the place reads the events before it, and a head says the byte of a node or the element and place
of an atom. The sequence ends by itself when no node is left open. Of a crystal composition and cell come first (cell.py) and every
event is told them; its octree is one of fractions, displacements are those of nearest images.

Three layouts of queries and contents (`ModelConfig.layout`):
    "interleaved"  every event twice, a masked copy then a real one, all of them visible to later ones: as published
    "queries"      the same, but masked copies are seen by nobody and not cached: half the cache
    "fused"        one token per event: the content of the last event at the place of the next one, whose query is
                   turned by the next place and whose key by the last one: half the sequence

Source: Uni-3DAR (arXiv 2503.16278) for tree, masked next-token prediction and cumulative leaf head; "fused", wave
vectors over the sphere, conditions and the count of open nodes are ours. configs/octree_published.yaml is the published layout.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from sciar.batch import Batch
from sciar.errors import InputError
from sciar.families.octree import cell as cells
from sciar.families.octree.config import ModelConfig
from sciar.families.octree.events import Events
from sciar.families.octree.heads import N_BYTES, Classes, LeafHead, log_likelihood
from sciar.families.octree.pose import posed
from sciar.families.octree.powder import Powder
from sciar.families.octree.surroundings import Children, Surroundings, columns_of, frontier
from sciar.families.octree.tokens import Tokenizer
from sciar.family import Draw
from sciar.family import Model as AbstractModel
from sciar.nn.embedding import Fourier, RadialBasis
from sciar.nn.periodic import nearest
from sciar.nn.refiner import Refiner
from sciar.nn.rotary import Turning, angles, axis_waves, periodic_waves, published_waves, sphere_waves
from sciar.nn.sites import Sites, atoms_loss
from sciar.nn.transformer import Block, Cache, initialise
from sciar.prompt import Prompt

MASK, CLOSE, FIRST_ELEMENT = 0, 256, 257  # ids of contents; 1 … 255 are occupancy bytes
LEFT = 64  # open nodes that are told apart
FREQUENCIES = 16
PAIR, SHELLS = 32, 4  # features of a displacement, and shells around the query whose directions are told apart


class Model(AbstractModel):
    """See the module's docstring. `statistics`: {"mean": …, "std": …} of the properties and the histogram "sizes" of the training data."""

    tokenizer: Tokenizer
    waves: Tensor
    coarse_to_fine = True

    def __init__(self, config: ModelConfig, tokenizer: Tokenizer, statistics: dict[str, Any] | None = None) -> None:
        super().__init__()
        self.config, self.tokenizer, self.statistics = config, tokenizer, statistics or {}
        self.grid = grid = tokenizer.grid
        c, w = config, config.width
        self.periodic = grid.periodic
        if (self.periodic and (c.place == "diffusion" or c.given)) or (c.waves == "periodic") > self.periodic:
            raise InputError(
                "ModelConfig: expected no place='diffusion' and no given atoms for crystals, and waves='periodic' for crystals alone, "
                f"got {c.place!r}, {c.given} and {c.waves!r}; see configs/octree_mp20.yaml"
            )
        self.null = grid.bins if c.own_null else grid.bins // 2
        self.n_elements, n_properties = len(tokenizer.config.elements), len(tokenizer.config.properties)
        if c.vocabulary and c.vocabulary < FIRST_ELEMENT + self.n_elements:
            raise InputError(f"ModelConfig.vocabulary: expected 0 or at least {FIRST_ELEMENT + self.n_elements}, got {c.vocabulary}")
        self.content_type = nn.Embedding(c.vocabulary or FIRST_ELEMENT + self.n_elements, w)
        self.content_bin = nn.ModuleList(nn.Embedding(grid.bins + c.own_null, w) for _ in range(3))
        self.level = nn.Embedding(grid.levels + 2, w)
        if c.layout == "fused":
            self.next_level = nn.Embedding(grid.levels + 2, w)
        if c.counts:
            self.open = nn.Embedding(LEFT + 1, w)
        if c.condition:
            self.fourier = Fourier(FREQUENCIES, 0.1, 2.0)
            self.given = nn.Linear((1 + self.n_elements + n_properties + 6 * self.periodic) * FREQUENCIES, w, bias=False)
        if c.around:
            self.surroundings, self.children_head = Surroundings(w, columns_of(tokenizer.numbers)), Children(w)
        self.register_buffer("waves", self._waves(), persistent=False)
        self.blocks = nn.ModuleList(Block(w, c.heads, PAIR * c.pair, asks=c.pair) for _ in range(c.layers))
        if c.pair:
            self.radial, self.shells = RadialBasis(PAIR - 3 * SHELLS), RadialBasis(SHELLS, 6.0)
        if self.periodic:
            if not c.condition:
                raise InputError("ModelConfig.condition: expected True for crystals, whose events are told their cell, got False")
            self.header = cells.Header(c.header_width, self.n_elements, tokenizer.config.max_atoms, n_properties * FREQUENCIES)
        if c.refiner_layers and self.periodic:
            self.sites = Sites(self.n_elements, (), c.refiner_width, c.refiner_layers, 24)
        elif c.refiner_layers:
            self.refined_element = nn.Embedding(self.n_elements, c.refiner_width)
            self.refiner = Refiner(c.refiner_width, c.refiner_width, c.refiner_layers, self.n_elements**2)
        points = tokenizer.config.profile
        self.powder = Powder(points, w, c.header_width, c.profile_drop) if points else None
        self.norm = nn.RMSNorm(w, eps=1e-5)
        self.tree_head = Classes(w, N_BYTES)
        self.leaf_head = LeafHead(w, c.vocabulary or self.n_elements, grid.bins, grid.cell, c.place)
        if c.property_weight or c.property_head:
            self.property_head = nn.Sequential(nn.Linear(w, w), nn.Tanh(), nn.Linear(w, n_properties))
        initialise(self, c.layers)
        for table in (*self.content_bin, self.level):
            nn.init.normal_(table.weight, std=0.2)
        self.tree_head.reset()
        if c.around:
            nn.init.zeros_(self.children_head.score.weight)
        self.leaf_head.reset()
        if self.powder is not None:
            self.powder.profile.reset()
        if c.refiner_layers and self.periodic:
            nn.init.zeros_(self.sites.push.weight)
        elif c.refiner_layers:
            for push in self.refiner.push:
                nn.init.normal_(push.weight, std=1e-3)  # type: ignore[arg-type]

    def _waves(self) -> Tensor:
        c = self.config
        if c.waves == "none":
            return torch.zeros(0)
        pairs = c.width // c.heads // 2
        if c.waves == "periodic":
            return periodic_waves(pairs)
        if c.waves == "published":
            return published_waves(pairs, self.grid.step)
        if c.waves == "axes":
            return axis_waves(pairs, c.shortest, c.longest)
        return sphere_waves(c.heads, pairs, c.shortest, c.longest)

    # ---- shared by training and sampling

    def content(self, kind: Int[Tensor, "b t"], level: Int[Tensor, "b t"], bins: Int[Tensor, "b t 3"]) -> Float[Tensor, "b t d"]:
        """What an event is: an id (see MASK … FIRST_ELEMENT), its level, bins of an atom (`null` of anything else)."""
        h = self.content_type(kind) + self.level(level + 1)
        for axis, table in enumerate(self.content_bin):
            h = h + table(bins[..., axis])
        return h

    def place(self, level: Int[Tensor, "b t"], left: Int[Tensor, "b t"]) -> Float[Tensor, "b t d"]:
        """What is known of an event before it is drawn, apart from its position."""
        if self.config.layout == "fused":
            h = self.next_level(level + 1)
        else:
            h = self.content(torch.full_like(level, MASK), level, level.new_full((*level.shape, 3), self.null))
        return h + self.open(left.clamp(max=LEFT)) if self.config.counts else h

    def conditions(self, values: Float[Tensor, "b k"]) -> Float[Tensor, "b 1 d"]:
        """Number of atoms, atoms of each element, standardised properties; nan = not given."""
        given = ~values.isnan()
        features = self.fourier(values.nan_to_num()) * given[..., None]
        return self.given(features.flatten(1))[:, None]

    def scaled(
        self,
        atoms: Float[Tensor, "b"],
        composition: Float[Tensor, "b e"],
        properties: Float[Tensor, "b p"],
        lattice: Float[Tensor, "b 6"] | None = None,
    ) -> Float[Tensor, "b k"]:
        """The numbers that `conditions` takes; `lattice` of crystals alone."""
        told = [(atoms[:, None] - 18) / 6, (composition - 3) / 3, self.standardised(properties)]
        return torch.cat(told if lattice is None else [*told, lattice[:, :3] * 2 - 3, lattice[:, 3:] * 3], -1)

    def wanted(self, properties: Float[Tensor, "b p"]) -> Float[Tensor, "b d"] | float:
        """What the header of crystals is told; standardised properties, nan = not given."""
        if not properties.shape[1]:
            return 0.0
        return self.header.wanted((self.fourier(properties.nan_to_num()) * ~properties.isnan()[..., None]).flatten(1))

    def standardised(self, properties: Float[Tensor, "b p"]) -> Float[Tensor, "b p"]:
        """Z-scores by the training set's mean and spread."""
        if "mean" not in self.statistics:
            return torch.full_like(properties, float("nan"))
        return (properties - properties.new_tensor(self.statistics["mean"])) / properties.new_tensor(self.statistics["std"])

    def trunk(
        self,
        h: Float[Tensor, "b q d"],
        queries_at: Float[Tensor, "b q 3"],
        keys_at: Float[Tensor, "b q 3"],
        bias: Tensor | None = None,
        caches: Sequence[Cache] | None = None,
        generator: torch.Generator | None = None,
        seen_at: Float[Tensor, "b n 3"] | None = None,
        cell: Float[Tensor, "b 3 3"] | None = None,
    ) -> Float[Tensor, "b q d"]:
        """The blocks; causal unless a bias says what can be seen. `seen_at`: places of all keys of the caches. `cell`: of crystals."""
        turn = None
        if len(self.waves):
            centre = self.grid.side / 2
            by_key = angles(self.waves, keys_at - centre)
            turn = Turning(angles(self.waves, queries_at - centre) if queries_at is not keys_at else by_key, by_key, self.config.values)
        pair = None
        if self.config.pair:
            if bias is None:
                bias = torch.zeros(1, 1, h.shape[1], h.shape[1], device=h.device).masked_fill(~causal_mask(h.shape[1], h.device), -1e4)
            pair = self.displacements(queries_at, keys_at if seen_at is None else seen_at, cell)
        causal = caches is None and bias is None
        for i, block in enumerate(self.blocks):
            after = block(h, bias, pair, None if caches is None else caches[i], causal, turn)
            drop = self.config.drop_block * i / max(1, len(self.blocks) - 1)
            if self.training and drop:
                after = h + (after - h) * self._kept((*h.shape[:2], 1), drop, h, generator)
            h = after
        return self.norm(h)

    @torch.no_grad()
    def displacements(
        self, queries_at: Float[Tensor, "b q 3"], keys_at: Float[Tensor, "b n 3"], cell: Float[Tensor, "b 3 3"] | None = None
    ) -> Float[Tensor, "b q n p"]:
        """Features of x = key - query: Gaussians of |x|, and x/|x| in each of a few broad shells; in a `cell` of the nearest image.

        Nothing in them is learnt, so that the backward pass, most of whose time they would take, need not visit every pair.
        """
        with torch.autocast(queries_at.device.type, enabled=False):
            x = nearest(keys_at[:, None] - queries_at[:, :, None], None if cell is None else cell[:, None, None])
        distance = (x.square().sum(-1) + 1e-6).sqrt()
        device = x.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else torch.float32
        direction = (x / (distance + 0.1)[..., None]).to(dtype)
        toward = direction[..., None] * self.shells.rounded(distance, dtype)[..., None, :]
        return torch.cat([toward.flatten(-2), self.radial.rounded(distance, dtype)], -1)

    def refine(
        self, x: Float[Tensor, "b n 3"], sigma: Float[Tensor, "b"], element: Int[Tensor, "b n"], mask: Bool[Tensor, "b n"]
    ) -> Float[Tensor, "b n 3"]:
        """Estimate of the exact coordinates, Å, from ones with errors of `sigma`; knows elements and distances alone."""
        codes = element[:, :, None] * self.n_elements + element[:, None]
        found: Tensor = self.refiner(x, sigma, self.refined_element(element), codes, mask)
        return found

    def states(
        self, events: Events, condition: Float[Tensor, "b 1 d"] | None, generator: torch.Generator | None = None
    ) -> Float[Tensor, "b t s"]:
        """For every event, the state from which it is to be drawn: it has read the events before it and knows where it is.

        The heads take it apart: `width` numbers of the trunk, then what is known of the children, if anything is.
        """
        kind = torch.where(events.leaf, FIRST_ELEMENT + events.element, torch.where(events.tree, events.byte, CLOSE))
        content = self.content(kind, events.level, torch.where(events.leaf[..., None], events.bins, self.null))
        place = self.place(events.level, events.left)
        exact = events.exact(self.grid)
        known = None
        if self.config.around:
            more, known = self.surroundings(*frontier(events, self.grid, self.tokenizer.config.max_atoms))
            place = place + more
        if self.config.layout == "fused":
            first = torch.zeros_like(content[:, :1])
            h = torch.cat([first, content[:, :-1]], 1) + place
            queries, keys = events.centre, torch.cat([torch.full_like(exact[:, :1], self.grid.side / 2), exact[:, :-1]], 1)
            bias = None
        else:
            h = torch.stack([place, content], 2).flatten(1, 2)
            queries = keys = torch.stack([events.centre, exact], 2).flatten(1, 2)
            bias = hidden_masks(h.shape[1], h.device).expand(len(h), -1, -1, -1) if self.config.layout == "queries" else None
        if condition is not None:
            h = h + condition
        h = self.trunk(self._dropped(h, generator), queries, keys, bias, generator=generator, cell=events.cell)
        return with_children(h if self.config.layout == "fused" else h[:, ::2], known)

    def byte_logits(self, state: Float[Tensor, "*s s"]) -> Float[Tensor, "*s k"]:
        """Logits of the bytes 1 … 255."""
        h = state[..., : self.config.width]
        logits: Tensor = self.tree_head(h)
        if self.config.around:
            logits = logits + self.children_head(h, state[..., self.config.width :].unflatten(-1, (8, -1)))
        return logits

    def _dropped(self, h: Tensor, generator: torch.Generator | None) -> Tensor:
        if not (self.training and self.config.dropout):
            return h
        return h * self._kept(tuple(h.shape), self.config.dropout, h, generator)

    def _kept(self, shape: tuple[int, ...], drop: float, like: Tensor, generator: torch.Generator | None) -> Tensor:
        return (torch.rand(shape, generator=generator, device=like.device) >= drop).to(like.dtype) / (1 - drop)

    # ---- training

    def loss(self, batch: Batch, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Cross-entropies in nats: per tree node, per element, per axis of an atom's place; and their weighted mean per event."""
        c = self.config
        if not (c.tree_weight or c.element_weight or c.place_weight or c.property_weight):
            alone = self._refiner_loss(batch, generator)
            return {"loss": c.refiner_weight * alone, "refiner": alone}
        told: Tensor | float = 0.0  # of a powder profile
        told_header: Tensor | float = 0.0
        if self.powder is not None:
            levels, batch = self.powder.learnt(batch, generator)
            told, told_header = self.powder(levels)
        events = self.events(batch, generator)
        properties = batch["properties"][:, 0]
        condition, free = self._conditions(batch, events, properties, generator)
        condition = None if condition is None else condition + told
        h = self.states(events, condition, generator)
        tree, leaf = events.tree, events.leaf
        parts = {"tree": F.cross_entropy(self.byte_logits(self._dropped(h[tree], generator)), events.byte[tree] - 1)}
        h = h[..., : c.width]
        at, element, bins = self._dropped(h[leaf], generator), events.element[leaf], events.bins[leaf]
        if c.place == "bins":
            kinds, *axes = self.leaf_head.logits(at, element, bins)
            parts["place"] = torch.stack([F.cross_entropy(axis, bins[:, k]) for k, axis in enumerate(axes)]).mean()
        else:
            kinds = self.leaf_head.element(at)
        if c.place == "diffusion":
            offset = (bins + 0.5 - self.grid.bins / 2) * self.grid.step
            parts["place"] = self.leaf_head.offset.loss(self.leaf_head.given(at, element), offset, 4, generator).mean()
        parts["element"] = F.cross_entropy(kinds, element)
        nodes, atoms = tree.sum(), leaf.sum()
        per_atom = c.element_weight * parts["element"]
        if c.place != "refined":
            per_atom = per_atom + c.place_weight * (3 if c.place == "bins" else 1) * parts["place"]
        loss = (c.tree_weight * nodes * parts["tree"] + atoms * per_atom) / (nodes + atoms)
        if c.refiner_layers and c.refiner_weight:
            parts["refiner"] = self._refiner_loss(batch, generator)
            loss = loss + c.refiner_weight * parts["refiner"]
        if self.periodic and c.header_weight:
            parts |= self._header_loss(batch, properties, free, told_header, generator)
            loss = loss + c.header_weight * (parts["composition"] + parts["lattice"])
        if c.property_weight:
            parts["property"] = self._property_loss(h, events, properties, free)
            loss = loss + c.property_weight * parts["property"]
        return {"loss": loss, **parts}

    def events(self, batch: Batch, generator: torch.Generator | None = None) -> Events:
        """The octrees of a batch in a random pose, see pose.py, as the trunk knows them."""
        return self.as_seen(posed(self, batch, generator))

    def as_seen(self, events: Events) -> Events:
        """The events as the trunk knows them: where the refiner finds the coordinates, atoms lie in the middles of their cells."""
        if self.config.place != "refined":
            return events
        middle = torch.full_like(events.bins, self.grid.bins // 2)
        return dataclasses.replace(events, bins=torch.where(events.leaf[..., None], middle, events.bins))

    def _conditions(
        self, batch: Batch, events: Events, properties: Tensor, generator: torch.Generator | None
    ) -> tuple[Tensor | None, Bool[Tensor, "b"]]:
        """A random part of what could be given, and which records are told nothing."""
        b, device = len(properties), properties.device
        if not self.config.condition:
            return None, torch.ones(b, dtype=torch.bool, device=device)
        mask = batch.masks["atoms"]
        kinds = torch.arange(self.n_elements, device=device)
        composition = ((batch["element"][..., None] == kinds) & mask[..., None]).sum(1).float()
        # half of the records unconditional, so that drawing without a condition is as well trained as with one
        free = torch.rand(b, generator=generator, device=device) < 0.5
        if self.periodic:  # of crystals number, composition and cell are always known
            hidden = free[:, None] | (torch.rand(properties.shape, generator=generator, device=device) < 0.5)
            told = properties.masked_fill(hidden, float("nan"))
            return self.conditions(self.scaled(mask.sum(1).float(), composition, told, batch["lattice"][:, 0])), free
        values = self.scaled(mask.sum(1).float(), composition, properties)
        groups = torch.rand(b, 2 + properties.shape[1], generator=generator, device=device) < 0.5
        kept = torch.cat([groups[:, :1], groups[:, 1:2].expand(b, self.n_elements), groups[:, 2:]], 1) & ~free[:, None]
        return self.conditions(values.where(kept, float("nan"))), free

    def _property_loss(self, h: Tensor, events: Events, properties: Tensor, free: Tensor) -> Tensor:
        """Mean absolute error of standardised properties, read by the closing event of records that were told nothing."""
        target = self.standardised(properties)
        known = ~target.isnan() & free[:, None]
        error = (self.property_head(self.closing(h, events)).float() - target.nan_to_num()).abs()
        return (error * known).sum() / known.sum().clamp(min=1)

    def _header_loss(
        self,
        batch: Batch,
        properties: Float[Tensor, "b p"],
        free: Bool[Tensor, "b"],
        told: Float[Tensor, "b h"] | float,
        generator: torch.Generator | None,
    ) -> dict[str, Tensor]:
        """Nats per crystal of composition and lattice bins; of those that are told properties, any part of them."""
        hidden = free[:, None] | (torch.rand(properties.shape, generator=generator, device=properties.device) < 0.5)
        composition, lattice = self._header_nats(batch, properties.masked_fill(hidden, float("nan")), told)
        return {"composition": batch.mean(composition), "lattice": batch.mean(lattice)}

    def _header_nats(
        self, batch: Batch, properties: Float[Tensor, "b p"] | None = None, told: Float[Tensor, "b h"] | float = 0.0
    ) -> tuple[Float[Tensor, "b"], Float[Tensor, "b"]]:
        """-ln p of compositions and of lattice bins; `told` of a powder profile."""
        counts = self._counts(batch)
        if properties is None:
            properties = torch.full_like(batch["properties"][:, 0], float("nan"))
        wanted = self.wanted(self.standardised(properties)) + told
        bins = cells.bins_of(batch["lattice"][:, 0], counts.sum(1))
        return self.header.composition_nats(counts, wanted), self.header.lattice_nats(counts, bins, wanted)

    def _counts(self, batch: Batch) -> Int[Tensor, "b e"]:
        """Atoms of each element."""
        return (F.one_hot(batch["element"], self.n_elements) * batch.masks["atoms"][..., None]).sum(1)

    def _refiner_loss(self, batch: Batch, generator: torch.Generator | None) -> Tensor:
        """Mean squared error of the refined coordinates in units of the disturbance."""
        x, mask, element = batch["positions"].float(), batch.masks["atoms"], batch["element"]
        if self.periodic:
            parts = atoms_loss(self.sites, mask, x, batch["lattice"][:, 0], element, self.config.refiner_sigma, generator)
            return parts["sites"] + parts["cell"]
        sigma = (torch.randn(len(x), generator=generator, device=x.device) * 1.1 - 1.3).exp().clamp(0.01, self.config.refiner_sigma)
        noise = torch.randn(x.shape, generator=generator, device=x.device) * mask[..., None]
        error = self.refine(x + sigma[:, None, None] * noise, sigma, element, mask) - x
        return ((error / sigma[:, None, None]).square().mean(-1) * mask).sum() / mask.sum()

    def closing(self, h: Float[Tensor, "b t d"], events: Events) -> Float[Tensor, "b d"]:
        """State of the closing event, which has read the whole structure."""
        last = events.mask.sum(1) - 1
        return h[torch.arange(len(h), device=h.device), last]

    # ---- understanding

    @property
    def predicts(self) -> tuple[str, ...]:
        """Names of the properties that `predict` answers."""
        read = (self.config.property_weight or self.config.property_head) and "mean" in self.statistics
        return self.tokenizer.config.properties if read else ()

    @torch.no_grad()
    def score(self, batch: Batch, generator: torch.Generator | None = None) -> Float[Tensor, "b"]:
        """ln p of each structure in one random pose, nats: bytes, elements, and bins where the model draws them; of a crystal its
        composition and cell too."""
        events = self.events(batch, generator)
        h = self.states(events, self._nothing(batch))
        total = torch.zeros(events.level.shape, device=h.device)
        total[events.tree] = log_likelihood(self.byte_logits(h[events.tree]), events.byte[events.tree] - 1)
        h = h[..., : self.config.width]
        at, element, bins = h[events.leaf], events.element[events.leaf], events.bins[events.leaf]
        if self.config.place == "bins":
            kinds, *axes = self.leaf_head.logits(at, element, bins)
            rest = sum(log_likelihood(axis, bins[:, k]) for k, axis in enumerate(axes))
            total[events.leaf] = log_likelihood(kinds, element) + rest
        else:
            total[events.leaf] = log_likelihood(self.leaf_head.element(at), element)
        if self.periodic:
            return total.sum(1) - torch.stack(list(self._header_nats(batch))).sum(0)
        return total.sum(1)

    @torch.no_grad()
    def predict(self, batch: Batch, generator: torch.Generator | None = None) -> Float[Tensor, "b p"]:
        """Properties of each structure, read in one random pose.

        Raises:
            InputError: a model without a property head.
        """
        if not self.predicts:
            raise InputError("predict: expected a model with a property head, got one without; train with model.property_weight above 0")
        events = self.events(batch, generator)
        h = self.states(events, self._nothing(batch))[..., : self.config.width]
        read = self.property_head(self.closing(h, events)).float()
        return read * read.new_tensor(self.statistics["std"]) + read.new_tensor(self.statistics["mean"])

    def _nothing(self, batch: Batch) -> Tensor | None:
        """The condition of records of which no more is told than must be."""
        if not self.config.condition:
            return None
        unknown = torch.full_like(batch["properties"][:, 0], float("nan"))
        if self.periodic:
            counts = self._counts(batch)
            return self.conditions(self.scaled(counts.sum(1).float(), counts.float(), unknown, batch["lattice"][:, 0]))
        return self.conditions(unknown.new_full((len(batch), 1 + self.n_elements + unknown.shape[1]), float("nan")))

    # ---- sampling: see sample.py

    def sample(self, prompts: Sequence[Prompt], keys: Sequence[tuple[int, int]], batch_size: int = 64, **options: Any) -> Iterator[Draw]:
        from sciar.families.octree.sample import sample

        return sample(self, prompts, keys, batch_size, **options)


def with_children(h: Float[Tensor, "b t d"], known: Float[Tensor, "b t 8 c"] | None) -> Float[Tensor, "b t s"]:
    """The state of an event: of the trunk, and of the children it may have."""
    return h if known is None else torch.cat([h, known.flatten(-2).to(h.dtype)], -1)


def causal_mask(length: int, device: torch.device) -> Bool[Tensor, "t t"]:
    return torch.ones(length, length, dtype=torch.bool, device=device).tril()


def hidden_masks(length: int, device: torch.device) -> Float[Tensor, "1 1 t t"]:
    """Attention bias of the layout "queries": masked copies stand at even places and are seen by themselves alone."""
    place = torch.arange(length, device=device)
    seen = (place[None] <= place[:, None]) & ((place[None] % 2 == 1) | (place[None] == place[:, None]))
    return torch.zeros(1, 1, length, length, device=device).masked_fill(~seen, -1e4)
