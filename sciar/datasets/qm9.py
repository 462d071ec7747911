"""QM9: 130,831 small organic molecules of H C N O F with B3LYP geometries and properties.

The source lists a SMILES and coordinates, but not which atom is which. The graph is found in three steps: atoms closer
than a multiple of the sum of their covalent radii are neighbours; the heavy-atom skeleton of the SMILES, with the number of
hydrogens on each atom, is matched onto these neighbours; of several matches the one whose bond orders fit the distances
best is taken. Stereo marks are those of the coordinates. A row whose skeleton is not that of its SMILES has no bonds.
"""

from __future__ import annotations

import csv
import io
import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from sciar.convert import from_rdkit
from sciar.datasets import File, Info
from sciar.errors import DataError
from sciar.structure import NUMBERS, Structure

HARTREE_EV = 27.211386245988  # CODATA 2018
N_ROWS = 130_831
N_EXCLUDED = 3_054
N_TRAIN, N_VALIDATION = 100_000, 17_748

PROPERTIES = (
    "A_GHz",
    "B_GHz",
    "C_GHz",
    "mu_D",
    "alpha_bohr3",
    "homo_Ha",
    "lumo_Ha",
    "gap_Ha",
    "r2_bohr2",
    "zpve_Ha",
    "U0_Ha",
    "U298_Ha",
    "H298_Ha",
    "G298_Ha",
    "Cv_cal_molK",
)

WHEEL_PROPERTIES = (  # the same, as named in the package qm9pack
    "RotA_GHz",
    "RotB_GHz",
    "RotC_GHz",
    "Dipole_debye",
    "Polarizability_bohr3",
    "HOMO_au",
    "LUMO_au",
    "HOMO_LUMO_gap_au",
    "R2_bohr2",
    "ZPVE_au",
    "InternalEnergy_0K_au",
    "InternalEnergy_298K_au",
    "Enthalphy_298K_au",
    "GibbsFreeEnergy_298K_au",
    "Heatcapacity_Cv_cal_mol_K",
)

ARRAYS = File("qm9_3d.npz", "sha256:1f9a268d996bb2105b116db888922edb808f4d18717d77b1c0f40f53806f0201")
ARCHIVE = File("dsgdb9nsd.xyz.tar.bz2", "md5:ad1ebd51ee7f5b3a6e32e974e5d54012", url="https://ndownloader.figshare.com/files/3195389")
EXCLUDED = File("uncharacterized.txt", "md5:a361887bacb427b8a0ce7903d92a53b4", url="https://ndownloader.figshare.com/files/3195404")
WHEEL = File(
    "qm9pack-1.0.3-py3-none-any.whl",
    "sha256:1d88c2988007c6778e717ee3224cf511bd60e10732ebe3b7ed500ea5af05c9f0",
    wheel="qm9pack==1.0.3",
)

INFO = Info(
    name="qm9",
    version="1",
    description="130,831 molecules with up to 9 heavy atoms (H C N O F), B3LYP/6-31G(2df,p) geometries and 15 properties",
    licence="CC0 1.0",
    citation="Ramakrishnan, Dral, Rupp & von Lilienfeld, Quantum chemistry structures and properties of 134 kilo molecules, "
    "Sci. Data 1 (2014) 140022",
    sources=("https://doi.org/10.6084/m9.figshare.c.978904", "https://pypi.org/project/qm9pack/"),
    files=((ARRAYS,), (EXCLUDED, ARCHIVE), (WHEEL,)),
    splits=(("train", N_TRAIN), ("validation", N_VALIDATION), ("test", 13_083)),
    n_rows=N_ROWS,
)

# Pyykkö & Atsumi, Chem. Eur. J. 15 (2009) 186 and 12770; Pyykkö, Riedel & Patzschke, Chem. Eur. J. 11 (2005) 3511; in Å
RADII = {1: {1: 0.32, 6: 0.75, 7: 0.71, 8: 0.63, 9: 0.64}, 2: {6: 0.67, 7: 0.60, 8: 0.57, 9: 0.59}, 3: {6: 0.60, 7: 0.54, 8: 0.53, 9: 0.53}}
# neighbours are closer than this times the sum of the single-bond radii; the first factor that gives the listed skeleton
REACHES = (1.25, 1.2, 1.3, 1.15, 1.35, 1.1, 1.4)


@dataclass(frozen=True, slots=True)
class _Row:
    gdb_index: int
    numbers: np.ndarray
    positions: np.ndarray
    smiles: str
    properties: np.ndarray


