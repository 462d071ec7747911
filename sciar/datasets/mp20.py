"""MP-20: crystals of the Materials Project with up to 20 atoms in the primitive cell.

The original tables are the exact published cells. The arrays have the exact validation and test cells and a training split that
was rebuilt from a later release of the Materials Project (`info["origin"]`); 961 of its rows could not be had and are reported.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from sciar.datasets import File, Info, Item, Rejected, crystals

ARRAYS = File("mp20.npz", "sha256:960355d0caa9164c18207a20a73734a070e624e514ab1be09331951f0cd6662e")
TABLES = (
    File("mp_20_train.csv", "git:b1c9d498565ac2fd8d075a51ff2ef5e51ba6c21f", url=f"{crystals.CDVAE}/mp_20/train.csv"),
    File("mp_20_val.csv", "git:7efe4d7ebeb4f460ceaad35e5326c42111d9c9a1", url=f"{crystals.CDVAE}/mp_20/val.csv"),
    File("mp_20_test.csv", "git:5dc643041df53f5ce4970a79930ad262b4f07acd", url=f"{crystals.CDVAE}/mp_20/test.csv"),
)
ORIGINS = ("published", "later release", "MPTS-52")

INFO = Info(
    name="mp20",
    version="1",
    description="45,229 inorganic crystals with up to 20 atoms per primitive cell and up to 89 elements; formation energy, band gap",
    licence="CC BY 4.0",
    citation="Xie et al., Crystal Diffusion Variational Autoencoder, ICLR 2022; Jain et al., The Materials Project, APL Mater. 1 (2013) "
    "011002",
    sources=("https://github.com/txie-93/cdvae/tree/main/data/mp_20", "https://materialsproject.org"),
    files=(TABLES, (ARRAYS,)),
    splits=(("train", 27_136), ("validation", 9_047), ("test", 9_046)),
    n_rows=45_229,
)


def read(root: Path, start: int = 0) -> Iterator[Item]:
    """The crystals: train, validation, test; see `sciar.datasets.crystals` for what `info` has."""
    if (root / TABLES[0].name).exists():
        files = list(zip((file.name for file in TABLES), ("train", "validation", "test"), strict=True))
        columns = {
            "material_id": "id",
            "formation_energy_per_atom": "formation_energy_eV_per_atom",
            "band_gap": "band_gap_eV",
            "e_above_hull": "e_above_hull_eV_per_atom",
            "spacegroup.number": "space_group",
        }
        yield from crystals.checked(crystals.tables(root, files, columns), start)
        return
    columns = {
        "formation_energy_per_atom_eV": "formation_energy_eV_per_atom",
        "band_gap_eV": "band_gap_eV",
        "e_above_hull_eV_atom": "e_above_hull_eV_per_atom",
    }
    with np.load(root / ARRAYS.name, allow_pickle=False) as file:
        origin = file["source"].tolist()
    for row, item in enumerate(crystals.checked(crystals.arrays(root / ARRAYS.name, columns), start), start):
        yield item if isinstance(item, Rejected) else item.with_info(origin=ORIGINS[origin[row]])
