"""Stereo marks of RDKit molecules as the rows of `Structure.tetrahedral` and `Structure.double_bonds`, and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from sciar.errors import InputError
from sciar.structure import CIS, NONE, TRANS

if TYPE_CHECKING:
    from rdkit import Chem


def parity(items: Sequence[int]) -> int:
    """0 if an even number of swaps sorts the different `items`, else 1.

    >>> parity([1, 2, 0]), parity([1, 0, 2])
    (0, 1)
    """
    return sum(a > b for k, a in enumerate(items) for b in items[k + 1 :]) % 2


def tetrahedral_rows(atoms: Sequence[Chem.Atom]) -> np.ndarray | None:
    """The marked centres, neighbours sorted but for the last two, which say the hand.

    Raises:
        InputError: stereo other than tetrahedral.
    """
    from rdkit.Chem import ChiralType

    rows = []
    for atom in atoms:
        tag = atom.GetChiralTag()
        if tag in (ChiralType.CHI_UNSPECIFIED, ChiralType.CHI_OTHER):
            continue
        if tag not in (ChiralType.CHI_TETRAHEDRAL_CW, ChiralType.CHI_TETRAHEDRAL_CCW):
            where = f"{atom.GetSymbol()}{atom.GetIdx()}"
            raise InputError(f"from_rdkit: expected tetrahedral centres, got {tag.name} at {where}; other stereo is not supported")
        around = _around(atom)
        if len(around) == 4:
            odd = parity(around) ^ (tag == ChiralType.CHI_TETRAHEDRAL_CW)
            a, b, c, d = sorted(around)
            rows.append((atom.GetIdx(), a, b, d, c) if odd else (atom.GetIdx(), a, b, c, d))
    return np.array(rows, dtype=np.int64) if rows else None


def _around(atom: Chem.Atom) -> list[int]:
    """Neighbours in the order of the bonds, which chiral tags refer to; a missing fourth (H, lone pair) counts as the last."""
    around = [bond.GetOtherAtomIdx(atom.GetIdx()) for bond in atom.GetBonds()]
    return [*around, NONE] if len(around) == 3 else around


def mark_centre(atom: Chem.Atom, around: list[int]) -> None:
    """Give a centre its mark; `around` as in a row. Its bonds have to be there.

    Raises:
        InputError: `around` are not its neighbours.
    """
    from rdkit.Chem import ChiralType

    present = _around(atom)
    if sorted(present) != sorted(around):
        where = f"stereo mark of atom {atom.GetIdx()}"
        raise InputError(f"to_rdkit: expected the neighbours {sorted(present)} in the {where}, got {sorted(around)}; correct it")
    odd = parity(present) ^ parity(around)
    atom.SetChiralTag(ChiralType.CHI_TETRAHEDRAL_CW if odd else ChiralType.CHI_TETRAHEDRAL_CCW)


def double_bond_rows(bonds: Sequence[Chem.Bond]) -> np.ndarray | None:
    """Rows (a, i, j, b, kind), i < j, a and b the first neighbours of i and j."""
    from rdkit.Chem import BondStereo

    kinds = {BondStereo.STEREOZ: CIS, BondStereo.STEREOCIS: CIS, BondStereo.STEREOE: TRANS, BondStereo.STEREOTRANS: TRANS}
    rows = []
    for bond in bonds:
        kind = kinds.get(bond.GetStereo())
        if kind is None or len(marked := list(bond.GetStereoAtoms())) != 2:
            continue
        ends = [bond.GetBeginAtom(), bond.GetEndAtom()]
        if ends[0].GetIdx() > ends[1].GetIdx():
            ends, marked = ends[::-1], marked[::-1]
        i, j = (end.GetIdx() for end in ends)
        first = [min(a.GetIdx() for a in end.GetNeighbors() if a.GetIdx() not in (i, j)) for end in ends]
        flips = (first[0] != marked[0]) + (first[1] != marked[1])
        rows.append((first[0], i, j, first[1], (kind + flips) % 2))
    return np.array(sorted(rows, key=lambda row: row[1:3]), dtype=np.int64) if rows else None


def mark_double_bond(bond: Chem.Bond | None, atoms: tuple[int, int, int, int], kind: int) -> None:
    """Give a double bond its mark; `atoms` (a, i, j, b) as in a row.

    Raises:
        InputError: no double bond.
    """
    from rdkit.Chem import BondStereo

    a, i, j, b = atoms
    if bond is None or bond.GetBondTypeAsDouble() < 1.5:
        raise InputError(f"to_rdkit: expected a double bond under the cis/trans mark of atoms {i} and {j}, got none; correct it")
    bond.SetStereoAtoms(*((a, b) if bond.GetBeginAtomIdx() == i else (b, a)))
    bond.SetStereo(BondStereo.STEREOCIS if kind == CIS else BondStereo.STEREOTRANS)
