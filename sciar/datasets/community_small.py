"""100 graphs of two small communities, 12–20 nodes; see `sciar.datasets.graphs`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from sciar.datasets import File, Info, graphs
from sciar.structure import Structure

INFO = Info(
    name="community_small",
    version="1",
    description="100 graphs of two small communities, 12–20 nodes",
    licence=graphs.LICENCE,
    citation="You et al., GraphRNN, ICML 2018; file of Jo et al. (GDSS), ICML 2022",
    sources=("https://github.com/harryjo97/GDSS",),
    files=((File(graphs.NAME, graphs.CHECKSUM),), ()),
    n_rows=100,
)


def read(root: Path, start: int = 0) -> Iterator[Structure]:
    """The published graphs, or 100 new ones of their law."""
    return graphs.read(root, "community_small", "split_gdss", graphs.community, 100, start)
