"""Atoms whose positions are given: which atoms of the molecule they are, and how the answer is laid over them."""

from __future__ import annotations

import warnings

import numpy as np
from jaxtyping import Float, Int

from sciar.errors import InputError
from sciar.structure import Structure

MATCHES = 1000  # ways to lay a symmetric fragment over the molecule that are looked at


def scaffold_of(fixed: Structure) -> str:
    """SMILES of a fragment with `*` where it grows: at the atom that lacks a hydrogen, or anywhere if it has no hydrogens at all.

    Raises:
        InputError: no bonds, or hydrogens everywhere, or more than one open place.
    """
    from rdkit import Chem

    from sciar.convert import to_rdkit

    if fixed.bonds is None:
        raise InputError("fixed: expected a fragment with bonds (SDF or RDKit Mol), got positions only; write it as SDF")
    mol = Chem.RWMol(to_rdkit(fixed.replace(positions=None)))
    if (fixed.numbers == 1).any():
        missing = fixed.hydrogens if fixed.hydrogens is not None else np.zeros(fixed.n_atoms)
        places = [atom.GetIdx() for atom in mol.GetAtoms() if atom.GetNumRadicalElectrons() or missing[atom.GetIdx()]]
        if len(places) != 1:
            raise InputError(
                f"fixed: expected one atom that lacks a hydrogen, got {len(places)}; remove the hydrogen where the fragment may grow"
            )
        star = mol.AddAtom(Chem.Atom(0))
        mol.AddBond(places[0], star, Chem.BondType.SINGLE)
        mol.GetAtomWithIdx(places[0]).SetNumRadicalElectrons(0)
        mol.GetAtomWithIdx(places[0]).SetNumExplicitHs(max(0, mol.GetAtomWithIdx(places[0]).GetNumExplicitHs() - 1))
        Chem.SanitizeMol(mol)
    return Chem.MolToSmiles(Chem.RemoveHs(mol.GetMol()))


def match(graph: Structure, fixed: Structure) -> Int[np.ndarray, "m"]:
    """Which atom of `graph` each fixed atom is: same elements, bonded alike, no stereo mark contradicted.

    Raises:
        InputError: the fragment is not connected, not part of the molecule, or has the other handedness.
    """
    from rdkit import Chem

    bonds = _bonded(fixed)
    query = Chem.RWMol()
    for z in fixed.numbers.tolist():
        query.AddAtom(Chem.AtomFromSmarts(f"[#{z}]"))
    for i, j in bonds:
        query.AddBond(i, j, Chem.BondType.SINGLE)
        query.ReplaceBond(query.GetNumBonds() - 1, Chem.BondFromSmarts("~"))
    if len(Chem.GetMolFrags(query)) > 1:
        raise InputError("fixed: expected atoms that are bonded to each other, got several fragments; give one of them")
    target = Chem.RWMol()
    for z in graph.numbers.tolist():
        target.AddAtom(Chem.Atom(z))
    for i, j in graph.bonds[:, :2].tolist():  # type: ignore[index]
        target.AddBond(i, j, Chem.BondType.SINGLE)
    found = target.GetSubstructMatches(query, uniquify=False, maxMatches=MATCHES)
    if not found:
        raise InputError(f"fixed: expected a part of the molecule, got {fixed.formula}, which is not in it; check elements and bonds")
    for atoms in found:
        if not _contradicts(graph, np.array(atoms), fixed.positions):  # type: ignore[arg-type]
            return np.array(atoms)
    raise InputError("fixed: expected the handedness of the SMILES, got coordinates of its mirror image; mirror one of the two")


def laid_over(
    positions: Float[np.ndarray, "n 3"], atoms: Int[np.ndarray, "m"], given: Float[np.ndarray, "m 3"]
) -> Float[np.ndarray, "n 3"]:
    """Move the whole molecule so that `atoms` lie on `given` (Kabsch, proper rotations only), then put them exactly there."""
    from scipy.spatial.transform import Rotation

    centre, here = given.mean(0), positions[atoms].mean(0)
    moved = positions - here
    if len(atoms) > 1:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # atoms in line: the turn about the line is free
            moved = Rotation.align_vectors(given - centre, moved[atoms])[0].apply(moved)
    moved = moved + centre
    moved[atoms] = given
    return moved


def _bonded(fixed: Structure) -> list[tuple[int, int]]:
    from sciar.bonds import lookup_bonds

    rows = fixed.bonds if fixed.bonds is not None else lookup_bonds(fixed.numbers, fixed.positions)  # type: ignore[arg-type]
    return [(int(i), int(j)) for i, j in rows[:, :2]]


def _contradicts(graph: Structure, atoms: np.ndarray, given: np.ndarray) -> bool:
    """Does a stereo centre with at least three neighbours fixed have the other handedness?"""
    place = {int(atom): given[k] for k, atom in enumerate(atoms)}
    for row in graph.tetrahedral.tolist() if graph.tetrahedral is not None else []:
        around = [place.get(i) for i in row[1:]]
        held = [x for x in around if x is not None]
        if len(held) < 3 or row[0] not in place:
            continue
        opposite = 2 * place[row[0]] - np.mean(held, axis=0)  # where a neighbour that is not fixed (or a lone pair) must be
        a, b, c, d = (opposite if x is None else x for x in around)
        if np.cross(d - a, c - a) @ (b - a) < 0:
            return True
    return False
