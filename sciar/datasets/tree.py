"""200 random trees of 64 nodes; see `sciar.datasets.graphs`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from sciar.datasets import File, Info, graphs
from sciar.structure import Structure

INFO = Info(
    name="tree",
    version="1",
    description="200 random trees of 64 nodes",
    licence=graphs.LICENCE,
    citation="Bergmeister et al., Efficient and scalable graph generation, ICLR 2024",
    sources=("https://github.com/AndreasBergmeister/graph-generation",),
    files=((File(graphs.NAME, graphs.CHECKSUM),), ()),
    n_rows=200,
)


def read(root: Path, start: int = 0) -> Iterator[Structure]:
    """The published graphs, or 200 new ones of their law."""
    return graphs.read(root, "tree", "split", graphs.tree, 200, start)
