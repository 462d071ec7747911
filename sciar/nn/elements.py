"""What is known of each element before any crystal is seen, as features: its place in the periodic table, size and valences."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from sciar.structure import NUMBERS

ELEMENTS = 119  # atomic numbers; 0 is none
STATES = range(-4, 9)  # oxidation states


def facts() -> Float[Tensor, "z f"]:
    """Period, group and block (one of each), electronegativity (Pauling), atomic radius and common oxidation states; zeros where unknown.

    Source: the tables of pymatgen (`pymatgen.core.Element`), kept in `elements.json` so that no other library is asked when weights load.
    """
    table: dict[str, tuple[int, int, int, float | None, float | None, list[int]]]
    table = json.loads((Path(__file__).parent / "elements.json").read_text())
    place, states = np.zeros((ELEMENTS, 7 + 18 + 4)), np.zeros((ELEMENTS, len(STATES)))
    scalars = np.full((ELEMENTS, 2), np.nan)
    for symbol, (period, column, block, negativity, radius, common) in table.items():
        z = NUMBERS[symbol]
        place[z, [period - 1, 7 + column - 1, 25 + block]] = 1
        states[z, [STATES.index(s) for s in common]] = 1
        scalars[z] = [np.nan if v is None else v for v in (negativity, radius)]
    scalars = (scalars - np.nanmean(scalars, 0)) / np.nanstd(scalars, 0)
    return torch.from_numpy(np.concatenate([place, np.nan_to_num(scalars), states], 1).astype(np.float32))
