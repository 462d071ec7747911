"""The metrics of the MOSES benchmark, for lists of SMILES.

Validity comes first, of everything that was drawn; the rest looks at the valid ones, canonical, repeats included. FCD is in fcd.py.

Source: Polykovskiy et al., Front. Pharmacol. 11 (2020) 565644; definitions and parameters as in its package `molsets` 0.3.1.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from sciar.errors import InputError

BITS, RADIUS = 1024, 2
ATOMS = frozenset("C N S O F Cl Br H".split())
LARGEST_RING = 7
PROPERTIES = ("logP", "SA", "QED", "weight")

# medicinal chemistry filters of MOSES (MIT licence), matched with explicit hydrogens; its PAINS filters are those of RDKit
MCF = (
    "[#6]=&!@[#6]-[#6]#[#7]",
    "[#6]=&!@[#6]-[#16](=[#8])=[#8]",
    "[#6]=&!@[#6&!H0]-&!@[#6](=[#8])-&!@[#7]",
    "[H]C([H])([#6])[F,Cl,Br,I]",
    "[#6]1-[#8]-[#6]-1",
    "[#6]-[#7]=[#6]=[#8]",
    "[#6&!H0]=[#8]",
    "[#6](=&!@[#7&!H0])-&!@[#6,#7,#8,#16]",
    "[#6]1-[#7]-[#6]-1",
    "[#6]~&!@[#7]~&!@[#7]~&!@[#6]",
    "[#7]=&!@[#7]",
    "[H][#6]-1=[#6]([H])-[#6]=[#6](-*)-[#8]-1",
    "[H][#6]-1=[#6]([H])-[#6]=[#6](-*)-[#16]-1",
    "[#17,#35,#53]-c(:*):[!#1!#6]:*",
    "[H][#7]([H])-[#6]-1=[#6]-[#6]=[#6]-[#6]=[#6]-1",
    "[#16]~[#16]",
    "[#7]~&!@[#7]~&!@[#7]",
    "[#7]-&!@[#6&!H0&!H1]-&!@[#7]",
    "[#6&!H0](-&!@[#8])-&!@[#8]",
    "[#35].[#35].[#35]",
    "[#17].[#17].[#17].[#17]",
    "[#9].[#9].[#9].[#9].[#9].[#9].[#9]",
)


@dataclass(frozen=True, slots=True, eq=False)
class Profile:
    """What the metrics need of a set of valid molecules.

    Args:
        fingerprints: Morgan bits, packed.
        fragments, scaffolds: how often each BRICS fragment and each Murcko scaffold with at least two rings occurs.
        values: one row of PROPERTIES per molecule.
    """

    fingerprints: Int[np.ndarray, "n 128"]
    fragments: Mapping[str, int]
    scaffolds: Mapping[str, int]
    values: Float[np.ndarray, "n 4"]


def profile(smiles: Sequence[str], processes: int | None = None) -> Profile:
    """The profile of valid SMILES.

    Args:
        smiles: canonical and valid.
        processes: None = one per processor.

    Raises:
        InputError: no molecules, or one that RDKit cannot read.
    """
    if not smiles:
        raise InputError("moses: expected at least one valid molecule, got none")
    facts = list(_mapped(_facts, smiles, processes))
    if any(fact is None for fact in facts):
        raise InputError("moses: expected valid SMILES, got one that RDKit cannot read; take those of `judged`")
    bits, fragments, scaffolds, values = zip(*facts, strict=True)
    counted: Counter[str] = Counter(part for parts in fragments for part in parts)
    return Profile(np.stack(bits), counted, Counter(s for s in scaffolds if s), np.array(values))


def judged(samples: Sequence[str | None], processes: int | None = None) -> tuple[list[str | None], np.ndarray]:
    """Canonical SMILES of each sample, None where RDKit refuses it, and which of them pass the filters."""
    found = list(_mapped(_judged, samples, processes))
    return [text for text, _ in found], np.array([passed for _, passed in found], dtype=bool)


def metrics(
    canonical: Sequence[str | None],
    passed: np.ndarray,
    train: Set[str],
    own: Profile,
    references: Mapping[str, Profile],
) -> dict[str, float]:
    """Shares between 0 and 1, and the distances to each reference, named "metric/reference".

    - `valid`: of everything drawn. `unique@1000`, `unique@10000`: different ones among the first valid ones.
    - `novel`: of the different ones, not in `train`. `filters`: of the valid ones.
    - `IntDiv`, `IntDiv2`: 1 - mean over molecules of (mean_j T_ij^p)^(1/p), p = 1, 2.
    - `SNN`: mean similarity to the nearest reference. `Frag`, `Scaf`: cosine of the counts. W1 of each of PROPERTIES.

    Args:
        canonical, passed: from `judged`.
        train: canonical SMILES of the training set.
        own: of the valid ones among `canonical`, in their order.
        references: profiles of the test sets by name.
    """
    from scipy.stats import wasserstein_distance

    there = [text for text in canonical if text is not None]
    out = {"valid": len(there) / len(canonical)}
    for k in (1000, 10000):
        out[f"unique@{k}"] = len(set(there[:k])) / min(k, len(there))
    different = set(there)
    out["novel"] = len(different - train) / len(different)
    out["filters"] = float(passed.sum()) / len(there)
    out["IntDiv"], out["IntDiv2"] = internal_diversity(own.fingerprints)
    for name, reference in references.items():
        out[f"SNN/{name}"] = nearest(own.fingerprints, reference.fingerprints)
        out[f"Frag/{name}"] = cosine(own.fragments, reference.fragments)
        out[f"Scaf/{name}"] = cosine(own.scaffolds, reference.scaffolds)
        for k, prop in enumerate(PROPERTIES):
            out[f"{prop}/{name}"] = float(wasserstein_distance(reference.values[:, k], own.values[:, k]))
    return out


def nearest(fingerprints: Int[np.ndarray, "n 128"], reference: Int[np.ndarray, "m 128"]) -> float:
    """SNN: mean over molecules of the largest Tanimoto similarity to a reference molecule."""
    best = np.zeros(len(fingerprints), dtype=np.float32)
    for rows, similarity in _similarities(fingerprints, reference):
        best[rows] = np.maximum(best[rows], similarity.max(1))
    return float(best.mean(dtype=np.float64))


def internal_diversity(fingerprints: Int[np.ndarray, "n 128"]) -> tuple[float, float]:
    """IntDiv for p = 1 and p = 2; a molecule is compared with itself too, as in MOSES."""
    first, second = np.zeros(len(fingerprints)), np.zeros(len(fingerprints))
    for rows, similarity in _similarities(fingerprints, fingerprints):
        first[rows] += similarity.sum(1, dtype=np.float64)
        second[rows] += np.square(similarity).sum(1, dtype=np.float64)
    n = len(fingerprints)
    return float(1 - (first / n).mean()), float(1 - np.sqrt(second / n).mean())


def cosine(counts: Mapping[str, int], reference: Mapping[str, int]) -> float:
    """Cosine of two count vectors; nan when one is empty.

    >>> round(cosine({"a": 1, "b": 1}, {"a": 2}), 4)
    0.7071
    """
    norms = [float(np.sqrt(sum(float(v) ** 2 for v in c.values()))) for c in (counts, reference)]
    if not all(norms):
        return float("nan")
    return float(sum(float(v) * reference.get(key, 0) for key, v in counts.items())) / (norms[0] * norms[1])


def passes(mol: Any) -> bool:
    """MOSES' filters: no ring of eight, no charge, known elements, no medicinal chemistry or PAINS alert, at least readable again."""
    from rdkit import Chem

    if any(len(ring) > LARGEST_RING for ring in mol.GetRingInfo().AtomRings()):
        return False
    if any(atom.GetFormalCharge() or atom.GetSymbol() not in ATOMS for atom in mol.GetAtoms()):
        return False
    with_hydrogens = Chem.AddHs(mol)
    alerts, pains = _alerts()
    if any(with_hydrogens.HasSubstructMatch(alert) for alert in alerts) or pains.HasMatch(mol):
        return False
    text = Chem.MolToSmiles(mol)
    return bool(text) and Chem.MolFromSmiles(text) is not None


