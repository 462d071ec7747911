"""How far two sets of labelled graphs lie apart by the neighbourhood subgraph pairwise distance kernel (NSPDK).

A feature is two nodes at a distance of at most four edges and what lies around both within the same radius, at most four edges. It is
named by a 64-bit hash and never by a bucket, so features do not collide. The kernel is linear in them, so the discrepancy is the squared
distance of the two mean feature vectors and no kernel matrix is made.

Source: Costa & De Grave 2010; radius, distance, half features and the two normalisations as in EDeN with complexity 4, which GDSS and its
descendants take.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int, UInt64

from sciar.structure import Structure

if TYPE_CHECKING:
    from rdkit.Chem import Mol
    from scipy.sparse import csr_array

COMPLEXITY = 4  # largest radius and largest distance, in edges
Labelled = tuple[Int[np.ndarray, "n"], Int[np.ndarray, "m 3"]]
"""Labels of the nodes; edges (i, j, label), each once."""


@dataclass(frozen=True, slots=True, eq=False)
class Features:
    """Mean feature vector of a set of graphs.

    Args:
        n: graphs.
        names: hashes of the features that occur, ascending.
        values: their means.
    """

    n: int
    names: UInt64[np.ndarray, "k"]
    values: Float[np.ndarray, "k"]


def nspdk(samples: Sequence[Labelled] | Features, reference: Sequence[Labelled] | Features) -> float:
    """Squared maximum mean discrepancy (biased) of two sets under the normalised kernel; nan if one is empty.

    >>> ethane, ethene = [(np.array([6, 6]), np.array([[0, 1, order]])) for order in (1, 2)]
    >>> round(nspdk([ethane], [ethene]), 6)  # of four blocks the two of radius 0 do not see the bond: k = ½
    1.0
    """
    ours, theirs = (side if isinstance(side, Features) else features(side) for side in (samples, reference))
    if not ours.n or not theirs.n:
        return float("nan")
    _, difference = _summed(np.concatenate([ours.names, theirs.names]), np.concatenate([ours.values, -theirs.values]))
    return float(difference @ difference)


def features(graphs: Sequence[Labelled], at_once: int = 1000) -> Features:
    """Mean feature vector of the graphs that have a node, `at_once` of them in memory."""
    graphs = [graph for graph in graphs if len(graph[0])]
    parts = [_total(graphs[start : start + at_once]) for start in range(0, len(graphs), at_once)]
    if not parts:
        return Features(0, np.zeros(0, np.uint64), np.zeros(0))
    names, values = _summed(*(np.concatenate(column) for column in zip(*parts, strict=True)))
    return Features(len(graphs), names, values / len(graphs))


def by_bonds(structure: Structure | None) -> Labelled | None:
    """Heavy atoms and their bonds as `by_smiles` has them; None without bonds or heavy atoms.

    It need not be a sound molecule: RDKit looks for aromatic rings whatever the valences are.
    """
    from rdkit import Chem, rdBase

    from sciar.convert import to_rdkit

    if structure is None or structure.bonds is None or not (structure.numbers != 1).any():
        return None
    mol = to_rdkit(structure, sanitize=False)
    with rdBase.BlockLogs():
        mol.UpdatePropertyCache(strict=False)
        Chem.GetSymmSSSR(mol)
        Chem.SetAromaticity(mol)
    return _heavy(mol)


def by_smiles(smiles: str) -> Labelled | None:
    """Elements of the heavy atoms and orders of their bonds, 1 for an aromatic one (GDSS); None when RDKit cannot read it."""
    from rdkit import Chem, rdBase

    with rdBase.BlockLogs():
        mol = Chem.MolFromSmiles(smiles)
    return None if mol is None else _heavy(mol)


def _heavy(mol: Mol) -> Labelled:
    numbers = np.array([atom.GetAtomicNum() for atom in mol.GetAtoms()], dtype=np.int64)
    bonds = [(bond.GetBeginAtomIdx(), bond.GetEndAtomIdx(), int(bond.GetBondTypeAsDouble())) for bond in mol.GetBonds()]
    edges, heavy = np.array(bonds, dtype=np.int64).reshape(-1, 3), numbers != 1
    edges = edges[heavy[edges[:, :2]].all(1)]
    edges[:, :2] = (np.cumsum(heavy) - 1)[edges[:, :2]]
    return numbers[heavy], edges


def _total(graphs: Sequence[Labelled]) -> tuple[np.ndarray, np.ndarray]:
    """Names and sums of the feature vectors. A vector has a block for each radius and distance; each block there is has the same length."""
    from scipy.sparse import csr_array

    sizes = np.array([len(labels) for labels, _ in graphs])
    owner = np.repeat(np.arange(len(graphs)), sizes)
    layers, balls, reached = _neighbourhoods(graphs, sizes)
    blocks = []
    for distance, layer in enumerate(layers):
        first, second = np.repeat(np.arange(len(owner)), np.diff(layer.indptr)), layer.indices
        for radius in range(COMPLEXITY + 1):
            both = reached[radius][first] & reached[radius][second]
            a, b = balls[radius][first[both]], balls[radius][second[both]]
            pair = _hash(np.minimum(a, b), np.maximum(a, b), radius, distance)
            half = _hash(b, radius, distance)  # the context of the first node, whatever is around it
            names, column = np.unique(np.concatenate([pair, half]), return_inverse=True)
            row = np.tile(owner[first[both]], 2)
            block = csr_array((np.ones(len(row)), (row, column)), shape=(len(graphs), len(names)))
            length = np.sqrt(block.multiply(block).sum(1))
            block.data /= np.repeat(length, np.diff(block.indptr))
            blocks.append((names, block, length > 0))
    scale = 1 / np.sqrt(np.sum([there for _, _, there in blocks], 0))
    return _summed(np.concatenate([names for names, _, _ in blocks]), np.concatenate([block.T @ scale for _, block, _ in blocks]))


def _neighbourhoods(graphs: Sequence[Labelled], sizes: np.ndarray) -> tuple[list[csr_array], list[np.ndarray], list[np.ndarray]]:
    """Of all nodes of all graphs, for 0 … COMPLEXITY edges: which nodes are that far, a hash of all within, whether anything is that far.

    The search goes from nodes to edges and back: an edge's label lies half a step beyond the nearer of its nodes. All that is found at one
    depth is hashed as a set with repeats, each by its label and its degree.
    """
    from scipy.sparse import csr_array, eye_array

    labels = np.concatenate([labels for labels, _ in graphs])
    starts = np.cumsum(sizes) - sizes
    edges = np.concatenate([edges[:, :2] + start for (_, edges), start in zip(graphs, starts, strict=True)])
    kinds = np.concatenate([edges[:, 2] for _, edges in graphs])
    ends = csr_array((np.ones(2 * len(edges), np.int32), (edges.T.ravel(), np.tile(np.arange(len(edges)), 2))), (len(labels), len(edges)))
    content = (_hash(labels, np.diff(ends.indptr)), _hash(kinds, 2, 0))
    step = (ends, csr_array(ends.T))
    layer, before = csr_array(eye_array(len(labels), dtype=np.int32)), None
    ball = np.zeros(len(labels), np.uint64)
    layers, balls, reached = [], [], []
    for depth in range(2 * COMPLEXITY + 1):
        sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(content[depth % 2][layer.indices])])
        ball = _hash(ball, sums[layer.indptr[1:]] - sums[layer.indptr[:-1]])
        if depth % 2 == 0:
            layers.append(layer)
            balls.append(ball)
            reached.append(np.diff(layer.indptr) > 0)
        further = layer @ step[depth % 2]
        further.data[:] = 1
        if before is not None:
            further = csr_array(further - further.multiply(before))
            further.eliminate_zeros()
        layer, before = further, layer
    return layers, balls, reached


def _summed(names: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each name once, with the sum of its values."""
    names, place = np.unique(names, return_inverse=True)
    return names, np.bincount(place, values, len(names))


def _hash(*parts: np.ndarray | int) -> UInt64[np.ndarray, "n"]:
    """A number for each row of the parts; those of other rows are other ones, but for chances of 2^-64 (splitmix64's finaliser)."""
    out = np.full(len(np.atleast_1d(parts[0])), len(parts), dtype=np.uint64)
    for part in parts:
        out = (out ^ np.asarray(part).astype(np.uint64)) + np.uint64(0x9E3779B97F4A7C15)
        out = (out ^ (out >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        out = (out ^ (out >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        out ^= out >> np.uint64(31)
    return out
