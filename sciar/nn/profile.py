"""What a powder profile tells a network: convolutions over 2θ, then one vector for each of its readers; and profiles to learn from.

A network learns a thousand profiles by heart sooner than what they mean. So they are made anew at each step, of the crystal in a cell that
is strained within its symmetry, with peaks of another width, and then disturbed.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from sciar.pxrd import FWHM, LEVELS, START, STOP, UNKNOWN
from sciar.reflections import CU_KA

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


def profiles(
    length: Float[Tensor, "b r"], square: Float[Tensor, "b r"], points: int, broader: Float[Tensor, "b"] | None = None
) -> Int[Tensor, "b g"]:
    """Levels as of `sciar.pxrd.levels` from reflections; not known where there are none.

    Args:
        length: 1 / d in 1/Å. square: Σ|F|², 0 = padding. points: of the grid. broader: widths of the peaks, in units of `FWHM`.
    """
    theta = (length.clamp(min=1e-3) * CU_KA / 2).clamp(max=0.999).asin()
    angle = 2 * theta.rad2deg()
    height = square * (1 + (2 * theta).cos() ** 2) / (theta.sin() ** 2 * theta.cos())
    step, sigma = (STOP - START) / (points - 1), FWHM / 2.3548
    wide = torch.ones_like(length[:, 0]) if broader is None else broader
    reach = int(5 * sigma * float(wide.max()) / step) + 1
    place = ((angle - START) / step).round().long()[..., None] + torch.arange(-reach, reach + 1, device=length.device)
    off = (START + step * place - angle[..., None]) / (sigma * wide[:, None, None])
    peak = height[..., None] * torch.exp(-0.5 * off**2) * ((place >= 0) & (place < points))
    curve = torch.zeros(len(length), points, device=length.device).scatter_add(1, place.clamp(0, points - 1).flatten(1), peak.flatten(1))
    highest = curve.amax(1, keepdim=True)
    levels = (LEVELS * (curve / highest.clamp(min=1e-30)).sqrt()).round().long()
    return torch.where(highest > 0, levels, UNKNOWN)


def disturbed(levels: Int[Tensor, "b g"], hidden: Bool[Tensor, "b"], generator: torch.Generator | None = None) -> Int[Tensor, "b g"]:
    """As measured: heights off by texture (slow in 2θ) and noise, some cut at high or low angles; those `hidden` not known at all."""
    b, g = levels.shape
    draw = lambda *shape: torch.rand(*shape, generator=generator, device=levels.device)  # noqa: E731
    texture = F.interpolate(draw(b, 1, 24) - 0.5, g, mode="linear")[:, 0]
    noisy = levels * (1 + 0.6 * texture * draw(b, 1)) + 6 * (draw(b, g) - 0.5) * draw(b, 1)
    at = torch.linspace(0, 1, g, device=levels.device)
    high = 1 - (1 - SHORTEST) * (2 * draw(b, 1) - 1).clamp(min=0)  # half of them are whole
    low = 0.1 * (4 * draw(b, 1) - 3).clamp(min=0)
    unknown = (at > high) | (at < low) | hidden[:, None] | (levels == UNKNOWN)
    return torch.where(unknown, UNKNOWN, noisy.round().clamp(0, LEVELS).long())
