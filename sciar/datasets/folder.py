"""A user's own molecules or crystals: a file or a folder of files, in any format that `sciar.files` reads, or a table with SMILES."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np

from sciar.convert import from_smiles
from sciar.datasets import Info, Item, Progress, Rejected, Store, build, store_path, File
from sciar.datasets.store import SPLITS
from sciar.errors import DataError, InputError
from sciar.structure import Structure

TABLES = (".csv", ".tsv")
VERSION = "1"


def load(path: Path, progress: Progress | None = None) -> Store:
    """The store of the files, built once for their present contents.

    Rows that cannot be read are left out and stand in `Store.report` with the reason. A table has a column `smiles`; its
    other columns become entries of `info`, numbers where they are numbers; a column `split` (train, validation, test) is used.

    Raises:
        DataError: when there is no such file, no file of a known kind in the folder, or no usable row.
    """
    files = _files(path)
    parts = tuple(File(file.name, f"sha256:{hashlib.sha256(file.read_bytes()).hexdigest()}") for file in files)
    facts = Info(path.stem, VERSION, "", "", "", (), (parts,), shard_items=4096)
    folder = store_path(facts, parts)
    if (folder / "complete").exists():
        store = Store(folder)
    else:
        store = build(folder, lambda start: islice(read(files), start, None), facts, progress)
    if not len(store):
        reasons = "; ".join(f"{item.file or path.name} row {item.row}: {item.reason}" for item in store.report.rejected[:3])
        raise DataError(f"{path}: expected molecules or crystals, got none that can be read ({reasons or 'the file is empty'})")
    return store


def read(files: list[Path]) -> Iterator[Item]:
    """The records of the files, one after the other; `info["file"]` says which, if there are several."""
    for file in files:
        rows = _table(file) if file.suffix.lower() in TABLES else _records(file)
        for row, found in rows:
            name = file.name if len(files) > 1 else ""
            if isinstance(found, str):
                yield Rejected(row, found, name)
            elif not found.n_atoms:
                yield Rejected(row, "no atoms", name)
            else:
                yield found.replace(info=_storable(found) | ({"file": name} if name else {}))


def _files(path: Path) -> list[Path]:
    from sciar import files

    known = (*TABLES, *files.SUFFIXES)
    found = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.suffix.lower() in known)
    if not found or found[0].suffix.lower() not in known:
        raise DataError(f"{path}: expected files of the kinds {', '.join(known)}, got none; convert them first")
    return found


def _records(file: Path) -> Iterator[tuple[int, Structure | str]]:
    from sciar import files

    return files.iter_read(file)


def _table(file: Path) -> Iterator[tuple[int, Structure | str]]:
    with open(file, newline="", encoding="utf-8-sig") as text:
        table = csv.DictReader(text, delimiter="\t" if file.suffix.lower() == ".tsv" else ",")
        names = {name.strip().lower(): name for name in table.fieldnames or ()}
        if "smiles" not in names:
            raise DataError(f"{file}: expected a column 'smiles', got {', '.join(table.fieldnames or ()) or 'no header'}; rename the column")
        for row, line in enumerate(table):
            smiles = (line[names["smiles"]] or "").strip()
            try:
                graph = from_smiles(smiles, explicit_hydrogens=False)
            except InputError as error:
                yield row, f"not a molecule: {error}"
                continue
            others = {key.strip(): _number(value) for key, value in line.items() if key not in (None, names["smiles"]) and value}
            yield row, graph.with_info(smiles=smiles, **others)


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text.strip()


def _storable(structure: Structure) -> dict[str, object]:
    """The entries of `info` as the store takes them; a `split` that is none of ours is a plain text elsewhere."""
    kinds = (str, tuple, bool, int, float, np.integer, np.floating)
    info = {key: value if isinstance(value, kinds) else str(value) for key, value in structure.info.items()}
    if "split" in info and info["split"] not in SPLITS:
        info["split_label"] = info.pop("split")
    return info
