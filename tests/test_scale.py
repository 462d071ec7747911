"""Runs in shards: whoever draws them, whoever is killed, every draw is there once and is what one process draws."""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from fake import weights

import sciar
from sciar import cli, scale
from sciar.bench.given import records
from sciar.errors import InputError, SciarError
from sciar.samples import Samples
from sciar.shards import Shards

ray = pytest.importorskip("ray")
ASKED: dict[str, Any] = {"smiles": ["CCO", "C1CC", "CC=O"], "n": 30, "seed": 3, "retry": 1, "nfe": 2}  # 90 samples, 30 of them refused


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[1])]))  # of the workers
        patch.setenv("RAY_worker_niceness", "0")
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        before = signal.getsignal(signal.SIGTERM)
        ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=100 * 2**20)
        yield
        ray.shutdown()
        signal.signal(signal.SIGTERM, before)  # Ray leaves its own


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return weights.save(tmp_path, broken=0.4, poison=str(tmp_path / "poison"))


def equal(a: Samples, b: Samples) -> bool:
    pd.testing.assert_frame_equal(a.df, b.df)
    pairs = zip(a, b, strict=True)
    assert a.to_sdf() == b.to_sdf() and a.to_smiles() == b.to_smiles()
    return all(np.array_equal(x.structure.positions, y.structure.positions) for x, y in pairs if x.structure.n_atoms)


def without_types(table: pd.DataFrame) -> pd.DataFrame:
    """A column without any value has no type of its own."""
    return table.astype(object).where(table.notna(), None)


