"""What comes before the octree of a crystal: its composition and its cell.

Elements with their numbers of atoms come by rising index, then an end, then six numbers of the Niggli cell in bins, each given all
before it. The numbers are those of `lattice.form_of`, lengths in units of the cube root of the number of atoms: any six are a cell,
where eight drawn corners may be none. Special values (right angles, equal edges) are single bins. Ours, against Uni-3DAR's corners.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from sciar.diffusion import categorical

BINS = 192
LENGTH_STEP, LENGTH_LOW = 0.02, -0.4  # of ln(length / Å) - ln(atoms) / 3
SLOPE_STEP = 0.01  # 0 is the middle of bin BINS / 2

Counts = tuple[int, ...]  # atoms of each element


def grid(device: torch.device) -> tuple[Float[Tensor, "6"], Float[Tensor, "6"]]:
    """Middle of the first bin and step of each number."""
    low = torch.tensor([LENGTH_LOW] * 3 + [-SLOPE_STEP * (BINS // 2)] * 3, device=device)
    return low, torch.tensor([LENGTH_STEP] * 3 + [SLOPE_STEP] * 3, device=device)


def scaled(lattice: Float[Tensor, "b 6"], atoms: Int[Tensor, "b"]) -> Float[Tensor, "b 6"]:
    """Lattice numbers of a cell of one atom of that size."""
    return torch.cat([lattice[:, :3] - atoms.clamp(min=1).log()[:, None] / 3, lattice[:, 3:]], 1)


def bins_of(lattice: Float[Tensor, "b 6"], atoms: Int[Tensor, "b"]) -> Int[Tensor, "b 6"]:
    """Nearest bins; what is outside (see `fits`) goes into the last one."""
    low, step = grid(lattice.device)
    return ((scaled(lattice, atoms) - low) / step).round().long().clamp(0, BINS - 1)


def numbers_of(bins: Int[Tensor, "b 6"], atoms: Int[Tensor, "b"]) -> Float[Tensor, "b 6"]:
    """Lattice numbers in the middles of bins."""
    low, step = grid(bins.device)
    middle = low + bins * step
    return torch.cat([middle[:, :3] + atoms.clamp(min=1).log()[:, None] / 3, middle[:, 3:]], 1)


def fits(lattice: Float[np.ndarray, "6"], atoms: int) -> bool:
    """Whether the bins reach as far as this cell."""
    low, step = grid(torch.device("cpu"))
    place = (scaled(torch.from_numpy(lattice)[None].float(), torch.tensor([atoms]))[0] - low) / step
    return bool(((place > -0.5) & (place < BINS - 0.5)).all())


@dataclass(frozen=True, slots=True, eq=False)
class Space:
    """Which crystals a header may draw.

    Args:
        compositions: atoms of each element in the cell, one of which it must be; () = drawn too.
        allowed: of the elements. atoms: fewest and most. properties: in their own units, nan = not asked for.
    """

    compositions: tuple[Counts, ...]
    allowed: Bool[np.ndarray, "e"]
    atoms: tuple[int, int]
    properties: Float[np.ndarray, "p"]


class Header(nn.Module):
    """p(composition) and p(lattice | composition), both given the wanted properties.

    Args:
        width: of the states. elements: how many. most: atoms in a cell. conditions: features of the wanted properties.
    """

    def __init__(self, width: int, elements: int, most: int, conditions: int) -> None:
        super().__init__()
        self.n_elements, self.most = elements, most
        self.element, self.count = nn.Embedding(elements + 1, width), nn.Embedding(most + 1, width)  # the last element: none yet
        self.atoms = nn.Embedding(most + 1, width)
        self.begin = nn.Linear(conditions, width, bias=False) if conditions else None
        self.summand = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.norms = nn.ModuleList(nn.RMSNorm(width, eps=1e-6) for _ in range(5))
        self.mixes = nn.ModuleList(
            nn.Sequential(nn.Linear(width, 2 * width), nn.SiLU(), nn.Linear(2 * width, width, bias=False)) for _ in range(4)
        )
        self.to_element, self.to_count = nn.Linear(width, elements + 1), nn.Linear(width, most + 1)  # the last element: the end
        self.of_bin = nn.ModuleList(nn.Embedding(BINS, width) for _ in range(5))
        self.axes = nn.ModuleList(
            nn.Sequential(nn.RMSNorm(width, eps=1e-6), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, BINS)) for _ in range(6)
        )

    def wanted(self, conditions: Float[Tensor, "b c"] | None) -> Float[Tensor, "*b d"] | float:
        """What the wanted properties add to every state."""
        return 0.0 if self.begin is None or conditions is None else self.begin(conditions)

    def _mixed(self, h: Float[Tensor, "*s d"]) -> Float[Tensor, "*s d"]:
        for norm, mix in zip(self.norms, self.mixes, strict=False):
            h = h + mix(norm(h))
        mixed: Tensor = self.norms[-1](h)
        return mixed

    # ---- composition

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
        h = self._mixed(total + self.element(last) + wanted)
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

    # ---- lattice

    def cell_state(self, counts: Int[Tensor, "b e"], wanted: Tensor | float = 0.0) -> Float[Tensor, "b d"]:
        """From which the first lattice number is drawn."""
        element, count = self.pairs(counts)
        return self._mixed(self.added(element, count).sum(1) + self.atoms(counts.sum(1)) + wanted)

    def lattice_nats(self, counts: Int[Tensor, "b e"], bins: Int[Tensor, "b 6"], wanted: Tensor | float = 0.0) -> Float[Tensor, "b"]:
        """-ln p of the six bins of a composition."""
        h = self.cell_state(counts, wanted)
        nats = torch.zeros(len(h), device=h.device)
        for k, axis in enumerate(self.axes):
            nats = nats + F.cross_entropy(axis(h).float(), bins[:, k], reduction="none")
            if k < 5:
                h = h + self.of_bin[k](bins[:, k])
        return nats

    # ---- drawing

    def draw(
        self,
        spaces: list[Space],
        streams: list[np.random.Generator],
        wanted: Tensor | float,
        of_composition: float = 1.0,
        of_lattice: float = 1.0,
    ) -> tuple[Int[Tensor, "b e"], Int[Tensor, "b 6"], Float[Tensor, "b"]]:
        """Atoms of each element and lattice bins of every space, each from its own stream and at these temperatures, and their ln p without
        constraints."""
        device = self.to_element.weight.device
        counts = torch.zeros(len(spaces), self.n_elements, dtype=torch.long, device=device)
        asked: dict[tuple[Counts, ...], list[int]] = {}  # the draws of one formula share their candidates
        for k, space in enumerate(spaces):
            asked.setdefault(space.compositions, []).append(k)
        for candidates, rows in asked.items():
            own, told = [streams[k] for k in rows], wanted[rows] if isinstance(wanted, Tensor) else wanted
            if not candidates:
                counts[rows] = self._compositions([spaces[k] for k in rows], own, told, of_composition)
                continue
            every = torch.tensor(candidates, device=device)
            each = told[:, None].expand(-1, len(every), -1).flatten(0, 1) if isinstance(told, Tensor) else told
            nats = self.composition_nats(every.repeat(len(rows), 1), each).view(len(rows), -1)
            counts[rows] = every[categorical.draw((-nats).double().softmax(-1), _uniforms(own, device))]
        h = self.cell_state(counts, wanted)
        drawn: list[Tensor] = []
        for k, axis in enumerate(self.axes):
            drawn.append(categorical.draw((axis(h).double() / of_lattice).softmax(-1), _uniforms(streams, device)))
            if k < 5:
                h = h + self.of_bin[k](drawn[-1])
        bins = torch.stack(drawn, 1)
        return counts, bins, -self.composition_nats(counts, wanted) - self.lattice_nats(counts, bins, wanted)

    def _compositions(
        self, spaces: list[Space], streams: list[np.random.Generator], wanted: Tensor | float, temperature: float
    ) -> Int[Tensor, "b e"]:
        """Compositions drawn pair by pair; what could not be finished within the limits is barred."""
        device = self.to_element.weight.device
        allowed = torch.from_numpy(np.stack([space.allowed for space in spaces])).to(device)
        fewest, most = torch.tensor([space.atoms for space in spaces], device=device).T
        b, e = allowed.shape
        counts = torch.zeros(b, e, dtype=torch.long, device=device)
        row, index, number = (torch.arange(n, device=device) for n in (b, e, self.most + 1))
        last, total = torch.full((b,), e, device=device), torch.zeros(b, self.to_element.in_features, device=device)
        going = torch.ones(b, dtype=torch.bool, device=device)
        while bool(going.any()):
            logits, h = self.element_logits(total, last, wanted)
            size = counts.sum(1)
            barred = torch.cat([~allowed | (size >= most)[:, None], (size < fewest)[:, None]], 1)
            element = categorical.draw(
                (logits.double() / temperature).masked_fill(barred, -torch.inf).softmax(-1), _uniforms(streams, device, going)
            )
            going = going & (element < e)
            element = element.clamp(max=e - 1)
            more = (allowed & (index > element[:, None])).any(1)
            least = torch.where(more, 1, (fewest - size).clamp(min=1))
            barred = (number < least[:, None]) | (number > (most - size)[:, None])
            logits = self.count_logits(h, element).double() / temperature
            count = (
                categorical.draw(logits.masked_fill(barred, -torch.inf).softmax(-1).nan_to_num(), _uniforms(streams, device, going)) * going
            )
            counts[row, element] += count
            total, last = total + self.added(element, count), torch.where(going, element, last)
        return counts


def _uniforms(streams: list[np.random.Generator], device: torch.device, going: Bool[Tensor, "b"] | None = None) -> Float[Tensor, "b"]:
    """A number from the stream of each record that goes on, so that a draw does not depend on the others."""
    asked = [True] * len(streams) if going is None else going.tolist()
    return torch.tensor(
        [stream.random() if on else 0.0 for stream, on in zip(streams, asked, strict=True)], dtype=torch.double, device=device
    )
