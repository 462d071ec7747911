"""How to draw crystals: the options of the sampler."""

from __future__ import annotations

from dataclasses import dataclass

from sciar import precision
from sciar.errors import InputError


@dataclass(frozen=True, slots=True)
class Options:
    """How to draw.

    Args:
        temperature: of the words that say how a composition is arranged: number of formula units, space group, positions; 1 = the
            model's own law, which differs more from draw to draw and is right less often.
        composition_temperature: of the elements, where they are not given; below 1 favours what is common.
        count_temperature: of how many atoms each of them has; a charge balance is a matter of counts, and sure counts keep it.
        memory: λ, the share of remembered crystals in the law of the words (see `memory.py`), where a formula is asked for and neither
            properties nor a powder profile, which they know nothing of, is read.
        near: numbers begin as those of remembered crystals of the same words, in the volume that is drawn, or in their own if no
            element was replaced, and are put right in one step; False = all begin anywhere.
        guidance: of the wanted properties and powder profile; 1 = none.
        lattice_steps: solver steps of the lattice's head. lattice_temperature: of its noise.
        steps: evaluations of the joint denoiser. sigma: its first noise level, Å. strain: the error of the lattice it assumes at first.
        churn: share of fresh noise in each of its steps.
        score: "bound": nats of the drawn words and lower bounds of ln p of the lattice and of the free coordinates; "words": of the words
            alone, which saves a third of the time.
        precision: "auto" (bf16 where the hardware has it), "bf16" or "32".
    """

    temperature: float = 0.7
    composition_temperature: float = 1.0
    count_temperature: float = 0.5
    memory: float = 0.65
    near: bool = True
    guidance: float = 1.0
    lattice_steps: int = 12
    lattice_temperature: float = 0.5
    steps: int = 30
    sigma: float = 1.5
    strain: float = 0.15
    churn: float = 0.6
    score: str = "bound"
    precision: str = "auto"

    def __post_init__(self) -> None:
        if not (min(self.temperature, self.composition_temperature, self.count_temperature) > 0 and self.lattice_temperature >= 0):
            raise InputError(
                "sample: expected temperature, composition_temperature and count_temperature > 0, lattice_temperature ≥ 0; use 1 for the "
                "model's own law"
            )
        if self.steps < 1 or self.lattice_steps < 1 or not min(self.sigma, self.strain) > 0 or not 0 <= self.churn <= 1:
            raise InputError("sample: expected steps ≥ 1, sigma and strain > 0, churn from 0 to 1; correct them")
        if not 0 <= self.memory < 1:
            raise InputError(f"sample: expected memory from 0 to below 1, got {self.memory}; use 0 for the network's own law")
        if self.score not in ("bound", "words"):
            raise InputError(f"sample: expected score bound or words, got {self.score!r}")
        precision.check(self.precision)
