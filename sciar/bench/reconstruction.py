"""What the octree tokenizer keeps of real molecules: error of a round trip, collisions, tokens, speed; no model is involved."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from sciar.bench import Progress, Result

CUBE = 15.36  # Å, the side of every cube, so that only the leaf differs
CHUNK = 4096


def run_protocol(
    n: int | None = None,
    seed: int = 0,
    progress: Progress = lambda what, done, total: None,
    data: str = "qm9",
    cells: Sequence[float] = (0.24, 0.48),
    step: float = 0.01,
) -> Result:
    """Encode every molecule of a data set and decode it again, on one thread.

    Args:
        n: molecules, the first ones; None = all.
        seed: of random rotations; every molecule is turned first.
        progress: told about molecules.
        data: name of the set, or sample:NAME for the molecules of it that come with the package.
        cells: sides of a leaf, Å. step: of a coordinate inside it, Å.

    Raises:
        DataError: the data set cannot be had. InputError: a molecule that the configuration cannot hold.
    """
    import torch

    from sciar import datasets
    from sciar.families.octree import Tokenizer, TokenizerConfig
    from sciar.families.octree.tokens import random_rotation

    store: Any = datasets.samples(data.removeprefix("sample:")) if data.startswith("sample:") else datasets.load(data)
    count = min(n or len(store), len(store))
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    try:
        tokenizers = [Tokenizer(TokenizerConfig(levels=round(np.log2(CUBE / cell)), cell=cell, step=step)) for cell in cells]
        start = {"worst": 0.0, "events": 0, "collisions": 0, "encode": 0.0, "decode": 0.0, "elements": True}
        facts: list[dict[str, Any]] = [dict(start) for _ in tokenizers]
        rng = np.random.default_rng(seed)
        for first in range(0, count, CHUNK):
            progress(f"{data}, leaves of {' and '.join(map(str, cells))} Å", first, count)
            structures = [store[i] for i in range(first, min(first + CHUNK, count))]
            numbers = [s.numbers for s in structures]
            turned = [(s.positions - s.positions.mean(0)) @ random_rotation(rng).T for s in structures]
            for tokenizer, fact in zip(tokenizers, facts, strict=True):
                begin = time.perf_counter()
                tokens = tokenizer.encode_arrays(numbers, turned)  # two atoms in one cell would be an error
                middle = time.perf_counter()
                decoded = tokenizer.decode_many(tokens)
                fact["decode"] += time.perf_counter() - middle
                fact["encode"] += middle - begin
                for s, z, x, t in zip(decoded, numbers, turned, tokens, strict=True):
                    fact["collisions"] += s.n_atoms != len(z)
                    fact["elements"] &= bool(np.array_equal(s.numbers, z))
                    fact["worst"] = max(fact["worst"], float(np.abs(s.positions - x).max()))
                    fact["events"] += len(t.tree) + len(t.element)
    finally:
        torch.set_num_threads(before)
    for cell, tokenizer, fact in zip(cells, tokenizers, facts, strict=True):
        rows.append(
            {
                "leaf Å": cell,
                "levels": tokenizer.config.levels,
                "molecules": count,
                "worst error Å": fact["worst"],
                "collisions": int(fact["collisions"]),
                "elements exact": bool(fact["elements"]),
                "tokens": fact["events"] / count,
                "encoded/s": count / fact["encode"],
                "decoded/s": count / fact["decode"],
            }
        )
    raw = {f"{key} at {row['leaf Å']} Å": float(row[key]) for row in rows for key in ("worst error Å", "collisions", "tokens")}
    seconds = sum(fact["encode"] + fact["decode"] for fact in facts)
    return Result("reconstruction", count, count, seconds, raw, rows=rows, notes=["the largest error along one axis; one thread"])
