"""ZINC250k: 249,455 drug-like molecules of ZINC as graphs, with the splits of the graph benchmarks."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np

from sciar.datasets import File, Info, Item
from sciar.datasets.smiles import graphs

INFO = Info(
    name="zinc250k",
    version="1",
    description="249,455 drug-like molecules (C N O F P S Cl Br I, formal charges) without positions",
    licence="free to use, not to be redistributed (terms of ZINC)",
    citation="Irwin et al., ZINC: a free tool to discover chemistry for biology, J. Chem. Inf. Model. 52 (2012) 1757; subset of "
    "Gómez-Bombarelli et al., ACS Cent. Sci. 4 (2018) 268; split of Jo et al. (GDSS), ICML 2022",
    sources=("https://zinc.docking.org", "https://github.com/aspuru-guzik-group/chemical_vae"),
    files=((File("zinc250k.npz", "sha256:3513bb7c55d4c2944cf048ab807eedf1a5bb2d357ae06c747d2280ccc77ed95f"),),),
    splits=(("train", 224_568), ("test", 24_887)),
    n_rows=249_455,
)
_SPLITS = {0: "train", 1: "validation", 2: "test"}


def read(root: Path, start: int = 0) -> Iterator[Item]:
    """The molecules in the order of the source, hydrogens as counts, split as in GDSS."""
    with np.load(root / "zinc250k.npz", allow_pickle=False) as arrays:
        smiles = arrays["smiles_utf8"].tobytes().decode().splitlines()
        split = [_SPLITS[int(code)] for code in arrays["split_gdss"]]
    return graphs(islice(zip(range(len(smiles)), smiles, split, strict=True), start, None))
