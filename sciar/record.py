"""One line of the output: a verdict with its row, its draw and its score, and how it is written to a file."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sciar.cif import text as cif_text
from sciar.errors import InputError
from sciar.files import xyz_block
from sciar.lattice import TOLERANCE
from sciar.plain import edge_list, graph6
from sciar.structure import SYMBOLS, Structure

if TYPE_CHECKING:
    from sciar.validate import Verdict

FORMATS = (".sdf", ".xyz", ".extxyz", ".smi", ".cif", ".json", ".g6", ".edgelist")
NOTED = (  # of a crystal
    "charge_balanced",
    "space_group",
    "votes",
    "pxrd_cosine",
    "pxrd_rwp",
    "pxrd_strain",
    "energy_before_eV",
    "energy_after_eV",
    "relaxed",
)
_FIELDS = ("numbers", "positions", "cell", "bonds", "charges", "hydrogens", "tetrahedral", "double_bonds")


@dataclass(frozen=True, slots=True, eq=False)
class Record:
    """One requested sample, drawn and judged.

    Args:
        row: line of the input, from 0.
        draw: number of the draw within its row, from 0.
        verdict: the structure and what is wrong with it.
        label: SMILES or formula of the row as it was given; None de novo.
        score: log-likelihood in nats; nan = not known.
        calls: network evaluations, over all attempts.
        attempts: how often it was drawn; 0 = its row was refused.
        fallback: "etkdg" when RDKit made the coordinates because every attempt failed.
        tag: the name of the label: SCIAR_SMILES or SCIAR_FORMULA.
    """

    row: int
    draw: int
    verdict: Verdict
    label: str | None = None
    score: float = math.nan
    calls: int = 0
    attempts: int = 1
    fallback: str | None = None
    tag: str = "SCIAR_SMILES"

    @property
    def valid(self) -> bool:
        return self.verdict.valid

    @property
    def properties(self) -> dict[str, str]:
        """What every record of a file carries."""
        tags = {"SCIAR_ROW": str(self.row), "SCIAR_DRAW": str(self.draw)}
        if self.label is not None:
            tags[self.tag] = self.label
        tags |= {"SCIAR_VALID": str(self.valid), "SCIAR_REASONS": "; ".join(self.verdict.reasons), "SCIAR_SCORE": f"{self.score:.6g}"}
        if self.verdict.structure.cell is not None:
            info = self.verdict.structure.info
            tags |= {f"SCIAR_{key.upper()}": str(info[key]) for key in NOTED if key in info}
        if self.attempts > 1:
            tags["SCIAR_ATTEMPTS"] = str(self.attempts)
        if self.fallback:
            tags["SCIAR_FALLBACK"] = self.fallback
        return tags


def kinds(reasons: Iterable[str]) -> list[str]:
    """The kind of each reason: what stands before the colon."""
    return [reason.split(":")[0].strip() for reason in reasons]


def text(record: Record, suffix: str) -> str:
    """The record in the format of a file suffix, complete with its line ends.

    Raises:
        InputError: the format cannot hold such a structure, or is unknown.
    """
    writers = {".sdf": _sdf, ".xyz": _xyz, ".extxyz": _extxyz, ".smi": _smi, ".cif": cif, ".json": _json}
    writers |= {".g6": lambda record: graph6(_drawn(record)), ".edgelist": lambda record: edge_list(_drawn(record))}
    if suffix not in writers:
        raise InputError(f"output: expected a name that ends in {', '.join(FORMATS)}, got {suffix or 'none'!r}; choose one")
    return writers[suffix](record)


def _drawn(record: Record) -> Structure:
    """The graph as it was drawn; one without nodes stands for a draw that failed."""
    structure = record.verdict.structure
    return structure if structure.n_atoms else structure.replace(bonds=np.zeros((0, 3), dtype=np.int64))


def pack(structure: Structure) -> dict[str, Any]:
    """A structure in JSON's types; floats keep every digit. Of `info` only a decoder's `failure` is kept."""
    entry: dict[str, Any] = {name: value.tolist() for name in _FIELDS if (value := getattr(structure, name)) is not None}
    return {**entry, "info": {"failure": structure.info["failure"]}} if "failure" in structure.info else entry


def unpack(entry: Mapping[str, Any]) -> Structure:
    """The structure that `pack` took apart."""
    return Structure(**entry)


def _sdf(record: Record) -> str:
    structure = record.verdict.structure
    if structure.cell is not None:
        raise InputError("output: expected molecules for .sdf, got a crystal; use .cif or .extxyz")
    block = _molblock(record)
    # a blank line ends a value in an SD file, so values never hold one
    tags = "".join(f"> <{key}>\n{value or ' '}\n\n" for key, value in record.properties.items())
    return f"{block}{tags}$$$$\n"


def _molblock(record: Record) -> str:
    from rdkit import Chem, rdBase

    structure = record.verdict.structure
    mol = record.verdict.native
    if isinstance(mol, Chem.Mol):
        try:
            with rdBase.BlockLogs():
                block: str = Chem.MolToMolBlock(mol, kekulize=True)
            return _title(record) + block[block.index("\n") :]
        except (ValueError, RuntimeError):
            pass  # an invalid draw is written atom by atom below, as it is
    n = structure.n_atoms
    positions = structure.positions if structure.positions is not None else np.zeros((n, 3))
    bonds = structure.bonds if structure.bonds is not None else np.zeros((0, 3), dtype=np.int64)
    charges = structure.charges if structure.charges is not None else np.zeros(n, dtype=np.int64)
    lines = [_title(record), "     sciar          3D", "", "  0  0  0  0  0  0  0  0  0  0999 V3000", "M  V30 BEGIN CTAB"]
    lines += [f"M  V30 COUNTS {n} {len(bonds)} 0 0 0", "M  V30 BEGIN ATOM"]
    for i, (z, (x, y, w), charge) in enumerate(zip(structure.numbers, positions, charges, strict=True), 1):
        mark = f" CHG={charge}" if charge else ""
        lines.append(f"M  V30 {i} {SYMBOLS[z] if z else '*'} {x:.4f} {y:.4f} {w:.4f} 0{mark}")
    lines += ["M  V30 END ATOM", "M  V30 BEGIN BOND"]
    lines += [f"M  V30 {k} {order} {i + 1} {j + 1}" for k, (i, j, order) in enumerate(bonds.tolist(), 1)]
    return "\n".join([*lines, "M  V30 END BOND", "M  V30 END CTAB", "M  END", ""])


def _title(record: Record) -> str:
    return f"row {record.row} draw {record.draw}"


def _frame(record: Record, comment: str) -> str:
    structure = record.verdict.structure
    if structure.positions is None and structure.n_atoms and record.valid:
        raise InputError("output: expected 3D structures for .xyz, got a graph without positions; use .smi or .sdf")
    if structure.positions is None:
        structure = Structure(structure.numbers, np.zeros((structure.n_atoms, 3)))
    return xyz_block(structure, comment, digits=6)


def _xyz(record: Record) -> str:
    return _frame(record, " ".join(f"{key}={_quoted(value)}" for key, value in record.properties.items()))


def _extxyz(record: Record) -> str:
    cell = record.verdict.structure.cell
    lattice = [f'Lattice="{" ".join(f"{x:.8f}" for x in cell.ravel())}"'] if cell is not None else []
    periodic = "T T T" if cell is not None else "F F F"
    tags = [f"{key}={_quoted(value)}" for key, value in record.properties.items()]
    return _frame(record, " ".join([*lattice, "Properties=species:S:1:pos:R:3", f'pbc="{periodic}"', *tags]))


def _quoted(value: str) -> str:
    """As extended XYZ wants it: bare if plain, else in quotes with \\ before quotes and back-slashes; ASE cannot read empty quotes."""
    if value and all(c.isalnum() or c in "+-._" for c in value):
        return value
    escaped = (value or " ").replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _smi(record: Record) -> str:
    structure = record.verdict.structure
    if record.valid and not structure.numbers.any():
        raise InputError("output: expected molecules for .smi, got plain graphs; use .g6 or .edgelist")
    if record.valid and structure.cell is not None:
        raise InputError("output: expected molecules for .smi, got a crystal; use .cif or .extxyz")
    return f"{smiles(record) or ''}\n"


def smiles(record: Record) -> str | None:
    """Canonical isomeric SMILES without explicit hydrogens; None for an invalid draw."""
    from rdkit import Chem

    if not record.valid or not isinstance(record.verdict.native, Chem.Mol):
        return None
    return str(Chem.MolToSmiles(Chem.RemoveHs(record.verdict.native)))


def cif(record: Record, tolerance: float = TOLERANCE) -> str:
    """A CIF block with the symmetry that is found at a tolerance in Å; without symmetry for an invalid draw and for 0."""
    structure = record.verdict.structure
    if structure.cell is None:
        raise InputError("output: expected crystals for .cif, got a molecule; use .sdf or .xyz")
    block, symmetric = cif_text(structure, tolerance if record.valid else 0.0)
    block = block.replace("data_", f"data_{record.row}_{record.draw}_", 1)  # readers tell blocks apart by their names
    tags = "".join(f"# {key} {value}\n" for key, value in record.properties.items())
    return f"{tags}# SCIAR_SYMMETRY {f'at {tolerance:g} Å' if symmetric else 'none'}\n{block}"


def poscar(record: Record) -> str:
    """POSCAR text; empty for a failed draw without a cell."""
    structure = record.verdict.structure
    if structure.cell is None or structure.positions is None:
        return ""
    from pymatgen.io.vasp import Poscar

    from sciar import convert

    title = f"row {record.row} draw {record.draw}: {structure.formula}"
    return str(Poscar(convert.to_pymatgen(structure), comment=title, sort_structure=False).get_str(significant_figures=10))  # type: ignore[arg-type]


def _json(record: Record) -> str:
    return json.dumps(entry(record)) + "\n"


def entry(record: Record) -> dict[str, Any]:
    """The record in JSON's types: its properties under their names and the structure's arrays."""
    score = None if math.isnan(record.score) else record.score
    tags: dict[str, Any] = {**record.properties, "SCIAR_ROW": record.row, "SCIAR_DRAW": record.draw}
    tags |= {"SCIAR_VALID": record.valid, "SCIAR_REASONS": list(record.verdict.reasons), "SCIAR_SCORE": score}
    return {**tags, "calls": record.calls, "attempts": record.attempts, "smiles": smiles(record), **pack(record.verdict.structure)}


def suffix_of(path: Path) -> str:
    """The format that a file name asks for.

    Raises:
        InputError: none that is known.
    """
    others = {".sd": ".sdf", ".smiles": ".smi", ".txt": ".smi", ".graph6": ".g6", ".edges": ".edgelist"}
    suffix = others.get(path.suffix.lower(), path.suffix.lower())
    if suffix not in FORMATS:
        raise InputError(f"output: expected a name that ends in {', '.join(FORMATS)}, got {path.name!r}; choose one")
    return suffix
