"""The side file of an unfinished run: one JSON line per draw, so that a killed run goes on without loss or repeats.

Line 0 is a fingerprint of the run; every other line is one finished draw with its structure. It is written
before the output file and removed once that is complete.
"""

from __future__ import annotations

import hashlib
import json
import math
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from sciar.errors import InputError
from sciar.processes import keep
from sciar.record import pack, unpack
from sciar.structure import Structure


@dataclass(frozen=True, slots=True, eq=False)
class Entry:
    """One finished draw: its structure, score in nats and network evaluations."""

    structure: Structure
    score: float
    calls: int


def fingerprint(facts: Mapping[str, Any]) -> str:
    """SHA-256 of whatever makes a draw what it is."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()


class Journal:
    """Finished draws of one run by key (index, attempt); those of an earlier, interrupted run are there from the start.

    Args:
        output: the file that the run writes; the journal is its neighbour `<name>.journal`.
        facts: whatever makes a draw what it is (weights, arguments); a journal of other facts is refused
            once it holds a draw.
        seed: None = that of the journal, or a new one.

    Raises:
        InputError: the journal next to `output` belongs to another run, or one is being written there now.
        OSError: it cannot be written.
    """

    def __init__(self, output: Path, facts: Mapping[str, Any], seed: int | None) -> None:
        self.path = output.with_name(f"{output.name}.journal")
        self.done: dict[tuple[int, int], Entry] = {}
        self.seconds = 0.0  # spent by earlier, interrupted runs
        self.seed = seed
        run = fingerprint(facts)
        self._file: IO[bytes] = open(self.path, "a+b", buffering=0)  # noqa: SIM115 (closed by close)
        try:
            keep(self._file)
            whole = self._load(run)
        except BlockingIOError:
            self._file.close()
            raise InputError(
                f"{output}: expected a file that no other run writes, got one; wait for that run or choose another name"
            ) from None
        except InputError:
            self._file.close()
            raise
        self._file.truncate(whole)
        self._size = whole
        if self.seed is None:
            self.seed = secrets.randbelow(2**31)
        if not whole:
            self._line({"run": run, "seed": self.seed})

    def add(self, key: tuple[int, int], entry: Entry, seconds: float) -> None:
        """Note a finished draw; on disk (in the system's hands) when this returns.

        Raises:
            OSError: disk full. What was noted before is still whole.
        """
        score = None if math.isnan(entry.score) else entry.score
        self._line(
            {
                "key": key,
                "score": score,
                "calls": entry.calls,
                "seconds": round(self.seconds + seconds, 3),
                "structure": pack(entry.structure),
            }
        )
        self.done[key] = entry

    def close(self, complete: bool) -> None:
        """Let go of the file; remove it if the output is complete."""
        self._file.close()
        if complete:
            self.path.unlink(missing_ok=True)

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close(complete=False)

    def _line(self, content: Mapping[str, Any]) -> None:
        line = (json.dumps(content) + "\n").encode()
        try:
            written = self._file.write(line)
            if written != len(line):
                raise OSError(28, "No space left on device", str(self.path))
        except BaseException:  # also Ctrl-C: never leave half a line behind
            self._file.truncate(self._size)
            raise
        self._size += len(line)

    def _load(self, run: str) -> int:
        """Read what is whole; the number of bytes that are. Of another run that noted no draw (it was refused, say) nothing is kept."""
        size, other = 0, False
        with open(self.path, "rb") as file:
            for number, line in enumerate(file):
                try:
                    content = json.loads(line) if line.endswith(b"\n") else None
                except ValueError:
                    content = None
                if content is None:  # the run was killed while it wrote this line
                    break
                if number == 0:
                    other = content.get("run") != run or self.seed not in (None, content["seed"])
                    self.seed = self.seed if other else content["seed"]
                elif other:
                    raise InputError(
                        f"{self.path}: expected the journal of this run, got that of another one (other model, seed or arguments); "
                        "finish that run, choose another output name or delete the journal"
                    )
                else:
                    score = math.nan if content["score"] is None else content["score"]
                    self.done[tuple(content["key"])] = Entry(unpack(content["structure"]), score, content["calls"])
                    self.seconds = content["seconds"]
                size += len(line)
        return 0 if other else size
