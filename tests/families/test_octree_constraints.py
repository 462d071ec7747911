"""What is asked for is kept: number, composition, elements, fixed atoms, distances, valences; what cannot be is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_octree import PLAIN, drawn, made

from sciar import datasets
from sciar.batch import collate
from sciar.errors import InputError
from sciar.families.octree import Model, ModelConfig, Tokenizer, TokenizerConfig, Tokens
from sciar.families.octree.constraints import Room, allowed_bytes, scaffold_atoms
from sciar.notation import parse_formula
from sciar.prompt import Prompt
from sciar.structure import Structure
from sciar.testing import check_raises, check_sampler

LAYOUTS = ("interleaved", "queries", "fused")


@pytest.fixture(scope="module")
def molecules() -> list:
    return datasets.samples("qm9")[60:84]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer(TokenizerConfig())


@pytest.fixture(scope="module")
def model(tokenizer: Tokenizer) -> Model:
    return made(tokenizer).eval()


@given(st.integers(0, 2**31))
@settings(deadline=None, max_examples=60)
def test_masked_bytes_always_reach_the_wanted_number(seed: int) -> None:
    """Random choices among the allowed bytes end with the wanted number of atoms and hold the fixed ones; one is always allowed."""
    rng = np.random.default_rng(seed)
    levels = int(rng.integers(1, 5))
    most = int(rng.integers(1, min(20, 8**levels) + 1))
    fewest = int(rng.integers(1, most + 1))
    fixed = np.sort(rng.choice(8**levels, size=int(rng.integers(0, fewest + 1)), replace=False))
    queue, made_, floor = [(levels, 0)], 0, max(1, len(fixed))
    at = level_end = 0
    while at < len(queue):
        level, code = queue[at]
        if at == level_end:
            level_end, made_ = len(queue), 0
        if level == 0:
            break
        inside = fixed[fixed >> (3 * level) == code]
        required = int(np.bitwise_or.reduce(1 << ((inside >> (3 * (level - 1))) & 7))) if len(inside) else 0
        tensors = (torch.tensor([v]) for v in (level, level_end - at, made_, floor))
        allowed = allowed_bytes(*tensors, torch.tensor([[fewest, most]]), torch.tensor([len(inside)]), torch.tensor([required]))[0]
        options = allowed.nonzero()[:, 0].numpy() + 1
        assert len(options), "no byte is left"
        byte = int(rng.choice(options))
        children = [k for k in range(8) if byte >> k & 1]
        queue += [(level - 1, code << 3 | k) for k in children]
        made_ += len(children)
        floor += len(children) - bin(required).count("1") + len(inside) - max(1, len(inside))
        at += 1
    leaves = [code for level, code in queue if level == 0]
    assert fewest <= len(leaves) <= most and set(fixed.tolist()) <= set(leaves)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_number_composition_and_elements_are_kept(tokenizer: Tokenizer, layout: str) -> None:
    model = made(tokenizer, layout=layout).eval()
    assert {s.n_atoms for s in drawn(model, [Prompt(n_atoms=(18, 18))] * 5)} == {18}
    assert all(5 <= s.n_atoms <= 7 for s in drawn(model, [Prompt(n_atoms=(5, 7))] * 5))
    assert {s.formula for s in drawn(model, [Prompt(composition=parse_formula("C6H6O"))] * 5)} == {"C6H6O"}
    assert all(set(s.numbers.tolist()) <= {1, 6} for s in drawn(model, [Prompt(n_atoms=(4, 9), elements=("H", "C"))] * 5))


def test_fixed_atoms_are_contained_as_they_are(model: Model, molecules: list) -> None:
    part = molecules[3].subset(np.arange(4)).shifted(np.array([5.0, -3.0, 1.0])).replace(bonds=None)
    for s in drawn(model, [Prompt(fixed=part, n_atoms=(10, 12))] * 6) + drawn(
        model, [Prompt(fixed=part, composition=parse_formula("C5H8O4N2"))] * 2
    ):
        apart = np.linalg.norm(s.positions[:, None] - part.positions, axis=-1)
        nearest = apart.argmin(0)
        assert apart.min(0).max() <= np.sqrt(3) * 0.005 + 1e-6 and (s.numbers[nearest] == part.numbers).all()
    assert s.formula == "C5H8N2O4"


def test_distance_and_valence_are_kept(model: Model, tokenizer: Tokenizer) -> None:
    for s in drawn(model, [Prompt(n_atoms=(9, 9))] * 3, min_distance=0.9, valence=True):
        d = np.linalg.norm(s.positions[:, None] - s.positions, axis=-1) + 9 * np.eye(s.n_atoms)
        assert s.n_atoms == 9 and d.min() >= 0.9 - 1e-4
    for s in drawn(model, [Prompt(n_atoms=(30, 32))] * 2, min_distance=0.5):  # no room for valence here, but for distances
        assert s.n_atoms >= 30 or "no place left" in str(s.info["failure"])


@pytest.mark.parametrize("place", ["refined", "diffusion"])
def test_distance_and_valence_without_bins(tokenizer: Tokenizer, place: str) -> None:
    """What cannot be masked is started anew: every draw keeps the promise or says that it could not."""
    model, prompts = made(tokenizer, place=place).eval(), [Prompt(n_atoms=(12, 12))] * 8
    plain = list(model.sample(prompts, [(0, i) for i in range(8)], **{**PLAIN, "refine": 3}))
    found = {
        d.index: d
        for d in model.sample(prompts, [(0, i) for i in range(8)], 5, **{**PLAIN, "refine": 3}, min_distance=2.0, valence=True, tries=4)
    }
    room = Room(tokenizer.config.elements, 2.0, True)
    held = failed = again = 0
    for one in plain:
        s, kept = tokenizer.decode(found[one.index].tokens), tokenizer.decode(one.tokens)
        fits = lambda s: room.kept(torch.tensor(s.positions), torch.from_numpy(tokenizer.codes[s.numbers]))  # noqa: E731
        if "failure" in s.info:
            failed += 1
            assert "after 4 starts" in str(s.info["failure"]) and found[one.index].calls > one.calls
            continue
        assert fits(s)
        held += 1
        if fits(kept):
            assert np.allclose(s.positions, kept.positions, atol=1e-4)
        else:
            again += 1
            assert found[one.index].calls > one.calls
    assert held + failed == len(found) == 8 and held and again


def test_room_is_what_it_says() -> None:
    room = Room(("H", "C"), 0.8, True)
    placed = torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, 1.09]])
    free = room.free(torch.tensor([0.7, 0.0, 0.0]), 48, 0.01, placed, torch.tensor([1, 0]))
    x = torch.tensor([0.7, 0.0, 0.0]) + 0.01 * torch.cartesian_prod(*[torch.arange(48.0)] * 3)
    d = (x[:, None] - placed).norm(dim=-1)
    clear = (d >= 0.8 - 1e-6).all(1)
    # the hydrogen has its carbon: nobody else may be its neighbour; the carbon has room
    hydrogen = clear & ~(d[:, 1] < 0.31 + 0.31 + 0.25) & ~((d[:, 0] < 0.76 + 0.31 + 0.25) & (d[:, 1] < 0.87))
    assert (free[0].flatten() == hydrogen).float().mean() > 0.999
    carbon = clear & ~(d[:, 1] < 0.76 + 0.31 + 0.25)
    assert (free[1].flatten() == carbon).float().mean() > 0.999


def test_a_scaffold_becomes_fixed_atoms(model: Model) -> None:
    atoms = scaffold_atoms("c1ccccc1*", (0, 0))
    assert atoms.formula == "C6H5"
    assert scaffold_atoms("c1ccccc1", (0, 0)).formula == "C6H5"
    s = drawn(model, [Prompt(scaffold="c1ccccc1*", elements=("C", "H"))])[0]
    assert (s.numbers == 6).sum() >= 6 and (s.numbers == 1).sum() >= 5


def test_guidance_and_properties(tokenizer: Tokenizer) -> None:
    model = made(tokenizer).eval()
    prompts = [Prompt(properties={"gap_eV": 5.0}, n_atoms=(8, 8))] * 4
    plain, guided = drawn(model, prompts), drawn(model, prompts, guidance=2.0)
    assert all(s.n_atoms == 8 for s in plain + guided)
    assert any(a.formula != b.formula or np.abs(a.positions - b.positions).max() > 0.1 for a, b in zip(plain, guided, strict=True))
    check_sampler(model, tokenizer, prompts, guidance=2.0, **PLAIN)


@pytest.mark.parametrize(
    ("prompt", "options", "words"),
    [
        (Prompt(n_atoms=(40, 50)), {}, ["n_atoms", "at most 32"]),
        (Prompt(n_atoms=(4, 5), composition=parse_formula("C6H6")), {}, ["composition", "4 to 5 atoms", "12"]),
        (Prompt(composition={"C": 60}), {}, ["composition", "60"]),
        (Prompt(composition=parse_formula("CH3Cl")), {}, ["composition", "Cl"]),
        (Prompt(composition=parse_formula("C6H6"), elements=("C",)), {}, ["elements="]),
        (Prompt(elements=("Xe",)), {}, ["elements", "Xe"]),
        (Prompt(elements=()), {}, ["elements", "none"]),
        (Prompt(fixed=Structure(np.array([6, 6]), np.array([[0, 0, 0], [0, 0, 20.0]]))), {}, ["10.00 Å"]),
        (Prompt(fixed=Structure(np.array([6, 6]), np.array([[0, 0, 0], [0, 0, 0.5]]))), {}, ["0.50"]),
        (Prompt(fixed=Structure(np.array([6, 6]), np.array([[0, 0, 0], [0, 0, 1.5]])), n_atoms=(1, 1)), {}, ["fixed", "got 2"]),
        (Prompt(fixed=Structure(np.array([9]), np.zeros((1, 3))), composition=parse_formula("CH4")), {}, ["fixed", "formula"]),
        (Prompt(graph=Structure(np.array([6]))), {}, ["de novo"]),
        (Prompt(), {"temperature": 1.0}, ["unknown option", "temperature"]),
        (Prompt(), {"tree_temperature": 0.0}, ["tree_temperature above 0"]),
        (Prompt(), {"rank": "best"}, ["rank", "best"]),
        (Prompt(scaffold="C(("), {}, ["scaffold"]),
    ],
)
def test_what_cannot_be_done_is_refused(model: Model, prompt: Prompt, options: dict, words: list[str]) -> None:
    check_raises(lambda: list(model.sample([prompt], [(0, 0)], **options)), InputError, *words)


def test_unknown_choices_are_refused(tokenizer: Tokenizer) -> None:
    check_raises(lambda: ModelConfig(layout="twice"), InputError, "interleaved, queries, fused")
    check_raises(lambda: ModelConfig(width=30, heads=4), InputError, "heads")
    check_raises(lambda: Model(ModelConfig(width=32, heads=2, layers=1, vocabulary=99), tokenizer), InputError, "vocabulary", "262")
    bare = made(tokenizer, condition=False).eval()
    check_raises(lambda: list(bare.sample([Prompt(properties={"gap_eV": 5.0})], [(0, 0)])), InputError, "properties")
    check_raises(lambda: ModelConfig(place="refined", refiner_layers=0), InputError, "refiner_layers")
    check_raises(lambda: ModelConfig(waves="none", pair=False), InputError, "pair")
    check_raises(lambda: bare.predict(collate(Tokens, [tokenizer.encode(datasets.samples("qm9")[9])])), InputError, "property head")
