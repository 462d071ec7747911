"""Property-conditioned molecules of QM9's kind, judged without a predictor.

For each target the mean absolute error of the drawn molecules, beside that of unconditional draws. Electronic properties are judged by the
DFT values of those draws that QM9 contains (same graph; stereoisomers averaged), logP and QED by RDKit of every valid draw. `found` says
how many of the draws could be judged: the error of the others is not known.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sciar import checkpoint
from sciar.bench import Progress, Result, front
from sciar.errors import InputError
from sciar.metrics import molecule as metrics
from sciar.structure import Structure

TARGETS: Mapping[str, tuple[float, ...]] = {
    "gap_eV": (4.5, 6.0, 7.5, 9.0),
    "mu_D": (1.0, 3.0, 6.0),
    "alpha_bohr3": (60.0, 75.0, 90.0),
    "logP": (-2.0, 0.0, 2.0),
    "qed": (0.35, 0.45, 0.55),
}
COMPUTED = ("logP", "qed")


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
        model: of molecules or graphs, with at least one of the properties of TARGETS.
        n: draws per target.
        seed: of the draws.
        progress: told which target is drawn.
        guidance: strength of the condition; 1 = the conditional law itself.
        device: where the model runs.

    Raises:
        InputError: guidance below 0, or a model that knows none of the properties. DataError: QM9 is not to be had.
    """
    if guidance < 0:
        raise InputError(f"bench properties: expected guidance ≥ 0, got {guidance}")
    generator = front.load(model, device)
    names = [name for name in TARGETS if name in generator.header["statistics"].get("properties", ())]
    if not names:
        raise InputError(f"bench properties: expected a model that knows one of {', '.join(TARGETS)}, got {front.name_of(model)}")
    task = "molecule" if "molecule" in checkpoint.tasks(generator.header) else "graph"
    known = _values() if set(names) - set(COMPUTED) else {}
    free = front.de_novo(generator, n, seed, task=task)
    rows: list[dict[str, Any]] = []
    drawn, seconds = n, free.seconds
    for k, name in enumerate(names):
        base = _judged(free.structures, known, name)
        for target in TARGETS[name]:
            progress(f"{name} {target:g}", k, len(names))
            asked = front.de_novo(generator, n, seed, task=task, properties={name: target}, guidance=guidance)
            drawn, seconds = drawn + n, seconds + asked.seconds
            got = _judged(asked.structures, known, name)
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
        for name in names
        for key in ("mae", "mae_unconditional", "found")
    }
    notes = [f"guidance {guidance:g}; errors of the draws that are in QM9, of logP and qed of all valid draws"]
    return Result("properties", drawn, drawn, seconds, raw, rows=rows, notes=notes)


def _values() -> dict[str, dict[str, float]]:
    """{graph: {property: mean over its stereoisomers}} of all of QM9."""
    from sciar import datasets

    store = datasets.load("qm9")
    columns = {name: np.asarray(store.column(name), dtype=float) for name in TARGETS if name not in COMPUTED}
    rows: dict[str, list[int]] = {}
    for row, text in enumerate(store.column("smiles")):
        if (name := metrics.canonical(str(text))) is not None:
            rows.setdefault(name, []).append(row)
    return {name: {p: float(values[r].mean()) for p, values in columns.items()} for name, r in rows.items()}


def _judged(structures: Sequence[Structure | None], known: Mapping[str, Mapping[str, float]], name: str) -> np.ndarray:
    """Values of those draws of which the property is known."""
    from rdkit import Chem
    from rdkit.Chem import QED, Crippen

    graphs = [record.smiles for s in structures if s is not None and (record := metrics.by_bonds(s)) is not None]
    if name in COMPUTED:
        compute = QED.qed if name == "qed" else Crippen.MolLogP
        return np.array([compute(Chem.MolFromSmiles(smiles)) for smiles in graphs if smiles is not None])
    found = [metrics.canonical(smiles) for smiles in graphs if smiles is not None]
    return np.array([known[graph][name] for graph in found if graph is not None and graph in known])
