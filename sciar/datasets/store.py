"""Structures on disk: memory-mapped ragged arrays in shards.

A store is a folder. Each shard is one uncompressed `.npz` file, written beside its place and renamed into it, so
that a shard is either complete or absent: an interrupted build continues where the last shard ended, and a store
that is still growing can be read at any time. A shard also says how many items of the source it has consumed
(`cursor`) and which of them were refused and why, so nothing is lost or written twice.

Arrays of a shard (r rows, n atoms, m bonds, s and e stereo marks, all rows concatenated, `*_start` of r + 1):
`numbers` uint8 n · `positions` float32 n × 3 (Å) · `charges` int8, `hydrogens` uint8 n · `cell` float64 r × 3 × 3 ·
`bonds` int16 m × 3 · `tetrahedral` int16 s × 5 · `double_bonds` int16 e × 5 · `has` uint8 r (which fields are not
None) · `split` uint8 r · `float/<key>`, `int/<key>` r · `text/<key>`, `json/<key>` UTF-8 bytes, row k of them at
`text_start/<key>`[k : k + 1].
"""

from __future__ import annotations

import json
import mmap
import os
import struct
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np

from sciar.errors import DataError
from sciar.processes import keep
from sciar.structure import Structure

SPLITS = ("train", "validation", "test", "test_scaffolds")
NO_SPLIT = 255
MAX_ATOMS = np.iinfo(np.int16).max

_PER_ATOM = {"positions": (np.float32, (3,)), "charges": (np.int8, ()), "hydrogens": (np.uint8, ())}
_PER_ROW = {"cell": (np.float64, (3, 3))}
_RAGGED = {"bonds": 3, "tetrahedral": 5, "double_bonds": 5}
_OPTIONAL = (*_PER_ATOM, *_PER_ROW, *_RAGGED)  # bit k of `has`
_KINDS = ("float/", "int/", "text/", "json/")
_ABSENT = "\0"  # a text column without an entry in this row


@dataclass(frozen=True, slots=True)
class Rejected:
    """A row of the source that is not in the store, counted from 0."""

    row: int
    reason: str

    def __str__(self) -> str:
        return f"row {self.row}: {self.reason}"


@dataclass(frozen=True, slots=True)
class Report:
    """What became of the rows of a source: `n_accepted` structures are in the store, `rejected` rows are not."""

    n_accepted: int
    rejected: tuple[Rejected, ...] = ()

    def reasons(self) -> dict[str, int]:
        """Rejected rows by reason, the commonest first; what follows the first colon of a reason is detail."""
        counts: dict[str, int] = {}
        for item in self.rejected:
            head = item.reason.split(":", 1)[0]
            counts[head] = counts.get(head, 0) + 1
        return dict(sorted(counts.items(), key=lambda pair: -pair[1]))

    def summary(self) -> str:
        """One sentence, such as "842 structures; 3 rows rejected: 2 not a SMILES, 1 no atoms"."""
        text = f"{self.n_accepted:,} structures"
        if self.rejected:
            reasons = ", ".join(f"{count:,} {reason}" for reason, count in self.reasons().items())
            text += f"; {len(self.rejected):,} rows rejected: {reasons}"
        return text


Item = Structure | tuple[Structure, ...] | Rejected
"""What becomes of one item of a source: a structure, several (conformers of a molecule), or the reason why there is none."""


