"""Graphs of QM9's heavy atoms: 10,000 raw draws of a graph model, judged strictly by their own bonds, charges and hydrogens.

Valid: RDKit accepts the whole graph as it is and it is one fragment; nothing is repaired and no largest fragment is taken.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import Any

import numpy as np

from sciar.bench import Progress, Result, front, published
from sciar.errors import InputError
from sciar.metrics import molecule as metrics
from sciar.structure import Structure


def run_protocol(
    model: Any = None,
    samples: Sequence[Structure | None] | None = None,
    n: int = 10_000,
    seed: int = 0,
    progress: Progress = lambda what, done, total: None,
    masked: bool = True,
    novelty: bool = True,
    device: str | None = None,
) -> Result:
    """Run the protocol.

    Args:
        model: draws graphs, or
        samples: somebody's graphs.
        n: draws.
        seed: of the draws.
        progress: told what is being done.
        masked: a second row with the sampler's masks of valence and connectivity, for a model that has one.
        novelty: compare with the training molecules and compute FCD against the test molecules (needs the QM9 data).
        device: where the model runs.

    Raises:
        InputError: neither or both of model and samples.
    """
    if (model is None) == (samples is None):
        raise InputError("bench qm9-graphs: expected model= or samples=, got both or none of them")
    cases: dict[str, front.Drawn] = {}
    if samples is not None:
        cases["samples"] = front.Drawn(list(samples), np.full(len(samples), np.nan), 0.0, 0)
    else:
        cases = front.graphs(model, n, seed, device, masked, lambda what, done: progress(what, done, 3))
    progress("judging", 2, 3)
    known, test = _references() if novelty else (None, [])
    notes = [
        "Strict: the graph itself, no repair, no largest fragment. unique: different valid graphs / draws. novel: of the different ones."
    ]
    rows: list[dict[str, Any]] = []
    for name, drawn in cases.items():
        records = [metrics.by_bonds(s) for s in drawn.structures]
        row: dict[str, Any] = {"model": name, "draws": len(records), **metrics.table(records, known)}
        row = {key: value for key, value in row.items() if "largest" not in key}
        valid = [r.key for r in records if r is not None and r.smiles is not None and r.key is not None]
        if test and importlib.util.find_spec("fcd") and len(valid) > 1:
            from sciar.metrics.fcd import fcd

            row["fcd"] = fcd(valid, test)
            notes = [*notes[:1], f"FCD: valid draws against {len(test)} test molecules, without stereo marks."]
        if drawn.seconds:
            row["seconds_per_1000"] = 1000 * drawn.seconds / len(records)
            row["network_calls_per_sample"] = drawn.calls / len(records)
        rows.append(row)
    raw = {key: value for key, value in rows[0].items() if key not in ("model", "draws")}
    total = sum(row["draws"] for row in rows)
    seconds = sum(drawn.seconds for drawn in cases.values())
    return Result("qm9-graphs", n, total, seconds, raw, published=published("qm9-graphs"), rows=rows, notes=notes)


def _references() -> tuple[frozenset[str], list[str]]:
    from sciar import datasets

    sides = []
    for split in ("train", "test"):
        smiles = datasets.load("qm9", split).column("smiles")
        sides.append([name for text in smiles if (name := metrics.canonical(str(text))) is not None])
    return frozenset(sides[0]), sides[1][:10_000]
