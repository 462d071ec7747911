"""The front door with a fake model: the same draws whatever the batch, the retries or the interruptions."""

from __future__ import annotations

import importlib
import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake import weights
from rdkit import Chem

import sciar
from sciar import checkpoint
from sciar.generate import rerun
from sciar.samples import Samples

TWO = ["CC(C)Cc1ccc(cc1)[C@H](C)C(=O)O", "CCO"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return weights.save(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def shaky(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return weights.save(tmp_path_factory.mktemp("weights"), broken=0.5)


def same(a: Samples, b: Samples) -> bool:
    return len(a) == len(b) and all(
        x.reasons == y.reasons and np.array_equal(x.structure.positions, y.structure.positions) for x, y in zip(a, b, strict=True)
    )


def test_one_smiles(model: Path) -> None:
    samples = sciar.generate(smiles=TWO[0], n=3, seed=0, model=model)
    assert len(samples) == 3 and samples.valid.all()
    assert [(r.row, r.draw, r.attempts) for r in samples.records] == [(0, 0, 1), (0, 1, 1), (0, 2, 1)]
    assert Chem.MolToSmiles(Chem.RemoveHs(samples.mols[0])) == Chem.CanonSmiles(TWO[0])
    assert samples.run.task == "conformer" and samples.run.n_drawn == samples.run.n_requested == 3
    assert not np.array_equal(samples[0].structure.positions, samples[1].structure.positions)


def test_draw_i_depends_on_seed_and_i_alone(shaky: Path) -> None:
    reference = sciar.generate(smiles=TWO, n=6, seed=7, model=shaky)
    for batch_size in (1, 5, 64):
        assert same(reference, sciar.generate(smiles=TWO, n=6, seed=7, model=shaky, batch_size=batch_size))
    assert not same(reference, sciar.generate(smiles=TWO, n=6, seed=8, model=shaky))
    longer = sciar.generate(smiles=TWO[0], n=9, seed=7, model=shaky)
    assert same(reference[:6], longer[:6])


def test_no_seed_is_a_new_seed_and_the_report_tells(model: Path) -> None:
    a, b = (sciar.generate(smiles="CCO", model=model) for _ in range(2))
    assert a.run.seed != b.run.seed
    assert same(a, sciar.generate(smiles="CCO", model=model, seed=a.run.seed))


def test_retry_redraws_only_failures_and_counts_every_draw(shaky: Path) -> None:
    plain = sciar.generate(smiles="CCO", n=40, seed=1, model=shaky)
    samples = sciar.generate(smiles="CCO", n=40, seed=1, model=shaky, retry=3)
    for old, new in zip(plain.records, samples.records, strict=True):
        if old.valid:
            assert new.attempts == 1 and np.array_equal(old.verdict.structure.positions, new.verdict.structure.positions)
        else:
            assert new.attempts > 1
    assert samples.valid.sum() > plain.valid.sum()
    run = samples.run
    assert run.n_drawn == sum(r.attempts for r in samples.records) > 40
    assert run.n_drawn == run.n_valid + sum(run.reasons.values())
    assert "40 requested" in samples.summary()


def test_fallback_is_flagged(tmp_path: Path) -> None:
    broken = weights.save(tmp_path, broken=1.0)
    samples = sciar.generate(smiles="CCO", n=3, seed=0, model=broken, retry=1, fallback="etkdg")
    assert samples.valid.all() and samples.run.n_valid == 0 and samples.run.n_fallback == 3 and samples.run.n_drawn == 6
    assert all(r.properties["SCIAR_FALLBACK"] == "etkdg" for r in samples.records)
    assert "0 valid of 6 drawn" in samples.summary() and "3 replaced by ETKDG" in samples.summary()
    assert len({tuple(s.structure.positions[0]) for s in samples}) == 3
    assert not sciar.generate(smiles="CCO", n=3, seed=0, model=broken).valid.any()


def test_keep_takes_the_best_of_each_row_and_reports_draws(model: Path) -> None:
    every = sciar.generate(smiles=TWO, n=10, seed=0, model=model)
    best = sciar.generate(smiles=TWO, n=10, seed=0, model=model, keep=0.2)
    assert len(best) == 4 and best.run.n_drawn == 20 and "4 kept" in best.summary()
    for row in (0, 1):
        scores = sorted((r.score for r in every.records if r.row == row), reverse=True)
        assert {r.score for r in best.records if r.row == row} == set(scores[:2])
    with pytest.raises(sciar.InputError, match="scores its samples"):
        sciar.generate(smiles="CCO", n=10, model=model, keep=0.5, score=False)


def test_out_of_memory_halves_the_batch(tmp_path: Path, model: Path) -> None:
    small = weights.save(tmp_path, memory=3)
    reference = sciar.generate(smiles=TWO, n=20, seed=0, model=model)
    assert same(reference, sciar.generate(smiles=TWO, n=20, seed=0, model=small, batch_size=64))


def test_out_of_memory_for_one_is_one_sentence(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = sciar.load(model)

    def sample(*_: Any, **__: Any) -> Any:
        raise MemoryError

    monkeypatch.setattr(generator.model, "sample", sample)
    with pytest.raises(sciar.SciarError, match="room for one sample"):
        generator.generate(smiles="CCO")


def test_generator_and_load(model: Path) -> None:
    generator = sciar.load(model, device="cpu")
    assert sciar.load(model, device="cpu") is generator  # weights are read once
    assert same(generator.generate(smiles="CCO", seed=3), sciar.generate(smiles="CCO", seed=3, model=model))
    assert "conformer, molecule" in repr(generator) and generator.card["trained_on"] == "nothing"


def test_de_novo_and_bundled_default(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "BUNDLED", model.parent)
    samples = sciar.generate("molecule", n=5, seed=0)
    assert samples.run.model == "fake" and samples.run.task == "molecule" and len(samples) == 5


def test_stream_gives_the_same_verdicts(shaky: Path) -> None:
    stream = sciar.generate(smiles=TWO, n=4, seed=2, model=shaky, stream=True)
    first = next(stream)
    everything = [first, *stream]
    reference = sciar.generate(smiles=TWO, n=4, seed=2, model=shaky)
    assert [v.reasons for v in everything] == [v.reasons for v in reference]
    with pytest.raises(sciar.InputError, match="stream: expected a model that draws coarse to fine"):
        sciar.generate(smiles=TWO, model=shaky, stream="levels")


def test_progress(model: Path) -> None:
    seen: list[tuple[int, int]] = []
    sciar.generate(smiles="CCO", n=5, model=model, progress=lambda *at: seen.append(at))
    assert seen == [(k, 5) for k in range(1, 6)]


def test_bad_rows_among_good_ones_are_counted(model: Path, tmp_path: Path) -> None:
    samples = sciar.generate(smiles=["CCO", "C1CC", "[Na+].[Cl-]", "C"], n=2, seed=0, model=model, out=tmp_path / "x.smi")
    assert len(samples) == 8 and samples.valid.tolist() == [True, True, False, False, False, False, True, True]
    assert samples.run.n_drawn == 4 and samples.run.n_requested == 8 and sorted(samples.run.refused) == [1, 2]
    assert samples.mols[2] is None and samples[2].reasons[0].startswith("input: smiles 'C1CC'")
    assert (tmp_path / "x.smi").read_text() == "CCO\nCCO\n\n\n\n\nC\nC\n"
    assert "2 input rows refused" in samples.summary()


def test_report_reruns(shaky: Path) -> None:
    samples = sciar.generate(smiles=TWO, n=3, seed=5, model=shaky, retry=1, nfe=4)
    report = json.loads(json.dumps(samples.report()))
    assert same(samples, rerun(report))
    assert report["network_calls_per_sample"] == 4 and report["n_drawn"] == samples.run.n_drawn and report["task"] == "conformer"
    assert {"task", "model", "weights_sha256", "seed", "n_requested", "n_valid", "reasons", "seconds", "versions", "argv"} <= report.keys()
    with pytest.raises(sciar.InputError, match="get the same weights"):
        rerun({**report, "weights_sha256": "0" * 64})
    with pytest.raises(sciar.InputError, match="expected one that `sciar generate --report` wrote"):
        rerun({"a": 1})


@pytest.mark.parametrize("name", ["x.sdf", "x.xyz", "x.extxyz", "x.smi", "x.json"])
def test_out_is_what_the_samples_write(shaky: Path, tmp_path: Path, name: str) -> None:
    samples = sciar.generate(smiles=TWO, n=4, seed=0, model=shaky, retry=1, out=tmp_path / name)
    if name != "x.json":  # which holds the seconds
        assert (tmp_path / name).read_text() == samples.write(tmp_path / f"again{name}").read_text()
    assert not (tmp_path / f"{name}.journal").exists()


def test_drop_invalid(shaky: Path, tmp_path: Path) -> None:
    samples = sciar.generate(smiles="CCO", n=20, seed=0, model=shaky, out=tmp_path / "x.sdf", drop_invalid=True)
    assert samples.valid.all() and 0 < len(samples) < 20 and samples.run.n_drawn == 20
    assert (tmp_path / "x.sdf").read_text() == samples.to_sdf()
    assert f"{len(samples)} kept" in samples.summary()


def interrupted_after(count: int) -> Any:
    def progress(done: int, _: int) -> None:
        if done == count:
            raise KeyboardInterrupt

    return progress


def test_ctrl_c_keeps_what_is_done_and_resumes(shaky: Path, tmp_path: Path) -> None:
    wanted: dict[str, Any] = {"smiles": TWO, "n": 30, "model": shaky, "retry": 1, "batch_size": 1}
    whole = sciar.generate(**wanted, seed=3)
    out = tmp_path / "x.sdf"
    part = sciar.generate(**wanted, seed=3, out=out, progress=interrupted_after(23))
    assert part.run.interrupted and len(part) == 23 and "interrupted: 23 of 60" in part.summary()
    assert out.read_text().count("$$$$") == 23
    assert (tmp_path / "x.sdf.journal").exists()
    seen: list[int] = []
    rest = sciar.generate(**wanted, out=out, progress=lambda done, _: seen.append(done))  # the seed is that of the journal
    assert rest.run.seed == 3 and same(rest, whole) and out.read_text() == whole.to_sdf()
    assert rest.run.n_drawn == whole.run.n_drawn and not (tmp_path / "x.sdf.journal").exists()


def test_a_journal_of_another_run_is_refused(shaky: Path, tmp_path: Path) -> None:
    out = tmp_path / "x.sdf"
    sciar.generate(smiles="CCO", n=9, seed=0, model=shaky, out=out, progress=interrupted_after(4))
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    for other in ({"seed": 1}, {"smiles": "CCC"}, {"n": 10}, {"nfe": 3}):
        with pytest.raises(sciar.InputError, match="expected the journal of this run"):
            sciar.generate(**{"smiles": "CCO", "n": 9, "seed": 0, "model": shaky, "out": out, **other})
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_a_run_that_was_refused_stands_in_nobodys_way(tmp_path: Path) -> None:
    """Its journal holds no draw, so the same call put right is not taken for another run."""
    wanted = {"formula": "GaN", "n": 1, "model": "mp20-orbits", "out": tmp_path / "x.cif"}
    with pytest.raises(sciar.InputError, match="strain"):
        sciar.generate(**wanted, strain=0.0)
    assert len(sciar.generate(**wanted, seed=0, steps=2)) == 1 and (tmp_path / "x.cif").stat().st_size
    assert not (tmp_path / "x.cif.journal").exists()


@pytest.mark.parametrize("cut", [1, 7, 100])
def test_a_torn_journal_line_is_drawn_again(shaky: Path, tmp_path: Path, cut: int) -> None:
    wanted: dict[str, Any] = {"smiles": "CCO", "n": 9, "seed": 0, "model": shaky}
    out = tmp_path / "x.xyz"
    sciar.generate(**wanted, out=out, progress=interrupted_after(5))
    journal = tmp_path / "x.xyz.journal"
    journal.write_bytes(journal.read_bytes()[:-cut])
    assert same(sciar.generate(**wanted, out=out), sciar.generate(**wanted))


def test_killed_runs_resume_without_loss_or_repeats(tmp_path: Path) -> None:
    slow = weights.save(tmp_path, slow=0.03, broken=0.3)
    out = tmp_path / "x.sdf"
    code = f"import sciar; sciar.generate(smiles={TWO!r}, n=20, seed=0, model={str(slow)!r}, retry=1, batch_size=2, out={str(out)!r})"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])}
    journal = tmp_path / "x.sdf.journal"
    for wanted in (6, 20):  # two kills, at least so many draws apart
        process = subprocess.Popen([sys.executable, "-c", code], env=environment)
        deadline = time.time() + 60
        while (not journal.exists() or journal.read_bytes().count(b"\n") < wanted) and time.time() < deadline and process.poll() is None:
            time.sleep(0.01)
        if wanted == 6:  # meanwhile the file belongs to that run
            with pytest.raises(sciar.InputError, match=r"x\.sdf: expected a file that no other run writes"):
                sciar.generate(smiles=TWO, n=20, seed=0, model=slow, retry=1, batch_size=2, out=out)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    assert journal.read_bytes().count(b"\n") >= 20
    samples = sciar.generate(smiles=TWO, n=20, seed=0, model=slow, retry=1, out=out)
    reference = sciar.generate(smiles=TWO, n=20, seed=0, model=weights.save(tmp_path, "quick", broken=0.3), retry=1)
    assert same(samples, reference) and out.read_text() == reference.to_sdf() and samples.run.n_drawn == reference.run.n_drawn
    assert not journal.exists()


def test_full_disk_keeps_what_is_done(shaky: Path, tmp_path: Path) -> None:
    """A file-size limit stands for the full disk: the write fails with an error of the system."""
    out = tmp_path / "x.sdf"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(sciar.SciarError, match=r"expected room to write, got '.*x\.sdf\.journal; free space and run the same again$"):
            sciar.generate(smiles="CCO", n=200, seed=0, model=shaky, out=out)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    kept = (tmp_path / "x.sdf.journal").read_text().splitlines()
    assert len(kept) > 10 and json.loads(kept[-1])
    samples = sciar.generate(smiles="CCO", n=200, seed=0, model=shaky, out=out)
    assert same(samples, sciar.generate(smiles="CCO", n=200, seed=0, model=shaky))
    assert out.read_text() == samples.to_sdf()


def test_options_reach_the_sampler_and_typos_do_not(model: Path) -> None:
    assert sciar.generate(smiles="CCO", model=model, nfe=12).run.calls == 12
    with pytest.raises(sciar.InputError, match=r"got 'nfee'; did you mean 'nfe'\?"):
        sciar.generate(smiles="CCO", model=model, nfee=12)
    with pytest.raises(sciar.InputError, match=r"got 'smile'; did you mean 'smiles'\?"):
        sciar.generate("molecule", model=model, smile="CCO")


def test_the_options_of_a_card_are_the_default(tmp_path: Path) -> None:
    model = weights.save(tmp_path, card={"options": {"nfe": 7}})
    assert sciar.generate(smiles="CCO", model=model).run.calls == 7
    assert sciar.generate(smiles="CCO", model=model, nfe=3).run.calls == 3


def test_importing_the_file_does_not_hide_the_function() -> None:
    module = importlib.import_module("sciar.generate")
    sciar.generate = module  # what the import system does when the file is first imported
    assert sciar.generate is module.generate
