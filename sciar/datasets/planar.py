"""200 planar graphs of 64 nodes (Delaunay triangulations of random points); see `sciar.datasets.graphs`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from sciar.datasets import File, Info, graphs
from sciar.structure import Structure

INFO = Info(
    name="planar",
    version="1",
    description="200 planar graphs of 64 nodes (Delaunay triangulations of random points)",
    licence=graphs.LICENCE,
    citation="Martinkus et al., SPECTRE, ICML 2022",
    sources=("https://github.com/KarolisMart/SPECTRE",),
    files=((File(graphs.NAME, graphs.CHECKSUM),), ()),
    n_rows=200,
)


def read(root: Path, start: int = 0) -> Iterator[Structure]:
    """The published graphs, or 200 new ones of their law."""
    return graphs.read(root, "planar", "split_spectre", graphs.planar, 200, start)
