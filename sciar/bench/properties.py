"""Property-conditioned molecules of QM9's kind, judged without a predictor: by the DFT values of those draws that QM9 contains.

For each target the mean absolute error of the drawn molecules that are in QM9 (same graph; stereoisomers averaged), beside that of
unconditional draws. `found` says how many of the draws that is: the error of the others is not known.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sciar.bench import Progress, Result, front
from sciar.errors import InputError
from sciar.metrics import molecule as metrics
from sciar.structure import Structure

TARGETS: Mapping[str, tuple[float, ...]] = {"gap_eV": (4.5, 6.0, 7.5, 9.0), "mu_D": (1.0, 3.0, 6.0), "alpha_bohr3": (60.0, 75.0, 90.0)}


def run_protocol(
    model: Any,
    n: int = 200,
    seed: int = 0,
    progress: Progress = lambda what, done, total: None,
    guidance: float = 2.5,
    device: str | None = None,
) -> Result:
    """Run the protocol.

    Args:
        model: with words and properties.
        n: draws per target.
        seed: of the draws.
        progress: told which target is drawn.
        guidance: strength of the condition; 1 = the conditional law itself.
        device: where the model runs.

    Raises:
        InputError: guidance below 0. DataError: QM9 is not to be had.
    """
    if guidance < 0:
        raise InputError(f"bench properties: expected guidance ≥ 0, got {guidance}")
    generator = front.load(model, device)
    known = _values()
    free = front.de_novo(generator, n, seed)
    rows: list[dict[str, Any]] = []
    drawn, seconds = n, free.seconds
    for k, (name, targets) in enumerate(TARGETS.items()):
        for target in targets:
            progress(f"{name} {target:g}", k, len(TARGETS))
            asked = front.de_novo(generator, n, seed, properties={name: target}, guidance=guidance)
            drawn, seconds = drawn + n, seconds + asked.seconds
            got, base = (_found(d.structures, known, name) for d in (asked, free))
            rows.append(
                {
                    "property": name,
                    "target": target,
                    "found": len(got) / n,
                    "mean": float(np.mean(got)) if len(got) else float("nan"),
                    "mae": float(np.mean(np.abs(got - target))) if len(got) else float("nan"),
                    "mae_unconditional": float(np.mean(np.abs(base - target))) if len(base) else float("nan"),
                }
            )
    raw = {
        f"{key}_{name}": float(np.mean([r[key] for r in rows if r["property"] == name]))
        for name in TARGETS
        for key in ("mae", "mae_unconditional", "found")
    }
    notes = [f"guidance {guidance:g}; errors of the draws that are in QM9"]
    return Result("properties", drawn, drawn, seconds, raw, rows=rows, notes=notes)


def _values() -> dict[str, dict[str, float]]:
    """{graph: {property: mean over its stereoisomers}} of all of QM9."""
    from sciar import datasets

    store = datasets.load("qm9")
    columns = {name: np.asarray(store.column(name), dtype=float) for name in TARGETS}
    rows: dict[str, list[int]] = {}
    for row, text in enumerate(store.column("smiles")):
        if (name := metrics.canonical(str(text))) is not None:
            rows.setdefault(name, []).append(row)
    return {name: {p: float(values[r].mean()) for p, values in columns.items()} for name, r in rows.items()}


def _found(structures: Sequence[Structure | None], known: Mapping[str, Mapping[str, float]], name: str) -> np.ndarray:
    from sciar.convert import to_smiles

    graphs = []
    for structure in structures:
        if structure is None or structure.bonds is None:
            continue
        try:
            graphs.append(metrics.canonical(to_smiles(structure.replace(positions=None))))
        except InputError:
            continue
    return np.array([known[g][name] for g in graphs if g is not None and g in known])
