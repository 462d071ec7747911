"""Plain graphs as text: graph6 and edge lists."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain

import numpy as np

from sciar import convert
from sciar.errors import InputError
from sciar.structure import Structure

_NODES = re.compile(r"[#%]\s*nodes\s+(\d+)\s*$")


def from_graph6(text: str, line: int) -> Structure:
    """The graph of one line, with or without the header `>>graph6<<`.

    Raises:
        InputError: anything else; `line` is named.
    """
    import networkx as nx

    text = text.strip().removeprefix(">>graph6<<")
    if not text or text[0] in ":;&":
        kind = {":": "sparse6", ";": "sparse6", "&": "a directed graph (digraph6)"}.get(text[:1], "nothing")
        raise InputError(f"{kind} in line {line}; write graph6, which holds undirected simple graphs")
    try:
        return convert.from_networkx(nx.from_graph6_bytes(text.encode()))
    except (nx.NetworkXError, ValueError, IndexError):
        raise InputError(f"{text[:40]!r} in line {line}, which is not graph6; write it again") from None


def edge_lists(file: Iterable[str]) -> Iterator[list[tuple[int, str]]]:
    """The numbered lines of each graph of a file; an empty line ends one, and comments alone are none unless they state the nodes."""
    lines: list[tuple[int, str]] = []
    for number, line in enumerate(chain(file, [""]), 1):
        if line.strip():
            lines.append((number, line))
        elif any(not _comment(text) or _NODES.match(text) for _, text in lines):
            yield lines
            lines = []


def from_edges(lines: Sequence[tuple[int, str]]) -> Structure:
    """The graph of the numbered lines of one edge list: two names each, what follows them is not read, `#` or `%` begins a comment.

    Nodes are numbered by their names if these are whole numbers, else as they first occur.

    Raises:
        InputError: a line without two names, a self-loop, an edge twice, or nodes beyond the number stated.
    """
    stated = next((int(m[1]) for _, line in lines if (m := _NODES.match(line))), None)
    pairs: dict[tuple[str, str], int] = {}
    for number, line in lines:
        if _comment(line):
            continue
        words = line.replace(",", " ").split()
        if len(words) < 2:
            raise InputError(f"{line.strip()[:40]!r} in line {number}; write two nodes per line")
        a, b = words[:2]
        if a == b:
            raise InputError(f"a self-loop of node {a} in line {number}; remove it")
        if (first := pairs.get((a, b)) or pairs.get((b, a))) is not None:
            raise InputError(f"the edge {a} {b} of line {number} a second time (first in line {first}); keep one, without direction")
        pairs[a, b] = number
    names = dict.fromkeys(name for pair in pairs for name in pair)
    if all(name.isdigit() for name in names):
        names = dict.fromkeys(sorted(names, key=int))
        if stated is not None:
            names = dict.fromkeys(map(str, range(stated)))
    place = {name: k for k, name in enumerate(names)}
    if stated is not None and (len(place) > stated or any(name not in place for pair in pairs for name in pair)):
        raise InputError(f"nodes beyond the {stated} that line {lines[0][0]} states; number them from 0")
    bonds = np.array([(place[a], place[b], 1) for a, b in pairs], dtype=np.int64).reshape(-1, 3)
    return Structure(np.zeros(stated if stated is not None else len(place), dtype=np.int64), bonds=bonds)


def graph6(structure: Structure) -> str:
    """A plain graph as one line of graph6; "?" is a graph without nodes.

    Raises:
        InputError: not a plain graph.
    """
    import networkx as nx

    _only_plain(structure, "graph6")
    return nx.to_graph6_bytes(convert.to_networkx(structure), header=False).decode()


def edge_list(structure: Structure) -> str:
    """A plain graph as `# nodes n` and one line `i j` per edge, nodes from 0, i < j, and an empty line behind.

    Raises:
        InputError: not a plain graph.
    """
    _only_plain(structure, "edge list")
    assert structure.bonds is not None
    return "".join([f"# nodes {structure.n_atoms}\n", *(f"{i} {j}\n" for i, j, _ in structure.bonds.tolist()), "\n"])


def _only_plain(structure: Structure, what: str) -> None:
    if structure.bonds is None or structure.numbers.any():
        raise InputError(f"{what}: expected a plain graph, got atoms; write .smi, .sdf or .json")


def _comment(line: str) -> bool:
    return line.lstrip()[:1] in ("#", "%")
