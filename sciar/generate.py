"""The front door: `generate` and `load`. Checks first, then draws, judges, ranks and writes as it goes."""

from __future__ import annotations

import dataclasses
import difflib
import importlib.metadata
import inspect
import math
import os
import platform
import secrets
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal, overload

from sciar import checkpoint
from sciar.errors import InputError, SciarError
from sciar.generator import Generator, chosen_device, load
from sciar.journal import Journal
from sciar.notation import parse_smiles
from sciar.prompt import Prompt
from sciar.record import Record, suffix_of, text
from sciar.record import smiles as smiles_of
from sciar.request import Request, Row, check, known, whole, within_limits
from sciar.samples import Run, Samples
from sciar.sampling import Preview, Sampling
from sciar.validate import Verdict

BATCH_SIZE = {"cpu": 64, "cuda": 256}
FALLBACKS = ("etkdg",)
Progress = Callable[[int, int], None] | Literal[True] | None


@dataclass(frozen=True, slots=True, eq=False)
class How:
    """Everything about a run that is not about what is drawn; as the arguments of `generate`."""

    seed: int | None = None
    batch_size: int | None = None
    retry: int = 0
    keep: float = 1.0
    fallback: str | None = None
    progress: Progress = None
    out: Path | None = None
    drop_invalid: bool = False

    def check(self, request: Request) -> None:
        """Refuse what cannot be done.

        Raises:
            InputError: a number out of range, an output that cannot be written.
        """
        if self.seed is not None:
            whole(self.seed, "seed", 0)
        if self.batch_size is not None:
            whole(self.batch_size, "batch_size", 1)
        whole(self.retry, "retry", 0)
        if isinstance(self.keep, bool) or not isinstance(self.keep, (int, float)) or not 0 < self.keep <= 1:
            raise InputError(f"keep: expected a fraction above 0 and up to 1, got {self.keep!r}; 1 keeps everything")
        if self.fallback is not None:
            known(self.fallback, FALLBACKS, "fallback")
            if request.task != "conformer":
                raise InputError(f"fallback: expected task 'conformer', got {request.task!r}; RDKit can only embed a given molecule")
        if self.out is not None:
            suffix = suffix_of(self.out) if not _is_device(self.out) else ".sdf"
            graphs_only = suffix in (".g6", ".edgelist") and request.task != "graph"
            if graphs_only or ((suffix == ".cif") != (request.task == "crystal") and suffix in (".cif", ".sdf", ".smi")):
                raise InputError(
                    f"output: expected a format for task {request.task!r}, got {suffix}; use .json, .extxyz or one of the task's own"
                )
            if self.out.is_dir():
                raise InputError(f"output: expected a file, got the folder {self.out}; add a file name")
            if not self.out.parent.is_dir():
                raise InputError(f"output: expected an existing folder, got {self.out.parent}; create it first")
            if not os.access(self.out if self.out.exists() else self.out.parent, os.W_OK):
                raise InputError(f"output: expected a place that can be written, got {self.out}; choose another one")


