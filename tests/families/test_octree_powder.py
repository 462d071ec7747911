"""Octrees of crystals that are drawn for a powder profile."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from crystals import crystal, overfitted, rock_salt

from sciar.batch import TokenArrays, collate
from sciar.errors import InputError
from sciar.families.octree import Model, ModelConfig, Tokenizer, TokenizerConfig, Tokens
from sciar.lattice import niggli
from sciar.nn.sites import matrix
from sciar.prompt import Prompt
from sciar.pxrd import UNKNOWN, levels, pattern_of, simulated
from sciar.structure import Structure

HELD = TokenizerConfig(("O", "Ti"), levels=4, cell=1 / 16, step=1 / 512, periodic=True, max_atoms=12, properties=(), profile=171)
SMALL = ModelConfig(width=32, heads=2, layers=2, refiner_layers=0, place="bins", header_width=32)


def niggli_of(symbols: str, fractions: list[list[float]], cell: list[float]) -> Structure:
    return niggli(crystal(symbols, fractions, cell))


RUTILE = niggli_of(
    "Ti Ti O O O O",
    [[0, 0, 0], [0.5, 0.5, 0.5], [0.305, 0.305, 0], [0.695, 0.695, 0], [0.195, 0.805, 0.5], [0.805, 0.195, 0.5]],
    [4.594, 4.594, 2.959, 90, 90, 90],
)
DENSE = RUTILE.replace(cell=RUTILE.cell * 0.85, positions=RUTILE.positions * 0.85)  # type: ignore[operator]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer(HELD)


def test_profiles_that_are_learnt_are_those_of_the_crystals(tokenizer: Tokenizer) -> None:
    model = Model(SMALL, tokenizer).eval()
    assert model.powder is not None
    batch = collate(Tokens, [tokenizer.encode(s) for s in (RUTILE, DENSE)])
    found, same = model.powder.learnt(batch)
    for row, one in zip(found, (RUTILE, DENSE), strict=True):
        wanted = levels(pattern_of(simulated(one)), 171)
        assert np.abs(row.numpy() - wanted)[wanted != UNKNOWN].mean() < 2
    assert torch.equal(same["lattice"], batch["lattice"])
    model.train()
    found, strained = model.powder.learnt(batch.repeated(60), torch.Generator().manual_seed(0))
    hidden = (found == UNKNOWN).all(1)
    assert 0.2 < hidden.float().mean() < 0.4 and torch.equal(strained["lattice"][hidden], batch.repeated(60)["lattice"][hidden])
    ratio = matrix(strained["lattice"][:, 0]).det() / matrix(batch.repeated(60)["lattice"][:, 0]).det()
    assert 0.08 < ratio[~hidden].log().std() < 0.16, "three times a strain of 4 %"
    assert torch.equal(strained["lattice"][..., 3:], batch.repeated(60)["lattice"][..., 3:]), "angles and ratios stay"


def test_it_reads_a_powder_profile(tokenizer: Tokenizer) -> None:
    """Two cells of one composition: the profile says which; without one both are drawn. Drawn as well with others in the batch."""
    records = [tokenizer.encode(s) for s in (RUTILE, DENSE)]
    torch.manual_seed(0)
    model = Model(dataclasses.replace(SMALL, header_weight=1.0), tokenizer, tokenizer.statistics(TokenArrays.from_tokens(Tokens, records)))
    overfitted(model, collate(Tokens, records * 8))
    prompts = [
        Prompt(crystal=True, composition={"Ti": 1, "O": 2}, formula_units=2, pxrd=None if one is None else simulated(one))
        for one in (*[RUTILE] * 8, *[DENSE] * 8, *[None] * 12)
    ]
    keys = [(0, i) for i in range(28)]
    drawn = sorted(model.sample(prompts, keys, cell_temperature=0.6), key=lambda d: d.index)
    volume = np.array([abs(np.linalg.det(tokenizer.decode(d.tokens).cell)) for d in drawn])
    large = volume > 0.5 * (abs(np.linalg.det(RUTILE.cell)) + abs(np.linalg.det(DENSE.cell)))  # type: ignore[arg-type]
    assert large[:8].sum() >= 7 and large[8:16].sum() <= 1 and 1 < large[16:].sum() < 11
    alone = next(iter(model.sample(prompts[8:9], keys[8:9], cell_temperature=0.6)))
    assert np.array_equal(alone.tokens.tree, drawn[8].tokens.tree) and np.allclose(alone.tokens.lattice, drawn[8].tokens.lattice)
    guided = sorted(model.sample(prompts, keys, cell_temperature=0.6, guidance=2.0), key=lambda d: d.index)
    assert all(np.array_equal(a.tokens.tree, b.tokens.tree) for a, b in zip(guided[16:], drawn[16:], strict=True))


def test_weights_that_read_none_draw_as_before(tokenizer: Tokenizer) -> None:
    blind = Tokenizer(dataclasses.replace(HELD, profile=0))
    assert len(blind.encode(RUTILE).square) == 0 and Model(SMALL, blind).powder is None
    torch.manual_seed(0)
    model = Model(SMALL, blind).eval()
    plain = Prompt(crystal=True, composition={"Ti": 1, "O": 2}, formula_units=2)
    asking = dataclasses.replace(plain, pxrd=simulated(rock_salt()))
    a, b = (next(iter(model.sample([p], [(0, 0)]))) for p in (plain, asking))
    assert np.array_equal(a.tokens.tree, b.tokens.tree) and np.array_equal(a.tokens.lattice, b.tokens.lattice)
    with pytest.raises(InputError, match="TokenizerConfig.profile: expected 16 to 4096 points and periodic: true"):
        dataclasses.replace(HELD, profile=7)
