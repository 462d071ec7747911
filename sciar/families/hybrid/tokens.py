"""Molecules as words (SMILES characters) followed by one coordinate slot per atom.

A slot places one atom relative to atoms that stand before it: its *anchor* (a bonded atom), a second
reference b behind the anchor, and a third reference c that fixes the torsion. Those three span a local
frame, so what the network sees and draws does not depend on how the molecule lies in space, and a
stereo mark becomes one sign: on which side of the plane (b, anchor, c) the atom goes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from sciar.batch import TokenArrays, token_field
from sciar.errors import InputError
from sciar.family import Tokenizer as AbstractTokenizer
from sciar.family import moments
from sciar.prompt import Prompt
from sciar.stereo import parity
from sciar.structure import CIS, NONE, NUMBERS, SYMBOLS, Structure

VERSION = 4  # of the encoding; prepared tokens of another version are made again
PAD, BOS, EOS = 0, 1, 2
_CHARACTERS = "C N O F P S H B I c n o s p Cl Br Si Se As se as ( ) [ ] = # - + . / \\ @ @@ : % 0 1 2 3 4 5 6 7 8 9 *".split()
VOCABULARY: tuple[str, ...] = ("<pad>", "<bos>", "<eos>", *_CHARACTERS)
_WORD = re.compile("|".join(re.escape(c) for c in sorted(_CHARACTERS, key=len, reverse=True)))
_ID = {c: i for i, c in enumerate(VOCABULARY)}

N_REFERENCES = 4  # candidates for the third reference: the next one is taken when three atoms are in line
THEORIES = ("mmff94s", "b3lyp")
# single double triple aromatic conjugated-single; 0 = the atom itself. Larger codes are distances, see model.edges
BOND_TYPES = 5
FEATURES = ("element", "charge", "degree", "hydrogens", "hybridisation", "ring", "conjugation", "marked")
FEATURE_SIZES = (16, 8, 8, 6, 4, 12, 3, 2)


@dataclass(frozen=True, slots=True)
class TokenizerConfig:
    """What the tokenizer can hold.

    Args:
        elements: symbols, at most 15; hydrogens are atoms like all others.
        max_heavy: most heavy atoms of one molecule.
        properties: entries of `Structure.info` that can be asked for.
    """

    elements: tuple[str, ...] = ("H", "C", "N", "O", "F", "P", "S", "Cl", "Br", "I", "B", "Si")
    max_heavy: int = 50
    properties: tuple[str, ...] = ("mu_D", "alpha_bohr3", "homo_eV", "lumo_eV", "gap_eV", "Cv_cal_molK")

    def __post_init__(self) -> None:
        object.__setattr__(self, "elements", tuple(self.elements))
        object.__setattr__(self, "properties", tuple(self.properties))
        unknown = [e for e in self.elements if e not in NUMBERS]
        if unknown or len(self.elements) > 15:
            raise InputError(f"TokenizerConfig.elements: expected at most 15 element symbols, got {', '.join(map(str, self.elements))}")


@dataclass(frozen=True, slots=True, eq=False)
class Tokens:
    """One molecule. Atom arrays are in slot order; `graph` stays with the record and is what decode fills.

    Args:
        words: ids of the SMILES characters, <bos> first, <eos> last.
        features: rows of `FEATURES` codes.
        order: which atom of `graph` the slot places.
        anchor: slot of a bonded atom that stands before, -1 for the first.
        refs: rows (b, c₁ … c₄): reference slots, -1 = none.
        side: for each c: sign of the side of the plane (b, anchor, c) a stereo centre demands, there or later in a ring; 0 = free.
        twist: for each c: +1 cis, -1 trans about the double bond anchor=b, 0 = free.
        rings: bit k says that the atom is in ring k (smallest set of rings; the first 62).
        bonds: rows (slot, slot, type) with type 1..BOND_TYPES.
        positions: coordinates in Å, first slot at the origin; zeros where they are to be drawn.
        theory: index into THEORIES: at what level of theory the geometry is a minimum.
        properties: one row, nan = not known.
        de_novo: the graph was drawn too, so the answer's stereo marks are read off its coordinates.
    """

    words: Int[np.ndarray, "w"] = token_field("words", "int16")
    features: Int[np.ndarray, "n 8"] = token_field("atoms", "uint8")
    order: Int[np.ndarray, "n"] = token_field("atoms", "int16")
    anchor: Int[np.ndarray, "n"] = token_field("atoms", "int16", -1)
    refs: Int[np.ndarray, "n 5"] = token_field("atoms", "int16", -1)
    side: Int[np.ndarray, "n 4"] = token_field("atoms", "int8")
    twist: Int[np.ndarray, "n 4"] = token_field("atoms", "int8")
    rings: Int[np.ndarray, "n"] = token_field("atoms", "int64")
    positions: Float[np.ndarray, "n 3"] = token_field("atoms", "float32")
    bonds: Int[np.ndarray, "m 3"] = token_field("bonds", "int16")
    theory: Int[np.ndarray, "1"] = token_field("record", "uint8")
    properties: Float[np.ndarray, "1 p"] = token_field("record", "float32", np.nan)
    graph: Structure | None = None
    de_novo: bool = False


class Tokenizer(AbstractTokenizer):
    """Molecule ↔ words and coordinate slots. Exact: decode(encode(s)) has the coordinates of s to float32."""

    def __init__(self, config: TokenizerConfig) -> None:
        self.config = config
        self.element_code = {NUMBERS[e]: i for i, e in enumerate(config.elements)}
        self._last: tuple[tuple[object, ...], _Layout] | None = None

    def limits(self) -> dict[str, object]:
        return {
            "elements": list(self.config.elements),
            "max_heavy_atoms": self.config.max_heavy,
            "properties": list(self.config.properties),
        }

    def statistics(self, arrays: TokenArrays) -> dict[str, object]:
        """Mean and spread of the properties; the elements and the largest molecule seen, in all and at each level of theory."""
        facts = moments(self.config.properties, arrays)
        element = np.asarray(arrays.arrays["features"][:, 0])
        level = np.repeat(np.asarray(arrays.arrays["theory"]), arrays.lengths("atoms"))
        heavy = np.add.reduceat(element != self.element_code.get(1, -1), arrays.offsets["atoms"][:-1])
        seen: dict[str, object] = {}
        for code, name in enumerate(THEORIES):
            if (level == code).any():
                codes = np.unique(element[level == code]).tolist()
                largest = int(heavy[np.asarray(arrays.arrays["theory"]) == code].max())
                seen[name] = {"elements": [self.config.elements[c] for c in codes], "max_heavy": largest}
        present = [self.config.elements[c] for c in np.unique(element).tolist()]
        return facts | {"theories": seen, "elements": present, "max_heavy_atoms": int(heavy.max())}

    def check(self, graph: Structure) -> None:
        """Refuse what the family cannot hold.

        Raises:
            InputError: no bonds, several fragments, an element outside the configuration, too many heavy atoms.
        """
        if graph.bonds is None:
            raise InputError("hybrid: expected a molecule with bonds, got none; perceive them first (sciar.bonds.perceive_bonds)")
        if graph.hydrogens is not None and graph.hydrogens.any():
            raise InputError("hybrid: expected explicit hydrogens, got implicit ones; add them (Chem.AddHs)")
        unknown = sorted({SYMBOLS[z] for z in graph.numbers.tolist() if z not in self.element_code})
        if unknown:
            raise InputError(
                f"hybrid: expected elements {' '.join(self.config.elements)}, got {' '.join(unknown)}; no bundled model covers them"
            )
        heavy = int((graph.numbers > 1).sum())
        if heavy > self.config.max_heavy:
            raise InputError(f"hybrid: expected at most {self.config.max_heavy} heavy atoms, got {heavy}; split the molecule")
        if graph.n_atoms == 0:
            raise InputError("hybrid: expected at least one atom, got an empty molecule")
        if graph.fragments().max() > 0:
            raise InputError(
                "hybrid: expected one connected molecule, got several fragments; generate each part (salts: drop the counter-ion)"
            )

    def encode(self, structure: Structure, prompt: Prompt | None = None, fixed: Iterable[int] = ()) -> Tokens:
        """Tokens of a bonded molecule; coordinates are zeros when it has none.

        Args:
            structure: molecule with bonds and explicit hydrogens.
            prompt: not used: what is given is part of the structure.
            fixed: atoms that are placed first because their positions are given; connected among themselves.

        Raises:
            InputError: see `check`.
        """
        self.check(structure)
        layout = self._layout(structure, tuple(fixed))
        positions = np.zeros((structure.n_atoms, 3))
        if structure.positions is not None:
            positions = canonical_frame(structure.positions[layout.order])
        info = structure.info
        values = [[float(info.get(name, np.nan)) for name in self.config.properties]]  # type: ignore[arg-type]
        theory = str(info.get("theory", "mmff94s" if any(key.startswith("energy_") for key in info) else "b3lyp"))
        return Tokens(
            words=words_of(layout.smiles),
            features=layout.features,
            order=layout.order,
            anchor=layout.anchor,
            refs=layout.refs,
            side=layout.side,
            twist=layout.twist,
            rings=layout.ring_bits,
            positions=positions,
            bonds=layout.bonds,
            theory=np.array([THEORIES.index(theory)]),
            properties=np.array(values),
            graph=structure,
        )

    def _layout(self, graph: Structure, fixed: tuple[int, ...]) -> _Layout:
        """Conformers of one molecule follow each other: the last layout is kept."""
        parts = (graph.numbers, graph.bonds, graph.charges, graph.tetrahedral, graph.double_bonds)
        key = (fixed, *(None if part is None else part.tobytes() for part in parts))
        if self._last is None or self._last[0] != key:
            self._last = key, _Layout(graph, self.element_code, fixed)
        return self._last[1]

    def decode(self, tokens: Tokens) -> Structure:
        """The molecule with the drawn coordinates in the atom order of its graph; total."""
        if tokens.graph is None:
            text = text_of(tokens.words)
            return Structure(numbers=np.zeros(0, dtype=int), info={"failure": f"unparsable words: {text}", "words": text})
        positions = np.zeros((tokens.graph.n_atoms, 3))
        positions[tokens.order] = tokens.positions
        if not np.isfinite(positions).all():
            return tokens.graph.replace(positions=None).with_info(failure="no coordinates: the sampler diverged")
        structure = tokens.graph.replace(positions=positions)
        return _with_seen_stereo(structure) if tokens.de_novo else structure


def _with_seen_stereo(structure: Structure) -> Structure:
    """The marks of the coordinates instead of those of the words; unchanged if RDKit cannot hold the molecule."""
    from sciar.convert import from_rdkit, to_rdkit

    try:
        mol = to_rdkit(structure.replace(tetrahedral=None, double_bonds=None))
        return from_rdkit(mol, perceive_stereo_from_3d=True).replace(info=structure.info)
    except InputError:
        return structure


def words_of(smiles: str) -> Int[np.ndarray, "w"]:
    """Word ids of a SMILES, <bos> and <eos> included.

    Raises:
        InputError: a character outside the vocabulary.

    >>> text_of(words_of("C[C@H](N)Cl"))
    'C[C@H](N)Cl'
    """
    pieces = _WORD.findall(smiles)
    if "".join(pieces) != smiles:
        raise InputError(f"words: expected SMILES characters of the vocabulary, got {smiles!r}")
    return np.array([BOS, *(_ID[p] for p in pieces), EOS], dtype=np.int64)


def text_of(words: Iterable[int] | Int[np.ndarray, "w"]) -> str:
    """The text of word ids; special ids are left out; total."""
    return "".join(VOCABULARY[w] for w in map(int, words) if EOS < w < len(VOCABULARY))


def canonical_frame(positions: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n 3"]:
    """Rotate so that atom 0 is the origin, atom 1 on +x, and the first atom off that line in the xy half-plane y > 0."""
    moved = positions - positions[0]
    if len(moved) < 2:
        return moved
    x = moved[1] / max(float(np.linalg.norm(moved[1])), 1e-9)
    off = moved - np.outer(moved @ x, x)
    distance = np.linalg.norm(off, axis=1)
    bent = np.flatnonzero(distance > 0.1)
    y = off[bent[0]] / distance[bent[0]] if len(bent) else _perpendicular(x)
    return moved @ np.stack([x, y, np.cross(x, y)]).T


def _perpendicular(x: np.ndarray) -> np.ndarray:
    other = np.eye(3)[np.argmin(np.abs(x))]
    y = other - (other @ x) * x
    return y / np.linalg.norm(y)


class _Layout:
    """Slot order, references, stereo signs and feature codes of one molecular graph."""

    def __init__(self, graph: Structure, element_code: dict[int, int], fixed: tuple[int, ...]) -> None:
        from sciar.convert import to_rdkit

        n = graph.n_atoms
        mol = to_rdkit(graph.replace(positions=None, info={}))
        self.numbers = graph.numbers.tolist()
        self.neighbours: list[list[int]] = [[] for _ in range(n)]
        for i, j in graph.bonds[:, :2].tolist():  # type: ignore[index]
            self.neighbours[i].append(j)
            self.neighbours[j].append(i)
        self.smiles = _kekule_smiles(mol)
        self.rank = _ranks(mol)
        ring_info = mol.GetRingInfo()
        self.ring = [ring_info.MinAtomRingSize(i) for i in range(n)]
        self.rings = [set(ring) for ring in ring_info.AtomRings()]
        order, anchor = self._traverse(fixed)
        slot = np.empty(n, dtype=np.int64)
        slot[order] = np.arange(n)
        self.slot = slot.tolist()
        self.order = np.array(order)
        self.anchor = np.array([-1 if a < 0 else self.slot[a] for a in anchor])
        marks = {int(row[0]): row[1:].tolist() for row in graph.tetrahedral} if graph.tetrahedral is not None else {}
        doubles = {}
        if graph.double_bonds is not None:
            for a, i, j, b, kind in graph.double_bonds.tolist():
                sign = 1 if kind == CIS else -1
                doubles[i, j], doubles[j, i] = (a, b, sign), (b, a, sign)
        self.marked = marks | self._implied(marks)
        self.refs = np.full((n, 1 + N_REFERENCES), -1)
        self.side = np.zeros((n, N_REFERENCES), dtype=np.int64)
        self.twist = np.zeros((n, N_REFERENCES), dtype=np.int64)
        for k in range(1, n):
            self._reference(k, order, anchor, doubles)
        self.bonds = np.array(
            sorted((*sorted((self.slot[b.GetBeginAtomIdx()], self.slot[b.GetEndAtomIdx()])), _bond_type(b)) for b in mol.GetBonds()),
            dtype=np.int64,
        ).reshape(-1, 3)
        codes = [
            (
                element_code[z],
                min(max(atom.GetFormalCharge() + 3, 0), 7),
                min(len(near), 7),
                min(sum(self.numbers[j] == 1 for j in near), 5),
                {2: 2, 3: 1}.get(int(atom.GetHybridization()), 0),
                min(self.ring[i], 11),
                2 if atom.GetIsAromatic() else int(any(b.GetIsConjugated() for b in atom.GetBonds())),
                int(i in marks),
            )
            for i, (z, near, atom) in enumerate(zip(self.numbers, self.neighbours, mol.GetAtoms(), strict=True))
        ]
        self.features = np.array(codes)[self.order]
        self.ring_bits = np.zeros(n, dtype=np.int64)
        for k, ring in enumerate(sorted(sorted(self.slot[i] for i in ring) for ring in self.rings)[:62]):
            self.ring_bits[ring] |= 1 << k

    def _traverse(self, fixed: tuple[int, ...]) -> tuple[list[int], list[int]]:
        """Breadth first over heavy atoms from the middle of the molecule, closing rings first; hydrogens last."""
        heavy = [i for i, z in enumerate(self.numbers) if z > 1]
        nodes = heavy or [0]
        first = set(fixed)
        if fixed:
            root = min(first, key=lambda i: (self.numbers[i] == 1, self.rank[i]))
        else:
            root = min(nodes, key=lambda i: (self._eccentricity(i), self.ring[i] == 0, self.rank[i]))
        order, anchor, seen = [root], [-1], {root}
        for allowed in (first, set(heavy), set(range(len(self.numbers)))):
            for here in order:  # which grows
                near = {j for j in self.neighbours[here] if j not in seen and j in allowed}
                while near:
                    following = min(near, key=lambda j: self._progress(here, j, seen))
                    near.remove(following)
                    seen.add(following)
                    order.append(following)
                    anchor.append(here)
        return order, anchor

    def _progress(self, here: int, child: int, seen: set[int]) -> tuple[int, float, int]:
        """Atoms that close or continue a ring come first: a substituent placed before them would have to guess its stereo sign."""
        bonded = sum(j in seen for j in self.neighbours[child])
        shared = [sum(j in seen for j in ring) / len(ring) for ring in self.rings if here in ring and child in ring]
        return -bonded, -max(shared, default=0.0), self.rank[child]

    def _eccentricity(self, root: int) -> int:
        seen, frontier, depth = {root}, [root], 0
        while frontier:
            frontier = [j for i in frontier for j in self.neighbours[i] if j not in seen and self.numbers[j] > 1]
            frontier = list(dict.fromkeys(frontier))
            seen.update(frontier)
            depth += 1
        return depth

    def _implied(self, marks: dict[int, list[int]]) -> dict[int, list[int]]:
        """Marks of ring atoms without one (a bridging nitrogen, say) that those of a fused neighbour leave no choice.

        About a bond shared by two small rings, the four ring neighbours eclipse each other in pairs: one end's handedness is the other's.
        """
        implied: dict[int, list[int]] = {}
        waiting = [i for i, near in enumerate(self.neighbours) if i not in marks and len(near) in (3, 4) and self.ring[i]]
        for a in waiting:
            near = self.neighbours[a]
            for p in near:
                mark = marks.get(p) or implied.get(p)
                pairs = [(u, *self._across(u, a, p)) for u in near if u != p and self.ring[u]]
                pairs = [pair for pair in pairs if pair[2]]
                if mark is None or len(pairs) != 2:
                    continue
                (u, u2, first), (v, v2, second) = pairs
                fourth = next((x for x in near if x not in (p, u, v)), NONE)
                turn = self._side(mark, a, u2, v2) * first * second  # of (p - a) × (u - a) · (v - a)
                if turn:
                    implied[a] = [fourth, p, u, v] if turn < 0 else [fourth, u, p, v]
                    break
        return implied

    def _across(self, u: int, a: int, p: int) -> tuple[int, int]:
        """A neighbour of p, and whether it lies on u's side of the bond a-p (+1), opposite to it (-1) or anywhere (0).

        On u's side is the atom that one ring of at most six atoms holds together with u. Where two such rings hold u, a and p
        (a bridge), u lies between the two and opposite to the last neighbour of p.
        """
        partners = {j for ring in self.rings if len(ring) <= 6 and {u, a, p} <= ring for j in self.neighbours[p] if j != a and j in ring}
        if len(partners) == 1:
            return partners.pop(), 1
        last = [j for j in self.neighbours[p] if j != a and j not in partners]
        return ((*last, NONE)[0], -1) if len(partners) == 2 and len(last) < 2 else (NONE, 0)

    def _ahead(self, atom: int, a: int, b: int, j: int) -> int:
        """Side of the plane (b, a, j), j a neighbour of b, on which rings that close later will need `atom`, a neighbour of a; 0 = free."""
        over, way = self._across(atom, a, b)
        if way and b in self.marked and (side := -self._side(self.marked[b], a, j, over) * way):
            return side
        under, way = self._across(j, b, a)
        return self._side(self.marked[a], b, under, atom) * way if way and a in self.marked else 0

    @staticmethod
    def _side(mark: list[int], b: int, j: int, atom: int) -> int:
        """On which side of the plane (b, centre, j) a centre with this mark has the atom; 0 if it is not among its neighbours."""
        if not {b, j, atom} <= set(mark) or len({b, j, atom}) < 3:
            return 0
        return _parity([next(x for x in mark if x not in (b, j, atom)), b, j, atom], mark)

    def _reference(self, k: int, order: list[int], anchor: list[int], doubles: dict) -> None:
        atom, a = order[k], anchor[k]
        placed = [j for j in self.neighbours[a] if self.slot[j] < k]
        if not placed:
            return
        behind = anchor[self.slot[a]]
        b = behind if behind >= 0 else min(placed, key=lambda j: self.slot[j])
        siblings = sorted((j for j in placed if j != b), key=lambda j: self.slot[j])
        second = sorted((j for j in self.neighbours[b] if j != a and self.slot[j] < k), key=lambda j: (self.numbers[j] == 1, self.slot[j]))
        candidates = (siblings + second)[:N_REFERENCES]
        frontier, seen = second, {a, b, atom, *siblings, *second}
        while frontier and len(candidates) < N_REFERENCES:
            frontier = [j for i in frontier for j in self.neighbours[i] if self.slot[j] < k and j not in seen]
            frontier = sorted(dict.fromkeys(frontier), key=lambda j: self.slot[j])
            seen.update(frontier)
            candidates = (candidates + frontier)[:N_REFERENCES]
        self.refs[k, 0] = self.slot[b]
        for c, j in enumerate(candidates):
            self.refs[k, 1 + c] = self.slot[j]
            if j in siblings and a in self.marked:
                self.side[k, c] = self._side(self.marked[a], b, j, atom)
            elif j in second and (a, b) in doubles:
                x, y, sign = doubles[a, b]
                self.twist[k, c] = sign * (1 if atom == x else -1) * (1 if j == y else -1)
            elif j in second:
                self.side[k, c] = self._ahead(atom, a, b, j)


def _ranks(mol: object) -> list[int]:
    from rdkit import Chem

    return list(Chem.CanonicalRankAtoms(mol, breakTies=True, includeChirality=True))


def _kekule_smiles(mol: object) -> str:
    """Canonical isomeric SMILES of the heavy atoms without aromatic atoms: every prefix of bonds means what it says."""
    from rdkit import Chem

    bare = Chem.RemoveHs(mol)
    Chem.Kekulize(bare, clearAromaticFlags=True)
    return Chem.MolToSmiles(bare, kekuleSmiles=True)


def _bond_type(bond: object) -> int:
    if bond.GetIsAromatic():  # type: ignore[attr-defined]
        return 4
    order = int(bond.GetBondTypeAsDouble())  # type: ignore[attr-defined]
    return 5 if order == 1 and bond.GetIsConjugated() else order  # type: ignore[attr-defined]


def _parity(atoms: list[int], mark: list[int]) -> int:
    """+1 if `atoms` is an even permutation of `mark`, -1 if odd."""
    assert NONE == -1
    return 1 - 2 * parity([mark.index(x) for x in atoms])
