from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sciar.batch import TokenArrays, collate, token_field
from sciar.errors import DataError
from sciar.loader import Batches, plan


@dataclass(frozen=True)
class Toy:
    value: np.ndarray = token_field("items", "int16", -1)
    vector: np.ndarray = token_field("items", "float32")
    note: str = ""


def toys(lengths: list[int]) -> list[Toy]:
    return [Toy(np.arange(n), np.full((n, 2), float(n))) for n in lengths]


@given(st.lists(st.integers(0, 20), min_size=1, max_size=20))
def test_a_record_alone_is_the_record_in_a_batch(lengths: list[int]) -> None:
    batch = collate(Toy, toys(lengths))
    assert batch["value"].shape[1] % 8 == 0 or batch["value"].shape[1] == 1
    for row, n in enumerate(lengths):
        assert batch.masks["items"][row].sum() == n
        assert batch["value"][row, :n].tolist() == list(range(n))
        assert (batch["value"][row, n:] == -1).all()
        assert (batch["vector"][row, :n] == n).all()


def test_saved_arrays_come_back(tmp_path) -> None:
    arrays = TokenArrays.from_tokens(Toy, toys([3, 0, 5]))
    arrays.save(tmp_path / "a")
    again = TokenArrays.load(Toy, tmp_path / "a")
    both = TokenArrays.concatenated([again, arrays.subset(np.array([2]))])
    assert both.lengths("items").tolist() == [3, 0, 5, 5]
    assert both.batch(np.array([3]))["value"][0, :5].tolist() == [0, 1, 2, 3, 4]
    (tmp_path / "a" / "value.npy").unlink()
    with pytest.raises(DataError, match="delete it to prepare again"):
        TokenArrays.load(Toy, tmp_path / "a")


def test_packed_arrays_come_back(tmp_path) -> None:
    arrays, path = TokenArrays.from_tokens(Toy, toys([3, 0, 5])), tmp_path / "a.npz"
    arrays.pack(path)
    again = TokenArrays.load(Toy, path)
    assert again.lengths("items").tolist() == [3, 0, 5] and again.fields == arrays.fields
    assert all(
        np.array_equal(again.arrays[name], value) and again.arrays[name].dtype == value.dtype for name, value in arrays.arrays.items()
    )
    whole = path.read_bytes()
    for broken in (whole[:-30], b"no arrays", b""):
        path.write_bytes(broken)
        with pytest.raises(DataError, match="delete it to prepare again"):
            TokenArrays.load(Toy, path)
    np.savez(path, other=np.zeros(3))
    with pytest.raises(DataError, match="delete it to prepare again"):
        TokenArrays.load(Toy, path)


@given(st.lists(st.integers(1, 60), min_size=1, max_size=200), st.integers(64, 400))
def test_every_record_once_per_epoch_within_the_budget(lengths: list[int], budget: int) -> None:
    arrays = TokenArrays.from_tokens(Toy, toys(lengths))
    batches = plan(arrays, budget, 0, 0)
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(lengths)))
    for rows in batches:
        width = max(-(-lengths[r] // 8) * 8 for r in rows)
        assert len(rows) == 1 or len(rows) * width <= budget


def test_the_stream_continues_where_it_stopped_and_ranks_share_it() -> None:
    arrays = TokenArrays.from_tokens(Toy, toys(list(range(1, 40))))

    def first(count: int, **where: int) -> list[list[int]]:
        stream = iter(Batches(arrays, 64, 0, **where))
        return [next(stream).masks["items"].sum(1).tolist() for _ in range(count)]

    whole = first(60)
    assert first(30, start=30) == whole[30:]
    even, odd = first(6, rank=0, ranks=2), first(6, rank=1, ranks=2)
    assert [x for pair in zip(even, odd, strict=True) for x in pair] == whole[:12]


@given(st.lists(st.integers(1, 60), min_size=1, max_size=200))
def test_over_an_epoch_every_record_counts_alike_though_long_ones_stand_in_small_batches(lengths: list[int]) -> None:
    arrays, stream = TokenArrays.from_tokens(Toy, toys(lengths)), []
    n = len(plan(arrays, 120, 0, 0))
    for batch, _ in zip(Batches(arrays, 120, 0), range(n), strict=False):
        stream.append(batch.to("cpu").mean(batch.masks["items"].sum(1).double()))
    assert torch.stack(stream).mean() == pytest.approx(np.mean(lengths))
