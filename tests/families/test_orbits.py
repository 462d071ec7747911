"""Crystals as symmetry: tables, tokens, constraints, the denoiser's symmetry, the sampler's laws, one training on real crystals."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest
import torch
from crystals import overfitted
from hypothesis import given, settings
from hypothesis import strategies as st

from sciar.batch import TokenArrays, collate
from sciar.convert import to_pymatgen
from sciar.errors import InputError
from sciar.families import orbits
from sciar.families.orbits import words
from sciar.families.orbits.constraints import fits, wish_of
from sciar.families.orbits.options import Options
from sciar.families.orbits.tokens import Tokenizer, TokenizerConfig, Tokens
from sciar.families.orbits.wyckoff import FREE, LETTERS, cell_of, group, lattice_of, orbits_of, structure_of
from sciar.prompt import Prompt
from sciar.pxrd import simulated
from sciar.structure import Structure
from sciar.testing import check_model, check_saved

SMALL = orbits.ModelConfig(width=32, layers=2, heads=2, head_width=32, head_depth=1, sites_width=32, sites_layers=2, neighbours=12, draws=2)


def crystal(cell: np.ndarray | float, atoms: dict[int, list[list[float]]]) -> Structure:
    """A crystal of fractional positions by atomic number."""
    cell = np.eye(3) * cell if np.isscalar(cell) else np.asarray(cell, dtype=float)
    numbers = [z for z, rows in atoms.items() for _ in rows]
    return Structure(np.array(numbers), positions=np.concatenate([np.array(rows) for rows in atoms.values()]) @ cell, cell=cell)


FCC = np.array([[0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])
ROCKSALT = crystal(5.64 * FCC, {11: [[0, 0, 0]], 17: [[0.5, 0.5, 0.5]]})
PEROVSKITE = crystal(4.0, {56: [[0, 0, 0]], 22: [[0.5, 0.5, 0.5]], 8: [[0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]]})
U = 0.305
RUTILE = crystal(
    np.diag([4.6, 4.6, 2.96]),
    {22: [[0, 0, 0], [0.5, 0.5, 0.5]], 8: [[U, U, 0], [1 - U, 1 - U, 0], [0.5 + U, 0.5 - U, 0.5], [0.5 - U, 0.5 + U, 0.5]]},
)
ANATASE = crystal(
    np.array([[-1.892, 1.892, 4.757], [1.892, -1.892, 4.757], [1.892, 1.892, -4.757]]),
    {22: [[0, 0, 0], [0.75, 0.25, 0.5]], 8: [[0.208, 0.208, 0], [0.792, 0.792, 0], [0.958, 0.458, 0.5], [0.542, 0.042, 0.5]]},
)
WURTZITE = crystal(
    np.array([[3.25, 0, 0], [-1.625, 1.625 * 3**0.5, 0], [0, 0, 5.2]]),
    {30: [[1 / 3, 2 / 3, 0], [2 / 3, 1 / 3, 0.5]], 8: [[1 / 3, 2 / 3, 0.38], [2 / 3, 1 / 3, 0.88]]},
)
SKEW = crystal(
    np.array([[4.1, 0, 0], [0.9, 5.3, 0], [1.1, -0.7, 6.2]]), {3: [[0.1, 0.2, 0.3]], 9: [[0.62, 0.71, 0.83]], 8: [[0.3, 0.9, 0.55]]}
)
KNOWN = {
    "rock salt": (ROCKSALT, 225),
    "perovskite": (PEROVSKITE, 221),
    "rutile": (RUTILE, 136),
    "wurtzite": (WURTZITE, 186),
    "skew": (SKEW, 1),
}


def same(a: Structure, b: Structure, rms: float = 0.01) -> bool:
    from pymatgen.analysis.structure_matcher import StructureMatcher

    found = StructureMatcher().get_rms_dist(to_pymatgen(a), to_pymatgen(b))
    return found is not None and found[0] < rms


# --- tables ---


def test_positions_are_those_of_the_tables() -> None:
    """International Tables: 1,731 positions in all; the last letter is the general position of every operation."""
    assert sum(len(group(g).positions) for g in range(1, 231)) == 1731
    conventional = {
        (225, "a"): 4,
        (225, "l"): 192,
        (227, "a"): 8,
        (227, "e"): 32,
        (166, "h"): 18,
        (62, "c"): 4,
        (230, "c"): 24,
        (194, "f"): 4,
    }
    for (number, letter), multiplicity in conventional.items():
        space = group(number)
        assert space.positions[LETTERS.index(letter)].multiplicity * space.copies == multiplicity
    for number in range(1, 231):
        space = group(number)
        assert space.positions[-1].free == 3
        assert all(p.multiplicity <= space.positions[-1].multiplicity for p in space.positions)
        assert [p.letter for p in space.positions] == list(range(len(space.positions)))


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 230), st.integers(0, 26), st.lists(st.floats(0.05, 0.45), min_size=3, max_size=3))
def test_an_orbit_is_closed_under_its_group(number: int, letter: int, u: list[float]) -> None:
    """Every operation of the group takes atoms of an orbit to atoms of it, up to whole primitive cells."""
    import moyopy

    space = group(number)
    position = space.positions[letter % len(space.positions)]
    atoms = position.atoms(np.array(u) * [1, 1.37, 0.71])
    operations = moyopy.operations_from_number(number)
    images = np.einsum("kij,nj->kni", operations.rotations, atoms) + np.array(operations.translations)[:, None]
    apart = (images[:, :, None] - atoms) @ np.linalg.inv(space.primitive)
    assert (np.abs(apart - apart.round()) < 1e-6).all(-1).any(-1).all()


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 5), st.lists(st.floats(-1, 2), min_size=6, max_size=6))
def test_free_numbers_spell_a_cell_and_come_back(system: int, values: list[float]) -> None:
    lattice = np.array(values) * (np.arange(6) < FREE[system])
    cell = cell_of(system, lattice)
    assert np.linalg.det(cell) > 0
    assert np.allclose(lattice_of(system, cell), lattice, atol=1e-8)


# --- tokens ---


@pytest.mark.parametrize("name", KNOWN)
def test_textbook_crystals(name: str) -> None:
    structure, number = KNOWN[name]
    found = orbits_of(structure)
    assert found.group == number
    back = structure_of(found)
    assert back.n_atoms == structure.n_atoms and same(structure, back)
    assert abs(np.linalg.det(back.cell)) == pytest.approx(abs(np.linalg.det(structure.cell)), rel=1e-6)


def test_the_same_words_for_any_cell_origin_and_order() -> None:
    """Rutile from another corner, in a doubled cell, turned and shuffled."""
    rng = np.random.default_rng(0)
    tokenizer = Tokenizer(TokenizerConfig())
    wanted = tokenizer.encode(RUTILE)
    fractions = RUTILE.positions @ np.linalg.inv(RUTILE.cell)
    moved = (fractions + [0.2, 0.37, 0.11]) % 1
    double = np.diag([1, 1, 2])
    cell = double @ RUTILE.cell
    atoms = np.concatenate([moved, moved + [0, 0, 1]]) @ RUTILE.cell
    turn = np.linalg.qr(rng.standard_normal((3, 3)))[0]
    turn = turn * np.sign(np.linalg.det(turn))
    other = Structure(np.tile(RUTILE.numbers, 2), positions=atoms, cell=cell).rotated(turn).permuted(rng.permutation(12))
    found = tokenizer.encode(other)
    for field in ("elements", "counts", "group", "owner", "letters"):
        assert np.array_equal(getattr(found, field), getattr(wanted, field)), field
    assert np.allclose(found.lattice, wanted.lattice, atol=1e-5) and same(tokenizer.decode(found), RUTILE)


def test_without_symmetry_every_atom_is_an_orbit() -> None:
    tokenizer = Tokenizer(TokenizerConfig(symmetric=False))
    tokens = tokenizer.encode(RUTILE)
    assert tokens.group[0] == 1 and len(tokens.letters) == 6 and same(tokenizer.decode(tokens), RUTILE, 1e-6)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 255), st.lists(st.integers(0, 255), min_size=1, max_size=4), st.floats(-20, 20, width=32), st.booleans())
def test_decode_is_total(number: int, letters: list[int], value: float, broken: bool) -> None:
    n = len(letters)
    tokens = Tokens(
        elements=np.array([8]),
        counts=np.array([n]),
        group=np.array([number]),
        lattice=np.full((1, 6), np.nan if broken else value),
        properties=np.zeros((1, 0)),
        owner=np.zeros(n, dtype=int),
        letters=np.array(letters),
        free=np.zeros((n, 3)),
        index=np.zeros((0, 3), dtype=int),
        square=np.zeros(0),
    )
    structure = Tokenizer(TokenizerConfig()).decode(tokens)
    assert structure.n_atoms or "failure" in structure.info


def test_what_it_cannot_hold_is_refused() -> None:
    tokenizer = Tokenizer(TokenizerConfig(max_atoms=4))
    for structure, word in (
        (RUTILE, "at most 4"),
        (RUTILE.replace(cell=None), "cell"),
        (RUTILE.replace(numbers=np.zeros(6, int)), "element"),
    ):
        with pytest.raises(InputError, match=word):
            tokenizer.encode(structure)
    with pytest.raises(InputError, match="max_atoms"):
        TokenizerConfig(max_atoms=0)


# --- constraints ---


def _brute(number: int, lacking: tuple[int, ...]) -> bool:
    """All ways to fill elements one after the other, by enumeration."""
    positions = group(number).positions

    def ways(need: int, free_letters: tuple[int, ...]) -> list[tuple[int, ...]]:
        if need == 0:
            return [()]
        found = []
        for k, letter in enumerate(free_letters):
            size = positions[letter].multiplicity
            if size <= need:
                found += [(letter, *rest) for rest in ways(need - size, free_letters[k if positions[letter].free else k + 1 :])]
        return found

    def fill(counts: tuple[int, ...], used: frozenset[int]) -> bool:
        if not counts:
            return True
        letters = tuple(p.letter for p in positions if p.letter not in used)
        return any(fill(counts[1:], used | {letter for letter in way if not positions[letter].free}) for way in ways(counts[0], letters))

    return fill(lacking, frozenset())


@settings(max_examples=80, deadline=None)
@given(st.sampled_from([2, 14, 47, 62, 123, 136, 166, 194, 216, 221, 225, 227, 229]), st.lists(st.integers(1, 6), min_size=1, max_size=3))
def test_fits_is_what_enumeration_says(number: int, lacking: list[int]) -> None:
    assert fits(number, tuple(lacking)) == _brute(number, tuple(lacking))


def test_wishes_that_cannot_be_kept() -> None:
    config, known = TokenizerConfig(max_atoms=10), frozenset(range(1, 90))
    ask = lambda **given: wish_of(Prompt(crystal=True, **given), config, known)  # noqa: E731
    assert ask(composition={"Na": 1, "Cl": 1}).compositions == tuple(((11, k), (17, k)) for k in range(1, 6))
    assert ask(composition={"Na": 1, "Cl": 1}, formula_units=2).compositions == (((11, 2), (17, 2)),)
    assert ask(composition={"Na": 1, "Cl": 1}, space_group=225, n_atoms=(1, 3)).compositions == (((11, 1), (17, 1)),)
    for given_, word in (
        ({"composition": {"Na": 11}}, "at most|1 to 10"),
        ({"n_atoms": (12, 14)}, "at most 10"),
        ({"composition": {"Na": 1, "Cl": 2}, "space_group": 230}, "orbits add up"),
        ({"elements": ("Og",)}, "seen"),
        ({"n_atoms": (1, 3), "space_group": 230}, "orbits of 1 to 3"),
        ({"fixed": ROCKSALT}, "fixed"),
    ):
        with pytest.raises(InputError, match=word):
            ask(**given_)
    with pytest.raises(InputError, match="16 to 4096"):
        TokenizerConfig(profile=7)


# --- model ---


@pytest.fixture(scope="module")
def small() -> orbits.Model:
    torch.manual_seed(0)
    tokenizer = Tokenizer(TokenizerConfig(properties=("gap_eV",)))
    return orbits.Model(SMALL, tokenizer).eval()


def everyone() -> list[Structure]:
    return [structure.with_info(gap_eV=float(k)) for k, (structure, _) in enumerate(KNOWN.values())]


def test_laws(small: orbits.Model) -> None:
    model = orbits.Model(SMALL, small.tokenizer)
    check_model(model, small.tokenizer, Tokens, everyone())
    check_saved("orbits", model, small.tokenizer, Tokens, everyone())


def test_padding_changes_nothing(small: orbits.Model) -> None:
    """The words' nats of a batch are the mean of its crystals'."""
    records = [small.tokenizer.encode(s) for s in everyone()]
    names = ("composition", "group", "positions")
    untold = orbits.Model(dataclasses.replace(SMALL, unconditional=1.0), small.tokenizer).eval()  # else chance says who is told what
    untold.load_state_dict(small.state_dict())
    with torch.no_grad():
        together = untold.loss(collate(Tokens, records), torch.Generator().manual_seed(0))
        alone = [untold.loss(collate(Tokens, [r], 1), torch.Generator().manual_seed(0)) for r in records]
    for name in names:
        assert float(together[name]) == pytest.approx(np.mean([float(a[name]) for a in alone]), rel=1e-4), name


def test_so_many_crystals_are_told_no_property(small: orbits.Model) -> None:
    others = [[small.tokenizer.encode(s.with_info(gap_eV=gap)) for s in everyone()] for gap in (0.5, 4.0)]
    for share in (0.0, 1.0):
        model = orbits.Model(dataclasses.replace(SMALL, unconditional=share, condition_drop=0.0), small.tokenizer).eval()
        model.load_state_dict(small.state_dict())
        with torch.no_grad():
            low, high = (float(model.loss(collate(Tokens, o), torch.Generator().manual_seed(0))["composition"]) for o in others)
        assert (low == high) == bool(share)


def test_words_are_causal(small: orbits.Model) -> None:
    """The group's and positions' nats do not see what follows; the composition's see nothing of the rest."""
    first = small.tokenizer.encode(RUTILE)
    changed = dataclasses.replace(first, letters=first.letters[::-1].copy())
    with torch.no_grad():
        a, b = (small.loss(collate(Tokens, [t]), torch.Generator().manual_seed(0)) for t in (first, changed))
    assert torch.allclose(a["composition"], b["composition"]) and torch.allclose(a["group"], b["group"])
    assert not torch.allclose(a["positions"], b["positions"])