@overload
def generate(task: str | None = ..., *, stream: Literal[True], **arguments: Any) -> Iterator[Verdict]: ...
@overload
def generate(task: str | None = ..., *, stream: Literal["levels"], **arguments: Any) -> Iterator[Preview]: ...
@overload
def generate(task: str | None = ..., *, stream: Literal[False] = ..., **arguments: Any) -> Samples: ...
def generate(
    task: str | None = None,
    *,
    n: int = 1,
    smiles: Any = None,
    scaffold: str | None = None,
    fixed: Any = None,
    formula: Any = None,
    elements: Any = None,
    n_atoms: int | tuple[int, int] | None = None,
    n_formula_units: int | None = None,
    spacegroup: int | str | None = None,
    pxrd: Any = None,
    properties: Mapping[str, float] | None = None,
    model: str | os.PathLike[str] | Generator | None = None,
    seed: int | None = None,
    batch_size: int | None = None,
    device: str | None = None,
    retry: int = 0,
    keep: float = 1.0,
    fallback: str | None = None,
    stream: bool | Literal["levels"] = False,
    progress: Progress = None,
    out: str | os.PathLike[str] | None = None,
    drop_invalid: bool = False,
    then_3d: bool = False,
    **options: Any,
) -> Samples | Iterator[Verdict] | Iterator[Preview]:
    """Draw molecules, conformers, crystals or graphs; every draw is kept with its verdict.

    Args:
        task: "conformer", "molecule", "graph" or "crystal"; None = inferred from the constraints.
        n: draws, for each row of `smiles` or `formula`.
        smiles: one SMILES or a list: draw conformers.
        scaffold: SMILES of a fragment the answer must contain, `*` where it may grow.
        fixed: atoms with positions that the answer must contain: Structure, RDKit Mol or file.
        formula: one formula or a list: draw crystals, or with task "molecule" isomers, of this composition.
        elements: the only elements allowed, as a list or text such as "Li-Fe-O"; molecules may also have hydrogen.
        n_atoms: number of atoms, or (fewest, most), of molecules with hydrogens, of graphs without.
        n_formula_units: how many of `formula` the cell of a crystal holds; None = any number.
        spacegroup: international number, 1 to 230, or Hermann–Mauguin symbol.
        pxrd: powder pattern: rows of (2θ in degrees at Cu Kα, intensity), or a file (.xy .xye .csv .txt).
        properties: wanted values, the unit in the key or left out: {"gap_eV": 5.0} or {"gap": 5.0}.
        model: bundled name, weights file, hub repository or a `Generator`; None = the bundled one for the task.
        seed: with it, draw i is the same on every run; None = a new one, which the report tells.
        batch_size: to begin with; out-of-memory halves it.
        device: "cpu", "cuda", "cuda:1"; None or "auto" = a GPU if there is one.
        retry: redraw each failure up to so many times; the summary counts every draw.
        keep: keep only this fraction of each row, the best by score.
        fallback: "etkdg" = RDKit's coordinates where every attempt failed; such samples say so.
        stream: return an iterator of verdicts in draw order instead; with "levels", of a family that draws coarse to fine, an iterator of
            `Preview`s, which show each draw level by level as it sharpens.
        progress: True = a tqdm bar, or a function of (done, requested).
        out: file to write to while drawing (.sdf .xyz .extxyz .smi .cif .json .g6 .edgelist); the same call resumes an interrupted run.
        drop_invalid: leave invalid draws out of `out` and of the answer.
        then_3d: of task "graph": hand the valid graphs to the bundled conformer model, one conformer each; the others become refused rows.
        **options: for the model's sampler, such as nfe=10 or temperature=0.9; those that the weights' card names are the default.

    Returns:
        Samples in draw order. Ctrl-C returns what is done, with `samples.run.interrupted` set.

    Raises:
        InputError: what is asked cannot be done; raised before any model is loaded where possible.
        WeightsError: the model is missing or broken.
        SciarError: the disk is full (what is done is kept and the same call goes on), or memory is exhausted.
    """
    request = check(
        task,
        n=n,
        smiles=smiles,
        scaffold=scaffold,
        fixed=fixed,
        formula=formula,
        elements=elements,
        n_atoms=n_atoms,
        n_formula_units=n_formula_units,
        spacegroup=spacegroup,
        pxrd=pxrd,
        properties=properties,
    )
    how = How(seed, batch_size, retry, keep, fallback, progress, Path(out) if out is not None else None, drop_invalid)
    how.check(request)
    if then_3d and (request.task != "graph" or stream):
        what = "stream=" if request.task == "graph" else f"task {request.task!r}"
        raise InputError(f"then_3d: expected task 'graph' without stream=, got {what}; leave then_3d out")
    if stream and (out is not None or keep < 1):
        raise InputError("stream: expected neither out= nor keep=, which need the whole run; leave stream=True out")
    if stream not in (True, False, "levels"):
        raise InputError(f"stream: expected True, False or 'levels', got {stream!r}; correct it")
    if stream == "levels" and (retry or fallback):
        raise InputError("stream: expected neither retry= nor fallback= with 'levels', got one; leave it out")
    generator, rows, all_options = ready(request, how, model, device, options)
    if stream == "levels" and not generator.model.coarse_to_fine:
        raise InputError(f"stream: expected a model that draws coarse to fine for 'levels', got {generator.name!r}; use stream=True")
    if stream:
        sampling = prepared(generator, request, how, rows, all_options, None, seed if seed is not None else secrets.randbelow(2**31))
        return sampling.previews() if stream == "levels" else _stream(sampling)
    if then_3d:
        flat = dataclasses.replace(how, out=None, drop_invalid=False)
        return _in_3d(_draw(generator, request, flat, rows, all_options), how, device)
    return _draw(generator, request, how, rows, all_options)


