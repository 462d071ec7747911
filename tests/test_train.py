import dataclasses
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from sciar import checkpoint, train
from sciar import config as configs
from sciar.convert import to_smiles
from sciar.errors import InputError
from sciar.testing import check_raises

ROOT = Path(__file__).parent.parent
TINY = ROOT / "configs" / "tiny" / "hybrid.yaml"
SCRIPT = """
import os, signal, sys
from sciar import config, train

def report(step, steps, metrics):
    if len(sys.argv) > 3 and step >= int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)

if __name__ == "__main__":
    train.fit(config.load(sys.argv[1], sys.argv[4:]), sys.argv[2], progress=report)
"""


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the tokens are kept that all runs read."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def environment(tmp_path: Path, cache: Path) -> dict[str, str]:
    return surroundings(tmp_path, cache)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Path:
    """A run from beginning to end."""
    folder = tmp_path_factory.mktemp("whole")
    assert fit(folder, surroundings(folder, cache), "run") == 0
    return folder / "run"


def surroundings(tmp_path: Path, cache: Path) -> dict[str, str]:
    (tmp_path / "fit.py").write_text(SCRIPT)
    return {**os.environ, "SCIAR_CACHE": str(cache), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


def fit(tmp_path: Path, environment: dict[str, str], folder: str, die_at: int = 10**9, *overrides: str) -> int:
    command = [sys.executable, str(tmp_path / "fit.py"), str(TINY), str(tmp_path / folder), str(die_at), *overrides]
    return subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, timeout=300).returncode


def tensors(path: Path) -> dict[str, np.ndarray]:
    from sciar.checkpoint import open_weights

    return {name: t.numpy() for name, t in open_weights(path / "weights.safetensors")[1].items()}


def losses(path: Path) -> list[float]:
    import pandas as pd

    table = pd.read_csv(path / "log" / "metrics.csv")
    return table.dropna(subset=["val/loss"])["val/loss"].tolist()


BARE = """
import sys
class Refused:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("rdkit", "pymatgen", "ase", "omegaconf", "typer"):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Refused())
from sciar import config, train
print(train.fit(config.load(sys.argv[1]), sys.argv[2]))
"""


