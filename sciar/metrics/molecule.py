"""De novo molecules: stability, validity, uniqueness and novelty, by distance look-up or with the molecules' own bonds.

Every draw counts: a failed draw is None and is unstable, invalid and not novel.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from sciar.metrics.distance import bootstrap
from sciar.structure import Structure

if TYPE_CHECKING:
    from rdkit.Chem import Mol

# EDM, qm9/bond_analyze.py, `allowed_bonds`: sums of bond orders, charges do not exist
LOOKUP_VALENCES: Mapping[int, tuple[int, ...]] = {
    1: (1,), 5: (3,), 6: (4,), 7: (3,), 8: (2,), 9: (1,), 13: (3,), 14: (4,), 15: (3, 5), 16: (4,), 17: (1,),
    33: (3,), 35: (1,), 53: (1,), 80: (1, 2), 83: (3, 5),
}  # fmt: skip
# (element, formal charge) of closed-shell atoms with kekulé bonds. Tables that also allow the radical and the aromatic
# sums are too generous: "GEOM-Drugs Revisited", arXiv 2505.00169
VALENCES: Mapping[tuple[int, int], tuple[int, ...]] = {
    (1, 0): (1,), (5, 0): (3,), (5, -1): (4,), (6, 0): (4,), (6, 1): (3,), (6, -1): (3,),
    (7, 0): (3,), (7, 1): (4,), (7, -1): (2,), (8, 0): (2,), (8, 1): (3,), (8, -1): (1,),
    (9, 0): (1,), (9, -1): (0,), (14, 0): (4,), (15, 0): (3, 5), (15, 1): (4,), (16, 0): (2, 4, 6), (16, 1): (3, 5), (16, -1): (1,),
    (17, 0): (1,), (17, -1): (0,), (35, 0): (1,), (35, -1): (0,), (53, 0): (1, 3, 5), (53, -1): (0,),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Chemistry:
    """What the tables need to know of one draw.

    Args:
        n_atoms: atoms.
        n_stable: atoms with an allowed valence.
        smiles: canonical SMILES with the explicit hydrogens, None when invalid (RDKit refuses it or it is in pieces).
        largest: the same of the largest fragment, None when RDKit refuses the whole.
        key: canonical SMILES without stereo and explicit hydrogens of the largest fragment, for comparison with other sources.
    """

    n_atoms: int
    n_stable: int
    smiles: str | None
    largest: str | None
    key: str | None

    @property
    def stable(self) -> bool:
        return 0 < self.n_atoms == self.n_stable


def by_lookup(structure: Structure | None) -> Chemistry | None:
    """Judge elements and positions only, bonds from EDM's distance tables. None stays None.

    Source: Hoogeboom et al. 2022 (EDM), `check_stability` and `BasicMolecularMetrics`: RDKit may add hydrogens in
    silence, there are no charges, and the published validity is that of the largest fragment.
    """
    from sciar.bonds import lookup_bonds

    if structure is None or structure.positions is None or not structure.n_atoms:
        return None
    bonds = lookup_bonds(structure.numbers, structure.positions)
    orders = _order_sums(structure.n_atoms, bonds)
    stable = [int(v) in LOOKUP_VALENCES.get(int(z), ()) for z, v in zip(structure.numbers, orders, strict=True)]
    return Chemistry(structure.n_atoms, sum(stable), *_smiles(structure.numbers, bonds, None, implicit=True))


def by_bonds(structure: Structure | None) -> Chemistry | None:
    """Judge a structure with the bonds and charges it has; missing hydrogens are not forgiven. None stays None."""
    if structure is None or structure.bonds is None or not structure.n_atoms:
        return None
    orders = _order_sums(structure.n_atoms, structure.bonds)
    if structure.hydrogens is not None:
        orders = orders + structure.hydrogens
    charges = np.zeros(structure.n_atoms, dtype=int) if structure.charges is None else structure.charges
    stable = [int(v) in VALENCES.get((int(z), int(q)), ()) for z, q, v in zip(structure.numbers, charges, orders, strict=True)]
    found = _smiles(structure.numbers, structure.bonds, charges, implicit=False, hydrogens=structure.hydrogens)
    return Chemistry(structure.n_atoms, sum(stable), *found)


def table(records: Sequence[Chemistry | None], known: Set[str] | None = None) -> dict[str, float]:
    """Shares between 0 and 1 of all draws.

    - `atom_stable`: of all atoms; a failed draw counts as a molecule of average size without a stable atom.
    - `mol_stable`: all atoms stable.
    - `valid`: RDKit accepts it and it is one fragment; `valid_unique`: different valid molecules / draws.
    - `valid_largest_fragment`, `valid_unique_largest_fragment`: the published convention, pieces are forgiven.
    - `novel`: share of the different molecules (largest fragment) that are not in `known`; only when that is given.
      `valid_unique_novel`: different, valid and not in `known` / draws.

    Args:
        records: one per draw, from `by_lookup` or `by_bonds`.
        known: canonical SMILES without stereo (RDKit), e.g. of the training set.
    """
    n = len(records)
    there = [r for r in records if r is not None]
    if not there:
        names = ("atom_stable", "mol_stable", "valid", "valid_unique", "valid_largest_fragment", "valid_unique_largest_fragment")
        return dict.fromkeys(names + (("novel", "valid_unique_novel") if known is not None else ()), 0.0)
    whole = [r.smiles for r in there if r.smiles is not None]
    largest = [r.largest for r in there if r.largest is not None]
    out = {
        "atom_stable": sum(r.n_stable for r in there) / sum(r.n_atoms for r in there) * len(there) / n,
        "mol_stable": sum(r.stable for r in there) / n,
        "valid": len(whole) / n,
        "valid_unique": len(set(whole)) / n,
        "valid_largest_fragment": len(largest) / n,
        "valid_unique_largest_fragment": len(set(largest)) / n,
    }
    if known is not None:
        keys = {r.largest: r.key for r in there if r.largest is not None}
        out["novel"] = sum(k not in known for k in keys.values()) / max(1, len(keys))
        out["valid_unique_novel"] = len({r.smiles for r in there if r.smiles is not None and r.key not in known}) / n
    return out


def intervals(records: Sequence[Chemistry | None], seed: int = 0) -> dict[str, tuple[float, float]]:
    """95 % bootstrap intervals of the shares that are means over draws (not of uniqueness and novelty).

    Repeats make the bootstrap of a number of *different* molecules biased: it is left out.
    """
    columns: dict[str, Callable[[Chemistry], Any]] = {
        "mol_stable": lambda r: r.stable,
        "valid": lambda r: r.smiles is not None,
        "valid_largest_fragment": lambda r: r.largest is not None,
    }
    out = {
        name: bootstrap(np.array([r is not None and column(r) for r in records], dtype=float), seed=seed)
        for name, column in columns.items()
    }
    there = [r for r in records if r is not None]
    size = sum(r.n_atoms for r in there) / max(1, len(there))
    stable = np.array([0 if r is None else r.n_stable for r in records], dtype=float)
    atoms = np.array([size if r is None else r.n_atoms for r in records], dtype=float)
    out["atom_stable"] = bootstrap(stable, atoms, statistic=lambda a, b: a.sum(axis=-1) / b.sum(axis=-1), seed=seed)
    return out


def canonical(smiles: str) -> str | None:
    """Canonical SMILES without stereo and explicit hydrogens, as in `Chemistry.key`; None when RDKit cannot read it."""
    from rdkit import Chem, rdBase

    with rdBase.BlockLogs():
        mol = Chem.MolFromSmiles(smiles)
        if mol is None:
            return None
        Chem.RemoveStereochemistry(mol)  # first: a hydrogen that a mark needs is not removed
        return str(Chem.MolToSmiles(Chem.RemoveHs(mol), isomericSmiles=False))


def _order_sums(n: int, bonds: np.ndarray) -> np.ndarray:
    sums = np.zeros(n, dtype=int)
    for column in (0, 1):
        np.add.at(sums, bonds[:, column], bonds[:, 2])
    return sums


def _smiles(
    numbers: np.ndarray, bonds: np.ndarray, charges: np.ndarray | None, implicit: bool, hydrogens: np.ndarray | None = None
) -> tuple[str | None, str | None, str | None]:
    from rdkit import Chem, rdBase

    mol = Chem.RWMol()
    for i, z in enumerate(numbers.tolist()):
        atom = Chem.Atom(z)
        atom.SetNoImplicit(not implicit)
        if hydrogens is not None:
            atom.SetNumExplicitHs(int(hydrogens[i]))
        if charges is not None:
            atom.SetFormalCharge(int(charges[i]))
        mol.AddAtom(atom)
    kinds = {1: Chem.BondType.SINGLE, 2: Chem.BondType.DOUBLE, 3: Chem.BondType.TRIPLE}
    for i, j, order in bonds.tolist():
        mol.AddBond(i, j, kinds[order])
    with rdBase.BlockLogs():
        if not _sanitised(mol):
            return None, None, None
        pieces = Chem.GetMolFrags(mol, asMols=True, sanitizeFrags=False)
        largest = max(pieces, key=lambda piece: piece.GetNumAtoms())
        if not _sanitised(largest):
            return None, None, None
        name = Chem.MolToSmiles(largest)
        radical = not implicit and any(atom.GetNumRadicalElectrons() for atom in mol.GetAtoms())
        whole = name if len(pieces) == 1 and not radical else None
        return whole, name, canonical(name) or name


def _sanitised(mol: Mol) -> bool:
    from rdkit import Chem

    return Chem.SanitizeMol(mol, catchErrors=True) == Chem.SanitizeFlags.SANITIZE_NONE