def _in_3d(graphs: Samples, how: How, device: str | None) -> Samples:
    """One conformer of every valid graph; the verdict of another is why its row is refused."""
    rows = []
    for record in graphs.records:
        text = smiles_of(record) if record.valid else None
        problem = None if text else f"graph: {'; '.join(record.verdict.reasons)}"
        rows.append(Row(text, Prompt(graph=parse_smiles(text)) if text else None, problem))
    if all(row.problem for row in rows):
        raise InputError(f"then_3d: expected a valid graph, got none ({rows[0].problem}); draw more of them")
    request = Request("conformer", 1, tuple(rows), {"task": "conformer", "n": 1, "smiles": [row.label or "" for row in rows]})
    how = dataclasses.replace(how, seed=graphs.run.seed, keep=1.0)
    generator, drawable, options = ready(request, how, None, device, {})
    return _draw(generator, request, how, drawable, options)


def rerun(report: Mapping[str, Any], **changes: Any) -> Samples:
    """Do again what a report tells, with the same weights and seed.

    Args:
        report: from `Samples.report()` or a report file.
        **changes: arguments of `generate` that replace the report's, such as out= or n=.

    Raises:
        InputError: not a report, or the weights of that name are others now.
    """
    try:
        arguments = {**report["arguments"], "model": report["model"], "seed": report["seed"], **changes}
        wanted = report["weights_sha256"]
    except (KeyError, TypeError):
        raise InputError("report: expected one that `sciar generate --report` wrote, got something else; pass its path") from None
    if "model" not in changes:
        header = checkpoint.read_header(checkpoint.find(arguments["model"]))
        if header["sha256"] != wanted:
            got = f"{header['sha256'][:12]}…; get the same weights or pass model="
            raise InputError(f"report: expected weights {wanted[:12]}… for model {report['model']!r}, got {got}")
    samples: Samples = generate(**arguments)
    return samples


def ready(
    request: Request, how: How, model: str | os.PathLike[str] | Generator | None, device: str | None, options: Mapping[str, Any]
) -> tuple[Generator, tuple[Row, ...], dict[str, Any]]:
    """The model, the rows it can draw and its sampler's options; the header is checked before the tensors are loaded."""
    chosen_device(device)
    if isinstance(model, Generator):
        name, header = model.name, model.header
    else:
        name = os.fspath(model) if model is not None else checkpoint.default(request.task)
        header = checkpoint.read_header(checkpoint.find(name))
    claimed = checkpoint.tasks(header)
    if claimed and request.task not in claimed:
        raise InputError(f"model {name!r}: expected a task it can do ({', '.join(claimed)}), got {request.task!r}; use another model")
    rows = within_limits(request, header["statistics"], name)
    generator = model if isinstance(model, Generator) else load(name, device)
    accepted = generator.sampler_options()
    for option in options:
        if accepted is not None and option not in accepted:
            near = difflib.get_close_matches(option, [*accepted, *inspect.signature(generate).parameters], n=1)
            hint = f"did you mean {near[0]!r}?" if near else "leave it out"
            raise InputError(f"option: expected {', '.join(accepted) or 'none'} for model {name!r}, got {option!r}; {hint}")
    options = {**header["card"].get("options", {}), **options}  # what the weights are at their best with
    if how.keep < 1 and (accepted is None or "score" in accepted):
        options = {"score": True, **options}
    examine = getattr(generator.tokenizer, "check", None)
    return generator, tuple(_examined(row, examine) for row in rows) if examine else rows, dict(options)


def _examined(row: Row, examine: Callable[[Any], object]) -> Row:
    """The row, with a problem if the tokenizer cannot hold its molecule."""
    if row.problem is None and row.prompt is not None and row.prompt.graph is not None:
        try:
            examine(row.prompt.graph)
        except ValueError as error:
            return Row(row.label, row.prompt, str(error))
    return row


def prepared(
    generator: Generator,
    request: Request,
    how: How,
    rows: tuple[Row, ...],
    options: Mapping[str, Any],
    journal: Journal | None,
    seed: int,
    span: range | None = None,
) -> Sampling:
    """The run of a checked request, or the samples `span` of it."""
    progress = tqdm_bar(len(rows) * request.n) if how.progress is True else how.progress
    return Sampling(
        generator.tokenizer,
        generator.model,
        rows,
        request.n,
        seed,
        how.batch_size or BATCH_SIZE.get(generator.device.type, 64),
        how.retry,
        how.fallback,
        options,
        "SCIAR_FORMULA" if request.task == "crystal" else "SCIAR_SMILES",
        journal,
        progress,
        span,
    )


def _stream(sampling: Sampling) -> Iterator[Verdict]:
    for record in sampling.records():
        yield record.verdict