def test_the_cached_score_is_that_of_the_whole_sequence(small: orbits.Model) -> None:
    """Nats of drawn words, one token at a time with a cache, against one pass over all of them with the same masks."""
    prompts = [Prompt(crystal=True, composition={"Ti": 1, "O": 2}, formula_units=2)] * 6
    for draw in small.sample(prompts, [(3, i) for i in range(6)], precision="32", score="words", temperature=1.5):
        tokens = draw.tokens
        batch = collate(Tokens, [tokens], 1)
        number, counts = int(tokens.group[0]), tokens.counts.tolist()
        with torch.no_grad():
            words = small.words(batch)
            begin, (told, _) = small.begin(batch["properties"][:, 0]), small.told(small._profiles(batch, None)[0])
            states = small._packed_states(small.embedded(words, begin, told, small.catalogue.vectors()), words.real)
            candidates = small.catalogue.vectors()[small.catalogue.of_group(batch["group"][:, 0])]
            groups = small.to_group(states[0, 3])  # begin, two pairs, end
            positions = small.position_logits(states[:, 4:-1], candidates)[0]
        nats = groups[1:].log_softmax(-1)[number - 1]
        lacking, taken = list(counts), 0
        for k, (owner, letter) in enumerate(zip(tokens.owner.tolist(), tokens.letters.tolist(), strict=True)):
            lowest = tokens.letters[k - 1] if k and tokens.owner[k - 1] == owner else 0
            allowed = torch.zeros(positions.shape[1], dtype=torch.bool)
            for position in group(number).positions[lowest:]:
                bit = 0 if position.free else 1 << position.letter
                rest = lacking[owner] - position.multiplicity
                if rest >= 0 and not taken & bit:
                    allowed[position.letter] = fits(number, (rest, *lacking[owner + 1 :]), position.letter, taken | bit)
            nats = nats + positions[k].masked_fill(~allowed, -torch.inf).log_softmax(-1)[letter]
            chosen = group(number).positions[letter]
            lacking[owner] -= chosen.multiplicity
            taken |= 0 if chosen.free else 1 << letter
        assert draw.score == pytest.approx(float(nats), abs=1e-3)
        assert not any(lacking)


