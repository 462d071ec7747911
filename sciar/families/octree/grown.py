"""Complete trees: what of a row waits for the refiner, exact coordinates of many at once, and their rank."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from sciar.batch import collate
from sciar.errors import InputError
from sciar.families.octree.constraints import Wish
from sciar.families.octree.options import Options
from sciar.families.octree.proofread import Cells, finished
from sciar.families.octree.tokens import Tokens
from sciar.nn.sites import Frame, denoised

if TYPE_CHECKING:
    from sciar.families.octree.model import Model


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Job:
    """One draw that was asked for."""

    index: int
    key: tuple[int, int]
    wish: Wish


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Grown:
    """A complete tree that waits for the refiner: its draw so far, and its cells."""

    job: Job
    tokens: Tokens
    tries: int
    calls: int
    score: Float[Tensor, "3"]
    cells: Cells


def molecules(model: Model, grown: list[Grown], options: Options) -> list[Grown]:
    """Molecules with exact coordinates and with elements read again, see proofread.py; fixed atoms stay."""
    cells = Cells.together([g.cells for g in grown])
    final = finished(model, cells, options, _fresh(grown, cells, options.refine))
    done = []
    for k, g in enumerate(grown):
        n = len(g.tokens.element)
        x, element = final.x[k, :n], final.element[k, :n]
        tokens = dataclasses.replace(g.tokens, positions=x.cpu().numpy().astype(np.float64), element=element.cpu().numpy(), exact=True)
        if options.proofread:
            g.score[1] = final.likely[k] * n
        moved = dataclasses.replace(g.cells, x=x[None], element=element[None])
        done.append(dataclasses.replace(g, tokens=tokens, calls=g.calls + int(final.calls[k]), cells=moved))
    return done


def crystals(model: Model, grown: list[Grown], options: Options) -> list[Grown]:
    """Crystals after their atoms and cell were denoised together; elements stay, so that the composition does."""
    cells = Cells.together([g.cells for g in grown])
    lattice = torch.from_numpy(np.concatenate([g.tokens.lattice for g in grown])).float().to(cells.x.device)
    nothing, first = cells.element.new_zeros(*cells.element.shape, 0), (options.site_sigma, options.strain)
    noise, frame = _fresh(grown, cells, options.refine), Frame.of_atoms(cells.mask)
    x, lattice = denoised(model.sites, frame, cells.x, lattice, cells.element, nothing, first, options.refine, noise, options.churn)
    done = []
    for k, g in enumerate(grown):
        x_k, lattice_k = (v.double().cpu().numpy() for v in (x[k, : len(g.tokens.element)], lattice[k : k + 1]))
        tokens = dataclasses.replace(g.tokens, positions=x_k, lattice=lattice_k, exact=True)
        done.append(dataclasses.replace(g, tokens=tokens, calls=g.calls + options.refine))
    return done


def _fresh(grown: list[Grown], cells: Cells, steps: int) -> Float[Tensor, "s b n 3"]:
    """Normal numbers for all but the first and the last step of a refiner, of each draw from its key alone."""
    noise = np.zeros((max(0, steps - 2), *cells.x.shape), dtype=np.float32)
    for k, g in enumerate(grown):
        n = len(g.tokens.element)
        stream = np.random.default_rng([*g.job.key, 3, *([g.tries] if g.tries else [])])
        noise[:, k, :n] = stream.standard_normal((len(noise), n, 3), dtype=np.float32)
    return torch.from_numpy(noise).to(cells.x.device)


def rank(model: Model, g: Grown, options: Options) -> float:
    """What draws are ranked by, see `Options.rank`."""
    if options.rank == "property":
        return _reward(model, g)
    tree, element, place = g.score.tolist()
    if options.rank == "likelihood" or (options.rank == "auto" and model.periodic):
        return float(tree + element + place) + g.job.wish.nats
    return float(element + place if options.rank == "atoms" else element) / max(1, len(g.tokens.element))


def _reward(model: Model, g: Grown) -> float:
    """-inf where the draw cannot be read."""
    device = next(model.parameters()).device
    try:
        tokens = model.tokenizer.encode(model.tokenizer.decode(g.tokens))
    except InputError:
        return float("-inf")
    pose = torch.Generator(device).manual_seed(g.job.key[1])  # of the draw alone, whatever batch it sits in
    read = model.standardised(model.predict(collate(Tokens, [tokens]).to(device), pose))[0]
    names = model.tokenizer.config.properties
    wanted = torch.tensor([[g.job.wish.properties.get(name, float("nan")) for name in names]], device=device)
    return -float((read - model.standardised(wanted)[0]).abs().nanmean())
