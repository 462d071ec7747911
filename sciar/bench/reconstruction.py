"""What the octree tokenizer keeps of molecules and crystals: error of a round trip, collisions, tokens, speed; no model is involved."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from sciar.bench import Progress, Result
from sciar.errors import InputError
from sciar.structure import NUMBERS, SYMBOLS, Structure

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
    """Encode every molecule or crystal of a data set and decode it again, on one thread.

    Args:
        n: molecules or crystals, the first ones; None = all.
        seed: of random rotations; every molecule is turned first.
        progress: told about molecules.
        data: name of the set, or sample:NAME for the molecules of it that come with the package.
        cells: sides of a leaf, Å. step: of a coordinate inside it, Å. Both of molecules; of crystals see `_crystals`.

    Raises:
        DataError: the data set cannot be had. InputError: a molecule that the configuration cannot hold.
    """
    import torch

    from sciar import datasets
    from sciar.families.octree import Tokenizer, TokenizerConfig
    from sciar.families.octree.tokens import random_rotation

    store: Any = datasets.samples(data.removeprefix("sample:")) if data.startswith("sample:") else datasets.load(data)
    count = min(n or len(store), len(store))
    if store[0].cell is not None:
        return _crystals([store[i] for i in range(count)], progress)
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


def _crystals(structures: Sequence[Structure], progress: Progress) -> Result:
    """Events of crystals with an octree of fractions, as configs/octree_mp20.yaml has it, and with the published octrees of space.

    Published (Uni-3DAR): the corners of the cell are one octree, the atoms another, both in a cube of 61.44 Å with leaves of 0.24 Å.
    """
    import torch

    from sciar.families.octree import Tokenizer, TokenizerConfig
    from sciar.families.octree.tokens import plant
    from sciar.families.octree.tree import Grid
    from sciar.lattice import cell_of_form, fractional

    elements = tuple(sorted({SYMBOLS[z] for s in structures for z in s.numbers.tolist()}, key=NUMBERS.__getitem__))
    most = max(s.n_atoms for s in structures)
    tokenizer = Tokenizer(TokenizerConfig(elements, levels=4, cell=1 / 16, step=1 / 512, periodic=True, max_atoms=most))
    published = Grid(8, 24, 0.01)
    corners = np.array([[i, j, k] for i in (0, 1) for j in (0, 1) for k in (0, 1)])
    begin, held, refused, worst = time.perf_counter(), [], 0, 0.0
    of_corners: list[int] = []
    of_atoms: list[int] = []
    for k, structure in enumerate(structures):
        if k % 256 == 0:
            progress("crystals", k, len(structures))
        try:
            tokens = tokenizer.encode(structure)
        except InputError:
            refused += 1
            continue
        drawn, exact = (fractional(tokenizer.decode(replace(tokens, exact=flag))) for flag in (False, True))
        cell = cell_of_form(tokens.lattice[0])
        worst = max(worst, float(np.linalg.norm(((drawn - exact + 0.5) % 1.0 - 0.5) @ cell, axis=1).max()))
        held.append(len(tokens.tree) + len(tokens.element) + 6 + len(np.unique(structure.numbers)) + 1)
        middle = corners.mean(0) @ cell - published.side / 2
        for points, counts in ((corners, of_corners), (exact, of_atoms)):
            x = torch.from_numpy(points @ cell - middle)
            counts.append(int(plant(published, torch.zeros(len(x), dtype=torch.long), x, 1)[2].lengths[0]))
    raw = {
        "events of fractions": float(np.mean(held)),
        "events of space": float(np.mean(of_corners) + np.mean(of_atoms)),
        "events of corners": float(np.mean(of_corners)),
        "refused": float(refused),
        "worst error Å": worst,
    }
    note = "of fractions: tree nodes, atoms, six lattice numbers, one event per element and the end; of space: octrees of corners and atoms"
    return Result("reconstruction", len(structures), len(structures), time.perf_counter() - begin, raw, notes=[note])