def read(root: Path, start: int = 0) -> Iterator[Structure]:
    """The molecules in the order of the source; `info` has `gdb_index`, `smiles`, `split` and the properties with their units.

    `smiles` is canonical, with the stereo marks of the coordinates; it is the listed one where no bonds were found. The
    split is that of Cormorant and EDM, a permutation of seed 0.
    """
    splits = edm_split()
    for row, raw in islice(enumerate(_rows(root)), start, None):
        info: dict[str, object] = {"gdb_index": raw.gdb_index, "smiles": raw.smiles, "split": splits[row]}
        info.update(zip(PROPERTIES, raw.properties.tolist(), strict=True))
        for name in ("homo", "lumo", "gap"):
            info[f"{name}_eV"] = float(raw.properties[PROPERTIES.index(f"{name}_Ha")]) * HARTREE_EV
        yield with_graph(Structure(raw.numbers, raw.positions, info=info))


def edm_split() -> np.ndarray:
    """Name of the split of each row: 100,000 / 17,748 / 13,083. Source: Cormorant and EDM, `gen_splits_gdb9`."""
    order = np.random.RandomState(0).permutation(N_ROWS)
    names = np.full(N_ROWS, "test", dtype="<U10")
    names[order[:N_TRAIN]] = "train"
    names[order[N_TRAIN : N_TRAIN + N_VALIDATION]] = "validation"
    return names


def with_graph(structure: Structure) -> Structure:
    """The structure with bonds, charges and stereo marks of `info["smiles"]`; unchanged when they do not fit its coordinates."""
    from rdkit import Chem
    from rdkit.Geometry import Point3D

    assert structure.positions is not None
    listed = Chem.RemoveAllHs(Chem.MolFromSmiles(str(structure.info["smiles"])))
    atoms = match(listed, structure.numbers, structure.positions)
    if atoms is None:
        return structure
    mol = Chem.RenumberAtoms(Chem.AddHs(listed), np.argsort(atoms).tolist())
    conformer = Chem.Conformer(mol.GetNumAtoms())
    for atom, point in enumerate(structure.positions.tolist()):
        conformer.SetAtomPosition(atom, Point3D(*point))
    mol.AddConformer(conformer)
    Chem.AssignStereochemistryFrom3D(mol)
    smiles = Chem.MolToSmiles(Chem.RemoveHs(mol))
    return from_rdkit(mol).replace(positions=structure.positions, info={**structure.info, "smiles": smiles})


def match(listed: Any, numbers: np.ndarray, positions: np.ndarray) -> np.ndarray | None:
    """Which row of the coordinates each atom of a molecule is.

    Args:
        listed: RDKit Mol without explicit hydrogens, m heavy atoms.
        numbers: n atomic numbers.
        positions: n × 3, Å.

    Returns:
        n row indices, heavy atoms first, then the hydrogens as `Chem.AddHs` adds them; None when nothing fits.
    """
    heavy, light = np.flatnonzero(numbers != 1), np.flatnonzero(numbers == 1)
    distances = np.linalg.norm(positions[:, None] - positions[None], axis=-1)
    owner = heavy[distances[np.ix_(light, heavy)].argmin(axis=1)]
    wanted = [atom.GetTotalNumHs() for atom in listed.GetAtoms()]
    if len(wanted) != len(heavy) or sum(wanted) != len(light):
        return None
    held = np.bincount(owner, minlength=len(numbers))[heavy]
    bonded = [(bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()) for bond in listed.GetBonds()]
    query = _skeleton([atom.GetAtomicNum() for atom in listed.GetAtoms()], wanted, bonded)
    distances = distances[np.ix_(heavy, heavy)]
    radii = np.array([RADII[1][z] for z in numbers[heavy].tolist()])
    ratio = distances / (radii[:, None] + radii[None])
    for reach in REACHES:
        pairs = np.argwhere(np.triu(ratio < reach, 1)).tolist()
        if len(pairs) != len(bonded):
            continue
        found = _skeleton(numbers[heavy].tolist(), held.tolist(), pairs).GetSubstructMatches(query, uniquify=False, maxMatches=10_000)
        if found:
            best = min(found, key=partial(_misfit, listed, distances))
            rows = heavy[list(best)]
            hydrogens = [light[owner == row] for row in rows]
            return np.concatenate([rows, *hydrogens])
    return None


