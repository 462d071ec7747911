"""Ragged tokens: fields that know how they pad, compact arrays on disk, padded batches of tensors.

A family's `Tokens` is a frozen dataclass of NumPy arrays. Each field names its *axis* ("atoms", "words",
"bonds"): fields of one axis have the same length in one record and share one mask. Fields without
`token_field` stay with the record (a graph to decode to) and never reach a batch.
"""

from __future__ import annotations

import dataclasses
import json
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sciar.errors import DataError

_KEY = "sciar.token"


def token_field(axis: str, dtype: str, pad: float = 0, empty: tuple[int, ...] | None = None) -> Any:
    """A dataclass field that is batched: its ragged axis, its storage dtype, its padding value; the shape of its default, if it has one."""
    metadata = {_KEY: (axis, np.dtype(dtype), pad)}
    if empty is None:
        return dataclasses.field(metadata=metadata)
    return dataclasses.field(metadata=metadata, default_factory=lambda: np.zeros(empty, dtype))


def token_fields(kind: type) -> dict[str, tuple[str, np.dtype, float]]:
    """{field name: (axis, dtype, pad)} of a Tokens class."""
    return {f.name: f.metadata[_KEY] for f in dataclasses.fields(kind) if _KEY in f.metadata}


@dataclass(frozen=True, slots=True)
class Batch:
    """Padded tensors (b, t, …) by field name, boolean masks (b, t) by axis: True = real.

    `share`: its records in parts of those of an average batch of the epoch.
    """

    tokens: Mapping[str, Tensor]
    masks: Mapping[str, Tensor]
    share: float = 1.0

    def __getitem__(self, name: str) -> Tensor:
        return self.tokens[name]

    def __len__(self) -> int:
        return len(next(iter(self.masks.values())))

    def to(self, device: torch.device | str) -> Batch:
        return Batch({k: v.to(device) for k, v in self.tokens.items()}, {k: v.to(device) for k, v in self.masks.items()}, self.share)

    def repeated(self, times: int) -> Batch:
        """Every record `times` times, copies next to each other."""
        return Batch(
            {k: v.repeat_interleave(times, 0) for k, v in self.tokens.items()},
            {k: v.repeat_interleave(times, 0) for k, v in self.masks.items()},
            self.share,
        )

    def mean(self, values: Tensor) -> Tensor:
        """Mean over the records (b,) such that over an epoch each counts alike.

        A batch holds records of similar length, few where they are long. With the plain mean of each batch a long record would count
        more than a short one, and a law of compositions or sizes that is learnt from it lean towards what is large.
        """
        return values.mean() * self.share


