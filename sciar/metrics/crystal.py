"""Crystals against references: matches, validity, uniqueness and novelty.

A structure that is None is a failed draw; it counts in every denominator and matches nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float, Int

from sciar.convert import to_pymatgen
from sciar.errors import InputError
from sciar.lattice import elongation
from sciar.metrics.distance import wasserstein
from sciar.oxidation import charge_balanced
from sciar.packing import MIN_DISTANCE, MIN_VOLUME
from sciar.processes import pool
from sciar.structure import SYMBOLS, Structure, key_of

if TYPE_CHECKING:
    from pymatgen.analysis.structure_matcher import StructureMatcher

# Xie et al., CDVAE, ICLR 2022; kept by every paper on crystal structure prediction since
STOL, LTOL, ANGLE_TOL = 0.5, 0.3, 10.0
SECONDS = 60.0  # of CPU time for one pair; then it is no match
LONGEST = 20.0  # elongation of a cell beyond which no match is sought: the search would take minutes; MP-20: up to 6.2

Progress = Callable[[int, int], None]
Kept = MutableMapping[str, Any]


@dataclass(frozen=True, slots=True, eq=False)
class Comparison:
    """Draws against references, r rows × k draws.

    Args:
        rmsd: r × k, of each draw to the reference of its row, in units of (V/n)^(1/3); nan = no match.
        crossed: per row {another row of the same composition: k RMSDs of this row's draws to that row's reference}.
        valid: r × k, structure and composition are valid.
        exact: r × k, the atoms of the cell are those of the reference's cell.
        n_timeouts: pairs that were given up.
    """

    rmsd: Float[np.ndarray, "r k"]
    crossed: Sequence[Mapping[int, np.ndarray]]
    valid: Bool[np.ndarray, "r k"]
    exact: Bool[np.ndarray, "r k"]
    n_timeouts: int


def match(structure: Structure | None, reference: Structure | None) -> float | None:
    """RMSD of two crystals in units of (V/n)^(1/3) if StructureMatcher finds them equal at (0.3, 0.5, 10°), else None."""
    if structure is None or reference is None or reduced(structure) != reduced(reference):
        return None
    try:
        if max(elongation(structure), elongation(reference)) > LONGEST:
            return None
        found = _matcher().get_rms_dist(to_pymatgen(structure), to_pymatgen(reference))
    except (InputError, ValueError, np.linalg.LinAlgError):  # flat cells, lattices that cannot be reduced
        return None
    return None if found is None else float(found[0])


def compare(
    draws: Sequence[Sequence[Structure | None]],
    references: Sequence[Structure],
    jobs: int = 1,
    seconds: float = SECONDS,
    progress: Progress | None = None,
    kept: Kept | None = None,
) -> Comparison:
    """Match every draw with the reference of its row and with those of other rows that have the same reduced composition.

    Args:
        draws: r rows of k draws each; None = failed.
        references: r crystals.
        jobs: processes.
        seconds: of CPU time for one pair; a pair that takes longer is no match and is counted.
        progress: told how many of how many pairs are done.
        kept: answers of earlier calls by key, and those of this one as they come, so that a call that was stopped goes on.

    Raises:
        ValueError: another number of rows, or rows of different lengths.
    """
    if len(draws) != len(references) or len({len(row) for row in draws}) > 1:
        raise ValueError(f"compare: expected {len(references)} rows of equally many draws, got {len(draws)} rows")
    k = len(draws[0]) if draws else 0
    groups: dict[Any, list[int]] = {}
    for row, reference in enumerate(references):
        groups.setdefault(reduced(reference), []).append(row)
    pairs = [
        (row, draw, other)
        for row in range(len(draws))
        for draw in range(k)
        if (drawn := draws[row][draw]) is not None
        for other in groups.get(reduced(drawn), ())
        if reduced(references[row]) == reduced(drawn)
    ]
    rmsd = np.full((len(draws), k), np.nan)
    crossed: list[dict[int, np.ndarray]] = [{} for _ in draws]
    n_timeouts = 0
    tasks = ((draws[row][draw], references[other]) for row, draw, other in pairs)
    for done, ((row, draw, other), value) in enumerate(zip(pairs, matches(tasks, jobs, seconds, kept), strict=True), 1):
        n_timeouts += value == np.inf
        value = np.nan if value is None or value == np.inf else value
        if other == row:
            rmsd[row, draw] = value
        else:
            crossed[row].setdefault(other, np.full(k, np.nan))[draw] = value
        if progress is not None and done % 100 == 0:
            progress(done, len(pairs))
    return Comparison(
        rmsd,
        crossed,
        np.array([[is_valid(drawn) for drawn in row] for row in draws], dtype=bool).reshape(len(draws), k),
        np.array([[_same_cell(d, ref) for d in row] for row, ref in zip(draws, references, strict=True)], dtype=bool).reshape(
            len(draws), k
        ),
        n_timeouts,
    )


def prediction(comparison: Comparison, chosen: Int[np.ndarray, "r c"] | None = None) -> dict[str, float]:
    """The numbers of crystal structure prediction, of some draws of each row.

    `match_rate`: rows with a draw that matches; `rmse`: mean over these rows of the best draw's RMSD; `metre` (match everyone to
    reference): references that some draw of the same composition matches, whatever its row; `crmse`: mean over all references of
    the best RMSD, `STOL` where none matches. `_valid`: only draws whose structure and composition are valid count.
    `composition_exact` and `valid` are shares of the draws.

    Args:
        comparison: from `compare`.
        chosen: draws that count in each row, such as the first or the best by score; None = all.

    Source: match rate and RMSE as CDVAE and DiffCSP; METRe and cRMSE of Martirossyan et al., "All that structure matches does not
    glitter", 2025.
    """
    r, k = comparison.rmsd.shape
    rows = np.arange(r)[:, None]
    picked = chosen if chosen is not None else np.tile(np.arange(k), (r, 1))
    out: dict[str, float] = {}
    for suffix, allowed in (("", np.ones_like(comparison.valid)), ("_valid", comparison.valid)):
        own = np.where(allowed, comparison.rmsd, np.nan)[rows, picked]
        best = _smallest(own)
        everyone = best.copy()
        for row, others in enumerate(comparison.crossed):
            for other, values in others.items():
                value = _smallest(np.where(allowed[row], values, np.nan)[None, picked[row]])[0]
                everyone[other] = np.fmin(everyone[other], value)
        found = np.isfinite(best)
        out[f"match_rate{suffix}"] = float(found.mean()) if r else float("nan")
        out[f"rmse{suffix}"] = float(best[found].mean()) if found.any() else float("nan")
        out[f"metre{suffix}"] = float(np.isfinite(everyone).mean()) if r else float("nan")
        out[f"crmse{suffix}"] = float(np.where(np.isfinite(everyone), everyone, STOL).mean()) if r else float("nan")
    out["composition_exact"] = float(comparison.exact[rows, picked].mean()) if picked.size else float("nan")
    out["valid"] = float(comparison.valid[rows, picked].mean()) if picked.size else float("nan")
    return out


def matches(
    pairs: Iterable[tuple[Structure | None, Structure | None]], jobs: int = 1, seconds: float = SECONDS, kept: Kept | None = None
) -> Iterator[float | None]:
    """`match` of each pair in order; infinity where it took longer than `seconds`. `kept` as of `compare`."""
    yield from _mapped(_timed, ((a, b, seconds) for a, b in pairs), jobs, 8, kept)


def structure_valid(structure: Structure | None) -> bool:
    """No two atoms, images included, closer than 0.5 Å and a cell of at least 0.1 Å³."""
    if structure is None or structure.cell is None or structure.positions is None or not structure.n_atoms:
        return False
    if abs(np.linalg.det(structure.cell)) < MIN_VOLUME:
        return False
    near: np.ndarray = to_pymatgen(structure).get_neighbor_list(MIN_DISTANCE)[3]  # type: ignore[union-attr]
    return not len(near)


def composition_valid(structure: Structure | None) -> bool:
    """`sciar.oxidation.charge_balanced` of its formula."""
    if structure is None or not structure.n_atoms:
        return False
    return charge_balanced(Counter(SYMBOLS[z] for z in structure.numbers))


def is_valid(structure: Structure | None) -> bool:
    """Structure and composition are valid."""
    return composition_valid(structure) and structure_valid(structure)


def density(structure: Structure) -> float:
    """Mass density in g/cm³."""
    return float(to_pymatgen(structure).density)  # type: ignore[union-attr]


def de_novo(structures: Sequence[Structure | None], references: Sequence[Structure], most: int = 1000, seed: int = 0) -> dict[str, float]:
    """Validity, and Wasserstein distances of density (g/cm³) and of the number of elements.

    Args:
        structures: draws.
        references: a test set.
        most: valid draws that the distances are measured on, chosen by `seed`; as CDVAE does.
        seed: of that choice.

    Source: Xie et al., CDVAE, ICLR 2022.
    """
    sound = [structure_valid(s) for s in structures]
    balanced = [composition_valid(s) for s in structures]
    valid = [s for s, a, b in zip(structures, sound, balanced, strict=True) if a and b and s is not None]
    chosen = [valid[i] for i in np.random.default_rng(seed).permutation(len(valid))[:most]]
    out = {
        "struct_valid": float(np.mean(sound)),
        "comp_valid": float(np.mean(balanced)),
        "valid": len(valid) / len(structures),
    }
    facts: dict[str, Callable[[Structure], float]] = {
        "wdist_density": density,
        "wdist_n_elements": lambda s: float(len(np.unique(s.numbers))),
    }
    for name, fact in facts.items():
        mine = np.array([fact(s) for s in chosen])
        out[name] = wasserstein(mine, np.array([fact(s) for s in references])) if len(mine) else float("nan")
    return out


def kinds(
    structures: Sequence[Structure | None], seconds: float = SECONDS, jobs: int = 1, kept: Kept | None = None
) -> Int[np.ndarray, "n"]:
    """The first draw that each draw is the same as, -1 of a failed draw. Only crystals of one reduced formula are compared.

    Args:
        structures: the draws. seconds: of CPU time for one pair. jobs: processes, which take a formula each. kept: as of `compare`.
    """
    rows = _by_formula(structures)
    found = np.full(len(structures), -1)
    tasks = (([structures[k] for k in group], seconds) for group in rows.values())
    for group, labels in zip(rows.values(), _mapped(_kinds, tasks, jobs, kept=kept), strict=True):
        found[group] = np.array(group)[labels]
    return found


def unique(kind: Int[np.ndarray, "n"]) -> Bool[np.ndarray, "n"]:
    """Which draws are the first of their kind, of `kinds` or some of its rows; a failed draw is not."""
    first = np.zeros(len(kind), dtype=bool)
    first[np.unique(kind, return_index=True)[1]] = True
    return first & (kind >= 0)


def novel(
    structures: Sequence[Structure | None], known: Iterable[Structure], seconds: float = SECONDS, jobs: int = 1, kept: Kept | None = None
) -> Bool[np.ndarray, "n"]:
    """Which draws match nothing that is known; a failed draw is not novel. `seconds`, `jobs` and `kept` as of `kinds`."""
    rows = _by_formula(structures)
    theirs: dict[Any, list[Structure]] = {key: [] for key in rows}
    for structure in known:
        if (alike := theirs.get(reduced(structure))) is not None:
            alike.append(structure)
    new = np.zeros(len(structures), dtype=bool)
    tasks = (([structures[k] for k in group], theirs[key], seconds) for key, group in rows.items())
    for group, answers in zip(rows.values(), _mapped(_novel, tasks, jobs, kept=kept), strict=True):
        new[group] = answers
    return new


def reduced(structure: Structure) -> tuple[tuple[int, int], ...]:
    """(element, count) pairs of the reduced formula."""
    numbers, counts = np.unique(structure.numbers, return_counts=True)
    unit = int(np.gcd.reduce(counts)) if len(counts) else 1
    return tuple(zip(numbers.tolist(), (counts // unit).tolist(), strict=True))


def _by_formula(structures: Sequence[Structure | None]) -> dict[Any, list[int]]:
    """Rows of each reduced formula, without the failed draws."""
    rows: dict[Any, list[int]] = {}
    for k, structure in enumerate(structures):
        if structure is not None:
            rows.setdefault(reduced(structure), []).append(k)
    return rows


def _kinds(task: tuple[Sequence[Structure], float]) -> list[int]:
    structures, seconds = task
    labels: list[int] = []
    for k, structure in enumerate(structures):
        firsts = (j for j in range(k) if labels[j] == j)
        labels.append(next((j for j in firsts if _same(structure, structures[j], seconds)), k))
    return labels


def _novel(task: tuple[Sequence[Structure], Sequence[Structure], float]) -> list[bool]:
    structures, known, seconds = task
    return [not any(_same(structure, other, seconds) for other in known) for structure in structures]


def _same(structure: Structure, other: Structure, seconds: float) -> bool:
    """A pair that takes too long is no match."""
    value = _timed((structure, other, seconds))
    return value is not None and value < np.inf


def _mapped(
    function: Callable[[Any], Any], tasks: Iterable[tuple[Any, ...]], jobs: int, chunk: int = 1, kept: Kept | None = None
) -> Iterator[Any]:
    """Answers in order, from so many processes; what is kept, or asked twice, costs nothing."""
    listed = list(tasks)
    keys = [_key(function.__name__, task) for task in listed]
    known = {key: kept[key] for key in keys if key in kept} if kept is not None else {}
    missing = {key: task for key, task in zip(keys, listed, strict=True) if key not in known}
    fresh = _as_they_come(partial(_with_key, function), missing.items(), jobs, chunk)
    for key in keys:
        while key not in known:  # a slow one does not keep those behind it from being kept
            done, answer = next(fresh)
            known[done] = answer
            if kept is not None:
                kept[done] = answer
        yield known[key]


def _as_they_come(function: Callable[[Any], Any], tasks: Iterable[Any], jobs: int, chunk: int) -> Iterator[Any]:
    if jobs <= 1:
        yield from map(function, tasks)
        return
    with pool(jobs) as workers:
        yield from workers.imap_unordered(function, tasks, chunksize=chunk)


def _with_key(function: Callable[[Any], Any], item: tuple[str, Any]) -> tuple[str, Any]:
    key, task = item
    return key, function(task)


def _key(name: str, task: tuple[Any, ...]) -> str:
    """One for each function and task: structures, lists of them, numbers."""
    parts = [part if isinstance(part, (list, tuple)) else [part] for part in task]
    facts = [[key_of(one) if isinstance(one, Structure) else repr(one) for one in part] for part in parts]
    return hashlib.sha256(repr((name, STOL, LTOL, ANGLE_TOL, facts)).encode()).hexdigest()


def _same_cell(structure: Structure | None, reference: Structure) -> bool:
    return structure is not None and np.array_equal(np.sort(structure.numbers), np.sort(reference.numbers))


def _smallest(values: np.ndarray) -> np.ndarray:
    """Along the last axis, nan where there is none."""
    least = np.min(np.where(np.isnan(values), np.inf, values), axis=-1, initial=np.inf)
    return np.where(np.isinf(least), np.nan, least)


@lru_cache(maxsize=1)
def _matcher() -> StructureMatcher:
    from pymatgen.analysis.structure_matcher import StructureMatcher

    return StructureMatcher(ltol=LTOL, stol=STOL, angle_tol=ANGLE_TOL)


def _timed(task: tuple[Structure | None, Structure | None, float]) -> float | None:
    a, b, seconds = task
    try:
        with limit(seconds):
            return match(a, b)
    except TimeoutError:
        return float("inf")


@contextlib.contextmanager
def limit(seconds: float) -> Iterator[None]:
    """TimeoutError after so many seconds of CPU time, which a busy machine does not change; no limit outside the main thread."""
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: Any) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
