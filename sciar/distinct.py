"""Which samples are the same, and which lie far apart."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from sciar import record as records
from sciar.lattice import arrangement
from sciar.metrics.graph import fingerprint
from sciar.record import Record
from sciar.structure import Structure


def first_of_each(samples: Sequence[Record], task: str, rmsd: float) -> list[Record]:
    """The valid samples without repeats, the first of each kind kept; see `Samples.dedupe`."""
    if task == "crystal":
        return _first_crystals(samples)
    same = _sameness(task, rmsd)
    groups: dict[Any, list[Record]] = {}
    kept = []
    for r in samples:
        if not r.valid:
            continue
        group = groups.setdefault(_key(r, task), [])
        if not any(same(r, other) for other in group):
            group.append(r)
            kept.append(r)
    return kept


def farthest(samples: Sequence[Record], n: int) -> list[Record]:
    """The n valid conformers of each row that lie farthest apart; see `Samples.diverse`."""
    from sciar.metrics import conformer as metrics

    groups: dict[int, list[Record]] = {}
    for r in samples:
        if r.valid:
            groups.setdefault(r.row, []).append(r)
    kept = []
    for group in groups.values():
        positions = np.stack([np.asarray(r.verdict.structure.positions) for r in group])
        matrix = metrics.rmsd(positions, positions, metrics.symmetry(group[0].verdict.native, max_maps=64))
        kept += [group[i] for i in sorted(metrics.diverse(matrix, n).tolist())]
    return kept


def votes(crystals: Sequence[Structure | None]) -> list[int]:
    """How many of the crystals are arranged as each is, itself included: how often one answer was drawn; 0 of None and flat cells.

    Arranged alike: same space group, and same elements on sites of the same symmetry (`sciar.lattice.arrangement`), whatever the numbers.

    Source: Wang et al., Self-consistency, ICLR 2023, where the answer that is drawn most often is kept.
    """
    ballots = [_ballot(crystal) for crystal in crystals]
    counts = Counter(ballots)
    return [0 if ballot is None else counts[ballot] for ballot in ballots]


def _ballot(crystal: Structure | None) -> Any:
    try:
        return None if crystal is None else arrangement(crystal)
    except np.linalg.LinAlgError:  # a flat cell
        return None


def _first_crystals(samples: Sequence[Record]) -> list[Record]:
    """Valid crystals that no earlier one matches; only those of one reduced formula and primitive cell size are compared."""
    from pymatgen.analysis.structure_matcher import StructureMatcher

    matcher = StructureMatcher()
    groups: dict[tuple[str, int], list[Any]] = {}
    kept = []
    for r in samples:
        if not r.valid:
            continue
        small = r.verdict.native.get_reduced_structure().get_primitive_structure()  # once, and not again for each comparison
        group = groups.setdefault((small.composition.reduced_formula, len(small)), [])
        if not any(matcher.fit(small, other, skip_structure_reduction=True) for other in group):
            group.append(small)
            kept.append(r)
    return kept


def _key(r: Record, task: str) -> Any:
    """Samples with different keys are certainly different."""
    if task == "conformer":
        return r.row
    if (name := records.smiles(r)) is not None:
        return name
    return fingerprint(r.verdict.structure.adjacency() > 0)


def _sameness(task: str, rmsd: float) -> Callable[[Record, Record], bool]:
    if task == "conformer":
        from rdkit import Chem
        from rdkit.Chem import rdMolAlign

        heavy: dict[int, Any] = {}

        def without_hydrogens(r: Record) -> Any:
            if id(r) not in heavy:
                heavy[id(r)] = Chem.RemoveHs(r.verdict.native)
            return heavy[id(r)]

        return lambda a, b: rdMolAlign.GetBestRMS(Chem.Mol(without_hydrogens(a)), without_hydrogens(b)) < rmsd
    import networkx as nx

    from sciar import convert

    def isomorphic(a: Record, b: Record) -> bool:
        if records.smiles(a) is not None:
            return True  # equal keys are equal canonical SMILES
        return bool(nx.is_isomorphic(convert.to_networkx(a.verdict.structure), convert.to_networkx(b.verdict.structure)))

    return isomorphic
