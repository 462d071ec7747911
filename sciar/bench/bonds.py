"""How often bonds found from coordinates give the molecule the data set lists; no model is involved.

Every perception sees the same molecules, exact and with normal noise on each coordinate, as drawn molecules have. Right = the
canonical SMILES with charges is the listed one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from sciar.bench import Progress, Result
from sciar.bonds import lookup_bonds, perceive_bonds
from sciar.convert import to_rdkit, to_smiles
from sciar.errors import InputError
from sciar.files import xyz_block
from sciar.metrics import molecule as metrics
from sciar.structure import Structure

NOISES = (0.0, 0.03, 0.06, 0.1)  # Å


def run_protocol(
    n: int = 1000,
    seed: int = 0,
    progress: Progress = lambda what, done, total: None,
    data: str = "qm9",
    noises: Sequence[float] = NOISES,
) -> Result:
    """Perceive the bonds of molecules whose graph is known.

    Args:
        n: molecules, spread over the set.
        seed: of the noise.
        progress: told about perceptions.
        data: name of the set, or sample:NAME for the molecules of it that come with the package.
        noises: standard deviations of the noise, Å.

    Raises:
        DataError: the data set cannot be had.
    """
    from rdkit import rdBase

    from sciar import datasets

    store: Any = datasets.samples(data.removeprefix("sample:")) if data.startswith("sample:") else datasets.load(data)
    count = min(n, len(store))
    molecules = [store[i] for i in np.linspace(0, len(store) - 1, count).astype(int).tolist()]
    wanted = [metrics.canonical(to_smiles(s.replace(positions=None, tetrahedral=None, double_bonds=None))) for s in molecules]
    rows: list[dict[str, Any]] = []
    perceptions = {"sciar": _sciar, "RDKit DetermineBonds": _rdkit, "Open Babel": _open_babel(), "EDM look-up": _lookup}
    for k, (name, perceive) in enumerate(perceptions.items()):
        if perceive is None:
            continue
        for noise in noises:
            progress(f"{name}, noise {noise:g} Å", k, len(perceptions))
            rng = np.random.default_rng(seed)
            moved = [
                Structure(s.numbers, np.asarray(s.positions) + noise * rng.standard_normal((s.n_atoms, 3)), info=dict(s.info))
                for s in molecules
            ]
            begin = time.perf_counter()
            with rdBase.BlockLogs():
                found = [perceive(s) for s in moved]
            seconds = time.perf_counter() - begin
            right = sum(f is not None and metrics.canonical(f) == w for f, w in zip(found, wanted, strict=True))
            row = {"perception": name, "noise Å": noise, "right": right / count, "answered": sum(f is not None for f in found) / count}
            rows.append({**row, "per second": count / seconds})
    notes = [f"{count} molecules of {data}; right: the listed graph with its charges; answered: any graph that RDKit sanitises"]
    if perceptions["Open Babel"] is None:
        notes.append("Open Babel is not installed: pip install openbabel-wheel")
    raw = {f"right, {row['perception']}, {row['noise Å']:g} Å": row["right"] for row in rows}
    return Result("bonds", count, count, 0.0, raw, rows=rows, notes=notes)


def _sciar(structure: Structure) -> str | None:
    try:
        return str(to_smiles(perceive_bonds(structure).replace(positions=None)))
    except InputError:
        return None


def _lookup(structure: Structure) -> str | None:
    bonds = lookup_bonds(structure.numbers, np.asarray(structure.positions))
    try:
        mol = to_rdkit(structure.replace(bonds=bonds, positions=None))
    except (InputError, ValueError):
        return None
    return _smiles(mol)


def _rdkit(structure: Structure) -> str | None:
    from rdkit import Chem
    from rdkit.Chem import rdDetermineBonds

    mol = Chem.MolFromXYZBlock(xyz_block(structure, digits=5))
    try:
        rdDetermineBonds.DetermineBonds(mol, charge=0, embedChiral=False, maxIterations=20_000)
    except (ValueError, RuntimeError):
        return None
    return _smiles(mol)


def _open_babel() -> Callable[[Structure], str | None] | None:
    try:
        from openbabel import openbabel, pybel
    except ImportError:
        return None
    openbabel.obErrorLog.StopLogging()

    def perceive(structure: Structure) -> str | None:
        from rdkit import Chem

        mol = Chem.MolFromMolBlock(pybel.readstring("xyz", xyz_block(structure, digits=5)).write("mol"), removeHs=False)
        return None if mol is None else _smiles(mol)

    return perceive


def _smiles(mol: Any) -> str | None:
    from rdkit import Chem

    try:
        mol = Chem.Mol(mol)
        Chem.SanitizeMol(mol)
        return str(Chem.MolToSmiles(Chem.RemoveHs(mol), isomericSmiles=False))
    except (ValueError, RuntimeError):
        return None
