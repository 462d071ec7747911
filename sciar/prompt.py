"""What is given to a model, and what is asked of the answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from sciar.structure import Structure


@dataclass(frozen=True, slots=True, eq=False)
class Prompt:
    """Everything an answer must contain; an empty prompt asks for a molecule de novo.

    Args:
        graph: a bonded molecule with explicit hydrogens and without positions: draw its coordinates (a conformer).
        scaffold: SMILES of a fragment the molecule must contain; `*` marks where it may grow.
        fixed: atoms with positions in Å that the answer must contain as they are.
        properties: wanted values, the unit in the key: {"gap_eV": 5.0}.
        elements: the only element symbols allowed; a molecule's hydrogens are among them if it may have any.
        composition: wanted number of atoms per element symbol; of a crystal, in one formula unit.
        formula_units: of a crystal, how many of `composition` the cell holds; None = any number.
        n_atoms: (fewest, most) atoms.
        space_group: international number 1..230.
        pxrd: rows (2θ in degrees at Cu Kα, intensity); see `sciar.pxrd`.
        crystal: the answer is periodic.
    """

    graph: Structure | None = None
    scaffold: str | None = None
    fixed: Structure | None = None
    properties: Mapping[str, float] = field(default_factory=dict)
    elements: tuple[str, ...] | None = None
    composition: Mapping[str, int] | None = None
    formula_units: int | None = None
    n_atoms: tuple[int, int] | None = None
    space_group: int | None = None
    pxrd: object | None = None
    crystal: bool = False

    @property
    def task(self) -> str:
        """ "conformer", "crystal" or "molecule": what kind of answer this prompt asks for."""
        if self.graph is not None:
            return "conformer"
        return "crystal" if self.crystal else "molecule"
