"""Crystals slot by slot and block by block: tokens, the skip-causal mask, the cache, the laws of draws, one training on real crystals."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import sciar
from sciar import config, datasets
from sciar.batch import collate
from sciar.convert import to_pymatgen
from sciar.errors import InputError
from sciar.families import slots
from sciar.families.slots.model import shuffled
from sciar.families.slots.options import Options
from sciar.families.slots.sample import _Batch, _space
from sciar.families.slots.tokens import Tokenizer, TokenizerConfig, Tokens, place_of
from sciar.lattice import fractional
from sciar.nn.periodic import wrapped
from sciar.prompt import Prompt
from sciar.structure import SYMBOLS, Structure
from sciar.testing import check_model, check_raises, check_sampler, check_saved
from sciar.train import fit

CONFIGS = Path(__file__).parents[2] / "configs"
SMALL = slots.ModelConfig(width=32, heads=2, layers=2, pair=16, refiner_layers=2, refiner_width=32, neighbours=12, composition_width=32)
PUBLISHED = dataclasses.replace(
    SMALL,
    blocks="slots",
    lattice="rows",
    order="sorted",
    head="mlp",
    process="cosine",
    head_width=32,
    head_depth=1,
    draws=2,
    periodic=False,
    history_noise=0.0,
    refiner_layers=0,
)
CHOICES = {
    "species": SMALL,
    "slots": dataclasses.replace(SMALL, blocks="slots"),
    "cell": dataclasses.replace(SMALL, blocks="cell", lattice="rows"),
    "sorted": dataclasses.replace(SMALL, blocks="slots", order="sorted", periodic=False),
    "mlp": dataclasses.replace(PUBLISHED, process="edm", periodic=True, order="random", refiner_layers=2),
    "published": PUBLISHED,
    "corners": dataclasses.replace(SMALL, lattice="corners"),
}


@pytest.fixture(scope="module")
def crystals() -> list[Structure]:
    return datasets.samples("mp20")[:24]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer(TokenizerConfig())


def untrained(chosen: slots.ModelConfig, tokenizer: Tokenizer, seed: int = 0) -> slots.Model:
    """A model whose zero outputs are random instead, so that what it draws depends on everything."""
    torch.manual_seed(seed)
    model = slots.Model(chosen, tokenizer).eval()
    for name, p in model.named_parameters():
        if p.ndim > 1 and not p.any():
            torch.nn.init.normal_(p, std=0.1 * p.shape[1] ** -0.5)
            assert name.startswith(("to_", "head."))
    return model


def test_round_trip(crystals: list[Structure], tokenizer: Tokenizer) -> None:
    from pymatgen.analysis.structure_matcher import StructureMatcher

    matcher = StructureMatcher()
    for structure in crystals:
        tokens = tokenizer.encode(structure)
        again = tokenizer.decode(tokens)
        found = matcher.get_rms_dist(to_pymatgen(again), to_pymatgen(structure))
        assert found is not None and found[0] < 1e-3
        places = [place_of(z) for z in tokens.elements.tolist()]
        assert places == sorted(places)  # by rising electronegativity
        for z in np.unique(tokens.elements):
            rows = tokens.fractions[tokens.elements == z].round(4).tolist()
            assert rows == sorted(rows)


def test_what_cannot_be_held_is_refused(tokenizer: Tokenizer, crystals: list[Structure]) -> None:
    check_raises(lambda: tokenizer.encode(Structure(np.array([6]), positions=np.zeros((1, 3)))), InputError, "slots:", "cell")
    small = Tokenizer(TokenizerConfig(max_atoms=1))
    check_raises(lambda: small.encode(next(c for c in crystals if c.n_atoms > 4)), InputError, "at most 1 atoms")
    empty = Structure(np.array([0]), positions=np.zeros((1, 3)), cell=3 * np.eye(3))
    check_raises(lambda: tokenizer.encode(empty), InputError, "element on every site")


def test_decode_is_total(tokenizer: Tokenizer) -> None:
    none = np.zeros((1, 0))
    make = lambda cell, x: Tokens(np.array([11, 17]), np.array(x), np.array(cell).reshape(1, 9), np.zeros(1, int), none)  # noqa: E731
    good = [[0.0, 0, 0], [0.5, 0.5, 0.5]]
    assert "flat" in str(tokenizer.decode(make(np.ones((3, 3)), good)).info["failure"])
    assert "diverged" in str(tokenizer.decode(make(4 * np.eye(3), [[np.nan] * 3] * 2)).info["failure"])
    assert tokenizer.decode(make(4 * np.eye(3), good)).n_atoms == 2
    assert tokenizer.decode(make(-4 * np.eye(3), good)).n_atoms == 2  # left-handed rows are a cell as well


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(["form", "rows", "corners"]))
def test_lattice_slots_are_the_cell(seed: int, lattice: str) -> None:
    """Any cell comes back up to a rotation, and any six numbers are a cell."""
    rng = np.random.default_rng(seed)
    model = slots.Model(dataclasses.replace(SMALL, lattice=lattice), Tokenizer(TokenizerConfig()))
    cell = torch.tensor(rng.normal(size=(4, 3, 3)) + 4 * np.eye(3), dtype=torch.float32)
    atoms = torch.tensor(rng.integers(1, 20, 4))
    again = model.cell_of(model.lattice_numbers(cell, atoms), atoms)
    assert torch.allclose(again @ again.mT, cell @ cell.mT, rtol=1e-4, atol=1e-3)
    if lattice == "form":
        made = model.cell_of(torch.tensor(rng.normal(size=(4, 2, 3)) * 2, dtype=torch.float32), atoms)
        assert (torch.linalg.det(made) > 0).all()


def test_the_shortest_way_between_fractions() -> None:
    x = torch.tensor([0.49, 0.51, -0.51, 1.2])
    assert torch.allclose(wrapped(x), torch.tensor([0.49, -0.49, 0.49, 0.2]), atol=1e-6)


def test_only_atoms_of_one_element_are_exchanged() -> None:
    element = torch.tensor([[3, 3, 8, 8, 8, 1, 0, 0]])
    x = torch.arange(8.0)[None, :, None].expand(1, 8, 3)
    seen = set()
    for seed in range(40):
        scores = torch.rand(1, 8, generator=torch.Generator().manual_seed(seed))
        moved = shuffled(x, element, scores)[0, :, 0].int().tolist()
        assert sorted(moved[:2]) == [0, 1] and sorted(moved[2:5]) == [2, 3, 4] and moved[5] == 5
        seen.add(tuple(moved[:5]))
    assert len(seen) == 12


@pytest.mark.parametrize("name", CHOICES)
def test_laws(name: str, crystals: list[Structure], tokenizer: Tokenizer) -> None:
    torch.manual_seed(0)
    model = slots.Model(CHOICES[name], tokenizer)
    check_model(model, tokenizer, Tokens, crystals[:6])
    check_saved("slots", model, tokenizer, Tokens, crystals[:3])


@pytest.mark.parametrize("name", CHOICES)
@torch.no_grad()
def test_no_slot_sees_what_comes_later(name: str, crystals: list[Structure], tokenizer: Tokenizer) -> None:
    """Move the last block: open slots up to it and clean slots before it keep their states."""
    model = untrained(CHOICES[name], tokenizer)
    record = next(t for t in map(tokenizer.encode, crystals) if len(np.unique(t.elements)) > 2 and len(t.elements) > 4)
    batch = collate(Tokens, [record], multiple=1)
    state = model.slots(batch["elements"], batch.masks["atoms"])
    cell = batch["lattice"].view(1, 3, 3)
    word = model.word(model.counts(batch["elements"], batch.masks["atoms"]), batch["group"][:, 0], 0.0)
    numbers = torch.cat([model.lattice_numbers(cell, state.atoms), batch["fractions"]], 1)
    opened = torch.rand(numbers.shape, generator=torch.Generator().manual_seed(0))
    last = int(state.block.max())

    def run(numbers: torch.Tensor) -> torch.Tensor:
        pair, bias = model._whole(state, numbers, opened, cell)
        trunk = model.config.head == "trunk"
        time = torch.full(state.block.shape, 0.3)
        parts = [word, model.embedded(state, numbers, None), model.embedded(state, opened if trunk else None, time if trunk else None)]
        return model.states(torch.cat(parts, 1), pair, bias)[0]

    before, after = run(numbers), run(torch.where((state.block == last)[..., None], numbers + 0.3, numbers))
    s = state.block.shape[1]
    clean_early = torch.cat([torch.tensor([True]), state.block[0] < last])
    assert torch.equal(before[: 1 + s][clean_early], after[: 1 + s][clean_early])
    assert torch.equal(before[1 + s :], after[1 + s :])
    assert not torch.allclose(before[: 1 + s][~clean_early], after[: 1 + s][~clean_early])


@pytest.mark.parametrize("name", CHOICES)
@torch.no_grad()
def test_cached_equals_full_forward(name: str, crystals: list[Structure], tokenizer: Tokenizer) -> None:
    """States of the open slots of every block: from the sampler's cache, and from one pass over all slots twice."""
    model = untrained(CHOICES[name], tokenizer)
    records = [tokenizer.encode(c) for c in crystals if 2 < c.n_atoms < 9][:3]
    batch = collate(Tokens, records, multiple=1)
    mask = batch.masks["atoms"]
    state = model.slots(batch["elements"], mask)
    cell = batch["lattice"].view(-1, 3, 3)
    counts = model.counts(batch["elements"], mask)
    numbers = torch.cat([model.lattice_numbers(cell, state.atoms), batch["fractions"]], 1)
    prompts = [Prompt(crystal=True, composition=dict(Counter(SYMBOLS[z] for z in r.elements)), formula_units=1) for r in records]
    streams = [np.random.default_rng(i) for i in range(len(records))]
    drawing = _Batch(model, [_space(model, p) for p in prompts], torch.zeros(len(records), dtype=torch.long), streams, Options(steps=1))
    assert torch.equal(drawing.elements, batch["elements"])
    opened = torch.cat([drawing.noise[:, : model.n_lattice] * Options().cell_temperature, drawing.noise[:, model.n_lattice :]], 1)
    trunk = model.config.head == "trunk"
    pair, bias = model._whole(state, numbers, opened, cell)
    time = torch.zeros(state.block.shape)
    word = model.word(counts, torch.zeros(len(records), dtype=torch.long), 0.0)
    parts = [word, model.embedded(state, numbers, None), model.embedded(state, opened if trunk else None, time if trunk else None)]
    wanted = model.states(torch.cat(parts, 1), pair, bias)[:, 1 + state.block.shape[1] :]
    found: list[torch.Tensor] = []
    whole = model.states
    for number in range(1, int((state.block * state.real).max()) + 1):
        model.states = lambda *args: found.append(whole(*args)) or found[-1]  # type: ignore[method-assign]
        drawing._draw(number)
        model.states = whole  # type: ignore[method-assign]
        at, part = drawing._of(number)
        expected = wanted.gather(1, at[..., None].expand(-1, -1, wanted.shape[-1]))
        assert (found[-1] - expected)[part.real].abs().max() < 1e-4
        drawing.numbers = torch.where((state.block == number)[..., None], numbers, drawing.numbers)  # as they are in the data
        if number == int(drawing._last_of_cell[0]):
            drawing.cell = cell
        drawing._keep(model.embedded(part, drawing._taken(drawing.numbers, at), None), at + 1, part)