def _skeleton(numbers: list[int], hydrogens: list[int], pairs: list[Any]) -> Any:
    """An RDKit Mol that matches by element, number of hydrogens (kept as isotope) and neighbours only."""
    from rdkit import Chem

    mol = Chem.RWMol()
    for number, count in zip(numbers, hydrogens, strict=True):
        atom = Chem.Atom(number)
        atom.SetIsotope(1 + count)
        atom.SetNoImplicit(True)
        mol.AddAtom(atom)
    for i, j in pairs:
        mol.AddBond(i, j, Chem.BondType.SINGLE)
    return mol


def _misfit(listed: Any, distances: np.ndarray, atoms: tuple[int, ...]) -> float:
    """Sum of squared differences, in Å², between the distances and the lengths expected for the listed bond orders."""
    total = 0.0
    for bond in listed.GetBonds():
        begin, end = bond.GetBeginAtom(), bond.GetEndAtom()
        orders = (1, 2) if bond.GetIsAromatic() else (int(bond.GetBondTypeAsDouble()),)
        expected = [RADII[order][begin.GetAtomicNum()] + RADII[order][end.GetAtomicNum()] for order in orders]
        total += (distances[atoms[begin.GetIdx()], atoms[end.GetIdx()]] - sum(expected) / len(expected)) ** 2
    return total


def _rows(root: Path) -> Iterator[_Row]:
    if (root / ARRAYS.name).exists():
        return _rows_of_arrays(root / ARRAYS.name)
    if (root / ARCHIVE.name).exists():
        return _rows_of_archive(root / ARCHIVE.name, root / EXCLUDED.name)
    return _rows_of_wheel(root / WHEEL.name)


def _rows_of_arrays(path: Path) -> Iterator[_Row]:
    with np.load(path, allow_pickle=False) as arrays:
        ends = np.cumsum(arrays["n_atoms"].astype(np.int64))
        smiles = arrays["smiles_utf8"].tobytes().decode().splitlines()
        numbers, positions, index, properties = (arrays[key] for key in ("z", "pos", "gdb_index", "props"))
    for row, end in enumerate(ends):
        atoms = slice(ends[row - 1] if row else 0, end)
        yield _Row(int(index[row]), numbers[atoms], positions[atoms], smiles[row], properties[row])


def _rows_of_archive(path: Path, excluded: Path) -> Iterator[_Row]:
    """The original files, one per molecule, without those that failed the authors' consistency check."""
    fields = (line.split() for line in excluded.read_text().splitlines())
    left_out = {int(field[0]) for field in fields if len(field) > 2 and field[0].isdigit()}
    if len(left_out) != N_EXCLUDED:
        raise DataError(f"qm9: expected {N_EXCLUDED} molecules in {excluded.name}, got {len(left_out)}; delete it and try again")
    with tarfile.open(path) as archive:
        for member in archive:
            file = archive.extractfile(member)
            if file is not None and member.name.endswith(".xyz"):
                row = _row_of_xyz(file.read().decode())
                if row.gdb_index not in left_out:
                    yield row


def _row_of_xyz(text: str) -> _Row:
    """One file of the original: count; `gdb` index and 15 properties; element x y z charge …; frequencies; SMILES; InChI."""
    lines = text.replace("*^", "e").splitlines()  # some numbers are written 1.2*^-6
    n = int(lines[0])
    _, index, *properties = lines[1].split()
    atoms = [line.split() for line in lines[2 : 2 + n]]
    return _Row(
        int(index),
        np.array([NUMBERS[atom[0]] for atom in atoms]),
        np.array([atom[1:4] for atom in atoms], dtype=np.float64),
        lines[3 + n].split()[0],
        np.array(properties, dtype=np.float64),
    )


def _rows_of_wheel(path: Path) -> Iterator[_Row]:
    """The tables of the package `qm9pack`."""
    with zipfile.ZipFile(path) as wheel:
        for part in (1, 2, 3):
            with wheel.open(f"qm9pack/data/qm9_part{part}.csv") as table:
                for line in csv.DictReader(io.TextIOWrapper(table)):
                    yield _Row(
                        int(line["Index"]),
                        np.array([NUMBERS[symbol] for symbol in _cells(line["Elements"])]),
                        np.array(_cells(line["XYZ_Ang"]), dtype=np.float64).reshape(-1, 3),
                        line["SMILES"],
                        np.array([line[name] for name in WHEEL_PROPERTIES], dtype=np.float64),
                    )


def _cells(text: str) -> list[str]:
    """The entries of a list or table as it is printed; numbers such as `-.5` make it no JSON."""
    return text.translate(str.maketrans("", "", "[]' ")).split(",")
