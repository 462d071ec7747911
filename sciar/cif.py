"""CIF text of a crystal: as it is, or the conventional cell with its operations and one atom of each orbit."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from jaxtyping import Float

from sciar import convert
from sciar.lattice import images, symmetrized
from sciar.structure import Structure

DIGITS = 10


def text(structure: Structure, tolerance: float = 0.0) -> tuple[str, bool]:
    """One data block, and whether it has symmetry: that which is found at a tolerance in Å; 0 = none is looked for."""
    from pymatgen.io.cif import CifWriter

    exact = symmetrized(structure, tolerance, conventional=True) if tolerance else structure
    symmetric = exact is not structure
    writer: Any = CifWriter(convert.to_pymatgen(exact), significant_figures=DIGITS)  # type: ignore[arg-type]
    if symmetric:
        (block,) = writer.cif_file.data.values()
        number = int(str(exact.info["space_group"]))
        symbol, operations, turns, shifts = _group(number)
        first, size = np.unique(images(exact, turns, shifts).min(0), return_counts=True)
        block.data |= {"_symmetry_space_group_name_H-M": symbol, "_symmetry_Int_Tables_number": number}
        block.data |= {
            "_symmetry_equiv_pos_site_id": [str(k + 1) for k in range(len(operations))],
            "_symmetry_equiv_pos_as_xyz": operations,
        }
        block.data |= {name: [values[k] for k in first] for name, values in block.data.items() if name.startswith("_atom_site_")}
        block.data["_atom_site_symmetry_multiplicity"] = [str(n) for n in size]
    return f"{writer}\n", symmetric


@cache
def _group(number: int) -> tuple[str, list[str], Float[np.ndarray, "g 3 3"], Float[np.ndarray, "g 3"]]:
    """Symbol and operations of a space group in the setting of moyo's standard cells, as text and as numbers."""
    import moyopy
    from pymatgen.core.operations import SymmOp

    every = moyopy.operations_from_number(number)
    turns, shifts = np.array(every.rotations, dtype=float), np.array(every.translations, dtype=float)
    operations = [SymmOp.from_rotation_and_translation(turn, shift).as_xyz_str() for turn, shift in zip(turns, shifts % 1.0, strict=True)]
    return moyopy.SpaceGroupType(number).hm_short.replace(" ", ""), operations, turns, shifts
