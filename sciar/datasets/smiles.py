"""Molecular graphs from SMILES."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import islice

from sciar.convert import from_smiles
from sciar.datasets.store import Rejected
from sciar.errors import InputError
from sciar.structure import Structure

_BATCH = 65_536  # a pool reads its input ahead without bound; batches keep the memory small


def graphs(smiles: Iterable[tuple[int, str, str]]) -> Iterator[Structure | Rejected]:
    """Molecules without positions, hydrogens as counts, from (row, SMILES, split); in order, by all processors.

    The SMILES as it is written is kept in `info`.
    """
    rows = iter(smiles)
    # an executor asks its workers to end; a Pool sends SIGTERM, which a worker that inherits a handler may miss and wait for ever
    with ProcessPoolExecutor() as pool:
        while batch := list(islice(rows, _BATCH)):
            yield from pool.map(_graph, batch, chunksize=256)


def _graph(line: tuple[int, str, str]) -> Structure | Rejected:
    row, smiles, split = line
    try:
        return from_smiles(smiles, explicit_hydrogens=False).with_info(smiles=smiles, split=split)
    except InputError as error:
        return Rejected(row, f"not a molecule: {error}")
