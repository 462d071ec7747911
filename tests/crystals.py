"""Crystals that tests share."""

from __future__ import annotations

import numpy as np
import torch

from sciar.batch import Batch
from sciar.convert import to_pymatgen
from sciar.family import Model
from sciar.lattice import cell_of
from sciar.structure import NUMBERS, Structure


def crystal(symbols: str, fractions: object, cell: object, **info: object) -> Structure:
    """Of space-separated symbols, fractions and a cell or its six numbers."""
    lattice = np.asarray(cell, dtype=float)
    lattice = lattice if lattice.shape == (3, 3) else cell_of(lattice)
    return Structure(np.array([NUMBERS[s] for s in symbols.split()]), np.asarray(fractions, dtype=float) @ lattice, lattice, info=info)


def rock_salt(a: float = 5.64, cation: str = "Na", anion: str = "Cl") -> Structure:
    """The primitive cell."""
    return crystal(f"{cation} {anion}", [[0, 0, 0], [0.5, 0.5, 0.5]], [[0, a / 2, a / 2], [a / 2, 0, a / 2], [a / 2, a / 2, 0]])


def caesium_chloride(a: float = 4.1, cation: str = "Na", anion: str = "Cl") -> Structure:
    """The other structure of AB."""
    return crystal(f"{cation} {anion}", [[0, 0, 0], [0.5, 0.5, 0.5]], [a, a, a, 90, 90, 90])


def perovskite(a: float = 3.905) -> Structure:
    """SrTiO3."""
    return crystal("Sr Ti O O O", [[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]], [a, a, a, 90, 90, 90])


def shaken(structure: Structure, sigma: float, seed: int = 0) -> Structure:
    """Atoms moved at random, sigma in Å."""
    assert structure.positions is not None
    return structure.replace(positions=structure.positions + np.random.default_rng(seed).normal(0, sigma, structure.positions.shape))


def same(a: Structure, b: Structure, tolerance: float) -> bool:
    """The same crystal, atoms within a tolerance in Å."""
    from pymatgen.analysis.structure_matcher import StructureMatcher

    found = StructureMatcher(scale=False).get_rms_dist(to_pymatgen(a), to_pymatgen(b))
    assert a.cell is not None
    return found is not None and found[1] * (abs(np.linalg.det(a.cell)) / a.n_atoms) ** (1 / 3) < tolerance


def overfitted(model: Model, batch: Batch, steps: int = 100) -> Model:
    """The model after so many steps on one batch, each with noise of its own, ready to draw."""
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for step in range(steps):
        optimizer.zero_grad()
        model.train().loss(batch, torch.Generator().manual_seed(step))["loss"].backward()
        optimizer.step()
    return model.eval()