@pytest.mark.parametrize("batch_size", [1, 5])
def test_a_draw_does_not_depend_on_the_batch(small: orbits.Model, batch_size: int) -> None:
    prompts = [Prompt(crystal=True, n_atoms=(2, 6)), Prompt(crystal=True, composition={"Ba": 1, "Ti": 1, "O": 3})] * 3
    keys = [(1, i) for i in range(len(prompts))]
    whole = {d.index: d for d in small.sample(prompts, keys, batch_size=6, precision="32")}
    for draw in small.sample(prompts, keys, batch_size=batch_size, precision="32"):
        other = whole[draw.index]
        assert np.array_equal(draw.tokens.letters, other.tokens.letters) and draw.tokens.group == other.tokens.group
        assert np.allclose(draw.tokens.lattice, other.tokens.lattice, atol=2e-3)
        assert draw.score == pytest.approx(other.score, abs=1e-3)


def test_compositions_are_exact(small: orbits.Model) -> None:
    """An untrained model: every draw has the formula, the group, the elements and the size that were asked for."""
    prompts = [
        *[Prompt(crystal=True, composition={"Li": 1, "Fe": 1, "P": 1, "O": 4})] * 10,
        *[Prompt(crystal=True, composition={"Na": 1, "Cl": 1}, space_group=225)] * 10,
        *[Prompt(crystal=True, n_atoms=(5, 7), elements=("Mg", "O"))] * 10,
        *[Prompt(crystal=True, space_group=225)] * 10,
    ]
    for draw in small.sample(prompts, [(0, i) for i in range(40)], score="words", steps=3, lattice_steps=3):
        structure, prompt = small.tokenizer.decode(draw.tokens), prompts[draw.index]
        found = to_pymatgen(structure).composition.get_el_amt_dict()
        if prompt.composition:
            assert len({found[e] / n for e, n in prompt.composition.items()}) == 1 and len(found) == len(prompt.composition)
        elif prompt.elements:
            assert 5 <= structure.n_atoms <= 7 and set(found) <= {"Mg", "O"}
        if prompt.space_group:
            assert draw.tokens.group[0] == 225


