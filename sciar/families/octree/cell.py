"""What comes before the octree of a crystal: its composition and its cell.

Elements with their numbers of atoms come by rising index, then an end, then six numbers of the Niggli cell in bins, each given all
before it. The numbers are those of `lattice.form_of`, lengths in units of the cube root of the number of atoms: any six are a cell,
where eight drawn corners may be none. Special values (right angles, equal edges) are single bins. Ours, against Uni-3DAR's corners.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from sciar.diffusion import categorical
from sciar.nn.composition import Compositions, Space, uniforms

BINS = 192
LENGTH_STEP, LENGTH_LOW = 0.02, -0.4  # of ln(length / Å) - ln(atoms) / 3
SLOPE_STEP = 0.01  # 0 is the middle of bin BINS / 2


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


class Header(Compositions):
    """p(composition) and p(lattice | composition), both given the wanted properties; arguments as of `Compositions`."""

    def __init__(self, width: int, elements: int, most: int, conditions: int) -> None:
        super().__init__(width, elements, most, conditions)
        self.atoms = nn.Embedding(most + 1, width)
        self.of_bin = nn.ModuleList(nn.Embedding(BINS, width) for _ in range(5))
        self.axes = nn.ModuleList(
            nn.Sequential(nn.RMSNorm(width, eps=1e-6), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, BINS)) for _ in range(6)
        )

    def cell_state(self, counts: Int[Tensor, "b e"], wanted: Tensor | float = 0.0) -> Float[Tensor, "b d"]:
        """From which the first lattice number is drawn."""
        element, count = self.pairs(counts)
        return self.mixed(self.added(element, count).sum(1) + self.atoms(counts.sum(1)) + wanted)

    def lattice_nats(self, counts: Int[Tensor, "b e"], bins: Int[Tensor, "b 6"], wanted: Tensor | float = 0.0) -> Float[Tensor, "b"]:
        """-ln p of the six bins of a composition."""
        h = self.cell_state(counts, wanted)
        nats = torch.zeros(len(h), device=h.device)
        for k, axis in enumerate(self.axes):
            nats = nats + F.cross_entropy(axis(h).float(), bins[:, k], reduction="none")
            if k < 5:
                h = h + self.of_bin[k](bins[:, k])
        return nats

    def draw(
        self,
        spaces: list[Space],
        streams: list[np.random.Generator],
        wanted: Tensor | float,
        of_composition: tuple[float, float] = (1.0, 1.0),
        of_lattice: float = 1.0,
    ) -> tuple[Int[Tensor, "b e"], Int[Tensor, "b 6"], Float[Tensor, "b"]]:
        """Atoms of each element and lattice bins of every space, each from its own stream and at these temperatures (of elements and of
        counts; of the lattice), and their ln p without constraints."""
        device = self.to_element.weight.device
        counts = self.drawn(spaces, streams, wanted, of_composition)
        h = self.cell_state(counts, wanted)
        drawn: list[Tensor] = []
        for k, axis in enumerate(self.axes):
            drawn.append(categorical.draw((axis(h).double() / of_lattice).softmax(-1), uniforms(streams, device)))
            if k < 5:
                h = h + self.of_bin[k](drawn[-1])
        bins = torch.stack(drawn, 1)
        return counts, bins, -self.composition_nats(counts, wanted) - self.lattice_nats(counts, bins, wanted)
