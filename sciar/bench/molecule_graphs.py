"""Graphs of heavy atoms of QM9 or ZINC250k: 10,000 raw draws of a model, judged strictly by their own bonds, charges and hydrogens.

Valid: RDKit accepts the whole graph as it is and it is one fragment; nothing is repaired and no largest fragment is taken. NSPDK is of
every draw that is a graph at all, valid or not; FCD, which reads SMILES, of the valid ones. The row "training set" is NSPDK's floor.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sciar.bench import Progress, Result, front, published
from sciar.bench.given import given, one_of
from sciar.errors import InputError
from sciar.metrics import molecule as metrics
from sciar.metrics import nspdk
from sciar.metrics.fcd import Activations, activations, fcd
from sciar.structure import Structure

SETS = {"qm9-graphs": "qm9", "zinc250k": "zinc250k"}  # protocol and data set
MOST = 10_000  # random test molecules that FCD and NSPDK compare with; as many of the training set for the floor


@dataclass(frozen=True, slots=True, eq=False)
class References:
    """What draws are compared with.

    Args:
        known: canonical SMILES of the training molecules.
        test: of up to MOST random test molecules.
        chemnet: ChemNet's activations of the same; None without the package.
        graphs: their mean NSPDK features.
        floor: NSPDK between them and as many random training molecules.
    """

    known: frozenset[str]
    test: list[str]
    chemnet: Activations | None
    graphs: nspdk.Features
    floor: float


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
    keep: float = 0.1,
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
        novelty: compare with the training molecules and compute FCD and NSPDK against the test molecules (needs the data set).
        device: where the model runs.
        keep: share of the first row's draws, the best by score, in the ranked column; only where there are scores.

    Raises:
        InputError: neither or both of model and samples, or no draws. DataError: the data set is not to be had.
    """
    one_of(protocol, model, samples)
    if not 0 < keep <= 1:
        raise InputError(f"bench {protocol}: expected keep above 0 and at most 1, got {keep}")
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
    references = _references(SETS[protocol]) if novelty else None
    rows: list[dict[str, Any]] = []
    for name, drawn in cases.items():
        row = {"model": name, "draws": len(drawn.structures), **_judged(drawn.structures, references)}
        if drawn.seconds:
            row["seconds_per_1000"] = 1000 * drawn.seconds / len(drawn.structures)
            row["network_calls_per_sample"] = drawn.calls / len(drawn.structures)
        rows.append(row)
    raw = {key: value for key, value in rows[0].items() if key not in ("model", "draws")}
    total = sum(row["draws"] for row in rows)
    name, drawn = next(iter(cases.items()))
    ranked = None
    if keep < 1 and np.isfinite(drawn.scores).any():
        order = np.argsort(-np.where(np.isfinite(drawn.scores), drawn.scores, -np.inf), kind="stable")
        best = [drawn.structures[k] for k in order[: max(1, round(keep * len(order)))]]
        ranked = _judged(best, references)
        rows.append({"model": f"{name}, best {keep:.0%} by score", "draws": len(order), **ranked})
        notes.append(f"ranked: {len(best)} of {len(order)} draws; FCD and NSPDK of fewer molecules are larger.")
    if references is not None:
        if references.chemnet is not None:
            notes.append(f"FCD: valid draws against {len(references.test)} test molecules, without stereo marks.")
        counts = ", ".join(f"{round(row['graphs'] * row['draws'])} of {row['draws']} ({row['model']})" for row in rows[: len(cases)])
        notes.append(
            f"NSPDK: draws that are graphs at all, {counts}, against {references.graphs.n} test molecules; its own hashes, not EDeN's."
        )
        rows.append({"model": "training set", "nspdk": references.floor})
    seconds = sum(drawn.seconds for drawn in cases.values())
    asked = n if model is not None else total
    return Result(protocol, asked, total, seconds, raw, ranked, published=published(protocol), rows=rows, notes=notes)


def _judged(structures: Sequence[Structure | None], references: References | None) -> dict[str, float]:
    records = [metrics.by_bonds(s) for s in structures]
    found = metrics.table(records, references.known if references is not None else None)
    found = {key: value for key, value in found.items() if "largest" not in key}
    if references is not None:
        valid = [r.key for r in records if r is not None and r.smiles is not None and r.key is not None]
        if references.chemnet is not None and len(valid) > 1:
            found["fcd"] = fcd(valid, references.chemnet)
        graphs = [graph for s in structures if (graph := nspdk.by_bonds(s)) is not None]
        found |= {"graphs": len(graphs) / len(structures), "nspdk": nspdk.nspdk(graphs, references.graphs)}
    return found


def _references(name: str) -> References:
    from sciar import datasets

    train, test = ([str(smiles) for smiles in datasets.load(name, split).column("smiles")] for split in ("train", "test"))
    known = frozenset(key for text in train if (key := metrics.canonical(text)) is not None)
    # QM9 is in order of size, so the first rows would not do
    some, test = ([side[k] for k in np.random.default_rng(0).permutation(len(side))[:MOST]] for side in (train, test))
    test = [key for text in test if (key := metrics.canonical(text)) is not None]
    graphs, floor = ([graph for text in side if (graph := nspdk.by_smiles(text)) is not None] for side in (test, some))
    there = nspdk.features(graphs)
    chemnet = activations(test) if importlib.util.find_spec("fcd") is not None else None
    return References(known, test, chemnet, there, nspdk.nspdk(floor, there))
