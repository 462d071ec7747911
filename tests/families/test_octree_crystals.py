"""Crystals as octrees of fractions: tokens, header, geometry, exact compositions, the sampler's laws, one training on real crystals."""

from __future__ import annotations

import dataclasses
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from crystals import caesium_chloride, crystal, perovskite, rock_salt, same, shaken
from hypothesis import given, settings
from hypothesis import strategies as st

import sciar
from sciar import config, datasets
from sciar.batch import collate
from sciar.errors import InputError
from sciar.families.octree import Model, ModelConfig, Tokenizer, TokenizerConfig, Tokens
from sciar.families.octree.cell import Header, Space, bins_of, numbers_of
from sciar.families.octree.constraints import space_of
from sciar.families.octree.events import events_of
from sciar.families.octree.heads import log_likelihood
from sciar.families.octree.model import SHELLS
from sciar.families.octree.surroundings import columns_of
from sciar.lattice import cell_of_form, form_of, fractional, niggli
from sciar.nn import composition
from sciar.nn.periodic import images, nearest
from sciar.nn.sites import matrix
from sciar.prompt import Prompt
from sciar.structure import Structure
from sciar.testing import check_model, check_raises, check_sampler, check_saved
from sciar.train import fit

CONFIGS = Path(__file__).parents[2] / "configs"
ELEMENTS = ("O", "Na", "Cl", "Ti", "Sr", "Cs")
HELD = TokenizerConfig(ELEMENTS, levels=4, cell=1 / 16, step=1 / 512, periodic=True, max_atoms=20, properties=("band_gap_eV",))
SMALL = ModelConfig(width=32, heads=2, layers=2, refiner_layers=2, refiner_width=32, header_width=32)
OWN = {"tree_temperature": 1.0, "element_temperature": 1.0, "precision": "32"}
SKEW = crystal("Sr Ti O", [[0.1, 0.2, 0.3], [0.62, 0.71, 0.83], [0.3, 0.9, 0.55]], [[4.1, 0, 0], [0.9, 5.3, 0], [1.1, -0.7, 6.2]])
KNOWN = [rock_salt(), caesium_chloride(), perovskite(), shaken(perovskite(), 0.1), SKEW]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer(HELD)


@pytest.fixture(scope="module")
def model(tokenizer: Tokenizer) -> Model:
    return made(tokenizer)


def made(tokenizer: Tokenizer, **changes: object) -> Model:
    """A small model away from its uniform start."""
    torch.manual_seed(0)
    model = Model(dataclasses.replace(SMALL, **changes), tokenizer, {"mean": [1.0], "std": [2.0]})
    with torch.no_grad():
        for p in model.parameters():
            p += 0.05 * torch.randn_like(p)
    return model.eval()


def supercell(structure: Structure, times: int) -> Structure:
    assert structure.cell is not None
    x = np.concatenate([fractional(structure) + [k, 0, 0] for k in range(times)]) / [times, 1, 1]
    cell = structure.cell * np.array([[times], [1], [1]])
    return Structure(np.tile(structure.numbers, times), x @ cell, cell)


# ---- tokens


@pytest.mark.parametrize("structure", KNOWN)
def test_a_crystal_comes_back(tokenizer: Tokenizer, structure: Structure) -> None:
    tokens = tokenizer.encode(structure)
    again = tokenizer.decode(tokens)
    assert not again.info and (again.numbers == structure.numbers).all()  # primitive cells keep the order of their atoms
    assert same(structure, again, 0.02)
    exact = tokenizer.decode(dataclasses.replace(tokens, positions=tokens.positions, exact=True))
    assert same(structure, exact, 1e-4)
    shuffled = tokenizer.encode(structure.permuted(np.arange(structure.n_atoms)[::-1]))
    assert (shuffled.tree == tokens.tree).all() and (shuffled.element == tokens.element).all()


def test_a_supercell_is_reduced(tokenizer: Tokenizer) -> None:
    assert tokenizer.decode(tokenizer.encode(supercell(rock_salt(), 4))).n_atoms == 2


