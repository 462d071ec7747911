"""Drawing crystals: words under exact constraints, then the lattice, then all free coordinates together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from sciar import precision
from sciar.families.orbits.constraints import Wish, wish_of
from sciar.families.orbits.memory import stacked
from sciar.families.orbits.options import Options
from sciar.families.orbits.tokens import Tokens
from sciar.families.orbits.words import Sentence, Writer
from sciar.families.orbits.wyckoff import group
from sciar.family import Draw, options_of
from sciar.nn.sites import Frame, assumed, denoised
from sciar.prompt import Prompt
from sciar.structure import NUMBERS

if TYPE_CHECKING:
    from sciar.families.orbits.model import Model

LEVELS = 8  # of the lattice's likelihood bound
SIGMAS = (0.07, 0.1, 0.14, 0.2, 0.28, 0.4)  # Å, of the coordinates'


def sample(
    model: Model, prompts: Sequence[Prompt], keys: Sequence[tuple[int, int]], batch_size: int = 64, **options: object
) -> Iterator[Draw]:
    """See `sciar.family.Model.sample`; `options` are the fields of `Options`.

    Raises:
        InputError: an unknown option, or a prompt that cannot be kept (see `wish_of`).
    """
    chosen = options_of(Options, options)
    seen = frozenset(NUMBERS[symbol] for symbol in model.statistics.get("elements", ())) or frozenset(range(1, 119))
    wishes: dict[int, Wish] = {}
    for prompt in prompts:  # the draws of one row share their prompt
        if id(prompt) not in wishes:
            wishes[id(prompt)] = wish_of(prompt, model.tokenizer.config, seen)
    device = next(model.parameters()).device
    for start in range(0, len(prompts), batch_size):
        part = range(start, min(start + batch_size, len(prompts)))
        rows = [Sentence(i, keys[i], wishes[id(prompts[i])], np.random.default_rng([*keys[i]])) for i in part]
        with torch.inference_mode(), precision.autocast(chosen.precision, device):
            Writer(model, chosen).write(rows)
            drawn = numbers(model, rows, chosen)
        calls = chosen.lattice_steps + chosen.steps + (LEVELS + len(SIGMAS)) * (chosen.score == "bound")
        for row, (lattice, free, nats) in zip(rows, drawn, strict=True):
            yield Draw(row.index, _tokens(row, lattice, free), row.score + nats, calls + 3 + len(row.pairs) + len(row.orbits))


def numbers(model: Model, rows: Sequence[Sentence], options: Options) -> list[tuple[np.ndarray, np.ndarray, float]]:
    """Lattice numbers (6,), free coordinates (o, 3) and the nats of both of finished words."""
    device, c = next(model.parameters()).device, model.catalogue
    summary = torch.stack([row.summary for row in rows])  # type: ignore[misc]
    number = torch.tensor([row.number for row in rows], device=device)
    atoms = torch.tensor([sum(n for _, n in row.pairs) for row in rows], device=device)
    most = max(len(row.orbits) for row in rows)
    position = torch.full((len(rows), most), c.count, device=device)
    element = torch.zeros_like(position)
    noise = torch.zeros(len(rows), 6)
    for k, row in enumerate(rows):
        n = len(row.orbits)
        position[k, :n] = torch.tensor([group(row.number).start + letter for _, letter in row.orbits])
        element[k, :n] = torch.tensor([row.pairs[owner][0] for owner, _ in row.orbits])
        noise[k] = torch.from_numpy(np.random.default_rng([*row.key, 1]).standard_normal(6, dtype=np.float32))
    used = (c.basis[c.system[number]] != 0).any(1)
    scaled = model.lattice_head.sample(summary, noise.to(device), options.lattice_steps, temperature=options.lattice_temperature, used=used)
    lattice = model.scaled(scaled.float(), number, atoms, back=True)
    u, facts = torch.zeros(len(rows), most, 3, device=device), c.facts[position][..., 2:]
    for known in (False, True):
        part = [k for k, row in enumerate(rows) if (row.like is not None) == known]
        if part:
            some = [rows[k] for k in part]
            frame, inputs = c.frame(number[part], position[part]), (lattice[part], element[part], facts[part])
            u[part], lattice[part] = (
                _from_remembered(model, frame, some, *inputs) if known else _drawn(model, frame, some, *inputs, options)
            )
    u = (u % 1.0) * (torch.arange(3, device=device) < c.free[position][..., None])
    nats = torch.zeros(len(rows), device=device)
    if options.score == "bound":
        probe, tilt = torch.zeros(len(rows), 6), torch.zeros(u.shape)
        for k, row in enumerate(rows):
            rng = np.random.default_rng([*row.key, 2])
            probe[k] = torch.from_numpy(rng.standard_normal(6, dtype=np.float32))
            tilt[k, : len(row.orbits)] = torch.from_numpy(rng.standard_normal((len(row.orbits), 3), dtype=np.float32))
        scaled = model.scaled(lattice, number, atoms)
        nats = model.lattice_head.likelihood_bound(summary, scaled, probe.to(device), LEVELS, used).float()
        nats = nats + _sites_bound(model, c.frame(number, position), u, lattice, tilt.to(device), element, facts)
    columns = (x.double().cpu().numpy() for x in (lattice, u, nats))
    return [(p, x[: len(row.orbits)], float(value)) for row, p, x, value in zip(rows, *columns, strict=True)]


def _drawn(
    model: Model,
    frame: Frame,
    rows: Sequence[Sentence],
    lattice: Float[Tensor, "b 6"],
    element: Int[Tensor, "b o"],
    facts: Int[Tensor, "b o f"],
    options: Options,
) -> tuple[Float[Tensor, "b o 3"], Float[Tensor, "b 6"]]:
    """Free coordinates from anywhere, and the lattice, by all steps of the denoiser."""
    start = torch.zeros(*element.shape, 3)
    fresh = torch.zeros(max(0, options.steps - 2), *start.shape) if options.churn else None
    for k, row in enumerate(rows):
        rng, n = np.random.default_rng([*row.key, 4]), len(row.orbits)
        start[k, :n] = torch.from_numpy(rng.random((n, 3), dtype=np.float32))
        if fresh is not None:
            fresh[:, k, :n] = torch.from_numpy(rng.standard_normal((len(fresh), n, 3), dtype=np.float32))
    first = options.sigma, options.strain
    return denoised(model.sites, frame, start.to(lattice), lattice, element, facts, first, options.steps, fresh, options.churn)


def _from_remembered(
    model: Model,
    frame: Frame,
    rows: Sequence[Sentence],
    lattice: Float[Tensor, "b 6"],
    element: Int[Tensor, "b o"],
    facts: Int[Tensor, "b o f"],
) -> tuple[Float[Tensor, "b o 3"], Float[Tensor, "b 6"]]:
    """Numbers of remembered crystals put right; in the volume of `lattice` where elements were replaced, as these differ in size."""
    likes = [row.like for row in rows if row.like is not None]
    free, like, known = (column.to(lattice.device) for column in stacked(likes, element.shape[1]))
    same = torch.tensor([one.same for one in likes], device=lattice.device)
    with torch.autocast(lattice.device.type, enabled=False):
        like = torch.where(same[:, None], like, frame.resized(like, lattice))
    return model.sites(frame, free, like, *assumed(free), element, facts, model.memory.facts[element] - known)


def _sites_bound(
    model: Model,
    frame: Frame,
    u: Float[Tensor, "b o 3"],
    lattice: Float[Tensor, "b 6"],
    noise: Float[Tensor, "b o 3"],
    element: Int[Tensor, "b o"],
    facts: Int[Tensor, "b o f"],
) -> Float[Tensor, "b"]:
    """What the noise levels `SIGMAS` add to a bound of ln p of the free coordinates: -∫ E|x - D(x + σε)|²/σ² d ln σ.

    Levels below tell a crystal from itself relaxed a little more, levels above differ little between good and bad crystals.
    """
    total = torch.zeros(len(u), device=u.device)
    step = float(np.log(SIGMAS[-1] / SIGMAS[0]) / (len(SIGMAS) - 1))
    for i, sigma in enumerate(SIGMAS):
        exact = torch.autocast(u.device.type, enabled=False)
        with exact:
            cell = frame.cell(lattice)
            shift = frame.projected(cell, (-1) ** i * sigma * noise)
        levels = (torch.full((len(u),), level, device=u.device) for level in (sigma, 0.02))
        clean, _ = model.sites(frame, u + shift, lattice, *levels, element, facts)
        with exact:
            total -= step * frame.shifted(cell, clean - u).square().sum((1, 2)) / sigma**2
    return total


def _tokens(row: Sentence, lattice: np.ndarray, free: np.ndarray) -> Tokens:
    owner, letters = np.array(row.orbits).T
    pairs = np.array(row.pairs)
    return Tokens(
        pairs[:, 0],
        pairs[:, 1],
        np.array([row.number]),
        lattice[None],
        np.array([row.wish.properties]).reshape(1, -1),
        owner,
        letters,
        free,
    )
