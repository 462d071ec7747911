"""Structures to token arrays on disk: in chunks, by all processors, resumable, in little memory.

Each chunk becomes a folder of its own, so a run that was stopped goes on with the first chunk that is missing; at the end
the chunks are copied one after the other into memory-mapped arrays. Chunks are a function of the rows alone.
"""

from __future__ import annotations

import multiprocessing
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from sciar.batch import TokenArrays, token_fields
from sciar.structure import Structure

CHUNK = 8192  # structures
SMALL = 4 * CHUNK  # below this a pool of processes costs more than it saves

Progress = Callable[[int, int], None]


def write(kind: type, tokenizer: Any, structures: Sequence[Structure], folder: Path, progress: Progress | None = None) -> None:
    """Encode what the tokenizer can hold of `structures` into `folder`, readable by `TokenArrays.load`.

    One process at a time; another one that wants the same waits, and finds it done.

    Args:
        kind: the family's Tokens class.
        structures: a store or a list.
        progress: told how many structures of how many are done.

    Raises:
        OSError: the disk is full; the chunks that are done are kept.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f"{folder.name}.lock")):
        if not (folder / "index.json").exists():
            _write(kind, tokenizer, structures, folder, progress)


def _write(kind: type, tokenizer: Any, structures: Sequence[Structure], folder: Path, progress: Progress | None) -> None:
    drafts = folder.with_name(f"{folder.name}.chunks")
    starts = range(0, len(structures), CHUNK)
    todo = [start for start in starts if not (_place(drafts, start) / "index.json").exists()]
    jobs = [(kind, tokenizer, structures[start : start + CHUNK], _place(drafts, start)) for start in todo]
    for done, _ in enumerate(_mapped(jobs, len(structures) > SMALL), 1):
        if progress is not None:
            progress(min((len(starts) - len(todo) + done) * CHUNK, len(structures)), len(structures))
    _join(kind, [TokenArrays.load(kind, _place(drafts, start)) for start in starts], folder)
    shutil.rmtree(drafts, ignore_errors=True)


def _place(drafts: Path, start: int) -> Path:
    return drafts / f"{start:09d}"


def _mapped(jobs: list[tuple[Any, ...]], pooled: bool) -> Iterator[None]:
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise RuntimeError("encode: expected to be called by a script, got a re-import by a worker; use if __name__ == '__main__'")
    if not pooled:
        yield from map(_chunk, jobs)
        return
    # a fork needs no `if __name__ == "__main__"` in the caller's script; an executor reports a worker that dies, a Pool starts the next
    way = "fork" if "fork" in multiprocessing.get_all_start_methods() else "spawn"
    with ProcessPoolExecutor(mp_context=multiprocessing.get_context(way)) as pool:
        yield from pool.map(_chunk, jobs)


def _chunk(job: tuple[type, Any, Sequence[Structure], Path]) -> None:
    kind, tokenizer, structures, folder = job
    present = (s for s in structures if s.bonds is not None or s.cell is not None)
    TokenArrays.from_tokens(kind, tokenizer.encode_many(present)).save(folder)


def _join(kind: type, parts: list[TokenArrays], folder: Path) -> None:
    """Copy `parts` one after the other into flat files; what `TokenArrays.concatenated` does in memory."""
    parts = [part for part in parts if len(part)]
    if len(parts) < 2:
        (parts[0] if parts else TokenArrays.from_tokens(kind, [])).save(folder)
        return
    folder.mkdir(parents=True, exist_ok=True)
    offsets = {}
    for axis in parts[0].offsets:
        ends = np.cumsum([0] + [int(part.offsets[axis][-1]) for part in parts])
        offsets[axis] = np.concatenate([[0], *(part.offsets[axis][1:] + end for part, end in zip(parts, ends, strict=False))])
    arrays = {}
    for name in token_fields(kind):
        pieces = [part.arrays[name] for part in parts]
        whole = np.lib.format.open_memmap(
            folder / f"{name}.npy", "w+", pieces[0].dtype, (sum(len(p) for p in pieces), *pieces[0].shape[1:])
        )
        at = 0
        for piece in pieces:
            whole[at : at + len(piece)] = piece
            at += len(piece)
        whole.flush()
        arrays[name] = whole
    TokenArrays(kind, arrays, offsets).save_index(folder)
