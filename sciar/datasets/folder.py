"""A user's own molecules or crystals: a file, or a folder of files, in any format that `sciar.files` reads."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np

from sciar.bonds import perceive_bonds
from sciar.convert import from_rdkit, to_rdkit
from sciar.datasets import File, Info, Item, Progress, Rejected, Store, build, store_path
from sciar.datasets.crystals import overlap
from sciar.datasets.store import SPLITS
from sciar.errors import DataError, InputError
from sciar.files import iter_read
from sciar.lattice import primitive
from sciar.structure import Structure

VERSION = "2"


def load(path: Path, progress: Progress | None = None) -> Store:
    """The store of the files, built once for their present contents.

    Records that cannot be used are left out and stand in `Store.report` with the reason. Properties become entries of
    `info`; a column `split` (train, validation, test) is used.

    Raises:
        InputError: a format that is not known, or a file that cannot be read at all.
        DataError: no record can be used.
    """
    files = sorted(file for file in path.iterdir() if file.is_file()) if path.is_dir() else [path]
    parts = tuple(File(file.name, f"sha256:{hashlib.sha256(file.read_bytes()).hexdigest()}") for file in files)
    facts = Info(path.stem, VERSION, "", "", "", (), (parts,), shard_items=4096)
    folder = store_path(facts, parts)
    if (folder / "complete").exists():
        store = Store(folder)
    else:
        store = build(folder, lambda start: islice(read(path), start, None), facts, progress)
    if not len(store):
        first = store.report.rejected[0] if store.report.rejected else "there are no records"
        raise DataError(f"{path.name}: expected molecules or crystals, got none that can be used ({first}); correct the file")
    return store


def read(path: Path) -> Iterator[Item]:
    """The records in order.

    A molecule with coordinates but without bonds gets those that its coordinates imply; a crystal is given in the Niggli cell of
    its primitive lattice.
    """
    for row, found in iter_read(path):
        if isinstance(found, str):
            yield Rejected(row, f"not read: {found}")
        elif not found.n_atoms:
            yield Rejected(row, "no atoms")
        elif found.bonds is None and found.cell is None and found.positions is not None:
            try:
                bonded = perceive_bonds(found, charge=_charge(found))
                marked = from_rdkit(to_rdkit(bonded), perceive_stereo_from_3d=True)
                yield marked.replace(info=_storable(found))
            except InputError as error:
                yield Rejected(row, f"no bonds found: {error}")
        elif found.cell is not None and found.positions is not None:
            yield _crystal(row, found)
        else:
            yield found.replace(info=_storable(found))


def _crystal(row: int, found: Structure) -> Structure | Rejected:
    try:
        crystal = primitive(found).replace(info=_storable(found))
    except InputError as error:
        return Rejected(row, f"no cell: {error}")
    reason = overlap(crystal)
    return Rejected(row, reason) if reason else crystal


def _charge(structure: Structure) -> int:
    """Total charge in e as extended XYZ files state it, else 0."""
    charge = structure.info.get("charge", 0)
    return round(charge) if isinstance(charge, (int, float)) else 0


def _storable(structure: Structure) -> dict[str, object]:
    """The entries of `info` as the store takes them, without empty cells; a `split` that is none of ours becomes `split_label`."""
    kinds = (str, tuple, bool, int, float, np.integer, np.floating)
    given = {key: value for key, value in structure.info.items() if value not in (None, "")}
    info: dict[str, object] = {key: value if isinstance(value, kinds) else str(value) for key, value in given.items()}
    if "split" in info and info["split"] not in SPLITS:
        info["split_label"] = info.pop("split")
    return info
