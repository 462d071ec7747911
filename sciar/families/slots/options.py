"""How to draw crystals slot by slot or block by block: the options of the sampler."""

from __future__ import annotations

from dataclasses import dataclass

from sciar import precision
from sciar.errors import InputError


@dataclass(frozen=True, slots=True)
class Options:
    """How to draw.

    Args:
        steps: solver steps of every block of numbers.
        push: the velocity of atoms is multiplied by 1 + push · t, which drives them to where the crystal is likeliest (Miller et al. 2024,
            arXiv 2406.04713, call it anti-annealing); 0 = the model's own law. For head="trunk".
        cell_temperature: of the noise that the lattice begins with. temperature: of all noise, for head="mlp".
        composition_temperature, count_temperature: of the elements, where they are drawn, and of how many atoms each of them has.
        refine: evaluations of the joint denoiser at the end, 0 = none. site_sigma (Å), strain: the errors it assumes at its start.
            churn: share of fresh noise in each of its steps.
        score: accepted for every model; velocities have no likelihood at the cost of a draw, so it stays unknown.
        precision: "auto" (bf16 where the hardware has it), "bf16" or "32".
    """

    steps: int = 20
    push: float = 3.0
    cell_temperature: float = 0.5
    temperature: float = 1.0
    composition_temperature: float = 1.0
    count_temperature: float = 0.5
    refine: int = 30
    site_sigma: float = 0.6
    strain: float = 0.05
    churn: float = 0.6
    score: bool | str = False
    precision: str = "auto"

    def __post_init__(self) -> None:
        if self.steps < 1 or self.refine < 0 or self.push < 0 or not 0 <= self.churn <= 1:
            raise InputError("sample: expected steps ≥ 1, refine ≥ 0, push ≥ 0, churn from 0 to 1; correct them")
        positive = (self.composition_temperature, self.count_temperature, self.site_sigma, self.strain)
        if min(positive) <= 0 or min(self.cell_temperature, self.temperature) < 0:
            raise InputError("sample: expected temperatures, site_sigma and strain above 0; use 1 for the model's own law")
        precision.check(self.precision)
