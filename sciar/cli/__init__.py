"""The command line: one verb per task, the same words as in Python. Each verb imports what it needs, so `--help` is quick.

Exit codes: 0 every requested sample was drawn; 2 unusable input; 3 interrupted, what was done is kept.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from sciar.arguments import with_value
from sciar.bench import protocols
from sciar.cli.generating import generating
from sciar.cli.options import DONE, INTERRUPTED, OPTIONS, UNUSABLE, Device, ModelName, Quiet, bar, bars, only_options, unclaimed
from sciar.errors import InputError, SciarError

verbs = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
verbs.add_typer(generating, name="generate")


def _say_version(asked: bool) -> None:
    if asked:
        from sciar import __version__

        typer.echo(f"sciar {__version__}")
        raise typer.Exit


@verbs.callback()
def main(
    version: Annotated[bool, typer.Option("--version", callback=_say_version, is_eager=True, help="Say it and leave.")] = False,
) -> None:
    """Generate molecules, conformers, crystals and graphs, each with a verdict."""


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
    with bars(quiet) as progress:
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
    with bar(quiet, "step") as progress:
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

    with bar(quiet, "step") as progress:
        path = finetune(
            file,
            model,
            folder,
            wanted or (),
            split,
            progress=(lambda step, steps, metrics: progress(step, steps)) if progress else None,
            report=None if quiet else lambda facts: typer.echo(str(facts), err=True),
            **only_options(context),
        )
    typer.echo(f"weights: {path}")


@verbs.command()
def predict(
    file: Annotated[Path, typer.Argument(help="Structures with positions: .sdf .xyz .extxyz …")],
    wanted: Annotated[str, typer.Option("--property", help="Name, with or without its unit: gap_eV.")],
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
    table.writerow(["row", found.name, "spread", "problem"])
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

    options = only_options(context)
    unclaimed(options, run, "bench")
    with bars(quiet) as progress:
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
        words = with_value(list(sys.argv[1:] if arguments is None else arguments) or ["--help"], "--ray", "local")
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
