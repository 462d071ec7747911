"""What happens to drawn trees: coordinates by the refiner, then elements read again where the coordinates speak against them.

Cells are drawn one by one and never taken back, and elements are drawn before the exact coordinates are known. So the refiner moves all
atoms together, the trunk reads the structure that comes out, an element that it now finds unlikely is exchanged for the likeliest, and
the refiner moves the atoms again. One such round is one pass over whole sequences, which costs what two or three events cost.

A molecule whose shells are closed has an even number of electrons. Where it is odd, the one atom is exchanged that costs the least
likelihood: the most frequent fault of drawn molecules is a hydrogen too few or too many.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from sciar.families.octree.events import events_of
from sciar.families.octree.heads import log_likelihood
from sciar.families.octree.options import Options
from sciar.families.octree.tokens import plant
from sciar.families.octree.tree import morton
from sciar.nn.refiner import denoised

if TYPE_CHECKING:
    from sciar.families.octree.model import Model

DOUBT = 0.1  # an element less likely than this is exchanged
SETTLED = 0.05  # Å; a structure whose elements stay and whose atoms no longer move by more is done
AGAIN, STEPS_AGAIN, RUNS = 0.3, 3, 3  # error in Å that the refiner assumes after a reading, its steps, and how often it starts anew


@dataclass(frozen=True, slots=True, eq=False)
class Cells:
    """The atoms of complete trees.

    Args:
        x: middles of the cells, Å about the cube's centre. element: drawn. mask: which are atoms.
        free: atoms that may move and change; the others are given.
        allowed: elements an atom may be exchanged for.
        condition: what the trunk was told.
    """

    x: Float[Tensor, "b n 3"]
    element: Int[Tensor, "b n"]
    mask: Bool[Tensor, "b n"]
    free: Bool[Tensor, "b n"]
    allowed: Bool[Tensor, "b e"]
    condition: Float[Tensor, "b 1 d"] | None

    def rows(self, index: Int[Tensor, "r"]) -> Cells:
        """Some of the trees."""
        return Cells(*(None if value is None else value[index] for value in self._values()))  # type: ignore[arg-type]

    @classmethod
    def together(cls, parts: Sequence[Cells]) -> Cells:
        """Trees of different sizes as one batch."""
        columns = zip(*(part._values() for part in parts), strict=True)
        return cls(*(None if c[0] is None else pad_sequence([v[0] for v in c], batch_first=True) for c in columns))  # type: ignore[arg-type]

    def _values(self) -> list[Tensor | None]:
        return [getattr(self, field.name) for field in fields(self)]


@dataclass(frozen=True, slots=True, eq=False)
class Final:
    """What became of `Cells`: coordinates, elements, mean ln p of the elements (nan without a round), network calls."""

    x: Float[Tensor, "b n 3"]
    element: Int[Tensor, "b n"]
    likely: Float[Tensor, "b"]
    calls: Int[Tensor, "b"]


def finished(model: Model, cells: Cells, options: Options, noise: Float[Tensor, "s b n 3"]) -> Final:
    """Refine, read again, exchange, refine again, up to `options.proofread` times; what no longer changes is done.

    Args:
        noise: normal numbers for all but the first and the last of the `options.refine` steps.
    """

    def moved(part: Cells, sigma: float, steps: int, noise: Tensor | None = None) -> Tensor:
        estimate = lambda x, s: model.refine(x, s, part.element, part.mask)  # noqa: E731
        return denoised(estimate, part.x, part.free[..., None], sigma, steps, noise, options.churn)

    rows = torch.arange(len(cells.x), device=cells.x.device)
    x, element = moved(cells, options.refine_sigma, options.refine, noise), cells.element.clone()
    likely, shift = (torch.full(rows.shape, value, device=x.device) for value in (torch.nan, torch.inf))
    calls = torch.full_like(rows, options.refine)
    for _ in range(options.proofread):
        part = replace(cells.rows(rows), x=x[rows], element=element[rows])
        logits, read = element_logits(model, part)
        new = exchanged(model, part, logits, part.mask & part.free & read[:, None], options.closed_shell)
        mean = (log_likelihood(logits, new) * part.mask).sum(1) / part.mask.sum(1)
        likely[rows], element[rows] = torch.where(read, mean, -torch.inf), new
        calls[rows] += 1
        open_ = (new != part.element).any(1) | (shift[rows] > SETTLED)
        rows = rows[open_]  # the others are done
        if not len(rows):
            break
        part = replace(cells.rows(rows), x=x[rows], element=element[rows])
        for _ in range(RUNS):
            last = part.x
            part = replace(part, x=moved(part, AGAIN, STEPS_AGAIN))
        x[rows], shift[rows] = part.x, ((part.x - last).norm(dim=-1) * part.mask).amax(1)
        calls[rows] += RUNS * STEPS_AGAIN
    return Final(x, element, likely, calls)


def exchanged(model: Model, cells: Cells, logits: Float[Tensor, "b n e"], free: Bool[Tensor, "b n"], closed: bool) -> Int[Tensor, "b n"]:
    """Elements of the `free` atoms after doubted ones became the likeliest allowed; with `closed` and an even number of electrons."""
    element, allowed = cells.element, cells.allowed[:, None]
    doubted = log_likelihood(logits, element).exp() < DOUBT
    best = logits.masked_fill(~allowed, -torch.inf).argmax(-1)
    element = torch.where(free & doubted & allowed.any(-1), best, element)
    if not closed:
        return element
    parity = torch.from_numpy(model.tokenizer.numbers % 2).to(element.device)
    odd = (parity[element] * cells.mask).sum(1) % 2 == 1
    flips = (parity[element][..., None] != parity) & allowed & free[..., None]
    law = logits.log_softmax(-1)
    gain = (law - law.gather(-1, element[..., None])).masked_fill(~flips, -torch.inf).flatten(1)
    most, where = gain.max(1)
    rows = (odd & most.isfinite()).nonzero()[:, 0]
    atom, kind = where[rows] // logits.shape[-1], where[rows] % logits.shape[-1]
    element[rows, atom] = kind
    return element


def element_logits(model: Model, cells: Cells) -> tuple[Float[Tensor, "b n e"], Bool[Tensor, "b"]]:
    """What the trunk expects each atom to be, given all places and the elements of the atoms before it in leaf order.

    Second: which structures could be read, with every atom in the cube and no two in one cell; the logits of the others are 0.
    """
    grid, mask = model.grid, cells.mask
    x = cells.x - ((cells.x * mask[..., None]).sum(1) / mask.sum(1, keepdim=True))[:, None] + grid.side / 2
    p = grid.quantise(x)
    inside = (grid.inside(p) | ~mask).all(1)
    slot = torch.arange(mask.shape[1], device=x.device)
    code = torch.where(mask, morton(p.clamp(0, grid.size - 1) // grid.bins), -1 - slot).sort(1).values
    read = inside & (code[:, 1:] != code[:, :-1]).all(1)
    logits = torch.zeros(*mask.shape, model.n_elements, device=x.device)
    if not bool(read.any()):
        return logits, read
    atoms = mask & read[:, None]
    record, count = (read.long().cumsum(0) - 1)[:, None].expand_as(mask)[atoms], int(read.sum())
    given = ~cells.free[atoms] if model.config.given and not bool(cells.free[atoms].all()) else None
    events = model.as_seen(events_of(grid, record, cells.element[atoms], x[atoms], count, given))
    state = model.states(events, None if cells.condition is None else cells.condition[read])
    by_leaf = model.leaf_head.element(state[events.leaf][:, : model.config.width])[:, : model.n_elements].float()
    found = torch.empty_like(by_leaf)
    found[plant(grid, record, x[atoms], count)[1]] = by_leaf
    logits[atoms] = found
    return logits, read