def test_prepared_arrays_train_without_the_chemistry_libraries(tmp_path: Path, environment: dict[str, str]) -> None:
    """What a borrowed GPU machine has: torch and Lightning, no RDKit."""
    (tmp_path / "bare.py").write_text(BARE)
    whole = [sys.executable, "-m", "sciar", "train", str(TINY), "train.steps=3", "--prepare", "prepared"]
    subprocess.run(whole, env=environment, cwd=tmp_path, check=True, capture_output=True)
    run = subprocess.run(
        [sys.executable, "bare.py", "prepared/config.json", "run"], env=environment, cwd=tmp_path, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr[-2000:]
    assert (tmp_path / "run" / "weights.safetensors").exists()


def test_a_killed_run_ends_with_the_same_weights_and_loss_curve(tmp_path: Path, environment: dict[str, str], whole: Path) -> None:
    assert fit(tmp_path, environment, "killed", 17) == -signal.SIGKILL
    assert not (tmp_path / "killed" / "weights.safetensors").exists()
    assert fit(tmp_path, environment, "killed") == 0
    given, resumed = tensors(whole), tensors(tmp_path / "killed")
    assert given.keys() == resumed.keys()
    for name, value in given.items():
        assert np.array_equal(value, resumed[name]), f"{name} differs after the resume"
    curve = losses(whole)
    assert len(curve) == 3 and losses(tmp_path / "killed")[-2:] == curve[-2:]
    assert curve[-1] < curve[0]
    assert json.loads((whole / "config.json").read_text())["train"]["steps"] == 30


def test_every_call_has_its_minutes_to_itself(tmp_path: Path) -> None:
    """A run in segments: Lightning's timer, restored with the rest, would end every call after the first at once."""
    recipe = configs.load(TINY, ["train.steps=100000", "train.max_minutes=0.02", "train.save_every=100000"])
    steps = []
    for _ in range(2):
        train.fit(recipe, tmp_path)
        steps.append(torch.load(tmp_path / "state.ckpt", weights_only=True)["global_step"])
    assert 0 < steps[0] < steps[1]
    assert (tmp_path / "log" / f"metrics-{steps[0]}.csv").exists() and (tmp_path / "log" / "metrics.csv").exists()


def test_the_cosine_ends_with_the_minutes(monkeypatch: pytest.MonkeyPatch) -> None:
    """With train.anneal by the clock where that is ahead of the steps; without it by the steps alone."""
    clock = [0.0]
    monkeypatch.setattr(train.time, "monotonic", lambda: clock[0])
    facts = ["train.steps=1000", "train.warmup=0", "train.lr=1.0", "train.floor=0.0", "train.max_minutes=1"]
    rates = []
    for anneal in ("true", "false"):
        clock[0] = 100.0
        learner = train.Learner(torch.nn.Linear(2, 2), configs.load(TINY, [*facts, f"train.anneal={anneal}"]))  # type: ignore[arg-type]
        scheduler = learner.configure_optimizers()["lr_scheduler"]["scheduler"]
        for clock[0] in (115.0, 130.0, 160.0, 175.0):
            scheduler.optimizer.step()
            scheduler.step()
            rates.append(scheduler.get_last_lr()[0])
    assert rates == pytest.approx([0.5 * (1 + np.cos(np.pi * d)) for d in (0.25, 0.5, 1, 1, 0.001, 0.002, 0.003, 0.004)])
    check_raises(lambda: configs.load(TINY, ["train.anneal=true"]), InputError, "train.anneal", "train.max_minutes", "set both")


TRACED = """
import sys, torch
from sciar import config, train
compile_ = torch.nn.Module.compile
torch.nn.Module.compile = lambda module, **options: compile_(module, backend="eager", fullgraph=True, **options)
for name, value in (("plain", "false"), ("traced", "true")):
    train.fit(config.load(sys.argv[1], ["train.steps=2", "train.warmup=0", "train.ema=0.0", "train.compile=" + value]), name)
print(torch._dynamo.utils.counters["stats"]["unique_graphs"])
"""


def test_compiled_layers_train_to_the_same_weights(tmp_path: Path, environment: dict[str, str]) -> None:
    """What `train.compile` traces is one piece; here it runs as it stands, code for a CPU would take minutes."""
    (tmp_path / "traced.py").write_text(TRACED)
    command = [sys.executable, "traced.py", str(ROOT / "configs" / "tiny" / "blocks.yaml")]
    run = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-2000:]
    assert int(run.stdout.split()[-1]) >= 1
    plain, traced = tensors(tmp_path / "plain"), tensors(tmp_path / "traced")
    assert plain.keys() == traced.keys()
    for name, value in plain.items():
        np.testing.assert_allclose(traced[name], value, rtol=1e-3, atol=1e-4, err_msg=name)


def test_nothing_to_compile_is_said(tmp_path: Path) -> None:
    recipe = configs.load(TINY, ["train.compile=true"])
    check_raises(lambda: train.fit(recipe, tmp_path), InputError, "train.compile", "hybrid")


def test_only_the_parts_that_are_named_are_trained(tmp_path: Path) -> None:
    recipe = configs.load(TINY, ["train.steps=2", "train.save_every=1", "train.warmup=0", "train.ema=0.0"])
    train.fit(recipe, tmp_path / "all")
    start = f"train.init={tmp_path / 'all' / 'weights.safetensors'}"
    train.fit(configs.load(TINY, ["train.steps=2", "train.warmup=0", "train.ema=0.0", start, "train.only=[head]"]), tmp_path / "head")
    before, after = tensors(tmp_path / "all"), tensors(tmp_path / "head")
    changed = {name.split(".")[0] for name in before if not np.array_equal(before[name], after[name])}
    assert changed == {"head"}
    recipe = configs.load(TINY, ["train.steps=1", "train.only=[feet]"])
    check_raises(lambda: train.fit(recipe, tmp_path / "feet"), InputError, "train.only", "feet", "head")


