"""De novo crystals against the test set of MP-20: 10,000 raw draws, validity, distributions, coverage, uniqueness, novelty.

COV-R and COV-P need matminer (extra `coverage`); stable, unique and novel draws are counted where `hull` asks for it (extra `relax`).
"""

from __future__ import annotations

import importlib.metadata
import os
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from sciar import datasets
from sciar.bench import Progress, Result, front, published
from sciar.bench.given import given, one_of
from sciar.bench.ledger import Ledger, comparisons
from sciar.bench.mp20_csp import name_of
from sciar.bench.stability import stable_unique_novel
from sciar.errors import InputError
from sciar.metrics import crystal as metrics
from sciar.metrics.coverage import coverage as near
from sciar.metrics.coverage import fingerprints
from sciar.metrics.distance import bootstrap
from sciar.relax import relax
from sciar.structure import Structure, key_of
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
    coverage: bool = True,
    hull: int = 0,
    potential: Any = "chgnet",
    relax_known: bool = False,
    relax_seconds: float = 300.0,
    jobs: int = 1,
) -> Result:
    """Run the protocol.

    Args:
        model: to draw from, or
        samples: a file of draws (.extxyz, .cif …; what cannot be read is a failed draw), or structures.
        n: draws, 10,000 for a model and all of a file if not given; a file with fewer counts the missing ones as failures.
        seed: of the draws and of the choice of the 1,000 valid ones whose distributions are compared.
        progress: told what is being done.
        keep: share of the draws, the best by score, in the ranked column (0.32 as Uni-3DAR's script); only where there are scores.
        seconds: of CPU time for one pair of crystals, and for one fingerprint.
        device: where the model runs.
        coverage: COV-R and COV-P, where matminer is installed; the test set's fingerprints take a quarter of an hour once.
        hull: so many draws, the first ones, are relaxed and held against the hull of the training set.
        potential: "chgnet", "emt", "lj" or an ASE calculator, for the hull.
        relax_known: relax the training crystals of the hull too.
        relax_seconds: of wall time for one relaxation.
        jobs: processes for comparisons, fingerprints and relaxations.

    Raises:
        InputError: neither or both of model and samples, no draws, keep or hull out of range, or a potential that is not there.
    """
    one_of("mp20-denovo", model, samples)
    if not 0 < keep <= 1:
        raise InputError(f"bench mp20-denovo: expected keep above 0 and at most 1, got {keep}")
    found = None if samples is None else given("mp20-denovo", samples, n)
    count = (n or 10_000) if found is None else len(found.structures)
    if not 0 <= hull <= count:
        raise InputError(f"bench mp20-denovo: expected hull from 0 to {count} draws, got {hull}")
    if hull:
        relax([], potential)  # refuses what it cannot use
    references, known = list(datasets.load("mp20", "test")), datasets.load("mp20", "train")
    progress("drawing", 0, 3)
    if found is not None:
        crystals = [None if s is None or s.cell is None else s for s in found.structures]
        drawn, notes = front.Drawn(crystals, found.scores, 0.0, 0), found.notes()
    else:
        drawn, notes = front.de_novo(model, count, seed, device, task="crystal"), []
    structures = drawn.structures
    progress("judging", 1, 3)
    compared = comparisons()
    kinds = metrics.kinds(structures, seconds, jobs, compared)
    progress("novelty", 2, 3)
    new = metrics.novel(structures, known, seconds, jobs, compared)
    accepted = np.array([s is not None and validate(s).valid for s in structures])
    mine: list[Any] = []
    theirs: list[Any] = []
    if coverage:
        try:
            theirs = _kept_fingerprints(references, jobs, seconds, partial(progress, "fingerprints of the test set"))
            mine = _kept_fingerprints(structures, jobs, seconds, partial(progress, "fingerprints of the draws"))
            notes.append(
                f"COV-R and COV-P over all draws and all {len(theirs):,} test crystals, at 0.4 and 10; COV-R grows with the number of "
                "draws, of which published rows have 10,000."
            )
            notes += _without(mine, "draws") + _without(theirs, "test crystals")
        except InputError as error:
            notes.append(f"COV-R and COV-P are not measured: {error}.")

    def measured(rows: Sequence[int]) -> dict[str, float]:
        part = [structures[i] for i in rows]
        first, unknown = metrics.unique(kinds[list(rows)]), new[list(rows)]
        numbers = metrics.de_novo(part, references, seed=seed)
        if mine:
            covering, covered = near([mine[i] for i in rows], theirs)
            numbers["cov_recall"], numbers["cov_precision"] = float(covered.mean()), float(covering.mean())
        numbers["accepted"] = float(accepted[list(rows)].mean())
        numbers["unique"] = float(first.mean())
        numbers["novel"] = float(unknown.mean())
        numbers["unique_novel"] = float((first & unknown).mean())
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
    if hull:
        stable, said = stable_unique_novel(structures[:hull], known, potential, relax_known, relax_seconds, jobs, progress)
        rows.append({"model": f"{label}, the first {hull} relaxed", "draws": hull, **stable})
        raw |= {**stable, "n_hull": hull}
        notes += said
    if drawn.seconds:
        raw["seconds_per_1000"] = 1000 * drawn.seconds / len(structures)
    notes = [
        *notes,
        "Charge balance by SMACT's 2014 states; distances of up to 1,000 valid draws to the test set; novelty against the training rows of "
        "the data set at hand.",
    ]
    total = len(structures)
    return Result("mp20-denovo", n or total, total, drawn.seconds, raw, ranked, intervals, published("mp20-denovo"), rows, notes)


def _kept_fingerprints(
    structures: Sequence[Structure | None], jobs: int, seconds: float, progress: Callable[[int, int], None]
) -> list[Any]:
    """Those of earlier runs from the cache, and into it, but for the failures."""
    fingerprints([], seconds=seconds)  # refuses, if matminer is missing, before anything is read
    kept = Ledger(f"fingerprints-matminer-{importlib.metadata.version('matminer')}")
    keys = ["" if one is None else key_of(one) for one in structures]
    found: dict[str, Any] = {key: np.array(kept[key]) for key in keys if key in kept}
    waiting = {key: one for key, one in zip(keys, structures, strict=True) if key not in found}
    for key, one in zip(waiting, fingerprints(list(waiting.values()), jobs, seconds), strict=True):
        found[key] = one
        if not isinstance(one, str):
            kept[key] = one.tolist()
        progress(len(found), len(set(keys)))
    return [found[key] for key in keys]


def _without(prints: Sequence[Any], what: str) -> list[str]:
    """How many have no fingerprint, and why."""
    reasons = Counter(one for one in prints if isinstance(one, str))
    listed = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())
    return [f"{reasons.total()} {what} have no fingerprint and are near nothing: {listed}."] if reasons else []