class Store(Sequence[Structure]):
    """A read-only sequence of structures. Opening reads the headers of the shards, indexing maps what it needs.

    Args:
        path: folder of the store.

    Raises:
        DataError: when the folder holds no store, or a shard is broken.
    """

    def __init__(self, path: str | Path, *, n_shards: int | None = None, rows: np.ndarray | None = None) -> None:
        self.path = Path(path)
        files = _shard_files(self.path)[:n_shards]
        if not files:
            raise DataError(f"Store: expected a data store in {self.path}, got none; build it with `sciar data NAME`")
        self._shards = [_Shard(file) for file in files]
        self._first = np.cumsum([0, *(len(shard) for shard in self._shards)])
        self._rows = rows

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (self.path, len(self._shards), self._rows)

    def __len__(self) -> int:
        return int(self._first[-1]) if self._rows is None else len(self._rows)

    def __getitem__(self, index: Any) -> Any:
        """The structure of row `index`, or a view for a slice."""
        if isinstance(index, slice):
            return self.select(np.arange(len(self))[index])
        index = int(index)
        if not -len(self) <= index < len(self):
            raise IndexError(f"Store: expected a row below {len(self)}, got {index}")
        index %= len(self)
        row = index if self._rows is None else int(self._rows[index])
        shard = int(np.searchsorted(self._first, row, side="right")) - 1
        return self._shards[shard].structure(row - int(self._first[shard]))

    def __iter__(self) -> Iterator[Structure]:
        return (self[i] for i in range(len(self)))

    def __repr__(self) -> str:
        return f"Store({self.path.name}, {len(self):,} structures{'' if self.complete else ', incomplete'})"

    @property
    def complete(self) -> bool:
        """Whether the build came to the end of its source."""
        return (self.path / "complete").exists()

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns: the keys of `info` in any row."""
        return tuple(sorted({key for shard in self._shards for key in shard.columns}))

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits that have rows."""
        present = set(np.unique(self._split_codes()).tolist())
        return tuple(name for code, name in enumerate(SPLITS) if code in present)

    @property
    def report(self) -> Report:
        """Accepted and rejected rows of the whole build, also from a view."""
        rejected = (Rejected(*item) for shard in self._shards for item in json.loads(shard.array("rejected").tobytes()))
        return Report(int(self._first[-1]), tuple(rejected))

    def select(self, rows: Iterable[int] | np.ndarray) -> Store:
        """A view of some rows (indices into this store or view, or a mask of its length), in the given order."""
        rows = np.asarray(rows)
        rows = np.flatnonzero(rows) if rows.dtype == bool else rows.astype(np.int64)
        view = object.__new__(Store)
        view.__dict__.update(self.__dict__)
        view._rows = rows if self._rows is None else self._rows[rows]
        return view

    def split(self, name: str) -> Store:
        """The view of one split.

        Args:
            name: `train`, `validation`, `test` or `test_scaffolds`.

        Raises:
            DataError: when no row is in this split.
        """
        if name not in SPLITS:
            raise DataError(f"Store.split: expected one of {', '.join(SPLITS)}, got {name!r}")
        view = self.select(self._split_codes() == SPLITS.index(name))
        if not len(view):
            raise DataError(f"Store.split: {self.path.name} has no {name!r} split, only {', '.join(self.splits) or 'rows without one'}")
        return view

    def n_atoms(self) -> np.ndarray:
        """Number of atoms of each row, int64."""
        return self._gather([np.diff(shard.array("numbers_start")) for shard in self._shards])

    def column(self, name: str) -> np.ndarray | list[str]:
        """One column: float64 (NaN = not known), int64, or a list of strings ("" = not known; lists as JSON).

        Raises:
            DataError: when there is no such column.
        """
        if name == "split":
            return [SPLITS[code] if code != NO_SPLIT else "" for code in self._split_codes()]
        if name not in self.columns:
            raise DataError(f"Store.column: expected one of {', '.join(self.columns)}, got {name!r}")
        if any(shard.has_text(name) for shard in self._shards):
            texts = [text for shard in self._shards for text in shard.texts(name)]
            return texts if self._rows is None else [texts[i] for i in self._rows]
        return self._gather([shard.numbers(name) for shard in self._shards])

    def _split_codes(self) -> np.ndarray:
        return self._gather([shard.array("split") for shard in self._shards])

    def _gather(self, parts: list[np.ndarray]) -> np.ndarray:
        whole = np.concatenate(parts)
        return whole if self._rows is None else whole[self._rows]


