"""MOSES: 25,000 raw draws of a graph model, or somebody's SMILES, against both of its test sets.

Valid means that RDKit accepts the whole graph as it was drawn and that it is one fragment: stricter than MOSES, which never sees a graph
that has no SMILES. Everything else is MOSES' own (metrics/moses.py). The references are profiled once and kept: twenty minutes of two
processors for the two test sets of 176,000 molecules.
"""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sciar.arguments import lines_of
from sciar.bench import Progress, Result, front, published
from sciar.bench.given import Given, one_of
from sciar.metrics import molecule, moses
from sciar.metrics.fcd import Activations, activations, fcd

LARGE = 20_000  # SMILES of a reference whose profile is kept
SETS = {"Test": "test", "TestSF": "test_scaffolds"}


def run_protocol(
    model: Any = None,
    samples: str | os.PathLike[str] | Sequence[str | None] | None = None,
    n: int = 25_000,
    seed: int = 0,
    progress: Progress = lambda what, done, total: None,
    masked: bool = True,
    device: str | None = None,
    references: Mapping[str, Sequence[str]] | None = None,
    train: Sequence[str] | None = None,
) -> Result:
    """Run the protocol.

    Args:
        model: draws graphs, or
        samples: a file with one SMILES a line, an empty line for what failed, or such a list.
        n: draws of the model.
        seed: of the draws.
        progress: told what is being done.
        masked: a second row with the sampler's masks of valence and connectivity, for a model that has one.
        device: where the model runs.
        references, train: SMILES instead of MOSES' own test sets ("Test", "TestSF") and training set.

    Raises:
        InputError: neither or both of model and samples. DataError: MOSES is not to be had.
    """
    one_of("moses", model, samples)
    cases: dict[str, tuple[list[str | None], float, int]] = {}
    if samples is not None:
        file = isinstance(samples, str | os.PathLike)
        texts: list[str | None] = [*lines_of(Path(samples), "smiles")] if file else list(samples)  # type: ignore[arg-type]
        cases[Path(samples).name if file else "samples"] = (texts, 0.0, 0)  # type: ignore[arg-type]
    else:
        for name, drawn in front.graphs(model, n, seed, device, masked, lambda what, done: progress(what, done, 4)).items():
            judged = [molecule.by_bonds(structure) for structure in drawn.structures]
            cases[name] = ([None if record is None else record.smiles for record in judged], drawn.seconds, drawn.calls)
    progress("references", 2, 4)
    chemnet = importlib.util.find_spec("fcd") is not None
    known = {name: _profiled(name, smiles, chemnet) for name, smiles in (references or _sets()).items()}
    seen = frozenset(train if train is not None else _lines("train"))
    progress("judging", 3, 4)
    rows: list[dict[str, Any]] = []
    notes = ["Strict validity of whatever was drawn; all else of the valid ones, canonical, repeats included. Graph papers quote TestSF."]
    for name, (drawn_smiles, seconds, calls) in cases.items():
        canonical, passed = moses.judged(drawn_smiles)
        if samples is not None:
            pairs = zip(drawn_smiles, canonical, strict=True)
            refused = {k: f"{text}: not valid" for k, (text, accepted) in enumerate(pairs) if text and accepted is None}
            notes += Given(name, [], refused).notes()
        valid = [text for text in canonical if text is not None]
        row: dict[str, Any] = {"model": name, "draws": len(canonical), "valid": len(valid) / max(1, len(canonical))}
        if len(valid) > 1:
            row |= moses.metrics(canonical, passed, seen, moses.profile(valid), {name: found for name, (found, _) in known.items()})
            if chemnet:
                own = activations(valid)
                row |= {f"FCD/{name}": fcd(own, found) for name, (_, found) in known.items() if found is not None}
        if seconds:
            row |= {"seconds_per_1000": 1000 * seconds / len(canonical), "network_calls_per_sample": calls / len(canonical)}
        rows.append(row)
    if not chemnet:
        notes.append("no FCD: pip install 'sciar[bench]'")
    raw = {key: value for key, value in rows[0].items() if key not in ("model", "draws")}
    total, spent = sum(row["draws"] for row in rows), sum(seconds for _, seconds, _ in cases.values())
    return Result("moses", n if model is not None else total, total, spent, raw, published=published("moses"), rows=rows, notes=notes)


def _sets() -> dict[str, list[str]]:
    return {name: _lines(split) for name, split in SETS.items()}


def _lines(split: str) -> list[str]:
    from sciar import datasets
    from sciar.datasets import moses as source

    return [text for text, part in source.lines(datasets.fetch("moses")) if part == split]


def _profiled(name: str, smiles: Sequence[str], chemnet: bool) -> tuple[moses.Profile, Activations | None]:
    """The profile of a reference; of a large one kept in the cache."""
    from sciar import checkpoint, datasets

    path = datasets.cache_dir() / "bench" / f"moses-{name}-{len(smiles)}.npz"
    large = len(smiles) > LARGE
    profile, found = _kept(path) if large and path.is_file() else (None, None)
    if profile is not None and (found is not None or not chemnet):
        return profile, found
    profile = profile or moses.profile(smiles)
    found = activations(smiles) if chemnet else None
    if large:
        path.parent.mkdir(parents=True, exist_ok=True)
        counted = np.frombuffer(json.dumps([profile.fragments, profile.scaffolds]).encode(), dtype=np.uint8)
        more: dict[str, Any] = {} if found is None else {"mean": found.mean, "covariance": found.covariance}
        with checkpoint.replacing(path) as part, open(part, "wb") as file:
            np.savez_compressed(file, fingerprints=profile.fingerprints, values=profile.values, counts=counted, **more)
    return profile, found


def _kept(path: Path) -> tuple[moses.Profile, Activations | None]:
    """What an earlier run has found; no activations where it had no ChemNet."""
    with np.load(path, allow_pickle=False) as file:
        arrays = {key: file[key] for key in file.files}
    fragments, scaffolds = json.loads(arrays["counts"].tobytes().decode())
    found = Activations(arrays["mean"], arrays["covariance"]) if "mean" in arrays else None
    return moses.Profile(arrays["fingerprints"], fragments, scaffolds, arrays["values"]), found
