"""Crystal structure prediction on the test set of MP-20: the atoms of the cell are given, the crystal is wanted.

The first draw of each row is the raw number; all draws, and one draw chosen by score, are beside it. Refused and failed draws and
pairs that take too long to match count as misses.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from sciar import datasets
from sciar.bench import Progress, Result, front, given, published
from sciar.bench.ledger import comparisons
from sciar.distinct import votes
from sciar.errors import InputError
from sciar.metrics import crystal as metrics
from sciar.metrics.distance import bootstrap
from sciar.structure import SYMBOLS, Structure

SPLITS = ("standard", "polymorph")


def run_protocol(
    model: Any = None,
    samples: str | os.PathLike[str] | Sequence[Sequence[Structure | None]] | None = None,
    n: int | None = None,
    seed: int = 0,
    progress: Progress = lambda what, done, total: None,
    draws: int = 1,
    split: str = "standard",
    jobs: int = 1,
    seconds: float = metrics.SECONDS,
    formulas: str | os.PathLike[str] | None = None,
    device: str | None = None,
    temperature: float | None = None,
) -> Result:
    """Run the protocol.

    Args:
        model: to draw from, or
        samples: a file of draws (.extxyz, .cif, .json …) or a folder that `sciar generate --ray` filled, by their SCIAR_ROW or else
            `draws` for each row in order; or rows of structures.
        n: test crystals, chosen by `seed`; None = all.
        seed: of the draws and of the choice of rows.
        progress: told what is being done.
        draws: for each row.
        split: "standard" (9,046 rows) or "polymorph", where no formula of the test rows occurs in training.
        jobs: processes that match.
        seconds: of CPU time for one pair of crystals.
        formulas: write the formulas of the rows, one per line, to this file; a file for samples= is made by
            `sciar generate crystal --n-formula-units 1 --formula-file FILE`.
        device: where the model runs. temperature: of the sampler, for a model; its own default if not given.

    Raises:
        InputError: neither or both of model and samples, a temperature of samples, an unknown split, or a file that does not fit the rows.
    """
    if temperature is not None and model is None:
        raise InputError("bench mp20-csp: expected a model to draw at a temperature, got samples that are drawn; leave temperature out")
    references = chosen(n, seed, split)
    texts = [cell_formula(s) for s in references]
    if formulas is not None:
        Path(formulas).write_text("".join(f"{text}\n" for text in texts))
    asked: dict[str, Any] = {} if temperature is None else {"temperature": temperature}
    drawn = answers("mp20-csp", model, samples, texts, draws, seed, progress, device, **asked)
    comparison = metrics.compare(drawn.structures, references, jobs, seconds, partial(progress, "matching"), comparisons())
    first = np.zeros((len(references), 1), dtype=int)
    raw = metrics.prediction(comparison, first)
    raw["timeouts"] = float(comparison.n_timeouts)
    hits = np.isfinite(comparison.rmsd[:, :1]).any(axis=1).astype(float)
    label = name_of(model, samples)
    rows: list[dict[str, Any]] = [{"model": f"{label}, first draw", "draws": 1, **raw}]
    ranked = None
    if draws > 1:
        every = metrics.prediction(comparison)
        rows.append({"model": f"{label}, best of {draws} by RMSD", "draws": draws, **every})
        raw |= {f"{key}_{draws}": value for key, value in every.items()}
        if np.isfinite(drawn.scores).any():
            ranked = metrics.prediction(comparison, best(drawn.scores))
            rows.append({"model": f"{label}, best by score", "draws": draws, **ranked})
        elected = metrics.prediction(comparison, best(worth_of(drawn)))
        rows.append({"model": f"{label}, best by votes, then score", "draws": draws, **elected})
    total = len(references) * draws
    if drawn.seconds:
        raw["seconds_per_1000"] = 1000 * drawn.seconds / total
    notes = [
        f"{len(references):,} test crystals ({split} split); StructureMatcher at ({metrics.LTOL}, {metrics.STOL}, {metrics.ANGLE_TOL:g}°); "
        f"{comparison.n_timeouts} pairs given up after {seconds:g} s. _valid: only draws of valid structure and composition match.",
        *([f"Drawn at temperature {temperature:g}."] if asked else []),
    ]
    intervals = {"match_rate": bootstrap(hits, seed=seed)}
    return Result("mp20-csp", total, total, drawn.seconds, raw, ranked, intervals, published("mp20-csp"), rows, notes)


def chosen(n: int | None, seed: int, split: str = "standard") -> list[Structure]:
    """Test crystals of MP-20, all or n of them in the order of the set.

    Raises:
        InputError: an unknown split or a number out of range.
    """
    if split not in SPLITS:
        raise InputError(f"bench: expected split {' or '.join(SPLITS)}, got {split!r}; correct it")
    store = datasets.load("mp20", "test") if split == "standard" else datasets.load("mp20")
    rows = np.arange(len(store)) if split == "standard" else np.flatnonzero(np.array(store.column("split_polymorph")) == "test")
    if n is not None:
        if not 1 <= n <= len(rows):
            raise InputError(f"bench: expected n from 1 to {len(rows)} test crystals, got {n}; correct it")
        rows = np.sort(np.random.default_rng(seed).permutation(rows)[:n])
    return [store[int(row)] for row in rows]


def cell_formula(structure: Structure) -> str:
    """All atoms of the cell: "Fe4Li4O16P4"."""
    counts = Counter(SYMBOLS[z] for z in structure.numbers)
    return "".join(f"{symbol}{count}" for symbol, count in sorted(counts.items()))


def answers(
    name: str,
    model: Any,
    samples: Any,
    formulas: Sequence[str],
    draws: int,
    seed: int,
    progress: Progress,
    device: str | None,
    patterns: Sequence[np.ndarray] | None = None,
    **options: Any,
) -> front.Answers:
    """Draws for each formula, by a model or from a file.

    Raises:
        InputError: neither or both of model and samples, or a file that does not fit.
    """
    given.one_of(name, model, samples)
    if draws < 1:
        raise InputError(f"bench {name}: expected draws of at least 1, got {draws}; correct it")
    if model is not None:
        return front.crystals(model, formulas, draws, seed, device, patterns, progress, **options)
    if not isinstance(samples, (str, os.PathLike)):
        rows = [list(row) for row in samples]
        if [len(row) for row in rows] != [draws] * len(formulas):
            raise InputError(f"bench {name}: expected {len(formulas)} rows of {draws} draws, got {len(rows)} rows; pass n= and draws=")
        return front.Answers(rows, np.full((len(rows), draws), np.nan), 0.0)
    return of_file(name, Path(samples), len(formulas), draws)


def of_file(name: str, path: Path, n_rows: int, draws: int) -> front.Answers:
    """Draws of a file or folder: by SCIAR_ROW and SCIAR_DRAW where records have them, else `draws` for each row in order.

    Raises:
        InputError: rows beyond the last one, or another number of records than rows × draws.
    """
    rows: list[list[Structure | None]] = [[None] * draws for _ in range(n_rows)]
    scores = np.full((n_rows, draws), np.nan)
    records = [found for _, found in given.records(path)]
    tagged = [not isinstance(found, str) and "SCIAR_ROW" in found.info for found in records]
    if not any(tagged) and len(records) != n_rows * draws:
        raise InputError(
            f"{path.name}: expected {n_rows} × {draws} records, got {len(records)}; pass n= and draws=, or tag them with SCIAR_ROW"
        )
    for k, (found, has_tag) in enumerate(zip(records, tagged, strict=True)):
        if isinstance(found, str) or (any(tagged) and not has_tag):
            continue  # a record that cannot be read is a failed draw
        row, draw = (int(str(found.info["SCIAR_ROW"])), int(str(found.info.get("SCIAR_DRAW", 0)))) if has_tag else divmod(k, draws)
        if not (0 <= row < n_rows and 0 <= draw < draws):
            raise InputError(
                f"{path.name}: expected rows below {n_rows} and draws below {draws}, got row {row} draw {draw}; pass n= and draws="
            )
        rows[row][draw] = found if found.n_atoms and found.cell is not None else None
        scores[row, draw] = float(str(found.info.get("SCIAR_SCORE", "nan")))
    return front.Answers(rows, scores, 0.0)


def best(worth: np.ndarray) -> np.ndarray:
    """Per row the draw of highest worth, r × 1; the first where none is known."""
    return np.where(np.isfinite(worth), worth, -np.inf).argmax(axis=1)[:, None]


def worth_of(drawn: front.Answers) -> np.ndarray:
    """Votes of each draw in its row, r × k, and of those with equally many first the likeliest."""
    counts = np.array([votes(row) for row in drawn.structures], dtype=float).reshape(drawn.scores.shape)
    unlikely = np.where(np.isfinite(drawn.scores), -drawn.scores, np.inf).argsort(1, kind="stable").argsort(1)  # place within the row
    return np.where(counts > 0, counts - unlikely / (1 + len(drawn.scores[0])), np.nan)


def name_of(model: Any, samples: Any) -> str:
    """How the subject is called in the table."""
    if model is not None:
        return front.name_of(model)
    return Path(samples).name if isinstance(samples, (str, os.PathLike)) else "samples"
