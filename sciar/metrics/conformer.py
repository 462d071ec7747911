"""Conformers against reference geometries: symmetry-aware RMSD, coverage, stereo and internal coordinates.

All functions take the molecule as an RDKit Mol with explicit hydrogens and the coordinates as plain arrays in
its atom order, so that any method's output can be judged.
"""

from __future__ import annotations

import itertools
import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int

from sciar.metrics.distance import weighted_wasserstein

if TYPE_CHECKING:
    from rdkit.Chem import Mol

MAX_MAPS = 2000  # symmetry maps of one molecule; three phenyls, two tert-butyls and a carboxylate are 576
_TERMINAL = "[O,N;D1;$([O,N;D1]-[*]=[O,N;D1]),$([O,N;D1]=[*]-[O,N;D1])]~[*]"  # as in RDKit's AlignMolecules.cpp


@dataclass(frozen=True, slots=True, eq=False)
class Symmetry:
    """Which heavy atoms may be exchanged.

    Args:
        maps: row k sends heavy atom maps[0, i] to maps[k, i] (indices into the whole molecule); row 0 is the identity.
        complete: False when the molecule has more maps than were kept: RMSDs are then upper bounds.
    """

    maps: Int[np.ndarray, "k h"]
    complete: bool


def symmetry(mol: Mol, max_maps: int = MAX_MAPS, resonance: bool = True) -> Symmetry:
    """Automorphisms of the heavy-atom graph, stereo marks ignored.

    Args:
        mol: the molecule.
        max_maps: at most so many are kept.
        resonance: the two ends of a carboxylate, nitro, amidine … are equal.

    Source: RDKit `rdMolAlign.GetBestRMS` with its default `symmetrizeConjugatedTerminalGroups=True`, hydrogens removed.
    """
    from rdkit import Chem

    heavy = np.array([a.GetIdx() for a in mol.GetAtoms() if a.GetAtomicNum() > 1], dtype=np.int64)
    if not len(heavy):
        return Symmetry(np.arange(mol.GetNumAtoms())[None], True)
    bare = Chem.RWMol(Chem.RemoveAllHs(mol, sanitize=False))
    bare.UpdatePropertyCache(strict=False)
    for end, centre in bare.GetSubstructMatches(Chem.MolFromSmarts(_TERMINAL), maxMatches=10_000) if resonance else ():
        bare.GetAtomWithIdx(end).SetFormalCharge(0)
        bond = bare.GetBondBetweenAtoms(end, centre)
        bond.SetBondType(Chem.BondType.SINGLE)
        bond.SetIsAromatic(False)
    found = bare.GetSubstructMatches(bare, uniquify=False, useChirality=False, maxMatches=max_maps + 1)
    order = np.array([np.arange(len(heavy)), *(m for m in found if m != tuple(range(len(heavy))))], dtype=np.int64)
    return Symmetry(heavy[order[:max_maps]], len(found) <= max_maps)