def test_temperatures_of_elements_and_of_counts_are_of_compositions_alone(small: orbits.Model) -> None:
    def drawn(prompt: Prompt, elements: float, counts: float) -> list[tuple[list[int], ...]]:
        options = {"composition_temperature": elements, "count_temperature": counts, "score": "words", "precision": "32", "steps": 1}
        draws = [d.tokens for d in small.sample([prompt] * 8, [(5, k) for k in range(8)], **options)]
        return [(t.elements.tolist(), t.counts.tolist(), t.group.tolist(), t.letters.tolist()) for t in draws]

    rutile = Prompt(crystal=True, composition={"Ti": 1, "O": 2}, formula_units=2)
    assert drawn(rutile, 0.01, 0.01) == drawn(rutile, 1.0, 1.0)
    anything = Prompt(crystal=True)
    pairs = ((0.001, 0.001), (1.0, 0.001), (0.001, 1.0), (1.0, 1.0))
    cold, sure, loose, warm = ([row[:2] for row in drawn(anything, *pair)] for pair in pairs)
    assert all(row == cold[0] for row in cold) and len({str(row) for row in warm}) > 4
    assert [elements[0] for elements, _ in sure] == [elements[0] for elements, _ in warm]  # the same numbers draw them
    assert [counts[0] for _, counts in sure] != [counts[0] for _, counts in warm]
    assert len({elements[0] for elements, _ in loose}) == 1 < len({counts[0] for _, counts in loose})


