"""The command line: one verb per task, the same words as in Python. Each verb imports what it needs, so `--help` is quick.

Exit codes: 0 every requested sample was drawn; 2 unusable input; 3 interrupted, what was done is kept.
"""

from __future__ import annotations

import contextlib
import inspect
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sciar.arguments import lines_of, options_of, properties_of, range_of, with_value
from sciar.bench import protocols
from sciar.errors import InputError, SciarError

if TYPE_CHECKING:
    from sciar.samples import Samples
    from sciar.shards import Shards

DONE, UNUSABLE, INTERRUPTED = 0, 2, 3
OPTIONS = {"allow_extra_args": True, "ignore_unknown_options": True}  # what is left goes to the model's sampler

verbs = typer.Typer(
    help="Generate molecules, conformers, crystals and graphs, each with a verdict.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
generating = typer.Typer(
    help="Draw conformers, molecules, graphs or crystals; the last line of output is the summary. "
    "Options that are not listed, such as --nfe 10, go to the model's sampler.",
    invoke_without_command=True,
)
verbs.add_typer(generating, name="generate")

Count = Annotated[int, typer.Option("-n", "--n", help="Draws, for each line of input.")]
Seed = Annotated[int | None, typer.Option(help="With it, draw i is the same on every run.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 …")]
ModelName = Annotated[str | None, typer.Option("--model", help="Bundled name, weights file or hub repository.")]
Out = Annotated[
    Path | None, typer.Option("-o", "--out", help="File: .sdf .xyz .extxyz .smi .cif .json .g6 .edgelist; run again to resume.")
]
ReportFile = Annotated[Path | None, typer.Option("--report", help="JSON file for the facts of the run.")]
DropInvalid = Annotated[bool, typer.Option("--drop-invalid", help="Leave invalid draws out of the file.")]
Retry = Annotated[int, typer.Option(help="Redraw each failure up to so many times.")]
Keep = Annotated[float, typer.Option(help="Keep only this fraction, the best by score.")]
Batch = Annotated[int | None, typer.Option("--batch-size", help="To begin with; out-of-memory halves it.")]
Ray = Annotated[
    str | None,
    typer.Option(
        "--ray",
        metavar="[ADDRESS]",
        help="By the workers of a Ray cluster, into the folder --out: local (if nothing follows), auto or HOST:PORT; run again to resume.",
    ),
]
Shard = Annotated[int | None, typer.Option(help="With --ray: draws of one shard; 1000 if not given.")]
Workers = Annotated[int | None, typer.Option(help="With --ray: processes; as many as there are cores or GPUs if not given.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress bar.")]
Scaffold = Annotated[str | None, typer.Option(help="SMILES of a fragment the answer must contain, * where it may grow.")]
Fixed = Annotated[Path | None, typer.Option(help="File with atoms that the answer must contain as they are.")]
Elements = Annotated[str | None, typer.Option(help="The only elements allowed: C,N,O.")]
Atoms = Annotated[str | None, typer.Option("--n-atoms", help="Number of atoms, or FEWEST-MOST.")]
Wanted = Annotated[list[str] | None, typer.Option("--property", help="NAME=VALUE with the unit in the name: gap_eV=5.0; may be repeated.")]


@generating.callback()
def again(
    context: typer.Context,
    report: Annotated[Path | None, typer.Option("--from", help="Do again what this report tells.")] = None,
    out: Out = None,
    report_file: ReportFile = None,
    device: Device = "auto",
    quiet: Quiet = False,
) -> None:
    """Draw samples, or do again what a report tells."""
    if context.invoked_subcommand is not None:
        return
    if report is None:
        raise InputError("generate: expected conformer, molecule, graph, crystal or --from REPORT, got none; see `sciar generate --help`")
    try:
        facts = json.loads(report.read_text())
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "text that is not JSON"
        raise InputError(f"report: expected a file that `sciar generate --report` wrote, got {reason} ({report}); check the path") from None
    from sciar.generate import rerun

    with _bar(quiet, "sample") as progress:
        samples = rerun(facts.get("report", facts) if isinstance(facts, dict) else facts, out=out, device=device, progress=progress)
    _finish(samples, out, report_file)


@generating.command(context_settings=OPTIONS)
def conformer(
    context: typer.Context,
    smiles: Annotated[list[str] | None, typer.Argument(help="Molecules.")] = None,
    smiles_file: Annotated[
        Path | None, typer.Option("--smiles-file", help="One SMILES per line; what follows it on the line is ignored.")
    ] = None,
    n: Count = 1,
    seed: Seed = None,
    device: Device = "auto",
    model: ModelName = None,
    out: Out = None,
    report: ReportFile = None,
    drop_invalid: DropInvalid = False,
    retry: Retry = 0,
    keep: Keep = 1.0,
    fallback: Annotated[
        str | None, typer.Option(help="etkdg = RDKit's coordinates where every attempt failed; such samples say so.")
    ] = None,
    batch_size: Batch = None,
    ray: Ray = None,
    shard: Shard = None,
    workers: Workers = None,
    quiet: Quiet = False,
) -> None:
    """Conformers of given molecules: sciar generate conformer CCO -n 10 -o ethanol.sdf"""
    given, options = options_of([*(smiles or []), *context.args])
    if smiles_file is not None and given:
        raise InputError("generate: expected SMILES or --smiles-file, got both; leave one out")
    lines: Any = lines_of(smiles_file) if smiles_file is not None else given[0] if len(given) == 1 else given or None
    _generate("conformer", context, options, smiles=lines, fallback=fallback)


@generating.command(context_settings=OPTIONS)
def molecule(
    context: typer.Context,
    formula: Annotated[str | None, typer.Option(help="Composition such as C6H6O.")] = None,
    scaffold: Scaffold = None,
    fixed: Fixed = None,
    elements: Elements = None,
    n_atoms: Atoms = None,
    wanted: Wanted = None,
    n: Count = 1,
    seed: Seed = None,
    device: Device = "auto",
    model: ModelName = None,
    out: Out = None,
    report: ReportFile = None,
    drop_invalid: DropInvalid = False,
    retry: Retry = 0,
    keep: Keep = 1.0,
    batch_size: Batch = None,
    ray: Ray = None,
    shard: Shard = None,
    workers: Workers = None,
    quiet: Quiet = False,
) -> None:
    """New molecules in 3D: sciar generate molecule -n 100 -o new.sdf"""
    limits = {"elements": elements, "n_atoms": range_of(n_atoms), "properties": properties_of(wanted)}
    _generate("molecule", context, _only_options(context), formula=formula, scaffold=scaffold, fixed=fixed, **limits)


@generating.command(context_settings=OPTIONS)
def graph(
    context: typer.Context,
    scaffold: Scaffold = None,
    elements: Elements = None,
    n_atoms: Atoms = None,
    wanted: Wanted = None,
    n: Count = 1,
    seed: Seed = None,
    device: Device = "auto",
    model: ModelName = None,
    out: Out = None,
    report: ReportFile = None,
    drop_invalid: DropInvalid = False,
    retry: Retry = 0,
    keep: Keep = 1.0,
    batch_size: Batch = None,
    then_3d: Annotated[bool, typer.Option("--then-3d", help="Coordinates for the valid ones, by the bundled conformer model.")] = False,
    ray: Ray = None,
    shard: Shard = None,
    workers: Workers = None,
    quiet: Quiet = False,
) -> None:
    """New graphs: sciar generate graph -n 1000 -o new.smi"""
    limits = {"elements": elements, "n_atoms": range_of(n_atoms), "properties": properties_of(wanted)}
    _generate("graph", context, _only_options(context), scaffold=scaffold, then_3d=then_3d, **limits)


@generating.command(context_settings=OPTIONS)
def crystal(
    context: typer.Context,
    formula: Annotated[list[str] | None, typer.Argument(help="Compositions such as LiFePO4.")] = None,
    formula_file: Annotated[Path | None, typer.Option("--formula-file", help="One formula per line.")] = None,
    n_formula_units: Annotated[
        int | None, typer.Option("--n-formula-units", help="How many of the formula the cell holds; any number if not given.")
    ] = None,
    spacegroup: Annotated[str | None, typer.Option(help="International number or Hermann–Mauguin symbol: 225, Fm-3m.")] = None,
    pxrd: Annotated[str | None, typer.Option(help="File with 2θ in degrees and intensity: .xy .xye .csv .txt.")] = None,
    wavelength: Annotated[float | None, typer.Option(help="Å, of the pattern; else as its file says, else Cu Kα.")] = None,
    fixed: Fixed = None,
    elements: Elements = None,
    n_atoms: Atoms = None,
    wanted: Wanted = None,
    n: Count = 1,
    seed: Seed = None,
    device: Device = "auto",
    model: ModelName = None,
    out: Out = None,
    report: ReportFile = None,
    drop_invalid: DropInvalid = False,
    retry: Retry = 0,
    keep: Keep = 1.0,
    batch_size: Batch = None,
    ray: Ray = None,
    shard: Shard = None,
    workers: Workers = None,
    quiet: Quiet = False,
) -> None:
    """Crystals: sciar generate crystal LiFePO4 -n 20 -o lifepo4.cif"""
    given, options = options_of([*(formula or []), *context.args])
    if formula_file is not None and given:
        raise InputError("generate: expected formulas or --formula-file, got both; leave one out")
    lines: Any = lines_of(formula_file) if formula_file is not None else given[0] if len(given) == 1 else given or None
    limits = {"elements": elements, "n_atoms": range_of(n_atoms), "properties": properties_of(wanted)}
    cell = {"n_formula_units": n_formula_units, "spacegroup": spacegroup}
    pattern: Any = pxrd
    if pxrd is not None and wavelength is not None:
        from sciar.pxrd import read

        pattern = read(pxrd, wavelength)
    _generate("crystal", context, options, formula=lines, pxrd=pattern, fixed=fixed, **cell, **limits)


@verbs.command()
def data(
    source: Annotated[str, typer.Argument(help="qm9, molecules3d … or a file or folder of your own.")],
    conformers: Annotated[
        int | None, typer.Option(help="Embed each molecule of a file of SMILES so many times (ETKDGv3, MMFF94s) and write --out.")
    ] = None,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="File for the conformers, such as mine.sdf.")] = None,
    quiet: Quiet = False,
) -> None:
    """Fetch and prepare a data set, or your own file; says which rows were rejected and why."""
    from sciar import datasets

    if (conformers is None) != (out is None) or (conformers is not None and conformers < 1):
        raise InputError("data: expected --conformers of at least 1 together with --out, got one of them; `sciar data --help`")
    with _rows(quiet) as progress:
        if conformers is not None and out is not None:
            from sciar.datasets import molecules3d

            report = molecules3d.embed(source, out, n_conformers=conformers, progress=progress)
        else:
            report = datasets.prepare(source, progress=progress)[1]
    for item in report.rejected[:20]:
        typer.echo(str(item), err=True)
    if len(report.rejected) > 20:
        typer.echo(f"… and {len(report.rejected) - 20} more", err=True)
    typer.echo(report.summary())