@pytest.mark.parametrize("name", CHOICES)
def test_draws(name: str, tokenizer: Tokenizer) -> None:
    """Compositions are exact with untrained weights; draws depend on their keys alone; a solver of one slot or of many."""
    model = untrained(CHOICES[name], tokenizer)
    prompts = [
        Prompt(crystal=True, composition={"Na": 1, "Cl": 1}, formula_units=2),
        Prompt(crystal=True, composition={"Ti": 1, "O": 2}),
        Prompt(crystal=True, elements=("Li", "O"), n_atoms=(3, 5)),
        Prompt(crystal=True, n_atoms=(1, 6)),
    ]
    check_sampler(model, tokenizer, prompts, steps=2, refine=3)
    drawn = sorted(model.sample(prompts, [(0, i) for i in range(4)], 4, steps=2, refine=3), key=lambda d: d.index)
    atoms = [Counter(SYMBOLS[z] for z in d.tokens.elements.tolist()) for d in drawn]
    assert atoms[0] == {"Na": 2, "Cl": 2} and atoms[1]["O"] == 2 * atoms[1]["Ti"]
    assert set(atoms[2]) <= {"Li", "O"} and 3 <= atoms[2].total() <= 5 and 1 <= atoms[3].total() <= 6
    assert all(np.isnan(d.score) for d in drawn)
    alone = [next(iter(model.sample([p], [(0, i)], 1, steps=2, refine=3))).calls for i, p in enumerate(prompts)]
    assert [d.calls for d in drawn] == alone and alone[0] > 3  # evaluations of its own, whatever else is in the batch


