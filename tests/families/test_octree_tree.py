"""The tree codec alone: golden values and invariants of the reference, §12."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sciar import datasets
from sciar.errors import InputError
from sciar.families.octree.tokens import Tokenizer, TokenizerConfig, plant, principal_axes, random_rotation
from sciar.families.octree.tree import Forest, Grid, cells, expand, grow, morton
from sciar.structure import Structure
from sciar.testing import check_raises, check_tokenizer

SETTINGS = settings(deadline=None, max_examples=30)


def planted(rng: np.random.Generator, levels: int, sizes: list[int]) -> tuple[torch.Tensor, torch.Tensor, Forest]:
    codes = [np.sort(rng.choice(8**levels, size=min(n, 8**levels), replace=False)) for n in sizes]
    record = torch.arange(len(sizes)).repeat_interleave(torch.tensor([len(c) for c in codes]))
    code = torch.from_numpy(np.concatenate(codes))
    return record, code, grow(record, code, levels, len(sizes))


def bytes_of(forest: Forest) -> tuple[torch.Tensor, torch.Tensor]:
    """Bytes record after record, and how many each has."""
    inner = forest.level > 0
    order = (forest.record[inner] * 10_000 + forest.place[inner]).argsort()
    return forest.byte[inner][order], torch.bincount(forest.record[inner], minlength=len(forest.lengths))


@given(st.integers(0, 2**31), st.integers(1, 10))
@SETTINGS
def test_codes_round_trip(seed: int, levels: int) -> None:
    cell = torch.from_numpy(np.random.default_rng(seed).integers(0, 2**levels, (50, 3)))
    code = morton(cell)
    assert (cells(code) == cell).all() and code.max() < 8**levels
    bits = [sum(((int(v) >> k) & 1) << (3 * k + axis) for axis, v in enumerate(row) for k in range(levels)) for row in cell]
    assert code.tolist() == bits


@given(st.integers(0, 2**31), st.integers(1, 8), st.lists(st.integers(1, 40), min_size=1, max_size=6))
@SETTINGS
def test_grow_and_expand_are_inverse(seed: int, levels: int, sizes: list[int]) -> None:
    record, code, forest = planted(np.random.default_rng(seed), levels, sizes)
    byte, lengths = bytes_of(forest)
    again, codes, sound = expand(byte, lengths, levels)
    assert sound.all() and (again == record).all() and (codes == code).all()


@given(st.integers(0, 2**31), st.integers(2, 8), st.lists(st.integers(1, 40), min_size=1, max_size=4))
@SETTINGS
def test_invariants_of_the_events(seed: int, levels: int, sizes: list[int]) -> None:
    """Bytes say how many nodes follow; node counts do not fall; breadth first is Morton order; places are 0, 1, 2 …"""
    record, code, f = planted(np.random.default_rng(seed), levels, sizes)
    popcount = torch.tensor([bin(int(b)).count("1") for b in f.byte])
    for r in range(len(sizes)):
        mine = f.record == r
        order = f.place[mine].argsort()
        assert f.place[mine][order].tolist() == list(range(int(f.lengths[r])))
        level = f.level[mine][order]
        assert level[0] == levels and (level.diff() <= 0).all()
        counts = [int((level == k).sum()) for k in range(levels, -1, -1)]
        assert counts == sorted(counts) and counts[0] == 1 and counts[-1] == (record == r).sum()
        for k in range(levels, 0, -1):
            at = mine & (f.level == k)
            assert popcount[at].sum() == counts[levels - k + 1]
            assert (f.code[at].diff() > 0).all()
            assert f.left[at].tolist() == list(range(counts[levels - k], 0, -1))
        assert (f.code[mine & (f.level == 0)] == code[record == r]).all()


def test_a_single_atom_has_one_child_a_level() -> None:
    forest = grow(torch.zeros(1, dtype=torch.long), torch.tensor([123]), 6, 1)
    assert forest.lengths.tolist() == [7]
    assert all(bin(b).count("1") == 1 for b in forest.byte[forest.level > 0].tolist())


@given(st.integers(0, 2**31), st.lists(st.integers(0, 255), max_size=60))
@SETTINGS
def test_expand_never_takes_nonsense_for_a_tree(seed: int, stream: list[int]) -> None:
    byte = torch.tensor(stream, dtype=torch.long)
    record, code, sound = expand(byte, torch.tensor([len(stream)]), 4)
    if sound[0]:
        again, lengths = bytes_of(grow(record, code, 4, 1))
        assert again.tolist() == stream and lengths.tolist() == [len(stream)]


def test_the_unit_cell_wraps_around() -> None:
    """The same code serves fractional coordinates: points a lattice vector apart are one."""
    grid = Grid.unit_cell(5, 16)
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.random((40, 3)))
    p = grid.quantise(x)
    assert (grid.quantise(x + torch.tensor([1.0, -1.0, 2.0])) == p).all() and grid.inside(p).all()
    error = (p * grid.step - x + 0.5) % 1 - 0.5
    assert error.abs().max() <= grid.step / 2 + 1e-12
    quantised, order, forest = plant(grid, torch.zeros(40, dtype=torch.long), x, 1)
    byte, lengths = bytes_of(forest)
    _, code, sound = expand(byte, lengths, 5)
    assert sound.all()
    corner = grid.centre(code, torch.zeros_like(code)) - grid.cell / 2
    assert (corner + (quantised % grid.bins) * grid.step - quantised * grid.step).abs().max() < 1e-6 and len(order) == 40


@pytest.mark.parametrize(("levels", "cell"), [(6, 0.24), (5, 0.48)])
def test_qm9_within_half_a_step(levels: int, cell: float) -> None:
    tokenizer = Tokenizer(TokenizerConfig(levels=levels, cell=cell))
    rng = np.random.default_rng(0)
    for molecule in datasets.samples("qm9"):
        turned = molecule.rotated(random_rotation(rng))
        again = tokenizer.decode(tokenizer.encode(turned))
        assert (again.numbers == molecule.numbers).all()
        assert np.abs(again.positions - (turned.positions - turned.positions.mean(0))).max() <= 0.005 + 1e-6


def test_larger_cells_save_a_fifth_of_the_events() -> None:
    molecules = datasets.samples("qm9")[100:]
    lengths = [
        np.mean([len(t.tree) + len(t.element) for m in molecules for t in [tokenizer.encode(m)]])
        for tokenizer in (Tokenizer(TokenizerConfig(levels=6, cell=0.24)), Tokenizer(TokenizerConfig(levels=5, cell=0.48)))
    ]
    assert lengths[1] <= 0.8 * lengths[0]


def test_many_at_once_are_the_same_as_one_by_one() -> None:
    tokenizer = Tokenizer(TokenizerConfig())
    molecules = datasets.samples("qm9")[:50]
    many = tokenizer.encode_arrays([m.numbers for m in molecules], [m.positions - m.positions.mean(0) for m in molecules])
    for molecule, tokens in zip(molecules, many, strict=True):
        one = tokenizer.encode(molecule)
        assert (one.tree == tokens.tree).all() and (one.bins == tokens.bins).all() and (one.order == tokens.order).all()
    near = Structure(np.array([1, 1]), np.array([[0, 0, 0], [0, 0, 0.7]]))  # cannot be held: left out
    listed = list(tokenizer.encode_many([*molecules[:3], near, *molecules[3:]]))
    assert len(listed) == 50 and all((a.positions == tokenizer.encode(m).positions).all() for a, m in zip(listed, molecules, strict=True))


@given(st.integers(0, 2**31))
@SETTINGS
def test_the_canonical_pose_does_not_depend_on_the_frame(seed: int) -> None:
    rng = np.random.default_rng(seed)
    z, x = rng.integers(1, 9, 12), rng.normal(size=(12, 3)) * [3, 2, 1]
    x -= x.mean(0)
    turned = x @ random_rotation(rng).T
    assert np.abs(principal_axes(z, x) - principal_axes(z, turned)).max() < 1e-6
    assert np.sign(np.linalg.det(principal_axes(z, x)[:3])) == np.sign(np.linalg.det(x[:3]))


def test_the_canonical_pose_keeps_the_laws() -> None:
    tokenizer = Tokenizer(TokenizerConfig(pose="canonical"))
    check_tokenizer(tokenizer, datasets.samples("qm9")[:30], tokenizer.tolerance)


def test_refusals_name_the_reason() -> None:
    tokenizer = Tokenizer(TokenizerConfig(max_atoms=12))
    near = Structure(np.array([1, 1]), np.array([[0, 0, 0], [0, 0, 0.7]]))
    far = Structure(np.array([6, 6]), np.array([[0, 0, 0], [0, 0, 15.0]]))
    check_raises(lambda: tokenizer.encode(near), InputError, "0.83", "0.70", "lower tokenizer.cell")
    check_raises(lambda: tokenizer.encode(far), InputError, "7.50", "raise tokenizer.levels")
    check_raises(lambda: tokenizer.encode(Structure(np.array([16]), np.zeros((1, 3)))), InputError, "got S")
    check_raises(lambda: tokenizer.encode(Structure(np.array([6]))), InputError, "positions")
    check_raises(lambda: tokenizer.encode(datasets.samples("qm9")[200]), InputError, "at most 12 atoms")
    check_raises(lambda: tokenizer.encode_arrays([np.array([6])], [np.array([[0, 0, 8.0]])]), InputError, "cube of side 15.36")
    two = [np.array([[0.01, 0.01, 0.01], [0.2, 0.2, 0.2]])]
    check_raises(lambda: tokenizer.encode_arrays([np.array([6, 6])], two), InputError, "one atom in a cell", "two")
    check_raises(lambda: TokenizerConfig(cell=0.24, step=0.013), InputError, "whole number")
    check_raises(lambda: TokenizerConfig(elements=("H", "Xx")), InputError, "Xx")
    check_raises(lambda: TokenizerConfig(pose="body"), InputError, "random or canonical")
    check_raises(lambda: Tokenizer(TokenizerConfig(levels=11)), InputError, "1 to 10 levels")
