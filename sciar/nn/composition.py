"""Which atoms a crystal's cell holds: the constraints of a prompt, and a learned law of (element, count) pairs.

Elements with their numbers of atoms come by rising index, then an end; each is drawn given the sum of those before it, under exact masks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from sciar.diffusion import categorical
from sciar.errors import InputError
from sciar.prompt import Prompt

Counts = tuple[int, ...]  # atoms of each element
CANDIDATES = 32  # compositions drawn for one within limits


@dataclass(frozen=True, slots=True, eq=False)
class Space:
    """Which crystals may be drawn.

    Args:
        compositions: atoms of each element in the cell, one of which it must be; () = drawn too.
        allowed: of the elements. atoms: fewest and most. properties: in their own units, nan = not asked for.
        narrow: elements or a size is asked for, but no composition.
    """

    compositions: tuple[Counts, ...]
    allowed: Bool[np.ndarray, "e"]
    atoms: tuple[int, int]
    properties: Float[np.ndarray, "p"]
    narrow: bool = False


def limits_of(prompt: Prompt, elements: Sequence[str], max_atoms: int) -> tuple[Bool[np.ndarray, "e"], tuple[int, int]]:
    """Elements allowed, fewest and most atoms.

    Raises:
        InputError: no element left, a foreign one, or more atoms than can be held.
    """
    asked = prompt.elements
    allowed = np.array([asked is None or e in asked for e in elements])
    if not allowed.any() and not set(asked or ()) - set(elements):
        raise InputError("elements: expected at least one element symbol, got none; leave elements= out")
    if foreign := sorted(set(asked or ()) - {"H", *elements}):
        raise InputError(f"elements: expected some of {' '.join(elements)}, got {' '.join(foreign)}; use another model")
    fewest, most = prompt.n_atoms or (1, max_atoms)
    if fewest > max_atoms:
        raise InputError(f"n_atoms: expected at most {max_atoms} for this model, got {fewest}; ask for fewer")
    return allowed, (fewest, min(most, max_atoms))


def space_of(prompt: Prompt, elements: Sequence[str], max_atoms: int, properties: Sequence[str]) -> Space:
    """What the composition of a crystal may be; its properties are those of the prompt, not yet standardised.

    Raises:
        InputError: constraints that contradict each other, exceed the cell, or name what the model does not hold.
    """
    allowed, (fewest, most) = limits_of(prompt, elements, max_atoms)
    wanted = np.array([float(prompt.properties.get(name, np.nan)) for name in properties])
    if prompt.composition is None:
        return Space((), allowed, (fewest, most), wanted, bool(prompt.elements or prompt.n_atoms))
    if foreign := sorted(set(prompt.composition) - {e for e, ok in zip(elements, allowed, strict=True) if ok}):
        raise InputError(f"formula: expected elements among {' '.join(elements)}, got {' '.join(foreign)}; use another model")
    unit = np.array([prompt.composition.get(e, 0) for e in elements])
    size = int(unit.sum())
    every = [prompt.formula_units] if prompt.formula_units else range(1, most // size + 1)
    found = tuple(tuple((unit * k).tolist()) for k in every if fewest <= k * size <= most)
    if not found:
        asked = f"{prompt.formula_units or 1} × {size}"
        raise InputError(
            f"formula: expected {fewest} to {most} atoms in the primitive cell, got {asked}; use fewer formula units or n_atoms="
        )
    return Space(found, allowed, (fewest, most), wanted)


class Compositions(nn.Module):
    """p(composition | wanted properties).

    Args:
        width: of the states. elements: how many. most: atoms in a cell. conditions: features of the wanted properties.
    """

    def __init__(self, width: int, elements: int, most: int, conditions: int) -> None:
        super().__init__()
        self.n_elements, self.most = elements, most
        self.element, self.count = nn.Embedding(elements + 1, width), nn.Embedding(most + 1, width)  # the last element: none yet
        self.begin = nn.Linear(conditions, width, bias=False) if conditions else None
        self.summand = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.norms = nn.ModuleList(nn.RMSNorm(width, eps=1e-6) for _ in range(5))
        self.mixes = nn.ModuleList(
            nn.Sequential(nn.Linear(width, 2 * width), nn.SiLU(), nn.Linear(2 * width, width, bias=False)) for _ in range(4)
        )
        self.to_element, self.to_count = nn.Linear(width, elements + 1), nn.Linear(width, most + 1)  # the last element: the end

    def wanted(self, conditions: Float[Tensor, "b c"] | None) -> Float[Tensor, "*b d"] | float:
        """What the wanted properties add to every state."""
        return 0.0 if self.begin is None or conditions is None else self.begin(conditions)

    def mixed(self, h: Float[Tensor, "*s d"]) -> Float[Tensor, "*s d"]:
        """A few layers on a sum of pairs."""
        for norm, mix in zip(self.norms, self.mixes, strict=False):
            h = h + mix(norm(h))
        mixed: Tensor = self.norms[-1](h)
        return mixed

    def pairs(self, counts: Int[Tensor, "b e"]) -> tuple[Int[Tensor, "b m"], Int[Tensor, "b m"]]:
        """Elements by rising index, and their counts, 0 behind them."""
        present = counts > 0
        most = int(present.sum(1).max())
        element = (~present).byte().sort(dim=1, stable=True).indices[:, :most]
        return element, counts.gather(1, element)

    def added(self, element: Int[Tensor, "*s"], count: Int[Tensor, "*s"]) -> Float[Tensor, "*s d"]:
        """What a pair adds to the state of those after it."""
        made: Tensor = self.summand(self.element(element) + self.count(count))
        return made * (count > 0)[..., None]

    def element_logits(self, total: Float[Tensor, "*s d"], last: Int[Tensor, "*s"], wanted: Tensor | float) -> tuple[Tensor, Tensor]:
        """Logits of the next element or the end, and the state that `count_logits` takes; `last`: the one before, or `n_elements`."""
        h = self.mixed(total + self.element(last) + wanted)
        logits = self.to_element(h).float()
        index = torch.arange(self.n_elements + 1, device=h.device)
        none = last == self.n_elements
        barred = (index <= torch.where(none, -1, last)[..., None]) | (none[..., None] & (index == self.n_elements))
        return logits.masked_fill(barred, -1e9), h

    def count_logits(self, h: Float[Tensor, "*s d"], element: Int[Tensor, "*s"]) -> Float[Tensor, "*s c"]:
        """Logits of how many atoms; not 0."""
        logits: Tensor = self.to_count(F.silu(h + self.element(element))).float()
        return logits.masked_fill(torch.arange(self.most + 1, device=h.device) == 0, -1e9)

    def composition_nats(self, counts: Int[Tensor, "b e"], wanted: Tensor | float = 0.0) -> Float[Tensor, "b"]:
        """-ln p of whole compositions."""
        element, count = self.pairs(counts)
        real = count > 0
        total = self.added(element, count).cumsum(1)
        total = torch.cat([torch.zeros_like(total[:, :1]), total], 1)
        none = torch.full_like(element[:, :1], self.n_elements)
        last = torch.cat([none, torch.where(real, element, self.n_elements)], 1)
        logits, h = self.element_logits(total, last, wanted[:, None] if isinstance(wanted, Tensor) else wanted)
        asked = torch.cat([torch.ones_like(real[:, :1]), real], 1)
        answer = torch.cat([torch.where(real, element, self.n_elements), none], 1)
        nats = F.cross_entropy(logits.transpose(1, 2), answer, reduction="none") * asked
        of_count = F.cross_entropy(self.count_logits(h[:, :-1], element).transpose(1, 2), count, reduction="none") * real
        return nats.sum(1) + of_count.sum(1)

    def drawn(
        self,
        spaces: list[Space],
        streams: list[np.random.Generator],
        wanted: Tensor | float,
        temperatures: tuple[float, float] = (1.0, 1.0),
    ) -> Int[Tensor, "b e"]:
        """Atoms of each element of every space, each from its own stream, at the temperatures of elements and of counts."""
        device = self.to_element.weight.device
        counts = torch.zeros(len(spaces), self.n_elements, dtype=torch.long, device=device)
        asked: dict[tuple[Counts, ...], list[int]] = {}  # the draws of one formula share their candidates
        for k, space in enumerate(spaces):
            asked.setdefault(space.compositions, []).append(k)
        for candidates, rows in asked.items():
            own, told = [streams[k] for k in rows], wanted[rows] if isinstance(wanted, Tensor) else wanted
            if not candidates:
                for narrow, draw in ((False, lambda *given: self._free(*given)[0]), (True, self._resampled)):
                    if some := [k for k in rows if spaces[k].narrow == narrow]:
                        told = wanted[some] if isinstance(wanted, Tensor) else wanted
                        counts[some] = draw([spaces[k] for k in some], [streams[k] for k in some], told, temperatures)
                continue
            every = torch.tensor(candidates, device=device)
            each = told[:, None].expand(-1, len(every), -1).flatten(0, 1) if isinstance(told, Tensor) else told
            nats = self.composition_nats(every.repeat(len(rows), 1), each).view(len(rows), -1)
            counts[rows] = every[categorical.draw((-nats).double().softmax(-1), uniforms(own, device))]
        return counts

    def _resampled(
        self, spaces: list[Space], streams: list[np.random.Generator], wanted: Tensor | float, temperatures: tuple[float, float]
    ) -> Int[Tensor, "b e"]:
        """One of several compositions within the limits, drawn by what the masks left of the law of each.

        Masks alone look one word ahead: asked for Fe and O, as much oxygen would be drawn as goes with all that may not come. With the
        weights the law is the learned one, given the limits, for many candidates (sampling importance resampling).
        """
        many = [space for space in spaces for _ in range(CANDIDATES)]
        own = [np.random.default_rng(seed) for stream in streams for seed in stream.integers(2**63, size=CANDIDATES)]
        each = wanted.repeat_interleave(CANDIDATES, 0) if isinstance(wanted, Tensor) else wanted
        counts, left = self._free(many, own, each, temperatures)
        chosen = categorical.draw(left.view(-1, CANDIDATES).softmax(-1), uniforms(streams, left.device))
        return counts.view(len(spaces), CANDIDATES, -1)[torch.arange(len(spaces), device=left.device), chosen]

    def _free(
        self, spaces: list[Space], streams: list[np.random.Generator], wanted: Tensor | float, temperatures: tuple[float, float]
    ) -> tuple[Int[Tensor, "b e"], Float[Tensor, "b"]]:
        """Compositions drawn pair by pair, and ln of what was left of their law: what could not be finished within the limits is barred."""
        device = self.to_element.weight.device
        allowed = torch.from_numpy(np.stack([space.allowed for space in spaces])).to(device)
        fewest, most = torch.tensor([space.atoms for space in spaces], device=device).T
        b, e = allowed.shape
        counts = torch.zeros(b, e, dtype=torch.long, device=device)
        row, index, number = (torch.arange(n, device=device) for n in (b, e, self.most + 1))
        last, total = torch.full((b,), e, device=device), torch.zeros(b, self.to_element.in_features, device=device)
        going, left = torch.ones(b, dtype=torch.bool, device=device), torch.zeros(b, dtype=torch.double, device=device)
        while bool(going.any()):
            logits, h = self.element_logits(total, last, wanted)
            size = counts.sum(1)
            barred = torch.cat([~allowed | (size >= most)[:, None], (size < fewest)[:, None]], 1)
            logits = logits.double() / temperatures[0]
            open_ = logits.masked_fill(barred, -torch.inf)
            left += torch.where(going, open_.logsumexp(-1) - logits.logsumexp(-1), 0.0)
            element = categorical.draw(open_.softmax(-1), uniforms(streams, device, going))
            going = going & (element < e)
            element = element.clamp(max=e - 1)
            more = (allowed & (index > element[:, None])).any(1)
            least = torch.where(more, 1, (fewest - size).clamp(min=1))
            barred = (number < least[:, None]) | (number > (most - size)[:, None])
            logits = self.count_logits(h, element).double() / temperatures[1]
            open_ = logits.masked_fill(barred, -torch.inf)
            left += torch.where(going, open_.logsumexp(-1) - logits.logsumexp(-1), 0.0)
            count = categorical.draw(open_.softmax(-1).nan_to_num(), uniforms(streams, device, going)) * going
            counts[row, element] += count
            total, last = total + self.added(element, count), torch.where(going, element, last)
        return counts, left


def uniforms(streams: list[np.random.Generator], device: torch.device, going: Bool[Tensor, "b"] | None = None) -> Float[Tensor, "b"]:
    """A number from the stream of each record that goes on, so that a draw does not depend on the others."""
    asked = [True] * len(streams) if going is None else going.tolist()
    return torch.tensor(
        [stream.random() if on else 0.0 for stream, on in zip(streams, asked, strict=True)], dtype=torch.double, device=device
    )