@verbs.command()
def train(
    config: Annotated[Path, typer.Argument(help="A YAML file such as configs/hybrid_qm9.yaml.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="train.steps=1000 …")] = None,
    folder: Annotated[Path | None, typer.Option(help="Where the run is kept; the same again goes on. Default: runs/NAME.")] = None,
    prepare: Annotated[Path | None, typer.Option(help="Only write the run's arrays into this folder, to train elsewhere.")] = None,
    export: Annotated[bool, typer.Option("--export", help="Only write the weights of an unfinished run.")] = False,
    quiet: Quiet = False,
) -> None:
    """Train a model, or go on where the last call stopped."""
    from sciar import config as configs

    settings = configs.load(config, overrides or [])
    from sciar import train as trainer

    if prepare is not None:
        typer.echo(f"prepared: {trainer.save_prepared(settings, prepare)}")
        return
    if export:
        typer.echo(f"weights: {trainer.export(settings, folder or Path('runs') / settings.name)}")
        return
    with _bar(quiet, "step") as progress:
        path = trainer.fit(settings, folder, progress=(lambda step, steps, metrics: progress(step, steps)) if progress else None)
    typer.echo(f"weights: {path}")


@verbs.command(context_settings=OPTIONS)
def finetune(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="Your molecules, graphs or crystals: a file, a folder, a table.")],
    model: ModelName = None,
    wanted: Annotated[list[str] | None, typer.Option("--property", help="A column or tag that can be asked for afterwards.")] = None,
    split: Annotated[str | None, typer.Option(help="Held-out records share no: scaffold, formula, random (nothing but chance).")] = None,
    folder: Annotated[Path | None, typer.Option(help="Where the run is kept; the same again goes on. Default: runs/NAME.")] = None,
    quiet: Quiet = False,
) -> None:
    """Train a bundled model further on your own file; says first what is in it. Other options go to the training: --steps 500."""
    from sciar.finetune import finetune

    with _bar(quiet, "step") as progress:
        path = finetune(
            file,
            model,
            folder,
            wanted or (),
            split,
            progress=(lambda step, steps, metrics: progress(step, steps)) if progress else None,
            report=None if quiet else lambda facts: typer.echo(str(facts), err=True),
            **_only_options(context),
        )
    typer.echo(f"weights: {path}")


