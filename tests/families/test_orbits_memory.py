"""Remembered crystals: the nearest and their words, the law that they are mixed into, coordinates, files, training on."""

from __future__ import annotations

import dataclasses
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sciar import checkpoint, train
from sciar.batch import TokenArrays, collate
from sciar.datasets import samples
from sciar.errors import InputError
from sciar.families import orbits
from sciar.families.orbits.memory import Memory
from sciar.families.orbits.tokens import Tokenizer, TokenizerConfig, Tokens
from sciar.families.orbits.wyckoff import group
from sciar.nn.elements import facts
from sciar.prompt import Prompt
from sciar.structure import NUMBERS, Structure
from sciar.testing import check_sampler
from tests.families.test_orbits import FCC, PEROVSKITE, ROCKSALT, RUTILE, SMALL, U, crystal

TOKENIZER = Tokenizer(TokenizerConfig(properties=("gap_eV",)))


def tokens_of(structures: list[Structure]) -> TokenArrays:
    return TokenArrays.from_tokens(Tokens, [TOKENIZER.encode(s) for s in structures])


def memory_of(structures: list[Structure]) -> Memory:
    memory = Memory(TOKENIZER.config.max_elements, TOKENIZER.config.max_atoms)
    memory.add(tokens_of(structures))
    return memory


def composition(**counts: int) -> tuple[tuple[int, int], ...]:
    return tuple(sorted((NUMBERS[symbol], n) for symbol, n in counts.items()))


@cache
def sample() -> Memory:
    return memory_of(list(samples("mp20")))


@pytest.fixture(scope="module")
def model() -> orbits.Model:
    torch.manual_seed(0)
    made = orbits.Model(dataclasses.replace(SMALL, memory=True, facts=True), TOKENIZER).eval()
    made.remember(tokens_of([ROCKSALT, PEROVSKITE, RUTILE]))
    return made


def test_elements_stand_where_the_periodic_table_has_them() -> None:
    table = facts()
    distance = torch.cdist(table, table)
    assert table.shape[0] == 119 and not table[0].any() and (table[1:].norm(dim=1) > 0).all()
    for symbol, near, far in [("Na", "K", "Cl"), ("La", "Ce", "O"), ("Fe", "Co", "F"), ("Cl", "Br", "Cs")]:
        z, a, b = (NUMBERS[s] for s in (symbol, near, far))
        assert distance[z, a] < distance[z, b]


def test_elements_that_are_alike_take_the_place_of_each_other() -> None:
    """In CaZrO3 the element after oxygen is the large one, in BaTiO3 the last: calcium must go where barium is."""
    memory = memory_of([ROCKSALT, PEROVSKITE, RUTILE])
    template = TOKENIZER.encode(PEROVSKITE)
    letter = {z: int(template.letters[k]) for k, z in enumerate(template.elements[template.owner].tolist())}
    (found,) = memory.near(composition(Ca=1, Zr=1, O=3))
    assert found.number == 221 and found.share == pytest.approx(0)
    assert dict(found.orbits) == {0: letter[8], 1: letter[56], 2: letter[22]}
    assert [one.number for one in memory.near(composition(K=1, Br=1))] == [225]
    (rutile,) = memory.near(composition(Sn=2, F=4))  # fluorine is before tin, as oxygen is before titanium
    assert np.abs(rutile.free[0, 0] - U) < 1 / 256 or np.abs(1 - rutile.free[0, 0] - U) < 1 / 256
    assert memory.near(composition(Na=7, Cl=2)) == []


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 199), st.integers(0, 9))
def test_what_is_recalled_fits_the_composition(row: int, shift: int) -> None:
    """Shares add up to one; orbits have the atoms of each element, rising as they are drawn; the nearest comes first."""
    memory, crystals = sample(), samples("mp20")
    tokens = TOKENIZER.encode(crystals[row % len(crystals)])
    elements = sorted({int(z) % 80 + 1 + shift for z in tokens.elements})
    if len(elements) < len(tokens.elements):
        return
    asked = tuple(zip(elements, tokens.counts.tolist(), strict=True))
    found = memory.near(asked)
    assert found and np.logaddexp.reduce([one.share for one in found]) == pytest.approx(0, abs=1e-9)
    assert [one.share for one in found] == sorted((one.share for one in found), reverse=True)
    for one in found:
        counts = [0] * len(asked)
        for owner, letter in one.orbits:
            counts[owner] += group(one.number).positions[letter].multiplicity
        assert counts == [n for _, n in asked] and list(one.orbits) == sorted(one.orbits) and len(one.free) == len(one.orbits)


