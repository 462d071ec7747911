"""Stable, unique and novel crystals: draws relaxed by a potential and held against the hull of known crystals by the same potential."""

from __future__ import annotations

import importlib.metadata
from collections import Counter
from collections.abc import MutableMapping, Sequence
from typing import Any

import numpy as np

from sciar.bench import Progress
from sciar.bench.ledger import Ledger
from sciar.metrics import crystal, hull
from sciar.record import pack, unpack
from sciar.relax import How, Relaxed, relaxing
from sciar.structure import SYMBOLS, Structure, key_of

STEPS, FORCE = 300, 0.05
_PACKAGES = {"chgnet": "chgnet", "emt": "ase", "lj": "ase"}


def stable_unique_novel(
    structures: Sequence[Structure | None],
    known: Sequence[Structure],
    potential: Any = "chgnet",
    relax_known: bool = False,
    seconds: float = 300.0,
    jobs: int = 1,
    progress: Progress = lambda what, done, total: None,
) -> tuple[dict[str, float], list[str]]:
    """Numbers of `sciar.metrics.hull.stability`, and what must be said beside them.

    Energies by a potential with a name are kept in the cache; failures are tried again.

    Args:
        structures: draws; None = failed.
        known: training crystals; those of the draws' chemical systems make up the hull.
        potential: as of `sciar.relax.relax`.
        relax_known: relax the known crystals too, which takes some 25 times as long; else they stay at their published cells, whose
            energies lie above the potential's own minima (CHGNet: 0.1 to 6.2, in the mean 1.9 meV/atom, ten crystals of MP-20's test
            set), so that draws look more stable by this much.
        seconds: of wall time for one crystal; a draw that takes longer is not stable.
        jobs: crystals relaxed at the same time.
        progress: told what is being done.

    Raises:
        InputError: see `sciar.relax.relax`.
    """
    named = isinstance(potential, str)
    title = f"{potential} {importlib.metadata.version(_PACKAGES[potential])}" if named else type(potential).__name__
    kept: MutableMapping[str, Any] = Ledger(f"energies-{title.replace(' ', '-')}") if named else {}
    drawn = [s for s in structures if s is not None]
    told = [s is not None for s in structures]
    sides = [known[row] for row in hull.competing(drawn, known)]

    def moved(what: str, crystals: Sequence[Structure], steps: int) -> list[Relaxed]:
        return _relaxed(crystals, potential, steps, seconds, jobs, kept, lambda done: progress(what, done, len(crystals)))

    references = moved("hull", sides, STEPS if relax_known else 0)
    relaxed = moved("relaxing", drawn, STEPS)
    after: list[Structure | None] = [None] * len(structures)
    energies = np.full(len(structures), np.nan)
    for k, one in zip(np.flatnonzero(told), relaxed, strict=True):
        if one.failure is None:
            after[k], energies[k] = one.structure, one.energy_after
    e_hull = hull.above_hull(after, energies, sides, np.array([one.energy_after for one in references]))
    numbers = hull.stability(e_hull, crystal.unique(crystal.kinds(after)), crystal.novel(after, known))
    numbers["n_relaxed"] = int(np.isfinite(energies).sum())
    numbers["n_without_hull"] = int((np.isfinite(energies) & ~np.isfinite(e_hull)).sum())
    missing = hull.without_element(drawn, [s for s, one in zip(sides, references, strict=True) if one.failure is None])
    low = [s for s, h in zip(after, e_hull, strict=True) if s is not None and h < hull.METASTABLE]
    doubtful = sum(any(SYMBOLS[z] in missing for z in s.numbers) for s in low)
    how = f"FIRE, {FORCE} eV/Å, at most {STEPS} steps, {seconds:g} s each"
    cells = "relaxed in the same way" if relax_known else "each at its published cell"
    notes = [
        f"Stable: {title}, draws relaxed with their cells ({how}); energies above the hull of {len(sides)} training crystals of their "
        f"chemical systems, {cells}, by the same potential without corrections; stable below 0, _100meV below {hull.METASTABLE} eV/atom; "
        "S.U.N.: unique and not in the training rows after relaxation; mean and median over draws with a hull.",
        *_problems(structures, relaxed, references),
    ]
    if missing:
        listed = ", ".join(f"{symbol} ({count})" for symbol, count in missing.items())
        notes.append(
            f"No training crystal of the element alone (draws that have it): {listed}. Their hull is that of the compounds, which may be "
            f"too high: {doubtful} draws below {hull.METASTABLE} eV/atom have such an element. {numbers['n_without_hull']} draws that no "
            "hull reaches count as unstable."
        )
    return numbers, notes


def _problems(structures: Sequence[Structure | None], relaxed: Sequence[Relaxed], references: Sequence[Relaxed]) -> list[str]:
    failed = Counter(one.failure for one in relaxed if one.failure is not None)
    failed["no crystal"] += sum(s is None for s in structures)
    notes = [f"{count} draws count as unstable: {reason}." for reason, count in failed.most_common() if count]
    if slow := sum(one.failure is None and not one.converged for one in relaxed):
        notes.append(f"{slow} draws had forces above the limit after the last step; their last energy counts.")
    if lost := Counter(one.failure for one in references if one.failure is not None):
        notes.append(f"{lost.total()} training crystals without an energy are no part of the hull: {lost.most_common(1)[0][0]}.")
    return notes


def _relaxed(
    crystals: Sequence[Structure], potential: Any, steps: int, seconds: float, jobs: int, kept: MutableMapping[str, Any], progress: Any
) -> list[Relaxed]:
    """`sciar.relax.relax` through what is kept of earlier runs."""
    keys = [key_of(one, steps, FORCE) for one in crystals]
    done: dict[str, Relaxed] = {}
    for key, one in zip(keys, crystals, strict=True):
        if (entry := kept.get(key)) is not None:
            structure = unpack(entry["structure"]) if steps else one
            done[key] = Relaxed(structure, energy_after=entry["energy_eV"], steps=entry["steps"], converged=entry["converged"])
    waiting = {key: one for key, one in zip(keys, crystals, strict=True) if key not in done}
    order = list(waiting)
    progress(len(crystals) - len(order))
    how = How(potential, steps, FORCE, cell=bool(steps), optimizer="FIRE")
    for index, found in relaxing(list(waiting.values()), how, seconds, jobs):
        done[order[index]] = found
        if found.failure is None:
            entry = {"energy_eV": found.energy_after, "steps": found.steps, "converged": found.converged}
            kept[order[index]] = {**entry, "structure": pack(found.structure)} if steps else entry
        progress(len(done))
    return [done[key] for key in keys]