def test_compositions_within_limits_follow_the_law(monkeypatch: pytest.MonkeyPatch, small: orbits.Model) -> None:
    """Given elements and a size: that of the words among those it allows, which masks alone miss by far."""
    model = copy.deepcopy(small)
    with torch.no_grad():
        model.to_element.weight *= 6
        model.to_count[-1].weight *= 2
    options = Options(temperature=1.0, composition_temperature=1.0, count_temperature=1.0)
    wish = wish_of(Prompt(crystal=True, n_atoms=(2, 4), elements=("Li", "O")), small.tokenizer.config, frozenset(range(1, 119)))
    every = [tuple((z, n) for z, n in ((3, li), (8, o)) if n) for li in range(5) for o in range(5) if 2 <= li + o <= 4]
    off = []
    with torch.inference_mode():
        logits = np.array(words.Writer(model, options).log_likelihoods(every))
        law = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
        for candidates in (32, 1):
            monkeypatch.setattr(words, "CANDIDATES", candidates)
            rows = [words.Sentence(k, (7, k), wish, np.random.default_rng([7, k])) for k in range(200)]
            words.Writer(model, options)._resample(rows)
            share = np.array([np.mean([row.given == c for row in rows]) for c in every])
            assert share.sum() == pytest.approx(1)
            assert all(row.score == pytest.approx(logits[every.index(row.given)], abs=1e-4) for row in rows if row.given)
            off.append(np.abs(share - law).sum() / 2)
    assert off[0] < 0.1 < 0.2 < off[1], off


