"""Protocols that turn a model, or somebody's samples, into numbers that can be compared.

One protocol = one module of this package with `run_protocol`; protocols that differ in the data only share one. Published rows, each
with source and protocol, are in `published.yaml`; rows of another protocol say so and are not to be compared.

    >>> protocols()[:5]
    ('bonds', 'community', 'conformers', 'constraints', 'ego')
"""

from __future__ import annotations

import dataclasses
import importlib
import json as jsonlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sciar.errors import InputError

SHARED = {  # protocols of one module, which is told which one it is
    **dict.fromkeys(("community", "ego", "planar", "sbm", "tree"), "graphs"),
    **dict.fromkeys(("qm9-graphs", "zinc250k"), "molecule_graphs"),
}
Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and of how much."""


@dataclass(frozen=True, slots=True, eq=False)
class Result:
    """What a protocol measured.

    Args:
        protocol: its name.
        n_requested: samples asked for.
        n_drawn: samples the model drew.
        seconds: spent drawing.
        raw: metrics over every draw.
        ranked: the same over the draws kept by score; None when nothing was ranked.
        intervals: 95 % bootstrap intervals of entries of `raw`.
        published: rows of `published.yaml` for this protocol.
        rows: the table: one mapping per line.
        notes: what a reader of the numbers must know.
    """

    protocol: str
    n_requested: int
    n_drawn: int
    seconds: float
    raw: Mapping[str, float]
    ranked: Mapping[str, float] | None = None
    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    published: Sequence[Mapping[str, Any]] = ()
    rows: Sequence[Mapping[str, Any]] = ()
    notes: Sequence[str] = ()

    def as_dict(self) -> dict[str, Any]:
        """Everything in JSON's types; what is not a number is null."""
        plain: dict[str, Any] = _plain({f.name: getattr(self, f.name) for f in dataclasses.fields(self)})
        return plain

    def to_json(self, path: str | Path) -> None:
        """Write `as_dict()`.

        Raises:
            OSError: the file cannot be written.
        """
        Path(path).write_text(jsonlib.dumps(self.as_dict(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Header and cells as text: measured rows, then published ones."""
        lines: list[Mapping[str, Any]] = [*self.rows]
        header = list(dict.fromkeys(key for line in lines for key in line))
        for row in self.published if header else ():
            label = row["model"] + ("" if row["comparable"] else " (another protocol)")
            known = {"set": row.get("set"), **row["values"]}
            lines.append({header[0]: label, **{key: value for key, value in known.items() if key in header}})
        return header, [[_cell(line.get(key)) for key in header] for line in lines]

    def __str__(self) -> str:
        header, cells = self.table()
        widths = [max(len(row[k]) for row in [header, *cells]) for k in range(len(header))]
        text = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in [header, *cells]]
        return "\n".join([f"{self.protocol}: {self.n_drawn} draws, {self.seconds:.1f} s", *text, *self.notes])


def protocols() -> tuple[str, ...]:
    """Names that `run` takes."""
    names = "bonds conformers constraints moses mp20-csp mp20-denovo predict properties pxrd qm9 reconstruction speed"
    return tuple(sorted((*names.split(), *SHARED)))


def run(
    name: str,
    model: Any = None,
    samples: str | Path | None = None,
    json: str | Path | None = None,
    n: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
    **options: Any,
) -> Result:
    """Run one protocol.

    Args:
        name: one of `protocols()`.
        model: a bundled name, a weights file or a `Generator`.
        samples: a file of somebody's samples instead of a model (`qm9`, `moses`, graphs and crystals).
        json: write the result there too.
        n: draws, per molecule for `conformers`; None = the protocol's own number.
        seed: of the draws and of the choice of molecules.
        progress: told what is being done.
        **options: of the protocol: see its `run_protocol`.

    Raises:
        InputError: no such protocol, or options it does not have.
    """
    from inspect import signature

    if name not in protocols():
        raise InputError(f"bench: expected one of {', '.join(protocols())}, got {name!r}")
    module = SHARED.get(name, name.replace("-", "_"))
    protocol = importlib.import_module(f"{__name__}.{module}").run_protocol
    given = {"protocol": name if name in SHARED else None, "model": model, "samples": samples, "n": n, **options}
    arguments = {key: value for key, value in given.items() if value is not None}
    accepted = signature(protocol).parameters
    for key in arguments:
        if key not in accepted:
            raise InputError(f"bench {name}: expected options among {', '.join(accepted)}, got {key!r}")
    result: Result = protocol(**arguments, seed=seed, progress=progress or (lambda what, done, total: None))
    if json is not None:
        result.to_json(json)
    return result


def published(protocol: str) -> list[dict[str, Any]]:
    """Published rows of a protocol: model, values (shares or Å), source, protocol, comparable, note."""
    import yaml

    text = (Path(__file__).parent / "published.yaml").read_text(encoding="utf-8")
    rows: list[dict[str, Any]] = yaml.safe_load(text)[protocol]
    return rows


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _cell(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    if isinstance(value, float):
        form = ".2g" if 0 < abs(value) < 0.01 else ".3f" if abs(value) < 100 else ".0f"
        return format(value, form)
    return str(value)
