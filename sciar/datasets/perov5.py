"""Perov-5: perovskites ABX3 of 56 elements, five atoms in each cell."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from sciar.datasets import File, Info, Item, crystals

ARRAYS = File("perov5.npz", "sha256:4dc74ff1ab7d2345062e408b19f356620a6cebcc10cd64a09a760f20925c68d3")
TABLES = (
    File("perov_5_train.csv", "git:0769074b5d51d293b765c4371b8f55c468c9c9f2", url=f"{crystals.CDVAE}/perov_5/train.csv"),
    File("perov_5_val.csv", "git:4a2c8dde98347dd0e01fa83dcf3982c2abe98f9f", url=f"{crystals.CDVAE}/perov_5/val.csv"),
    File("perov_5_test.csv", "git:d3c5d5af4b27a2a139149f2bb73c8a3dba9d8ac1", url=f"{crystals.CDVAE}/perov_5/test.csv"),
)
COLUMNS = {"heat_all": "heat_all_eV", "heat_ref": "heat_ref_eV", "dir_gap": "direct_gap_eV", "ind_gap": "indirect_gap_eV"}

INFO = Info(
    name="perov5",
    version="1",
    description="18,928 perovskites of 5 atoms; heats of formation and band gaps (the arrays: of validation and test only)",
    licence="as its source, the Computational Materials Repository; cite it",
    citation="Castelli et al., Energy Environ. Sci. 5 (2012) 5814 and 9034; split of Xie et al., CDVAE, ICLR 2022",
    sources=("https://github.com/txie-93/cdvae/tree/main/data/perov_5", "https://cmr.fysik.dtu.dk/cubic_perovskites"),
    files=(TABLES, (ARRAYS,)),
    splits=(("train", 11_356), ("validation", 3_787), ("test", 3_785)),
    n_rows=18_928,
)


def read(root: Path, start: int = 0) -> Iterator[Item]:
    """The crystals: train, validation, test; see `sciar.datasets.crystals` for what `info` has."""
    if (root / TABLES[0].name).exists():
        files = list(zip((file.name for file in TABLES), ("train", "validation", "test"), strict=True))
        return crystals.checked(crystals.tables(root, files, {"material_id": "id", **COLUMNS}), start)
    return crystals.checked(crystals.arrays(root / ARRAYS.name, COLUMNS), start)
