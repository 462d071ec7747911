"""What verbs of the command line share: their options, progress bars, and options that go further to a model or a protocol."""

from __future__ import annotations

import contextlib
import inspect
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from sciar.arguments import options_of
from sciar.errors import InputError

DONE, UNUSABLE, INTERRUPTED = 0, 2, 3
OPTIONS = {"allow_extra_args": True, "ignore_unknown_options": True}  # what is left goes to the model's sampler

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
Elements = Annotated[str | None, typer.Option(help="The only elements allowed: C,N,O or Li-Fe-O.")]
Atoms = Annotated[str | None, typer.Option("--n-atoms", help="Number of atoms, or FEWEST-MOST.")]
Wanted = Annotated[
    list[str] | None, typer.Option("--property", help="NAME=VALUE, NAME with or without its unit: gap_eV=5.0; may be repeated.")
]


def only_options(context: typer.Context) -> dict[str, Any]:
    free, options = options_of(context.args)
    if free:
        raise InputError(f"generate: expected options only, got {free[0]!r}; see `--help`")
    return options


def unclaimed(options: dict[str, Any], function: Callable[..., Any], verb: str) -> None:
    """Refuse options that would be another argument of the function they go to."""
    for name in options:
        if name in inspect.signature(function).parameters:
            raise InputError(f"{verb}: --{name.replace('_', '-')} is not one of its options; `sciar {verb} --help` lists them")


@contextlib.contextmanager
def bar(quiet: bool, unit: str) -> Iterator[Callable[..., None] | None]:
    """A rich progress bar on stderr; None where nobody looks."""
    if quiet or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as shown:
        task = shown.add_task(unit, total=None)
        yield lambda done, total, what=unit: shown.update(task, completed=done, total=total, description=what)


@contextlib.contextmanager
def bars(quiet: bool) -> Iterator[Callable[[str, int, int | None], None] | None]:
    """As `bar`, for work of several parts with names."""
    with bar(quiet, "") as progress:
        yield (lambda what, done, total: progress(done, total, what)) if progress else None