def test_parts_of_other_weights_begin_a_run(tmp_path: Path) -> None:
    recipe = configs.load(TINY, ["train.steps=1", "train.save_every=1"])
    train.fit(recipe, tmp_path)
    path, given = str(tmp_path / "weights.safetensors"), tensors(tmp_path)
    model = train.build(dataclasses.replace(recipe, train=dataclasses.replace(recipe.train, seed=7)), {})
    before = {name: t.clone().numpy() for name, t in model.state_dict().items()}
    train.initialise_from(model, path, ["head"])
    now = {name: t.numpy() for name, t in model.state_dict().items()}
    taken = {name for name in given if np.array_equal(now[name], given[name]) and not np.array_equal(now[name], before[name])}
    assert taken and {name.split(".")[0] for name in taken} == {"head"}
    assert all(np.array_equal(now[name], before[name]) for name in now if not name.startswith("head."))
    check_raises(lambda: train.initialise_from(model, path, ["feet"]), InputError, "train.init_parts", "feet", "head")


def test_weights_of_fewer_atom_types_begin_a_larger_model(tmp_path: Path) -> None:
    from sciar.families import blocks

    def model(atoms: str, **more: object) -> blocks.Model:
        tokenizer = blocks.Tokenizer(blocks.TokenizerConfig(atoms=tuple(atoms.split())))
        return blocks.Model(blocks.ModelConfig(width=32, pair=16, heads=4, layers=1, **more), tokenizer)

    small, large = model("C N O"), model("C N O S N+", shown=True, reader=True)
    fresh = {k: v.clone() for k, v in large.state_dict().items()}
    facts = {"tokenizer_config": small.tokenizer.config, "model_config": small.config, "statistics": {}, "card": {}}
    path = checkpoint.save(tmp_path / "small.safetensors", small, family="blocks", **facts)
    train.initialise_from(large, str(path))
    now, given = large.state_dict(), small.state_dict()
    assert torch.equal(now["trunk.layers.0.query.weight"], given["trunk.layers.0.query.weight"])
    assert torch.equal(now["types.weight"][:3], given["types.weight"]) and torch.equal(now["types.weight"][3:], fresh["types.weight"][3:])
    other = model("C N O S N+")
    wide = blocks.Model(blocks.ModelConfig(width=64, pair=16, heads=4, layers=1), other.tokenizer)
    before = wide.types.weight.detach().clone()
    train.initialise_from(wide, str(path))
    assert torch.equal(wide.types.weight, before), "of another width: nothing of a table that means something else"


def test_two_processes_train_together(tmp_path: Path, environment: dict[str, str]) -> None:
    assert (
        fit(tmp_path, environment, "pair", 10**9, "train.devices=2", "train.strategy=ddp", "train.steps=6", "train.validate_every=3") == 0
    )
    assert all(np.isfinite(v).all() for v in tensors(tmp_path / "pair").values())


def test_trained_weights_generate_molecules(whole: Path) -> None:
    """The whole line: files → structures → tokens → batches → model → tokens → structures → verdicts → RDKit."""
    import sciar

    weights = whole / "weights.safetensors"
    conformers = sciar.generate(smiles="C[C@H](N)C(=O)O", n=4, seed=0, model=str(weights))
    assert len(conformers) == 4 and all(m is None or m.GetNumConformers() == 1 for m in conformers.mols)
    assert conformers.summary().startswith(f"{sum(v.valid for v in conformers)} valid of 4 drawn")
    drawn = sciar.generate("molecule", n=4, seed=0, model=str(weights))
    assert len(drawn) == 4 and all(v.valid or v.reasons for v in drawn)


