"""Learning from own draws at fault: which draws these are, and that it makes them fewer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from sciar import config, train
from sciar.batch import TokenArrays
from sciar.config import FeedbackConfig
from sciar.errors import InputError
from sciar.families import blocks
from sciar.feedback import CHECKS, MOST, Feedback
from sciar.generator import load
from sciar.notation import parse_smiles
from sciar.prompt import Prompt
from sciar.structure import Structure
from sciar.validate import validate

TINY = Path(__file__).parents[1] / "configs" / "tiny" / "blocks.yaml"
LEARN = ["train.feedback.check=valid", "train.feedback.draws=16", "train.feedback.options={connected: false}"]


def faults(path: Path, n: int) -> float:
    """Share of raw draws that are not valid."""
    generator = load(path)
    drawn = generator.model.sample([Prompt()] * n, [(11, k) for k in range(n)], connected=False)
    return float(np.mean([not validate(generator.tokenizer.decode(draw.tokens)).valid for draw in drawn]))


def test_faults_become_fewer(tmp_path: Path) -> None:
    """The same start, records and steps, with and without feedback."""
    first = train.fit(config.load(TINY, ["train.steps=30"]), tmp_path / "first")
    both = [
        train.fit(config.load(TINY, [f"train.init={first}", "train.steps=24", "train.seed=1", *more]), tmp_path / f"{len(more)}")
        for more in ([], LEARN)
    ]
    without, with_ = (faults(path, 120) for path in both)
    assert with_ < without - 0.08, (without, with_)


@pytest.fixture(scope="module")
def model() -> blocks.Model:
    torch.manual_seed(0)
    tokenizer = blocks.Tokenizer(blocks.TokenizerConfig(atoms=("C", "N", "O"), max_atoms=6))
    return blocks.Model(blocks.ModelConfig(width=16, pair=8, heads=2, layers=1), tokenizer)


def test_only_draws_at_fault_are_handed_out(model: blocks.Model) -> None:
    """All of them, the same for the same seed and step, whatever came before; the model stays in training."""
    chosen = FeedbackConfig("valid", draws=24)
    own = Feedback(model.train(), blocks.Tokens, chosen, seed=3)
    first, batch = own.of(0), own.of(2)
    again = Feedback(model, blocks.Tokens, chosen, seed=3).of(2)
    assert model.training and first is not None and batch is not None and again is not None
    assert all(torch.equal(again[name], batch[name]) for name in batch.tokens)
    assert any(first[name].shape != batch[name].shape or not torch.equal(first[name], batch[name]) for name in batch.tokens)
    keys = [(int(np.random.default_rng([3, 5, 2, 0]).integers(2**31)), k) for k in range(24)]
    drawn = sorted(model.sample([Prompt()] * 24, keys, 24), key=lambda draw: draw.index)
    bad = [draw.tokens for draw in drawn if not validate(model.tokenizer.decode(draw.tokens)).valid]
    assert 0 < len(bad) < 24 and own.share(batch) == len(bad) / 24 and own.share(None) == 0
    assert TokenArrays.from_tokens(blocks.Tokens, bad).lengths("nodes").tolist() == batch.masks["nodes"].sum(1).tolist()
    assert own.weight(batch) == min(MOST, chosen.weight * len(bad) / 24)


def test_what_is_hardly_chosen_asks_for_nothing(model: blocks.Model) -> None:
    """A bounded loss: its gradient is p / (p + e⁻⁹) of that of -ln p, and it never exceeds 9 nats a choice."""
    record = model.tokenizer.encode(parse_smiles("CCO"), Prompt())
    batch = TokenArrays.from_tokens(blocks.Tokens, [record]).batch(np.arange(1))
    nats = model.loss(batch, torch.Generator().manual_seed(0))["loss"]
    bounded = model.aversion(batch, torch.Generator().manual_seed(0))
    assert 0 < float(bounded.detach()) <= float(nats.detach()) + 1e-4 and float((nats - bounded).detach()) < 0.05
    with torch.no_grad():
        model.header.to_type[-1].bias[0] -= 100  # carbon becomes out of the question
        nats = model.loss(batch, torch.Generator().manual_seed(0))["loss"]
        bounded = model.aversion(batch, torch.Generator().manual_seed(0))
        model.header.to_type[-1].bias[0] += 100
    assert float(nats) > 50 > 25 > float(bounded)


@pytest.mark.parametrize("name", ["planar", "tree", "sbm", "connected"])
def test_checks_of_graphs(name: str) -> None:
    """A path is connected, planar and a tree, but no block model; with a chord between its ends no tree."""

    def path(*more: tuple[int, int, int]) -> bool:
        bonds = np.array([*((k, k + 1, 1) for k in range(5)), *more])
        return CHECKS[name](validate(Structure(np.zeros(6, dtype=int), bonds=bonds)))

    assert path() == (name != "sbm") and path((0, 5, 1)) == (name in ("planar", "connected"))


def test_moses_filters() -> None:
    assert CHECKS["moses"](validate(parse_smiles("Cc1ccccc1C(=O)NC")))
    assert not CHECKS["moses"](validate(parse_smiles("C1CCCCCCCC1")))  # a ring of nine


def test_bad_settings(model: blocks.Model) -> None:
    with pytest.raises(InputError, match="expected valid, moses"):
        Feedback(model, blocks.Tokens, FeedbackConfig("good"), 0)
    with pytest.raises(InputError, match="weight > 0"):
        FeedbackConfig("valid", weight=0)
    with pytest.raises(InputError, match="cannot learn"):
        train.fit(config.load(TINY.with_name("orbits.yaml"), ["train.feedback.check=valid"]), "unused")
