"""Structure ↔ RDKit, pymatgen, ASE and networkx; Structure ↔ SMILES.

Atom order is kept everywhere. The libraries are imported inside the functions, so importing this module costs nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from sciar.errors import InputError
from sciar.stereo import double_bond_rows, mark_centre, mark_double_bond, tetrahedral_rows
from sciar.structure import NUMBERS, SYMBOLS, Structure

if TYPE_CHECKING:
    import ase
    import networkx
    import pymatgen.core
    from rdkit import Chem

COVALENT = frozenset(NUMBERS[s] for s in "H He B C N O F Ne Si P S Cl Ar Ge As Se Br Kr Sb Te I Xe At Rn".split()) | {0}
"""Elements whose bonds are two-electron bonds; bonds to any other (a metal) are refused."""


class RejectedError(InputError):
    """RDKit cannot take a molecule; `reason` is its own."""

    def __init__(self, where: str, reason: str) -> None:
        super().__init__(f"{where}: expected a molecule with sound valences, got {reason}; correct it")
        self.reason = reason


def from_rdkit(mol: Chem.Mol, conformer: int | None = -1, perceive_stereo_from_3d: bool = False) -> Structure:
    """A Structure of an RDKit molecule; `to_rdkit` gives the molecule back.

    Explicit hydrogens stay atoms, the others are counted in `hydrogens`. Atom-map numbers are not kept; public properties
    of the molecule go to `info`, isotopes to `info["isotopes"]` (one mass number per atom, 0 = natural).

    Args:
        mol: any molecule without queries; it is not changed.
        conformer: id of the conformer to take the positions from, -1 = the first, None = no positions. A 2D drawing gives none.
        perceive_stereo_from_3d: replace the stereo marks by those of the conformer.

    Returns:
        Structure with kekulised bonds, charges, hydrogens and stereo marks in canonical form.

    Raises:
        InputError: dative bonds, bonds to metals, queries, stereo other than tetrahedral and cis/trans, no such conformer,
            or a molecule that RDKit cannot kekulise.
    """
    from rdkit import Chem, rdBase

    if mol is None:
        raise InputError("from_rdkit: expected an RDKit Mol, got None; RDKit could not read the molecule")
    if mol.HasQuery():
        raise InputError("from_rdkit: expected a molecule, got a query; build it from SMILES, not from SMARTS")
    positions = _conformer_positions(mol, conformer)
    mol = Chem.Mol(mol)
    atoms, bonds = list(mol.GetAtoms()), list(mol.GetBonds())  # once: RDKit's iterators are slow
    with rdBase.BlockLogs():
        try:
            if mol.NeedsUpdatePropertyCache():
                mol.UpdatePropertyCache()
            mapped = [atom for atom in atoms if atom.GetAtomMapNum()]
            for atom in mapped:
                atom.SetAtomMapNum(0)
            if perceive_stereo_from_3d:
                if positions is None or conformer is None:
                    raise InputError("from_rdkit: expected a 3D conformer to perceive stereo from, got none; embed the molecule first")
                Chem.AssignStereochemistryFrom3D(mol, conformer)
            else:
                Chem.AssignStereochemistry(mol, cleanIt=bool(mapped), force=bool(mapped))  # maps make centres of atoms that are none
            Chem.Kekulize(mol, clearAromaticFlags=True)
        except (ValueError, RuntimeError) as error:
            if isinstance(error, InputError):
                raise
            raise RejectedError("from_rdkit", _reason(error)) from None
    numbers = np.array([atom.GetAtomicNum() for atom in atoms], dtype=np.int64)
    charges = np.array([atom.GetFormalCharge() for atom in atoms], dtype=np.int64)
    hydrogens = np.array([atom.GetTotalNumHs() for atom in atoms], dtype=np.int64)
    isotopes = tuple(atom.GetIsotope() for atom in atoms)
    info = mol.GetPropsAsDict(includePrivate=False, includeComputed=False)
    if any(isotopes):
        info["isotopes"] = isotopes
    rows = _bond_rows(bonds, numbers.tolist())
    return Structure(
        numbers,
        positions=positions,
        bonds=np.array(rows, dtype=np.int64).reshape(-1, 3),
        charges=charges if charges.any() else None,
        hydrogens=hydrogens if hydrogens.any() else None,
        tetrahedral=tetrahedral_rows(atoms),
        double_bonds=double_bond_rows(bonds),
        info=info,
    )


def to_rdkit(structure: Structure, sanitize: bool = True) -> Chem.Mol:
    """The RDKit molecule of a bonded structure: aromaticity, rings and stereo perceived; one 3D conformer if it has positions.

    Args:
        structure: bonds must be known.
        sanitize: False skips RDKit's valence and aromaticity perception; the bonds stay kekulised.

    Raises:
        InputError: bonds unknown or of an order other than 1, 2, 3, or a molecule that RDKit rejects (its reason is given).
    """
    from rdkit import Chem, rdBase

    if structure.bonds is None:
        raise InputError("to_rdkit: expected bonds, got none; perceive them first (sciar.bonds.perceive_bonds)")
    orders = {1: Chem.BondType.SINGLE, 2: Chem.BondType.DOUBLE, 3: Chem.BondType.TRIPLE}
    n = structure.n_atoms
    charges = structure.charges.tolist() if structure.charges is not None else [0] * n
    hydrogens = structure.hydrogens.tolist() if structure.hydrogens is not None else [0] * n
    isotopes = structure.info.get("isotopes")
    mol = Chem.RWMol()
    for z, charge, missing in zip(structure.numbers.tolist(), charges, hydrogens, strict=True):
        atom = Chem.Atom(z)
        atom.SetFormalCharge(charge)
        atom.SetNoImplicit(True)
        atom.SetNumExplicitHs(missing)
        mol.AddAtom(atom)
    for i, j, order in structure.bonds.tolist():
        if order not in orders:
            raise InputError(f"to_rdkit: expected bond orders 1, 2 or 3, got {order} between atoms {i} and {j}; kekulise the molecule")
        mol.AddBond(i, j, orders[order])
    if isinstance(isotopes, Sequence) and len(isotopes) == n:
        for atom, isotope in zip(mol.GetAtoms(), isotopes, strict=True):
            atom.SetIsotope(int(isotope))
    if structure.tetrahedral is not None:
        for centre, *around in structure.tetrahedral.tolist():
            mark_centre(mol.GetAtomWithIdx(centre), around)
    if sanitize:
        with rdBase.BlockLogs():
            try:
                Chem.SanitizeMol(mol)
            except (ValueError, RuntimeError) as error:
                raise RejectedError("to_rdkit", _reason(error)) from None
    if structure.double_bonds is not None:
        for a, i, j, b, kind in structure.double_bonds.tolist():
            mark_double_bond(mol.GetBondBetweenAtoms(i, j), (a, i, j, b), kind)
    if sanitize:
        if structure.double_bonds is not None:
            Chem.SetDoubleBondNeighborDirections(mol)  # the next line keeps no cis/trans mark that lacks them
        Chem.AssignStereochemistry(mol, cleanIt=True, force=True)
    if structure.positions is not None:
        mol.AddConformer(_conformer(structure.positions), assignId=True)
    return mol.GetMol()


def add_conformer(mol: Chem.Mol, positions: Float[np.ndarray, "n 3"]) -> Chem.Mol:
    """A copy of a molecule with one more conformer; positions in Å."""
    from rdkit import Chem

    mol = Chem.Mol(mol)
    mol.AddConformer(_conformer(positions), assignId=True)
    return mol


def to_conformers(structures: Sequence[Structure]) -> Chem.Mol:
    """One molecule with a conformer per structure, ids 0 … k−1 in the order given; atoms in the order of the first.

    Args:
        structures: conformers of one graph: same elements and bonds in the same atom order, all with positions.

    Raises:
        InputError: none given, different graphs, or positions missing.
    """
    if not structures:
        raise InputError("to_conformers: expected at least one structure, got none; draw one first")
    first = structures[0]
    for k, structure in enumerate(structures):
        same = np.array_equal(structure.numbers, first.numbers) and (
            structure.bonds is None or first.bonds is None or np.array_equal(structure.bonds[:, :2], first.bonds[:, :2])
        )
        if not same or structure.positions is None:
            got = "no positions" if same else "another graph"
            raise InputError(f"to_conformers: expected conformers of one molecule, got {got} at {k}; leave it out")
    mol = to_rdkit(first)
    for structure in structures[1:]:
        mol.AddConformer(_conformer(structure.positions), assignId=True)
    return mol


def from_smiles(smiles: str, explicit_hydrogens: bool = True) -> Structure:
    """The bonded molecule of a SMILES, without positions; atoms in the order of the SMILES, added hydrogens last.

    Args:
        smiles: one SMILES; surrounding blanks are ignored.
        explicit_hydrogens: make every hydrogen an atom; False counts those that are not written as atoms in `hydrogens`.

    Raises:
        InputError: not text, empty, or not a molecule: RDKit's own reason is in the message.

    >>> from_smiles("CCO").formula
    'C2H6O'
    """
    from rdkit import Chem, rdBase

    if not isinstance(smiles, str):
        raise InputError(f"smiles: expected text, got {type(smiles).__name__}; pass a SMILES such as 'CCO'")
    smiles = smiles.strip()
    if not smiles:
        raise InputError("smiles: expected a molecule, got an empty text; pass a SMILES such as 'CCO'")
    with rdBase.BlockLogs(), rdBase.CaptureErrorLog() as log:
        mol = Chem.MolFromSmiles(smiles, sanitize=False)
        parse_error = log.messages
    shown = smiles if len(smiles) <= 80 else f"{smiles[:77]}…"
    if mol is None or not mol.GetNumAtoms():
        raise InputError(f"smiles {shown!r}: expected a SMILES, got {log_reason(parse_error) or 'no atoms'}; check its spelling")
    with rdBase.BlockLogs():
        try:
            Chem.SanitizeMol(mol)
            if not explicit_hydrogens:
                mol = Chem.RemoveHs(mol)
            Chem.AssignStereochemistry(mol, cleanIt=True, force=True)
            mol = Chem.AddHs(mol) if explicit_hydrogens else mol
        except (ValueError, RuntimeError) as error:
            raise RejectedError(f"smiles {shown!r}", _reason(error)) from None
    return from_rdkit(mol)


def to_smiles(structure: Structure, hydrogens: bool = False) -> str:
    """Canonical isomeric SMILES.

    Args:
        structure: bonds must be known.
        hydrogens: keep hydrogens that are atoms of the structure.

    Raises:
        InputError: as `to_rdkit`.
    """
    from rdkit import Chem

    mol = to_rdkit(structure.replace(positions=None))
    return str(Chem.MolToSmiles(mol if hydrogens else Chem.RemoveHs(mol)))


def from_pymatgen(crystal: pymatgen.core.IStructure | pymatgen.core.IMolecule) -> Structure:
    """A Structure of a pymatgen Structure (cell) or Molecule (no cell). Oxidation states and site properties are not kept.

    Raises:
        InputError: a site with several or partial occupants.
    """
    for k, site in enumerate(crystal):
        if not site.is_ordered:
            raise InputError(f"from_pymatgen: expected one element on each site, got {site.species} on site {k}; order the crystal first")
    lattice = getattr(crystal, "lattice", None)
    return Structure(
        np.array([site.specie.Z for site in crystal], dtype=np.int64),
        positions=np.array([site.coords for site in crystal], dtype=np.float64).reshape(-1, 3),
        cell=None if lattice is None else lattice.matrix,
        info=dict(getattr(crystal, "properties", None) or {}),
    )


def from_cif(text: str) -> Structure:
    """The crystal of the first block of a CIF, in the cell it is written in.

    Raises:
        InputError: no crystal in it, or a site with several or partial occupants.
    """
    import warnings

    from pymatgen.io.cif import CifParser

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pymatgen says what it corrected; a failure still raises
            crystal = CifParser.from_str(text).parse_structures(primitive=False)[0]
    except Exception as error:  # of a broken file pymatgen may raise anything
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"cif: expected a crystal, got text that pymatgen cannot read ({reason}); correct it") from None
    return from_pymatgen(crystal)


def to_pymatgen(structure: Structure) -> pymatgen.core.Structure | pymatgen.core.Molecule:
    """A pymatgen Structure, or a Molecule when there is no cell. Bonds are not kept.

    Raises:
        InputError: no positions, a vertex without element, or a flat cell.
    """
    from pymatgen.core import Molecule
    from pymatgen.core import Structure as Crystal

    symbols, positions = _atoms_in_space(structure, "to_pymatgen")
    if structure.cell is None:
        charge = int(structure.charges.sum()) if structure.charges is not None else 0
        return Molecule(symbols, positions, charge=charge)
    if abs(np.linalg.det(structure.cell)) < 1e-6:
        raise InputError("to_pymatgen: expected a cell with a volume, got a flat one; correct the lattice vectors")
    return Crystal(structure.cell, symbols, positions, coords_are_cartesian=True)


def from_ase(atoms: ase.Atoms) -> Structure:
    """A Structure of ASE atoms; whole-number initial charges are read as formal charges.

    Raises:
        InputError: periodic in one or two directions only.
    """
    periodic = np.asarray(atoms.pbc)
    if periodic.any() and not periodic.all():
        raise InputError(f"from_ase: expected periodicity in no or all directions, got {periodic.tolist()}; set pbc")
    charges = atoms.get_initial_charges()
    whole = charges.any() and np.array_equal(charges, np.round(charges))
    return Structure(
        atoms.numbers,
        positions=atoms.positions,
        cell=np.asarray(atoms.cell) if periodic.all() else None,
        charges=charges.astype(np.int64) if whole else None,
        info=dict(atoms.info),
    )


def to_ase(structure: Structure) -> ase.Atoms:
    """ASE atoms: cell rows, periodic in all directions if there is a cell. Bonds are not kept.

    Raises:
        InputError: no positions or a vertex without element.
    """
    from ase import Atoms

    _, positions = _atoms_in_space(structure, "to_ase")
    cell = structure.cell
    return Atoms(
        structure.numbers, positions=positions, cell=cell, pbc=cell is not None, charges=structure.charges, info=dict(structure.info)
    )


def from_networkx(graph: networkx.Graph) -> Structure:
    """A Structure of an undirected simple graph; vertices in the order of `graph.nodes`.

    Read if present: node attributes `number` (0 = no element), `charge`, `hydrogens`, edge attribute `order` (1).

    Raises:
        InputError: directed edges, parallel edges or loops.
    """
    if graph.is_directed() or graph.is_multigraph():
        raise InputError(f"from_networkx: expected an undirected simple graph, got {type(graph).__name__}; convert it to networkx.Graph")
    index = {node: k for k, node in enumerate(graph.nodes)}
    bonds = [(index[a], index[b], order) for a, b, order in graph.edges(data="order", default=1)]
    if any(i == j for i, j, _ in bonds):
        raise InputError("from_networkx: expected no loops, got an edge from a vertex to itself; remove it")
    fields = {name: np.array([d.get(key, 0) for _, d in graph.nodes(data=True)], dtype=np.int64) for name, key in _NODE_ATTRIBUTES.items()}
    return Structure(
        fields["numbers"],
        bonds=np.array(bonds, dtype=np.int64).reshape(-1, 3),
        charges=fields["charges"] if fields["charges"].any() else None,
        hydrogens=fields["hydrogens"] if fields["hydrogens"].any() else None,
    )


def to_networkx(structure: Structure) -> networkx.Graph:
    """A graph with vertices 0 … n−1. Molecules carry `number`, `symbol`, `charge`, `hydrogens` and `order`; plain graphs nothing.

    Raises:
        InputError: bonds unknown.
    """
    import networkx as nx

    if structure.bonds is None:
        raise InputError("to_networkx: expected bonds, got none; perceive them first (sciar.bonds.perceive_bonds)")
    graph = nx.Graph()
    graph.add_nodes_from(range(structure.n_atoms))
    plain = not structure.numbers.any()
    if plain:
        graph.add_edges_from(structure.bonds[:, :2].tolist())
        return graph
    for name, key in _NODE_ATTRIBUTES.items():
        value = getattr(structure, name)
        if value is not None:
            nx.set_node_attributes(graph, dict(enumerate(value.tolist())), key)
    nx.set_node_attributes(graph, {k: SYMBOLS[z] for k, z in enumerate(structure.numbers)}, "symbol")
    graph.add_edges_from((i, j, {"order": order}) for i, j, order in structure.bonds.tolist())
    return graph


_NODE_ATTRIBUTES = {"numbers": "number", "charges": "charge", "hydrogens": "hydrogens"}


def _reason(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__


def log_reason(messages: str) -> str:
    """The first line of RDKit's log without its time stamp."""
    first = next((line for line in messages.splitlines() if line.strip()), "")
    return first.split("] ", 1)[-1].split(" for input:")[0].split(" while parsing:")[0].strip().rstrip(".")