def test_configurations_are_checked_before_any_work(tmp_path: Path) -> None:
    def load(text: str, *overrides: str) -> configs.Config:
        (tmp_path / "c.yaml").write_text(text)
        return configs.load(tmp_path / "c.yaml", overrides)

    check_raises(lambda: load("train: {stepz: 3}"), InputError, "stepz", "'steps'")
    check_raises(lambda: load("train: {steps: many}"), InputError, "steps", "many")
    check_raises(lambda: load("train: {steps: 0}"), InputError, "steps ≥ 1")
    check_raises(lambda: load("train: {init_parts: [head]}"), InputError, "init_parts", "train.init")
    check_raises(lambda: load("train: [1"), InputError, "c.yaml")
    check_raises(lambda: configs.load(tmp_path / "none.yaml"), InputError, "does not exist")
    assert load("train: {lr: 1e-3}", "train.steps=7").train.steps == 7
    assert load("train: {lr: 1e-3}").train.lr == 1e-3
    assert load("train: {optimizer: adamw, steps: 7}").train == load("train: {steps: 7}").train  # as earlier versions wrote it
    check_raises(lambda: load("train: {optimizer: muon}"), InputError, "unknown key 'optimizer'")


@pytest.mark.parametrize("path", sorted((ROOT / "configs").rglob("*.yaml")), ids=lambda p: p.stem)
def test_every_configuration_builds(path: Path) -> None:
    from sciar.train import build

    model = build(configs.load(path), {})
    assert sum(p.numel() for p in model.parameters()) > 1000
    assert len(path.read_text().splitlines()) <= 40


def test_parts_of_a_sample_are_not_taken_for_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sciar.train import prepare

    monkeypatch.setenv("SCIAR_CACHE", str(tmp_path))
    tiny = ROOT / "configs" / "tiny" / "octree.yaml"
    first, later = (prepare(configs.load(tiny, ["data.limit=4", f"data.validation={k}"]))[0] for k in (0, 24))
    assert len(first) == len(later) == 4 and first.lengths("atoms").sum() != later.lengths("atoms").sum()


def test_a_set_without_a_validation_split_holds_out_the_last_of_its_training_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCIAR_CACHE", str(tmp_path / "cache"))
    for with_it, held_out in ((True, ["CO"]), (False, ["C" * 39, "C" * 40])):
        path = tmp_path / f"mine{with_it}.csv"
        rows = [f"{'C' * n},train" for n in range(1, 41)] + ["CCO,test"] + ["CO,validation"] * with_it
        path.write_text("\n".join(["SMILES,split", *rows]) + "\n")
        training, valid = train.splits(str(path), configs.DataConfig(sets=(str(path),), validation=2))
        assert len(training) == (40 if with_it else 38) and [to_smiles(s) for s in valid] == held_out


def test_finetune_on_a_file_of_ones_own(tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sciar
    from sciar import datasets, files

    monkeypatch.setenv("SCIAR_CACHE", str(tmp_path / "own"))
    files.write(tmp_path / "mine.sdf", datasets.samples("qm9")[:40])
    weights = sciar.finetune(tmp_path / "mine.sdf", model=str(whole / "weights.safetensors"), folder=tmp_path / "tuned", steps=10)
    assert len(sciar.load(weights).generate(smiles="CCO", n=2, seed=0)) == 2
    assert any((tensors(whole)[k] != v).any() for k, v in tensors(tmp_path / "tuned").items())


def test_averaging_leaves_the_tables_of_a_model_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole numbers do not survive an average with themselves: 0.9 · 7 + 0.1 · 7 < 7 in floats. The learning rate is nothing here."""
    from sciar import train

    monkeypatch.setenv("SCIAR_CACHE", str(tmp_path / "cache"))
    overrides = ["train.steps=3", "train.validate_every=3", "train.lr=1e-12", "train.precision=32"]
    for ema in ("0.9", "0"):
        train.fit(configs.load(ROOT / "configs" / "tiny" / "orbits.yaml", [*overrides, f"train.ema={ema}"]), tmp_path / ema)
    assert losses(tmp_path / "0.9") == pytest.approx(losses(tmp_path / "0"), rel=1e-4)
