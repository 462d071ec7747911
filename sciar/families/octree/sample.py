"""Drawing: prompts in, finished trees out. The work is in rows.py, the constraints in constraints.py."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from sciar.errors import InputError
from sciar.families.octree.constraints import wish_of
from sciar.families.octree.options import Options
from sciar.families.octree.rows import Job, Rows
from sciar.family import Draw, options_of
from sciar.prompt import Prompt

if TYPE_CHECKING:
    from sciar.families.octree.model import Model

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
    offset = 0.0 if model.config.given else OFFSET
    jobs = [Job(i, keys[i], wish_of(model.tokenizer, p, keys[i], offset)) for i, p in enumerate(prompts)]
    if any(job.wish.properties for job in jobs) and not (model.config.condition and "mean" in model.statistics):
        raise InputError("properties: expected a model trained with conditions, got one without; leave properties= out")
    if chosen.rank == "property" and not (model.predicts and all(job.wish.properties for job in jobs)):
        lacks = "a model that reads none" if not model.predicts else "a prompt without properties"
        raise InputError(f"sample: expected properties= and a model that reads them for rank='property', got {lacks}; choose another rank")
    if jobs:
        yield from Rows(model, jobs, batch_size, chosen).run()
