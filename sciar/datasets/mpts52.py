"""MPTS-52: crystals of the Materials Project with up to 52 atoms, split by the year of their first publication."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from sciar.datasets import File, Info, Item, crystals

ARRAYS = File("mpts52_val_test.npz", "sha256:c475f4c331c4444e8ab3b77e42b2e9c551ba0fe8551b478db6b5d253364c84b6")
TABLES = (
    File("mpts_52_train.csv", "git:28c53b0a0fd3f32fb8078aca8e5b484e372790c6", url=f"{crystals.DIFFCSP}/mpts_52/train.csv"),
    File("mpts_52_val.csv", "git:a377ba0ca7bee37ee69d9f50f8362eaa35d9f690", url=f"{crystals.DIFFCSP}/mpts_52/val.csv"),
    File("mpts_52_test.csv", "git:2e8af159618f63be346b6527f155514323964423", url=f"{crystals.DIFFCSP}/mpts_52/test.csv"),
)

INFO = Info(
    name="mpts52",
    version="1",
    description="40,476 inorganic crystals with up to 52 atoms, split by year; the arrays have the validation and test splits only",
    licence="CC BY 4.0",
    citation="Baird et al., matbench-genmetrics, J. Open Source Softw. 9 (2024) 5618; Jiao et al., DiffCSP, NeurIPS 2023",
    sources=("https://github.com/sparks-baird/mp-time-split", "https://github.com/jiaor17/DiffCSP/tree/main/data/mpts_52"),
    files=(TABLES, (ARRAYS,)),
    splits=(("train", 27_380), ("validation", 5_000), ("test", 8_096)),
)


def read(root: Path, start: int = 0) -> Iterator[Item]:
    """The crystals in the order of the source; see `sciar.datasets.crystals` for what `info` has."""
    if (root / TABLES[0].name).exists():
        files = list(zip((file.name for file in TABLES), ("train", "validation", "test"), strict=True))
        columns = {
            "material_id": "id",
            "formation_energy_per_atom": "formation_energy_eV_per_atom",
            "e_above_hull": "e_above_hull_eV_per_atom",
            "year": "year",
        }
        return crystals.checked(crystals.tables(root, files, columns), start)
    columns = {
        "formation_energy_per_atom_eV": "formation_energy_eV_per_atom",
        "e_above_hull_eV_atom": "e_above_hull_eV_per_atom",
        "year": "year",
    }
    return crystals.checked(crystals.arrays(root / ARRAYS.name, columns), start)
