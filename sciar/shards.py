"""A folder of finished shards: one Parquet table and the text files of each, under a manifest that says what is drawn.

    manifest.json            the request, weights, seed and size of a shard; another request is refused
    parquet/00000.parquet    one line per draw: index, row, draw, verdict, reasons, score, structure
    sdf/00000.sdf            the same draws as text: sdf and smi of molecules, cif of crystals, g6 of plain graphs

Each file appears at once and whole, the table last; a shard that has a table is finished.
"""

from __future__ import annotations

import io
import json
import math
import os
import secrets
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sciar.checkpoint import replacing
from sciar.errors import InputError, SciarError
from sciar.journal import fingerprint
from sciar.record import Record, pack, smiles, unpack
from sciar.request import ALLOWED, Row, check
from sciar.samples import Run, Samples
from sciar.validate import Verdict, validate

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

CONSTRAINTS = frozenset().union(*ALLOWED.values())
_ARRAYS = {"numbers": 1, "positions": 2, "cell": 2, "bonds": 2, "charges": 1, "hydrogens": 1, "tetrahedral": 2, "double_bonds": 2}
_NOTES = ("charge_balanced", "space_group", "pxrd_cosine", "pxrd_rwp")  # of crystals
_TABLE = "row draw label smiles formula valid reasons score calls attempts fallback".split()  # as in `Samples.df`