def rmsd(
    references: Float[np.ndarray, "r n 3"], draws: Float[np.ndarray, "d n 3"], sym: Symmetry, seconds: float = 20.0
) -> Float[np.ndarray, "r d"]:
    """Smallest heavy-atom RMSD over rotations, translations and symmetry maps, in Å, of all pairs.

    min_{R, t, p} sqrt(1/h Σ_i |a_i − R b_p(i) − t|²), R proper (a mirror image is another molecule).

    Args:
        references: coordinates in Å.
        draws: coordinates in Å.
        sym: which atoms count and may be exchanged.
        seconds: after this long the maps not yet tried are left out (the result is an upper bound).

    Source: Kabsch 1976; the optimum needs only the singular values of the 3×3 correlation.
    """
    references, draws = np.asarray(references, dtype=float), np.asarray(draws, dtype=float)
    base = sym.maps[0]
    h = len(base)
    a = references[:, base] - references[:, base].mean(axis=1, keepdims=True)
    b = draws[:, base] - draws[:, base].mean(axis=1, keepdims=True)
    place = np.full(int(base.max()) + 1, -1)
    place[base] = np.arange(h)
    maps = place[sym.maps]
    norms = (a**2).sum(axis=(1, 2))[:, None] + (b**2).sum(axis=(1, 2))[None]
    best = np.full((len(a), len(b)), -np.inf)
    if not best.size:
        return np.zeros(best.shape)
    chunk = max(1, 100_000 // best.size)
    stop = time.monotonic() + seconds
    for start in range(0, len(maps), chunk):
        correlation = np.einsum("rik,dmil->rdmkl", a, b[:, maps[start : start + chunk]], optimize=True)
        s = np.linalg.svd(correlation, compute_uv=False)
        s[..., 2] *= np.where(np.linalg.det(correlation) < 0, -1.0, 1.0)
        best = np.maximum(best, s.sum(axis=-1).max(axis=-1))
        if time.monotonic() > stop:
            break
    return np.sqrt(np.maximum(norms - 2 * best, 0.0) / h)


def coverage(matrix: Float[np.ndarray, "r d"], threshold: float) -> dict[str, float]:
    """Recall and precision of a set of draws, from the RMSD of each reference to each draw.

    COV-R: share of references with a draw within `threshold`; AMR-R: mean over references of the smallest RMSD
    to a draw; COV-P and AMR-P: the same with the roles exchanged. Without draws: COV 0, AMR nan.

    Args:
        matrix: RMSD in Å, references × draws.
        threshold: in Å; 0.5 is usual for QM9, 0.75 for GEOM-DRUGS.

    Source: Ganea et al. 2021 (GeoMol), eqs. 6–7; Jing et al. 2022 (torsional diffusion), section 4.
    """
    if not matrix.shape[1]:
        return {"cov_recall": 0.0, "amr_recall": float("nan"), "cov_precision": 0.0, "amr_precision": float("nan")}
    recall, precision = matrix.min(axis=1), matrix.min(axis=0)
    return {
        "cov_recall": float((recall < threshold).mean()),
        "amr_recall": float(recall.mean()),
        "cov_precision": float((precision < threshold).mean()),
        "amr_precision": float(precision.mean()),
    }


def stereo_kept(mol: Mol, positions: Float[np.ndarray, "n 3"]) -> bool:
    """Do the coordinates have the chirality and the E/Z arrangement that the molecule's marks ask for?

    A marked centre must have the sign of its signed volume, a marked double bond the sign of cos(torsion), after
    exchanging equivalent atoms if need be: in cis-1,3-dimethylcyclobutane only the relation of the two centres has a
    meaning, not either sign. Unmarked centres are free.

    Args:
        mol: with explicit hydrogens (a stereo centre's hydrogens must be atoms).
        positions: Å, in the molecule's atom order.
    """
    x = np.asarray(positions, dtype=float)
    if _marks_kept(mol, x):
        return True
    sym = symmetry(mol, resonance=False)
    hydrogens = [[n.GetIdx() for n in a.GetNeighbors() if n.GetAtomicNum() == 1] for a in mol.GetAtoms()]
    for row in sym.maps[1:]:
        relabelled = np.arange(mol.GetNumAtoms())
        relabelled[sym.maps[0]] = row
        pairs = list(zip(sym.maps[0], row, strict=True))
        if all(len(hydrogens[i]) == len(hydrogens[j]) for i, j in pairs):
            for i, j in pairs:
                relabelled[hydrogens[i]] = hydrogens[j]
            if _marks_kept(mol, x[relabelled]):
                return True
    return False


def _marks_kept(mol: Mol, x: Float[np.ndarray, "n 3"]) -> bool:
    from rdkit import Chem

    signs = {Chem.ChiralType.CHI_TETRAHEDRAL_CCW: 1.0, Chem.ChiralType.CHI_TETRAHEDRAL_CW: -1.0}
    for atom in mol.GetAtoms():
        sign = signs.get(atom.GetChiralTag())
        ends = [bond.GetOtherAtomIdx(atom.GetIdx()) for bond in atom.GetBonds()]
        if sign is None or len(ends) not in (3, 4):
            continue
        # CCW: seen from the first neighbour the others run counter-clockwise, so p · (q × r) > 0
        p, q, r = (x[ends[k]] - x[atom.GetIdx()] for k in (0, 1, 2))
        if sign * np.dot(p, np.cross(q, r)) <= 0:
            return False
    for bond in mol.GetBonds():
        ends, stereo = list(bond.GetStereoAtoms()), bond.GetStereo()
        cis = stereo in (Chem.BondStereo.STEREOZ, Chem.BondStereo.STEREOCIS)
        trans = stereo in (Chem.BondStereo.STEREOE, Chem.BondStereo.STEREOTRANS)
        if len(ends) == 2 and (cis or trans):
            row = np.array([[ends[0], bond.GetBeginAtomIdx(), bond.GetEndAtomIdx(), ends[1]]])
            if (np.cos(_torsions(x[None], row)[0, 0]) > 0) != cis:
                return False
    return True


Internals = dict[str, dict[object, np.ndarray]]


def internals(items: Iterable[tuple[Mol, Float[np.ndarray, "k n 3"]]]) -> Internals:
    """Bond lengths (Å), angles and |torsions| (degrees), by kind, over molecules and their conformers.

    Kinds: bond (elements, order: 1.5 = aromatic); angle (element, centre, element); torsion about a bond between
    heavy atoms, ends heavy (elements and order of the middle bond). A torsion counts without sign: mirror images
    of an achiral molecule are equally good.

    Args:
        items: pairs of a molecule and the coordinates of its conformers.
    """
    values: dict[str, dict[object, list[np.ndarray]]] = {n: defaultdict(list) for n in ("bond", "angle", "torsion")}
    for mol, conformers in items:
        x = np.asarray(conformers, dtype=float)
        if not len(x):
            continue
        z = [a.GetAtomicNum() for a in mol.GetAtoms()]
        near = [[n.GetIdx() for n in a.GetNeighbors()] for a in mol.GetAtoms()]
        rows: dict[str, list[tuple[object, tuple[int, ...]]]] = {"bond": [], "angle": [], "torsion": []}
        for bond in mol.GetBonds():
            i, j = bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()
            kind = (*sorted((z[i], z[j])), bond.GetBondTypeAsDouble())
            rows["bond"].append((kind, (i, j)))
            for a, b in itertools.product(near[i], near[j]):
                if a not in (j, b) and b != i and min(z[a], z[i], z[j], z[b]) > 1:
                    rows["torsion"].append((kind, (a, i, j, b)))
        for c, ends in enumerate(near):
            for a, b in itertools.combinations(ends, 2):
                low, high = sorted((z[a], z[b]))
                rows["angle"].append(((low, z[c], high), (a, c, b)))
        for name, measure in (("bond", _lengths), ("angle", _angles), ("torsion", _torsions)):
            if not rows[name]:
                continue
            measured = measure(x, np.array([r for _, r in rows[name]]))
            if name != "bond":
                measured = np.degrees(np.abs(measured))
            for (label, _), column in zip(rows[name], measured.T, strict=True):
                values[name][label].append(column)
    return {name: {k: np.concatenate(v) for k, v in kinds.items()} for name, kinds in values.items()}


def internal_distances(reference: Internals, samples: Internals) -> dict[str, float]:
    """Wasserstein-1 distance of each kind's distribution, averaged with the reference's weights.

    Args:
        reference: from `internals`.
        samples: of the same molecules.

    Returns:
        bond_w1 in Å, angle_w1 and torsion_w1 in degrees; nan where the reference has fewer than ten values of every kind.
    """
    return {f"{name}_w1": weighted_wasserstein(kinds, samples[name]) for name, kinds in reference.items()}


def diverse(matrix: Float[np.ndarray, "k k"], n: int) -> Int[np.ndarray, "n"]:
    """Indices of n far-apart members: start at the first, then always the one farthest from those chosen.

    Args:
        matrix: distances between all pairs.
        n: how many; all of them if there are not more.
    """
    chosen = [0] if len(matrix) else []
    while len(chosen) < min(n, len(matrix)):
        nearest = matrix[:, chosen].min(axis=1)
        nearest[chosen] = -1.0
        chosen.append(int(nearest.argmax()))
    return np.array(chosen, dtype=np.int64)


def _lengths(x: np.ndarray, rows: np.ndarray) -> np.ndarray:
    return np.linalg.norm(x[:, rows[:, 0]] - x[:, rows[:, 1]], axis=-1)


def _angles(x: np.ndarray, rows: np.ndarray) -> np.ndarray:
    u, v = x[:, rows[:, 0]] - x[:, rows[:, 1]], x[:, rows[:, 2]] - x[:, rows[:, 1]]
    return np.arctan2(np.linalg.norm(np.cross(u, v), axis=-1), (u * v).sum(axis=-1))


def _torsions(x: np.ndarray, rows: np.ndarray) -> np.ndarray:
    a, i, j, b = (x[:, rows[:, k]] for k in range(4))
    u, v, w = i - a, j - i, b - j
    first, second = np.cross(u, v), np.cross(v, w)
    y = np.linalg.norm(v, axis=-1) * (u * second).sum(axis=-1)
    return np.arctan2(y, (first * second).sum(axis=-1))
