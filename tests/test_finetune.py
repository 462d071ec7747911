"""A file of one's own: what is in it, how it is split, and that a new property can be asked for afterwards."""

from __future__ import annotations

import csv
import sys
import warnings
from pathlib import Path

import networkx as nx
import numpy as np
import pytest
from crystals import caesium_chloride, rock_salt
from hypothesis import given, settings
from hypothesis import strategies as st

import sciar
from sciar import config as configs
from sciar import datasets
from sciar.checkpoint import open_weights, read_header
from sciar.convert import from_networkx, from_smiles
from sciar.datasets.split import formula, identity, scaffold
from sciar.finetune import _holding_most, plan
from sciar.testing import check_raises

ROOT = Path(__file__).parent.parent
SMILES = ["CCO", "CCC", "c1ccccc1", "Cc1ccccc1", "C1CC1", "CC1CC1", "CCO", "C1CCC1", "CC#N", "OC1CC1", "NC1CCC1", "CC(C)O", "CN", "CF"]


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SCIAR_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "mine.csv"
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["SMILES", "activity", "note"])
        writer.writerows([smiles, 1.5 * k, "x"] for k, smiles in enumerate([*SMILES, "no molecule", "CCCCCCCCCCCCCCCC"]))
    return path


def test_the_bundled_model_that_holds_most_is_chosen() -> None:
    cases = {("graph", "C1CC1"): "qm9-blocks", ("graph", "C" * 20): "moses-blocks", ("conformer", "CCO"): "drugs-hybrid"}
    for (task, smiles), name in cases.items():
        molecule = from_smiles(smiles) if task == "graph" else sciar.generate(smiles=smiles, seed=0)[0].structure
        assert _holding_most(task, [molecule]) == name
    assert _holding_most("graph", [from_networkx(nx.grid_2d_graph(3, 3))]) == "planar-blocks"
    assert _holding_most("graph", [from_smiles("C[NH2+]CCCCCCCCCCCCCCCCCI")]) == "zinc250k-blocks"
    assert _holding_most("crystal", datasets.samples("mp20")[:1]) == "mp20-orbits"


def test_the_report_says_what_is_in_a_file(table: Path) -> None:
    config, facts = plan(table, model="qm9-blocks", properties=["activity"])
    assert facts.read.n_accepted == len(SMILES) + 1 and len(facts.read.rejected) == 1
    assert sum(facts.unfit.values()) == 1 and "9" in next(iter(facts.unfit))
    assert facts.training + facts.held_out == len(SMILES) and facts.repeated == 1 and facts.leaked == 0
    assert facts.elements["C"] == len(SMILES) and facts.elements["O"] == 4 and facts.atoms[0] == 5
    known, low, mean, high = facts.properties["activity"]
    assert (known, low, high) == (len(SMILES), 0.0, 19.5) and mean == pytest.approx(9.75)
    assert config.tokenizer["properties"] == ("gap_eV", "qed", "logP", "activity") and config.data.split == "scaffold"
    for part in ("rows rejected", "do not fit", "held out (split by scaffold)", "1 repeats, 0 leaks", "activity: known of 14"):
        assert part in str(facts)


def test_a_split_of_ones_own_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCIAR_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "mine.csv"
    path.write_text("SMILES,split\nCCO,train\nCCN,test\nCCC,validation\nCCF,train\nCCO,validation\n")
    config, facts = plan(path, model="qm9-blocks")
    assert config.data.split == "" and (facts.training, facts.held_out, facts.total) == (2, 2, (2, 2))
    assert facts.leaked == 1 and "split by the column split" in str(facts)
    assert plan(path, model="qm9-blocks", split="random")[1].leaked == 0


def test_the_report_of_a_large_file_looks_at_its_beginning(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["sciar.finetune"], "LOOKED_AT", 4)
    facts = plan(table, model="qm9-blocks")[1]
    assert facts.training + sum(facts.unfit.values()) == 4 and sum(facts.total) == len(SMILES) + 1
    assert "of the first 4 of each" in str(facts)


def test_the_model_that_holds_most_is_taken(table: Path) -> None:
    assert plan(table)[0].train.init == "moses-blocks"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"properties": ["activty"]}, "did you mean 'activity'?"),
        ({"properties": ["note"]}, "expected numbers in the column 'note'"),
        ({"split": "time"}, "expected scaffold, formula, random, got 'time'"),
        ({"model": "mp20-orbits"}, "expected records that mp20-orbits can hold"),
        ({"train": {"stps": 5}}, "stps"),
    ],
)
def test_what_cannot_be_trained_is_said_first(table: Path, arguments: dict, sentence: str) -> None:
    check_raises(lambda: plan(table, **{"model": "qm9-blocks", **arguments}), sciar.SciarError, sentence)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.sampled_from(SMILES), min_size=1, max_size=40), st.integers(0, 20), st.sampled_from(["scaffold", "formula", "random"]))
def test_groups_are_never_split(smiles: list[str], count: int, by: str) -> None:
    structures = [sciar.convert.from_smiles(s) for s in smiles]
    out = datasets.held_out(structures, count, by)
    name = {"scaffold": scaffold, "formula": formula, "random": identity}[by]
    names = np.array([name(s) for s in structures])
    assert out.sum() <= count and not set(names[out]) & set(names[~out])
    shuffled = np.random.default_rng(0).permutation(len(structures))
    assert np.array_equal(datasets.held_out([structures[k] for k in shuffled], count, by), out[shuffled])


def test_identity_of_crystals_and_graphs() -> None:
    assert identity(rock_salt()) == identity(rock_salt()) != identity(caesium_chloride())
    assert formula(rock_salt()) == formula(rock_salt())
    path, same, star = nx.path_graph(4), nx.Graph([(2, 0), (0, 3), (3, 1)]), nx.star_graph(3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # networkx' hash without labels differs between its versions, and says so
        assert identity(from_networkx(path)) == identity(from_networkx(same)) != identity(from_networkx(star))
    check_raises(lambda: scaffold(rock_salt()), sciar.InputError, "expected molecules with bonds")


def test_a_new_property_can_be_asked_for(table: Path, tmp_path: Path) -> None:
    """Old numbers of the weights and of the normalisation stay where they were until training moves them; the new property is used."""
    small = configs.load(ROOT / "configs" / "tiny" / "blocks.yaml", ["train.steps=2", "tokenizer.properties=[qed]"])
    first = sciar.train.fit(small, tmp_path / "first")
    before, old = read_header(first), open_weights(first)[1]
    tuned = sciar.finetune(table, model=str(first), folder=tmp_path / "tuned", properties=["activity"], steps=1, lr=1e-12, ema=0.5)
    after, new = read_header(tuned), open_weights(tuned)[1]
    assert before["statistics"]["properties"] == ["qed"] and after["statistics"]["properties"] == ["qed", "activity"]
    assert after["statistics"]["mean"][0] == before["statistics"]["mean"][0] and 0 < after["statistics"]["mean"][1] < 19.5
    weight = new["condition.weight"]
    assert weight.shape[1] == 2 * old["condition.weight"].shape[1]
    assert (weight[:, :16] - old["condition.weight"]).abs().max() < 1e-3 and weight[:, 16:].abs().max() > 0
    assert len(sciar.generate("graph", model=str(tuned), properties={"activity": 3.0}, n=2, seed=0, retry=0)) == 2
    check_raises(lambda: sciar.generate("graph", model=str(tuned), properties={"activty": 3.0}, n=1), sciar.InputError, "activity")
