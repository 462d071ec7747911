"""Structure ↔ torch_geometric's `Data` (extra `pyg`).

PyG's `Batch` adds the number of earlier nodes to every field whose name contains "index" or "batch" (or is `face`), and stacks
the rest along the first axis. So only `edge_index` has such a name, and a cell is (1, 3, 3).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from sciar.errors import InputError
from sciar.structure import Structure

if TYPE_CHECKING:
    from torch_geometric.data import Data

_NODES = {"z": "numbers", "charge": "charges", "hydrogens": "hydrogens"}


def to_pyg(structure: Structure) -> Data:
    """The structure with both directions of each bond.

    Fields: `z` (n) atomic numbers, 0 for a vertex of a plain graph; `edge_index` (2, 2m) and `edge_attr` (2m) bond orders, where
    bonds are known; `pos` (n, 3) and `cell` (1, 3, 3) in Å, `charge` (n), `hydrogens` (n) where there are any. Stereo marks and
    `info` are left out.

    Raises:
        InputError: torch_geometric is not installed.
    """
    fields: dict[str, Any] = {name: _long(value) for name, key in _NODES.items() if (value := getattr(structure, key)) is not None}
    if structure.bonds is not None:
        ends, orders = structure.bonds[:, :2].T, structure.bonds[:, 2]
        fields["edge_index"] = _long(np.concatenate([ends, ends[::-1]], 1))
        fields["edge_attr"] = _long(np.concatenate([orders, orders]))
    for name, array in (("pos", structure.positions), ("cell", None if structure.cell is None else structure.cell[None])):
        if array is not None:
            fields[name] = torch.tensor(array, dtype=torch.float32)
    return _data()(num_nodes=structure.n_atoms, **fields)


def from_pyg(data: Data) -> Structure:
    """The structure of a `Data` as `to_pyg` makes it; also of any undirected simple graph with `edge_index` alone.

    Raises:
        InputError: self-loops, an edge that stands twice, or edges that stand in one direction only.
    """
    array = lambda name: None if data.get(name) is None else data[name].detach().cpu().numpy()  # noqa: E731
    n = int(data.num_nodes or 0)
    bonds = None
    if (edges := array("edge_index")) is not None:
        orders = array("edge_attr")
        if orders is None or orders.ndim > 1:  # features of somebody else, no bond orders
            orders = np.ones(edges.shape[1])
        loops, once = edges[0] == edges[1], np.unique(edges, axis=1).shape[1] == edges.shape[1]
        if loops.any():
            raise InputError(f"from_pyg: expected no self-loops, got one of node {edges[0][loops][0]}; remove it")
        table = np.zeros((n, n), dtype=np.int64)
        table[tuple(edges)] = orders.astype(np.int64)
        if not once or not np.array_equal(table, table.T):
            raise InputError("from_pyg: expected each edge once in both directions, got others; use torch_geometric.utils.to_undirected")
        i, j = np.nonzero(np.triu(table))
        bonds = np.stack([i, j, table[i, j]], 1)
    numbers, cell = array("z"), array("cell")
    return Structure(
        np.zeros(n, dtype=np.int64) if numbers is None else numbers,
        positions=array("pos"),
        cell=None if cell is None else cell.reshape(3, 3),
        bonds=bonds,
        charges=array("charge"),
        hydrogens=array("hydrogens"),
    )


def _long(values: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.array(values, dtype=np.int64))


def _data() -> Any:
    try:
        from torch_geometric.data import Data
    except ImportError:
        raise InputError("to_pyg: expected torch_geometric, which is not installed; pip install 'sciar[pyg]'") from None
    return Data