def test_vectors_are_learnt_from_the_first_crystals_alone() -> None:
    """A crystal's own words become likelier under the others; what is added later leaves the vectors as they are."""
    memory, size = sample(), len(samples("mp20"))
    assert not torch.equal(memory.vectors, facts()) and len(memory) == size
    again = memory_of(list(samples("mp20")))
    assert torch.equal(again.vectors, memory.vectors)
    again.add(tokens_of([RUTILE]))
    assert len(again) == size + 1 and torch.equal(again.vectors, memory.vectors)
    assert 136 in [one.number for one in again.near(composition(Ti=2, O=4))]


def test_draws_follow_the_mixture(model: orbits.Model) -> None:
    """ln p of every draw is that of λ · (share of these words) + (1 - λ) · the network's law."""
    prompt = Prompt(crystal=True, composition={"K": 1, "Br": 1}, formula_units=1, space_group=225)
    options = {"score": "words", "precision": "32", "steps": 1, "temperature": 1.0}

    def drawn(memory: float) -> dict[tuple[int, ...], float]:
        draws = model.sample([prompt] * 64, [(3, k) for k in range(64)], memory=memory, **options)
        return {tuple(d.tokens.letters.tolist()): d.score for d in draws}

    alone, mixed = drawn(0.0), drawn(0.4)
    share = {tuple(letter for _, letter in one.orbits): np.exp(one.share) for one in model.memory.near(composition(K=1, Br=1))}
    assert set(mixed) == set(alone) and len(alone) == 2 and np.exp(list(alone.values())).sum() == pytest.approx(1)
    for words, nats in mixed.items():
        assert np.exp(nats) == pytest.approx(0.4 * share.get(words, 0.0) + 0.6 * np.exp(alone[words]), rel=1e-4)


def test_a_draw_does_not_depend_on_the_batch(model: orbits.Model) -> None:
    prompts = [Prompt(crystal=True, composition={"Sn": 1, "O": 2}), Prompt(crystal=True, composition={"K": 1, "Br": 1})] * 2
    check_sampler(model, TOKENIZER, prompts, precision="32", steps=4, lattice_steps=3)


def test_memory_is_for_formulas_alone(model: orbits.Model) -> None:
    """A property is asked of the network, which knows of it."""
    rutile = Prompt(crystal=True, composition={"Sn": 1, "O": 2}, formula_units=2)
    keys = [(1, k) for k in range(12)]
    options = {"score": "words", "precision": "32", "steps": 1}

    def groups(prompt: Prompt, memory: float) -> list[int]:
        return [int(d.tokens.group[0]) for d in model.sample([prompt] * len(keys), keys, memory=memory, **options)]

    assert groups(rutile, 0.999) == [136] * len(keys) != groups(rutile, 0.0)
    gap = dataclasses.replace(rutile, properties={"gap_eV": 2.0})
    assert groups(gap, 0.999) == groups(gap, 0.0)


def test_numbers_begin_where_a_crystal_of_the_same_words_has_them(model: orbits.Model) -> None:
    """The untrained denoiser hardly moves an atom, so what comes out is what the drawing began with: the coordinates of the crystal
    that is remembered and the shape of its cell, in the volume that the network draws."""
    prompt = Prompt(crystal=True, composition={"Sn": 1, "O": 2}, formula_units=2, space_group=136)
    options = {"score": "words", "precision": "32", "memory": 0.999, "steps": 2}
    (one,) = model.memory.near(composition(Sn=2, O=4))
    volumes = []
    for near in (True, False):
        drawn = [d.tokens for d in model.sample([prompt] * 8, [(1, k) for k in range(8)], near=near, strain=0.003, **options)]
        apart = np.array([tokens.free for tokens in drawn]) - one.free
        assert (np.abs(apart - apart.round()).max() < 0.02) == near
        cells = np.array([TOKENIZER.decode(tokens).cell for tokens in drawn])
        lengths = np.sort(np.linalg.norm(cells, axis=-1), axis=1)
        assert (np.abs(lengths[:, 0] / lengths[:, 2] - 2.96 / 4.6).max() < 0.01) == near
        volumes.append(np.abs(np.linalg.det(cells)))
    np.testing.assert_allclose(*volumes, rtol=0.01)
    assert np.ptp(volumes[0]) > 0.1
    itself = Prompt(crystal=True, composition={"Ti": 1, "O": 2}, formula_units=2, space_group=136)
    (draw,) = model.sample([itself], [(1, 0)], **options)
    assert np.linalg.det(TOKENIZER.decode(draw.tokens).cell) == pytest.approx(4.6 * 4.6 * 2.96, rel=0.01)


