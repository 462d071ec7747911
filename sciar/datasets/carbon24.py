"""Carbon-24: carbon at 10 GPa from random structure search, 6 to 24 atoms.

The 10,153 rows are only about 4,250 different crystals: one composition has many answers, and match rates mean little here.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from sciar.datasets import File, Info, Item, crystals

ARRAYS = File("carbon24.npz", "sha256:900226d3c487250f2d359561ec9d8f65abc80476a20791089521e97873dbd8f4")
TABLES = (
    File("carbon_24_train.csv", "git:5e7ae970fbad8ddc46b6963e8cd6e425f11783a6", url=f"{crystals.CDVAE}/carbon_24/train.csv"),
    File("carbon_24_val.csv", "git:b3e29b927883642426ca1d9632d00359b412742b", url=f"{crystals.CDVAE}/carbon_24/val.csv"),
    File("carbon_24_test.csv", "git:9beca843fde489de1fe288b32f9e3ff710d42803", url=f"{crystals.CDVAE}/carbon_24/test.csv"),
)
COLUMNS = {"energy_per_atom": "energy_eV_per_atom"}

INFO = Info(
    name="carbon24",
    version="1",
    description="10,153 carbon crystals with 6 to 24 atoms at 10 GPa; energies (the arrays: of validation and test only)",
    licence="CC BY 4.0",
    citation="Pickard, AIRSS data for carbon at 10 GPa, Materials Cloud Archive 2020.0026/v1; split of Xie et al., CDVAE, ICLR 2022",
    sources=("https://github.com/txie-93/cdvae/tree/main/data/carbon_24", "https://doi.org/10.24435/materialscloud:2020.0026/v1"),
    files=(TABLES, (ARRAYS,)),
    splits=(("train", 6_091), ("validation", 2_032), ("test", 2_030)),
    n_rows=10_153,
)


def read(root: Path, start: int = 0) -> Iterator[Item]:
    """The crystals: train, validation, test; see `sciar.datasets.crystals` for what `info` has."""
    if (root / TABLES[0].name).exists():
        files = list(zip((file.name for file in TABLES), ("train", "validation", "test"), strict=True))
        return crystals.checked(crystals.tables(root, files, {"material_id": "id", **COLUMNS}), start)
    return crystals.checked(crystals.arrays(root / ARRAYS.name, COLUMNS), start)
