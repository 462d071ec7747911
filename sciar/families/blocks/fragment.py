"""A scaffold as the first blocks of a graph: fixed, and open for growth only where `*` says so."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from sciar.convert import RejectedError
from sciar.errors import InputError
from sciar.families.blocks.order import peel
from sciar.families.blocks.tokens import Tokenizer, implied
from sciar.structure import SYMBOLS


@dataclass(frozen=True, slots=True)
class Piece:
    """One finished block: types and residual degrees of its s nodes, bond orders (s n) to all nodes so far."""

    kind: Int[np.ndarray, "s"]
    degree: Int[np.ndarray, "s"]
    orders: Int[np.ndarray, "s n"]


def pieces(tokenizer: Tokenizer, scaffold: str) -> tuple[list[Piece], Int[np.ndarray, "n"]]:
    """The blocks of a scaffold, and how many bonds each of its atoms may still get (-1 = any number).

    With `*` each star is one single bond to come; without, any atom with a hydrogen may grow.

    Raises:
        InputError: not one connected molecule of sound valences, or atoms these weights do not know.
    """
    from rdkit import Chem, rdBase

    shown = repr(scaffold[:80])
    with rdBase.BlockLogs():
        mol = Chem.MolFromSmiles(scaffold, sanitize=False)
        try:
            if mol is None or not mol.GetNumAtoms():
                raise ValueError("no atoms")
            Chem.SanitizeMol(mol)
            Chem.Kekulize(mol, clearAromaticFlags=True)
        except ValueError as error:
            raise RejectedError(f"scaffold {shown}", " ".join(str(error).split()).rstrip(".")) from None
    atoms = [a for a in mol.GetAtoms() if a.GetAtomicNum()]
    if not atoms or len(Chem.GetMolFrags(mol)) > 1:
        raise InputError(f"scaffold {shown}: expected one connected fragment, got {len(Chem.GetMolFrags(mol))}; grow one at a time")
    stars = [sum(not n.GetAtomicNum() for n in a.GetNeighbors()) for a in atoms]
    if any(not a.GetAtomicNum() and a.GetDegree() != 1 for a in mol.GetAtoms()) or any(
        str(b.GetBondType()) != "SINGLE" for b in mol.GetBonds() if not (b.GetBeginAtom().GetAtomicNum() and b.GetEndAtom().GetAtomicNum())
    ):
        raise InputError(f"scaffold {shown}: expected each * at the end of a single bond, got another one; redraw it")
    hydrogens = any(z == 1 for z, _, _ in tokenizer.types)
    if hydrogens or (not tokenizer.config.implied and not any(stars)):
        raise InputError("scaffold: expected weights of graphs without hydrogen atoms, and * where hydrogens are counted; mark the place")
    kinds = []
    for atom in atoms:
        z, q, h = atom.GetAtomicNum(), atom.GetFormalCharge(), atom.GetTotalNumHs()
        total = int(sum(bond.GetBondTypeAsDouble() for bond in atom.GetBonds()))
        code = tokenizer.code.get((z, q, 0 if tokenizer.config.implied else h))
        if code is None or (tokenizer.config.implied and implied(z, q, total) != h):
            known = " ".join(tokenizer.config.atoms)
            raise InputError(f"scaffold {shown}: expected atoms {known} of usual valence, got {SYMBOLS[z]}{q:+d}; use another model")
        kinds.append(code)
    place = {atom.GetIdx(): k for k, atom in enumerate(atoms)}
    n = len(atoms)
    orders = np.zeros((n, n), dtype=np.int64)
    for bond in mol.GetBonds():
        if bond.GetBeginAtomIdx() in place and bond.GetEndAtomIdx() in place:
            i, j = place[bond.GetBeginAtomIdx()], place[bond.GetEndAtomIdx()]
            orders[i, j] = orders[j, i] = int(bond.GetBondTypeAsDouble())
    config = tokenizer.config
    score = np.arange(n, dtype=np.float64)[None] if config.orders else None
    block, degree = (a[0] for a in peel(orders[None] > 0, np.ones((1, n), dtype=bool), config.hops, config.key, score))
    if np.bincount(block).max() > config.max_block or degree.max() > config.max_degree:
        raise InputError(f"scaffold {shown}: expected blocks of at most {config.max_block} nodes, got larger ones; take a part")
    order = np.lexsort((np.array(kinds), block))
    orders, kind, degree, block = orders[np.ix_(order, order)], np.array(kinds)[order], degree[order], block[order]
    degree = degree if config.hops else np.zeros_like(degree)
    ends = np.cumsum(np.bincount(block))
    made = [Piece(kind[a:b], degree[a:b], orders[a:b, :b]) for a, b in zip([0, *ends[:-1]], ends, strict=True)]
    free = np.array(stars)[order] if any(stars) else np.array([a.GetTotalNumHs() for a in atoms])[order]
    return made, free