def rutile(metal: int, anion: int, u: float, origin: float = 0.0, a: float = 4.6) -> Structure:
    """Four-fold sites at (u, u, 0) round the metals; with an origin of ½ the other way to describe the same crystal."""
    sites = [[u, u, 0], [-u, -u, 0], [0.5 - u, 0.5 + u, 0.5], [0.5 + u, 0.5 - u, 0.5]]
    metals = [[0, 0, 0], [0.5, 0.5, 0.5]]
    return crystal(np.diag([a, a, 0.64 * a]), {metal: (np.array(metals) + origin).tolist(), anion: (np.array(sites) + origin).tolist()})


def test_numbers_are_averaged_over_crystals_in_the_same_setting() -> None:
    """By their shares; one that stands otherwise is left out, and so is every other one where a crystal has the elements asked for."""
    memory = memory_of([rutile(22, 8, 0.30), rutile(50, 8, 0.31), rutile(23, 9, 0.21), ROCKSALT])
    asked = composition(Mo=2, O=4)
    every = memory.near(asked)
    u = [min(one.free[0, 0], 1 - one.free[0, 0]) for one in every]
    assert sorted(round(value, 2) for value in u) == [0.21, 0.30, 0.31]
    first = int(np.argmin(np.abs(np.array(u) - 0.30)))
    together = [k for k, value in enumerate(u) if value > 0.25]
    weights = np.exp([every[k].share for k in together])
    mean = memory.mean(every, first)
    expected = np.average([every[k].free for k in together], axis=0, weights=weights)
    np.testing.assert_allclose(mean.free, expected, atol=1e-9)
    np.testing.assert_allclose(mean.facts, np.average([facts()[every[k].elements] for k in together], axis=0, weights=weights), atol=1e-6)
    assert not mean.same and 0 < np.abs(mean.free[0, 0] - every[first].free[0, 0]) < 0.01
    titania = memory.near(composition(Ti=2, O=4))
    own = next(k for k, one in enumerate(titania) if one.same)
    assert np.array_equal(memory.mean(titania, own).free, titania[own].free) and memory.mean(titania, own).same


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 199))
def test_a_crystal_is_asked_of_others_in_training(row: int) -> None:
    """Of the crystals of its words all but itself are recalled; asked as a new one, all are."""
    memory, crystals = sample(), samples("mp20")
    tokens = TOKENIZER.encode(crystals[row % len(crystals)])
    words = int(tokens.group[0]), list(zip(tokens.owner.tolist(), tokens.letters.tolist(), strict=True))
    asked = tuple(zip(tokens.elements.tolist(), tokens.counts.tolist(), strict=True))
    every, others = (memory.of(asked, *words, itself=itself) for itself in (True, False))
    assert all((one.number, list(one.orbits)) == words for one in every)
    assert sum(one.same for one in every) == sum(one.same for one in others) + 1
    assert [one.elements.tolist() for one in others if not one.same] == [one.elements.tolist() for one in every if not one.same][
        : len(others)
    ]


