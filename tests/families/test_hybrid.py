import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import sciar
from sciar import datasets
from sciar.batch import collate
from sciar.convert import from_smiles, to_smiles
from sciar.errors import InputError
from sciar.families.hybrid import Model, ModelConfig, Tokenizer, TokenizerConfig, Tokens
from sciar.families.hybrid.fixed import scaffold_of
from sciar.families.hybrid.grammar import Writer
from sciar.families.hybrid.model import N_CODES, gather, graph_codes, local_geometry, random_rotations
from sciar.families.hybrid.sample import Options
from sciar.families.hybrid.tokens import VOCABULARY, canonical_frame, text_of, words_of
from sciar.families.hybrid.words import draw_words, scaffold_words
from sciar.prompt import Prompt
from sciar.structure import Structure
from sciar.testing import check_family, check_raises, check_sampler
from sciar.validate import lacks_fixed, validate

TINY = ModelConfig(
    width=32,
    heads=2,
    encoder_layers=1,
    decoder_layers=2,
    words_layers=1,
    pair=8,
    head_width=32,
    head_depth=2,
    draws=2,
    refiner_layers=1,
    refiner_width=16,
)


@pytest.fixture(scope="module")
def molecules() -> list:
    return datasets.samples("qm9")[20:40] + datasets.samples("molecules3d")[:6]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer(TokenizerConfig())


@pytest.fixture(scope="module")
def model(tokenizer: Tokenizer) -> Model:
    torch.manual_seed(0)
    return Model(TINY, tokenizer)


def test_laws(molecules: list, tokenizer: Tokenizer, model: Model) -> None:
    check_family("hybrid", molecules, tokenizer, model)


def test_published_layout_keeps_the_laws(molecules: list, tokenizer: Tokenizer) -> None:
    published = dataclasses.replace(
        TINY,
        frame="haar",
        target="absolute",
        process="cosine",
        geometry=False,
        graph_bias=False,
        history_noise=0.0,
        refiner_layers=0,
        sigma_data=2.0,
    )
    model = Model(published, tokenizer)
    model.loss(collate(Tokens, [tokenizer.encode(m) for m in molecules]), torch.Generator().manual_seed(0))["loss"].backward()
    check_sampler(
        model, tokenizer, [Prompt(graph=m.replace(positions=None)) for m in molecules[:3]], precision="32", steps=4, hydrogen_steps=4
    )


@given(st.lists(st.sampled_from(VOCABULARY[3:]), max_size=20).map("".join))
def test_words_round_trip(text: str) -> None:
    """Adjacent characters may spell another word (S, i): the text is what must come back."""
    assert text_of(words_of(text)) == text


@given(st.lists(st.integers(-5, 300), max_size=30))
def test_decode_is_total(words: list[int]) -> None:
    assert isinstance(text_of(words), str)


def test_vocabulary_holds_the_words_of_real_molecules(molecules: list, tokenizer: Tokenizer) -> None:
    for molecule in molecules:
        text = text_of(tokenizer.encode(molecule).words)
        assert to_smiles(from_smiles(text)) == to_smiles(molecule)


def test_stereo_signs_agree_with_the_coordinates(molecules: list, tokenizer: Tokenizer) -> None:
    """A sign says on which side of (b, anchor, c) the atom lies; coordinates whose marks were read from 3D must agree."""
    batch = collate(Tokens, [tokenizer.encode(m) for m in molecules])
    codes = graph_codes(batch["bonds"].clamp(min=0), batch.masks["bonds"], batch["anchor"].shape[1])
    geometry = local_geometry(batch["positions"], batch["anchor"], batch["refs"], batch["side"], batch["twist"], codes)
    local = torch.einsum("bnij,bnj->bni", geometry.axes, batch["positions"] - geometry.origin)
    marked = geometry.side != 0
    assert marked.sum() >= 20
    assert (local[..., 2].sign()[marked] == geometry.side[marked]).all()
    twisted = geometry.twist != 0
    assert (local[..., 1].sign()[twisted] == geometry.twist[twisted]).all()


