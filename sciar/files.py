"""Structures in and out of files, the format by the suffix. A record that cannot be read is reported with its row, never dropped."""

from __future__ import annotations

import csv
import difflib
import json
import os
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from sciar import cif, convert
from sciar.errors import InputError
from sciar.plain import edge_list, edge_lists, from_edges, from_graph6, graph6
from sciar.structure import NUMBERS, SYMBOLS, Structure

FIELDS = ("numbers", "positions", "cell", "bonds", "charges", "hydrogens", "tetrahedral", "double_bonds")
APPENDABLE = (".sdf", ".xyz", ".extxyz", ".smi", ".jsonl", ".g6", ".edgelist")

Row = tuple[int, Structure | str]


def read(path: str | os.PathLike[str]) -> list[Structure]:
    """All structures of a file or folder.

    Raises:
        InputError: as `iter_read`, or a record that cannot be read; use `iter_read` to go on with the others.
    """
    structures = []
    for row, structure in iter_read(path):
        if isinstance(structure, str):
            where, reason = f"{Path(path).name}, record {row}", structure.removesuffix("; correct it")
            raise InputError(f"{where}: expected a structure, got {reason}; correct it or use iter_read to go on")
        structures.append(structure)
    return structures


def iter_read(path: str | os.PathLike[str]) -> Iterator[Row]:
    """Rows (record number from 0, structure or the reason why there is none), one per record of the file.

    Formats: .sdf, .xyz and .extxyz, .cif, POSCAR and .vasp, .smi .smiles .txt (one SMILES per line, a name may follow), .csv and .tsv
    (a column SMILES), .json and .jsonl, plain graphs as .g6 .graph6 (graph6, one per line) and .edgelist .edges (two nodes per line, an
    empty line between graphs, see `sciar.plain.edge_list`), or a folder of these, read in the order of the names and numbered through.
    Properties of SDF records, columns of tables and keys of (ext)xyz comments are kept in `info`.

    Raises:
        InputError: no such file, a format that is not known, or a file that cannot be read at all.
    """
    path = Path(path)
    if path.is_dir():
        return _folder(path)
    reader = _READERS.get(_suffix(path, _READERS))
    assert reader is not None
    if not path.is_file():
        near = difflib.get_close_matches(path.name, [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else [], n=1)
        hint = f"did you mean {near[0]!r}?" if near else "check the path"
        raise InputError(f"{path.name}: expected a file, got nothing there; {hint}")
    return _guarded(path, reader)


def write(path: str | os.PathLike[str], structures: Iterable[Structure], append: bool = False) -> int:
    """Write structures in the format of the suffix; a whole file appears at once or not at all.

    Args:
        path: .sdf, .xyz, .extxyz, .cif, POSCAR or .vasp, .smi, .csv, .json, .jsonl, .g6, .edgelist. POSCAR holds one structure.
        structures: may be a generator.
        append: add to the end, flushing each record, so that nothing is lost when the run stops. For
            .sdf, .xyz, .extxyz, .smi, .jsonl, .g6, .edgelist.

    Returns:
        How many were written.

    Raises:
        InputError: unknown format, a structure that the format cannot hold, or a file that cannot be written (disk full, no permission).
    """
    path = Path(path)
    suffix = _suffix(path, _WRITERS)
    if append and suffix not in APPENDABLE:
        raise InputError(f"{path.name}: expected one of {', '.join(APPENDABLE)} to append to, got {suffix}; write the whole file")
    try:
        if append:
            with path.open("a", encoding="utf-8", newline="") as file:
                return _write_all(file, structures, suffix, flush=True)
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            os.chmod(temporary, 0o666 & ~_umask())
            with os.fdopen(handle, "w", encoding="utf-8", newline="") as file:
                count = _write_all(file, structures, suffix, flush=False)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
        return count
    except OSError as error:
        raise InputError(f"{path.name}: expected to write there, got {_os_reason(error)}; choose another place or free space") from None


def to_dict(structure: Structure) -> dict[str, Any]:
    """The structure in JSON's types: arrays under their names, `info` entries that JSON can hold under "info"."""
    entry = {name: value.tolist() for name in FIELDS if (value := getattr(structure, name)) is not None}
    return {**entry, "info": {key: _plain(value) for key, value in structure.info.items()}}


def xyz_block(structure: Structure, comment: str = "", digits: int = 8) -> str:
    """One frame of an XYZ file, coordinates in Å.

    Raises:
        InputError: no positions.
    """
    if structure.positions is None:
        raise InputError("xyz: expected positions, got none; write .smi or .sdf")
    places = zip(structure.numbers, structure.positions, strict=True)
    atoms = (f"{SYMBOLS[z]} {x:.{digits}f} {y:.{digits}f} {w:.{digits}f}\n" for z, (x, y, w) in places)
    return f"{structure.n_atoms}\n{comment}\n{''.join(atoms)}"


def from_dict(entry: Mapping[str, Any]) -> Structure:
    """The structure that `to_dict` took apart; other keys go to `info`.

    Raises:
        InputError: no "numbers", or arrays that do not fit.
    """
    if not isinstance(entry, Mapping) or "numbers" not in entry:
        raise InputError("json: expected an object with the key 'numbers', got none; see sciar.files.to_dict")
    info = {**entry.get("info", {}), **{key: value for key, value in entry.items() if key not in (*FIELDS, "info")}}
    try:
        return Structure(**{name: np.array(entry[name]) for name in FIELDS if entry.get(name) is not None}, info=info)
    except (TypeError, ValueError) as error:
        raise InputError(f"json: expected a structure, got {error}; correct it") from None


# --- readers: each yields (row, structure or reason) ---


def _folder(path: Path) -> Iterator[Row]:
    names = sorted(p for p in path.iterdir() if p.is_file() and _known(p, _READERS))
    if not names:
        raise InputError(f"{path.name}: expected files that end in {', '.join(sorted(_READERS))}, got none; check the folder")
    count = 0
    for name in names:
        for _, structure in iter_read(name):
            yield count, f"{name.name}: {structure}" if isinstance(structure, str) else structure.with_info(file=name.name)
            count += 1


def _guarded(path: Path, reader: Callable[[Path], Iterator[Row]]) -> Iterator[Row]:
    """What goes wrong with the file as a whole, in one sentence."""
    try:
        yield from reader(path)
    except UnicodeDecodeError:
        raise InputError(f"{path.name}: expected text, got other bytes; unpack it or save it as UTF-8") from None
    except OSError as error:
        raise InputError(f"{path.name}: expected a readable file, got {_os_reason(error)}; check it") from None


def _read_sdf(path: Path) -> Iterator[Row]:
    from rdkit import Chem, rdBase

    row, block = 0, []
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in chain(file, ["$$$$\n"]):  # a lone mol block has no end mark
            block.append(line)
            if line.startswith("$$$$"):
                text, block = "".join(block), []
                if not text.replace("$$$$", "").strip():
                    continue
                with rdBase.BlockLogs(), rdBase.CaptureErrorLog() as log:
                    supplier = Chem.SDMolSupplier()
                    supplier.SetData(text, removeHs=False)
                    mol = next(iter(supplier), None)
                if mol is None:
                    yield row, convert.log_reason(log.messages) or "a broken record"
                else:
                    yield row, _attempt(convert.from_rdkit, mol)
                row += 1


def _read_xyz(path: Path) -> Iterator[Row]:
    row = 0
    with path.open(encoding="utf-8") as file:
        for first in file:
            if not first.strip():
                continue
            if not first.strip().isdigit():
                yield row, f"{first.strip()[:40]!r} where the number of atoms should be; the rest is not read"
                return
            comment = file.readline()
            lines = [file.readline() for _ in range(int(first))]
            yield row, _attempt(_xyz_frame, comment, lines)
            row += 1


def _xyz_frame(comment: str, lines: list[str]) -> Structure:
    tags = _xyz_tags(comment)
    columns = str(tags.pop("Properties", "species:S:1:pos:R:3")).split(":")
    start = {name: sum(map(int, columns[2 : 3 * k : 3])) for k, name in enumerate(columns[::3])}
    numbers, positions = [], []
    for k, line in enumerate(lines):
        words = line.split()
        try:
            symbol = words[start["species"]] if "species" in start else SYMBOLS[int(words[start["Z"]])]
            numbers.append(int(symbol) if symbol.isdigit() else NUMBERS[symbol.capitalize()])
            positions.append([float(x) for x in words[start["pos"] : start["pos"] + 3]])
        except (KeyError, IndexError, ValueError):
            raise InputError(f"{line.strip()[:40]!r} at atom {k}; write an element and x y z in Å") from None
        if len(positions[-1]) < 3:
            raise InputError(f"{line.strip()[:40]!r} at atom {k}; write an element and x y z in Å")
    lattice, periodic = tags.pop("Lattice", None), str(tags.pop("pbc", "T T T")).upper().split()
    cell = None
    if lattice is not None and "F" not in "".join(periodic):
        cell = np.array(str(lattice).split(), dtype=np.float64).reshape(3, 3)
    return Structure(np.array(numbers, dtype=np.int64), positions=np.array(positions).reshape(-1, 3), cell=cell, info=tags)


def _xyz_tags(comment: str) -> dict[str, Any]:
    """key=value pairs of an extended-XYZ comment; any other text goes under "comment"."""
    pairs = re.findall(r'([A-Za-z_][\w.-]*)=("(?:[^"\\]|\\.)*"|\S*)', comment)
    if not pairs:
        return {"comment": comment.strip()} if comment.strip() else {}
    return {key: re.sub(r"\\(.)", r"\1", value[1:-1]) if value.startswith('"') else _number(value) for key, value in pairs}


def _read_cif(path: Path) -> Iterator[Row]:
    blocks = re.split(r"^(?=data_)", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.IGNORECASE)
    for row, block in enumerate(block for block in blocks if block.lower().startswith("data_")):
        yield row, _attempt(convert.from_cif, block)  # one by one: pymatgen keeps only the last of several blocks with one name


def _read_poscar(path: Path) -> Iterator[Row]:
    from pymatgen.io.vasp import Poscar

    text = path.read_text(encoding="utf-8")
    yield 0, _attempt(lambda: convert.from_pymatgen(Poscar.from_str(text, read_velocities=False).structure))


def _read_smiles(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8") as file:
        for row, line in enumerate(file):
            smiles, *name = line.split(maxsplit=1) or [""]
            yield row, _attempt(_from_smiles, smiles, {"id": name[0].strip()} if name else {})


def _from_smiles(smiles: str, info: dict[str, object]) -> Structure:
    return convert.from_smiles(smiles).replace(info=info)


def _read_table(path: Path) -> Iterator[Row]:
    csv.field_size_limit(2**31 - 1)  # a CIF is longer than the limit Python sets
    with path.open(encoding="utf-8", newline="") as file:
        table = csv.DictReader(file, delimiter="\t" if path.suffix.lower() == ".tsv" else ",")
        names = table.fieldnames or []
        column = next((name for name in names if name.strip().lower() in ("smiles", "canonical_smiles", "smi", "cif", "structure")), None)
        if column is None:
            raise InputError(f"{path.name}: expected a column named SMILES or cif, got {', '.join(names[:8]) or 'none'}; rename the column")
        make = _from_crystal if column.strip().lower() in ("cif", "structure") else _from_smiles
        for row, line in enumerate(table):
            info = {key: _number(value) for key, value in line.items() if key not in (column, None) and isinstance(value, str)}
            yield row, _attempt(make, line[column] or "", info)


def _from_crystal(text: str, info: dict[str, object]) -> Structure:
    """CIF text, or the JSON of a pymatgen Structure."""
    if text.lstrip().startswith("{"):
        from pymatgen.core import Structure as Crystal

        return convert.from_pymatgen(Crystal.from_dict(json.loads(text))).replace(info=info)
    return convert.from_cif(text).replace(info=info)


def _read_json(path: Path) -> Iterator[Row]:
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise InputError(f"{path.name}: expected JSON, got {error}; correct it, or name it .jsonl if it has one record per line") from None
    for row, entry in enumerate(entries if isinstance(entries, list) else [entries]):
        yield row, _attempt(from_dict, entry)


def _read_jsonl(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8") as file:
        for row, line in enumerate(line for line in file if line.strip()):
            yield row, _attempt(lambda text: from_dict(json.loads(text)), line)


def _read_graph6(path: Path) -> Iterator[Row]:
    with path.open(encoding="ascii") as file:
        for row, line in enumerate(file):
            yield row, _attempt(from_graph6, line, row + 1)


def _read_edges(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8") as file:
        for row, lines in enumerate(edge_lists(file)):
            yield row, _attempt(from_edges, lines)


def _attempt(make: Callable[..., Structure], *arguments: object) -> Structure | str:
    """A structure, or why there is none. Of a broken file the readers of other packages may raise anything."""
    try:
        return make(*arguments)
    except Exception as error:
        return " ".join(str(error).split()) or type(error).__name__


# --- writers: each gives the text of one structure ---


def _write_all(file: TextIO, structures: Iterable[Structure], suffix: str, flush: bool) -> int:
    text = _WRITERS[suffix]
    count = 0
    for structure in structures:
        if suffix == ".vasp" and count:
            raise InputError("POSCAR: expected one structure, got several; write .cif or .extxyz")
        opening = {".json": "[\n", ".csv": "SMILES\n"}.get(suffix, "") if not count else {".json": ",\n"}.get(suffix, "")
        record = text(structure)
        if suffix == ".cif":  # readers tell blocks apart by their names
            record = record.replace("data_", f"data_{count}_", 1)
        file.write(opening + record)
        if flush:
            file.flush()
        count += 1
    if suffix == ".json":
        file.write("\n]\n" if count else "[]\n")
    return count


def _sdf(structure: Structure) -> str:
    from rdkit import Chem

    if structure.cell is not None:
        raise InputError("sdf: expected a molecule, got a crystal; write .cif or .extxyz")
    mol = convert.to_rdkit(structure)
    mol.SetProp("_Name", str(structure.info.get("id", "")))
    tags = "".join(f"> <{key}>\n{_one_line(value)}\n\n" for key, value in structure.info.items())
    return f"{Chem.MolToMolBlock(mol, kekulize=True)}{tags}$$$$\n"


def _xyz(structure: Structure) -> str:
    return _frame(structure, "")


def _extxyz(structure: Structure) -> str:
    cell = structure.cell
    lattice = f'Lattice="{" ".join(f"{x:.10g}" for x in cell.ravel())}" ' if cell is not None else ""
    return _frame(structure, f'{lattice}Properties=species:S:1:pos:R:3 pbc="{"T T T" if cell is not None else "F F F"}" ')


def _frame(structure: Structure, head: str) -> str:
    tags = " ".join(f"{key}={_quoted(value)}" for key, value in structure.info.items() if key.isidentifier())
    return xyz_block(structure, head + tags)


def _cif(structure: Structure) -> str:
    if structure.cell is None:
        raise InputError("cif: expected a crystal, got a molecule; write .sdf or .xyz")
    block, _ = cif.text(structure)
    return block


def _poscar(structure: Structure) -> str:
    from pymatgen.io.vasp import Poscar

    if structure.cell is None:
        raise InputError("POSCAR: expected a crystal, got a molecule; write .sdf or .xyz")
    return Poscar(convert.to_pymatgen(structure)).get_str(significant_figures=12)  # type: ignore[arg-type]


def _smi(structure: Structure) -> str:
    name = structure.info.get("id")
    return convert.to_smiles(structure) + (f" {_one_line(name)}" if name is not None else "") + "\n"


def _csv(structure: Structure) -> str:
    return convert.to_smiles(structure) + "\n"


def _json(structure: Structure) -> str:
    return json.dumps(to_dict(structure))


def _jsonl(structure: Structure) -> str:
    return _json(structure) + "\n"


_READERS: dict[str, Callable[[Path], Iterator[Row]]] = {
    ".sdf": _read_sdf,
    ".xyz": _read_xyz,
    ".extxyz": _read_xyz,
    ".cif": _read_cif,
    ".vasp": _read_poscar,
    ".smi": _read_smiles,
    ".csv": _read_table,
    ".tsv": _read_table,
    ".json": _read_json,
    ".jsonl": _read_jsonl,
    ".g6": _read_graph6,
    ".edgelist": _read_edges,
}
_WRITERS: dict[str, Callable[[Structure], str]] = {
    ".sdf": _sdf,
    ".xyz": _xyz,
    ".extxyz": _extxyz,
    ".cif": _cif,
    ".vasp": _poscar,
    ".smi": _smi,
    ".csv": _csv,
    ".json": _json,
    ".jsonl": _jsonl,
    ".g6": graph6,
    ".edgelist": edge_list,
}
_OTHER_NAMES = {
    ".sd": ".sdf",
    ".mol": ".sdf",
    ".smiles": ".smi",
    ".txt": ".smi",
    ".poscar": ".vasp",
    ".graph6": ".g6",
    ".edges": ".edgelist",
}


def _known(path: Path, table: Mapping[str, object]) -> bool:
    return _suffix_or_none(path) in table


def _suffix_or_none(path: Path) -> str:
    if path.name.upper() in ("POSCAR", "CONTCAR"):
        return ".vasp"
    suffix = path.suffix.lower()
    return _OTHER_NAMES.get(suffix, suffix)


def _suffix(path: Path, table: Mapping[str, object]) -> str:
    suffix = _suffix_or_none(path)
    if suffix not in table:
        names = [*table, *_OTHER_NAMES]
        near = difflib.get_close_matches(suffix, names, n=1)
        hint = f"did you mean {near[0]!r}?" if near else "choose one"
        raise InputError(f"{path.name}: expected a name that ends in {', '.join(table)}, got {suffix or 'no suffix'!r}; {hint}")
    return suffix


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _os_reason(error: OSError) -> str:
    return (error.strerror or type(error).__name__).lower()


def _number(text: str) -> object:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _plain(value: object) -> object:
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, np.generic):
        return value.item()
    return value if isinstance(value, (str, int, float, bool, list, tuple, dict, type(None))) else str(value)


def _one_line(value: object) -> str:
    return " ".join(str(value).split()) or " "


def _quoted(value: object) -> str:
    text = _one_line(value).strip()
    if text and all(c.isalnum() or c in "+-._" for c in text):
        return text
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
