"""The verbs of `sciar generate`: draw, or do again what a report tells."""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sciar.arguments import given_or_file, options_of, properties_of, range_of
from sciar.cli.options import (
    INTERRUPTED,
    OPTIONS,
    UNUSABLE,
    Atoms,
    Batch,
    Count,
    Device,
    DropInvalid,
    Elements,
    Fixed,
    Keep,
    ModelName,
    Out,
    Quiet,
    Ray,
    ReportFile,
    Retry,
    Scaffold,
    Seed,
    Shard,
    Wanted,
    Workers,
    bar,
    only_options,
    unclaimed,
)
from sciar.errors import InputError

if TYPE_CHECKING:
    from sciar.samples import Samples
    from sciar.shards import Shards

generating = typer.Typer(
    help="Draw conformers, molecules, graphs or crystals; the last line of output is the summary. "
    "Options that are not listed, such as --nfe 10, go to the model's sampler.",
    invoke_without_command=True,
)


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

    with bar(quiet, "sample") as progress:
        samples = rerun(facts.get("report", facts) if isinstance(facts, dict) else facts, out=out, device=device, progress=progress)
    _finish(samples, out, report_file)


def _shared(
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
    """Options of every verb that draws; `_generate` takes their values from the context."""


def _drawing(verb: Callable[..., None]) -> Callable[..., None]:
    """A verb with the shared options after its own."""
    own, shared = (inspect.signature(one, eval_str=True) for one in (verb, _shared))

    def drawn(**given: Any) -> None:
        verb(**{name: given[name] for name in own.parameters})

    every = own.replace(parameters=[*own.parameters.values(), *shared.parameters.values()])
    drawn.__name__, drawn.__doc__ = verb.__name__, verb.__doc__
    drawn.__annotations__ = {name: one.annotation for name, one in every.parameters.items()}
    drawn.__signature__ = every  # type: ignore[attr-defined]
    return drawn


@generating.command(context_settings=OPTIONS)
@_drawing
def conformer(
    context: typer.Context,
    smiles: Annotated[list[str] | None, typer.Argument(help="Molecules.")] = None,
    smiles_file: Annotated[
        Path | None,
        typer.Option("--smiles-file", help="One SMILES per line, what follows is ignored; or a table with a column smiles."),
    ] = None,
    fallback: Annotated[
        str | None, typer.Option(help="etkdg = RDKit's coordinates where every attempt failed; such samples say so.")
    ] = None,
) -> None:
    """Conformers of given molecules: sciar generate conformer CCO -n 10 -o ethanol.sdf"""
    given, options = options_of([*(smiles or []), *context.args])
    _generate("conformer", context, options, smiles=given_or_file("smiles", given, options, smiles_file), fallback=fallback)


@generating.command(context_settings=OPTIONS)
@_drawing
def molecule(
    context: typer.Context,
    formula: Annotated[str | None, typer.Option(help="Composition such as C6H6O.")] = None,
    scaffold: Scaffold = None,
    fixed: Fixed = None,
    elements: Elements = None,
    n_atoms: Atoms = None,
    wanted: Wanted = None,
) -> None:
    """New molecules in 3D: sciar generate molecule -n 100 -o new.sdf"""
    limits = {"elements": elements, "n_atoms": range_of(n_atoms), "properties": properties_of(wanted)}
    _generate("molecule", context, only_options(context), formula=formula, scaffold=scaffold, fixed=fixed, **limits)


@generating.command(context_settings=OPTIONS)
@_drawing
def graph(
    context: typer.Context,
    scaffold: Scaffold = None,
    elements: Elements = None,
    n_atoms: Atoms = None,
    wanted: Wanted = None,
    then_3d: Annotated[bool, typer.Option("--then-3d", help="Coordinates for the valid ones, by the bundled conformer model.")] = False,
) -> None:
    """New graphs: sciar generate graph -n 1000 -o new.smi"""
    limits = {"elements": elements, "n_atoms": range_of(n_atoms), "properties": properties_of(wanted)}
    _generate("graph", context, only_options(context), scaffold=scaffold, then_3d=then_3d, **limits)


@generating.command(context_settings=OPTIONS)
@_drawing
def crystal(
    context: typer.Context,
    formula: Annotated[list[str] | None, typer.Argument(help="Compositions such as LiFePO4.")] = None,
    formula_file: Annotated[
        Path | None, typer.Option("--formula-file", help="One formula per line, or in a table's column formula.")
    ] = None,
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
) -> None:
    """Crystals: sciar generate crystal LiFePO4 -n 20 -o lifepo4.cif"""
    given, options = options_of([*(formula or []), *context.args])
    lines = given_or_file("formula", given, options, formula_file)
    limits = {"elements": elements, "n_atoms": range_of(n_atoms), "properties": properties_of(wanted)}
    cell = {"n_formula_units": n_formula_units, "spacegroup": spacegroup}
    pattern: Any = pxrd
    if pxrd is not None and wavelength is not None:
        from sciar.pxrd import read

        pattern = read(pxrd, wavelength)
    _generate("crystal", context, options, formula=lines, pxrd=pattern, fixed=fixed, **cell, **limits)


def _generate(task: str, context: typer.Context, options: dict[str, Any], **arguments: Any) -> None:
    """Draw with the verb's own arguments, those that all verbs of `generate` have, and the sampler's options."""
    from sciar.generate import generate

    unclaimed(options, generate, f"generate {task}")
    common = "n seed device model retry keep batch_size drop_invalid out".split()
    shared: dict[str, Any] = {name: context.params[name] for name in common}
    report: Path | None = context.params["report"]
    if report is not None and not report.parent.is_dir():
        raise InputError(f"report: expected an existing folder, got {report.parent}; create it first")
    cluster = {name: context.params[name] for name in ("shard", "workers") if context.params[name] is not None}
    if cluster and context.params["ray"] is None:
        raise InputError(f"generate: expected --ray with --{next(iter(cluster))}, got none; add --ray or leave it out")
    with bar(context.params["quiet"], "sample") as progress:
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
