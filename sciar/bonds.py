"""Bonds from coordinates: by RDKit's search over Lewis structures, or by the length table the field's benchmarks use."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from sciar.errors import InputError
from sciar.structure import NUMBERS, Structure

MAX_ITERATIONS = 20_000  # Lewis structures tried before RDKit gives up: seconds, not hours, for a large conjugated molecule
# Which atoms touch. RDKit's default joins the 1,3-atoms of small rings, a narrow reach misses stretched bonds of drawn molecules:
# all are tried until one gives a single neutral molecule, else the best of them is taken (`sciar bench bonds`).
_SEARCHES: tuple[dict[str, Any], ...] = ({"useVdw": True, "covFactor": 1.15}, {"useVdw": True, "covFactor": 1.22}, {})
MARGINS = (0.10, 0.05, 0.03)  # Å, for single, double and triple bonds

# Single, double and triple bond lengths in pm, the tables of EDM (Hoogeboom et al. 2022, tables 8 to 10).
_LENGTHS = (
    "H-H 74 H-C 109 H-N 101 H-O 96 H-F 92 H-B 119 H-Si 148 H-P 144 H-As 152 H-S 134 H-Cl 127 H-Br 141 H-I 161 "
    "C-C 154 C-N 147 C-O 143 C-F 135 C-Si 185 C-P 184 C-S 182 C-Cl 177 C-Br 194 C-I 214 "
    "N-N 145 N-O 140 N-F 136 N-Cl 175 N-Br 214 N-S 168 N-I 222 N-P 177 "
    "O-O 148 O-F 142 O-Br 172 O-S 151 O-P 163 O-Si 163 O-Cl 164 O-I 194 "
    "F-F 142 F-S 158 F-Si 160 F-Cl 166 F-Br 178 F-P 156 F-I 187 B-Cl 175 "
    "Si-Si 233 Si-S 200 Si-Cl 202 Si-Br 215 Si-I 243 Cl-Cl 199 Cl-P 203 Cl-S 207 Cl-Br 214 "
    "S-S 204 S-Br 225 S-P 210 S-I 234 Br-Br 228 Br-P 222 P-P 221 I-I 266",
    "C-C 134 C-N 129 C-O 120 C-S 160 N-N 125 N-O 121 O-O 121 O-P 150 P-S 186",
    "C-C 120 C-N 116 C-O 113 N-N 110",
)


def perceive_bonds(structure: Structure, charge: int = 0) -> Structure:
    """The molecule with bonds and formal charges found from its coordinates; all hydrogens must be atoms.

    Stereo marks are not set; `from_rdkit(to_rdkit(molecule), perceive_stereo_from_3d=True)` reads them from the coordinates.

    Args:
        structure: elements and positions; bonds, charges and marks it may have are ignored.
        charge: total charge in e.

    Raises:
        InputError: no positions, a crystal, or coordinates that no Lewis structure fits; RDKit's reason is in the message.

    Source: Kim & Kim, Bull. Korean Chem. Soc. 36, 1769 (2015), as implemented in RDKit's `DetermineBonds`.
    """
    from rdkit import Chem, rdBase
    from rdkit.Chem import rdDetermineBonds

    if structure.positions is None or structure.cell is not None or not structure.n_atoms or not structure.numbers.all():
        raise InputError(f"perceive_bonds: expected a molecule with positions, got {structure!r}; give it elements and coordinates")
    atoms = Chem.RWMol()
    conformer = Chem.Conformer(structure.n_atoms)
    conformer.SetPositions(np.array(structure.positions))
    for z in structure.numbers.tolist():
        atom = Chem.Atom(z)
        atom.SetNoImplicit(True)
        atoms.AddAtom(atom)
    atoms.AddConformer(conformer)
    reason, best, least = "", None, (math.inf, math.inf)
    for search in _SEARCHES:
        mol = Chem.Mol(atoms)
        with rdBase.BlockLogs():
            try:
                rdDetermineBonds.DetermineBonds(mol, charge=charge, embedChiral=False, maxIterations=MAX_ITERATIONS, **search)
                Chem.SanitizeMol(mol)
                Chem.Kekulize(mol, clearAromaticFlags=True)
            except (ValueError, RuntimeError) as error:
                reason = reason or " ".join(str(error).split("Pre-condition")[-1].split()).rstrip(".") or type(error).__name__
                continue
        charged = sum(abs(atom.GetFormalCharge()) for atom in mol.GetAtoms())
        faults = (len(Chem.GetMolFrags(mol)), charged)
        if faults < least:
            best, least = mol, faults
        if faults == (1, 0):
            break
    mol = best
    if mol is None:
        where = f"perceive_bonds: expected coordinates of a molecule with charge {charge:+d}"
        raise InputError(f"{where}, got {structure.formula}: {reason}; check the coordinates and the charge")
    bonds = [(b.GetBeginAtomIdx(), b.GetEndAtomIdx(), int(b.GetBondTypeAsDouble())) for b in mol.GetBonds()]
    charges = np.array([atom.GetFormalCharge() for atom in mol.GetAtoms()], dtype=np.int64)
    return structure.replace(
        bonds=np.array(bonds, dtype=np.int64).reshape(-1, 3),
        charges=charges if charges.any() else None,
        hydrogens=None,
        tetrahedral=None,
        double_bonds=None,
    )


def lookup_bonds(numbers: Int[np.ndarray, "n"], positions: Float[np.ndarray, "n 3"]) -> Int[np.ndarray, "m 3"]:
    """Bonds by the look-up protocol of EDM, the one behind the published atom and molecule stability of QM9 and GEOM-DRUGS.

    A pair is bonded when d < single length + 10 pm; the bond is double when also d < double length + 5 pm, and then triple when
    d < triple length + 3 pm. Pairs without an entry in the table are not bonded. Covers H B C N O F Si P S Cl As Br I.

    Args:
        numbers: atomic numbers.
        positions: in Å.

    Returns:
        Rows (i, j, order), i < j. No valence is checked.

    Source: Hoogeboom, Satorras, Vignac, Welling, "Equivariant Diffusion for Molecule Generation in 3D", ICML 2022, appendix E.

    >>> lookup_bonds(np.array([6, 8]), np.array([[0.0, 0, 0], [1.2, 0, 0]])).tolist()
    [[0, 1, 2]]
    """
    numbers = np.asarray(numbers)
    i, j = np.triu_indices(len(numbers), 1)
    distance = 100 * np.linalg.norm(np.asarray(positions)[i] - np.asarray(positions)[j], axis=1)
    short = distance < _THRESHOLDS[:, numbers[i], numbers[j]]  # thresholds fall with the order within each pair, so short does too
    order = short.cumprod(axis=0).sum(axis=0)
    bonded = order > 0
    return np.stack([i[bonded], j[bonded], order[bonded]], axis=1)


def _thresholds() -> Float[np.ndarray, "3 119 119"]:
    """Longest distance in pm of a bond of order 1, 2, 3; 0 where the table has no entry."""
    table = np.zeros((3, 119, 119))
    for k, (lengths, margin) in enumerate(zip(_LENGTHS, MARGINS, strict=True)):
        words = lengths.split()
        for pair, length in zip(words[::2], words[1::2], strict=True):
            a, b = (NUMBERS[symbol] for symbol in pair.split("-"))
            table[k, a, b] = table[k, b, a] = float(length) + 100 * margin
    return table


_THRESHOLDS = _thresholds()