def test_what_cannot_be_held_is_refused(tokenizer: Tokenizer) -> None:
    refused = lambda s, *words: check_raises(lambda: tokenizer.encode(s), InputError, *words)  # noqa: E731
    refused(datasets.samples("qm9")[3], "crystal with a cell")
    refused(rock_salt(cation="K"), "K")
    refused(crystal("O O", [[0, 0, 0], [0.02, 0.01, 0.013]], [5, 6, 9, 90, 90, 91]), "apart", "levels")
    refused(crystal("O", [[0, 0, 0]], [1.0, 1.0, 400.0, 90, 90, 90]), "nearer to a cube")
    refused(crystal("O O", [[0, 0, 0], [0, 0, 0]], [4, 5, 6, 90, 90, 90]), "apart")
    with pytest.raises(InputError, match="halvings"):
        TokenizerConfig(ELEMENTS, levels=5, cell=1 / 16, step=1 / 512, periodic=True)
    check_raises(lambda: Tokenizer(TokenizerConfig()).encode(rock_salt()), InputError, "expected a molecule")


@given(st.lists(st.floats(-0.3, 3.0), min_size=3, max_size=3), st.lists(st.floats(-0.9, 0.9), min_size=3, max_size=3), st.integers(1, 60))
@settings(deadline=None, max_examples=50)
def test_six_numbers_are_a_cell(lengths: list[float], slopes: list[float], atoms: int) -> None:
    form = np.array([*(np.array(lengths) + np.log(atoms) / 3), *slopes])
    assert np.allclose(form_of(cell_of_form(form)), form)
    n = torch.tensor([atoms])
    again = numbers_of(bins_of(torch.from_numpy(form)[None].float(), n), n)[0].numpy()
    assert (np.abs(again - form) <= [0.0101] * 3 + [0.00501] * 3).all()


# ---- geometry


@given(st.integers(0, 2**31))
@settings(deadline=None, max_examples=30)
def test_the_nearest_image_of_a_reduced_cell(seed: int) -> None:
    rng = np.random.default_rng(seed)
    cell = niggli(crystal("O", [[0, 0, 0]], rng.normal(0, 1, (3, 3)) + 4 * np.eye(3))).cell
    x = rng.random(3) - rng.random(3)
    every = np.array([(x + shift) @ cell for shift in product((-2, -1, 0, 1, 2), repeat=3)])
    own, lattice = torch.from_numpy(x), torch.from_numpy(cell)
    assert float(nearest(own, lattice).norm()) == pytest.approx(np.linalg.norm(every, axis=1).min())
    assert len(list(images(own, lattice))) == 8


def test_columns_of_the_periodic_table() -> None:
    assert (columns_of(np.array([1, 6, 8])) == [0, 1, 2]).all()
    columns = columns_of(np.arange(1, 95))
    of = dict(zip(range(1, 95), columns.tolist(), strict=True))
    assert of[3] == of[11] == of[55] and of[9] == of[53] and of[57] == of[64] == of[71] and of[92] == of[90] != of[57]


def test_the_origin_of_a_cell_does_not_matter_to_what_is_around(model: Model, tokenizer: Tokenizer) -> None:
    """A shift by half a cell moves all events, and each knows the same distances."""
    batch = collate(Tokens, [tokenizer.encode(SKEW)])
    events = model.events(batch, torch.Generator().manual_seed(0))
    x = events.centre
    moved = (x + 0.5) % 1.0
    # directions may differ where two images are equally near; distances are rounded to 1/128 Å
    before, after = (model.displacements(at, at, events.cell)[..., 3 * SHELLS :] for at in (x, moved))
    assert torch.allclose(before, after, atol=0.1)


# ---- header


def test_probabilities_of_compositions_sum_to_one() -> None:
    torch.manual_seed(0)
    header = Header(16, 3, 2, 0)
    every = torch.tensor([c for c in product(range(3), repeat=3) if any(c)])
    with torch.no_grad():
        assert float((-header.composition_nats(every)).exp().sum()) == pytest.approx(1.0, abs=1e-5)


def test_drawn_compositions_follow_the_law() -> None:
    torch.manual_seed(0)
    header = Header(16, 2, 2, 0)
    header.atoms = torch.nn.Embedding(5, 16)
    every = [c for c in product(range(3), repeat=2) if any(c)]
    with torch.no_grad():
        law = (-header.composition_nats(torch.tensor(every))).exp().numpy()
        space = Space((), np.array([True, True]), (1, 4), np.zeros(0))
        counts, bins, nats = header.draw([space] * 4000, [np.random.default_rng([0, k]) for k in range(4000)], 0.0)
        found = -header.composition_nats(counts) - header.lattice_nats(counts, bins)
    share = np.array([(counts.numpy() == c).all(1).mean() for c in every])
    assert np.abs(share - law).max() < 0.03 and torch.allclose(nats, found, atol=1e-4)


