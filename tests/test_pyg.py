"""torch_geometric: back and forth, and nothing moves when PyG makes a batch."""

from __future__ import annotations

import sys

import networkx as nx
import numpy as np
import pytest
from molecules import conformer, rock_salt

from sciar.convert import from_networkx, from_smiles
from sciar.errors import InputError
from sciar.pyg import from_pyg, to_pyg
from sciar.structure import Structure

pytest.importorskip("torch_geometric")
STRUCTURES = [
    from_networkx(nx.petersen_graph()),
    from_networkx(nx.empty_graph(3)),
    conformer("CC(=O)[O-]"),
    from_smiles("c1cc[nH]c1", explicit_hydrogens=False),
    rock_salt(),
]


def same(a: Structure, b: Structure) -> bool:
    for name in ("numbers", "positions", "cell", "bonds", "charges", "hydrogens"):
        x, y = getattr(a, name), getattr(b, name)
        if (x is None) != (y is None) or (x is not None and not np.allclose(x, y, atol=1e-5)):
            return False
    return True


@pytest.mark.parametrize("structure", STRUCTURES, ids=str)
def test_round_trip(structure: Structure) -> None:
    assert same(from_pyg(to_pyg(structure)), structure)


def test_a_batch_is_its_parts() -> None:
    from torch_geometric.data import Batch

    for parts in ([STRUCTURES[0], STRUCTURES[1]], [STRUCTURES[2]] * 2, [STRUCTURES[4]] * 3):
        batch = Batch.from_data_list([to_pyg(s) for s in parts])
        assert all(same(from_pyg(data), s) for data, s in zip(batch.to_data_list(), parts, strict=True))
    assert tuple(batch.cell.shape) == (3, 3, 3)


def test_a_graph_of_others() -> None:
    from torch_geometric.utils import from_networkx as pyg_from_networkx

    found = from_pyg(pyg_from_networkx(nx.cycle_graph(4)))
    assert found.bonds is not None and found.bonds.tolist() == [[0, 1, 1], [0, 3, 1], [1, 2, 1], [2, 3, 1]]


@pytest.mark.parametrize(
    ("edges", "words"), [([[0, 1, 1], [1, 0, 1]], "self-loops"), ([[0], [1]], "both directions"), ([[0, 1, 0], [1, 0, 1]], "once")]
)
def test_other_graphs_are_refused(edges: list, words: str) -> None:
    import torch
    from torch_geometric.data import Data

    with pytest.raises(InputError, match=words):
        from_pyg(Data(edge_index=torch.tensor(edges), num_nodes=2))


def test_without_torch_geometric(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch_geometric.data", None)
    with pytest.raises(InputError, match=r"sciar\[pyg\]"):
        to_pyg(STRUCTURES[0])
