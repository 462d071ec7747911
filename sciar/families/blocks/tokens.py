"""Graphs as nodes in blocks: node types, the block and residual degree of each node, kekulised bonds.

A node type is an element with its formal charge and, if these are counted, its hydrogens, written as in a SMILES bracket:
`C`, `O-`, `N+`, `NH+`. With `implied` hydrogens the type names none and the valence fills them in (`[O-]`, `[NH+]` and
`[nH]` all survive, as an atom whose hydrogens differ from that rule is refused, never changed). `X` is a vertex of a plain
graph. Positions and stereo marks are not part of the graph: they are not encoded and do not come back.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from sciar.batch import TokenArrays, token_field
from sciar.errors import InputError
from sciar.families.blocks.order import KEYS, canonical, peel, search
from sciar.family import Tokenizer as AbstractTokenizer
from sciar.family import moments
from sciar.metrics.molecule import VALENCES
from sciar.prompt import Prompt
from sciar.structure import NUMBERS, SYMBOLS, Structure

VERSION = 1  # of the encoding; prepared tokens of another version are made again
BATCH = 256  # graphs that are ordered together
PLAIN = ("X",)
SEARCH = "search"
_NAME = re.compile(r"([A-Z][a-z]?)(?:H(\d*))?(?:([+-])(\d*))?")
COMPUTED = ("qed", "logP", "sa")  # properties worked out here where a structure does not bring them


@dataclass(frozen=True, slots=True)
class TokenizerConfig:
    """What the tokenizer can hold and in which order it is generated.

    Args:
        atoms: names of the node types, at most 255; with "H" among them hydrogens are atoms; ("X",) is for plain graphs.
        implied: hydrogens fill the valence instead of being named.
        hops: depth of the structural order (PARD's K); 0 = one block.
        key: "shell" or "walk", see `order.peel`, or "search", see `order.search`: one by one, with `orders`.
        orders: for training on few graphs: each becomes so many records, in which the nodes come one by one, at random among
            those that the structural order would take together (`hops=1`: of least degree); 0 = one record in blocks.
        max_atoms, max_block, max_degree: most nodes of a graph and of a block, largest residual degree.
        properties: entries of `Structure.info` that can be asked for; "qed", "logP" and "sa" are computed where missing.
    """

    atoms: tuple[str, ...] = ("C", "N", "O", "F", "S", "Cl", "Br")
    implied: bool = True
    hops: int = 3
    key: str = "shell"
    orders: int = 0
    max_atoms: int = 40
    max_block: int = 24
    max_degree: int = 6
    properties: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "atoms", tuple(self.atoms))
        object.__setattr__(self, "properties", tuple(self.properties))
        wrong = [name for name in self.atoms if (m := _NAME.fullmatch(str(name))) is None or m[1] not in NUMBERS]
        if wrong or not 0 < len(set(self.atoms)) == len(self.atoms) < 256:
            raise InputError(f"TokenizerConfig.atoms: expected different names such as C, N+, O- or NH+, got {' '.join(map(str, wrong))}")
        if self.implied and any(kind[2] or kind[0] == 1 for kind in map(node_type, self.atoms)):
            raise InputError("TokenizerConfig.atoms: expected names without H where hydrogens are implied; set implied: false")
        if self.key not in (*KEYS, SEARCH) or self.hops < 0:
            raise InputError(f"TokenizerConfig: expected key {', '.join(KEYS)} or {SEARCH} and hops ≥ 0, got {self.key!r}, {self.hops}")
        if self.orders < 0 or (self.orders and not self.hops):
            raise InputError(f"TokenizerConfig.orders: expected 0, or a number above it with hops ≥ 1, got {self.orders}, hops {self.hops}")
        if self.key == SEARCH and not self.orders:
            raise InputError("TokenizerConfig.key: expected orders above 0 with search, got 0; set tokenizer.orders")


@dataclass(frozen=True, slots=True, eq=False)
class Tokens:
    """One graph, nodes in the order of generation; within a block by type and then in a canonical order.

    Args:
        kind: node type, index into `TokenizerConfig.atoms`.
        block: block of the node, rising from 0.
        degree: neighbours among the blocks up to its own.
        bonds: rows (node, node, order), order 1 to 3.
        properties: one row, nan = not known.
        order: which atom of the encoded structure each node is; stays with the record.
    """

    kind: Int[np.ndarray, "n"] = token_field("nodes", "uint8")
    block: Int[np.ndarray, "n"] = token_field("nodes", "int16", -1)
    degree: Int[np.ndarray, "n"] = token_field("nodes", "uint8")
    bonds: Int[np.ndarray, "m 3"] = token_field("bonds", "int16")
    properties: Float[np.ndarray, "1 p"] = token_field("record", "float32", np.nan)
    order: Int[np.ndarray, "n"] | None = None


class Tokenizer(AbstractTokenizer):
    """Graph ↔ node types, blocks and bonds. Exact up to positions and stereo marks."""

    def __init__(self, config: TokenizerConfig) -> None:
        self.config = config
        self.types = [node_type(name) for name in config.atoms]
        self.code = {kind: k for k, kind in enumerate(self.types)}
        self.plain = config.atoms == PLAIN
        self.n_orders = 1 if self.plain else 3
        self.records = max(1, config.orders)

    def limits(self) -> dict[str, object]:
        """Limits of prompts, and the number of records, for `sciar.request`."""
        elements = {} if self.plain else {"elements": sorted({SYMBOLS[z] for z, _, _ in self.types} | {"H"}, key=NUMBERS.__getitem__)}
        return {**elements, "max_nodes": self.config.max_atoms, "properties": list(self.config.properties)}

    def statistics(self, arrays: TokenArrays) -> dict[str, object]:
        """Shares of node types and of pair classes, the largest bond order sum of each type, moments of the properties."""
        kind, bonds = np.asarray(arrays.arrays["kind"]), np.asarray(arrays.arrays["bonds"])
        nodes = arrays.lengths("nodes")
        start = np.repeat(arrays.offsets["nodes"][:-1], arrays.lengths("bonds"))
        sums = np.zeros(len(kind), dtype=np.int64)
        for column in (0, 1):
            np.add.at(sums, start + bonds[:, column], bonds[:, 2])
        counts = np.bincount(bonds[:, 2], minlength=self.n_orders + 1)[1:].astype(float)
        pairs = float((nodes * (nodes - 1) // 2).sum())
        shares = np.concatenate([[pairs - counts.sum()], counts]) / max(pairs, 1.0)
        return {
            "types": (np.bincount(kind, minlength=len(self.types)) / max(1, len(kind))).round(8).tolist(),
            "pairs": shares.round(8).tolist(),
            "sizes": np.bincount(nodes, minlength=self.config.max_atoms + 1).tolist(),
            "capacity": [int(sums[kind == k].max(initial=0)) for k in range(len(self.types))],
            **moments(self.config.properties, arrays),
        }

    def encode(self, structure: Structure, prompt: Prompt | None = None) -> Tokens:
        """Tokens of a graph.

        Args:
            structure: bonds must be known. Where no type is a hydrogen, hydrogens that are atoms become counts.
            prompt: not used.

        Raises:
            InputError: no bonds, an atom that is no type, hydrogens that differ from what is implied, isotopes, too large.
        """
        return self._ordered([self._graph(structure)])[0]

    def encode_many(self, structures: Iterable[Structure]) -> Iterator[Tokens]:
        """Tokens of the structures that can be held, in order; the others are left out. A tenth of the time of one by one.

        With `TokenizerConfig.orders` the records of some structures come after each other, then those of the next.
        """
        graphs: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        for structure in structures:
            try:
                graphs.append(self._graph(structure))
            except InputError:
                continue
            if len(graphs) == BATCH:
                yield from self._records(graphs)
                graphs = []
        if graphs:
            yield from self._records(graphs)

    def _records(self, graphs: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> Iterator[Tokens]:
        for turn in range(self.records):
            yield from self._ordered(graphs, strict=False, turn=turn)

    def _graph(self, structure: Structure) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Node types (n), bond orders (n n) and properties (p) of what can be held."""
        heavy = self._heavy(structure)
        n = heavy.n_atoms
        if not 0 < n <= self.config.max_atoms:
            raise InputError(f"blocks: expected 1 to {self.config.max_atoms} nodes, got {n}; raise tokenizer.max_atoms")
        orders = heavy.adjacency()
        if orders.max(initial=0) > self.n_orders or orders.min() < 0:
            raise InputError(f"blocks: expected bond orders 1 to {self.n_orders}, got {orders.max()}; kekulise the molecule")
        return self._kinds(heavy, orders.sum(1)), orders, self._properties(structure)

    def _ordered(self, graphs: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]], strict: bool = True, turn: int = 0) -> list[Tokens]:
        """Tokens of some graphs, the `turn`-th of their orders; those whose blocks are too large raise, or are left out if not `strict`."""
        config = self.config
        n = max(len(kind) for kind, _, _ in graphs)
        mask = np.arange(n) < np.array([[len(kind)] for kind, _, _ in graphs])
        kinds, orders = np.zeros(mask.shape, dtype=np.int64), np.zeros((*mask.shape, n), dtype=np.int64)
        for row, (kind, bonds, _) in enumerate(graphs):
            kinds[row, : len(kind)], orders[row, : len(kind), : len(kind)] = kind, bonds
        score = None
        if config.orders:  # random numbers by place, so that they too follow from the graph alone
            score = np.random.default_rng([turn, 7]).random(n)[canonical(kinds, orders, mask)]
        if config.key == SEARCH and score is not None:
            block, degree = search(orders > 0, mask, score)
        else:
            block, degree = peel(orders > 0, mask, config.hops, config.key, score)
        degree = degree if config.hops else np.zeros_like(degree)  # no common degree: none is told
        place = canonical((block + 1) * 256 + kinds, orders, mask)
        order = np.lexsort((place, kinds, np.where(mask, block, n)), axis=1)
        kinds, block, degree = (np.take_along_axis(a, order, 1) for a in (kinds, block, degree))
        orders = np.take_along_axis(np.take_along_axis(orders, order[..., None], 1), order[:, None], 2)
        found = []
        for row, (kind, _, properties) in enumerate(graphs):
            size = len(kind)
            largest = int(np.bincount(block[row, :size]).max())
            if largest > config.max_block or degree[row].max() > config.max_degree:
                if strict:
                    raise InputError(
                        f"blocks: expected blocks of at most {config.max_block} nodes of degree up to {config.max_degree}, "
                        f"got {largest} and {degree[row].max()}; raise tokenizer.max_block or max_degree"
                    )
                continue
            i, j = np.nonzero(np.triu(orders[row]))
            bonds = np.stack([i, j, orders[row, i, j]], 1)
            found.append(Tokens(kinds[row, :size], block[row, :size], degree[row, :size], bonds, properties[None], order[row, :size]))
        return found

    def decode(self, tokens: Tokens) -> Structure:
        """The graph, hydrogens as counts; total: tokens that are none give an empty structure that says so."""
        kind, bonds = np.asarray(tokens.kind, dtype=np.int64), np.asarray(tokens.bonds, dtype=np.int64).reshape(-1, 3)
        n = len(kind)
        order = np.arange(n) if tokens.order is None else np.asarray(tokens.order, dtype=np.int64)
        if n and (kind.min() < 0 or kind.max() >= len(self.types)):
            return Structure(np.zeros(0, dtype=np.int64), info={"failure": "unknown node type"})
        types = np.zeros((n, 3), dtype=np.int64)
        types[order] = np.array(self.types, dtype=np.int64).reshape(-1, 3)[kind]
        try:
            rows = np.concatenate([order[bonds[:, :2]], bonds[:, 2:]], 1) if len(bonds) else bonds
            structure = Structure(types[:, 0], bonds=rows)
        except (ValueError, IndexError):
            return Structure(np.zeros(0, dtype=np.int64), info={"failure": "bonds that are none"})
        if self.plain:
            return structure
        hydrogens = types[:, 2]
        if self.config.implied:
            sums = structure.adjacency().sum(1)
            hydrogens = np.array(
                [implied(z, q, s) or 0 for (z, q, _), s in zip(types.tolist(), sums.tolist(), strict=True)], dtype=np.int64
            )
        charges = types[:, 1]
        return structure.replace(charges=charges if charges.any() else None, hydrogens=hydrogens if hydrogens.any() else None)

    def _heavy(self, structure: Structure) -> Structure:
        """The structure without positions and marks, its hydrogens as this vocabulary wants them."""
        if structure.bonds is None:
            raise InputError("blocks: expected a graph with bonds, got none; perceive them first (sciar.bonds.perceive_bonds)")
        if "isotopes" in structure.info:
            raise InputError("blocks: expected atoms of natural isotopes, got marked ones; remove the marks")
        bare = Structure(structure.numbers, bonds=structure.bonds, charges=structure.charges, hydrogens=structure.hydrogens)
        if self.plain:
            return bare
        light = bare.numbers == 1
        if any(z == 1 for z, _, _ in self.types):
            if bare.hydrogens is not None and bare.hydrogens.any():
                raise InputError("blocks: expected hydrogens as atoms, got them as counts; add them (Chem.AddHs)")
            return bare
        if not light.any():
            return bare
        orders = bare.adjacency()
        if (orders[light].astype(bool).sum(1) != 1).any() or orders[np.ix_(light, light)].any() or not (~light).any():
            raise InputError("blocks: expected each hydrogen on one heavy atom, got a free or bridging one; name H among tokenizer.atoms")
        counts = orders[:, light].sum(1) + (bare.hydrogens if bare.hydrogens is not None else 0)
        return bare.replace(hydrogens=counts).subset(~light)

    def _kinds(self, heavy: Structure, sums: np.ndarray) -> np.ndarray:
        nothing = np.zeros(heavy.n_atoms, dtype=np.int64)
        charges = heavy.charges if heavy.charges is not None else nothing
        counts = heavy.hydrogens if heavy.hydrogens is not None else nothing
        codes = []
        for z, q, h, s in zip(heavy.numbers.tolist(), charges.tolist(), counts.tolist(), sums.tolist(), strict=True):
            if self.config.implied and not self.plain and implied(z, q, s) != h:
                raise InputError(f"blocks: expected the usual valence, got {SYMBOLS[z]}{q:+d} with {s} bonds and {h} hydrogens; name it")
            code = self.code.get((z, q, 0 if self.config.implied else h))
            if code is None:
                name = f"{SYMBOLS[z]}{'' if self.config.implied or not h else f'H{h}'}{f'{q:+d}' if q else ''}"
                raise InputError(f"blocks: expected atoms {' '.join(self.config.atoms)}, got {name}; add it to tokenizer.atoms")
            codes.append(code)
        return np.array(codes, dtype=np.int64)

    def _properties(self, structure: Structure) -> np.ndarray:
        names = self.config.properties
        given: Mapping[str, object] = structure.info
        if any(name not in given and name in COMPUTED for name in names):
            given = {**computed(structure), **given}
        return np.array([float(given.get(name, np.nan)) for name in names], dtype=np.float64)  # type: ignore[arg-type]


