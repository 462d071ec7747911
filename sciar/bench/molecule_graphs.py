"""Graphs of heavy atoms of QM9 or ZINC250k: 10,000 raw draws of a model, judged strictly by their own bonds, charges and hydrogens.

Valid: RDKit accepts the whole graph as it is and it is one fragment; nothing is repaired and no largest fragment is taken.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence
from typing import Any

from sciar.bench import Progress, Result, front, published
from sciar.bench.given import given, one_of
from sciar.metrics import molecule as metrics
from sciar.structure import Structure

SETS = {"qm9-graphs": "qm9", "zinc250k": "zinc250k"}  # protocol and data set
MOST = 10_000  # test molecules that FCD compares with


def run_protocol(
    protocol: str,
    model: Any = None,
    samples: str | os.PathLike[str] | Sequence[Structure | None] | None = None,
    n: int = 10_000,
    seed: int = 0,
    progress: Progress = lambda what, done, total: None,
    masked: bool = True,
    novelty: bool = True,
    device: str | None = None,
) -> Result:
    """Run the protocol.

    Args:
        protocol: one of SETS.
        model: draws graphs, or
        samples: a file of somebody's graphs (.smi, .sdf, .json …; empty and unreadable records are failed draws), or such graphs.
        n: draws of the model.
        seed: of the draws.
        progress: told what is being done.
        masked: a second row with the sampler's masks of valence and connectivity, for a model that has one.
        novelty: compare with the training molecules and compute FCD against the test molecules (needs the data set).
        device: where the model runs.

    Raises:
        InputError: neither or both of model and samples, or no draws. DataError: the data set is not to be had.
    """
    one_of(protocol, model, samples)
    cases: dict[str, front.Drawn] = {}
    notes = [
        "Strict: the graph itself, no repair, no largest fragment. unique: different valid graphs / draws. novel: of the different ones."
    ]
    if samples is not None:
        found = given(protocol, samples)
        cases[found.name] = front.Drawn(found.structures, found.scores, 0.0, 0)
        notes += found.notes()
    else:
        cases = front.graphs(model, n, seed, device, masked, lambda what, done: progress(what, done, 3))
    progress("judging", 2, 3)
    known, test = _references(SETS[protocol]) if novelty else (None, [])
    chemnet = bool(test) and importlib.util.find_spec("fcd") is not None
    if chemnet:
        notes.append(f"FCD: valid draws against {len(test)} test molecules, without stereo marks.")
    rows: list[dict[str, Any]] = []
    for name, drawn in cases.items():
        records = [metrics.by_bonds(s) for s in drawn.structures]
        row: dict[str, Any] = {"model": name, "draws": len(records), **metrics.table(records, known)}
        row = {key: value for key, value in row.items() if "largest" not in key}
        valid = [r.key for r in records if r is not None and r.smiles is not None and r.key is not None]
        if chemnet and len(valid) > 1:
            from sciar.metrics.fcd import fcd

            row["fcd"] = fcd(valid, test)
        if drawn.seconds:
            row["seconds_per_1000"] = 1000 * drawn.seconds / len(records)
            row["network_calls_per_sample"] = drawn.calls / len(records)
        rows.append(row)
    raw = {key: value for key, value in rows[0].items() if key not in ("model", "draws")}
    total = sum(row["draws"] for row in rows)
    seconds = sum(drawn.seconds for drawn in cases.values())
    asked = n if model is not None else total
    return Result(protocol, asked, total, seconds, raw, published=published(protocol), rows=rows, notes=notes)


def _references(name: str) -> tuple[frozenset[str], list[str]]:
    """Canonical SMILES of the training molecules and of the first test molecules."""
    from sciar import datasets

    sides = []
    for split in ("train", "test"):
        smiles = datasets.load(name, split).column("smiles")
        sides.append([text for smile in smiles if (text := metrics.canonical(str(smile))) is not None])
    return frozenset(sides[0]), sides[1][:MOST]