@verbs.command()
def predict(
    file: Annotated[Path, typer.Argument(help="Structures with positions: .sdf .xyz .extxyz …")],
    wanted: Annotated[str, typer.Option("--property", help="Name with its unit: gap_eV.")],
    model: ModelName = None,
    poses: Annotated[int, typer.Option(help="Random orientations that are averaged.")] = 5,
    seed: Annotated[int, typer.Option(help="Of the orientations.")] = 0,
    device: Device = "auto",
    out: Annotated[Path | None, typer.Option("-o", "--out", help="CSV file; else standard output.")] = None,
) -> None:
    """Predict a property of given structures: one line each, with the spread over orientations or the reason why there is none."""
    import csv
    import io

    import sciar

    found = sciar.predict(sciar.read(file), wanted, model=model, poses=poses, seed=seed, device=device)
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["row", wanted, "spread", "problem"])
    for row, (value, spread) in enumerate(zip(found.values.tolist(), found.spread.tolist(), strict=True)):
        problem = found.problems.get(row, "")
        table.writerow([row, *(("", "") if problem else (f"{value:.6g}", f"{spread:.2g}")), problem])
    if out is None:
        typer.echo(text.getvalue(), nl=False)
    else:
        out.write_text(text.getvalue())
        typer.echo(f"{len(found.values) - len(found.problems)} of {len(found.values)} structures predicted: {out}")


