"""CIF text of a crystal: as it is, or the conventional cell with its operations and one atom of each orbit."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from sciar import convert
from sciar.lattice import fractional, symmetrized, symmetry
from sciar.structure import Structure

DIGITS = 10


def text(structure: Structure, tolerance: float = 0.0) -> tuple[str, bool]:
    """One data block, and whether it has symmetry: that which is found at a tolerance in Å; 0 = none is looked for."""
    from pymatgen.io.cif import CifWriter

    found = symmetry(structure, tolerance) if tolerance else None
    if found is not None:
        structure = symmetrized(structure, tolerance, conventional=True)
    writer: Any = CifWriter(convert.to_pymatgen(structure), significant_figures=DIGITS)  # type: ignore[arg-type]
    if found is not None:
        (block,) = writer.cif_file.data.values()
        symbol, operations, turns, shifts = _group(int(found.number))
        first, size = _orbits(structure, turns, shifts)
        block.data |= {"_symmetry_space_group_name_H-M": symbol, "_symmetry_Int_Tables_number": found.number}
        block.data |= {
            "_symmetry_equiv_pos_site_id": [str(k + 1) for k in range(len(operations))],
            "_symmetry_equiv_pos_as_xyz": operations,
        }
        block.data |= {name: [values[k] for k in first] for name, values in block.data.items() if name.startswith("_atom_site_")}
        block.data["_atom_site_symmetry_multiplicity"] = [str(n) for n in size]
    return f"{writer}\n", found is not None


@cache
def _group(number: int) -> tuple[str, list[str], Float[np.ndarray, "g 3 3"], Float[np.ndarray, "g 3"]]:
    """Symbol and operations of a space group in the setting of moyo's standard cells, as text and as numbers."""
    import moyopy
    from pymatgen.core.operations import SymmOp

    every = moyopy.operations_from_number(number)
    turns, shifts = np.array(every.rotations, dtype=float), np.array(every.translations, dtype=float)
    operations = [SymmOp.from_rotation_and_translation(turn, shift).as_xyz_str() for turn, shift in zip(turns, shifts % 1.0, strict=True)]
    return moyopy.SpaceGroupType(number).hm_short.replace(" ", ""), operations, turns, shifts


def _orbits(
    structure: Structure, turns: Float[np.ndarray, "g 3 3"], shifts: Float[np.ndarray, "g 3"]
) -> tuple[Int[np.ndarray, "o"], Int[np.ndarray, "o"]]:
    """First atom and size of each orbit."""
    x = fractional(structure)
    off = (np.einsum("gij,nj->gni", turns, x) + shifts[:, None])[:, :, None] - x
    far = np.linalg.norm((off - np.round(off)) @ structure.cell, axis=-1)
    far[:, structure.numbers[:, None] != structure.numbers] = np.inf
    first, size = np.unique(far.argmin(-1).min(0), return_counts=True)
    return first, size
