"""Makes sciar/families/orbits/wyckoff.json: every Wyckoff position of the 230 space groups in moyo's default setting.

    python data/make_wyckoff.py

moyo names the positions of a crystal's atoms but does not list those of a group. So it is asked about crystals that have an atom on a
fixed point, line or plane of some operations, until as many letters are known as the general position, the last one, says there are.
Takes minutes.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import moyopy
import numpy as np

from sciar.families.orbits import wyckoff

EIGHTHS = np.arange(8) / 8
TRIES = 20_000  # random points before those with coordinates of eighths: nearly all positions are found by then
ANYWHERE = ([0.1234, 0.3571, 0.7193], [0.4137, 0.0911, 0.2713], [0.2719, 0.1871, 0.4421])


def cell(number: int) -> np.ndarray:
    """A conventional cell of a group's crystal system, wide enough for many atoms."""
    lattice = {"triclinic": (0.0, 0.2, 0.4, 0.2, 0.1, 0.2), "monoclinic": (0.0, 0.2, 0.4, 0.3), "orthorhombic": (0.0, 0.2, 0.4)}
    system = wyckoff.system_of(number)
    free = np.zeros(6)
    values = lattice.get(wyckoff.SYSTEMS[system], (0.0, 0.4))
    free[: wyckoff.FREE[system]] = values[: wyckoff.FREE[system]]
    return 15 * wyckoff.cell_of(system, free)


def orbit(rotations: np.ndarray, translations: np.ndarray, point: np.ndarray) -> np.ndarray:
    """The different images of a point in the conventional cell."""
    images = (rotations @ point + translations) % 1
    _, first = np.unique(np.round(images * 1e6).astype(int) % 1_000_000, axis=0, return_index=True)
    return images[np.sort(first)]


def named(number: int, rotations: np.ndarray, translations: np.ndarray, point: np.ndarray) -> set[tuple[str, str, str]]:
    """(letter, site symmetry, coordinates) of the positions of a crystal with an atom on `point` and two anywhere."""
    parts = [orbit(rotations, translations, np.asarray(x)) for x in (*ANYWHERE[:2], point)]
    elements = [z for z, part in enumerate(parts, 1) for _ in part]
    try:
        found = moyopy.MoyoDataset(moyopy.Cell(cell(number).tolist(), np.concatenate(parts).tolist(), elements), symprec=1e-3)
    except ValueError:  # atoms on each other
        return set()
    if found.number != number:
        return set()
    choices = found.normalizer_wyckoff_positions().coset_representatives
    return {(w.letter, w.site_symmetry, w.coordinates) for _, positions in choices for w in positions}


def candidates(rotations: np.ndarray, translations: np.ndarray, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Points that some operations leave where they are."""
    yield np.array(ANYWHERE[2])
    for _ in range(TRIES):
        some = rng.integers(0, len(rotations), rng.integers(1, 4))
        matrix = np.concatenate([np.eye(3) - rotations[k] for k in some])
        shift = np.concatenate([translations[k] + rng.integers(-1, 2, 3) for k in some])
        point = np.linalg.lstsq(matrix, shift, rcond=1e-9)[0]
        if np.abs(matrix @ point - shift).max() > 1e-8:
            continue
        _, sizes, axes = np.linalg.svd(matrix)
        free = axes[(sizes > 1e-9).sum() :]
        yield (point + free.T @ rng.uniform(0.05, 0.45, len(free))) % 1
    for point in product(EIGHTHS, repeat=3):
        yield np.array(point)


def positions(number: int) -> dict[str, tuple[str, str]]:
    """{letter: (site symmetry, coordinates)} of a group."""
    operations = moyopy.operations_from_number(number)
    rotations, translations = np.array(operations.rotations), np.array(operations.translations)
    found: dict[str, tuple[str, str]] = {}
    count = 0
    for point in candidates(rotations, translations, np.random.default_rng(number)):
        if count and len(orbit(rotations, translations, point)) == len(rotations):
            continue
        for letter, site, text in named(number, rotations, translations, point):
            assert found.setdefault(letter, (site, text)) == (site, text), (number, letter)
        count = count or max((1 + wyckoff.LETTERS.index(letter) for letter in found), default=0)
        if count and len(found) == count:
            return {letter: found[letter] for letter in wyckoff.LETTERS[:count]}
    raise SystemExit(f"group {number}: found {''.join(found)} of {count} positions; raise TRIES")


if __name__ == "__main__":
    logging.getLogger("moyo").setLevel(logging.ERROR)
    lines = [f'"{number}": {json.dumps(positions(number), separators=(",", ":"))}' for number in range(1, 231)]
    (Path(wyckoff.__file__).parent / "wyckoff.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")
