"""The densities of one event: an occupancy byte, or an element and its place in the cell."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from sciar.diffusion.gaussian import EDM
from sciar.nn.head import DiffusionHead

N_BYTES = 255  # an empty node is no event


class Classes(nn.Module):
    """Linear, GELU, Linear without biases; starts uniform."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.inside, self.outside = nn.Linear(width, width, bias=False), nn.Linear(width, classes, bias=False)

    def reset(self) -> None:
        nn.init.zeros_(self.outside.weight)

    def forward(self, h: Float[Tensor, "*s d"]) -> Float[Tensor, "*s k"]:
        return self.outside(F.gelu(self.inside(h))).float()


class LeafHead(nn.Module):
    """Element, then the three bins, each given those before: s ← s + E(drawn), logits = head(s).

    With `place="diffusion"` the three bins are one draw of a diffusion head over the offset from the cell's centre; with
    "refined" there is the element alone.
    """

    def __init__(self, width: int, elements: int, bins: int, cell: float, place: str) -> None:
        super().__init__()
        self.element = Classes(width, elements)
        if place == "refined":
            return
        self.of_element = nn.Embedding(elements, width)
        if place == "diffusion":
            spread = cell / 12**0.5
            self.offset = DiffusionHead(width, width, 3, EDM(spread, -2.8, 1.2, 0.001, 10 * spread))
        else:
            self.axes = nn.ModuleList(Classes(width, bins) for _ in range(3))
            self.of_bin = nn.ModuleList(nn.Embedding(bins, width) for _ in range(2))

    def reset(self) -> None:
        for part in self.modules():
            if isinstance(part, Classes | DiffusionHead):
                part.reset()

    def given(
        self, h: Float[Tensor, "*s d"], element: Int[Tensor, "*s"], bins: tuple[Int[Tensor, "*s"], ...] = ()
    ) -> Float[Tensor, "*s d"]:
        """State of the next choice, after the element and the first bins were chosen."""
        h = h + self.of_element(element)
        for table, value in zip(self.of_bin if bins else (), bins, strict=False):
            h = h + table(value)
        return h

    def logits(self, h: Float[Tensor, "s d"], element: Int[Tensor, "s"], bins: Int[Tensor, "s 3"]) -> list[Float[Tensor, "s k"]]:
        """Teacher-forced logits of element, x, y, z."""
        x, y, _ = bins.unbind(-1)
        states = (self.given(h, element), self.given(h, element, (x,)), self.given(h, element, (x, y)))
        return [self.element(h), *(axis(s) for axis, s in zip(self.axes, states, strict=True))]


def log_likelihood(logits: Float[Tensor, "*s k"], target: Int[Tensor, "*s"]) -> Float[Tensor, "*s"]:
    """ln p of the target, nats."""
    return torch.log_softmax(logits.float(), -1).gather(-1, target[..., None]).squeeze(-1)
