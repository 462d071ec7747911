"""200 small neighbourhoods of the Citeseer graph, 4–18 nodes; see `sciar.datasets.graphs`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from sciar.datasets import File, Info, graphs
from sciar.structure import Structure

INFO = Info(
    name="ego_small",
    version="1",
    description="200 small neighbourhoods of the Citeseer graph, 4–18 nodes",
    licence=graphs.LICENCE,
    citation="You et al., GraphRNN, ICML 2018; file of Jo et al. (GDSS), ICML 2022",
    sources=("https://github.com/harryjo97/GDSS",),
    files=((File(graphs.NAME, graphs.CHECKSUM),), ()),
    n_rows=200,
)


def read(root: Path, start: int = 0) -> Iterator[Structure]:
    """The published graphs, or 200 new ones of their law."""
    return graphs.read(root, "ego_small", "split_gdss", graphs.ego, 200, start)
