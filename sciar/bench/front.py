"""The only file of the benchmarks that knows how a model is loaded and asked."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from sciar.errors import InputError
from sciar.structure import Structure


@dataclass(frozen=True, slots=True, eq=False)
class Drawn:
    """Raw draws of a model.

    Args:
        structures: in draw order, judged or not; None where nothing was drawn.
        scores: log-likelihoods in nats; nan = not known.
        seconds: wall time of drawing and judging.
        calls: network evaluations in all.
    """

    structures: list[Structure | None]
    scores: np.ndarray
    seconds: float
    calls: int


@dataclass(frozen=True, slots=True, eq=False)
class Answers:
    """Crystals drawn for given rows, r rows × k draws.

    Args:
        structures: judged or not; None where nothing was drawn.
        scores: r × k, log-likelihoods in nats; nan = not known.
        seconds: wall time of drawing and judging.
    """

    structures: list[list[Structure | None]]
    scores: np.ndarray
    seconds: float


def name_of(model: Any) -> str:
    """How the model is called in a table."""
    return str(getattr(model, "name", None) or os.fspath(model))


def load(model: Any, device: str | None = None) -> Any:
    """A `Generator`: the model itself, or the one of that name or file."""
    if hasattr(model, "generate"):
        return model
    import sciar

    return sciar.load(model, device=device)


def conformers(model: Any, device: str | None = None, over: int = 1, retry: int = 0) -> Any:
    """A `Method` for the protocol `conformers`; no fallback, one CPU thread.

    Args:
        model: name, file or Generator.
        device: where it runs.
        over: draws made for each one answered; above 1 the valid and most diverse ones are answered.
        retry: how often a draw that the validator refuses is drawn again, as ETKDG embeds again what fails its own checks.
    """
    generator = load(model, device)

    def draw(smiles: Sequence[str], n: int, seed: int) -> list[list[np.ndarray | None]]:
        answers: list[list[np.ndarray | None]] = [[None] * n for _ in smiles]
        with one_thread():
            try:
                samples = generator.generate("conformer", smiles=list(smiles), n=over * n, seed=seed, retry=retry, fallback=None)
            except InputError:
                if len(smiles) > 1:
                    raise
                return answers  # all rows were refused
        places = [0] * len(smiles)
        for record in (samples if over == 1 else samples.diverse(n)).records:
            positions = record.verdict.structure.positions
            if positions is not None and len(positions):
                answers[record.row][places[record.row]] = positions
                places[record.row] += 1
        return answers

    return draw


def de_novo(model: Any, n: int, seed: int, device: str | None = None, task: str = "molecule", **options: Any) -> Drawn:
    """n molecules or graphs, one draw each, nothing redrawn."""
    samples = load(model, device).generate(task, n=n, seed=seed, retry=0, **options)
    structures = [r.verdict.structure if r.verdict.structure.n_atoms else None for r in samples.records]
    return Drawn(structures, samples.scores, samples.run.seconds, samples.run.calls)


def graphs(model: Any, n: int, seed: int, device: str | None, masked: bool, progress: Callable[[str, int], None]) -> dict[str, Drawn]:
    """n raw graphs of a model, and if `masked` n more with the sampler's masks of valence and connectivity, by the name in a table.

    `progress` is told what is drawn and how much is done.
    """
    cases: dict[str, Drawn] = {}
    for label, options in (("", {"connected": False}), (", masks", {"valence": True}))[: 1 + masked]:
        progress(f"drawing{label}", len(cases))
        cases[name_of(model) + label] = de_novo(model, n, seed, device, task="graph", **options)
    return cases


def crystals(
    model: Any,
    formulas: Sequence[str],
    draws: int,
    seed: int,
    device: str | None = None,
    patterns: Sequence[np.ndarray] | None = None,
    progress: Callable[[str, int, int], None] = lambda what, done, total: None,
    **options: Any,
) -> Answers:
    """Crystals of given cells' formulas, nothing redrawn; a row that the model refuses has failed draws.

    Args:
        model: name, file or Generator.
        formulas: all atoms of the cell of each row.
        draws: for each row.
        seed: of the draws.
        device: where it runs.
        patterns: powder patterns of the rows; asked for one by one.
        progress: told how many rows or draws are done.
        options: of the sampler.
    """
    generator = load(model, device)
    structures: list[list[Structure | None]] = [[None] * draws for _ in formulas]
    scores = np.full((len(formulas), draws), np.nan)
    seconds = 0.0
    parts: list[tuple[list[int], dict[str, Any]]] = [(list(range(len(formulas))), {})]
    if patterns is not None:
        parts = [([row], {"pxrd": pattern}) for row, pattern in enumerate(patterns)]
    for done, (rows, more) in enumerate(parts):
        if patterns is not None:
            progress("drawing", done, len(parts))
        else:
            more = {"progress": lambda done, total: progress("drawing", done, total)}
        asked = [formulas[row] for row in rows]
        try:
            samples = generator.generate("crystal", formula=asked, n_formula_units=1, n=draws, seed=seed, retry=0, **more, **options)
        except InputError:
            if len(rows) > 1:
                raise
            continue  # the one row was refused
        seconds += samples.run.seconds
        for record in samples.records:
            structure = record.verdict.structure
            if structure.n_atoms and structure.cell is not None and structure.positions is not None:
                structures[rows[record.row]][record.draw] = structure
                scores[rows[record.row], record.draw] = record.score
    return Answers(structures, scores, seconds)


@contextmanager
def one_thread() -> Iterator[None]:
    """torch on one CPU thread, so that rates are per thread."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