def test_the_denoiser_keeps_symmetry_and_does_not_see_the_choice_of_atoms(small: orbits.Model) -> None:
    """A crystal told as rutile or without symmetry: the same shifts of its oxygens. Its states are made equal by hand."""
    plain = Tokenizer(TokenizerConfig(symmetric=False)).encode(RUTILE)
    told = small.tokenizer.encode(RUTILE)
    answers = []
    for tokens in (told, plain):
        batch = collate(Tokens, [tokens], 1)
        number = batch["group"][:, 0]
        position = small.catalogue.start[number][:, None] + batch["letters"]
        frame = small.catalogue.frame(number, position)
        element = batch["elements"].gather(1, batch["owner"])
        facts = torch.zeros(*position.shape, 3, dtype=torch.long)  # symmetry is told to one of them only
        u, lattice = batch["free"], batch["lattice"][:, 0]
        with torch.no_grad():
            small.sites.push.weight.normal_(generator=torch.Generator().manual_seed(0))
            moved, cell = small.sites(frame, u, lattice, torch.tensor([0.3]), torch.tensor([0.05]), element, facts)
            shift = frame.shifted(frame.cell(lattice), moved - u)[0]
        answers.append((element[0], shift, torch.linalg.det(frame.cell(cell) @ torch.eye(3)) / torch.linalg.det(frame.cell(lattice))))
    length = [shift[element == 8].norm(dim=-1) for element, shift, _ in answers]
    assert length[0][0] > 1e-3 and torch.allclose(length[0][0].expand(4), length[1], atol=1e-4)
    assert torch.allclose(answers[1][1][answers[1][0] == 22], torch.zeros(2, 3), atol=1e-4)  # titanium is where it must be
    assert torch.allclose(answers[0][2], answers[1][2], rtol=2e-2)


def test_unknown_options_are_refused(small: orbits.Model) -> None:
    for options, word in (
        ({"tempo": 1}, "unknown option"),
        ({"temperature": 0}, "temperature"),
        ({"composition_temperature": 0}, "composition_temperature"),
        ({"steps": 0}, "steps"),
        ({"precision": "8"}, "precision"),
        ({"score": "x"}, "score"),
    ):
        with pytest.raises(InputError, match=word):
            list(small.sample([Prompt(crystal=True)], [(0, 0)], **options))