class Writer:
    """Adds structures to a store, a shard at a time; also continues an unfinished one. One writer at a time.

    Use as a context manager. When the block ends well the store is marked complete; when it raises, the finished
    shards stay and the next writer begins at `cursor`.

    Args:
        path: folder of the store, made if absent.
        shard_items: items of the source per shard.

    Raises:
        DataError: when another process is writing this store.
    """

    def __init__(self, path: str | Path, *, shard_items: int = 4096) -> None:
        self.path = Path(path)
        self.shard_items = shard_items
        self.path.mkdir(parents=True, exist_ok=True)
        self._lock: IO[str] = open(self.path / "lock", "w")  # noqa: SIM115 - held until close
        try:
            keep(self._lock)
        except BlockingIOError:
            self._lock.close()
            raise DataError(f"Writer: {self.path} is being built by another process; wait for it or stop it") from None
        files = _shard_files(self.path)
        self._n_shards = len(files)
        self.cursor = int(_Shard(files[-1]).array("cursor")) if files else 0
        self._begin = self.cursor
        self._rows: list[Structure] = []
        self._rejected: list[Rejected] = []

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if kind is None:
                if self.cursor > self._begin or not self._n_shards:
                    self._flush()
                (self.path / "complete").touch()
        finally:
            self._lock.close()

    def add(self, item: Item) -> None:
        """Take the next item of the source.

        Raises:
            DataError: when a structure cannot be stored (more than 32,767 atoms, an entry of `info` that is no number, text or tuple).
        """
        if isinstance(item, Rejected):
            self._rejected.append(item)
        else:
            structures = item if isinstance(item, tuple) else (item,)
            for structure in structures:
                _check(structure)
            self._rows.extend(structures)
        self.cursor += 1
        if self.cursor - self._begin >= self.shard_items:
            self._flush()

    def _flush(self) -> None:
        arrays = _pack(self._rows)
        arrays["cursor"] = np.array(self.cursor)
        arrays["rejected"] = _bytes(json.dumps([astuple(item) for item in self._rejected]))
        final = self.path / f"shard-{self._n_shards:05d}.npz"
        draft = self.path / f"draft-{final.name}"
        with open(draft, "wb") as file:
            np.savez(file, allow_pickle=False, **arrays)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(final)
        self._n_shards += 1
        self._begin = self.cursor
        self._rows, self._rejected = [], []


class _Shard:
    """One file: its arrays are mapped on first use and share one file descriptor."""

    def __init__(self, file: Path) -> None:
        self.file = file
        try:
            with zipfile.ZipFile(file) as archive:
                self._offsets = {entry.filename.removesuffix(".npy"): entry.header_offset for entry in archive.infolist()}
        except (zipfile.BadZipFile, OSError) as error:
            raise DataError(f"Store: {file} is broken ({error}); delete the folder and build it again") from error
        self._map: mmap.mmap | None = None
        self._arrays: dict[str, np.ndarray] = {}
        self._length = len(self.array("has"))
        self.columns = {key.split("/", 1)[1] for key in self._offsets if key.startswith(_KINDS)}
        if (self.array("split") != NO_SPLIT).any():
            self.columns.add("split")

    def __len__(self) -> int:
        return self._length

    def array(self, name: str) -> np.ndarray:
        if name not in self._arrays:
            if self._map is None:
                with open(self.file, "rb") as file:
                    self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            self._arrays[name] = _mapped(self._map, self._offsets[name])
        return self._arrays[name]

    def text(self, kind: str, key: str, row: int) -> str:
        start, end = self.array(f"{kind}_start/{key}")[row : row + 2]
        return self.array(f"{kind}/{key}")[start:end].tobytes().decode()

    def has_text(self, key: str) -> bool:
        return f"text/{key}" in self._offsets or f"json/{key}" in self._offsets

    def texts(self, key: str) -> list[str]:
        kind = "text" if f"text/{key}" in self._offsets else "json"
        if f"{kind}/{key}" not in self._offsets:
            return [""] * len(self)
        return ["" if text == _ABSENT else text for text in (self.text(kind, key, row) for row in range(len(self)))]

    def numbers(self, key: str) -> np.ndarray:
        name = next((name for name in (f"float/{key}", f"int/{key}") if name in self._offsets), None)
        return np.full(len(self), np.nan) if name is None else self.array(name)

    def structure(self, row: int) -> Structure:
        start, end = self.array("numbers_start")[row : row + 2]
        fields: dict[str, Any] = {"numbers": self.array("numbers")[start:end]}
        has = int(self.array("has")[row])
        for bit, name in enumerate(_OPTIONAL):
            if not has >> bit & 1:
                continue
            if name in _PER_ATOM:
                fields[name] = self.array(name)[start:end]
            elif name in _PER_ROW:
                fields[name] = self.array(name)[row]
            else:
                begin, stop = self.array(f"{name}_start")[row : row + 2]
                fields[name] = self.array(name)[begin:stop]
        return Structure(**fields, info=self._info(row))

    def _info(self, row: int) -> dict[str, object]:
        info: dict[str, object] = {}
        for name in self._offsets:
            kind, _, key = name.partition("/")
            if kind == "int":
                info[key] = int(self.array(name)[row])
            elif kind == "float" and not np.isnan(value := float(self.array(name)[row])):
                info[key] = value
            elif kind in ("text", "json") and (text := self.text(kind, key, row)) != _ABSENT:
                info[key] = text if kind == "text" else _tuples(json.loads(text))
        code = int(self.array("split")[row])
        if code != NO_SPLIT:
            info["split"] = SPLITS[code]
        return info


