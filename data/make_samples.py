"""Makes the samples that are committed: sciar/datasets/samples/ (part of the package) and data/samples/ (files to try things on).

    python data/make_samples.py

needs the data sets `qm9`, `molecules3d` and `mp20` (see data/README.md).
"""

from __future__ import annotations

import csv
import shutil
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from sciar import datasets
from sciar.convert import to_rdkit
from sciar.datasets import Store, Writer
from sciar.structure import Structure

HERE = Path(__file__).parent
PACKAGED = Path(datasets.__file__).parent / "samples"


def write_store(name: str, structures: Iterable[Structure]) -> None:
    folder = PACKAGED / name
    shutil.rmtree(folder, ignore_errors=True)
    with Writer(folder) as writer:
        for structure in structures:
            writer.add(structure)
    (folder / "lock").unlink()


def spread(store: Store, first: int, others: int) -> list[Structure]:
    """The first few rows and some random ones, in order."""
    rows = first + np.random.default_rng(0).choice(len(store) - first, others, replace=False)
    return list(store.select(np.concatenate([np.arange(first), np.sort(rows)])))


def pairs(store: Store, n: int) -> list[Structure]:
    """Both conformers of the first molecules that have two."""
    rows = np.asarray(store.column("row"))
    begins = np.flatnonzero(rows[:-1] == rows[1:])[:n]
    return list(store.select(np.sort(np.concatenate([begins, begins + 1]))))


def write_files(molecules: list[Structure]) -> None:
    from rdkit import Chem

    with Chem.SDWriter(str(HERE / "samples" / "molecules.sdf")) as sdf:
        for molecule in molecules:
            mol = to_rdkit(molecule)
            mol.SetProp("_Name", f"gdb_{molecule.info['gdb_index']}")
            mol.SetProp("gap_eV", f"{molecule.info['gap_eV']:.4f}")
            sdf.write(mol)
    with open(HERE / "samples" / "molecules.csv", "w", newline="") as text:
        table = csv.writer(text)
        table.writerow(["smiles", "gap_eV"])
        table.writerows([molecule.info["smiles"], f"{molecule.info['gap_eV']:.4f}"] for molecule in molecules)


if __name__ == "__main__":
    (HERE / "samples").mkdir(exist_ok=True)
    qm9 = spread(datasets.load("qm9"), first=20, others=220)
    write_store("qm9", qm9)
    write_store("molecules3d", pairs(datasets.load("molecules3d", partial=True), 48))
    write_store("mp20", spread(datasets.load("mp20", "validation"), first=0, others=120))
    write_files(qm9[-15:])