def test_two_workers_one_killed_and_one_worker_resumed(
    cluster: None, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    reference = sciar.generate(**ASKED, model=model)
    (tmp_path / "poison").touch()
    shards = scale.generate(**ASKED, model=model, out=tmp_path / "two", shard=16, workers=2)
    assert not (tmp_path / "poison").exists()  # a worker was killed in the middle of a shard
    assert shards.df["index"].tolist() == list(range(90)) and not shards.df.duplicated(["row", "draw"]).any()
    pd.testing.assert_frame_equal(without_types(shards.df.drop(columns="index")), without_types(reference.df))
    assert equal(shards.samples(), reference)
    assert shards.run.reasons == reference.run.reasons and shards.summary() == reference.summary()
    assert "".join(path.read_text() for path in shards.paths("sdf")) == reference.to_sdf()
    assert "".join(path.read_text() for path in shards.paths("smi")) == reference.to_smiles()
    assert len(pd.read_parquet(tmp_path / "two" / "parquet")) == 90
    drawn = [structure for _, structure in records(tmp_path / "two") if not isinstance(structure, str)]
    assert [(s.info["SCIAR_ROW"], s.info["SCIAR_DRAW"], s.formula) for s in drawn] == [
        (str(r.row), str(r.draw), r.verdict.structure.formula) for r in reference.records
    ]

    # one worker, killed again, and no patience: what is finished is kept, and the same call goes on
    seen: list[int] = []

    def poisoned(done: int, total: int) -> None:
        seen.append(done)
        if done == 64:
            (tmp_path / "poison").touch()

    monkeypatch.setattr(scale, "LOSSES", 0)
    with pytest.raises(SciarError, match="shard 4: expected a worker that finishes it, got 1 that were lost"):
        scale.generate(**ASKED, model=model, out=tmp_path / "one", shard=16, workers=1, progress=poisoned)
    part = Shards(tmp_path / "one")
    assert seen == [0, 16, 32, 48, 64] and part.n_draws() == 64 and "2 of 6 shards left" in part.summary()
    with pytest.raises(InputError, match="one: expected 90 draws, got 64; draw the rest"):
        list(records(tmp_path / "one"))
    early = {path: path.stat().st_mtime_ns for path in part.paths("parquet")}
    line = f"--smiles-file {tmp_path / 'in.smi'} -n 30 --seed 3 --retry 1 --nfe 2 --model {model} --ray --workers 1 --shard 16"
    (tmp_path / "in.smi").write_text("CCO\nC1CC\nCC=O\n")
    assert cli.run(["generate", "conformer", *line.split(), "-o", str(tmp_path / "one")]) == 2  # a row is refused
    assert capfd.readouterr().out.endswith(f"{reference.summary()}\n")
    assert {path: path.stat().st_mtime_ns for path in early} == early
    assert equal(Shards(tmp_path / "one").samples(), reference)


def test_an_error_of_the_draw_is_not_tried_again(cluster: None, model: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nfe: expected a whole number, got 'ten'"):
        scale.generate("molecule", n=4, model=model, out=tmp_path / "new", workers=1, nfe="ten")


def test_a_folder_is_of_one_request(model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "new"
    facts = {"arguments": {"task": "molecule", "n": 20, "drop_invalid": False}, "weights_sha256": "ab", "seed": None, "shard": 5}
    more = {"model": "fake", "n_requested": 20, "formats": ["sdf"], "refused": {}, "versions": {}}
    first = Shards.begun(folder, facts, more)
    assert Shards.begun(folder, facts, more).manifest == first.manifest  # no seed = that of the folder
    for name, other in {
        "seed": {**facts, "seed": first.manifest["seed"] + 1},
        "shard": {**facts, "shard": 6},
        "weights_sha256": {**facts, "weights_sha256": "cd"},
        "nfe": {**facts, "arguments": {**facts["arguments"], "nfe": 2}},
        "n": {**facts, "arguments": {**facts["arguments"], "n": 21}},
    }.items():
        with pytest.raises(InputError, match=f"with {name} = .*, got {name} = .*; choose another folder"):
            Shards.begun(folder, other, more)
    (folder / "parquet" / "00002.parquet").write_bytes(b"PAR1 cut off")
    assert first.n_draws() == 0 and first.summary() == "0 valid of 0 drawn; 20 requested; 4 of 4 shards left"
    assert first.df.empty and len(first.samples()) == 0
    with pytest.raises(InputError, match="expected a folder with a manifest.json"):
        Shards(tmp_path)


@pytest.mark.parametrize(
    "wrong, says",
    [
        ({"ray_address": "nowhere"}, "expected local, auto, HOST:PORT or ray://HOST:PORT, got 'nowhere'"),
        ({"ray_address": "127.0.0.1:99999"}, "expected a cluster at 127.0.0.1:99999, got none"),
        ({"shard": 0}, "shard: expected a whole number"),
        ({"workers": 0}, "workers: expected a whole number"),
        ({"device": "cuda:1"}, "device: expected 'auto', 'cpu' or 'cuda'"),
        ({"keep": 0.5}, "without keep="),
        ({"nonsense": 1}, "option: expected"),
        ({"out": "a/b"}, "expected an existing folder"),
        ({"out": __file__}, "expected a folder for shards, got the file"),
        ({"out": str(Path(__file__).parent)}, "expected a new or empty folder"),
    ],
)
def test_refused_at_once(wrong: dict[str, Any], says: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with pytest.raises(InputError, match=says):
        scale.generate(**{"task": "molecule", "n": 4, "model": model, "out": tmp_path / "new", **wrong})


@pytest.mark.parametrize("listens", [False, True])
def test_nobody_at_the_address(
    listens: bool, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(scale, "WAIT", 1.0)
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        if listens:  # and says nothing
            server.listen()
        address = f"127.0.0.1:{server.getsockname()[1]}"
        started = time.perf_counter()
        assert cli.run(["generate", "molecule", "--model", str(model), "--ray", address, "-o", str(tmp_path / "new")]) == 2
    said = capfd.readouterr().err
    assert said.startswith(f"sciar: ray: expected a cluster at {address}, got none (") and said.count("\n") == 1
    assert time.perf_counter() - started < 10  # s; 1 on an idle machine


@pytest.mark.parametrize("package", ["ray", "pyarrow.parquet"])
def test_without_the_extra(package: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InputError, match=r"got none; pip install 'sciar\[ray\]'"):
        scale.generate("molecule", model=model, out=tmp_path / "new")


def test_words_of_the_command_line(model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["generate", "molecule", "--model", str(model), "--ray"]) == 2
    assert "expected a folder for --ray, got none" in capfd.readouterr().err
    assert cli.run(["generate", "molecule", "--model", str(model), "--shard", "5"]) == 2
    assert "expected --ray with --shard" in capfd.readouterr().err
