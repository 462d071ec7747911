"""Somebody's samples instead of a model's: every record counts, also one that cannot be read."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from sciar.errors import InputError
from sciar.structure import Structure


@dataclass(frozen=True, slots=True, eq=False)
class Given:
    """Records in order.

    Args:
        name: of the file, or "samples".
        structures: None where a record is a failed draw: empty or not to be read.
        problems: why a record cannot be read.
    """

    name: str
    structures: list[Structure | None]
    problems: dict[int, str] = field(default_factory=dict)

    @property
    def scores(self) -> np.ndarray:
        """What the records say of their likelihood, nats; nan = nothing."""
        told = [s.info.get("SCIAR_SCORE", "nan") if s is not None else "nan" for s in self.structures]
        return np.array([float(str(score)) for score in told])

    def notes(self) -> list[str]:
        """Unreadable records, the first five of them with the reason."""
        if not self.problems:
            return []
        some = "; ".join(f"{row}: {reason}" for row, reason in list(self.problems.items())[:5])
        return [
            f"{self.name}: {len(self.problems)} records cannot be used and count as failed draws: {some}{' …' * (len(self.problems) > 5)}"
        ]


def given(protocol: str, samples: str | os.PathLike[str] | Sequence[Structure | None], n: int | None = None) -> Given:
    """The records of a file or folder, see `records`, or structures as they are.

    Args:
        protocol: for the error message.
        n: cut or filled up with failed draws to so many; None = as many as there are.

    Raises:
        InputError: no such file, an unknown format, or no record.
    """
    structures: list[Structure | None] = []
    problems: dict[int, str] = {}
    name = "samples"
    if isinstance(samples, (str, os.PathLike)):
        name = Path(samples).name
        for row, found in records(Path(samples)):
            if isinstance(found, str):
                problems[row] = found
                structures.append(None)
            else:
                structures.append(found if found.n_atoms else None)
    else:
        structures = [s if s is not None and s.n_atoms else None for s in samples]
    if n is not None:
        structures = structures[:n] + [None] * (n - len(structures))
    if not structures:
        raise InputError(f"bench {protocol}: expected draws, got none in {name}; write one record per draw, an empty one for a failed draw")
    return Given(name, structures, problems)


def records(path: Path) -> Iterator[tuple[int, Structure | str]]:
    """(number from 0, structure or why there is none) of a file or folder that `sciar.files.iter_read` knows, or of all draws of a folder
    that `sciar generate --ray` has filled, with what is written of each draw in a file (SCIAR_ROW, SCIAR_SCORE …) in `info`.

    Raises:
        InputError: nothing of that kind, or a folder that lacks draws.
    """
    if not (path / "manifest.json").is_file():
        from sciar.files import iter_read

        yield from iter_read(path)
        return
    from sciar.shards import Shards

    shards = Shards(path)
    if (n := shards.n_draws()) < shards.n_requested:
        raise InputError(f"{path.name}: expected {shards.n_requested:,} draws, got {n:,}; draw the rest, the same `sciar generate` goes on")
    for k, record in enumerate(shards.samples().records):
        structure = record.verdict.structure
        yield k, replace(structure, info={**structure.info, **record.properties})


def one_of(protocol: str, model: Any, samples: Any) -> None:
    """
    Raises:
        InputError: neither or both are given.
    """
    if (model is None) == (samples is None):
        raise InputError(f"bench {protocol}: expected model= or samples=, got both or none of them")