def node_type(name: str) -> tuple[int, int, int]:
    """(atomic number, formal charge, hydrogens) of a name.

    >>> node_type("NH3+"), node_type("O-"), node_type("H"), node_type("X")
    ((7, 1, 3), (8, -1, 0), (1, 0, 0), (0, 0, 0))
    """
    match = _NAME.fullmatch(name)
    assert match is not None
    symbol, hydrogens, sign, size = match.groups()
    charge = (int(size or 1) if sign else 0) * (-1 if sign == "-" else 1)
    return NUMBERS[symbol], charge, 0 if hydrogens is None else int(hydrogens or 1)


def implied(number: int, charge: int, order_sum: int) -> int | None:
    """Hydrogens that fill the smallest fitting valence; None where none fits.

    >>> implied(7, 0, 2), implied(7, 1, 4), implied(16, 0, 5), implied(8, 0, 3)
    (1, 0, 1, None)
    """
    return next((v - order_sum for v in VALENCES.get((number, charge), ()) if v >= order_sum), None)


def computed(structure: Structure) -> dict[str, float]:
    """Drug-likeness (QED), logP (Crippen) and synthetic accessibility (SA score, 1 easy to 10) by RDKit.

    Raises:
        InputError: RDKit cannot take the molecule.
    """
    from rdkit.Chem import QED, Crippen, RemoveHs

    from sciar.convert import to_rdkit

    mol = RemoveHs(to_rdkit(structure.replace(positions=None)))
    return {"qed": QED.qed(mol), "logP": Crippen.MolLogP(mol), "sa": _sascorer().calculateScore(mol)}


@cache
def _sascorer() -> Any:
    """Ertl & Schuffenhauer's synthetic accessibility score (J. Cheminf. 1 (2009) 8), a script that comes with RDKit."""
    from rdkit.Chem import RDConfig

    spec = importlib.util.spec_from_file_location("sascorer", Path(RDConfig.RDContribDir) / "SA_Score" / "sascorer.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