def _reopen(path: Path, n_shards: int, rows: np.ndarray | None) -> Store:
    return Store(path, n_shards=n_shards, rows=rows)


def _shard_files(path: Path) -> list[Path]:
    return sorted(path.glob("shard-*.npz"))


def _mapped(data: mmap.mmap, header: int) -> np.ndarray:
    """The array of a stored (uncompressed) zip entry whose local header is at byte `header`; nothing is copied."""
    name_length, extra_length = struct.unpack_from("<HH", data, header + 26)
    data.seek(header + 30 + name_length + extra_length)
    major, _ = np.lib.format.read_magic(data)
    read = np.lib.format.read_array_header_1_0 if major == 1 else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(data)
    return np.frombuffer(data, dtype, count=int(np.prod(shape)), offset=data.tell()).reshape(shape)


def _check(structure: Structure) -> None:
    if structure.n_atoms > MAX_ATOMS:
        raise DataError(f"Writer: expected at most {MAX_ATOMS} atoms, got {structure.n_atoms}")
    for key, value in structure.info.items():
        if not isinstance(value, (str, tuple, bool, int, float, np.integer, np.floating)):
            raise DataError(f"Writer: expected a number, text or tuple in info[{key!r}], got {type(value).__name__}")
    if "split" in structure.info and structure.info["split"] not in SPLITS:
        raise DataError(f"Writer: expected info['split'] among {', '.join(SPLITS)}, got {structure.info['split']!r}")


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value


def _bytes(text: str) -> np.ndarray:
    return np.frombuffer(text.encode(), dtype=np.uint8)


def _starts(lengths: list[int]) -> np.ndarray:
    return np.cumsum([0, *lengths], dtype=np.int64)


def _pack(rows: list[Structure]) -> dict[str, np.ndarray]:
    """The arrays of a shard."""
    sizes = [row.n_atoms for row in rows]
    arrays: dict[str, np.ndarray] = {
        "numbers": np.concatenate([np.zeros(0, np.uint8), *(row.numbers.astype(np.uint8) for row in rows)]),
        "numbers_start": _starts(sizes),
        "has": np.array([sum((getattr(row, name) is not None) << bit for bit, name in enumerate(_OPTIONAL)) for row in rows], np.uint8),
        "split": np.array([SPLITS.index(str(row.info["split"])) if "split" in row.info else NO_SPLIT for row in rows], np.uint8),
    }
    for name in _OPTIONAL:
        values = [getattr(row, name) for row in rows]
        if all(value is None for value in values):
            continue
        if name in _PER_ATOM:
            dtype, tail = _PER_ATOM[name]
            filled = [np.zeros((size, *tail)) if v is None else v for v, size in zip(values, sizes, strict=True)]
            arrays[name] = np.concatenate(filled).astype(dtype)
        elif name in _PER_ROW:
            dtype, tail = _PER_ROW[name]
            arrays[name] = np.stack([np.zeros(tail) if value is None else value for value in values]).astype(dtype)
        else:
            filled = [np.zeros((0, _RAGGED[name]), np.int64) if value is None else value for value in values]
            arrays[name] = np.concatenate(filled).astype(np.int16)
            arrays[f"{name}_start"] = _starts([len(value) for value in filled])
    keys = sorted({key for row in rows for key in row.info if key != "split"})
    for key in keys:
        arrays.update(_column(key, [row.info.get(key) for row in rows]))
    return arrays


def _column(key: str, values: list[Any]) -> dict[str, np.ndarray]:
    """Tuples as JSON, texts as they are, int64 if every row has an integer, else float64 with NaN where there is none."""
    kind = "json" if any(isinstance(value, tuple) for value in values) else "text"
    if kind == "json" or any(isinstance(value, str) for value in values):
        encode = json.dumps if kind == "json" else str
        texts = [(_ABSENT if value is None else encode(value)).encode() for value in values]
        return {f"{kind}/{key}": np.frombuffer(b"".join(texts), np.uint8), f"{kind}_start/{key}": _starts([len(t) for t in texts])}
    if all(isinstance(value, (bool, int, np.integer)) for value in values):
        return {f"int/{key}": np.array(values, np.int64)}
    return {f"float/{key}": np.array([np.nan if value is None else value for value in values], np.float64)}