def test_it_learns_real_crystals() -> None:
    """From nothing to 30 real crystals in seconds: the words become likely, and denoising beats doing nothing."""
    from sciar.datasets import samples

    structures = [samples("mp20")[k] for k in range(30)]
    tokenizer = Tokenizer(TokenizerConfig())
    records = [tokenizer.encode(s) for s in structures]
    batch = collate(Tokens, records)
    torch.manual_seed(0)
    model = orbits.Model(SMALL, tokenizer, {})
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)

    def judged() -> dict[str, float]:
        """Loss parts over the same eight noises."""
        with torch.no_grad():
            rows = [model.eval().loss(batch, torch.Generator().manual_seed(1000 + k)) for k in range(8)]
        return {name: float(np.mean([float(row[name]) for row in rows])) for name in rows[0]}

    before = judged()
    for step in range(60):
        parts = model.train().loss(batch, torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        parts["loss"].backward()
        optimizer.step()
    after = judged()
    assert after["composition"] < 0.6 * before["composition"] and after["group"] < 0.4 * before["group"]
    assert after["lattice"] < 0.9 * before["lattice"] and after["sites"] < 0.93 * before["sites"] and after["cell"] < before["cell"]
    drawn = list(model.eval().sample([Prompt(crystal=True)] * 4, [(0, i) for i in range(4)]))
    assert all(tokenizer.decode(d.tokens).n_atoms for d in drawn)


def test_it_reads_a_powder_profile() -> None:
    """Two crystals of one composition: the profile says which of the two, and how large; without one both are drawn."""
    tokenizer = Tokenizer(TokenizerConfig(profile=171))
    records = [tokenizer.encode(s) for s in (RUTILE, ANATASE)]
    assert [int(r.group[0]) for r in records] == [136, 141] and all(len(r.index) == len(r.square) > 10 for r in records)
    torch.manual_seed(0)
    statistics = tokenizer.statistics(TokenArrays.from_tokens(Tokens, records))
    model = orbits.Model(dataclasses.replace(SMALL, sites_weight=0.0, dropout=0.0), tokenizer, statistics)
    overfitted(model, collate(Tokens, records * 8))
    ask = lambda crystal: Prompt(  # noqa: E731
        crystal=True, composition={"Ti": 1, "O": 2}, formula_units=2, pxrd=None if crystal is None else simulated(crystal)
    )
    prompts = [*[ask(RUTILE)] * 8, *[ask(ANATASE)] * 8, *[ask(None)] * 16]
    drawn = {d.index: int(d.tokens.group[0]) for d in model.sample(prompts, [(0, i) for i in range(32)], batch_size=20, temperature=1.0)}
    groups = [drawn[i] for i in range(32)]
    assert groups[:8].count(136) >= 7 and groups[8:16].count(141) >= 7 and groups[16:].count(136) > 2 < groups[16:].count(141)


def test_a_profile_changes_only_the_draws_that_ask_for_it() -> None:
    tokenizer = Tokenizer(TokenizerConfig(profile=171))
    torch.manual_seed(0)
    model = orbits.Model(SMALL, tokenizer).eval()
    torch.nn.init.normal_(model.profile.out.weight, std=0.2)
    free, asking = (Prompt(crystal=True, composition={"Ti": 1, "O": 2}, pxrd=p) for p in (None, simulated(RUTILE)))
    keys = [(0, i) for i in range(6)]

    def run(prompts: list[Prompt], **options: float) -> list[tuple[float, ...]]:
        return [(d.score, *d.tokens.lattice[0]) for d in sorted(model.sample(prompts, keys, **options), key=lambda d: d.index)]

    alone, mixed, asked = run([free] * 6), run([free, asking] * 3), run([asking] * 6)
    assert np.allclose(alone[::2], mixed[::2], atol=2e-3) and np.allclose(asked[1::2], mixed[1::2], atol=2e-3)
    assert not np.allclose(alone[1::2], mixed[1::2], atol=2e-2)
    guided = run([free, asking] * 3, guidance=3.0)
    assert np.allclose(alone[::2], guided[::2], atol=2e-3) and not np.allclose(mixed[1::2], guided[1::2], atol=2e-2)


def test_no_row_draws_nothing(small: orbits.Model) -> None:
    assert list(small.sample([], [])) == []


@pytest.mark.slow
@pytest.mark.parametrize("number", [1, 2, 12, 15, 62, 88, 123, 136, 141, 166, 186, 194, 205, 216, 225, 227, 230])
def test_moyo_names_the_positions_alike(number: int) -> None:
    """A crystal with an atom on a position of the table is found by moyo to have one there, the choice of origin aside."""
    import moyopy

    space = group(number)
    values = np.array([0.0, 0.2, 0.4, 0.2, 0.1, 0.2]) if number < 75 else np.array([0.0, 0.4, 0, 0, 0, 0])
    cell = 15 * cell_of(space.system, values * (np.arange(6) < FREE[space.system]))
    operations = moyopy.operations_from_number(number)

    def orbit(point: np.ndarray) -> np.ndarray:
        images = (np.array(operations.rotations) @ point + np.array(operations.translations)) % 1
        _, first = np.unique(np.round(images * 1e6).astype(int) % 1_000_000, axis=0, return_index=True)
        return images[first]

    for position in space.positions:
        point = position.directions @ np.array([0.2719, 0.1871, 0.4421]) + position.offset
        parts = [orbit(np.array(x)) for x in ([0.1234, 0.3571, 0.7193], [0.4137, 0.0911, 0.2713], point)]
        elements = [z for z, part in enumerate(parts, 1) for _ in part]
        found = moyopy.MoyoDataset(moyopy.Cell(cell.tolist(), np.concatenate(parts).tolist(), elements), symprec=1e-3)
        assert found.number == number
        choices = found.normalizer_wyckoff_positions().coset_representatives
        letters = {w.letter for _, ws in choices for w, z in zip(ws, found.std_cell.numbers, strict=True) if z == 3}
        assert LETTERS[position.letter] in letters