@verbs.command(context_settings=OPTIONS)
def bench(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help=f"The protocol: {', '.join(protocols())}.")],
    model: ModelName = None,
    samples: Annotated[Path | None, typer.Option(help="A file of samples instead of a model.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Where the numbers go.")] = None,
    n: Annotated[int | None, typer.Option("-n", "--n", help="Draws; the protocol's own number if not given.")] = None,
    seed: Annotated[int, typer.Option(help="Of the draws and of the choice of molecules.")] = 0,
    quiet: Quiet = False,
) -> None:
    """Measure a model or a file of samples by a published protocol; other options go to the protocol."""
    from sciar.bench import run

    options = _only_options(context)
    _unclaimed(options, run, "bench")
    with _rows(quiet) as progress:
        result = run(name, model=model, samples=samples, json=json_file, n=n, seed=seed, progress=progress, **options)
    typer.echo(str(result))


@verbs.command()
def models() -> None:
    """The models that come with the package."""
    from sciar import checkpoint

    rows = [("name", "task", "size", "sha256", "trained on")]
    rows += [(m.name, m.task, f"{m.size / 2**20:.1f} MiB", m.sha256[:16], m.trained_on) for m in checkpoint.models()]
    if len(rows) == 1:
        typer.echo("no bundled model; pass --model FILE or train one with `sciar train`")
        return
    widths = [max(len(row[k]) for row in rows) for k in range(4)]
    for row in rows:
        typer.echo("  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[4]]))


@verbs.command()
def doctor() -> None:
    """What works here: environment, device, weights, extras."""
    import importlib.util

    import torch

    from sciar import checkpoint
    from sciar.generate import versions

    bad = 0
    for name, version in versions().items():
        typer.echo(f"ok    {name} {version}")
    gpus = [torch.cuda.get_device_name(k) for k in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    typer.echo(f"ok    device: {', '.join(gpus) or 'CPU only'}; {torch.get_num_threads()} of {os.cpu_count()} threads")
    files = sorted(checkpoint.BUNDLED.glob("*.safetensors"))
    for path in files:
        try:
            checkpoint.build(*checkpoint.open_weights(path))
            typer.echo(f"ok    weights {path.stem}")
        except SciarError as error:
            bad += 1
            typer.echo(f"bad   weights {path.stem}: {error}")
    if not files:
        typer.echo("none  bundled weights; pass --model FILE or train one with `sciar train`")
    extras = {"relax": "chgnet", "hub": "huggingface_hub", "bench": "fcd", "coverage": "matminer", "ray": "ray", "notebook view": "py3Dmol"}
    for extra, module in extras.items():
        there = importlib.util.find_spec(module) is not None
        typer.echo(f"{'ok   ' if there else 'none '} extra {extra} ({module})")
    if bad:
        raise typer.Exit(UNUSABLE)


def app(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and leave with its exit code; every error is one sentence on stderr."""
    sys.exit(run(arguments))


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; its exit code."""
    click = typer.main.get_command(verbs)
    try:
        words = with_value(list(arguments) if arguments is not None else sys.argv[1:], "--ray", "local")
        result = click.main(args=words, prog_name="sciar", standalone_mode=False)
        return result if isinstance(result, int) else DONE
    except (KeyboardInterrupt, typer.Abort):
        return _say("interrupted; what was done is kept", INTERRUPTED)
    except SciarError as error:
        return _say(str(error), INTERRUPTED if isinstance(error.__cause__, OSError) else UNUSABLE)
    except BrokenPipeError:  # `sciar models | head`: the reader has gone, which is its right
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    except OSError as error:
        return _say(f"{error.filename or 'output'}: {(error.strerror or str(error)).lower()}; what was done is kept", INTERRUPTED)
    except Exception as error:
        if hasattr(error, "format_message"):  # the parser's own: unknown verb, missing value
            return _say(error.format_message(), UNUSABLE)
        raise


def _say(sentence: str, code: int) -> int:
    with contextlib.suppress(OSError):
        print(f"sciar: {' '.join(sentence.split())}", file=sys.stderr)  # noqa: T201 (the one place that speaks)
    return code


def _generate(task: str, context: typer.Context, options: dict[str, Any], **arguments: Any) -> None:
    """Draw with the verb's own arguments, those that all verbs of `generate` have, and the sampler's options."""
    from sciar.generate import generate

    _unclaimed(options, generate, f"generate {task}")
    common = "n seed device model retry keep batch_size drop_invalid out".split()
    shared: dict[str, Any] = {name: context.params[name] for name in common}
    report: Path | None = context.params["report"]
    if report is not None and not report.parent.is_dir():
        raise InputError(f"report: expected an existing folder, got {report.parent}; create it first")
    cluster = {name: context.params[name] for name in ("shard", "workers") if context.params[name] is not None}
    if cluster and context.params["ray"] is None:
        raise InputError(f"generate: expected --ray with --{next(iter(cluster))}, got none; add --ray or leave it out")
    with _bar(context.params["quiet"], "sample") as progress:
        if context.params["ray"] is not None:
            samples = _scaled(task, context.params["ray"], progress=progress, **cluster, **shared, **arguments, **options)
        else:
            samples = generate(task, progress=progress, **shared, **arguments, **options)
    _finish(samples, shared["out"], report)


def _scaled(task: str, address: str, **arguments: Any) -> Shards:
    if arguments["out"] is None:
        raise InputError("generate: expected a folder for --ray, got none; add -o FOLDER")
    from sciar import scale

    return scale.generate(task, ray_address=address, **arguments)


def _finish(samples: Samples | Shards, out: Path | None, report: Path | None) -> None:
    """Show or tell where the samples are, write the report, end with the summary and the right exit code."""
    if report is not None:
        report.write_text(json.dumps({**samples.report(), "argv": sys.argv}, indent=1) + "\n")
    if out is None and isinstance(samples, Sequence) and len(samples) and samples.run.task != "crystal":
        typer.echo(samples.to_sdf() if any(v.structure.positions is not None for v in samples) else samples.to_smiles(), nl=False)
    for row, sentence in sorted(samples.run.refused.items())[:20]:
        typer.echo(f"row {row}: {sentence}", err=True)
    typer.echo(samples.summary(), err=out is None)
    if samples.run.interrupted:
        raise typer.Exit(INTERRUPTED)
    if samples.run.refused:
        raise typer.Exit(UNUSABLE)


def _only_options(context: typer.Context) -> dict[str, Any]:
    free, options = options_of(context.args)
    if free:
        raise InputError(f"generate: expected options only, got {free[0]!r}; see `--help`")
    return options


def _unclaimed(options: dict[str, Any], function: Callable[..., Any], verb: str) -> None:
    """Refuse options that would be another argument of the function they go to."""
    for name in options:
        if name in inspect.signature(function).parameters:
            raise InputError(f"{verb}: --{name.replace('_', '-')} is not one of its options; `sciar {verb} --help` lists them")


@contextlib.contextmanager
def _bar(quiet: bool, unit: str) -> Iterator[Callable[..., None] | None]:
    """A rich progress bar on stderr; None where nobody looks."""
    if quiet or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(unit, total=None)
        yield lambda done, total, what=unit: bar.update(task, completed=done, total=total, description=what)


@contextlib.contextmanager
def _rows(quiet: bool) -> Iterator[Callable[[str, int, int | None], None] | None]:
    """As `_bar`, for work of several parts with names."""
    with _bar(quiet, "") as progress:
        yield (lambda what, done, total: progress(done, total, what)) if progress else None
