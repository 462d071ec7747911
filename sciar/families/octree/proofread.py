"""What happens to drawn trees: coordinates by the refiner, then elements read again where the coordinates speak against them.

Cells are drawn one by one and never taken back, and elements are drawn before the exact coordinates are known. So the refiner moves all
atoms together, the trunk reads the structure that comes out, an element that it now finds unlikely is exchanged for the likeliest, and
the refiner moves the atoms again. One such round is one pass over whole sequences, which costs what two or three events cost.

A molecule whose shells are closed has an even number of electrons. Where it is odd, the one atom is exchanged that costs the least
likelihood: the most frequent fault of drawn molecules is a hydrogen too few or too many.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sciar.families.octree.events import events_of
from sciar.families.octree.heads import log_likelihood
from sciar.families.octree.tokens import plant
from sciar.families.octree.tree import morton
from sciar.nn.refiner import denoised

if TYPE_CHECKING:
    from sciar.families.octree.model import Model

DOUBT = 0.1  # an element less likely than this is exchanged
SETTLED = 0.05  # Å; a structure whose elements stay and whose atoms no longer move by more is done
AGAIN, STEPS_AGAIN = 0.3, 8  # error in Å that the refiner assumes after an exchange, and its steps


def finished(
    model: Model,
    x: Float[Tensor, "b n 3"],
    element: Int[Tensor, "b n"],
    mask: Bool[Tensor, "b n"],
    free: Bool[Tensor, "b n"],
    allowed: Bool[Tensor, "b e"],
    condition: Float[Tensor, "b 1 d"] | None,
    sigma: float,
    steps: int,
    rounds: int,
    noise: Float[Tensor, "s b n 3"] | None = None,
    churn: float = 0.0,
    closed: bool = True,
) -> tuple[Float[Tensor, "b n 3"], Int[Tensor, "b n"], Float[Tensor, "b"], Int[Tensor, "b"]]:
    """Final coordinates about the cube's centre and elements of drawn cells, the mean ln p of the elements (nan without a round), calls.

    Args:
        x, element, mask: middles of the cells, elements drawn, and which are atoms.
        free: atoms that may move and change; the others are given.
        allowed: elements an atom may be exchanged for.
        condition: what the trunk was told.
        sigma, steps: error in Å that the refiner assumes first, and its steps.
        rounds: of reading again, at most; a structure in which nothing changes any more is done.
        noise, churn: see `denoised`.
        closed: make the number of electrons even in each round.
    """

    def moved(rows: Tensor, sigma: float, steps: int, noise: Tensor | None = None) -> Tensor:
        kinds, there = element[rows], mask[rows]
        return denoised(lambda x, s: model.refine(x, s, kinds, there), x[rows], free[rows, :, None], sigma, steps, noise, churn)

    rows = torch.arange(len(x), device=x.device)
    x = moved(rows, sigma, steps, noise)
    shift = torch.full((len(x),), torch.inf, device=x.device)
    element, likely, calls = element.clone(), torch.full((len(x),), torch.nan, device=x.device), torch.full_like(rows, steps)
    for _ in range(rounds):
        told = None if condition is None else condition[rows]
        logits, read = element_logits(model, x[rows], element[rows], mask[rows], told)
        old, open_ = element[rows], mask[rows] & free[rows] & read[:, None]
        doubted = log_likelihood(logits, old).exp() < DOUBT
        best = logits.masked_fill(~allowed[rows, None], -torch.inf).argmax(-1)
        new = torch.where(open_ & doubted & allowed[rows].any(1, keepdim=True), best, old)
        if closed:
            new = even(model, logits, new, mask[rows], open_, allowed[rows])
        mean = (log_likelihood(logits, new) * mask[rows]).sum(1) / mask[rows].sum(1)
        likely[rows], element[rows] = torch.where(read, mean, -torch.inf), new
        calls[rows] += 1
        rows = rows[(new != old).any(1) | (shift[rows] > SETTLED)]  # the others are done
        if not len(rows):
            break
        before = x[rows]
        x[rows] = moved(rows, AGAIN, STEPS_AGAIN)
        shift[rows] = ((x[rows] - before).norm(dim=-1) * mask[rows]).amax(1)
        calls[rows] += STEPS_AGAIN
    return x, element, likely, calls


def even(
    model: Model,
    logits: Float[Tensor, "b n e"],
    element: Int[Tensor, "b n"],
    mask: Bool[Tensor, "b n"],
    free: Bool[Tensor, "b n"],
    allowed: Bool[Tensor, "b e"],
) -> Int[Tensor, "b n"]:
    """Elements with an even sum of atomic numbers: where it is odd, the likeliest single exchange among the `free` atoms is made."""
    parity = torch.from_numpy(model.tokenizer.numbers % 2).to(element.device)
    odd = (parity[element] * mask).sum(1) % 2 == 1
    flips = (parity[element][..., None] != parity) & allowed[:, None] & free[..., None]
    law = logits.log_softmax(-1)
    gain = (law - law.gather(-1, element[..., None])).masked_fill(~flips, -torch.inf).flatten(1)
    best, where = gain.max(1)
    atom, kind = where // logits.shape[-1], where % logits.shape[-1]
    rows = (odd & best.isfinite()).nonzero()[:, 0]
    element = element.clone()
    element[rows, atom[rows]] = kind[rows]
    return element


def element_logits(
    model: Model,
    x: Float[Tensor, "b n 3"],
    element: Int[Tensor, "b n"],
    mask: Bool[Tensor, "b n"],
    condition: Float[Tensor, "b 1 d"] | None,
) -> tuple[Float[Tensor, "b n e"], Bool[Tensor, "b"]]:
    """What the trunk expects each atom to be, given all places and the elements of the atoms before it in leaf order.

    Second: which structures could be read, with every atom in the cube and no two in one cell; the logits of the others are 0.
    """
    grid = model.grid
    x = x - ((x * mask[..., None]).sum(1) / mask.sum(1, keepdim=True))[:, None] + grid.side / 2
    p = grid.quantise(x)
    inside = (grid.inside(p) | ~mask).all(1)
    slot = torch.arange(mask.shape[1], device=x.device)
    code = torch.where(mask, morton(p.clamp(0, grid.size - 1) // grid.bins), -1 - slot).sort(1).values
    read = inside & (code[:, 1:] != code[:, :-1]).all(1)
    logits = torch.zeros(*mask.shape, model.n_elements, device=x.device)
    if not bool(read.any()):
        return logits, read
    atoms = mask & read[:, None]
    record = (read.long().cumsum(0) - 1)[:, None].expand_as(mask)[atoms]
    count = int(read.sum())
    events = events_of(grid, record, element[atoms], x[atoms], count)
    middle = torch.full_like(events.bins, grid.bins // 2)
    events = dataclasses.replace(events, bins=torch.where(events.leaf[..., None], middle, events.bins))
    state = model.states(events, None if condition is None else condition[read])
    by_leaf = model.leaf_head.element(state[events.leaf][:, : model.config.width])[:, : model.n_elements].float()
    found = torch.empty_like(by_leaf)
    found[plant(grid, record, x[atoms], count)[1]] = by_leaf
    logits[atoms] = found
    return logits, read
