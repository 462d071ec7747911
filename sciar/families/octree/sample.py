"""Drawing: prompts in, finished trees out. The work is in rows.py, the constraints in constraints.py."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from sciar.errors import InputError
from sciar.families.octree.cell import numbers_of
from sciar.families.octree.constraints import Wish, crystal_wish, profile_of, space_of, wish_of
from sciar.families.octree.grown import Job
from sciar.families.octree.options import Options
from sciar.families.octree.rows import Rows
from sciar.family import Draw, options_of
from sciar.nn.composition import Space
from sciar.prompt import Prompt

if TYPE_CHECKING:
    from sciar.families.octree.model import Model

CHUNK = 512  # cells that are drawn at once
OFFSET = 1.0  # Å, of given atoms for a network that was not trained with them, see `wish_of`


def sample(
    model: Model, prompts: Sequence[Prompt], keys: Sequence[tuple[int, int]], batch_size: int = 64, **options: object
) -> Iterator[Draw]:
    """See `sciar.family.Model.sample`; `options` are the fields of `Options`.

    Raises:
        InputError: an unknown option, or a prompt that cannot be kept (see `wish_of`).
    """
    chosen = options_of(Options, options)
    if chosen.together > 1 and model.config.layout != "queries":
        raise InputError(f"sample: expected layout queries for together=, got a model of layout {model.config.layout}; leave it out")
    if model.periodic:
        unfit = [name for name in ("valence", "min_distance") if getattr(chosen, name)]
        if unfit or chosen.rank in ("property", "atoms"):
            raise InputError(f"sample: expected no {unfit[0] if unfit else f'rank={chosen.rank!r}'} for crystals, got it; leave it out")
        wishes = cells_of(model, prompts, keys, chosen)
    else:
        offset = 0.0 if model.config.given else OFFSET
        wishes = [wish_of(model.tokenizer, p, keys[i], offset) for i, p in enumerate(prompts)]
    jobs = [Job(i, keys[i], wish) for i, wish in enumerate(wishes)]
    if any(job.wish.properties for job in jobs) and not (model.config.condition and "mean" in model.statistics):
        raise InputError("properties: expected a model trained with conditions, got one without; leave properties= out")
    if chosen.rank == "property" and not (model.predicts and all(job.wish.properties for job in jobs)):
        lacks = "a model that reads none" if not model.predicts else "a prompt without properties"
        raise InputError(f"sample: expected properties= and a model that reads them for rank='property', got {lacks}; choose another rank")
    if jobs:
        yield from Rows(model, jobs, batch_size, chosen).run()


def cells_of(model: Model, prompts: Sequence[Prompt], keys: Sequence[tuple[int, int]], options: Options) -> list[Wish]:
    """Composition and cell of every crystal, drawn before the octrees; each from its key alone."""
    known: dict[int, tuple[Space, tuple[int, ...]]] = {}
    for prompt in prompts:  # the draws of one row share their prompt
        if id(prompt) not in known:
            known[id(prompt)] = space_of(model.tokenizer, prompt), profile_of(model.tokenizer, prompt)
    names = model.tokenizer.config.properties
    device = next(model.parameters()).device
    wishes: list[Wish] = []
    for start in range(0, len(prompts), CHUNK):
        part = range(start, min(start + CHUNK, len(prompts)))
        spaces, profiles = zip(*[known[id(prompts[i])] for i in part], strict=True)
        streams = [np.random.default_rng([*keys[i], 5]) for i in part]
        with torch.inference_mode():
            asked = torch.tensor(np.stack([s.properties for s in spaces]), dtype=torch.float32, device=device)
            wanted = model.wanted(model.standardised(asked))
            if model.powder is not None:
                wanted = wanted + model.powder.wanted(profiles)[1]
            counts, bins, nats = model.header.draw(
                list(spaces), streams, wanted, (options.composition_temperature, options.count_temperature), options.cell_temperature
            )
            lattice = numbers_of(bins, counts.sum(1))
        columns = (x.double().cpu().numpy() for x in (lattice, nats))
        for i, profile, atoms, form, likely in zip(part, profiles, counts.cpu().numpy(), *columns, strict=True):
            told = {name: v for name, v in prompts[i].properties.items() if name in names}
            wishes.append(crystal_wish(atoms, form, float(likely), told, profile))
    return wishes
