"""De novo molecules of QM9's kind: 10,000 raw draws, judged by EDM's distance look-up and by their own bonds.

Own bonds have the prefix `own_`. Without prefix everything is comparable to EDM's table, where validity and uniqueness
are those of the largest fragment: `valid_largest_fragment` and `valid_unique_largest_fragment`; `valid` and
`valid_unique` also ask for one fragment.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from sciar.bench import Progress, Result, front, published
from sciar.bench.given import Given, given, one_of
from sciar.errors import InputError
from sciar.metrics import molecule as metrics
from sciar.structure import Structure

DATA = "data"  # samples="data": the test molecules themselves


def run_protocol(
    model: Any = None,
    samples: str | os.PathLike[str] | Sequence[Structure | None] | None = None,
    n: int | None = None,
    seed: int = 0,
    progress: Progress = lambda what, done, total: None,
    keep: float = 0.1,
    novelty: bool = True,
    device: str | None = None,
) -> Result:
    """Run the protocol.

    Args:
        model: to draw from, or
        samples: a file of draws (.sdf, .xyz …; records without atoms are failed draws), structures, or "data": molecules of QM9.
        n: draws, 10,000 for a model and all of a file if not given; a file with fewer counts the missing ones as failures.
        seed: of the draws, and of the choice of `samples="data"`.
        progress: told what is being done.
        keep: share of the draws, the best by score, in the ranked column; only where there are scores.
        novelty: compare with the training molecules (needs the QM9 data).
        device: where the model runs.

    Raises:
        InputError: neither or both of model and samples, or no draws.
    """
    one_of("qm9", model, samples)
    if not 0 < keep <= 1:
        raise InputError(f"bench qm9: expected keep above 0 and at most 1, got {keep}")
    notes = ["Published rows are of 10,000 samples, EDM look-up, largest fragment. own_: by the bonds of the samples themselves."]
    progress("drawing", 0, 3)
    if model is not None:
        options: dict[str, Any] = {"score": True} if keep < 1 else {}
        label, drawn = front.name_of(model), front.de_novo(model, n or 10_000, seed, device, **options)
    else:
        found = _data(n or 10_000, seed) if isinstance(samples, str) and samples == DATA else given("qm9", samples or (), n)
        label, drawn = found.name, front.Drawn(found.structures, found.scores, 0.0, 0)
        notes += found.notes()
    n_draws = len(drawn.structures)
    known = _training() if novelty else None
    progress("judging", 1, 3)
    judged = {"": [metrics.by_lookup(s) for s in drawn.structures]}
    if any(s is not None and s.bonds is not None for s in drawn.structures):
        judged["own_"] = [metrics.by_bonds(s) for s in drawn.structures]
    progress("intervals", 2, 3)
    raw = {prefix + key: value for prefix, records in judged.items() for key, value in metrics.table(records, known).items()}
    intervals = {prefix + key: value for prefix, records in judged.items() for key, value in metrics.intervals(records, seed).items()}
    ranked = None
    if keep < 1 and np.isfinite(drawn.scores).any():
        best = np.argsort(-np.where(np.isfinite(drawn.scores), drawn.scores, -np.inf), kind="stable")[: max(1, round(keep * n_draws))]
        ranked = {p + k: v for p, records in judged.items() for k, v in metrics.table([records[i] for i in best], known).items()}
    if drawn.seconds:
        raw["seconds_per_1000"] = 1000 * drawn.seconds / n_draws
    if drawn.calls:
        raw["network_calls_per_sample"] = drawn.calls / n_draws
    rows = [{"model": label, "draws": n_draws, **raw}]
    if ranked is not None:
        rows.append({"model": f"{label}, best {keep:.0%} by score", "draws": n_draws, **ranked})
    return Result("qm9", n or n_draws, n_draws, drawn.seconds, raw, ranked, intervals, published("qm9"), rows, notes)


def _data(n: int, seed: int) -> Given:
    from sciar import datasets

    store = datasets.load("qm9")
    return Given(DATA, [store[int(row)] for row in np.random.default_rng(seed).permutation(len(store))[:n]])


def _training() -> frozenset[str]:
    from sciar import datasets

    smiles = datasets.load("qm9", "train").column("smiles")
    return frozenset(name for text in smiles if (name := metrics.canonical(str(text))) is not None)
