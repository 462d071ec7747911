"""Does a molecule model keep what it is asked for? Number of atoms, formula, elements and fixed atoms, beside free draws."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from sciar.bench import Progress, Result, front
from sciar.metrics import molecule as metrics
from sciar.record import Record
from sciar.structure import SYMBOLS, Structure
from sciar.validate import lacks_fixed

FIXED = "benzene ring fixed"


def phenyl() -> Structure:
    """A benzene ring with coordinates that lacks one hydrogen, where it may grow."""
    from sciar.convert import from_smiles

    angle = np.arange(6) * np.pi / 3
    ring = np.stack([np.cos(angle), np.sin(angle), 0 * angle], 1)
    benzene = from_smiles("c1ccccc1").replace(positions=np.concatenate([1.394 * ring, 2.478 * ring]))
    return benzene.subset(np.arange(11))


def _benzene(structure: Structure) -> bool:
    from rdkit import Chem

    from sciar.convert import to_rdkit

    return bool(to_rdkit(structure).HasSubstructMatch(Chem.MolFromSmarts("c1ccccc1")))


def run_protocol(
    model: Any = None,
    n: int = 1000,
    seed: int = 0,
    progress: Progress = lambda what, done, total: None,
    device: str | None = None,
) -> Result:
    """Run the protocol; every draw counts.

    Args:
        model: draws molecules.
        n: draws of each case.
        seed: of the draws.
        progress: told which case is running.
        device: where the model runs.

    Raises:
        InputError: no model, or one that cannot be asked for one of these.
    """
    from sciar.errors import InputError

    if model is None:
        raise InputError("bench constraints: expected model=, got none; name a bundled model or a weights file")
    ring = phenyl()
    cases: dict[str, tuple[dict[str, Any], Callable[[Structure], bool]]] = {
        "none": ({}, lambda s: True),
        "18 atoms": ({"n_atoms": 18}, lambda s: s.n_atoms == 18),
        "C6H6O": ({"formula": "C6H6O"}, lambda s: s.formula == "C6H6O"),
        "C, N": ({"elements": ["C", "N"]}, lambda s: {SYMBOLS[z] for z in s.numbers} <= {"H", "C", "N"}),
        FIXED: ({"fixed": ring}, lambda s: lacks_fixed(s, ring) is None),
    }
    generator = front.load(model, device)
    rows: list[dict[str, Any]] = []
    for k, (name, (asked, kept)) in enumerate(cases.items()):
        progress(name, k, len(cases))
        begin = time.perf_counter()
        records: list[Record] = generator.generate("molecule", n=n, seed=seed, retry=0, **asked).records
        seconds = time.perf_counter() - begin
        structures = [r.verdict.structure for r in records]
        satisfied = [s.n_atoms > 0 and kept(s) for s in structures]
        lookup = metrics.table([metrics.by_lookup(s) for s in structures])
        intact = {} if name != FIXED else {"intact": float(np.mean([r.valid and _benzene(r.verdict.structure) for r in records]))}
        rows.append(
            {
                "model": front.name_of(model),
                "constraint": name,
                "draws": len(records),
                "satisfied": float(np.mean(satisfied)),
                "accepted": float(np.mean([r.valid for r in records])),
                **intact,
                "mol_stable": lookup["mol_stable"],
                "valid": lookup["valid"],
                "valid_unique": lookup["valid_unique"],
                "seconds": seconds,
            }
        )
    raw = {f"{key}, {row['constraint']}": row[key] for row in rows for key in ("satisfied", "accepted", "intact", "valid") if key in row}
    drawn = sum(row["draws"] for row in rows)
    note = (
        "satisfied: of all draws, whatever else is wrong with them; accepted: sciar's own verdict; "
        "intact: accepted, and the ring is still benzene by perceived bonds; the rest: EDM look-up"
    )
    return Result("constraints", drawn, drawn, sum(row["seconds"] for row in rows), raw, rows=rows, notes=[note])
