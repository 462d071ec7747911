"""Held-out records that share a scaffold, a formula or nothing but chance with no training record."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable

import numpy as np
from jaxtyping import Bool

from sciar.errors import InputError
from sciar.structure import Structure


def held_out(structures: Iterable[Structure], count: int, by: str, seed: int = 0) -> Bool[np.ndarray, "n"]:
    """About `count` of n records, whole groups of them; a function of the records and the seed alone.

    Args:
        structures: molecules, crystals or graphs.
        by: "scaffold": one Bemis–Murcko scaffold, or one molecule where there is no ring. "formula": one reduced formula, so that
            polymorphs and isomers stay together. "random": one identity (see `identity`), so that repeats stay together.

    Raises:
        InputError: another word for `by`, or a scaffold of something that is no molecule.
    """
    if by not in GROUPS:
        raise InputError(f"split: expected {', '.join(GROUPS)}, got {by!r}")
    names = np.array([GROUPS[by](structure) for structure in structures])
    sizes = Counter(names.tolist())
    chosen: set[str] = set()
    taken = 0
    for name in sorted(sizes, key=lambda name: hashlib.blake2b(f"{seed}:{name}".encode()).digest()):
        if taken + sizes[name] <= count:  # a group larger than what is wanted is for training
            chosen.add(name)
            taken += sizes[name]
    return np.isin(names, sorted(chosen))


def identity(structure: Structure) -> str:
    """Equal for records that are the same thing: canonical SMILES, formula and space group, or a hash of a graph's neighbourhoods."""
    if structure.cell is not None:
        from sciar.lattice import space_group

        return f"{formula(structure)} {space_group(structure)}"
    if not structure.numbers.all():
        from sciar.metrics.graph import fingerprint

        return fingerprint(structure.adjacency() > 0)
    from rdkit import Chem

    from sciar.convert import to_rdkit

    return str(Chem.MolToSmiles(Chem.RemoveHs(to_rdkit(structure), sanitize=False)))


def formula(structure: Structure) -> str:
    """Counts of the elements without common factor."""
    kinds, counts = np.unique(structure.numbers, return_counts=True)
    return " ".join(f"{z}:{n}" for z, n in zip(kinds, counts // np.gcd.reduce(counts), strict=True))


def scaffold(structure: Structure) -> str:
    """Bemis–Murcko scaffold with the molecule's own SMILES where it has no ring.

    Raises:
        InputError: a crystal or a plain graph.
    """
    if structure.cell is not None or not structure.numbers.all() or structure.bonds is None:
        raise InputError("split: expected molecules with bonds for a scaffold split, got something else; use split='formula' or 'random'")
    from rdkit.Chem.Scaffolds import MurckoScaffold

    from sciar.convert import to_rdkit

    return str(MurckoScaffold.MurckoScaffoldSmiles(mol=to_rdkit(structure))) or identity(structure)


GROUPS: dict[str, Callable[[Structure], str]] = {"scaffold": scaffold, "formula": formula, "random": identity}
