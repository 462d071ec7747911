"""A graph that is being drawn, and how it begins."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from sciar.errors import InputError
from sciar.families.blocks.fragment import Piece, pieces
from sciar.families.blocks.tokens import Tokens
from sciar.prompt import Prompt
from sciar.structure import SYMBOLS

if TYPE_CHECKING:
    from sciar.families.blocks.model import Model

UNREACHED = 10**6  # bonds between nodes that nothing connects


@dataclass(slots=True)
class Growing:
    """A graph being drawn. Its nodes below `start` are finished, those up to `n` are the block at hand."""

    index: int
    stream: np.random.Generator
    few: int
    most: int
    room: np.ndarray  # bonds a node of the scaffold may still get; -1 = any number
    starred: bool  # every `*` of the scaffold must be used
    forced: list[Piece]
    allowed: np.ndarray  # of the atom types
    kind: np.ndarray
    level: np.ndarray
    degree: np.ndarray
    orders: np.ndarray
    apart: np.ndarray  # bonds between two nodes on the shortest path; UNREACHED if there is none
    start: int = 0
    n: int = 0
    shown: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=bool))
    left: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    noisy: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), dtype=np.int64))
    time: int = -1
    phase: str = "header"  # header · edges · commit · done
    calls: int = 0
    score: float = 0.0

    @property
    def size(self) -> int:
        return self.n - self.start

    def begin(self, kind: np.ndarray, degree: int) -> None:
        """Open the next block."""
        level = int(self.level[self.n - 1]) + 1 if self.n else 0
        self.start, self.n = self.n, self.n + len(kind)
        block = slice(self.start, self.n)
        self.kind[block], self.level[block], self.degree[block] = kind, level, degree
        self.left = np.full(len(kind), degree)
        self.shown = self.left == 0
        self.time, self.phase = -1, "edges"

    @property
    def piece(self) -> np.ndarray:
        """What each node is connected with, named by the first node of the piece."""
        linked = self.apart[: self.n, : self.n] < UNREACHED
        return linked.argmax(1) if self.n else np.zeros(0, dtype=np.int64)

    @property
    def several(self) -> bool:
        """Whether the nodes are in several pieces."""
        return bool((self.apart[0, : self.n] == UNREACHED).any())

    def connect(self, row: int, column: int, order: int) -> None:
        """A bond of node `row` of the block to a node."""
        a = self.start + row
        self.orders[a, column] = self.orders[column, a] = order
        known = self.apart[: self.n, : self.n]
        across = known[:, a, None] + 1 + known[column]
        np.minimum(known, np.minimum(across, across.T), out=known)
        self.left[row] -= 1
        if column >= self.start:
            self.left[column - self.start] -= 1
        elif self.room[column] > 0:
            self.room[column] -= 1
        for k in {row, max(column - self.start, 0)} if column >= self.start else {row}:
            self.shown[k] |= self.left[k] <= 0

    def put(self, orders: np.ndarray) -> None:
        """All bonds of the block at once (s n)."""
        from scipy.sparse.csgraph import shortest_path

        block, n = slice(self.start, self.n), self.n
        self.orders[block, :n], self.orders[:n, block] = orders, orders.T
        self.apart[:n, :n] = np.minimum(shortest_path(self.orders[:n, :n] > 0, unweighted=True), UNREACHED)

    def stays_planar(self, node: int, column: int) -> bool:
        """Whether the graph can still be drawn without crossings with one more bond."""
        import networkx as nx

        if self.apart[node, column] == UNREACHED:
            return True  # a bond between two pieces crosses nothing
        bonds = self.orders[: self.n, : self.n] > 0
        bonds[node, column] = bonds[column, node] = True
        return bool(nx.check_planarity(nx.from_numpy_array(bonds))[0])

    def tokens(self, properties: int) -> Tokens:
        i, j = np.nonzero(np.triu(self.orders[: self.n, : self.n]))
        bonds = np.stack([i, j, self.orders[i, j]], 1)
        return Tokens(self.kind[: self.n], self.level[: self.n], self.degree[: self.n], bonds, np.full((1, properties), np.nan))


def begun(model: Model, index: int, prompt: Prompt, key: tuple[int, int]) -> Growing:
    """The empty graph of a prompt, its scaffold waiting.

    Raises:
        InputError: a prompt that is no graph, a scaffold these weights cannot hold, sizes out of reach.
    """
    if prompt.task != "molecule" or prompt.fixed is not None or prompt.composition is not None:
        raise InputError("blocks: expected a graph de novo, a scaffold, elements, n_atoms or properties, got something else; leave it out")
    config = model.tokenizer.config
    few, most = prompt.n_atoms or (1, config.max_atoms)
    if few > config.max_atoms:
        raise InputError(f"n_atoms: expected at most {config.max_atoms} for these weights, got {few}; ask for fewer")
    if model.tokenizer.plain and (prompt.scaffold or prompt.elements):
        asked = "scaffold" if prompt.scaffold else "elements"
        raise InputError(f"{asked}: expected weights of molecules, got some of plain graphs; use another model or leave it out")
    symbols = [SYMBOLS[z] for z, _, _ in model.tokenizer.types]
    allowed = np.array([prompt.elements is None or symbol in prompt.elements for symbol in symbols])
    if not allowed.any():
        raise InputError(f"elements: expected some of {' '.join(sorted({*symbols}))}, got none of them; name others")
    forced, room = pieces(model.tokenizer, prompt.scaffold) if prompt.scaffold else ([], np.zeros(0, dtype=np.int64))
    if sum(len(piece.kind) for piece in forced) > min(most, config.max_atoms):
        raise InputError(f"scaffold: expected at most {min(most, config.max_atoms)} atoms, got {len(room)}; raise n_atoms or take a part")
    c = config.max_atoms
    full = np.full(c, -1)
    full[: len(room)] = room
    zeros = lambda *shape: np.zeros(shape, dtype=np.int64)  # noqa: E731
    starred = "*" in (prompt.scaffold or "")
    apart = np.where(np.eye(c, dtype=bool), 0, UNREACHED)
    stream, most = np.random.default_rng([*key, 4]), min(most, c)
    if model.config.count:
        few = most = _number(model, max(few, len(room)), most, stream)
    nothing = Growing(index, stream, few, most, full, starred, forced, allowed, zeros(c), zeros(c), zeros(c), zeros(c, c), apart)
    if model.config.reader:
        nothing.phase = "commit"  # the reader of the empty graph
    return nothing


def _number(model: Model, few: int, most: int, stream: np.random.Generator) -> int:
    """How many nodes: as often as in the training data, any number alike where that has none."""
    sizes = np.array(model.statistics.get("sizes") or [1] * (most + 1), dtype=np.float64)[few : most + 1]
    return few + int(stream.choice(len(sizes), p=sizes / sizes.sum() if sizes.sum() else None))
