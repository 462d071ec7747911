"""Crystals in space with the corners of their cells: round trips, corners that are no cell, exact compositions, bad input."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from crystals import caesium_chloride, crystal, perovskite, rock_salt, same
from hypothesis import given, settings
from hypothesis import strategies as st

from sciar import datasets
from sciar.errors import InputError
from sciar.families.octree import Model, ModelConfig, Tokenizer, TokenizerConfig
from sciar.families.octree.corners import cornered, uncornered
from sciar.families.octree.surroundings import columns_of
from sciar.families.octree.tokens import random_rotation
from sciar.prompt import Prompt
from sciar.structure import SYMBOLS, Structure
from sciar.testing import check_raises

ELEMENTS = ("X", "O", "Na", "Cl", "Ti", "Sr", "Cs")
HELD = TokenizerConfig(ELEMENTS, levels=7, cell=0.24, step=0.01, corners=True, max_atoms=28, properties=())
SKEW = crystal("Sr Ti O", [[0.1, 0.2, 0.3], [0.62, 0.71, 0.83], [0.3, 0.9, 0.55]], [[4.1, 0, 0], [0.9, 5.3, 0], [1.1, -0.7, 6.2]])
KNOWN = [rock_salt(), caesium_chloride(), perovskite(), SKEW]


@given(st.sampled_from(range(len(KNOWN))), st.integers(0, 2**31))
@settings(max_examples=25, deadline=None)
def test_corners_in_any_order_and_pose_are_the_crystal(which: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    points = cornered(KNOWN[which])
    assert points.positions is not None
    turned = Structure(points.numbers, points.positions @ random_rotation(rng).T + rng.normal(size=3))
    found = uncornered(turned.permuted(rng.permutation(turned.n_atoms)))
    assert same(found, KNOWN[which], 1e-6)
    assert found.cell is not None and np.linalg.det(found.cell) > 0


def test_tokens_are_the_crystal_to_a_step() -> None:
    tokenizer = Tokenizer(HELD)
    for known in KNOWN:
        tokens = tokenizer.encode(known)
        assert len(tokens.element) == known.n_atoms + 8 and (tokens.element == 0).sum() == 8
        assert same(tokenizer.decode(tokens), known, 0.04)  # corners and atoms, each to half a step along three axes
    real = datasets.samples("mp20")[:8]
    found = sorted({SYMBOLS[z] for s in real for z in s.numbers.tolist()})
    wide = Tokenizer(dataclasses.replace(HELD, elements=("X", *found)))
    for one, tokens in zip(real, wide.encode_many(real), strict=True):
        assert same(wide.decode(tokens), one, 0.04)


def test_points_that_are_no_cell_say_so() -> None:
    points = cornered(perovskite())
    assert uncornered(points.subset(np.arange(1, points.n_atoms))).info["failure"] == "no cell: 7 corners, expected 8"
    assert points.positions is not None
    moved = points.positions.copy()
    moved[7] = moved[0] + 0.1
    broken = uncornered(Structure(points.numbers, moved))
    assert broken.info["failure"] == "no cell: the corners are those of no parallelepiped" and not broken.n_atoms
    near = points.positions + np.random.default_rng(0).normal(scale=0.02, size=points.positions.shape)
    assert same(uncornered(Structure(points.numbers, near)), perovskite(), 0.2), "small errors of corners are averaged"


def test_draws_have_the_composition_and_eight_corners() -> None:
    torch.manual_seed(0)
    small = ModelConfig(width=32, heads=2, layers=2, refiner_layers=0, place="bins")
    model = Model(small, Tokenizer(HELD)).eval()
    prompt = Prompt(composition={"Sr": 1, "Ti": 1, "O": 3}, formula_units=2, crystal=True)
    for draw in model.sample([prompt] * 4, [(0, k) for k in range(4)]):
        drawn = model.tokenizer.decode(draw.tokens)
        assert np.bincount(draw.tokens.element, minlength=7).tolist() == [8, 6, 0, 0, 2, 2, 0]
        assert drawn.n_atoms == 10 or str(drawn.info["failure"]).startswith("no cell")


def test_corners_are_a_column_of_their_own() -> None:
    many = np.array([8, 0, *range(20, 50)])
    columns = columns_of(many)
    assert (columns == columns[1]).sum() == 1 and np.array_equal(np.delete(columns, 1), columns_of(np.delete(many, 1)))


def test_bad_input_is_refused() -> None:
    check_raises(lambda: TokenizerConfig(("O",), corners=True), InputError, "periodic: false and X among elements")
    tokenizer = Tokenizer(HELD)
    model = Model(ModelConfig(width=32, heads=2, layers=1, refiner_layers=0, place="bins"), tokenizer)
    water = Structure(np.array([8]), np.zeros((1, 3)))
    check_raises(lambda: tokenizer.encode(water), InputError, "expected a crystal with a cell and positions")
    unknown = rock_salt().replace(numbers=np.array([0, 17]))
    check_raises(lambda: tokenizer.encode(unknown), InputError, "expected a crystal with a cell and positions")
    for prompt, said in (
        (Prompt(), "expected a crystal for these weights"),
        (Prompt(crystal=True, space_group=225), "expected a formula, elements or numbers of atoms"),
        (Prompt(crystal=True, composition={"O": 1}), "n_formula_units: expected a number"),
        (Prompt(crystal=True, composition={"O": 1}, formula_units=40), "formula: expected at most 20 atoms for this model, got 40"),
    ):
        with pytest.raises(InputError, match=said):
            list(model.sample([prompt], [(0, 0)]))