def test_elements_and_counts_have_temperatures_of_their_own() -> None:
    torch.manual_seed(0)
    header = Header(16, 4, 3, 0)
    space, streams = Space((), np.ones(4, dtype=bool), (1, 12), np.zeros(0)), lambda: [np.random.default_rng([0, k]) for k in range(200)]
    with torch.no_grad():
        cold, sure, warm = (header.drawn([space] * 200, streams(), 0.0, pair) for pair in ((1e-4, 1e-4), (1.0, 1e-4), (1.0, 1.0)))
    systems = {tuple(row) for row in (sure > 0).tolist()}
    assert len(cold.unique(dim=0)) == 1 and len(sure.unique(dim=0)) == len(systems) > 4 < len(warm.unique(dim=0)) > 2 * len(systems)


def test_compositions_within_limits_follow_the_law(monkeypatch: pytest.MonkeyPatch) -> None:
    """Given elements and a size: that of the network among those it allows, which masks alone miss by far."""
    torch.manual_seed(1)
    header = Header(16, 3, 3, 0)
    header.atoms = torch.nn.Embedding(10, 16)
    with torch.no_grad():
        header.to_element.weight *= 6
        header.to_count.weight *= 6
        every = [c for c in product(range(4), (0,), range(4)) if 2 <= sum(c) <= 4]
        law = (-header.composition_nats(torch.tensor(every))).softmax(0).numpy()
        off = []
        for candidates in (32, 1):
            monkeypatch.setattr(composition, "CANDIDATES", candidates)
            space = Space((), np.array([True, False, True]), (2, 4), np.zeros(0), narrow=True)
            counts = header.drawn([space] * 3000, [np.random.default_rng([0, k]) for k in range(3000)], 0.0).numpy()
            share = np.array([(counts == c).all(1).mean() for c in every])
            assert share.sum() == pytest.approx(1)
            off.append(np.abs(share - law).sum() / 2)
    assert off[0] < 0.05 < 0.1 < off[1], off


# ---- laws


@pytest.mark.parametrize("changes", [{}, {"waves": "periodic", "pair": False}, {"layout": "queries"}, {"place": "bins"}], ids=str)
def test_laws(tokenizer: Tokenizer, changes: dict) -> None:
    model = Model(dataclasses.replace(SMALL, **changes), tokenizer, {"mean": [0.0], "std": [1.0]})
    records = [s.with_info(band_gap_eV=1.0) for s in KNOWN]
    check_model(model, tokenizer, Tokens, records)
    check_saved("octree", model, tokenizer, Tokens, records)
    prompts = [Prompt(crystal=True)] * 3 + [Prompt(crystal=True, composition={"Sr": 1, "Ti": 1, "O": 3})] * 2
    check_sampler(made(tokenizer, **changes), tokenizer, prompts, **OWN)


def test_cached_equals_teacher_forced(tokenizer: Tokenizer) -> None:
    """What the sampler says of its own draw is what the model says of the drawn events, read at once."""
    model = made(tokenizer, place="bins", refiner_layers=0)
    for draw in model.sample([Prompt(crystal=True)] * 4, [(3, i) for i in range(4)], **OWN):
        x = fractional(tokenizer.decode(draw.tokens)) + 1e-4
        batch = collate(Tokens, [dataclasses.replace(draw.tokens, positions=x)], multiple=1)
        element = batch["element"][0]
        events = events_of(model.grid, torch.zeros_like(element), element, batch["positions"][0], 1)
        events = dataclasses.replace(events, cell=matrix(batch["lattice"][:, 0]))
        with torch.no_grad():
            h = model.states(events, model._nothing(batch))
            said = -float(torch.stack(model._header_nats(batch)).sum())
            kinds, *axes = model.leaf_head.logits(
                h[events.leaf][:, : model.config.width], events.element[events.leaf], events.bins[events.leaf]
            )
            asked = [(model.byte_logits(h[events.tree]), events.byte[events.tree] - 1), (kinds, events.element[events.leaf])]
            asked += list(zip(axes, events.bins[events.leaf].T, strict=True))
            said += sum(float(log_likelihood(logits, answer).sum()) for logits, answer in asked)
        assert said == pytest.approx(draw.score, rel=1e-4)


