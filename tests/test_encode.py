"""Chunks: the same arrays as in one piece, and only what is missing is made again."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import numpy as np
import pytest

from sciar import datasets, encode
from sciar.batch import TokenArrays
from sciar.families.blocks import Tokenizer, TokenizerConfig, Tokens


def test_chunks_are_the_whole_and_resume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    structures = datasets.samples("qm9")[:50]
    tokenizer = Tokenizer(TokenizerConfig(atoms=("C", "N"), max_atoms=9))  # those with oxygen are left out
    whole = TokenArrays.from_tokens(Tokens, tokenizer.encode_many(structures))
    monkeypatch.setattr(encode, "CHUNK", 16)
    made: list[int] = []
    chunk = encode._chunk

    def failing(job: tuple) -> None:
        if len(made) == 2:
            raise OSError("disk full")
        made.append(1)
        chunk(job)

    monkeypatch.setattr(encode, "_chunk", failing)
    with pytest.raises(OSError, match="disk full"):
        encode.write(Tokens, tokenizer, structures, tmp_path / "tokens")
    assert not (tmp_path / "tokens" / "index.json").exists()
    monkeypatch.setattr(encode, "_chunk", lambda job: made.append(2) or chunk(job))
    told: list[tuple[int, int]] = []
    encode.write(Tokens, tokenizer, structures, tmp_path / "tokens", lambda done, total: told.append((done, total)))
    assert made == [1, 1, 2, 2] and told[-1] == (50, 50) and not (tmp_path / "tokens.chunks").exists()
    again = TokenArrays.load(Tokens, tmp_path / "tokens")
    assert len(again) == len(whole) < 50
    for name, array in whole.arrays.items():
        assert np.array_equal(again.arrays[name], array, equal_nan=array.dtype.kind == "f")
    for axis, offsets in whole.offsets.items():
        assert np.array_equal(again.offsets[axis], offsets)


def test_two_at_once_make_it_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second waits for the first and finds everything done."""
    structures, tokenizer = datasets.samples("qm9")[:30], Tokenizer(TokenizerConfig(max_atoms=9))
    monkeypatch.setattr(encode, "CHUNK", 16)
    made: list[int] = []
    chunk, begun = encode._chunk, threading.Event()

    def slow(job: tuple) -> None:
        begun.set()
        time.sleep(0.05)
        made.append(1)
        chunk(job)

    monkeypatch.setattr(encode, "_chunk", slow)
    other = threading.Thread(target=encode.write, args=(Tokens, tokenizer, structures, tmp_path / "tokens"))
    other.start()
    begun.wait()
    encode.write(Tokens, tokenizer, structures, tmp_path / "tokens")
    other.join()
    assert made == [1, 1] and len(TokenArrays.load(Tokens, tmp_path / "tokens"))
