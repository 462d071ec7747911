"""Properties read off structures: mean absolute errors on QM9's test molecules at their DFT geometries."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from sciar.bench import Progress, Result, front
from sciar.errors import InputError
from sciar.predict import predict_all


def run_protocol(
    model: Any = None,
    n: int = 1000,
    seed: int = 0,
    progress: Progress = lambda what, done, total: None,
    poses: int = 5,
    data: str = "qm9",
    device: str | None = None,
) -> Result:
    """Run the protocol.

    Args:
        model: with a property head.
        n: molecules, the first ones of the test split (of a sample: the first ones).
        seed: of the poses.
        progress: told when reading begins.
        poses: random orientations that are averaged.
        data: name of the set, or sample:NAME for the molecules of it that come with the package.
        device: where the model runs.

    Raises:
        InputError: no model, or one that predicts nothing. DataError: the data set is not to be had.
    """
    from sciar import datasets

    if model is None:
        raise InputError("bench predict: expected model=, got none; name a bundled model or a weights file")
    store: Any = datasets.samples(data.removeprefix("sample:")) if data.startswith("sample:") else datasets.load(data, "test")
    structures = [store[i] for i in range(min(n, len(store)))]
    generator = front.load(model, device)
    if not getattr(generator.model, "predicts", ()):
        raise InputError(f"bench predict: expected a model with a property head, got {generator.name!r}; train one")
    rows: list[dict[str, Any]] = []
    progress("reading", 0, 1)
    begin = time.perf_counter()
    found = predict_all(structures, model=generator, poses=poses, seed=seed)
    seconds = time.perf_counter() - begin
    for name, read in found.items():
        wanted = np.array([float(s.info.get(name, np.nan)) for s in structures])
        error = np.abs(read.values - wanted)
        rows.append(
            {
                "property": name,
                "mae": float(np.nanmean(error)),
                "mae_of_the_median": float(np.nanmean(np.abs(wanted - np.nanmedian(wanted)))),
                "read": float(np.isfinite(error).mean()),
            }
        )
    raw = {f"mae {row['property']}": row["mae"] for row in rows}
    note = f"{len(structures)} molecules, {poses} poses each; mae_of_the_median: of answering the median of these molecules always"
    return Result("predict", len(structures), len(structures), seconds, raw, rows=rows, notes=[note])