def test_composition_is_exact_whatever_the_weights(model: Model, tokenizer: Tokenizer) -> None:
    """Every draw has the formula's atoms: an untrained model does, too, and nothing is rejected."""
    prompt = Prompt(crystal=True, composition={"Sr": 1, "Ti": 1, "O": 3}, formula_units=2)
    for draw in model.sample([prompt] * 12, [(0, i) for i in range(12)]):
        s = tokenizer.decode(draw.tokens)
        assert not s.info and sorted(s.numbers.tolist()) == sorted([38, 22, 8, 8, 8] * 2)
    every = {
        tokenizer.decode(d.tokens).n_atoms
        for d in model.sample([dataclasses.replace(prompt, formula_units=None)] * 24, [(1, i) for i in range(24)])
    }
    assert every <= {5, 10, 15, 20} and len(every) > 1
    limits = Prompt(crystal=True, elements=("O", "Ti"), n_atoms=(4, 9))
    for draw in model.sample([limits] * 16, [(2, i) for i in range(16)]):
        s = tokenizer.decode(draw.tokens)
        assert 4 <= s.n_atoms <= 9 and set(s.numbers.tolist()) <= {8, 22}


def test_guidance_and_properties(model: Model, tokenizer: Tokenizer) -> None:
    """What is asked for changes composition and cell, which come first; guidance changes the octree in them and nothing else."""
    drawn = lambda value, guidance: [  # noqa: E731
        d.tokens
        for d in sorted(
            model.sample([Prompt(crystal=True, properties=value)] * 6, [(0, i) for i in range(6)], guidance=guidance, refine=0, **OWN),
            key=lambda d: d.index,
        )
    ]
    free, one, three = drawn({}, 1.0), drawn({"band_gap_eV": 6.0}, 1.0), drawn({"band_gap_eV": 6.0}, 3.0)
    assert any(len(a.element) != len(b.element) or not np.allclose(a.lattice, b.lattice) for a, b in zip(free, one, strict=True))
    assert all(np.allclose(a.lattice, b.lattice) and sorted(a.element) == sorted(b.element) for a, b in zip(one, three, strict=True))
    assert any(len(a.tree) != len(b.tree) or (a.tree != b.tree).any() for a, b in zip(one, three, strict=True))


def test_previews(model: Model, tokenizer: Tokenizer) -> None:
    draws = list(model.sample([Prompt(crystal=True)], [(0, 0)], previews=True))
    assert [d.left for d in draws] == [3, 2, 1, 0] or [d.left for d in draws] == [4, 3, 2, 1, 0]
    for d in draws[:-1]:
        s = tokenizer.decode(d.tokens)
        assert s.cell is not None and (s.numbers == 0).all()


@pytest.mark.parametrize(
    ("prompt", "options", "words"),
    [
        (Prompt(), {}, ["expected a crystal"]),
        (Prompt(crystal=True, space_group=225), {}, ["spacegroup", "symmetry"]),
        (Prompt(crystal=True, composition={"K": 1}), {}, ["formula", "K"]),
        (Prompt(crystal=True, composition={"O": 21}), {}, ["formula", "20"]),
        (Prompt(crystal=True, n_atoms=(30, 40)), {}, ["n_atoms"]),
        (Prompt(crystal=True, elements=("Xx",)), {}, ["elements"]),
        (Prompt(crystal=True), {"valence": True}, ["valence"]),
        (Prompt(crystal=True), {"rank": "property"}, ["rank"]),
    ],
)
def test_what_cannot_be_done_is_refused(model: Model, prompt: Prompt, options: dict, words: list[str]) -> None:
    check_raises(lambda: list(model.sample([prompt], [(0, 0)], **options)), InputError, *words)


def test_choices_that_do_not_fit_crystals(tokenizer: Tokenizer) -> None:
    for changes in ({"place": "diffusion"}, {"given": 0.3}, {"condition": False}):
        with pytest.raises(InputError, match="ModelConfig"):
            Model(dataclasses.replace(SMALL, **changes), tokenizer)
    with pytest.raises(InputError, match="periodic"):
        Model(dataclasses.replace(SMALL, waves="periodic"), Tokenizer(TokenizerConfig()))
    assert space_of(tokenizer, Prompt(crystal=True)).atoms == (1, 20)


# ---- end to end


def test_trained_and_drawn_through_the_front_door(tmp_path: Path) -> None:
    weights = fit(config.load(CONFIGS / "tiny" / "octree_crystals.yaml"), tmp_path)
    found = sciar.generate(formula="NaCl", n=3, model=str(weights), seed=0, n_formula_units=1)
    assert [sorted(v.structure.numbers.tolist()) for v in found] == [[11, 17]] * 3
    found.to_cif(tmp_path / "all.cif")
    assert "data_" in (tmp_path / "all.cif").read_text()
