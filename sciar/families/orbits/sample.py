"""Drawing crystals: words under exact constraints, then the lattice, then all free coordinates together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sciar import precision
from sciar.families.orbits.constraints import Wish, wish_of
from sciar.families.orbits.options import Options
from sciar.families.orbits.tokens import NO_REFLECTIONS, Tokens
from sciar.families.orbits.words import Sentence, Writer
from sciar.families.orbits.wyckoff import group
from sciar.family import Draw, options_of
from sciar.nn.sites import Frame, denoised
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
    start, noise = torch.zeros(len(rows), most, 3), torch.zeros(len(rows), 6)
    shift, like = torch.zeros_like(start), torch.zeros_like(noise)
    fresh = torch.zeros(max(0, options.steps - 2), len(rows), most, 3) if options.churn else None
    for k, row in enumerate(rows):
        n = len(row.orbits)
        position[k, :n] = torch.tensor([group(row.number).start + letter for _, letter in row.orbits])
        element[k, :n] = torch.tensor([row.pairs[owner][0] for owner, _ in row.orbits])
        rng = np.random.default_rng([*row.key, 1])
        noise[k] = torch.from_numpy(rng.standard_normal(6, dtype=np.float32))
        start[k, :n] = torch.from_numpy(rng.random((n, 3), dtype=np.float32))
        if row.like is not None:
            start[k, :n], like[k] = (torch.from_numpy(x.astype(np.float32)) for x in (row.like.free, row.like.lattice))
            shift[k, :n] = torch.from_numpy(np.random.default_rng([*row.key, 4]).standard_normal((n, 3), dtype=np.float32))
        if fresh is not None:
            fresh[:, k, :n] = torch.from_numpy(rng.standard_normal((len(fresh), n, 3), dtype=np.float32))
    used = (c.basis[c.system[number]] != 0).any(1)
    scaled = model.lattice_head.sample(summary, noise.to(device), options.lattice_steps, temperature=options.lattice_temperature, used=used)
    lattice = model.scaled(scaled.float(), number, atoms, back=True)
    frame, u = c.frame(number, position), start.to(device)
    facts = c.facts[position][..., 2:]
    known, same = torch.tensor([(row.like is not None, row.like is not None and row.like.same) for row in rows], device=device).T
    scaled = _scaled_to(frame, like.to(device), lattice, c.lengths[c.system[number]])
    lattice = torch.where(known[:, None], torch.where(same[:, None], like.to(device), scaled), lattice)
    u = u + frame.projected(frame.cell(lattice), options.near * shift.to(device))
    first = torch.where(known, options.near, options.sigma), torch.where(known, options.near_strain, options.strain)
    u, lattice = denoised(model.sites, frame, u, lattice, element, facts, first, options.steps, fresh, options.churn)
    u = (u % 1.0) * (torch.arange(3, device=device) < c.free[position][..., None])
    nats = torch.zeros(len(rows), device=device)
    if options.score == "bound":
        probe, tilt = torch.zeros(len(rows), 6), torch.zeros_like(start)
        for k, row in enumerate(rows):
            rng = np.random.default_rng([*row.key, 2])
            probe[k] = torch.from_numpy(rng.standard_normal(6, dtype=np.float32))
            tilt[k, : len(row.orbits)] = torch.from_numpy(rng.standard_normal((len(row.orbits), 3), dtype=np.float32))
        scaled = model.scaled(lattice, number, atoms)
        nats = model.lattice_head.likelihood_bound(summary, scaled, probe.to(device), LEVELS, used).float()
        nats = nats + _sites_bound(model, frame, u, lattice, tilt.to(device), element, facts)
    columns = (x.double().cpu().numpy() for x in (lattice, u, nats))
    return [(p, x[: len(row.orbits)], float(value)) for row, p, x, value in zip(rows, *columns, strict=True)]


def _scaled_to(
    frame: Frame, lattice: Float[Tensor, "b 6"], other: Float[Tensor, "b 6"], lengths: Bool[Tensor, "b 6"]
) -> Float[Tensor, "b 6"]:
    """Lattice numbers of the same shape and the volume of the other ones: elements that take the place of each other differ in size."""
    wanted, own = (torch.linalg.slogdet(frame.cell(x)).logabsdet for x in (other, lattice))
    return lattice + lengths * ((wanted - own) / 3)[:, None]


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
        *NO_REFLECTIONS,
    )