def test_stereo_signs_are_kept_by_every_draw(molecules: list, tokenizer: Tokenizer, model: Model) -> None:
    """Untrained weights draw nonsense, but on the side that is demanded."""
    model.eval()
    prompts = [Prompt(graph=m.replace(positions=None)) for m in molecules]
    drawn = [d.tokens for d in model.sample(prompts, [(5, i) for i in range(len(prompts))], steps=2, refine=0, precision="32")]
    batch = collate(Tokens, drawn)
    codes = graph_codes(batch["bonds"].clamp(min=0), batch.masks["bonds"], batch["anchor"].shape[1])
    geometry = local_geometry(batch["positions"], batch["anchor"], batch["refs"], batch["side"], batch["twist"], codes)
    local = torch.einsum("bnij,bnj->bni", geometry.axes, batch["positions"] - geometry.origin)
    for sign, along in ((geometry.side, 2), (geometry.twist, 1)):
        assert (sign != 0).sum() >= 2
        assert (local[..., along] * sign > -1e-5).all()


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**31))
def test_what_a_slot_sees_does_not_depend_on_the_frame(seed: int) -> None:
    rng = np.random.default_rng(seed)
    molecules = datasets.samples("qm9")[40:44]
    tokenizer = Tokenizer(TokenizerConfig())
    turned = [m.rotated(_rotation(rng)).shifted(rng.normal(size=3)) for m in molecules]
    for m, t in zip(molecules, turned, strict=True):
        assert np.abs(tokenizer.encode(m).positions - tokenizer.encode(t).positions).max() < 1e-4


def _rotation(rng: np.random.Generator) -> np.ndarray:
    q, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    return q * np.sign(np.linalg.det(q))


def test_canonical_frame_is_proper() -> None:
    x = np.random.default_rng(0).normal(size=(6, 3))
    y = canonical_frame(x)
    assert np.allclose(y[0], 0) and np.allclose(y[1, 1:], 0) and y[2, 1] > 0 and abs(y[2, 2]) < 1e-9
    assert np.isclose(np.linalg.det(x[1:4] - x[0]), np.linalg.det(y[1:4] - y[0]))


def test_haar_rotations() -> None:
    r = random_rotations(100_000, torch.Generator().manual_seed(0), torch.device("cpu"))
    assert r.mean(0).abs().max() < 0.01
    assert abs((r[:, 2, 2] ** 2).mean().item() - 1 / 3) < 0.005


def test_graph_codes_are_bonds_and_distances(tokenizer: Tokenizer) -> None:
    tokens = tokenizer.encode(from_smiles("C#CC=CCCCC"))
    codes = graph_codes(torch.from_numpy(tokens.bonds)[None], torch.ones(1, len(tokens.bonds), dtype=torch.bool), len(tokens.order))[0]
    assert (codes == codes.T).all() and (codes.diagonal() == 0).all() and codes.max() == N_CODES - 1
    slot = {int(a): k for k, a in enumerate(tokens.order)}
    assert codes[slot[0], slot[1]] == 3 and codes[slot[2], slot[3]] == 2 and codes[slot[0], slot[2]] == 6 and codes[slot[0], slot[7]] == 10


def test_later_slots_do_not_change_earlier_conditionals(molecules: list, tokenizer: Tokenizer, model: Model) -> None:
    """Moving the last atom leaves the decoder states of all other slots as they were."""
    batch = collate(Tokens, [tokenizer.encode(molecules[5])])
    n = int(batch.masks["atoms"].sum())

    def states(positions: torch.Tensor) -> torch.Tensor:
        state, codes = model.encode(batch)
        geometry = local_geometry(positions, batch["anchor"], batch["refs"], batch["side"], batch["twist"], codes)
        slot = torch.arange(positions.shape[1])
        own = torch.eye(len(slot), dtype=torch.bool)[None]
        pair, bias = model.pairs(geometry, codes, (slot[None] <= slot[:, None])[None], own)
        h = model.slots(state, gather(state, batch["anchor"]), geometry, torch.zeros(1), positions)
        for i, block in enumerate(model.decoder):
            h = block(h, bias[:, i * 2 : i * 2 + 2], pair)
        return h

    moved = batch["positions"].clone()
    moved[0, n - 1] += 1.0
    with torch.no_grad():
        before, after = states(batch["positions"]), states(moved)
    assert torch.equal(before[0, :n], after[0, :n])


