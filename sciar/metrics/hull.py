"""Energies of crystals above the convex hull of known ones; whose energies they are does not matter as long as it is one potential's."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Bool, Float

from sciar.structure import SYMBOLS, Structure

METASTABLE = 0.1  # eV/atom, MatterGen's threshold; Zeni et al., Nature 639 (2025) 624
# of an element that no known crystal is made of alone: so high that it takes part in a decomposition only where there is no other
_NOWHERE = 1000.0  # eV/atom


def competing(structures: Iterable[Structure | None], known: Iterable[Structure]) -> list[int]:
    """Rows of the known crystals that have no element besides those of some one draw."""
    systems = {_system(s) for s in structures if s is not None}
    return [row for row, s in enumerate(known) if any(_system(s) <= system for system in systems)]


def without_element(structures: Iterable[Structure | None], known: Iterable[Structure]) -> dict[str, int]:
    """Elements of the draws of which there is no known crystal of this element alone, with the number of draws that have it."""
    alone = {next(iter(system)) for s in known if len(system := _system(s)) == 1}
    missing = [z for s in structures if s is not None for z in _system(s) - alone]
    return {SYMBOLS[z]: missing.count(z) for z in sorted(set(missing))}


def above_hull(
    structures: Sequence[Structure | None],
    energies: Float[np.ndarray, "n"],
    known: Sequence[Structure],
    known_energies: Float[np.ndarray, "k"],
) -> Float[np.ndarray, "n"]:
    """Energy of each draw above the hull of the known crystals at its composition, eV/atom; below it, less than 0.

    The draws are no part of the hull. Where an element has no crystal of its own, the hull still reaches what the known compounds can
    be mixed to.

    Args:
        structures: draws; None = failed.
        energies: eV per cell; nan = not known.
        known: what the hull is made of.
        known_energies: eV per cell, of the same potential; nan = left out.

    Returns:
        nan where there is no energy or no hull.

    Source: Ong et al., Chem. Mater. 20 (2008) 1798.
    """
    from pymatgen.analysis.phase_diagram import PDEntry, PhaseDiagram
    from pymatgen.core import Composition, Element

    def entry(structure: Structure, energy: float) -> PDEntry:
        return PDEntry(Composition.from_dict(dict(zip(*_counts(structure), strict=True))), energy)

    sides = [(_system(s), entry(s, float(e))) for s, e in zip(known, known_energies, strict=True) if np.isfinite(e)]
    diagrams: dict[frozenset[int], PhaseDiagram] = {}
    found = np.full(len(structures), np.nan)
    for k, (structure, energy) in enumerate(zip(structures, energies, strict=True)):
        if structure is None or not np.isfinite(energy):
            continue
        system = _system(structure)
        if system not in diagrams:
            entries = [one for part, one in sides if part <= system]
            alone = {next(iter(part)) for part, _ in sides if len(part) == 1}
            nowhere = [PDEntry(Composition(SYMBOLS[z]), _NOWHERE, name="nowhere") for z in sorted(system - alone)]
            diagrams[system] = PhaseDiagram([*entries, *nowhere], [Element(SYMBOLS[z]) for z in sorted(system)])
        parts, height = diagrams[system].get_decomp_and_e_above_hull(
            entry(structure, float(energy)), allow_negative=True, check_stable=False
        )
        if not any(getattr(one, "name", None) == "nowhere" for one in parts or ()):
            found[k] = height
    return found


def stability(e_hull: Float[np.ndarray, "n"], unique: Bool[np.ndarray, "n"], novel: Bool[np.ndarray, "n"]) -> dict[str, float]:
    """Shares of stable and of stable, unique and novel draws (S.U.N.), below 0 and below 0.1 eV/atom; what is not known is not stable.

    Mean and median are of the draws whose energy above the hull is known.

    >>> stability(np.array([-0.1, 0.05, np.nan, 0.3]), np.array([True] * 4), np.array([True, True, True, False]))["sun_100meV"]
    0.5
    """
    known = e_hull[np.isfinite(e_hull)]
    out: dict[str, float] = {}
    for suffix, threshold in (("", 0.0), ("_100meV", METASTABLE)):
        stable = np.less(e_hull, threshold, where=np.isfinite(e_hull), out=np.zeros(len(e_hull), dtype=bool))
        out[f"stable{suffix}"] = float(stable.mean())
        out[f"sun{suffix}"] = float((stable & unique & novel).mean())
    out["e_hull_mean"] = float(known.mean()) if len(known) else float("nan")
    out["e_hull_median"] = float(np.median(known)) if len(known) else float("nan")
    return out


def _system(structure: Structure) -> frozenset[int]:
    return frozenset(structure.numbers.tolist())


def _counts(structure: Structure) -> tuple[list[str], list[int]]:
    numbers, counts = np.unique(structure.numbers, return_counts=True)
    return [SYMBOLS[z] for z in numbers], counts.tolist()