def _draw(generator: Generator, request: Request, how: How, rows: tuple[Row, ...], options: dict[str, Any]) -> Samples:
    if all(row.problem for row in rows):
        raise InputError(str(rows[0].problem))
    sha256 = str(generator.header["sha256"])
    arguments = {
        **request.arguments,
        "retry": how.retry,
        "keep": how.keep,
        "fallback": how.fallback,
        "drop_invalid": how.drop_invalid,
        **options,
    }
    done: list[Record] = []
    interrupted = False
    journal: Journal | None = None
    try:
        if how.out is not None and not _is_device(how.out):
            journal = Journal(how.out, {"weights": sha256, "request": request.arguments, "options": options}, how.seed)
        seed = how.seed if how.seed is not None else journal.seed if journal and journal.seed is not None else secrets.randbelow(2**31)
        sampling = prepared(generator, request, how, rows, options, journal, seed)
        live = _live(how)
        try:
            for record in sampling.records():
                done.append(record)
                if live is not None and not (how.drop_invalid and not record.valid):
                    live.write(text(record, _suffix(how)))
        except KeyboardInterrupt:
            interrupted = True
            done += [record for index, record in sorted(sampling.unsettled.items()) if index >= len(done)]
        finally:
            if live is not None:
                live.close()
        run = Run(
            request.task,
            generator.name,
            sha256,
            seed,
            len(rows) * request.n,
            sampling.n_drawn,
            sampling.n_valid,
            dict(sampling.reasons.most_common()),
            sampling.seconds,
            sampling.calls,
            sampling.n_fallback,
            refused={i: row.problem for i, row in enumerate(rows) if row.problem},
            interrupted=interrupted,
            arguments=arguments,
            versions=versions(),
        )
        samples = _kept(Samples(done, run), request.n, how)
        if how.out is not None and (live is None or interrupted):
            if _is_device(how.out):
                samples.to_sdf(how.out)
            else:
                with checkpoint.replacing(how.out) as part:
                    samples._text(_suffix(how), part)
        if journal is not None:
            journal.close(complete=not interrupted)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        kept = f"they are kept in {journal.path}; free space and run the same again" if journal is not None else "choose another output"
        count = f"{len(done)} of {len(rows) * request.n} samples"
        raise SciarError(f"{how.out}: expected room to write, got {reason!r} after {count}; {kept}") from error
    finally:
        if journal is not None:
            journal.close(complete=False)
    return samples


def _kept(samples: Samples, n: int, how: How) -> Samples:
    """The best `keep` of each row by score, in draw order; then without the invalid ones if that is wanted."""
    if how.keep < 1:
        if samples and all(math.isnan(r.score) for r in samples.records):
            raise InputError("keep: expected a model that scores its samples, got none of them scored; leave keep= out")
        by_row: dict[int, list[Record]] = {}
        for r in samples.records:
            by_row.setdefault(r.row, []).append(r)
        chosen = {
            (r.row, r.draw)
            for group in by_row.values()
            for r in sorted(group, key=lambda r: math.inf if math.isnan(r.score) else -r.score)[: math.ceil(how.keep * len(group))]
        }
        kept = [r for r in samples.records if (r.row, r.draw) in chosen]
        samples = Samples(kept, dataclasses.replace(samples.run, n_kept=len(kept)))
    return samples.drop_invalid() if how.drop_invalid else samples


def _live(how: How) -> IO[str] | None:
    """The output file, if records can be written one by one as they are made."""
    if how.out is None or how.keep < 1 or _suffix(how) == ".json":
        return None
    return open(how.out, "w", buffering=1)


def _suffix(how: How) -> str:
    assert how.out is not None
    return ".sdf" if _is_device(how.out) else suffix_of(how.out)


def _is_device(path: Path) -> bool:
    """A pipe or a device such as /dev/stdout, which cannot be resumed or replaced."""
    return path.exists() and not path.is_file() and not path.is_dir()


def tqdm_bar(total: int) -> Callable[[int, int], None]:
    """A tqdm bar as a function of (done, requested)."""
    from tqdm.auto import tqdm

    bar = tqdm(total=total, unit="sample")

    def show(done: int, _: int) -> None:
        bar.update(done - bar.n)
        if done >= total:
            bar.close()

    return show


def versions() -> dict[str, str]:
    """Of Python, sciar and the packages that can change a result."""
    import sciar

    found = {"python": platform.python_version(), "sciar": sciar.__version__}
    for name in ("torch", "rdkit", "numpy", "pymatgen"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
