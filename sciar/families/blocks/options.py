"""How to draw graphs block by block: the options of the sampler."""

from __future__ import annotations

from dataclasses import dataclass

from sciar import precision
from sciar.errors import InputError

CLASSES = ("", "planar", "forest")  # of graphs; each is closed under leaving edges out


@dataclass(frozen=True, slots=True)
class Options:
    """How to draw.

    Args:
        entropy: rows of a block are committed together while the sum of their entropies less the largest stays below this (nats):
            a bound of what is lost by not looking again. 0 = one row per call.
        singly: a row with several open bonds whose entropy is above that bound draws one of them per call.
        connected: only blocks and bonds after which the graph can still become one piece (absorbing kernel); False for graphs of several.
        within: "planar" or "forest": only bonds that keep the graph so (with `connected` a forest ends as a tree); "" = any.
        valence: only bonds that no atom's largest bond order sum in the training data forbids.
        sampler: of the kernels with noise levels: "sid" (predict and noise again) or "posterior". steps: noise levels, 0 = as trained.
        temperature: of all logits; below 1 is nearer to the mode. bond_temperature: of those of bonds; 0 = the same.
        guidance: of the property condition; 1 = none.
        score: accepted for every model; the log-probability of the drawn path is always returned.
        precision: "32", "bf16" or "auto" (bf16 where the hardware has it).
    """

    entropy: float = 0.01
    singly: bool = True
    connected: bool = True
    within: str = ""
    valence: bool = False
    sampler: str = "sid"
    steps: int = 0
    temperature: float = 1.0
    bond_temperature: float = 0.0
    guidance: float = 1.5
    score: bool = False
    precision: str = "32"

    def __post_init__(self) -> None:
        precision.check(self.precision)
        if self.sampler not in ("sid", "posterior"):
            raise InputError(f"sample: expected sampler sid or posterior, got {self.sampler!r}")
        if self.within not in CLASSES:
            raise InputError(f"sample: expected within planar, forest or '', got {self.within!r}")
        if self.temperature <= 0 or min(self.bond_temperature, self.entropy, self.steps) < 0:
            raise InputError(
                "sample: expected temperature > 0 and bond_temperature, entropy, steps ≥ 0, "
                f"got {self.temperature}, {self.bond_temperature}, {self.entropy}, {self.steps}"
            )