class Shards:
    """A folder that `generate` wrote or is writing.

    Args:
        folder: with a manifest.

    Raises:
        InputError: it has none.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        try:
            self.manifest: dict[str, Any] = json.loads((self.folder / "manifest.json").read_text())
            self.n_requested: int = self.manifest["n_requested"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            got = getattr(error, "strerror", None) or "a broken one"
            raise InputError(f"{self.folder}: expected a folder with a manifest.json of sciar, got {got.lower()}; check the path") from None
        self._finished: dict[int, dict[str, Any]] = {}

    @classmethod
    def begun(cls, folder: Path, facts: dict[str, Any], more: Mapping[str, Any]) -> Shards:
        """A new folder, or that of the same facts; what a killed run left half-written is removed.

        Raises:
            InputError: the folder holds another request.
        """
        facts = json.loads(json.dumps(facts, default=str))
        if (folder / "manifest.json").exists():
            shards = cls(folder)
            if facts["seed"] is None:
                facts["seed"] = shards.manifest["seed"]
            for name, old, new in _differences(shards.manifest, facts):
                raise InputError(
                    f"{folder}: expected the request that this folder holds, with {name} = {old}, got {name} = {new}; choose another folder"
                )
            for part in folder.glob("*/.*.part"):
                part.unlink(missing_ok=True)
            return shards
        if facts["seed"] is None:
            facts["seed"] = secrets.randbelow(2**31)
        for suffix in ("parquet", *more["formats"]):
            (folder / suffix).mkdir(parents=True, exist_ok=True)
        manifest = {**facts, **more, "fingerprint": fingerprint(facts)}
        with replacing(folder / "manifest.json") as part:
            part.write_text(json.dumps(manifest, indent=1) + "\n")
        return cls(folder)

    def __repr__(self) -> str:
        return f"Shards({str(self.folder)!r}, {self.summary()})"

    @property
    def n_shards(self) -> int:
        return math.ceil(self.n_requested / self.manifest["shard"])

    def paths(self, suffix: str) -> list[Path]:
        """The files of finished shards in draw order."""
        return [self._path(k, suffix) for k in sorted(self.finished())]

    def n_draws(self) -> int:
        """Samples of finished shards."""
        return sum(facts["n"] for facts in self.finished().values())

    def finished(self) -> Mapping[int, Mapping[str, Any]]:
        """{number of a finished shard: its counts}; a table that cannot be read is not finished.

        Raises:
            InputError: a table of another run.
        """
        pq = parquet()
        for k in range(self.n_shards):
            if k in self._finished or not (path := self._path(k, "parquet")).exists():
                continue
            try:
                facts = json.loads(pq.read_metadata(path).metadata[b"sciar"])
            except (OSError, ValueError, KeyError, TypeError):  # pyarrow's own errors are of these kinds
                continue
            if facts["fingerprint"] != self.manifest["fingerprint"]:
                raise InputError(f"{path}: expected a table of the run in {self.folder}, got that of another one; remove it")
            self._finished[k] = facts
        return self._finished

    def add(self, number: int, files: Mapping[str, bytes]) -> None:
        """Write a shard, its table last.

        Raises:
            SciarError: disk full. Earlier shards are whole.
        """
        try:
            for suffix in sorted(files, key="parquet".__eq__):
                with replacing(self._path(number, suffix)) as part:
                    part.write_bytes(files[suffix])
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            count = f"{len(self.finished())} of {self.n_shards} shards"
            raise SciarError(
                f"{self.folder}: expected room to write, got {reason!r} after {count}; free space and run the same again"
            ) from error

    @property
    def run(self) -> Run:
        """How the draws came to be, over all finished shards; `seconds` is the sum over workers."""
        manifest, facts = self.manifest, list(self.finished().values())
        total = {name: sum(f[name] for f in facts) for name in ("n_drawn", "n_valid", "seconds", "calls", "n_fallback")}
        reasons: Counter[str] = Counter()
        for f in facts:
            reasons.update(f["reasons"])
        return Run(
            manifest["arguments"]["task"],
            manifest["model"],
            manifest["weights_sha256"],
            manifest["seed"],
            self.n_requested,
            **total,
            reasons=dict(reasons.most_common()),
            refused={int(row): sentence for row, sentence in manifest["refused"].items()},
            arguments=manifest["arguments"],
            versions=manifest["versions"],
        )

    def summary(self) -> str:
        """One line, as `Samples.summary`; of an unfinished run it says how much is left."""
        line = Samples((), self.run).summary()
        left = self.n_shards - len(self.finished())
        return f"{line}; {left} of {self.n_shards} shards left" if left else line

    def report(self) -> dict[str, Any]:
        """Facts of the run, as `Samples.report`."""
        return Samples((), self.run).report()

    @property
    def df(self) -> pd.DataFrame:
        """The table of `Samples.df` with the index of each draw, without structures."""
        import pandas as pd

        pq = parquet()
        names = ["index", *_TABLE, *(_NOTES if self.manifest["arguments"]["task"] == "crystal" else ())]
        parts = [pq.read_table(path, columns=names).to_pandas() for path in self.paths("parquet")]
        table = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=names)
        return table.assign(reasons=["; ".join(reasons) for reasons in table["reasons"]])

    def samples(self) -> Samples:
        """The draws of finished shards in memory, with RDKit, pymatgen or networkx objects; reasons are those that were written."""
        asked = {name: value for name, value in self.manifest["arguments"].items() if name in CONSTRAINTS | {"task", "n"}}
        rows = check(**asked).rows
        pq = parquet()
        records = [_record(line, rows) for path in self.paths("parquet") for line in pq.read_table(path).to_pylist()]
        samples = Samples(records, self.run)
        return samples.drop_invalid() if self.manifest["arguments"]["drop_invalid"] else samples

    def _path(self, number: int, suffix: str) -> Path:
        return self.folder / suffix / f"{number:05d}.{suffix}"


def span_of(manifest: Mapping[str, Any], number: int) -> range:
    """The draws of a shard."""
    first = number * manifest["shard"]
    return range(first, min(first + manifest["shard"], manifest["n_requested"]))


def parquet() -> Any:
    """pyarrow's module.

    Raises:
        InputError: it is not installed.
    """
    try:
        import pyarrow.parquet as pq
    except ImportError:
        raise InputError("shards: expected the package pyarrow, got none; pip install 'sciar[ray]'") from None
    return pq


def _differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    for name in new:
        if name == "arguments":
            yield from _differences({**dict.fromkeys(new[name]), **old[name]}, {**dict.fromkeys(old[name]), **new[name]})
        elif old[name] != new[name]:
            yield name, _brief(old[name]), _brief(new[name])


def _brief(value: Any) -> str:
    shown = json.dumps(value)
    return shown if len(shown) <= 60 else f"{shown[:60]}…"


def _schema(crystal: bool, facts: Mapping[str, Any]) -> pa.Schema:
    import pyarrow as pa

    nested = [pa.int64(), pa.list_(pa.int64()), pa.list_(pa.list_(pa.int64()))]
    real = pa.list_(pa.list_(pa.float64()))
    words = {name: pa.string() for name in ("label", "smiles", "formula", "fallback", "tag", "failure")}
    fields = {name: pa.int64() for name in ("index", "row", "draw")} | {name: words[name] for name in ("label", "smiles", "formula")}
    fields |= {"valid": pa.bool_(), "reasons": pa.list_(pa.string()), "score": pa.float64(), "calls": pa.int64(), "attempts": pa.int64()}
    fields |= {"fallback": pa.string(), "tag": pa.string()}
    if crystal:
        fields |= dict(zip(_NOTES, (pa.bool_(), pa.int64(), pa.float64(), pa.float64()), strict=True))
    fields |= {name: real if name in ("positions", "cell") else nested[depth] for name, depth in _ARRAYS.items()}
    return pa.schema([*fields.items(), ("failure", pa.string())], metadata={"sciar": json.dumps(facts)})


def table(records: Sequence[Record], span: range, facts: Mapping[str, Any]) -> bytes:
    """A shard as a Parquet file; every field of the record and of its structure is a column, floats keep every digit."""
    import pyarrow as pa

    lines = []
    for index, r in zip(span, records, strict=True):
        structure = r.verdict.structure
        arrays = pack(structure)
        line = {name: getattr(r, name) for name in ("row", "draw", "label", "valid", "calls", "attempts", "fallback", "tag")}
        line |= {"index": index, "smiles": smiles(r), "formula": structure.formula, "reasons": list(r.verdict.reasons)}
        line |= {"score": None if math.isnan(r.score) else r.score, **{key: structure.info.get(key) for key in _NOTES}}
        lines.append({**line, **arrays.pop("info", {}), **arrays})
    crystal = any(r.tag == "SCIAR_FORMULA" for r in records)
    file = io.BytesIO()
    parquet().write_table(pa.Table.from_pylist(lines, schema=_schema(crystal, facts)), file)
    return file.getvalue()


def _record(line: Mapping[str, Any], rows: tuple[Row, ...]) -> Record:
    """A line of a table as it was drawn. Judged again for its native object alone: what was said of it then stands."""
    entry = {name: line[name] for name in _ARRAYS if line[name] is not None}
    structure = unpack({**entry, "info": {"failure": line["failure"]}} if line["failure"] else entry)
    reasons = tuple(line["reasons"])
    if line["attempts"]:
        judged = validate(structure, rows[line["row"]].prompt)
        verdict = Verdict(judged.structure, judged.native, reasons)
    else:  # its row was refused
        verdict = Verdict(structure, None, reasons)
    kept = {name: line[name] for name in ("row", "draw", "label", "calls", "attempts", "fallback", "tag")}
    return Record(verdict=verdict, score=math.nan if line["score"] is None else line["score"], **kept)