def test_the_flow_ends_at_the_answer(tokenizer: Tokenizer) -> None:
    """With the true velocity field the solver arrives at the crystal whatever the noise."""
    model = untrained(dataclasses.replace(SMALL, blocks="cell"), tokenizer)
    goal = torch.tensor([[0.1, 0.2, 0.3], [0.6, 0.7, 0.95]])
    space = _space(model, Prompt(crystal=True, composition={"Na": 1, "Cl": 1}, formula_units=1))
    drawing = _Batch(model, [space], torch.zeros(1, dtype=torch.long), [np.random.default_rng(0)], Options(steps=5, push=0.0))
    drawing.numbers[:, :2] = torch.zeros(1, 2, 3)
    start, seen = drawing.noise[:, 2:], []
    model.velocity = lambda h, sites: seen.append(h) or wrapped(goal - start)  # type: ignore[method-assign]
    drawing._draw(2)
    assert len(seen) == 5 and wrapped(drawing.numbers[:, 2:] - goal).abs().max() < 1e-5


def test_bad_input(tokenizer: Tokenizer) -> None:
    model = untrained(SMALL, tokenizer)
    draw = lambda prompt, **options: next(iter(model.sample([prompt], [(0, 0)], **options)))  # noqa: E731
    salt = Prompt(crystal=True, composition={"Na": 1, "Cl": 1})
    check_raises(lambda: draw(Prompt()), InputError, "slots: expected a crystal")
    check_raises(lambda: draw(dataclasses.replace(salt, formula_units=11)), InputError, "formula:", "11 × 2")
    check_raises(lambda: draw(Prompt(crystal=True, n_atoms=(30, 40))), InputError, "n_atoms:", "at most 20")
    check_raises(lambda: draw(salt, stepz=3), InputError, "unknown option 'stepz'")
    check_raises(lambda: draw(salt, steps=0), InputError, "steps ≥ 1")
    fixed = Structure(np.array([11]), positions=np.zeros((1, 3)), cell=4 * np.eye(3))
    check_raises(lambda: draw(dataclasses.replace(salt, fixed=fixed)), InputError, "no fixed atoms")
    check_raises(lambda: slots.ModelConfig(blocks="atoms"), InputError, "ModelConfig.blocks", "'atoms'")
    check_raises(lambda: slots.ModelConfig(head="mlp"), InputError, "ModelConfig.head", "one slot at a time")
    check_raises(lambda: slots.ModelConfig(width=50, heads=4), InputError, "divisor")


@pytest.mark.parametrize("published", [False, True])
def test_trains_and_draws_end_to_end(published: bool, tmp_path: Path) -> None:
    """A tiny model on real crystals learns, is saved, and answers `generate` with crystals of the formula asked for."""
    chosen = config.load(CONFIGS / "tiny" / "slots.yaml")
    if published:
        chosen = dataclasses.replace(chosen, model=dataclasses.asdict(PUBLISHED))
    weights = fit(chosen, tmp_path)
    found = sciar.generate(formula="NaCl", n=3, model=str(weights), seed=0, n_formula_units=1)
    assert len(found) == 3 and all(sorted(s.numbers.tolist()) == [11, 17] for s in found.structures)
    assert all(np.isfinite(fractional(s)).all() for s in found.structures)
