"""What a molecular graph promises of its geometry, and which promises coordinates break. One check is one function: a reason or None.

Expected lengths, angles, closest contacts and stereo depend on the graph alone; they are worked out once per graph from RDKit's
distance bounds and kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from sciar.convert import RejectedError, to_rdkit
from sciar.errors import InputError
from sciar.stereo import parity
from sciar.structure import CIS, NONE, SYMBOLS, Structure

if TYPE_CHECKING:
    from rdkit import Chem

# Tolerances, from what DFT geometries (QM9, the drug-like conformers of Folmsbee & Hutchison 2020) and ETKDGv3 + MMFF94s keep.
LENGTH = (0.83, 1.22)  # of the expected bond length
ANGLE = {"open": 25.0, "ring": 32.0, "fused": 36.0, "small": 40.0, "cage": 80.0}  # degrees around the expected angle, by the centre's rings
CONTACT = {"near": 0.66, "far": 0.70, "bridge": 0.55, "cage": 0.68}  # of the sum of van der Waals radii; see `_contacts`
TWIST = {"ring": 35.0, "bond": 60.0}  # degrees, of an aromatic ring bond and of a double bond outside rings
PYRAMID = {"flat": 0.3, "cage": 0.7}  # Å, of a trigonal carbon above the plane of its neighbours
FLAT_CENTRE = 0.05  # Å³, signed volumes below this have no handedness
ACCEPTORS = frozenset({7, 8, 9, 15, 16, 17, 35, 53})  # of a hydrogen bond
SHOWN = 3  # faults of one kind that are named


@dataclass(frozen=True, slots=True, eq=False)
class Expected:
    """What the coordinates of a graph should look like; m bonds, a angles, q torsions, t trigonal carbons, s centres, e double bonds."""

    mol: Any  # RDKit Mol without conformer, None if RDKit rejects the graph
    faults: tuple[str, ...]  # of the graph itself
    symbols: tuple[str, ...]
    bonds: np.ndarray  # m × 2
    lengths: np.ndarray  # m × (shortest, longest) Å
    angles: np.ndarray  # a × 3, centre in the middle
    degrees: np.ndarray  # a × (smallest, largest)
    contacts: np.ndarray  # closest distance in Å of each pair, in the order of scipy's pdist; 0 = free
    torsions: np.ndarray  # q × 4
    twists: np.ndarray  # q, degrees
    trigonal: np.ndarray  # t × (centre, three neighbours)
    heights: np.ndarray  # t, Å
    centres: np.ndarray  # s
    tetrahedral: np.ndarray  # s × 4; the centre itself stands for a missing neighbour
    labels: tuple[str, ...]  # s, R or S, else @ or @@
    double_bonds: np.ndarray  # e × 5
    sides: tuple[str, ...]  # e, what a change would be: E→Z

    def name(self, *atoms: int) -> str:
        return "-".join(f"{self.symbols[a]}{a}" for a in atoms)


@lru_cache(maxsize=256)
def expected_of(graph: Structure) -> Expected:
    """What a graph that was asked for promises; worked out once."""
    return expectation(graph, given=True)


def expectation(graph: Structure, given: bool = False) -> Expected:
    """What a graph promises. `given` graphs may be radicals or salts: they were asked for."""
    from rdkit import Chem

    symbols = tuple(SYMBOLS[z] for z in graph.numbers)
    mol, faults = sanitised(graph, given)
    if mol is None:
        return _nothing_expected(symbols, *faults)
    low, high = _bounds(mol)
    middle = (low + high) / 2
    pairs = _pairs(graph)
    i, j = pairs.T
    rings = mol.GetRingInfo()
    surroundings = [_surroundings(rings, k) for k in range(graph.n_atoms)]
    neighbours = [[n.GetIdx() for n in atom.GetNeighbors()] for atom in mol.GetAtoms()]
    angles = _rows([(a, c, b) for c, near in enumerate(neighbours) for k, a in enumerate(near) for b in near[k + 1 :]], 3)
    a, c, b = angles.T
    opposite = (middle[a, c] ** 2 + middle[c, b] ** 2 - middle[a, b] ** 2) / (2 * middle[a, c] * middle[c, b])
    degrees = np.degrees(np.arccos(np.clip(opposite, -1, 1)))
    slack = np.array([ANGLE[surroundings[k]] for k in c])
    flat_rings, flat_bonds = _flat(mol)
    trigonal = [
        (k, *neighbours[k])
        for k, atom in enumerate(mol.GetAtoms())
        if atom.GetAtomicNum() == 6 and len(neighbours[k]) == 3 and atom.GetHybridization() == Chem.HybridizationType.SP2
    ]
    marks = graph.tetrahedral if graph.tetrahedral is not None else _rows([], 5)
    doubles = graph.double_bonds if graph.double_bonds is not None else _rows([], 5)
    doubles = doubles[(doubles[:, [0, 3]] != NONE).all(axis=1)]
    return Expected(
        mol=mol,
        faults=faults,
        symbols=symbols,
        bonds=pairs,
        lengths=np.stack([LENGTH[0] * middle[i, j], LENGTH[1] * middle[i, j]], axis=1),
        angles=angles,
        degrees=np.stack([degrees - slack, degrees + slack], axis=1),
        contacts=_contacts(mol),
        torsions=_rows(flat_rings + flat_bonds, 4),
        twists=np.array([TWIST["ring"]] * len(flat_rings) + [TWIST["bond"]] * len(flat_bonds)),
        trigonal=_rows(trigonal, 4),
        heights=np.array([PYRAMID["cage" if surroundings[k] in ("fused", "cage") else "flat"] for k, *_ in trigonal]),
        centres=marks[:, 0],
        tetrahedral=np.where(marks[:, 1:] == NONE, marks[:, :1], marks[:, 1:]),
        labels=tuple(_label(mol, row) for row in marks.tolist()),
        double_bonds=doubles,
        sides=tuple(_side(mol, row) for row in doubles.tolist()),
    )


def sanitised(graph: Structure, given: bool = False) -> tuple[Chem.Mol | None, tuple[str, ...]]:
    """The molecule without conformer, None if RDKit rejects it, and the faults of the graph itself; `given` as for `expectation`."""
    try:
        mol = to_rdkit(graph.replace(positions=None))
    except RejectedError as error:
        return None, (f"valence: {error.reason}",)
    except InputError as error:
        return None, (f"wrong graph: {error}",)
    return mol, () if given else tuple(fault for fault in (disconnected(graph), unpaired_electrons(mol)) if fault)


def _nothing_expected(symbols: tuple[str, ...], fault: str) -> Expected:
    none = np.zeros(0)
    return Expected(
        None, (fault,), symbols, _rows([], 2), _rows([], 2), _rows([], 3), _rows([], 2), none, _rows([], 4), none, _rows([], 4), none,
        none, _rows([], 4), (), _rows([], 5), (),
    )  # fmt: skip


def broken(positions: np.ndarray, expected: Expected) -> tuple[str, ...]:
    """Promises that positions (n 3, Å) break, the most basic first."""
    checks = (bond_lengths, bond_angles, clashes, planarity, centres, double_bonds)
    return tuple(reason for check in checks if (reason := check(positions, expected)))


def bond_lengths(positions: np.ndarray, expected: Expected) -> str | None:
    """Bonds longer or shorter than LENGTH allows."""
    i, j = expected.bonds.T
    low, high = expected.lengths.T
    length = np.linalg.norm(positions[i] - positions[j], axis=1)
    bad = np.flatnonzero((length < low) | (length > high))
    names = [f"{expected.name(i[k], j[k])} {length[k]:.2f} Å, expected {low[k]:.2f}–{high[k]:.2f}" for k in bad[:SHOWN]]
    return f"bond length: {_listed(names, len(bad))}" if len(bad) else None


def bond_angles(positions: np.ndarray, expected: Expected) -> str | None:
    """Angles further from the expected one than ANGLE allows."""
    i, c, j = expected.angles.T
    low, high = expected.degrees.T
    angle = np.degrees(np.arccos(np.clip(_cosine(positions[i] - positions[c], positions[j] - positions[c]), -1, 1)))
    bad = np.flatnonzero((angle < low) | (angle > high))
    names = [f"{expected.name(i[k], c[k], j[k])} {angle[k]:.0f}°, expected {low[k]:.0f}–{high[k]:.0f}" for k in bad[:SHOWN]]
    return f"bond angle: {_listed(names, len(bad))}" if len(bad) else None


def clashes(positions: np.ndarray, expected: Expected) -> str | None:
    """Atoms at least three bonds apart that are too close."""
    from scipy.spatial.distance import pdist

    distance = pdist(positions)
    bad = np.flatnonzero(distance < expected.contacts)
    if not len(bad):
        return None
    i, j = np.triu_indices(len(positions), 1)
    names = [f"{expected.name(i[k])}…{expected.name(j[k])} {distance[k]:.2f} Å, expected > {expected.contacts[k]:.2f}" for k in bad[:SHOWN]]
    return f"clash: {_listed(names, len(bad))}"


def planarity(positions: np.ndarray, expected: Expected) -> str | None:
    """Aromatic rings and double bonds that are twisted, trigonal carbons that are pyramids."""
    names = []
    if len(expected.torsions):
        twist = np.degrees(np.arccos(np.clip(np.abs(_cos_dihedral(positions, expected.torsions)), 0, 1)))
        for k in np.flatnonzero(twist > expected.twists):
            names.append(f"{expected.name(*expected.torsions[k, 1:3])} twisted by {twist[k]:.0f}°, expected < {expected.twists[k]:.0f}")
    if len(expected.trigonal):
        c, i, j, k_ = positions[expected.trigonal].swapaxes(0, 1)
        normal = _cross(j - i, k_ - i)
        height = np.abs(((c - i) * normal).sum(axis=1)) / np.maximum(np.linalg.norm(normal, axis=1), 1e-9)
        for k in np.flatnonzero(height > expected.heights):
            names.append(f"{expected.name(expected.trigonal[k, 0])} {height[k]:.2f} Å out of plane, expected < {expected.heights[k]:.1f}")
    return f"planarity: {_listed(names)}" if names else None


def centres(positions: np.ndarray, expected: Expected) -> str | None:
    """Marked tetrahedral centres with the other handedness, or none; unmarked centres are free."""
    if not len(expected.tetrahedral):
        return None
    a, b, c, d = positions[expected.tetrahedral].swapaxes(0, 1)
    volume = (_cross(d - a, c - a) * (b - a)).sum(axis=1)  # positive: seen from a, the atoms b, c, d run counter-clockwise
    names = []
    for k in np.flatnonzero(volume < FLAT_CENTRE):
        label = expected.labels[k]
        other = {"R": "S", "S": "R", "r": "s", "s": "r", "@": "@@", "@@": "@"}[label] if volume[k] < -FLAT_CENTRE else "flat"
        names.append(f"atom {expected.centres[k]} {label}→{other}")
    return f"stereo changed: {_listed(names)}" if names else None


def double_bonds(positions: np.ndarray, expected: Expected) -> str | None:
    """Marked double bonds on the other side; unmarked ones are free."""
    if not len(expected.double_bonds):
        return None
    cosine = _cos_dihedral(positions, expected.double_bonds[:, :4])
    wanted = np.where(expected.double_bonds[:, 4] == CIS, 1, -1)
    names = [f"bond {expected.name(*expected.double_bonds[k, 1:3])} {expected.sides[k]}" for k in np.flatnonzero(cosine * wanted <= 0)]
    return f"stereo changed: {_listed(names)}" if names else None


def equivalent_stereo(drawn: Chem.Mol, wanted: Chem.Mol) -> bool:
    """Is the stereoisomer of the coordinates the wanted one under other marks?

    Marks that depend on each other can all be turned over and mean the same molecule (cis-1,3-disubstituted cyclobutane).
    """
    from rdkit import Chem

    found = Chem.Mol(drawn)
    Chem.AssignStereochemistryFrom3D(found, replaceExistingTags=True)
    for atom, mark in zip(found.GetAtoms(), wanted.GetAtoms(), strict=True):
        if mark.GetChiralTag() == Chem.ChiralType.CHI_UNSPECIFIED:
            atom.SetChiralTag(Chem.ChiralType.CHI_UNSPECIFIED)
    for bond, mark in zip(found.GetBonds(), wanted.GetBonds(), strict=True):
        if mark.GetStereo() == Chem.BondStereo.STEREONONE:
            bond.SetStereo(Chem.BondStereo.STEREONONE)
    smiles = [Chem.MolToSmiles(Chem.RemoveHs(mol)) for mol in (found, wanted)]
    return smiles[0] == smiles[1]


def disconnected(structure: Structure) -> str | None:
    """More than one fragment."""
    count = int(structure.fragments().max()) + 1
    return f"disconnected: {count} fragments" if count > 1 else None


def unpaired_electrons(mol: Chem.Mol) -> str | None:
    """Atoms with fewer bonds than their valence asks for."""
    open_shells = [f"{a.GetSymbol()}{a.GetIdx()} {a.GetNumRadicalElectrons()}" for a in mol.GetAtoms() if a.GetNumRadicalElectrons()]
    return f"valence: unpaired electrons: {_listed(open_shells)}" if open_shells else None


def _pairs(graph: Structure) -> np.ndarray:
    """Pairs of bonded atoms, m × 2."""
    return graph.bonds[:, :2] if graph.bonds is not None else _rows([], 2)


def _bounds(mol: Chem.Mol) -> tuple[np.ndarray, np.ndarray]:
    """Smallest and largest distance of each pair of atoms in Å, both n × n and symmetric."""
    from rdkit import rdBase
    from rdkit.Chem import rdDistGeom

    with rdBase.BlockLogs():
        bounds = rdDistGeom.GetMoleculeBoundsMatrix(mol, doTriangleSmoothing=False)
    high, low = np.triu(bounds, 1), np.tril(bounds, -1)
    return low + low.T, high + high.T


def _contacts(mol: Chem.Mol) -> np.ndarray:
    """Closest distance of each pair in Å: three bonds apart, further apart, hydrogen to acceptor (bridge), within a ring system (cage)."""
    from rdkit import Chem

    n = mol.GetNumAtoms()
    table = Chem.GetPeriodicTable()
    radii = np.array([table.GetRvdw(atom.GetAtomicNum()) for atom in mol.GetAtoms()])
    hydrogen = np.array([atom.GetAtomicNum() == 1 for atom in mol.GetAtoms()])
    acceptor = np.array([atom.GetAtomicNum() in ACCEPTORS for atom in mol.GetAtoms()])
    apart = Chem.GetDistanceMatrix(mol)
    system = np.arange(n)  # smallest atom of the ring system
    for ring in sorted(map(sorted, mol.GetRingInfo().AtomRings())):
        merged = np.isin(system, system[list(ring)])
        system[merged] = system[list(ring)].min()
    bridge = (hydrogen[:, None] & acceptor) | (acceptor[:, None] & hydrogen)
    kinds = {"cage": system[:, None] == system, "near": apart == 3, "bridge": bridge}
    scale = np.select([apart < 3, *kinds.values()], [0.0, *(CONTACT[kind] for kind in kinds)], CONTACT["far"])
    return (scale * (radii[:, None] + radii))[np.triu_indices(n, 1)]


def _surroundings(rings: Any, atom: int) -> str:
    count = rings.NumAtomRings(atom)
    if not count:
        return "open"
    if rings.MinAtomRingSize(atom) >= 5:
        return "ring" if count == 1 else "fused"
    return "small" if count == 1 else "cage"


def _flat(mol: Chem.Mol) -> tuple[list[tuple[int, ...]], list[tuple[int, ...]]]:
    """Torsions that should be 0° or 180°: within aromatic rings, and about double bonds of carbon and nitrogen outside rings."""
    from rdkit import Chem

    inside: list[tuple[int, ...]] = []
    for ring in mol.GetRingInfo().AtomRings():
        if len(ring) in (5, 6) and all(mol.GetAtomWithIdx(k).GetIsAromatic() for k in ring):  # larger ones need not be flat
            inside += [tuple(ring[(k + step) % len(ring)] for step in range(4)) for k in range(len(ring))]
    outside: list[tuple[int, ...]] = []
    for bond in mol.GetBonds():
        ends = bond.GetBeginAtom(), bond.GetEndAtom()
        if bond.GetBondType() != Chem.BondType.DOUBLE or bond.IsInRing():
            continue
        if all(end.GetAtomicNum() in (6, 7) and end.GetHybridization() == Chem.HybridizationType.SP2 for end in ends):
            i, j = (end.GetIdx() for end in ends)
            first, last = ([n.GetIdx() for n in end.GetNeighbors() if n.GetIdx() not in (i, j)] for end in ends)
            outside += [(a, i, j, b) for a in first for b in last]
    return inside, outside


def _label(mol: Chem.Mol, row: list[int]) -> str:
    centre, *around = row
    atom = mol.GetAtomWithIdx(centre)
    if atom.HasProp("_CIPCode"):
        return str(atom.GetProp("_CIPCode"))
    return "@@" if parity(around) else "@"


def _side(mol: Chem.Mol, row: list[int]) -> str:
    _, i, j, _, kind = row
    stereo = str(mol.GetBondBetweenAtoms(i, j).GetStereo())
    return {"STEREOE": "E→Z", "STEREOZ": "Z→E"}.get(stereo, "cis→trans" if kind == CIS else "trans→cis")


def _rows(rows: list[Any], width: int) -> np.ndarray:
    return np.array(rows, dtype=np.int64).reshape(-1, width)


def _cross(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Rows x × y; four times as fast as numpy.cross on few rows."""
    a, b, c = x.T
    d, e, f = y.T
    return np.stack([b * f - c * e, c * d - a * f, a * e - b * d], axis=1)


def _cosine(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return (x * y).sum(axis=1) / np.maximum(np.sqrt((x * x).sum(axis=1) * (y * y).sum(axis=1)), 1e-9)


def _cos_dihedral(positions: np.ndarray, rows: np.ndarray) -> np.ndarray:
    a, i, j, b = positions[rows].swapaxes(0, 1)
    axis = j - i
    return _cosine(_cross(a - i, axis), _cross(b - j, axis))


def _listed(names: list[str], total: int | None = None) -> str:
    more = (total or len(names)) - SHOWN
    return ", ".join(names[:SHOWN]) + (f" and {more} more" if more > 0 else "")
