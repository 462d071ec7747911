"""The store gives back what was put in, whatever happens while it is written."""

from __future__ import annotations

import multiprocessing
import pickle
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from sciar import datasets
from sciar.datasets import Info, Rejected, Store, Writer
from sciar.datasets.store import SPLITS
from sciar.errors import DataError
from sciar.structure import Structure

FACTS = Info("numbers", "1", "", "", "", (), (), shard_items=10)


@pytest.fixture(autouse=True, scope="module")
def no_waiting_for_the_disk() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", lambda _: None)
        yield


@st.composite
def structures(draw: st.DrawFn) -> Structure:
    n = draw(st.integers(0, 6))

    def maybe(strategy: st.SearchStrategy) -> object:
        return draw(st.none() | strategy)

    pairs = [(i, j) for i in range(n) for j in range(i + 1, n)]
    bonds = st.lists(st.sampled_from(pairs), unique=True) if pairs else st.just([])
    mark = st.integers(-1, n - 1)
    return Structure(
        draw(arrays(np.int64, n, elements=st.integers(0, 118))),
        positions=maybe(arrays(np.float32, (n, 3), elements=st.floats(-50, 50, width=32))),
        cell=maybe(arrays(np.float64, (3, 3), elements=st.floats(-9, 9))),
        bonds=maybe(bonds.map(lambda chosen: [(*pair, 1 + k % 3) for k, pair in enumerate(chosen)])),
        charges=maybe(arrays(np.int64, n, elements=st.integers(-4, 4))),
        hydrogens=maybe(arrays(np.int64, n, elements=st.integers(0, 4))),
        tetrahedral=maybe(st.lists(st.tuples(mark, mark, mark, mark, mark), max_size=2)) if n else None,
        double_bonds=maybe(st.lists(st.tuples(mark, mark, mark, mark, st.integers(0, 1)), max_size=2)) if n else None,
        info=draw(
            st.fixed_dictionaries(
                {},
                optional={
                    "gap_eV": st.floats(-1e9, 1e9),
                    "name": st.text(alphabet=st.characters(exclude_characters="\0", exclude_categories=["Cs"])),
                    "isotopes": st.lists(st.integers(0, 20)).map(tuple),
                    "split": st.sampled_from(SPLITS),
                },
            )
        ),
    )


def same(a: Structure, b: Structure) -> bool:
    fields = ("numbers", "positions", "cell", "bonds", "charges", "hydrogens", "tetrahedral", "double_bonds")
    for left, right in ((getattr(a, field), getattr(b, field)) for field in fields):
        if (left is None) != (right is None) or (left is not None and not np.array_equal(left, right)):
            return False
    return dict(a.info) == dict(b.info)


@settings(max_examples=25, deadline=None)
@given(rows=st.lists(structures(), max_size=8), shard_items=st.integers(1, 4))
def test_round_trip(tmp_path_factory: pytest.TempPathFactory, rows: list[Structure], shard_items: int) -> None:
    path = tmp_path_factory.mktemp("store")
    with Writer(path, shard_items=shard_items) as writer:
        for row in rows:
            writer.add(row)
    store = Store(path)
    assert store.complete and len(store) == len(rows)
    assert all(same(a, b) for a, b in zip(store, rows, strict=True))
    assert store.n_atoms().tolist() == [row.n_atoms for row in rows]


def numbered(start: int, n: int = 200, seconds: float = 0.0) -> Iterator[Structure | Rejected]:
    for row in range(start, n):
        time.sleep(seconds)
        yield Rejected(row, "seven: lucky") if row % 7 == 0 else Structure([6] * (row % 5 + 1), info={"row": row})


def build_slowly(path: Path) -> None:
    datasets.build(path, lambda start: numbered(start, seconds=0.005), FACTS)


def test_killed_and_resumed_without_loss_or_duplicates(tmp_path: Path) -> None:
    process = multiprocessing.Process(target=build_slowly, args=(tmp_path,))
    process.start()
    while len(list(tmp_path.glob("shard-*.npz"))) < 3:
        time.sleep(0.01)
    growing = Store(tmp_path)
    assert not growing.complete and len(growing) >= 20
    with pytest.raises(DataError, match="being built by another process"):
        Writer(tmp_path)
    process.kill()
    process.join()
    starts = []

    def read(start: int) -> Iterator[Structure | Rejected]:
        starts.append(start)
        return numbered(start)

    store = datasets.build(tmp_path, read, FACTS)
    assert starts[0] >= 30 and starts[0] % 10 == 0
    assert store.complete
    assert store.column("row").tolist() == [row for row in range(200) if row % 7]  # type: ignore[union-attr]
    assert [item.row for item in store.report.rejected] == list(range(0, 200, 7))
    assert store.report.summary() == "171 structures; 29 rows rejected: 29 seven"
    assert len(growing) < 171, "an open store does not change"


def test_failed_source_keeps_finished_shards(tmp_path: Path) -> None:
    def broken(start: int) -> Iterator[Structure | Rejected]:
        yield from numbered(start, 25)
        raise OSError("disk on fire")

    with pytest.raises(OSError, match="fire"):
        datasets.build(tmp_path, broken, FACTS)
    assert not Store(tmp_path).complete
    assert datasets.build(tmp_path, lambda start: numbered(start, 50), FACTS).column("row").tolist() == [r for r in range(50) if r % 7]  # type: ignore[union-attr]


def test_views_columns_and_pickle(tmp_path: Path) -> None:
    with Writer(tmp_path, shard_items=3) as writer:
        for row in range(10):
            info = {"row": row, "split": "test", "even": "no"} if row % 2 else {"row": row, "split": "train", "gap_eV": row / 2}
            writer.add((Structure([row + 1], info=info), Structure([row + 1, 1], info=info)))
    store = Store(tmp_path)
    assert (len(store), store.splits, store.columns) == (20, ("train", "test"), ("even", "gap_eV", "row", "split"))
    view = pickle.loads(pickle.dumps(store.split("test")[2:6]))
    assert [s.info["row"] for s in view] == [3, 3, 5, 5]
    assert view.column("even") == ["no"] * 4
    assert np.isnan(view.column("gap_eV")).all()
    assert view.n_atoms().tolist() == [1, 2, 1, 2]
    assert store[-1].n_atoms == 2 and len(store.select(store.n_atoms() == 1)) == 10
    with pytest.raises(IndexError):
        store[20]
    with pytest.raises(DataError, match="no 'validation' split, only train, test"):
        store.split("validation")
    with pytest.raises(DataError, match="expected one of even, gap_eV, row, split, got 'gap'"):
        store.column("gap")


def test_refuses_what_it_cannot_hold(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="got none; build it"):
        Store(tmp_path)
    writer = Writer(tmp_path / "new")
    with pytest.raises(DataError, match="number, text or tuple in info"):
        writer.add(Structure([6], info={"what": [1]}))
    with pytest.raises(DataError, match="at most 32767 atoms"):
        writer.add(Structure(np.ones(40_000)))
    (tmp_path / "shard-00000.npz").write_bytes(b"PK")
    with pytest.raises(DataError, match="broken"):
        Store(tmp_path)
