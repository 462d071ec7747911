"""Is a drawn structure what it should be? One check is one function that returns a reason or None.

A molecule is judged against its own bonds, a conformer against the graph of its prompt (`sciar.geometry`), a crystal by
`sciar.packing`; whether a crystal's formula can be charge neutral, its space group and its agreement with a given pattern are noted
in `info`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from sciar import packing, pxrd
from sciar.bonds import perceive_bonds
from sciar.convert import add_conformer, to_networkx, to_pymatgen, to_rdkit
from sciar.errors import InputError
from sciar.geometry import broken, equivalent_stereo, expectation, expected_of, sanitised
from sciar.lattice import space_group
from sciar.oxidation import charge_balanced
from sciar.prompt import Prompt
from sciar.structure import SYMBOLS, Structure

if TYPE_CHECKING:
    from rdkit import Chem

FIXED = 0.02  # Å, how far an atom may be from where it was fixed


@dataclass(frozen=True, slots=True, eq=False)
class Verdict:
    """A structure and what is wrong with it.

    Args:
        structure: as it was drawn; with bonds if these had to be perceived.
        native: RDKit Mol, pymatgen Structure or networkx Graph; None if it cannot be made.
        reasons: faults, the first the most basic; each is "kind: what and where" or a kind alone.
    """

    structure: Structure
    native: Any = None
    reasons: tuple[str, ...] = ()

    @property
    def valid(self) -> bool:
        """No reasons."""
        return not self.reasons


def validate(structure: Structure, prompt: Prompt | None = None) -> Verdict:
    """Judge a structure by itself and by what was asked for.

    A decoder that could not read its tokens says so in `structure.info["failure"]`, which becomes the first reason.

    Args:
        structure: molecule, conformer, crystal (cell) or plain graph (vertices of number 0).
        prompt: what was asked for; None = anything.
    """
    prompt = prompt or Prompt()
    failure = structure.info.get("failure")
    reasons = [str(failure)] if failure else []
    if not structure.n_atoms:
        return Verdict(structure, None, (*reasons, "no atoms"))
    if structure.cell is not None or prompt.task == "crystal":
        verdict = _crystal(structure, prompt)
    elif not structure.numbers.any():
        verdict = _graph(structure)
    elif prompt.graph is not None:
        verdict = _conformer(structure, prompt.graph)
    else:
        verdict = _molecule(structure, prompt)
    return Verdict(verdict.structure, verdict.native, (*reasons, *verdict.reasons))


def _conformer(structure: Structure, graph: Structure) -> Verdict:
    expected = expected_of(graph)
    if not same_graph(structure, graph):
        return Verdict(structure, None, ("wrong graph",))
    if expected.mol is None or structure.positions is None:
        return Verdict(structure, None, expected.faults if expected.mol is None else ("no coordinates",))
    mol = add_conformer(expected.mol, structure.positions)
    reasons = broken(structure.positions, expected)
    if any(reason.startswith("stereo changed: atom") for reason in reasons) and equivalent_stereo(mol, expected.mol):
        reasons = tuple(reason for reason in reasons if not reason.startswith("stereo changed: atom"))
    return Verdict(structure, mol, reasons)


def _molecule(structure: Structure, prompt: Prompt) -> Verdict:
    if structure.bonds is None:
        if structure.positions is None:
            return Verdict(structure, None, ("no coordinates",))
        try:
            structure = perceive_bonds(structure)
        except InputError as error:
            return Verdict(structure, None, (f"valence: no bonds found: {error}",))
    expected = expectation(structure) if structure.positions is not None else None
    mol, faults = (expected.mol, expected.faults) if expected else sanitised(structure)
    if mol is None:
        return Verdict(structure, None, faults)
    size = wrong_size(structure, prompt.n_atoms)
    composition, foreign = wrong_composition(structure, prompt.composition), foreign_elements(structure, prompt.elements)
    reasons = [*faults, composition, foreign, size, lacks_scaffold(mol, prompt.scaffold)]
    if expected is not None and structure.positions is not None:
        mol = add_conformer(mol, structure.positions)
        if structure.tetrahedral is None and structure.double_bonds is None:
            _stereo_from_3d(mol)
        reasons += [lacks_fixed(structure, prompt.fixed), *broken(structure.positions, expected)]
    return Verdict(structure, mol, tuple(reason for reason in reasons if reason))


def _graph(structure: Structure) -> Verdict:
    if structure.bonds is None:
        return Verdict(structure, None, ("no edges",))
    return Verdict(structure, to_networkx(structure))


def _crystal(structure: Structure, prompt: Prompt) -> Verdict:
    if structure.positions is None or structure.cell is None:
        return Verdict(structure, None, ("no coordinates" if structure.positions is None else "no cell",))
    if reason := packing.small_volume(structure.cell):
        return Verdict(structure, None, (reason,))
    try:
        crystal = to_pymatgen(structure)
    except InputError as error:
        return Verdict(structure, None, (f"no crystal: {error}",))
    number = space_group(structure)
    reasons = [
        packing.close_sites(crystal),
        packing.odd_density(crystal),
        packing.extreme_lattice(structure),
        wrong_composition(structure, prompt.composition, prompt.formula_units),
        foreign_elements(structure, prompt.elements),
        wrong_size(structure, prompt.n_atoms),
        packing.wrong_space_group(number, prompt.space_group),
    ]
    counts = Counter(SYMBOLS[z] for z in structure.numbers)
    notes: dict[str, object] = {"charge_balanced": charge_balanced(counts), "space_group": number}
    if isinstance(prompt.pxrd, np.ndarray) and not any(reasons[:3]):
        fit = pxrd.agreement(structure, prompt.pxrd)
        notes |= {"pxrd_cosine": fit.cosine, "pxrd_rwp": fit.rwp}
    return Verdict(structure.with_info(**notes), crystal, tuple(reason for reason in reasons if reason))


# --- checks of the graph ---


def same_graph(structure: Structure, graph: Structure) -> bool:
    """Same elements, bonds and charges atom by atom; bonds may be left out or kekulised in another way."""
    if not np.array_equal(structure.numbers, graph.numbers) or graph.bonds is None:
        return False
    if structure.bonds is None or structure.bonds is graph.bonds:
        return True
    nothing = np.zeros(graph.n_atoms, dtype=np.int64)
    mine, asked = (s.charges if s.charges is not None else nothing for s in (structure, graph))
    if not np.array_equal(structure.bonds[:, :2], graph.bonds[:, :2]) or not np.array_equal(mine, asked):
        return False
    return np.array_equal(structure.bonds, graph.bonds) or _bond_kinds(structure) == _bond_kinds(graph)


def wrong_composition(structure: Structure, composition: Mapping[str, int] | None, units: int | None = 1) -> str | None:
    """Other elements than asked for, or in other numbers; so many formula units, None = any number of them."""
    if composition is None:
        return None
    got = Counter(SYMBOLS[z] for z in structure.numbers)
    if structure.hydrogens is not None:
        got += Counter({"H": int(structure.hydrogens.sum())})
    asked = Counter(composition)
    exact = units is not None
    if units is None:
        units = max(sum(got.values()) // max(sum(asked.values()), 1), 1)
    if got == Counter({symbol: units * count for symbol, count in asked.items()}):
        return None
    times = f"{units} × " if exact and units != 1 else ""
    return f"wrong composition: {_formula(got)}, expected {times}{_formula(asked)}"


def foreign_elements(structure: Structure, elements: Sequence[str] | None) -> str | None:
    """Elements that are not allowed."""
    foreign = sorted({SYMBOLS[z] for z in structure.numbers} - set(elements)) if elements is not None else []
    return f"wrong composition: {', '.join(foreign)}, expected only {' '.join(elements or ())}" if foreign else None


def wrong_size(structure: Structure, n_atoms: tuple[int, int] | None) -> str | None:
    """Fewer or more atoms than asked for."""
    if n_atoms is None or n_atoms[0] <= structure.n_atoms <= n_atoms[1]:
        return None
    return f"wrong size: {structure.n_atoms} atoms, expected {n_atoms[0]}–{n_atoms[1]}"


def lacks_scaffold(mol: Chem.Mol, scaffold: str | None) -> str | None:
    """The molecule does not contain the fragment asked for; `*` stands for anything."""
    if scaffold is None or mol.HasSubstructMatch(_query(scaffold)):
        return None
    return f"scaffold: {scaffold} is not part of it"


def lacks_fixed(structure: Structure, fixed: Structure | None) -> str | None:
    """A fixed atom without an atom of its element at its place."""
    if fixed is None or fixed.positions is None or structure.positions is None:
        return None
    from scipy.spatial.distance import cdist

    near = cdist(fixed.positions, structure.positions) < FIXED
    held = (near & (fixed.numbers[:, None] == structure.numbers)).any(axis=1)
    return None if held.all() else f"fixed: {int((~held).sum())} of {fixed.n_atoms} fixed atoms are not where they should be"


# --- checks of the coordinates: positions is n × 3 in Å ---


# --- what a graph lets one expect ---


def _bond_kinds(structure: Structure) -> list[str] | None:
    """Bond types with aromaticity perceived; None if RDKit rejects the molecule."""
    try:
        mol = to_rdkit(structure.replace(positions=None, tetrahedral=None, double_bonds=None))
    except InputError:
        return None
    pairs = [] if structure.bonds is None else structure.bonds[:, :2].tolist()
    return [str(mol.GetBondBetweenAtoms(i, j).GetBondType()) for i, j in pairs]


def _stereo_from_3d(mol: Chem.Mol) -> None:
    from rdkit import Chem

    Chem.AssignStereochemistryFrom3D(mol)


@lru_cache(maxsize=16)
def _query(scaffold: str) -> Chem.Mol:
    from rdkit import Chem

    mol = Chem.MolFromSmiles(scaffold)
    if mol is None:
        raise InputError(f"scaffold: expected a SMILES, got {scaffold!r}; check its spelling")
    rules: Any = Chem.AdjustQueryParameters.NoAdjustments()
    rules.makeDummiesQueries = True
    return Chem.AdjustQueryProperties(mol, rules)


def _formula(counts: Mapping[str, int]) -> str:
    return "".join(f"{symbol}{count if count > 1 else ''}" for symbol, count in sorted(counts.items()))
