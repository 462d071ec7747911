"""One immutable record for a molecule, a crystal or a plain graph.

Everything in sciar is made from and ends in a `Structure`: data sets yield them, tokenizers encode
them, models decode to them, validators judge them, converters turn them into RDKit, pymatgen, ASE or
networkx objects. It knows NumPy and nothing else: no RDKit, no torch.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

CIS, TRANS = 0, 1
NONE = -1  # stands for a lone pair or an implicit hydrogen in a stereo mark


@dataclass(frozen=True, slots=True, eq=False)
class Structure:
    """A molecule (bonds), a crystal (cell) or a plain graph (bonds between vertices of number 0).

    Arrays are copied to canonical dtypes and made read-only. Bonds are kekulised and stored once, i < j,
    in lexicographic order.

    Args:
        numbers: atomic numbers, 0 = a vertex without element.
        positions: Cartesian coordinates in Å, or None.
        cell: rows are lattice vectors in Å, or None when not periodic.
        bonds: rows (i, j, order), order 1, 2 or 3 (a plain graph has 1); None = unknown, empty = none.
        charges: formal charges in e; None = unknown or all zero.
        hydrogens: hydrogens on each atom that are *not* atoms of this record; None = none are missing.
        tetrahedral: rows (centre, a, b, c, d): seen from a, the atoms b, c, d run counter-clockwise
            (SMILES `@`). NONE stands for an implicit hydrogen or a lone pair.
        double_bonds: rows (a, i, j, b, kind): a on i, b on j of the double bond i=j, kind CIS or TRANS.
        info: anything else: id, properties with the unit in the key (`gap_eV`), SMILES.

    Raises:
        ValueError: on wrong shapes, indices out of range, a bond given twice or non-finite coordinates.
    """

    numbers: Int[np.ndarray, "n"]
    positions: Float[np.ndarray, "n 3"] | None = None
    cell: Float[np.ndarray, "3 3"] | None = None
    bonds: Int[np.ndarray, "m 3"] | None = None
    charges: Int[np.ndarray, "n"] | None = None
    hydrogens: Int[np.ndarray, "n"] | None = None
    tetrahedral: Int[np.ndarray, "s 5"] | None = None
    double_bonds: Int[np.ndarray, "e 5"] | None = None
    info: Mapping[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        numbers = _frozen(self.numbers, np.int64, "numbers", (-1,))
        n = len(numbers)
        if n and (numbers.min() < 0 or numbers.max() > 118):
            raise ValueError(f"Structure.numbers: expected atomic numbers 0..118, got {numbers.min()}..{numbers.max()}")
        store = {"numbers": numbers}
        for name, dtype, shape in (
            ("positions", np.float64, (n, 3)),
            ("cell", np.float64, (3, 3)),
            ("charges", np.int64, (n,)),
            ("hydrogens", np.int64, (n,)),
            ("bonds", np.int64, (-1, 3)),
            ("tetrahedral", np.int64, (-1, 5)),
            ("double_bonds", np.int64, (-1, 5)),
        ):
            value = getattr(self, name)
            if value is not None:
                store[name] = _frozen(value, dtype, name, shape)
        if "bonds" in store:
            store["bonds"] = _canonical_bonds(store["bonds"], n)
        for name in ("tetrahedral", "double_bonds"):
            if name in store:
                atoms = store[name] if name == "tetrahedral" else store[name][:, :4]
                if atoms.size and (atoms.min() < NONE or atoms.max() >= n):
                    raise ValueError(f"Structure.{name}: expected atom indices below {n}, got {atoms.max()}")
        for name, value in store.items():
            object.__setattr__(self, name, value)
        object.__setattr__(self, "info", MappingProxyType(dict(self.info)))

    @property
    def n_atoms(self) -> int:
        return len(self.numbers)

    def __len__(self) -> int:
        return len(self.numbers)

    def __reduce__(self) -> tuple[object, ...]:
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return _restored, ({**fields, "info": dict(self.info)},)

    def __repr__(self) -> str:
        parts = [self.formula or "empty"]
        if self.cell is not None:
            parts.append("crystal")
        if self.bonds is not None:
            parts.append(f"{len(self.bonds)} bonds")
        if self.positions is not None:
            parts.append("3D")
        return f"Structure({', '.join(parts)})"

    @property
    def formula(self) -> str:
        """Hill formula; hydrogens that are not atoms of the record are counted."""
        counts = dict(zip(*np.unique(self.numbers, return_counts=True), strict=True))
        if self.hydrogens is not None and self.hydrogens.sum():
            counts[1] = counts.get(1, 0) + int(self.hydrogens.sum())
        symbols = {SYMBOLS[int(z)]: int(c) for z, c in counts.items()}
        order = sorted(symbols)
        if "C" in symbols:
            order = [s for s in ("C", "H") if s in symbols] + [s for s in order if s not in ("C", "H")]
        return "".join(s + (str(symbols[s]) if symbols[s] > 1 else "") for s in order)

    def replace(self, **changes: Any) -> Structure:
        """A copy with some fields changed."""
        return dataclasses.replace(self, **changes)

    def with_info(self, **entries: object) -> Structure:
        """A copy with `entries` added to `info`."""
        return self.replace(info={**self.info, **entries})

    def permuted(self, order: Int[np.ndarray, "n"]) -> Structure:
        """Atom k of the result is atom order[k] of this one; marks and bonds follow."""
        order = np.asarray(order, dtype=np.int64)
        if sorted(order.tolist()) != list(range(self.n_atoms)):
            raise ValueError(f"Structure.permuted: expected a permutation of {self.n_atoms} atoms, got {order.tolist()}")
        return self._selected(order)

    def subset(self, atoms: Int[np.ndarray, "k"] | Bool[np.ndarray, "n"]) -> Structure:
        """The record restricted to `atoms`; bonds and marks that lose an atom are dropped."""
        atoms = np.asarray(atoms)
        if atoms.dtype == bool:
            atoms = np.flatnonzero(atoms)
        return self._selected(atoms.astype(np.int64))

    def rotated(self, rotation: Float[np.ndarray, "3 3"]) -> Structure:
        """Positions and cell times a proper rotation: x ↦ R x."""
        rotation = np.asarray(rotation, dtype=np.float64)
        moved: dict[str, Any] = {}
        if self.positions is not None:
            moved["positions"] = self.positions @ rotation.T
        if self.cell is not None:
            moved["cell"] = self.cell @ rotation.T
        return self.replace(**moved)

    def shifted(self, shift: Float[np.ndarray, "3"]) -> Structure:
        """Positions plus a vector in Å."""
        if self.positions is None:
            return self
        return self.replace(positions=self.positions + np.asarray(shift, dtype=np.float64))

    def adjacency(self) -> Int[np.ndarray, "n n"]:
        """Bond orders as a symmetric matrix, 0 = not bonded."""
        matrix = np.zeros((self.n_atoms, self.n_atoms), dtype=np.int64)
        if self.bonds is not None:
            i, j, order = self.bonds.T
            matrix[i, j] = matrix[j, i] = order
        return matrix

    def fragments(self) -> Int[np.ndarray, "n"]:
        """Index of the connected component of each atom."""
        from scipy.sparse import coo_matrix
        from scipy.sparse.csgraph import connected_components

        if self.bonds is None or not len(self.bonds):
            return np.arange(self.n_atoms)
        i, j, _ = self.bonds.T
        graph = coo_matrix((np.ones(len(i)), (i, j)), shape=(self.n_atoms, self.n_atoms))
        return connected_components(graph, directed=False)[1]

    def _selected(self, atoms: np.ndarray) -> Structure:
        new_of_old = np.full(self.n_atoms + 1, -2, dtype=np.int64)  # the last entry maps NONE (-1) to itself
        new_of_old[-1] = NONE
        new_of_old[atoms] = np.arange(len(atoms))
        changes: dict[str, Any] = {"numbers": self.numbers[atoms]}
        for name in ("positions", "charges", "hydrogens"):
            value = getattr(self, name)
            if value is not None:
                changes[name] = value[atoms]
        for name, width in (("bonds", 2), ("tetrahedral", 5), ("double_bonds", 4)):
            value = getattr(self, name)
            if value is not None:
                rows = value.copy()
                rows[:, :width] = new_of_old[value[:, :width]]
                changes[name] = rows[(rows[:, :width] > -2).all(axis=1)]
        isotopes = self.info.get("isotopes")  # the one entry that goes with the atoms
        if isinstance(isotopes, tuple) and len(isotopes) == self.n_atoms:
            changes["info"] = {**self.info, "isotopes": tuple(isotopes[k] for k in atoms.tolist())}
        return self.replace(**changes)


def _restored(fields: dict) -> Structure:
    return Structure(**fields)


def _frozen(value: object, dtype: type, name: str, shape: tuple[int, ...]) -> np.ndarray:
    array: np.ndarray = np.array(value, dtype=dtype)
    if array.size == 0 and len(shape) == 2 and shape[0] == -1:
        array = array.reshape(0, shape[1])
    if array.ndim != len(shape) or any(want not in (-1, got) for want, got in zip(shape, array.shape, strict=True)):
        wanted = " × ".join("any" if s == -1 else str(s) for s in shape)
        raise ValueError(f"Structure.{name}: expected shape {wanted}, got {' × '.join(map(str, array.shape))}")
    if dtype is np.float64 and not np.isfinite(array).all():
        raise ValueError(f"Structure.{name}: expected finite numbers, got {(~np.isfinite(array)).sum()} that are not")
    array.setflags(write=False)
    return array


def _canonical_bonds(bonds: np.ndarray, n: int) -> np.ndarray:
    if not len(bonds):
        return bonds
    ends = np.sort(bonds[:, :2], axis=1)
    if ends.min() < 0 or ends.max() >= n or (ends[:, 0] == ends[:, 1]).any():
        raise ValueError(f"Structure.bonds: expected two different atoms below {n} in each row")
    out = np.concatenate([ends, bonds[:, 2:]], axis=1)
    out = out[np.lexsort((out[:, 1], out[:, 0]))]
    if len(out) > 1 and (np.diff(out[:, :2], axis=0) == 0).all(axis=1).any():
        raise ValueError("Structure.bonds: expected each bond once, got a pair of atoms twice")
    out.setflags(write=False)
    return out


SYMBOLS: tuple[str, ...] = tuple(
    "X H He Li Be B C N O F Ne Na Mg Al Si P S Cl Ar K Ca Sc Ti V Cr Mn Fe Co Ni Cu Zn Ga Ge As Se Br Kr Rb Sr Y Zr Nb "
    "Mo Tc Ru Rh Pd Ag Cd In Sn Sb Te I Xe Cs Ba La Ce Pr Nd Pm Sm Eu Gd Tb Dy Ho Er Tm Yb Lu Hf Ta W Re Os Ir Pt Au Hg "
    "Tl Pb Bi Po At Rn Fr Ra Ac Th Pa U Np Pu Am Cm Bk Cf Es Fm Md No Lr Rf Db Sg Bh Hs Mt Ds Rg Cn Nh Fl Mc Lv Ts Og".split()
)
NUMBERS: Mapping[str, int] = MappingProxyType({symbol: z for z, symbol in enumerate(SYMBOLS)})


def key_of(structure: Structure, *facts: object) -> str:
    """SHA-256 of a structure's numbers, positions and cell and of whatever else makes its value what it is."""
    text = hashlib.sha256(json.dumps(facts, default=str).encode())
    for array, kind in ((structure.numbers, np.int64), (structure.positions, np.float64), (structure.cell, np.float64)):
        if array is not None:
            text.update(np.ascontiguousarray(array, dtype=kind).tobytes())
        text.update(b"|")
    return text.hexdigest()
