"""Structure from a powder pattern and a composition: 500 test crystals of MP-20, their simulated patterns, one candidate kept.

The first draw is the raw number; beside it the draw whose pattern agrees best, the best of a few that are refined against the pattern
(the ranked column) and the likeliest one, with all draws counted.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from sciar import pxrd, rietveld
from sciar.bench import Progress, Result, published
from sciar.bench.ledger import comparisons
from sciar.bench.mp20_csp import answers, best, cell_formula, chosen, name_of
from sciar.metrics import crystal as metrics
from sciar.metrics.distance import bootstrap
from sciar.structure import Structure


def run_protocol(
    model: Any = None,
    samples: str | os.PathLike[str] | Sequence[Sequence[Structure | None]] | None = None,
    n: int = 500,
    seed: int = 0,
    progress: Progress = lambda what, done, total: None,
    draws: int = 20,
    refine: int = 5,
    jobs: int = 1,
    seconds: float = metrics.SECONDS,
    device: str | None = None,
) -> Result:
    """Run the protocol.

    Args:
        model: draws crystals, given composition and pattern; or
        samples: as of the protocol mp20-csp.
        n: test crystals, chosen by `seed`.
        seed: of the draws and of the choice of rows.
        progress: told what is being done.
        draws: for each row.
        refine: so many of them, those that agree best, are refined against the pattern (`sciar.rietveld`) and one is kept; 0 = none.
        jobs: processes that match.
        seconds: of CPU time for one pair of crystals.
        device: where the model runs.

    Raises:
        InputError: neither or both of model and samples, or a file that does not fit the rows.
    """
    references = chosen(n, seed)
    patterns = [pxrd.simulated(reference) for reference in references]
    texts = [cell_formula(reference) for reference in references]
    drawn = answers("pxrd", model, samples, texts, draws, seed, progress, device, patterns)
    comparison = metrics.compare(drawn.structures, references, jobs, seconds, partial(progress, "matching"), comparisons())
    cosines = np.full((len(references), draws), np.nan)
    for row, (structures, pattern) in enumerate(zip(drawn.structures, patterns, strict=True)):
        progress("patterns", row, len(references))
        for draw, structure in enumerate(structures):
            if metrics.structure_valid(structure) and structure is not None:
                noted = structure.info.get("pxrd_cosine") if model is not None else None  # the verdict has compared it already
                cosines[row, draw] = pxrd.agreement(structure, pattern).cosine if noted is None else float(str(noted))
    label = name_of(model, samples)
    kept = best(cosines)
    raw = metrics.prediction(comparison, np.zeros((len(references), 1), dtype=int))
    ranked = metrics.prediction(comparison, kept)
    finite = cosines[np.isfinite(cosines)]
    raw |= {"cosine": float(finite.mean()) if len(finite) else float("nan"), "timeouts": float(comparison.n_timeouts)}
    known = cosines[np.arange(len(kept)), kept[:, 0]]
    ranked["cosine"] = float(np.nanmean(known)) if np.isfinite(known).any() else float("nan")
    rows: list[dict[str, Any]] = [
        {"model": f"{label}, first draw", "draws": 1, **raw},
        {"model": f"{label}, best by pattern", "draws": draws, **ranked},
    ]
    if refine:
        found = []
        for row, pattern in enumerate(patterns):
            progress("refining", row, len(patterns))
            found.append(_refined(drawn.structures[row], pattern, cosines[row], refine))
        there = metrics.compare([[structure] for structure, _ in found], references, jobs, seconds)
        ranked = metrics.prediction(there, np.zeros((len(references), 1), dtype=int))
        known = np.array([cosine for _, cosine in found])
        ranked["cosine"] = float(np.nanmean(known)) if np.isfinite(known).any() else float("nan")
        rows.append({"model": f"{label}, best {refine} by pattern refined, one kept", "draws": draws, **ranked})
    if np.isfinite(drawn.scores).any():
        rows.append({"model": f"{label}, best by score", "draws": draws, **metrics.prediction(comparison, best(drawn.scores))})
    hits = np.isfinite(comparison.rmsd[:, 0]).astype(float)
    total = len(references) * draws
    notes = [f"{len(references)} test crystals, simulated Cu Kα patterns; the kept candidate is chosen among {draws} draws per crystal."]
    intervals = {"match_rate": bootstrap(hits, seed=seed)}
    return Result("pxrd", total, total, drawn.seconds, raw, ranked, intervals, published("pxrd"), rows, notes)


def _refined(
    structures: Sequence[Structure | None], pattern: pxrd.Pattern, cosines: np.ndarray, refine: int
) -> tuple[Structure | None, float]:
    """Of the draws that agree best the one that fits best after refinement, and the cosine of its profile; the first draw if none fits."""
    found = []
    for draw in np.argsort(-np.nan_to_num(cosines, nan=-1.0), kind="stable")[:refine]:
        structure = structures[draw]
        if structure is not None and np.isfinite(cosines[draw]):
            moved, fit = rietveld.refined(structure, pattern)
            if metrics.structure_valid(moved):
                found.append((fit.fit, fit.cosine, moved))
    if not found:
        return structures[0], float("nan")
    _, cosine, structure = max(found, key=lambda one: one[0])
    return structure, cosine