def test_what_is_asked_again_is_not_looked_up_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same numbers in each epoch, another one of those that may be picked, and all anew once more is remembered."""
    rows = list(samples("mp20"))[:40]
    memory, batch = memory_of(rows), collate(Tokens, [TOKENIZER.encode(s) for s in rows])
    low, high = ([luck] * len(rows) for luck in (0.0, 0.99))
    first, other = memory.starts(batch, low, itself=True), memory.starts(batch, high, itself=True)
    asked: list[object] = []
    look_up = Memory.of
    monkeypatch.setattr(Memory, "of", lambda self, *words: (asked.append(words), look_up(self, *words))[1])
    again = memory.starts(batch, low, itself=True)
    assert not asked and all(a is b for a, b in zip(first, again, strict=True))
    fresh = memory_of(rows).starts(batch, high, itself=True)
    for a, b in zip(other, fresh, strict=True):
        assert a is not None and b is not None and np.array_equal(a.free, b.free) and np.array_equal(a.lattice, b.lattice)
    lonely = [one is None for one in memory.starts(batch, low, itself=False)]
    assert any(lonely) and None not in first, "what a crystal is told of itself is not what it is told of others"
    asked.clear()
    memory.add(tokens_of([ROCKSALT]))
    memory.starts(batch, low, itself=True)
    assert len(asked) == len(set(asked)) > 30


def test_what_is_recalled_is_put_right() -> None:
    """Oxides have another u than the fluorides that they begin with, and these than oxides: learnt from the elements."""
    torch.manual_seed(0)
    model = orbits.Model(dataclasses.replace(SMALL, memory=True, words_weight=0, lattice_weight=0), TOKENIZER)
    pairs = [rutile(metal, anion, 0.29 + 0.02 * (anion == 9)) for metal in (22, 23, 50) for anion in (8, 9)]
    arrays = tokens_of(pairs)
    model.remember(arrays)
    batch, optimizer = arrays.batch(np.arange(6)), torch.optim.Adam(model.sites.parameters(), lr=5e-3)
    errors = []
    for step in range(30):
        parts = model.loss(batch, torch.Generator().manual_seed(step))
        assert np.isclose(parts["loss"].item(), sum(parts[name].item() for name in ("sites", "cell", "replaced")), rtol=1e-5)
        optimizer.zero_grad()
        parts["replaced"].backward()
        optimizer.step()
        errors.append(parts["replaced"].item())
    assert np.mean(errors[-5:]) < 0.6 * np.mean(errors[:5])


def test_memory_is_kept_in_files_and_by_runs_that_go_on(tmp_path: Path, model: orbits.Model) -> None:
    path = tmp_path / "weights.safetensors"
    header = {"family": "orbits", "tokenizer_config": TOKENIZER.config, "model_config": model.config, "statistics": {}, "card": {}}
    checkpoint.save(path, model, **header, dtype=torch.float16)
    _, restored = checkpoint.build(*checkpoint.open_weights(path))
    asked = composition(Ca=1, Zr=1, O=3)
    for one, other in zip(restored.memory.near(asked), model.memory.near(asked), strict=True):
        assert one.orbits == other.orbits and np.array_equal(one.lattice, other.lattice)
        assert np.abs(one.lattice - TOKENIZER.encode(PEROVSKITE).lattice[0]).max() < 1e-3
    other = orbits.Model(dataclasses.replace(model.config, width=48), TOKENIZER)
    train.initialise_from(other, str(path))
    other.remember(tokens_of([ROCKSALT]))  # known already
    assert len(other.memory) == 3
    other.remember(tokens_of([crystal(4.2 * FCC, {12: [[0, 0, 0]], 8: [[0.5, 0.5, 0.5]]})]))
    assert len(other.memory) == 4 and len(other.memory.near(composition(K=1, Br=1))) == 2


def test_a_recipe_remembers_its_training_crystals(tmp_path: Path) -> None:
    """Once: a run that goes on finds them in its state."""
    from sciar import config

    root = Path(__file__).parents[2]
    for steps in (2, 4):
        wanted = config.load(root / "configs/tiny/orbits.yaml", [f"train.steps={steps}", "train.validate_every=2", "train.save_every=2"])
        weights = train.fit(wanted, tmp_path)
        header, tensors = checkpoint.open_weights(weights)
        assert len(tensors["memory.group"]) == header["card"]["records"] == header["statistics"]["n_records"]


@pytest.mark.parametrize("options", [{"memory": 1.0}, {"memory": -0.1}, {"near": 0.02}])
def test_bad_options(model: orbits.Model, options: dict[str, float]) -> None:
    with pytest.raises(InputError, match=f"expected {next(iter(options))}"):
        list(model.sample([Prompt(crystal=True)], [(0, 0)], **options))
