"""How to draw octrees: the options of the sampler."""

from __future__ import annotations

import os
from dataclasses import dataclass
from shutil import which

from sciar import precision
from sciar.errors import InputError

RANKS = ("auto", "likelihood", "atoms", "element", "property")


@dataclass(frozen=True, slots=True)
class Options:
    """How to draw.

    Args:
        tree_temperature, element_temperature, place_temperature: of bytes, elements, bins. Published for QM9: 0.9, 0.3, 0.3; the
            bundled model is truest with 0.4 for bytes (README).
        min_distance: between any two atoms, Å; 0 = free. valence: no atom gets more neighbours than its largest valence. Kept by masks
            where the model draws bins (and no refiner moves the atoms then); by fresh starts where it does not.
        guidance: of the conditions (properties, number of atoms, composition; of a crystal's octree the properties); 1 = none.
        rank: what `score` is: "likelihood" (nats of all events), "atoms" (mean over elements and bins), "element" (mean over elements,
            as published), "auto" ("likelihood" of crystals, composition and cell included, else "element"); always of the network
            without masks and temperatures. "property": minus the mean distance, in spreads of the training data, between the wanted
            properties and those the same network reads off the draw.
        score: not used: the score costs nothing.
        steps: solver steps of the diffusion head, where the model has one.
        refine: evaluations of the joint refiner, where the model has one. refine_sigma: the error in Å it assumes at its start, of
            crystals `site_sigma`, and `strain` of the lattice numbers. churn: share of fresh noise in each of its steps.
        composition_temperature, count_temperature: of a crystal's elements, and of how many atoms each of them has; a charge balance is a
            matter of counts, and sure counts keep it. cell_temperature: of its lattice numbers.
        closed_shell: an even number of electrons, by the likeliest exchange of one element in each round of `proofread`.
        proofread: most rounds of reading the elements again after it, see proofread.py; `score` then is of the last reading.
        together: events of one level that are drawn from one pass of the network, not seeing each other (layout "queries" only):
            1 = one by one, a large number = whole levels at once. Constraints are kept all the same.
        sure: of those the events that are drawn, in order, up to the first one whose entropy is above this, nats; it and the rest wait
            for the next pass. inf = all.
        tries: starts when `min_distance` or `valence` are not kept, or leave no place for an atom; their calls are counted.
        previews: each level of a draw is yielded as it is finished, before the draw itself.
        poll: steps between two looks at what is finished; 0 = every step on a CPU, 8 on a GPU.
        precision: "auto" (bf16 where the hardware has it), "bf16" or "32".
        compile: the trunk is compiled (torch.compile); on a CPU that takes a C++ compiler and a minute, and steps are 1.4 × faster.
    """

    tree_temperature: float = 0.4
    element_temperature: float = 0.3
    place_temperature: float = 0.3
    min_distance: float = 0.0
    valence: bool = False
    guidance: float = 1.0
    rank: str = "auto"
    score: bool = True
    steps: int = 12
    refine: int = 12
    refine_sigma: float = 0.8
    site_sigma: float = 0.6
    strain: float = 0.05
    churn: float = 0.3
    composition_temperature: float = 1.0
    count_temperature: float = 0.5
    cell_temperature: float = 0.1
    proofread: int = 8
    closed_shell: bool = True
    together: int = 1
    sure: float = float("inf")
    tries: int = 20
    previews: bool = False
    poll: int = 0
    precision: str = "auto"
    compile: bool = False

    def __post_init__(self) -> None:
        temperatures = [f"{part}_temperature" for part in ("tree", "element", "place", "composition", "count", "cell")]
        for name in (*temperatures, "site_sigma", "strain"):
            if not getattr(self, name) > 0:
                raise InputError(f"sample: expected {name} above 0, got {getattr(self, name)}; leave it out")
        if self.rank not in RANKS:
            raise InputError(f"sample: expected rank {', '.join(RANKS)}, got {self.rank!r}")
        if not 0 <= self.min_distance <= 2:
            raise InputError(f"sample: expected min_distance from 0 to 2 Å, got {self.min_distance}")
        if self.refine < 0 or not self.refine_sigma > 0:
            raise InputError(f"sample: expected refine ≥ 0 and refine_sigma > 0, got {self.refine} and {self.refine_sigma}")
        if self.proofread < 0 or not 0 <= self.churn <= 1:
            raise InputError(f"sample: expected proofread ≥ 0 and churn from 0 to 1, got {self.proofread} and {self.churn}")
        if not self.sure >= 0:
            raise InputError(f"sample: expected sure of at least 0 nats, got {self.sure}")
        if self.together < 1 or self.tries < 1:
            raise InputError(f"sample: expected together and tries of at least 1, got {self.together} and {self.tries}")
        precision.check(self.precision)
        if self.compile and not any(map(which, (os.environ.get("CXX", "g++"), "g++", "clang++", "cl"))):
            raise InputError("sample: expected a C++ compiler for compile=True, got none; install g++ or leave it out")
