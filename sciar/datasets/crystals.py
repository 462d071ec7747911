"""Crystal data sets: tables of CIF text, and arrays of lattices and fractions.

Every crystal is given in its Niggli cell (lattice vectors are rows, a along x, b in the xy plane) with its atoms in the order
of the source. `info` has `id`, `split`, the properties with their units, `space_group` where the source has it, and
`split_polymorph`: a second split in which all crystals of one reduced formula are on the same side.
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from math import gcd
from pathlib import Path

import numpy as np

from sciar.convert import from_cif
from sciar.datasets.store import SPLITS, Rejected
from sciar.errors import InputError
from sciar.lattice import cell_of, niggli
from sciar.structure import SYMBOLS, Structure

CDVAE = "https://raw.githubusercontent.com/txie-93/cdvae/f857f598d6f6cca5dc1ea0582d228f12dcc2c2ea/data"
DIFFCSP = "https://raw.githubusercontent.com/jiaor17/DiffCSP/7121d159826efa2ba9500bf299250d96da37f146/data"
MIN_DISTANCE = 0.5  # Å; closer sites are one site given twice, or nonsense
POLYMORPH = (0.6, 0.8)  # train below the first, validation below the second, test above; the shares of MP-20

Raw = tuple[int, Structure | str]
"""A row of a source: its number, and the crystal or why it cannot be read."""


def tables(root: Path, files: Sequence[tuple[str, str]], columns: Mapping[str, str]) -> Iterator[Raw]:
    """Crystals of CSV files with a `cif` column.

    Args:
        root: folder of the files.
        files: (name, split) of each.
        columns: {column: key of `info`}; a key that starts with `space_group` or `id` is not a number with a unit.
    """
    csv.field_size_limit(2**31 - 1)  # a CIF is longer than the limit Python sets
    row = 0
    for name, split in files:
        with (root / name).open(encoding="utf-8", newline="") as file:
            for line in csv.DictReader(file):
                info: dict[str, object] = {"split": split}
                for column, key in columns.items():
                    if text := line.get(column):
                        info[key] = text if key == "id" else int(float(text)) if key in ("space_group", "year") else float(text)
                yield row, _of_cif(line["cif"], info)
                row += 1


def arrays(path: Path, columns: Mapping[str, str], splits: str = "split") -> Iterator[Raw]:
    """Crystals of an `.npz` file: `ids`, `lattice` (r × 6), `n_atoms`, `z`, `frac`, a column of splits, perhaps `props`, `spacegroup`.

    Args:
        path: of the file; `missing_train_ids`, if it has them, follow as rows that are not there.
        columns: {name in `prop_names`: key of `info`}.
        splits: name of the column of splits: 0 train, 1 validation, 2 test, 255 none.
    """
    with np.load(path, allow_pickle=False) as file:
        table = {name: file[name] for name in file.files}
    ends = np.cumsum(table["n_atoms"].astype(np.int64))
    names = table["prop_names"].tolist() if "prop_names" in table else []
    for row, end in enumerate(ends.tolist()):
        atoms = slice(end - int(table["n_atoms"][row]), end)
        info: dict[str, object] = {"id": str(table["ids"][row])}
        if (code := int(table[splits][row])) < len(SPLITS):
            info["split"] = SPLITS[code]
        for name, value in zip(names, table["props"][row].tolist() if names else [], strict=True):
            if np.isfinite(value):
                info[columns[name]] = int(value) if columns[name] == "year" else value
        if "spacegroup" in table:
            info["space_group"] = int(table["spacegroup"][row])
        cell = cell_of(table["lattice"][row])
        yield row, Structure(table["z"][atoms], table["frac"][atoms].astype(np.float64) @ cell, cell, info=info)
    for k, name in enumerate(table.get("missing_train_ids", ())):
        yield len(ends) + k, f"not available: {name}"


def checked(rows: Iterable[Raw], start: int = 0) -> Iterator[Structure | Rejected]:
    """The crystals from row `start` on in their Niggli cells, with the polymorph split; what is no crystal is rejected."""
    for row, found in islice(rows, start, None):
        if isinstance(found, str):
            yield Rejected(row, found)
            continue
        try:
            crystal = niggli(found)
        except InputError as error:
            yield Rejected(row, f"no cell: {error}")
            continue
        if reason := overlap(crystal):
            yield Rejected(row, reason)
        else:
            yield crystal.with_info(split_polymorph=polymorph_split(crystal))


def overlap(crystal: Structure) -> str | None:
    """Sites of a reduced cell that are closer than any two atoms."""
    distance = shortest_distance(crystal)
    return f"overlapping sites: {distance:.2f} Å apart, expected at least {MIN_DISTANCE}" if distance < MIN_DISTANCE else None


def reduced_formula(structure: Structure) -> str:
    """Symbols in alphabetical order with counts divided by their greatest common divisor: "FeLiO4P".

    >>> reduced_formula(Structure(np.array([22, 8, 8, 22, 8, 8])))
    'O2Ti'
    """
    numbers, counts = np.unique(structure.numbers, return_counts=True)
    unit = gcd(*counts.tolist())
    units = sorted((SYMBOLS[z], count // unit) for z, count in zip(numbers.tolist(), counts.tolist(), strict=True))
    return "".join(symbol + (str(count) if count > 1 else "") for symbol, count in units)


def polymorph_split(structure: Structure) -> str:
    """Name of the split that all crystals of this reduced formula belong to; a hash of the formula decides, so it never changes."""
    share = fraction(reduced_formula(structure))
    return "train" if share < POLYMORPH[0] else "validation" if share < POLYMORPH[1] else "test"


def fraction(text: str) -> float:
    """A number in [0, 1) that depends on the text alone and is uniform over texts."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6]) / 2**48


def shortest_distance(structure: Structure) -> float:
    """Å, between two atoms of a crystal or one and its image; images up to the neighbouring cells of a reduced cell."""
    assert structure.cell is not None and structure.positions is not None
    steps = np.stack(np.meshgrid(*[[-1, 0, 1]] * 3), axis=-1).reshape(-1, 3) @ structure.cell
    apart = structure.positions[:, None] - structure.positions[None]
    squared = ((apart[None] + steps[:, None, None]) ** 2).sum(axis=-1)
    here = int(np.flatnonzero((steps == 0).all(axis=1))[0])
    np.fill_diagonal(squared[here], np.inf)
    return float(np.sqrt(squared.min()))


def _of_cif(text: str, info: dict[str, object]) -> Structure | str:
    try:
        return from_cif(text).replace(info=info)
    except InputError as error:
        return f"not read: {error}"
