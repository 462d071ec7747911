"""Crystals of the Materials Project with up to 20 atoms, for training models that are measured on MP-20.

Rows of MP-20's validation and test splits, and every other row with the reduced formula of a test crystal, are rejected.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from sciar.datasets import File, Info, Item, Rejected, crystals, mp20

ARRAYS = File("mp_le20_all.npz", "sha256:57421bf3d49398cf42cfb936c5384d898f8f9a55a3753e1e38ff4ae8a06dc41b")
VALIDATION = 0.02  # share of the formulas

INFO = Info(
    name="mp_le20",
    version="1",
    description="crystals of the Materials Project with up to 20 atoms, without MP-20's validation and test rows and without the "
    "formulas of its test crystals",
    licence="CC BY 4.0",
    citation="Jain et al., The Materials Project, APL Mater. 1 (2013) 011002",
    sources=("https://materialsproject.org",),
    files=((ARRAYS, mp20.ARRAYS),),
    n_rows=78_974,
)


def read(root: Path, start: int = 0) -> Iterator[Item]:
    """The crystals; `split` is by a hash of the reduced formula, 2 % of the formulas are the validation split."""
    tested = _test_formulas(root / mp20.ARRAYS.name)
    with np.load(root / ARRAYS.name, allow_pickle=False) as file:
        held = file["mp20_split"].tolist()
    rows = crystals.arrays(root / ARRAYS.name, {}, splits="mp20_split")
    for row, item in enumerate(crystals.checked(rows, start), start):
        if isinstance(item, Rejected):
            yield item
            continue
        assert not isinstance(item, tuple)
        formula = crystals.reduced_formula(item)
        if held[row] in (1, 2):
            yield Rejected(row, f"in MP-20 validation or test: {item.info['id']}")
        elif formula in tested:
            yield Rejected(row, f"formula of an MP-20 test crystal: {formula}")
        else:
            yield item.with_info(split="validation" if crystals.fraction(formula) < VALIDATION else "train")


def _test_formulas(path: Path) -> frozenset[str]:
    rows = (found for _, found in crystals.arrays(path, dict.fromkeys(_NAMES, "")) if not isinstance(found, str))
    return frozenset(crystals.reduced_formula(found) for found in rows if found.info.get("split") == "test")


_NAMES = ("formation_energy_per_atom_eV", "band_gap_eV", "e_above_hull_eV_atom")