class TokenArrays:
    """Many records of one Tokens class as flat arrays with offsets; memory-mapped when loaded from a folder."""

    def __init__(self, kind: type, arrays: Mapping[str, np.ndarray], offsets: Mapping[str, np.ndarray]) -> None:
        self.kind, self.arrays, self.offsets = kind, dict(arrays), dict(offsets)
        self.fields = token_fields(kind)

    def __len__(self) -> int:
        return len(next(iter(self.offsets.values()))) - 1

    def lengths(self, axis: str) -> np.ndarray:
        return np.diff(self.offsets[axis])

    @classmethod
    def from_tokens(cls, kind: type, records: Iterable[Any]) -> TokenArrays:
        """Pack records; all of them are held in memory once."""
        fields = token_fields(kind)
        columns: dict[str, list[np.ndarray]] = {name: [] for name in fields}
        lengths: dict[str, list[int]] = {axis: [] for axis, _, _ in fields.values()}
        for record in records:
            seen: dict[str, int] = {}
            for name, (axis, dtype, _) in fields.items():
                value = np.asarray(getattr(record, name)).astype(dtype)
                if seen.setdefault(axis, len(value)) != len(value):
                    raise ValueError(f"Tokens.{name}: expected length {seen[axis]} as the other fields of axis {axis!r}, got {len(value)}")
                columns[name].append(value)
            for axis, length in seen.items():
                lengths[axis].append(length)
        arrays = {name: np.concatenate(values) if values else np.zeros(0, fields[name][1]) for name, values in columns.items()}
        return cls(kind, arrays, {axis: np.concatenate([[0], np.cumsum(ls, dtype=np.int64)]) for axis, ls in lengths.items()})

    @classmethod
    def concatenated(cls, parts: Sequence[TokenArrays]) -> TokenArrays:
        first = parts[0]
        arrays = {name: np.concatenate([p.arrays[name] for p in parts]) for name in first.arrays}
        offsets = {}
        for axis in first.offsets:
            ends = np.cumsum([0] + [p.offsets[axis][-1] for p in parts])
            offsets[axis] = np.concatenate([first.offsets[axis][:1]] + [p.offsets[axis][1:] + e for p, e in zip(parts, ends, strict=False)])
        return cls(first.kind, arrays, offsets)

    def save(self, folder: str | Path) -> None:
        """Write one .npy per array and an index of sizes; the index is written last."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        for name, array in self.arrays.items():
            np.save(folder / f"{name}.npy", array, allow_pickle=False)
        self.save_index(folder)

    def save_index(self, folder: Path) -> None:
        """Offsets, and the index of sizes that marks the folder complete; the arrays are there already."""
        for axis, array in self.offsets.items():
            np.save(folder / f"offsets_{axis}.npy", array, allow_pickle=False)
        (folder / "index.json").write_text(json.dumps({"records": len(self), "arrays": {n: a.shape for n, a in self.arrays.items()}}))

    def pack(self, path: str | Path) -> None:
        """Write one compressed .npz, to be carried to another machine: of MOSES a seventh of what `save` writes."""
        np.savez_compressed(path, **self.arrays, **{f"offsets_{axis}": array for axis, array in self.offsets.items()})  # type: ignore[arg-type]

    @classmethod
    def load(cls, kind: type, path: str | Path) -> TokenArrays:
        """Open a folder written by `save` without reading it, or read a file written by `pack`.

        Raises:
            DataError: the folder is not complete or is of another Tokens class.
        """
        path, fields = Path(path), token_fields(kind)
        try:
            if path.suffix == ".npz":
                packed = np.load(path, allow_pickle=False)
                arrays, offset_of = {name: packed[name] for name in fields}, lambda axis: packed[f"offsets_{axis}"]
            else:
                json.loads((path / "index.json").read_text())
                arrays = {name: np.load(path / f"{name}.npy", mmap_mode="r", allow_pickle=False) for name in fields}
                offset_of = lambda axis: np.load(path / f"offsets_{axis}.npy", allow_pickle=False)  # noqa: E731
            return cls(kind, arrays, {axis: offset_of(axis) for axis in {axis for axis, _, _ in fields.values()}})
        except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise DataError(f"tokens in {path}: expected what `sciar train` writes, got {error}; delete it to prepare again") from error

    def subset(self, rows: np.ndarray) -> TokenArrays:
        """Some records, copied."""
        rows = np.asarray(rows)
        arrays, offsets = {}, {}
        for axis, offset in self.offsets.items():
            length = np.diff(offset)[rows]
            ends = np.concatenate([[0], np.cumsum(length)])
            index = np.arange(ends[-1]) + np.repeat(offset[rows] - ends[:-1], length)
            offsets[axis] = ends
            arrays.update({name: self.arrays[name][index] for name, (a, _, _) in self.fields.items() if a == axis})
        return TokenArrays(self.kind, arrays, offsets)

    def batch(self, rows: np.ndarray, multiple: int = 8) -> Batch:
        """Records `rows` padded to the longest, rounded up to a multiple (few shapes: few compiled kernels)."""
        rows = np.asarray(rows)
        tokens: dict[str, Tensor] = {}
        masks: dict[str, Tensor] = {}
        for axis, offset in self.offsets.items():
            start, length = offset[rows], offset[rows + 1] - offset[rows]
            width = max(1, -(-int(length.max(initial=0)) // multiple) * multiple) if length.max(initial=0) > 1 else 1
            column = np.arange(width)
            real = column[None] < length[:, None]
            index = np.where(real, start[:, None] + column[None], 0)
            masks[axis] = torch.from_numpy(real)
            for name, (a, dtype, pad) in self.fields.items():
                if a != axis:
                    continue
                flat = self.arrays[name]
                padded = flat[index] if len(flat) else np.zeros((*index.shape, *flat.shape[1:]), dtype)
                padded[~real] = pad
                tokens[name] = torch.from_numpy(padded if dtype.kind == "f" else padded.astype(np.int64))
        return Batch(tokens, masks)


def collate(kind: type, records: Sequence[Any], multiple: int = 8) -> Batch:
    """Pad a list of Tokens into one Batch."""
    return TokenArrays.from_tokens(kind, records).batch(np.arange(len(records)), multiple)
