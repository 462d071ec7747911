"""GEOM-DRUGS: its 304,000 drug-like molecules as graphs, without the conformers."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np

from sciar.datasets import File, Info, Item
from sciar.datasets.smiles import graphs

INFO = Info(
    name="geom_drugs",
    version="1",
    description="304,348 drug-like molecules of GEOM-DRUGS by split, SMILES only: no geometries",
    licence="CC0 1.0",
    citation="Axelrod & Gómez-Bombarelli, GEOM, energy-annotated molecular conformations for property prediction and molecular "
    "generation, Sci. Data 9 (2022) 185",
    sources=("https://doi.org/10.7910/DVN/JNGTDF",),
    files=((File("geom_drugs_smiles.npz", "sha256:f95fcd67498bc7721ec19e6244bc33a76c9d4c5c06e2fa0e8b93fe1ffd58f174"),),),
    splits=(("train", 243_480), ("validation", 30_434), ("test", 30_434)),
    n_rows=304_348,
)


def read(root: Path, start: int = 0) -> Iterator[Item]:
    """The molecules, hydrogens as counts: train, validation, test."""
    lines = []
    with np.load(root / "geom_drugs_smiles.npz", allow_pickle=False) as arrays:
        for key, split in (("train", "train"), ("val", "validation"), ("test", "test")):
            lines += [(smiles, split) for smiles in arrays[f"{key}_smiles_utf8"].tobytes().decode().splitlines()]
    return graphs((row, *line) for row, line in islice(enumerate(lines), start, None))