def test_cached_equals_full_forward(molecules: list, tokenizer: Tokenizer, model: Model) -> None:
    """Sampling with given noise, then scoring the same molecule: the solver's result is what the full forward predicts."""
    model.eval()
    graph = molecules[7].replace(positions=None)
    draw = next(
        iter(
            model.sample([Prompt(graph=graph)], [(3, 0)], steps=1, hydrogen_steps=1, refine=0, history=float(np.exp(-7.0)), precision="32")
        )
    )
    batch = collate(Tokens, [draw.tokens])
    c = model.config
    with torch.no_grad():
        state, codes = model.encode(batch)
        x = batch["positions"]
        geometry = local_geometry(x, batch["anchor"], batch["refs"], batch["side"], batch["twist"], codes)
        slot = torch.arange(x.shape[1])
        pair, bias = model.pairs(geometry, codes, (slot[None] <= slot[:, None])[None], torch.eye(len(slot), dtype=torch.bool)[None])
        h = model.slots(state, gather(state, batch["anchor"]), geometry, torch.tensor([-7.0]), x)
        for i, block in enumerate(model.decoder):
            h = block(h, bias[:, i * c.heads : (i + 1) * c.heads], pair)
        z = model.decoder_norm(h)[0]
        noise = np.random.default_rng([3, 0, 0]).standard_normal((graph.n_atoms, 3), dtype=np.float32)
        n = graph.n_atoms
        local = model.head.sample(z[:n], torch.from_numpy(noise), 1)
        placed = geometry.origin[0, :n] + torch.einsum("nij,ni->nj", geometry.axes[0, :n], local)
    assert (placed[1:] - x[0, 1:n]).abs().max() < 1e-4


def test_draws_do_not_depend_on_the_batch(molecules: list, tokenizer: Tokenizer, model: Model) -> None:
    prompts = [Prompt(graph=m.replace(positions=None)) for m in molecules[:7]]
    check_sampler(model, tokenizer, prompts, precision="32", steps=4, hydrogen_steps=3)
    check_sampler(model, tokenizer, prompts[:4], precision="32", steps=6, hydrogen_steps=4, anneal=2)
    check_sampler(model, tokenizer, prompts[:4], precision="32", solver="sde", steps=4, hydrogen_steps=3, refine=0)


def test_words_are_drawn_and_scored(model: Model) -> None:
    drawn = draw_words(model, [Prompt(), Prompt(scaffold="c1ccccc1*")], [(0, 0), (0, 1)], Options())
    assert drawn[1][0].startswith("C1=CC=CC=C1") or drawn[1][0].startswith("C1C=CC=CC=1"[:1])
    assert all(score <= 0 and calls > 0 for _, score, calls, _ in drawn)
    answers = list(model.sample([Prompt()] * 4, [(0, i) for i in range(4)], 4, steps=2, hydrogen_steps=2))
    assert sorted(d.index for d in answers) == [0, 1, 2, 3]


@pytest.mark.parametrize("scaffold", ["c1ccccc1*", "C1CC1", "*OC(=O)c1ccncc1"])
def test_a_scaffold_is_written_with_its_open_atom_last(scaffold: str) -> None:
    from rdkit import Chem

    text = text_of(scaffold_words(scaffold, (0, 0)))
    grown = Chem.MolFromSmiles(text + "C")
    assert grown is not None and grown.HasSubstructMatch(Chem.MolFromSmiles(scaffold.replace("*", "")))


@pytest.mark.parametrize(
    ("smiles", "words"),
    [("[Na+].[Cl-]", ["Na"]), ("CCO.CCN", ["connected"]), ("C" * 60, ["50 heavy atoms", "60"]), ("C[Se]C", ["Se"])],
)
def test_refusals_name_the_reason(tokenizer: Tokenizer, smiles: str, words: list[str]) -> None:
    check_raises(lambda: tokenizer.encode(from_smiles(smiles)), InputError, *words)


def test_unknown_choices_are_refused(tokenizer: Tokenizer, model: Model) -> None:
    check_raises(lambda: ModelConfig(frame="body"), InputError, "local or haar")
    check_raises(lambda: list(model.sample([Prompt()], [(0, 0)], stepz=3)), InputError, "stepz")
    held = Prompt(fixed=datasets.samples("qm9")[30])
    check_raises(lambda: list(model.sample([held], [(0, 0)])), InputError, "fixed:", "lacks a hydrogen")
    bare = Model(dataclasses.replace(TINY, words_layers=0), tokenizer)
    check_raises(lambda: list(bare.sample([Prompt()], [(0, 0)])), InputError, "conformers only")


def test_refiner_table_equals_the_network(molecules: list, tokenizer: Tokenizer, model: Model) -> None:
    batch = collate(Tokens, [tokenizer.encode(m) for m in molecules[:4]])
    state, codes = model.encode(batch)
    arguments = (batch["positions"], torch.full((4,), 0.1), state.detach(), codes, batch.masks["atoms"])
    exact = model.refiner(*arguments)
    with torch.no_grad():
        assert (model.refiner(*arguments) - exact).abs().max() < 1e-4


