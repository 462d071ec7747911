"""The octree family: laws, golden values, cached = teacher-forced, and training, drawing and prediction through the front door."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_octree import PLAIN, drawn, made

import sciar
import sciar.bench
from sciar import config, datasets
from sciar.batch import Batch, collate
from sciar.checkpoint import open_weights
from sciar.errors import InputError
from sciar.families.octree import Model, ModelConfig, Tokenizer, TokenizerConfig, Tokens
from sciar.families.octree.constraints import wish_of
from sciar.families.octree.events import events_of
from sciar.families.octree.model import hidden_masks
from sciar.families.octree.options import Options
from sciar.families.octree.pose import random_rotations
from sciar.families.octree.proofread import Cells, element_logits, exchanged, finished
from sciar.families.octree.rows import Rows, choose
from sciar.families.octree.tree import morton
from sciar.family import Draw
from sciar.notation import parse_formula
from sciar.prompt import Prompt
from sciar.structure import Structure
from sciar.testing import check_family, check_raises, check_sampler
from sciar.train import fit
from sciar.validate import validate

CONFIGS = Path(__file__).parents[2] / "configs"
LAYOUTS = ("interleaved", "queries", "fused")


@pytest.fixture(scope="module")
def molecules() -> list:
    return datasets.samples("qm9")[60:84]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer(TokenizerConfig())


@pytest.fixture(scope="module")
def batch(molecules: list, tokenizer: Tokenizer) -> Batch:
    return collate(Tokens, [tokenizer.encode(m) for m in molecules])


@pytest.fixture(scope="module")
def model(tokenizer: Tokenizer) -> Model:
    return made(tokenizer).eval()


# ---- laws


@pytest.mark.parametrize("layout", LAYOUTS)
def test_laws(molecules: list, tokenizer: Tokenizer, layout: str) -> None:
    published = {"around": False, "deletion": 0.2} if layout == "interleaved" else {}
    model = made(tokenizer, layout=layout, property_weight=0.1, dropout=0.1, drop_block=0.1, **published)
    check_family("octree", molecules, tokenizer, model)


def test_the_diffusion_head_keeps_the_laws(molecules: list, tokenizer: Tokenizer) -> None:
    model = made(tokenizer, place="diffusion")
    check_family("octree", molecules[:6], tokenizer, model)
    check_sampler(model, tokenizer, [Prompt(n_atoms=(5, 8))] * 3, steps=3, **PLAIN)


@pytest.mark.parametrize("waves", ["sphere", "none"])
def test_the_refiner_keeps_the_laws(molecules: list, tokenizer: Tokenizer, waves: str) -> None:
    """Cells are drawn one by one, coordinates all at once: batch, order and fixed atoms do not change."""
    model = made(tokenizer, place="refined", waves=waves)
    check_family("octree", molecules[:6], tokenizer, model)
    check_sampler(model, tokenizer, [Prompt(n_atoms=(5, 8))] * 3, **{**PLAIN, "refine": 4})
    part = molecules[3].subset(np.arange(4)).shifted(np.array([5.0, -3.0, 1.0])).replace(bonds=None)
    for s in drawn(model.eval(), [Prompt(fixed=part, n_atoms=(9, 9))] * 3):
        apart = np.linalg.norm(s.positions[:, None] - part.positions, axis=-1)
        assert s.n_atoms == 9 and apart.min(0).max() <= np.sqrt(3) * 0.005 + 1e-6


def test_elements_are_read_again(tokenizer: Tokenizer, molecules: list) -> None:
    """Only doubted atoms change, to what is allowed; given ones never do; what cannot be read says so and stays."""
    model = made(tokenizer, place="refined").eval()
    some = [m for m in molecules if m.n_atoms > 6][:3]
    n = max(m.n_atoms for m in some)
    x, element, mask = torch.zeros(4, n, 3), torch.zeros(4, n, dtype=torch.long), torch.zeros(4, n, dtype=torch.bool)
    for i, m in enumerate([*some, some[0]]):
        k = m.n_atoms
        x[i, :k], element[i, :k], mask[i, :k] = (
            torch.tensor(m.positions - m.positions.mean(0)),
            torch.tensor(tokenizer.codes[m.numbers]),
            torch.ones(k, dtype=torch.bool),
        )
    x[3, 1] = x[3, 0] + 0.01  # two atoms in one cell
    cells = Cells(x, element, mask, mask, torch.ones(4, 5, dtype=torch.bool), None)
    with torch.no_grad():
        logits, read = element_logits(model, cells)
        assert read.tolist() == [True, True, True, False] and not logits[3].any()
        alone, _ = element_logits(model, cells.rows(torch.tensor([1])))
        assert (alone[0][mask[1]] - logits[1][mask[1]]).abs().max() < 1e-4
        electrons = (torch.tensor(tokenizer.numbers)[element] * mask).sum(1)
        odd = element.clone()
        odd[0, 0] = 1 if element[0, 0] == 0 else 0  # H for C or the other way
        mended = exchanged(model, dataclasses.replace(cells, element=odd), logits * 0, mask, closed=True)  # nothing is doubted
        model.leaf_head.element.outside.weight *= 30  # a network with opinions
        free, allowed = mask.clone(), torch.ones(4, 5, dtype=torch.bool)
        free[:, 0], allowed[1], allowed[2, :4] = False, False, False
        once = Options(refine=2, refine_sigma=0.2, proofread=1, closed_shell=False)
        final = finished(model, dataclasses.replace(cells, free=free, allowed=allowed), once, torch.zeros(0, *x.shape))
    new, likely = final.element, final.likely
    changed = (new != element) & mask
    assert changed[0].any() and not changed[:, 0].any() and not changed[1].any() and not changed[3].any()
    assert set(new[2][changed[2]].tolist()) <= {4}
    assert not (electrons % 2).any() and int((mended != odd).sum()) == 1 and torch.equal(mended[1:], odd[1:])
    assert not (torch.tensor(tokenizer.numbers)[mended] * mask).sum(1)[0] % 2
    assert torch.isfinite(likely[:3]).all() and likely[3] == -math.inf


def test_the_refiner_is_equivariant(tokenizer: Tokenizer) -> None:
    model = made(tokenizer).eval()
    x, element = torch.randn(2, 6, 3), torch.randint(0, 5, (2, 6))
    mask, sigma = torch.ones(2, 6, dtype=torch.bool), torch.tensor([0.3, 0.1])
    turn = random_rotations(1, None, x.device)[0]
    moved = model.refine(x @ turn.T + 1.0, sigma, element, mask)
    assert torch.allclose(moved, model.refine(x, sigma, element, mask) @ turn.T + 1.0, atol=1e-4)
    shuffled = torch.randperm(6)
    assert torch.allclose(
        model.refine(x[:, shuffled], sigma, element[:, shuffled], mask), model.refine(x, sigma, element, mask)[:, shuffled], atol=1e-5
    )


@pytest.mark.parametrize("layout", LAYOUTS)
def test_previews_sharpen_into_the_draw(tokenizer: Tokenizer, layout: str) -> None:
    """Every level of every draw once, coarse to fine, each inside the one before; the draws are those without previews."""
    model = made(tokenizer, layout=layout).eval()
    prompts = [Prompt(), Prompt(n_atoms=(7, 7)), Prompt(n_atoms=(20, 20))]
    seen: list[list] = [[] for _ in prompts]
    for draw in model.sample(prompts, [(0, i) for i in range(3)], 2, **PLAIN, previews=True):
        seen[draw.index].append((draw.left, tokenizer.decode(draw.tokens)))
    for levels, final in zip(seen, drawn(model, prompts), strict=True):
        assert [left for left, _ in levels] == [5, 4, 3, 2, 1, 0]
        assert np.array_equal(levels[-1][1].positions, final.positions)
        for (_, coarse), (_, fine) in zip(levels, levels[1:], strict=False):
            apart = np.abs(fine.positions[:, None] - coarse.positions).max(-1)  # cubes: the largest of three distances
            assert (apart.min(1) <= coarse.info["side_A"] / 2 + 1e-6).all() and (apart.min(0) <= coarse.info["side_A"] / 2 + 1e-6).all()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_draws_do_not_depend_on_the_batch(tokenizer: Tokenizer, layout: str) -> None:
    model = made(tokenizer, layout=layout)
    check_sampler(model, tokenizer, [Prompt()] * 2 + [Prompt(n_atoms=(7, 7))] * 3, **PLAIN)


@given(st.integers(0, 2**31))
@settings(deadline=None, max_examples=40)
def test_corrupt_tokens_say_so(seed: int) -> None:
    """Whatever the stream, decode answers; a stream with one byte changed never decodes to the same number of leaves in silence."""
    rng = np.random.default_rng(seed)
    tokenizer = Tokenizer(TokenizerConfig())
    tokens = tokenizer.encode(datasets.samples("qm9")[int(rng.integers(100))])
    assert not tokenizer.decode(tokens).info
    tree = tokens.tree.copy()
    tree[rng.integers(len(tree))] ^= 1 << int(rng.integers(8))  # one child more or less
    broken = tokenizer.decode(dataclasses.replace(tokens, tree=tree))
    assert str(broken.info["failure"]).startswith("corrupt tokens") and not broken.n_atoms
    noise = Tokens(
        rng.integers(0, 256, 9),
        rng.integers(0, 9, 4),
        rng.integers(0, 99, (4, 3)),
        np.arange(4),
        np.zeros((4, 3)),
        np.zeros((1, 7)),
        np.zeros((1, 6)),
    )
    assert isinstance(tokenizer.decode(noise), Structure)


# ---- golden values of the reference, §12


def test_published_parameters_and_first_loss(molecules: list) -> None:
    published = config.load(CONFIGS / "octree_published.yaml")
    tokenizer = Tokenizer(config.fill(TokenizerConfig, published.tokenizer, "tokenizer"))
    settings_ = config.fill(ModelConfig, published.model, "model")
    with torch.device("meta"):
        large = Model(settings_, tokenizer)
    assert sum(p.numel() for p in large.parameters()) == 89_639_424
    drug = Tokenizer(dataclasses.replace(tokenizer.config, levels=7))
    with torch.device("meta"):
        assert sum(p.numel() for p in Model(settings_, drug).parameters()) == 89_640_192
    small = Model(dataclasses.replace(settings_, width=48, heads=2, layers=1), tokenizer)
    tokens = [tokenizer.encode(m) for m in molecules]
    first = small.eval().loss(collate(Tokens, tokens))
    for part, classes in (("tree", 255), ("element", 602), ("place", 24)):
        assert abs(float(first[part].detach()) - math.log(classes)) < 1e-4
    events = small.events(collate(Tokens, tokens[:1]))
    # two copies of every event, and of the closing one
    assert 2 * int(events.mask.sum()) == 2 * (len(tokens[0].tree) + len(tokens[0].element)) + 2 or small.tokenizer.config.pose == "random"


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("place", ["bins", "diffusion"])
def test_cached_equals_teacher_forced(tokenizer: Tokenizer, layout: str, place: str) -> None:
    check_cache(made(tokenizer, layout=layout, place=place), Prompt(n_atoms=(6, 9)))


@pytest.mark.parametrize("place", ["bins", "refined"])
def test_all_events_know_the_given_atoms(tokenizer: Tokenizer, molecules: list, place: str) -> None:
    part = molecules[3].subset(np.arange(4)).replace(bonds=None)
    prompt = Prompt(fixed=part, n_atoms=(9, 9))
    model = made(tokenizer, place=place, given=0.5)
    told, untold = check_cache(model, prompt), check_cache(made(tokenizer, place=place), prompt)
    assert len(told) and not torch.equal(told[0], untold[0])  # from the first byte on
    check_sampler(model, tokenizer, [prompt, Prompt(), Prompt(n_atoms=(5, 8))], **PLAIN)


def test_a_compiled_trunk_draws_the_same(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    model, calls = made(tokenizer).eval(), []

    def compiled(function: Callable[..., torch.Tensor], **options: object) -> Callable[..., torch.Tensor]:
        assert function == model.trunk and options == {"dynamic": False}  # the compiler itself takes a minute and meets the type checks
        return lambda *args, **more: calls.append(1) or function(*args, **more)  # type: ignore[func-returns-value]

    monkeypatch.setattr(torch, "compile", compiled)
    plain, fast = (drawn(model, [Prompt(n_atoms=(5, 8))] * 3, compile=compile_) for compile_ in (False, True))
    assert len(calls) > 10 and all(np.array_equal(a.positions, b.positions) for a, b in zip(plain, fast, strict=True))
    monkeypatch.setattr("sciar.families.octree.options.which", lambda name: None)
    check_raises(lambda: Options(compile=True), InputError, "C++ compiler", "leave it out")


def test_training_tells_some_atoms(batch: Batch, tokenizer: Tokenizer) -> None:
    model = made(tokenizer, given=0.5, jitter=0.0).train()
    seen = [model.events(batch) for _ in range(50)]
    counts = torch.stack([e.given.sum(1) for e in seen if e.given is not None])
    assert 0.4 < (counts > 0).float().mean() < 0.6 and int(counts.max()) <= 16 and (counts < seen[0].leaf.sum(1)).all()
    for e in seen[:5]:  # what is given lies in the middle of the cube, else the molecule does
        part = torch.where((e.given.sum(1) > 0)[:, None], e.given, e.leaf)[..., None]
        middle = (e.centre * part).sum(1) / part.sum(1)
        assert (middle - model.grid.side / 2).norm(dim=-1).median() < 0.3
    assert model.eval().events(batch).given is None
    check_raises(lambda: ModelConfig(given=0.5, around=False), InputError, "around", "given")


def check_cache(model: Model, prompt: Prompt) -> torch.Tensor:
    """The states from which a molecule was drawn, step by step with a cache, are those of one pass over the finished molecule."""
    tokenizer, kept = model.eval().tokenizer, []
    original = Rows._states

    def noted(self: Rows, count: torch.Tensor) -> torch.Tensor:
        h = original(self, count)
        kept.extend(h[0, : int(count[0])])
        return h

    Rows._states = noted  # type: ignore[method-assign]
    try:
        draw = next(iter(model.sample([prompt], [(3, 0)], steps=2, **PLAIN)))
    finally:
        Rows._states = original  # type: ignore[method-assign]
    structure = tokenizer.decode(dataclasses.replace(draw.tokens, pose=None))
    x = torch.tensor(structure.positions).float() + tokenizer.grid.side / 2
    element = torch.from_numpy(tokenizer.codes[structure.numbers])
    given = None
    if prompt.fixed is not None and model.config.given:
        leaves = morton(tokenizer.grid.quantise(x) // tokenizer.grid.bins)
        given = torch.isin(leaves, torch.from_numpy(wish_of(tokenizer, prompt, (3, 0)).code))
        assert given.sum() == prompt.fixed.n_atoms
    events = model.as_seen(events_of(tokenizer.grid, torch.zeros(len(x), dtype=torch.long), element, x, 1, given))
    with torch.no_grad():
        h = model.states(events, model.conditions(_told(model, prompt)))[0]
    assert draw.calls == len(kept) == len(draw.tokens.tree) + len(draw.tokens.element)
    assert (torch.stack(kept) - h[: len(kept)]).abs().max() < 1e-4
    return torch.stack(kept)


def _told(model: Model, prompt: Prompt) -> torch.Tensor:
    values = torch.full((1, 13), float("nan"))
    if prompt.n_atoms and prompt.n_atoms[0] == prompt.n_atoms[1]:
        values[0, 0] = model.scaled(torch.tensor([float(prompt.n_atoms[0])]), torch.zeros(1, 5), torch.zeros(1, 7))[0, 0]
    return values


def test_events_of_a_level_can_be_drawn_together(tokenizer: Tokenizer) -> None:
    """Fewer passes, the same constraints; with one event a pass nothing changes."""
    model = made(tokenizer, layout="queries").eval()
    prompts = [Prompt(n_atoms=(8, 8), composition=parse_formula("C3H4O"))] * 5

    def answers(**more: float) -> dict[int, Draw]:
        draws = {d.index: d for d in model.sample(prompts, [(0, i) for i in range(5)], 3, **{**PLAIN, **more})}
        assert {model.tokenizer.decode(d.tokens).formula for d in draws.values()} == {"C3H4O"}
        return draws

    one, four, level = answers(), answers(together=4), answers(together=32)
    passes = [sum(d.calls for d in draws.values()) / 5 for draws in (one, four, level)]
    assert passes[2] == 6 and passes[1] < 0.5 * passes[0]
    never, often = answers(together=32, sure=0.0), answers(together=32, sure=2.0)
    for i, d in one.items():  # nothing is ever that sure: one by one, and the same draw
        assert never[i].calls == d.calls and np.array_equal(never[i].tokens.tree, d.tokens.tree)
        assert 6 <= often[i].calls <= d.calls
    assert sum(d.calls for d in often.values()) < sum(d.calls for d in one.values())
    check_sampler(model, tokenizer, prompts, together=4, sure=2.0, **PLAIN)
    check_sampler(model, tokenizer, prompts, together=4, **PLAIN)
    check_raises(lambda: list(made(tokenizer).sample([Prompt()], [(0, 0)], together=2)), InputError, "queries", "fused")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_later_events_do_not_change_earlier_states(batch: Batch, tokenizer: Tokenizer, layout: str) -> None:
    model = made(tokenizer, layout=layout).eval()
    events = model.events(batch, torch.Generator().manual_seed(0))
    k = 20
    changed = events.element.clone()
    changed[:, k:] = (changed[:, k:] + 1) % 5
    byte = events.byte.clone()
    byte[:, k:] = byte[:, k:] % 255 + 1
    other = dataclasses.replace(events, element=changed, byte=byte)
    with torch.no_grad():
        before, after = model.states(events, None), model.states(other, None)
    assert torch.equal(before[:, : k + 1], after[:, : k + 1]) and not torch.equal(before, after)


def test_masked_copies_are_seen_by_themselves_alone() -> None:
    seen = hidden_masks(6, torch.device("cpu"))[0, 0] == 0
    assert seen.tolist() == [
        [True, False, False, False, False, False],
        [False, True, False, False, False, False],
        [False, True, True, False, False, False],
        [False, True, False, True, False, False],
        [False, True, False, True, True, False],
        [False, True, False, True, False, True],
    ]


def test_probabilities_of_a_small_cube_sum_to_one() -> None:
    """All structures of one atom in a 2-cell cube with 2 bins: score is a normalised law over trees, elements and places."""
    tokenizer = Tokenizer(TokenizerConfig(elements=("H", "C"), levels=1, cell=1.0, step=0.5, max_atoms=8))
    model = made(tokenizer, condition=False).eval()
    total = 0.0
    with torch.no_grad():
        events = model.events(collate(Tokens, [tokenizer.encode(Structure(np.array([1]), np.zeros((1, 3))))]))
        root = model.byte_logits(model.states(events, None)[0, :1]).softmax(-1)[0]
        h = model.states(events, None)[0, 1:2, : model.config.width]  # state of the one atom
        for element in range(2):
            for place in range(8):
                bins = torch.tensor([[place & 1, place >> 1 & 1, place >> 2 & 1]])
                parts = model.leaf_head.logits(h, torch.tensor([element]), bins)
                chosen = (element, *bins[0].tolist())
                total += math.exp(sum(float(p.log_softmax(-1)[0, c]) for p, c in zip(parts, chosen, strict=True)))
    assert abs(total - 1) < 1e-5 and abs(float(root.sum()) - 1) < 1e-6


def test_score_is_the_sum_of_the_losses(batch: Batch, model: Model) -> None:
    bare = dataclasses.replace(model.config, condition=False)
    plain = Model(bare, model.tokenizer)
    plain.load_state_dict({k: v for k, v in model.state_dict().items() if not k.startswith("given")})
    plain.eval()
    parts = plain.loss(batch, torch.Generator().manual_seed(5))
    alone = dataclasses.replace(bare, tree_weight=0, element_weight=0, place_weight=0)
    assert set(Model(alone, model.tokenizer).loss(batch)) == {"loss", "refiner"}
    assert "refiner" not in Model(dataclasses.replace(bare, refiner_weight=0), model.tokenizer).loss(batch)
    events = plain.events(batch, torch.Generator().manual_seed(5))
    expected = -(parts["tree"] * events.tree.sum() + (parts["element"] + 3 * parts["place"]) * events.leaf.sum())
    assert abs(float(plain.score(batch, torch.Generator().manual_seed(5)).sum() / expected.detach()) - 1) < 1e-4


# ---- parts


def test_choose_follows_the_law() -> None:
    logits = torch.tensor([[0.0, 1.0, 2.0, 3.0]]).expand(20_000, 4)
    allowed = torch.tensor([[True, False, True, True]]).expand(20_000, 4)
    u = torch.rand(20_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    share = torch.bincount(choose(logits, allowed, u, 2.0), minlength=4) / 20_000
    expected = torch.tensor([0.0, -torch.inf, 1.0, 1.5]).softmax(-1)
    assert share[1] == 0 and (share - expected).abs().max() < 0.015
    assert choose(logits[:1], torch.zeros(1, 4, dtype=torch.bool), u[:1], 1.0).tolist() == [0]


def test_haar_rotations() -> None:
    r = random_rotations(50_000, torch.Generator().manual_seed(0), torch.device("cpu"))
    assert torch.allclose(r @ r.transpose(1, 2), torch.eye(3).expand_as(r), atol=1e-5) and (torch.linalg.det(r) > 0).all()
    assert r.mean(0).abs().max() < 0.01 and abs((r[:, 2, 2] ** 2).mean().item() - 1 / 3) < 0.005


def test_training_sees_fresh_trees_and_never_drops_an_atom(batch: Batch, tokenizer: Tokenizer) -> None:
    model = made(tokenizer, around=False, deletion=0.5).train()
    g = torch.Generator().manual_seed(0)
    first, second = model.events(batch, g), model.events(batch, g)
    atoms = batch.masks["atoms"].sum(1)
    assert (first.leaf.sum(1) == atoms).all() and (second.leaf.sum(1) == atoms).all()
    assert not torch.equal(first.byte[:, :4], second.byte[:, :4])
    x = first.exact(model.grid)[first.leaf].split(atoms.tolist())
    y = batch["positions"][batch.masks["atoms"]].split(atoms.tolist())
    for a, b in zip(x, y, strict=True):
        assert (torch.pdist(a).sort().values - torch.pdist(b).sort().values).abs().max() < 0.03


def test_likelihood_ranks(model: Model) -> None:
    for rank in ("likelihood", "atoms", "element"):
        scores = [d.score for d in model.sample([Prompt(n_atoms=(4, 6))] * 3, [(0, i) for i in range(3)], rank=rank, **PLAIN)]
        assert all(math.isfinite(s) and s < 0 for s in scores)


# ---- end to end


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fit(config.load(CONFIGS / "tiny" / "octree.yaml"), tmp_path_factory.mktemp("tiny"))


def test_a_stage_of_the_refiner_alone_leaves_the_rest_as_it_was(weights: Path, tmp_path: Path) -> None:
    trunk, stage = (config.load(CONFIGS / f"octree_qm9{name}.yaml") for name in ("", "_refiner"))
    assert stage.train.init == f"runs/{trunk.name}/weights.safetensors" and stage.tokenizer == trunk.tokenizer
    alone = {name: value for name, value in stage.model.items() if name.endswith(("_weight", "_head"))}
    tiny = config.load(CONFIGS / "tiny" / "octree.yaml")
    train = dataclasses.replace(tiny.train, steps=5, init=str(weights), weight_decay=1.0)
    after = fit(dataclasses.replace(tiny, model={**tiny.model, **alone}, train=train), tmp_path)
    (_, old), (_, new) = open_weights(weights), open_weights(after)
    changed = {name for name in old.keys() | new.keys() if name not in old or name not in new or not torch.equal(old[name], new[name])}
    assert changed and all(name.startswith("refine") for name in changed)
    assert sciar.load(after).model.predicts == sciar.load(weights).model.predicts != ()


def test_trained_and_drawn_through_the_front_door(weights: Path) -> None:
    log = (weights.parent / "log" / "metrics.csv").read_text()
    assert "val/tree" in log
    samples = sciar.generate("molecule", n=4, model=weights, seed=1)
    assert len(samples) == 4 and all(r.verdict.structure.n_atoms for r in samples.records)
    again = sciar.generate("molecule", n=4, model=weights, seed=1, batch_size=2)
    assert [v.structure.formula for v in samples] == [v.structure.formula for v in again]
    ranked = sciar.generate("molecule", n=4, model=weights, seed=1, keep=0.5)
    assert len(ranked) == 2
    exact = sciar.generate("molecule", n=2, model=weights, seed=1, n_atoms=11, elements=["C", "H"])
    assert {v.structure.n_atoms for v in exact} == {11} and all(set(v.structure.numbers.tolist()) <= {1, 6} for v in exact)
    wished = sciar.generate("molecule", n=2, model=weights, seed=1, properties={"gap_eV": 7.0}, formula="C3H8O", guidance=1.5)
    assert {v.structure.formula for v in wished} == {"C3H8O"}
    check_raises(lambda: sciar.generate("molecule", model=weights, properties={"gap_ev": 7.0}), InputError, "did you mean 'gap_eV'")
    judged = {"properties": {"gap_eV": 7.0}, "rank": "property", "model": weights, "seed": 1}
    scores = [r.score for r in sciar.generate("molecule", n=2, **judged).records]
    assert all(s < 0 for s in scores) and scores == [r.score for r in sciar.generate("molecule", n=2, batch_size=1, **judged).records]
    check_raises(lambda: sciar.generate("molecule", model=weights, rank="property"), InputError, "without properties")


def test_a_stream_of_levels(weights: Path) -> None:
    previews = list(sciar.generate("molecule", n=2, seed=1, model=weights, stream="levels", batch_size=2))
    finished = {(p.row, p.draw): p.verdict for p in previews if not p.left}
    reference = sciar.generate("molecule", n=2, seed=1, model=weights)
    assert [finished[r.row, r.draw].reasons for r in reference.records] == [r.verdict.reasons for r in reference.records]
    assert all(p.verdict is None and not p.structure.numbers.any() and p.structure.n_atoms for p in previews if p.left)
    assert len(previews) == 12


def test_predict(weights: Path, molecules: list, monkeypatch: pytest.MonkeyPatch) -> None:
    from sciar.predict import predict, predict_all

    heavy = Structure(np.array([80]), np.zeros((1, 3)))
    read = predict([*molecules[:5], heavy], "gap_eV", model=weights, poses=2)
    assert np.isfinite(read.values[:5]).all() and np.isnan(read.values[5]) and "Hg" in read.problems[5]
    assert 2 < read.values[:5].mean() < 12 and (read.spread[:5] >= 0).all()
    passes, once = [], Model.predict
    monkeypatch.setattr(Model, "predict", lambda *given: passes.append(given) or once(*given))
    every = predict_all([*molecules[:5], heavy], model=weights, poses=2)
    assert len(passes) == 2 and tuple(every) == sciar.load(weights).model.predicts
    for name in ("mu_D", "gap_eV"):
        np.testing.assert_array_equal(every[name].values, predict([*molecules[:5], heavy], name, model=weights, poses=2).values)
    drawn = [validate(molecule) for molecule in molecules[:5]]
    np.testing.assert_array_equal(predict(drawn, "gap", model=weights).values, predict(molecules[:5], "gap_eV", model=weights).values)
    check_raises(lambda: predict(molecules[0], "gaps", model=weights), InputError, "gap_eV")
    check_raises(lambda: predict([], "gap_eV", model=weights), InputError, "at least one")


def test_properties_are_learnt(tmp_path: Path) -> None:
    """Of eight molecules, read in poses not seen in training, better than by always answering the median."""
    tiny = config.load(CONFIGS / "tiny" / "octree.yaml")
    weights = dict.fromkeys(("tree_weight", "element_weight", "place_weight", "refiner_weight"), 0.0) | {"property_weight": 1.0}
    data = dataclasses.replace(tiny.data, limit=8, validation=0)
    train = dataclasses.replace(tiny.train, steps=100, save_every=100)
    path = fit(dataclasses.replace(tiny, data=data, model={**tiny.model, **weights}, train=train), tmp_path)
    rows = sciar.bench.run("predict", model=path, n=8, data="sample:qm9", poses=3).rows
    assert len(rows) == 7 and all(row["read"] == 1 for row in rows)
    ratios = [row["mae"] / row["mae_of_the_median"] for row in rows]
    assert np.mean(ratios) < 0.85, ratios


def test_predict_from_the_command_line(weights: Path, molecules: list, tmp_path: Path) -> None:
    import csv

    from sciar.cli import run

    sciar.write(tmp_path / "three.sdf", molecules[:3])
    command = ["predict", str(tmp_path / "three.sdf"), "--property", "gap_eV", "--model", str(weights), "-o", str(tmp_path / "gaps.csv")]
    assert run(command) == 0
    with open(tmp_path / "gaps.csv") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3 and all(2 < float(row["gap_eV"]) < 12 and not row["problem"] for row in rows)
