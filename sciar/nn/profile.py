"""What a powder profile tells a network: convolutions over 2θ, then one vector for each of its readers."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from sciar.pxrd import LEVELS, UNKNOWN

CHANNELS = (32, 48, 64)
HIDDEN = 384
SHORTEST = 0.25  # of the profile that a cut leaves


class Profile(nn.Module):
    """Levels of a profile (see `sciar.pxrd.levels`) → vectors of `readers`; zeros where nothing is known, and in the beginning.

    The place of a peak counts, not only that there is one, so nothing is pooled. No biases: what all profiles share says nothing.
    """

    def __init__(self, points: int, width: int, readers: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in zip((2, *CHANNELS), CHANNELS, strict=False):
            layers += [nn.Conv1d(before, after, 5, stride=2, padding=2, bias=False), nn.SiLU()]
            points = (points + 1) // 2
        self.convolutions = nn.Sequential(*layers, nn.Flatten())
        far = points * CHANNELS[-1]
        layers = [nn.RMSNorm(far), nn.Linear(far, HIDDEN, bias=False), nn.SiLU(), nn.RMSNorm(HIDDEN)]
        self.mix = nn.Sequential(*layers, nn.Linear(HIDDEN, HIDDEN, bias=False), nn.SiLU(), nn.RMSNorm(HIDDEN))
        self.out = nn.Linear(HIDDEN, readers * width, bias=False)
        self.readers = readers

    def reset(self) -> None:
        """Say nothing at first, so that weights without a profile go on from where they are."""
        nn.init.zeros_(self.out.weight)

    def forward(self, levels: Int[Tensor, "b g"]) -> Float[Tensor, "r b d"]:
        known = levels != UNKNOWN
        told = torch.stack([torch.where(known, levels / LEVELS, 0.0), (~known).float()], 1)
        out = self.out(self.mix(self.convolutions(told))) * known.any(1, keepdim=True)
        return torch.stack(out.chunk(self.readers, 1))


def disturbed(levels: Int[Tensor, "b g"], drop: float, generator: torch.Generator | None = None) -> Int[Tensor, "b g"]:
    """As measured: heights off by texture (slow in 2θ) and noise, some cut at high or low angles; a share `drop` is not known at all."""
    b, g = levels.shape
    draw = lambda *shape: torch.rand(*shape, generator=generator, device=levels.device)  # noqa: E731
    texture = F.interpolate(draw(b, 1, 24) - 0.5, g, mode="linear")[:, 0]
    noisy = levels * (1 + 0.6 * texture * draw(b, 1)) + 6 * (draw(b, g) - 0.5) * draw(b, 1)
    at = torch.linspace(0, 1, g, device=levels.device)
    high = 1 - (1 - SHORTEST) * (2 * draw(b, 1) - 1).clamp(min=0)  # half of them are whole
    low = 0.1 * (4 * draw(b, 1) - 3).clamp(min=0)
    hidden = (at > high) | (at < low) | (draw(b, 1) < drop) | (levels == UNKNOWN)
    return torch.where(hidden, UNKNOWN, noisy.round().clamp(0, LEVELS).long())