def written(words: list[str]) -> bool:
    writer = Writer()
    return all(writer.add(word) for word in words) and writer.add("")


def test_the_grammar_accepts_real_molecules(molecules: list, tokenizer: Tokenizer) -> None:
    for molecule in datasets.samples("qm9"):
        words = tokenizer.encode(molecule).words
        assert written([VOCABULARY[w] for w in words[1:-1]]), text_of(words)


@pytest.mark.parametrize(
    "text", ["C(", "C1CC", "C)", "F=C", "C(C)(C)(C)(C)C", "C==C", "N#N#N", "[C]", "[CH]", "C1C1", "()", "", "[NH", "O=O=O"]
)
def test_the_grammar_refuses_what_is_no_molecule(text: str) -> None:
    assert not written([VOCABULARY[w] for w in words_of(text)[1:-1]])


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(0, 2**31), min_size=60, max_size=60))
def test_what_the_grammar_lets_through_is_a_molecule(numbers: list[int]) -> None:
    """Random characters under the grammar spell molecules RDKit can read."""
    writer, text = Writer(), ""
    words = ["C", "N", "O", "F", "(", ")", "=", "#", "1", "2", "[", "]", "H", "@", "+", "-", ""]
    for number in numbers:
        start = number % len(words)
        word = next((w for w in words[start:] + words[:start] if writer.add(w)), None)
        if word is None or word == "":
            break
        text += word
    else:
        return  # not ended
    if word == "":
        from rdkit import Chem

        assert Chem.MolFromSmiles(text) is not None, text


def test_size_formula_and_elements_are_kept() -> None:
    """With the bundled weights: what is asked for is in every draw, and the verdict says nothing about it."""
    sized = sciar.generate("molecule", n=8, model="qm9-hybrid", seed=1, n_atoms=(12, 14))
    assert all(12 <= v.structure.n_atoms <= 14 for v in sized)
    rare = sciar.generate("molecule", n=2, model="qm9-hybrid", seed=1, n_atoms=7)  # one of 4,000 in QM9
    assert [v.structure.n_atoms for v in rare] == [7, 7]
    isomers = sciar.generate("molecule", n=4, model="qm9-hybrid", seed=1, formula="C6H10O")
    assert [v.structure.formula for v in isomers] == ["C6H10O"] * 4
    plain = sciar.generate("molecule", n=8, model="qm9-hybrid", seed=1, elements="C,N")
    assert all({*v.structure.numbers.tolist()} <= {1, 6, 7} for v in plain)


def test_fixed_atoms_stay_where_they_are(molecules: list, model: Model) -> None:
    molecule = next(m for m in molecules if m.n_atoms > 8)
    core = [0, *(int(j if i == 0 else i) for i, j, _ in molecule.bonds if 0 in (i, j))]
    turned = molecule.positions @ np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0] + 7.0
    given = turned if np.linalg.det(np.linalg.lstsq(molecule.positions, turned - 7.0, rcond=None)[0]) > 0 else -turned
    fixed = Structure(numbers=molecule.numbers[core], positions=given[core])
    prompt = Prompt(graph=molecule.replace(positions=None), fixed=fixed)
    for draw in model.sample([prompt] * 2, [(0, 0), (0, 1)], steps=3, hydrogen_steps=2):
        structure = model.tokenizer.decode(draw.tokens)
        assert validate(structure, prompt).structure is not None and lacks_fixed(structure, fixed) is None
        assert np.abs(structure.positions - given).max() > 1e-3
    with pytest.raises(InputError, match="part of the molecule"):
        list(model.sample([Prompt(graph=from_smiles("C"), fixed=fixed)], [(0, 0)]))


def test_a_fragment_grows_where_its_hydrogen_is_missing() -> None:
    phenol = from_smiles("Oc1ccccc1")
    bare = next(int(j) for i, j, _ in phenol.bonds if i == 4 and phenol.numbers[j] == 1)
    rest = [i for i in range(phenol.n_atoms) if i != bare]
    place = {old: new for new, old in enumerate(rest)}
    bonds = np.array([(place[i], place[j], order) for i, j, order in phenol.bonds.tolist() if bare not in (i, j)])
    open_atom = np.zeros(len(rest), dtype=int)
    open_atom[4] = 1
    assert scaffold_of(Structure(numbers=phenol.numbers[rest], bonds=bonds, hydrogens=open_atom)) == "*c1ccc(O)cc1"
    with pytest.raises(InputError, match="lacks a hydrogen"):
        scaffold_of(from_smiles("c1ccccc1"))
