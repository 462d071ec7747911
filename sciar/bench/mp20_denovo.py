"""De novo crystals against the test set of MP-20: 10,000 raw draws, validity, distributions, uniqueness, novelty.

Not measured here: COV-R and COV-P, whose fingerprints need matminer, and energies above the hull.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from sciar import datasets
from sciar.bench import Progress, Result, front, published
from sciar.bench.given import given, one_of
from sciar.bench.mp20_csp import name_of
from sciar.errors import InputError
from sciar.metrics import crystal as metrics
from sciar.metrics.distance import bootstrap
from sciar.structure import Structure
from sciar.validate import validate


def run_protocol(
    model: Any = None,
    samples: str | os.PathLike[str] | Sequence[Structure | None] | None = None,
    n: int | None = None,
    seed: int = 0,
    progress: Progress = lambda what, done, total: None,
    keep: float = 0.32,
    seconds: float = metrics.SECONDS,
    device: str | None = None,
) -> Result:
    """Run the protocol.

    Args:
        model: to draw from, or
        samples: a file of draws (.extxyz, .cif …; what cannot be read is a failed draw), or structures.
        n: draws, 10,000 for a model and all of a file if not given; a file with fewer counts the missing ones as failures.
        seed: of the draws and of the choice of the 1,000 valid ones whose distributions are compared.
        progress: told what is being done.
        keep: share of the draws, the best by score, in the ranked column (0.32 as Uni-3DAR's script); only where there are scores.
        seconds: of CPU time for one pair of crystals.
        device: where the model runs.

    Raises:
        InputError: neither or both of model and samples, no draws, or keep out of range.
    """
    one_of("mp20-denovo", model, samples)
    if not 0 < keep <= 1:
        raise InputError(f"bench mp20-denovo: expected keep above 0 and at most 1, got {keep}")
    references, known = list(datasets.load("mp20", "test")), datasets.load("mp20", "train")
    progress("drawing", 0, 3)
    if samples is not None:
        found = given("mp20-denovo", samples, n)
        crystals = [None if s is None or s.cell is None else s for s in found.structures]
        drawn, notes = front.Drawn(crystals, found.scores, 0.0, 0), found.notes()
    else:
        drawn, notes = front.de_novo(model, n or 10_000, seed, device, task="crystal"), []
    structures = drawn.structures
    progress("judging", 1, 3)
    first = metrics.unique(structures, seconds)
    progress("novelty", 2, 3)
    new = metrics.novel(structures, known, seconds)
    accepted = np.array([s is not None and validate(s).valid for s in structures])

    def measured(rows: Sequence[int]) -> dict[str, float]:
        part = [structures[i] for i in rows]
        again = first if len(rows) == len(structures) else _unique_of(structures, rows, seconds)
        numbers = metrics.de_novo(part, references, seed=seed)
        numbers["accepted"] = float(accepted[list(rows)].mean())
        numbers["unique"] = float(again[list(rows)].mean())
        numbers["novel"] = float(new[list(rows)].mean())
        numbers["unique_novel"] = float((again & new)[list(rows)].mean())
        return numbers

    label = name_of(model, samples)
    raw = measured(range(len(structures)))
    rows: list[dict[str, Any]] = [{"model": label, "draws": len(structures), **raw}]
    ranked = None
    if keep < 1 and np.isfinite(drawn.scores).any():
        order = np.argsort(-np.where(np.isfinite(drawn.scores), drawn.scores, -np.inf), kind="stable")
        ranked = measured(sorted(order[: max(1, round(keep * len(structures)))].tolist()))
        rows.append({"model": f"{label}, best {keep:.0%} by score", "draws": len(structures), **ranked})
    intervals = {
        "struct_valid": bootstrap(np.array([metrics.structure_valid(s) for s in structures], dtype=float), seed=seed),
        "comp_valid": bootstrap(np.array([metrics.composition_valid(s) for s in structures], dtype=float), seed=seed),
    }
    if drawn.seconds:
        raw["seconds_per_1000"] = 1000 * drawn.seconds / len(structures)
    notes = [
        *notes,
        "Charge balance by SMACT's 2014 states; distances of up to 1,000 valid draws to the test set; novelty against the training rows of "
        "the data set at hand; COV-R, COV-P and energies are not measured.",
    ]
    total = len(structures)
    return Result("mp20-denovo", n or total, total, drawn.seconds, raw, ranked, intervals, published("mp20-denovo"), rows, notes)


def _unique_of(structures: Sequence[Structure | None], rows: Sequence[int], seconds: float) -> np.ndarray:
    kept = np.zeros(len(structures), dtype=bool)
    kept[list(rows)] = metrics.unique([structures[i] for i in rows], seconds)
    return kept
