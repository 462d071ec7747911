"""Plain graphs: five times as many draws as there are test graphs, nothing left out, against the published sets.

`planar`, `tree`, `sbm`: valid, unique and novel, and the discrepancies of five descriptors with their ratio to those of the training
set (SPECTRE's protocol, total variation). `community`, `ego`: three discrepancies by earth mover's distance, without isolated nodes
(GDSS's protocol). A second row has the sampler's masks: one piece, and for `planar` and `tree` no bond that would leave the class.
The row "training set" is the floor: the training graphs judged as if they had been drawn. Discrepancies of few graphs are larger by
chance, so a last row has the training graphs as many at a time as the draws are judged. "test set": of the test graphs too some are in
the training set, most in `ego`, so 100 % valid, unique and novel is not what the truth has.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from sciar.bench import Progress, Result, front, published
from sciar.bench.given import Given, given, one_of
from sciar.errors import InputError
from sciar.metrics import graph as metrics
from sciar.structure import Structure

RUNS = 5
SUBSETS = 20  # of the training graphs
WITHIN = {"planar": "planar", "tree": "forest"}  # the sampler's name of the class
SETS: dict[str, tuple[str, str, tuple[str, ...], Callable[[metrics.Adjacency], bool]]] = {
    "planar": ("planar", "tv", ("degree", "clustering", "orbit", "spectral", "wavelet"), metrics.planar),
    "tree": ("tree", "tv", ("degree", "clustering", "orbit", "spectral", "wavelet"), metrics.tree),
    "sbm": ("sbm", "tv", ("degree", "clustering", "orbit", "spectral", "wavelet"), metrics.stochastic_block),
    "community": ("community_small", "emd", ("degree", "clustering", "orbit"), metrics.connected),
    "ego": ("ego_small", "emd", ("degree", "clustering", "orbit"), metrics.connected),
}


def run_protocol(
    protocol: str,
    model: Any = None,
    samples: str | os.PathLike[str] | Sequence[Structure | None] | None = None,
    n: int | None = None,
    seed: int = 0,
    progress: Progress = lambda what, done, total: None,
    device: str | None = None,
    temperature: float | None = None,
    masked: bool = True,
) -> Result:
    """Run the protocol.

    Args:
        protocol: planar, tree, sbm, community or ego.
        model: draws graphs, or
        samples: a file (.g6, .edgelist …; graphs without nodes are failed draws) or somebody's graphs.
        n: draws; None = five times the test graphs. Shares are over all draws, discrepancies are means over runs of that size.
        seed: of the draws.
        progress: told what is being done.
        device: where the model runs. temperature: of the sampler. masked: the row with masks, for a model that has them.

    Raises:
        InputError: neither or both of model and samples, or no draws. DataError: the data set is not to be had.
    """
    from sciar import datasets

    one_of(protocol, model, samples)
    name, kernel, descriptors, valid = SETS[protocol]
    train, test = ([structure.adjacency() > 0 for structure in datasets.load(name, split)] for split in ("train", "test"))
    n, problems = n or RUNS * len(test), []
    cases: dict[str, front.Drawn] = {}
    if samples is not None:
        found = _given(protocol, samples)
        cases[found.name] = front.Drawn(found.structures, found.scores, 0.0, 0)
        problems = found.notes()
    else:
        asked = {} if temperature is None else {"temperature": temperature}
        masks: dict[str, dict[str, Any]] = {"": {"connected": False}, ", masks": {"within": WITHIN.get(protocol, "")}}
        for k, (label, options) in enumerate(list(masks.items())[: 1 + masked]):
            progress(f"drawing{label}", k, 3)
            cases[front.name_of(model) + label] = front.de_novo(model, n, seed, device, task="graph", **options, **asked)
    progress("judging", 2, 3)
    isolated = kernel == "tv"  # GDSS scores graphs without their isolated nodes
    whole = lambda part: [g if isolated else g[np.ix_(g.any(0), g.any(0))] for g in part if g is not None]  # noqa: E731
    reference, known = (metrics.described(whole(part), descriptors) for part in (test, train))
    floor = metrics.discrepancies(known, reference, kernel)
    summary = lambda d: {"ratio": metrics.ratio(d, floor)} if kernel == "tv" else {"average": float(np.mean(list(d.values())))}  # noqa: E731
    mean = lambda parts: {key: float(np.mean([part[key] for part in parts])) for key in descriptors}  # noqa: E731
    rows: list[dict[str, Any]] = []
    for label, drawn in cases.items():
        graphs = [None if s is None else s.adjacency() > 0 for s in drawn.structures]
        shares = _shares(graphs, train, valid)
        low, high = metrics.interval(round(shares["vun"] * len(graphs)), len(graphs))
        runs = max(1, min(RUNS, len(graphs) // len(test)))
        parts = [metrics.discrepancies(metrics.described(whole(graphs[k::runs]), descriptors), reference, kernel) for k in range(runs)]
        means = mean(parts)
        row = {"model": label, "draws": len(graphs), **shares, "vun_low": low, "vun_high": high, **means, **summary(means)}
        if drawn.seconds:
            row |= {"seconds_per_graph": drawn.seconds / len(graphs), "network_calls_per_sample": drawn.calls / len(graphs)}
        rows.append(row)
    first = rows[0]
    rows.append({"model": "test set", "draws": len(test), **_shares(test, train, valid)})
    sound = float(np.mean([valid(graph) for graph in train]))
    rows.append({"model": "training set", "draws": len(train), "valid": sound, **floor, **summary(floor)})
    size = first["draws"] // max(1, min(RUNS, first["draws"] // len(test)))
    if size < len(train):
        rng = np.random.default_rng(0)
        chosen = [rng.choice(len(train), size, replace=False) for _ in range(SUBSETS)]
        parts = [metrics.discrepancies({key: [known[key][i] for i in some] for key in known}, reference, kernel) for some in chosen]
        means = mean(parts)
        rows.append({"model": f"training set, {size} at a time", "draws": size, **means, **summary(means)})
    raw = {key: value for key, value in first.items() if key not in ("model", "draws", "vun_low", "vun_high")}
    notes = [
        f"Shares of every draw; vun: valid, unique and novel, Wilson's interval of 95 %. Squared MMD ({kernel}) to {len(test)} test graphs."
    ]
    if not datasets.published(name):
        missing = datasets.info(name).files[0][0].name
        notes.append(f"Not the published graphs: {missing} is not here, so train and test are new ones of the same law.")
    if len(cases) > 1:
        notes.append("masks: one piece" + (f", and within the class {WITHIN[protocol]}" if protocol in WITHIN else "") + ".")
    notes += problems
    if protocol == "sbm":
        notes.append("SBM: communities by spectral clustering and likelihood moves instead of graph-tool's search; the test is SPECTRE's.")
    total = sum(len(drawn.structures) for drawn in cases.values())
    return Result(
        protocol,
        n if model is not None else total,
        total,
        sum(drawn.seconds for drawn in cases.values()),
        raw,
        intervals={"vun": (first["vun_low"], first["vun_high"])},
        published=published(protocol),
        rows=rows,
        notes=notes,
    )


def _shares(
    graphs: Sequence[metrics.Adjacency | None], train: Sequence[metrics.Adjacency], valid: Callable[[metrics.Adjacency], bool]
) -> dict[str, float]:
    counts = metrics.vun(graphs, train, valid)
    return {key: getattr(counts, key) / len(graphs) for key in ("valid", "unique", "novel", "vun")}


def _given(protocol: str, samples: str | os.PathLike[str] | Sequence[Structure | None]) -> Given:
    found = given(protocol, samples)
    if not any(s is not None for s in found.structures):
        raise InputError(f"bench {protocol}: expected draws, got none in {found.name}; write .g6 or .edgelist")
    if any(s is not None and s.bonds is None for s in found.structures):
        raise InputError(f"bench {protocol}: expected graphs with edges, got structures without; write .g6 or .edgelist")
    return found