@lru_cache(maxsize=1)
def _alerts() -> tuple[list[Any], Any]:
    from rdkit import Chem
    from rdkit.Chem.FilterCatalog import FilterCatalog, FilterCatalogParams

    parameters = FilterCatalogParams()
    parameters.AddCatalog(FilterCatalogParams.FilterCatalogs.PAINS)
    return [Chem.MolFromSmarts(smarts) for smarts in MCF], FilterCatalog(parameters)


def _judged(text: str | None) -> tuple[str | None, bool]:
    from rdkit import Chem, rdBase

    with rdBase.BlockLogs():
        mol = Chem.MolFromSmiles(text) if text else None
        if mol is None:
            return None, False
        return Chem.MolToSmiles(mol), passes(mol)


def _facts(text: str) -> tuple[np.ndarray, list[str], str, list[float]] | None:
    from rdkit import Chem, rdBase
    from rdkit.Chem import BRICS, QED, Crippen, Descriptors, rdFingerprintGenerator
    from rdkit.Chem.Scaffolds import MurckoScaffold
    from rdkit.Contrib.SA_Score import sascorer

    with rdBase.BlockLogs():
        mol = Chem.MolFromSmiles(text)
        if mol is None:
            return None
        bits = rdFingerprintGenerator.GetMorganGenerator(radius=RADIUS, fpSize=BITS).GetFingerprintAsNumPy(mol)
        fragments = Chem.MolToSmiles(BRICS.BreakBRICSBonds(mol)).split(".")
        scaffold = MurckoScaffold.GetScaffoldForMol(mol)
        named = Chem.MolToSmiles(scaffold) if len(Chem.GetSSSR(scaffold)) >= 2 else ""
        values = [Crippen.MolLogP(mol), sascorer.calculateScore(mol), QED.qed(mol), Descriptors.MolWt(mol)]
    return np.packbits(bits), fragments, named, values


def _similarities(a: np.ndarray, b: np.ndarray, rows: int = 1024, columns: int = 16384) -> Iterable[tuple[slice, np.ndarray]]:
    """Blocks of the Tanimoto matrix."""
    counts = [np.unpackbits(side, axis=1).sum(1, dtype=np.float32) for side in (a, b)]
    for j in range(0, len(b), columns):
        right = np.unpackbits(b[j : j + columns], axis=1).astype(np.float32)
        for i in range(0, len(a), rows):
            common = np.unpackbits(a[i : i + rows], axis=1).astype(np.float32) @ right.T
            union = counts[0][i : i + rows, None] + counts[1][None, j : j + columns] - common
            yield slice(i, i + rows), np.divide(common, union, out=np.zeros_like(common), where=union > 0)


def _mapped(function: Callable[[Any], Any], items: Sequence[Any], processes: int | None) -> Iterable[Any]:
    count = processes or os.cpu_count() or 1
    if count == 1 or len(items) < 2000:
        return map(function, items)
    with ProcessPoolExecutor(count) as pool:
        return list(pool.map(function, items, chunksize=500))