def _conformer_positions(mol: Chem.Mol, conformer: int | None) -> np.ndarray | None:
    if conformer is None or not mol.GetNumConformers():
        if conformer not in (None, -1):
            raise InputError(f"from_rdkit: expected the id of a conformer, got {conformer} for a molecule without any; embed it first")
        return None
    try:
        chosen = mol.GetConformer(conformer)
    except ValueError:
        ids = [c.GetId() for c in mol.GetConformers()]
        raise InputError(f"from_rdkit: expected one of the conformer ids {ids[:5]}, got {conformer}; choose one") from None
    return np.array(chosen.GetPositions()) if chosen.Is3D() else None


def _conformer(positions: np.ndarray | None) -> Chem.Conformer:
    from rdkit import Chem

    assert positions is not None
    conformer = Chem.Conformer(len(positions))
    conformer.Set3D(True)
    if len(positions):
        conformer.SetPositions(np.array(positions))
    return conformer


def _bond_rows(bonds: Sequence[Chem.Bond], numbers: Sequence[int]) -> list[tuple[int, int, int]]:
    from rdkit.Chem import BondStereo, BondType

    orders = {BondType.SINGLE: 1, BondType.DOUBLE: 2, BondType.TRIPLE: 3}
    axes = (BondStereo.STEREOATROPCW, BondStereo.STEREOATROPCCW)
    rows = []
    for bond in bonds:
        i, j, kind = bond.GetBeginAtomIdx(), bond.GetEndAtomIdx(), bond.GetBondType()
        ends = (numbers[i], numbers[j])
        if kind not in orders or not COVALENT.issuperset(ends) or bond.GetStereo() in axes:
            _refuse(kind.name.lower() if kind not in orders else "", f"{SYMBOLS[ends[0]]}{i}-{SYMBOLS[ends[1]]}{j}", ends)
        rows.append((i, j, orders[kind]))
    return rows


def _refuse(kind: str, bond: str, ends: tuple[int, int]) -> None:
    if kind:
        raise InputError(f"from_rdkit: expected single, double or triple bonds, got a {kind} bond {bond}; not supported")
    if not COVALENT.issuperset(ends):
        raise InputError(f"from_rdkit: expected bonds between non-metals, got a bond {bond}; metal complexes are not supported")
    raise InputError(f"from_rdkit: expected tetrahedral or cis/trans marks, got an axis {bond}; remove its mark")


def _atoms_in_space(structure: Structure, where: str) -> tuple[list[str], np.ndarray]:
    if structure.positions is None:
        raise InputError(f"{where}: expected positions, got none; embed the molecule or draw a conformer first")
    if not structure.numbers.all():
        raise InputError(f"{where}: expected elements, got a vertex without one; plain graphs go to to_networkx")
    return [SYMBOLS[z] for z in structure.numbers], structure.positions
