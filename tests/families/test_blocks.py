"""The blocks family: laws, tokens, exact constraints, and one run from training to checked molecules."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import networkx as nx
import numpy as np
import pytest
import small_blocks
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_blocks import CHARGED, SMILES, TINY

import sciar
from sciar import config, datasets, files, train
from sciar.batch import TokenArrays, collate
from sciar.convert import from_networkx, from_smiles, to_networkx, to_smiles
from sciar.errors import InputError
from sciar.families.blocks import Model, ModelConfig, Tokenizer, TokenizerConfig, Tokens
from sciar.families.blocks.fragment import pieces
from sciar.families.blocks.growing import begun
from sciar.families.blocks.joined import NOWHERE, joinable
from sciar.families.blocks.options import Options
from sciar.families.blocks.sample import _Batch
from sciar.families.blocks.tokens import computed, implied, node_type
from sciar.metrics import graph as graph_metrics
from sciar.prompt import Prompt
from sciar.structure import Structure
from sciar.testing import check_family, check_raises, check_sampler


@pytest.fixture(scope="module")
def molecules() -> list[Structure]:
    return small_blocks.molecules()


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return small_blocks.tokenizer()


@pytest.fixture(scope="module")
def model(tokenizer: Tokenizer) -> Model:
    return small_blocks.model(tokenizer)


# ---- tokens


def test_laws(molecules: list[Structure], tokenizer: Tokenizer, model: Model) -> None:
    check_family("blocks", molecules, tokenizer, model)


def test_hydrogens_as_atoms_and_as_counts_keep_the_laws() -> None:
    samples = datasets.samples("qm9")[30:40]
    atoms = Tokenizer(TokenizerConfig(atoms=("H", "C", "N", "O", "F"), implied=False))
    check_family("blocks", samples, atoms, Model(TINY, atoms))
    names = tuple(f"{s}{h}" for s in ("C", "N", "O") for h in ("", "H", "H2", "H3", "H4")) + ("NH+", "NH2+", "NH3+", "O-", "F")
    counted = Tokenizer(TokenizerConfig(atoms=names, implied=False))
    for s in ("C[NH+](C)C", "c1cc[nH]c1", "CC(=O)[O-]"):
        assert to_smiles(counted.decode(counted.encode(from_smiles(s, explicit_hydrogens=False)))) == to_smiles(from_smiles(s))


def test_plain_graphs_keep_the_laws() -> None:
    graphs = [from_networkx(g) for g in (nx.cycle_graph(5), nx.path_graph(4), nx.wheel_graph(6), nx.petersen_graph())]
    plain = Tokenizer(TokenizerConfig(atoms=("X",), implied=False, hops=1, key="walk"))
    model = Model(dataclasses.replace(TINY, walk=3), plain)
    check_family("blocks", graphs[:3], plain, model)
    model.loss(collate(Tokens, list(plain.encode_many(graphs))), torch.Generator().manual_seed(0))["loss"].backward()
    facts = plain.statistics(TokenArrays.from_tokens(Tokens, list(plain.encode_many(graphs))))
    assert facts["types"] == [1.0] and facts["properties"] == [] and "mean" not in facts
    draws = list(model.sample([Prompt()] * 3, [(0, i) for i in range(3)]))
    assert all(not plain.decode(d.tokens).numbers.any() for d in draws)


@pytest.mark.parametrize("smiles", SMILES)
def test_charges_and_hydrogens_survive(tokenizer: Tokenizer, smiles: str) -> None:
    for explicit in (False, True):
        tokens = tokenizer.encode(from_smiles(smiles, explicit_hydrogens=explicit))
        assert to_smiles(tokenizer.decode(tokens)) == to_smiles(from_smiles(smiles))


def test_many_at_once_are_the_same_as_one_by_one(tokenizer: Tokenizer, molecules: list[Structure]) -> None:
    refused = [from_smiles("CCBr"), from_smiles("C" * 60)]
    many = list(tokenizer.encode_many([*molecules, *refused]))
    assert len(many) == len(molecules)
    for molecule, tokens in zip(molecules, many, strict=True):
        alone = tokenizer.encode(molecule)
        assert all(np.array_equal(getattr(alone, f), getattr(tokens, f)) for f in ("kind", "block", "degree", "bonds", "order"))


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(-1, 9), max_size=6), st.lists(st.tuples(*[st.integers(-1, 7)] * 3), max_size=5))
def test_decode_is_total(kinds: list[int], bonds: list[tuple[int, int, int]]) -> None:
    flat = np.array(kinds, dtype=np.int64)
    rows = np.array(bonds, dtype=np.int64).reshape(-1, 3)
    structure = Tokenizer(TokenizerConfig(atoms=CHARGED)).decode(Tokens(flat, flat, flat, rows, np.zeros((1, 0))))
    assert structure.n_atoms in (0, len(kinds))


@pytest.mark.parametrize(
    ("smiles", "words"),
    [("CCBr", ["Br"]), ("C" * 50, ["40", "50"]), ("[CH2]C", ["valence"]), ("[13CH4]", ["isotopes"]), ("[B-](C)(C)(C)C", ["B-1"])],
)
def test_refusals_name_the_reason(tokenizer: Tokenizer, smiles: str, words: list[str]) -> None:
    check_raises(lambda: tokenizer.encode(from_smiles(smiles, explicit_hydrogens=False)), InputError, *words)


def test_configurations_that_cannot_be_are_refused(tokenizer: Tokenizer) -> None:
    check_raises(lambda: TokenizerConfig(atoms=("C", "Xx")), InputError, "Xx")
    check_raises(lambda: TokenizerConfig(atoms=("C", "NH+")), InputError, "implied: false")
    check_raises(lambda: ModelConfig(kernel="gaussian"), InputError, "absorbing")
    check_raises(lambda: Model(TINY, Tokenizer(TokenizerConfig(hops=0))), InputError, "hops=0")


@pytest.mark.parametrize("key", ["shell", "search"])
def test_a_graph_in_several_random_orders(key: str) -> None:
    several = Tokenizer(TokenizerConfig(atoms=("X",), implied=False, hops=1, key=key, orders=5, max_atoms=16, max_block=1))
    graphs = [from_networkx(nx.random_labeled_tree(n, seed=n)) for n in (12, 16)]
    records = list(several.encode_many(graphs))
    assert len(records) == several.records * len(graphs) and several.statistics(TokenArrays.from_tokens(Tokens, records))["sizes"][12] == 5
    for k, record in enumerate(records):
        assert record.block.tolist() == list(range(len(record.kind)))
        assert nx.is_isomorphic(to_networkx(several.decode(record)), to_networkx(graphs[k % 2]))
        degree = np.zeros(len(record.kind), dtype=np.int64)
        np.add.at(degree, record.bonds[:, :2].max(1), 1)
        assert record.degree.tolist() == degree.tolist()  # neighbours among the nodes before
    assert len({str(r.degree.tolist()) + str(r.bonds.tolist()) for r in records[::2]}) > 1
    check_raises(lambda: TokenizerConfig(hops=0, orders=2), InputError, "orders", "hops")
    check_raises(lambda: TokenizerConfig(key="search"), InputError, "tokenizer.orders")


def test_names_and_valences() -> None:
    assert node_type("Cl") == (17, 0, 0) and node_type("NH3+") == (7, 1, 3) and node_type("O-2") == (8, -2, 0)
    assert [implied(16, 0, s) for s in (1, 3, 5, 7)] == [1, 1, 1, None]


def test_properties_are_computed_where_they_are_missing() -> None:
    aspirin = from_smiles(SMILES[0], explicit_hydrogens=False)
    tokens = Tokenizer(TokenizerConfig(properties=("qed", "logP", "sa", "gap_eV"))).encode(aspirin.with_info(logP=9.0))
    found = computed(aspirin)
    assert tokens.properties[0, 1] == 9.0 and np.isnan(tokens.properties[0, 3]) and tokens.properties[0, 0] == found["qed"]
    assert abs(found["qed"] - 0.55) < 0.01 and 1 < found["sa"] < 3


# ---- sampling


@pytest.mark.parametrize(
    "options", [{}, {"singly": False, "entropy": 0.0}, {"valence": True}, {"temperature": 0.5}, {"connected": False}], ids=str
)
def test_draws_depend_on_their_key_alone(model: Model, tokenizer: Tokenizer, options: dict) -> None:
    prompts = [Prompt(n_atoms=(2, 9))] * 4 + [Prompt(elements=("C", "O"))] + [Prompt(scaffold="c1ccoc1*", n_atoms=(6, 12))] * 2
    check_sampler(model, tokenizer, prompts, **options)


@pytest.mark.parametrize("sampler", ["sid", "posterior"])
@pytest.mark.parametrize("hops", [0, 2])
def test_kernels_with_noise_levels_draw(sampler: str, hops: int) -> None:
    tokenizer = Tokenizer(TokenizerConfig(hops=hops))
    model = Model(dataclasses.replace(TINY, kernel="marginal"), tokenizer)
    check_sampler(model, tokenizer, [Prompt(n_atoms=(2, 8))] * 3, sampler=sampler)


def test_what_is_asked_for_is_in_every_draw(model: Model, tokenizer: Tokenizer) -> None:
    """Exact constraints hold for untrained weights too: size, elements, and the scaffold, grown only where it may."""
    from rdkit import Chem

    for draw in model.sample([Prompt(n_atoms=(5, 7), elements=("C", "N"))] * 6, [(1, i) for i in range(6)]):
        structure = tokenizer.decode(draw.tokens)
        assert 5 <= structure.n_atoms <= 7 and {*structure.numbers.tolist()} <= {6, 7} and draw.calls > 0 and draw.score < 0
    query = Chem.MolFromSmarts("[OD1]=[#6;D2,D3]-[#6D3]1-[#6D2]-[#6;D2,D3]-1")  # only the starred atoms may have grown
    for draw in model.sample([Prompt(scaffold="O=C(*)C1CC1*", n_atoms=(8, 14))] * 6, [(2, i) for i in range(6)], valence=True):
        structure = tokenizer.decode(draw.tokens)
        mol = Chem.RWMol()
        for z in structure.numbers.tolist():
            mol.AddAtom(Chem.Atom(z))
        for i, j, order in structure.bonds.tolist():
            mol.AddBond(i, j, [Chem.BondType.SINGLE, Chem.BondType.DOUBLE, Chem.BondType.TRIPLE][order - 1])
        assert mol.HasSubstructMatch(query)


def test_the_first_block_after_a_scaffold_finds_a_place(model: Model) -> None:
    """One open place: one node, whatever untrained weights say."""
    for draw in model.sample([Prompt(scaffold="C1CC1*", n_atoms=(5, 9))] * 8, [(4, i) for i in range(8)]):
        t = draw.tokens
        assert (t.block == t.block[3]).sum() == 1 and t.block[3] > t.block[:3].max()


def one_piece(tokens: Tokens) -> bool:
    graph = nx.Graph(tokens.bonds[:, :2].tolist())
    graph.add_nodes_from(range(len(tokens.kind)))
    return nx.is_connected(graph)


@settings(deadline=None, max_examples=200)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=5))
def test_counts_tell_whether_pieces_can_be_joined(pieces: list[tuple[int, int]]) -> None:
    """Against a search through all ways to join pieces of (old, new) places when nothing comes after."""

    def search(left: tuple[tuple[int, int], ...]) -> bool:
        for i, a in enumerate(left):
            for j, b in enumerate(left):
                for old in (0, 1):  # of b; a gives a new place
                    if i != j and a[1] and b[1 - old]:
                        merged = (a[0] + b[0] - old, a[1] + b[1] - 2 + old)
                        if search((*(p for k, p in enumerate(left) if k not in (i, j)), merged)):
                            return True
        return len(left) == 1

    old, new = np.array(pieces).T
    nothing, real = np.zeros_like(old), np.ones(len(pieces), dtype=bool)
    assert joinable(old, new, nothing, real, np.array(0), 4) == search(tuple(pieces))
    padded = (np.append(a, 7) for a in (old, new, nothing))
    assert joinable(*padded, np.append(real, False), np.array(0), 4) == search(tuple(pieces))


def test_pieces_may_wait_for_a_node_that_joins_them() -> None:
    old, none, real = np.array([1, 2]), np.zeros(2, dtype=np.int64), np.ones(2, dtype=bool)
    wait = lambda old, rest, most: bool(joinable(old, none, none, real, np.array(rest), most))  # noqa: E731
    assert wait(old, 1, 2)
    assert not wait(old, 0, 2) and not wait(old, 1, 1) and not wait(np.array([1, 0]), 1, 2)


@pytest.mark.parametrize(("valence", "temperature"), [(False, 1.0), (True, 0.5), (True, 3.0)])
def test_every_draw_is_one_piece(tokenizer: Tokenizer, valence: bool, temperature: float) -> None:
    """Untrained weights of several seeds, de novo and from scaffolds; without the option they do come in pieces."""
    scaffolds = (None, None, "CC(=O)*", "c1ccoc1*", "C1CC1*", "CO", "*N(*)C")
    prompts = [Prompt(n_atoms=(1, 11), scaffold=s) for s in scaffolds] * 2 + [Prompt(elements=("F", "O"), n_atoms=(1, 8))] * 2
    keys = [(7, i) for i in range(len(prompts))]
    broken = 0
    for seed in range(2):
        torch.manual_seed(seed)
        facts = {"capacity": [4, 3, 2, 1, 6, 4, 1, 1]}
        model = Model(TINY, tokenizer, facts).eval()
        for p in model.parameters():
            p.data.mul_(2.0)  # further from uniform
        options = {"valence": valence, "temperature": temperature}
        drawn = {d.index: d.tokens for d in model.sample(prompts, keys, 8, **options)}
        assert len(drawn) == len(prompts) and all(map(one_piece, drawn.values()))
        if valence:
            for t in drawn.values():
                sums = np.bincount(t.bonds[:, :2].ravel(), np.repeat(t.bonds[:, 2], 2), len(t.kind))
                assert (sums <= np.array(facts["capacity"])[t.kind]).all()
        broken += sum(not one_piece(d.tokens) for d in model.sample(prompts, keys, 8, connected=False, **options))
    assert broken


def test_plain_graphs_are_one_piece_and_degrees_stay_exact() -> None:
    plain = Tokenizer(TokenizerConfig(atoms=("X",), implied=False, hops=1, max_atoms=24))
    torch.manual_seed(1)
    model = Model(TINY, plain).eval()
    for draw in model.sample([Prompt(n_atoms=(10, 24))] * 12, [(8, i) for i in range(12)]):
        assert one_piece(draw.tokens) and len(draw.tokens.kind) >= 10


@pytest.mark.parametrize(("within", "belongs"), [("planar", graph_metrics.planar), ("forest", graph_metrics.tree)])
def test_draws_stay_within_a_class_of_graphs(within: str, belongs: Callable) -> None:
    plain = Tokenizer(TokenizerConfig(atoms=("X",), implied=False, hops=1, max_atoms=24))
    torch.manual_seed(1)
    model = Model(TINY, plain).eval()
    prompts, keys = [Prompt(n_atoms=(12, 20))] * 8, [(8, i) for i in range(8)]
    kept, free = ([plain.decode(d.tokens).adjacency() > 0 for d in model.sample(prompts, keys, within=w)] for w in (within, ""))
    assert all(map(belongs, kept)) and not all(map(belongs, free))
    with pytest.raises(InputError, match="absorbing"):
        noisy = Model(dataclasses.replace(TINY, kernel="uniform"), plain)
        list(noisy.sample(prompts[:1], keys[:1], within=within))


def test_the_number_of_nodes_is_that_of_the_data(tokenizer: Tokenizer) -> None:
    torch.manual_seed(0)
    model = Model(dataclasses.replace(TINY, count=True), tokenizer, {"sizes": [0] * 7 + [3, 0, 1]}).eval()
    prompts = [Prompt()] * 12 + [Prompt(n_atoms=(8, 12))] * 2 + [Prompt(n_atoms=(3, 4))] * 2
    sizes = [len(d.tokens.kind) for d in sorted(model.sample(prompts, [(5, i) for i in range(16)]), key=lambda d: d.index)]
    assert set(sizes[:12]) == {7, 9} and sizes[12:14] == [9, 9] and set(sizes[14:]) <= {3, 4}
    check_sampler(model, tokenizer, prompts)


def test_a_headers_demand_can_be_met(model: Model) -> None:
    """Three nodes at most: none may be left alone at the end, and there is no end in pieces."""
    graph = begun(model, 0, Prompt(n_atoms=(1, 3)), (0, 0))
    batch = _Batch(model, [graph], [Prompt()], 1, Options())
    first = batch.joints.needs(graph) < NOWHERE
    assert first[1, 0] and first[2, 0] and first[2, 1] and first[3, 2] and not first[3, :2].any()
    graph.begin(np.array([0]), 0)
    graph.start, graph.room[0] = 1, 1  # one node with one open place
    after = batch.joints.needs(graph) < NOWHERE
    assert after[1, 0] and after[1, 1] and after[2, 2] and not after[2, :2].any()
    graph.begin(np.array([0]), 0)
    graph.start, graph.room[1] = 2, 1  # and another one beside it: the third joins them
    both = batch.joints.needs(graph) < NOWHERE
    assert both[1, 2] and not both[1, :2].any() and batch._impossible([(0, graph)], batch.joints.needs(graph)[None])[0, 0]


def test_degrees_are_exact(model: Model) -> None:
    """A node of a later block has as many bonds to the blocks up to its own as the header said, where there are enough nodes."""
    for draw in model.sample([Prompt(n_atoms=(12, 20))] * 4, [(3, i) for i in range(4)]):
        t = draw.tokens
        for k in range(len(t.kind)):
            i, j = t.bonds[:, 0], t.bonds[:, 1]
            others = np.concatenate([j[i == k], i[j == k]])
            earlier = int((t.block[others] <= t.block[k]).sum())
            assert earlier <= t.degree[k]
            if t.degree[k] <= (t.block < t.block[k]).sum():
                assert earlier == t.degree[k]


def test_scaffolds_that_cannot_be_are_refused(model: Model, tokenizer: Tokenizer) -> None:
    for scaffold, words in (
        ("c1ccccc1.CC*", ["connected"]),
        ("[Na]C*", ["Na"]),
        ("CC=*", ["single"]),
        ("C" * 60 + "*", ["at most 40"]),
        ("C(C)(C)(C)(C)C", ["valence"]),
        ("CBr*", ["valence"]),
    ):
        check_raises(lambda s=scaffold: list(model.sample([Prompt(scaffold=s)], [(0, 0)])), InputError, *words)
    made, free = pieces(tokenizer, "c1ccncc1*")
    assert sum(len(p.kind) for p in made) == 6 and free.sum() == 1
    check_raises(lambda: list(model.sample([Prompt(graph=from_smiles("CC"))], [(0, 0)])), InputError, "blocks")
    check_raises(lambda: list(model.sample([Prompt()], [(0, 0)], beam=3)), InputError, "beam")
    check_raises(lambda: list(model.sample([Prompt(n_atoms=(50, 60))], [(0, 0)])), InputError, "n_atoms")


def test_from_training_to_checked_molecules(tmp_path: Path) -> None:
    """The tiny recipe, end to end through the front door: weights file, molecules, properties, scaffold, files."""
    torch.manual_seed(0)
    path = train.fit(config.load(Path(__file__).parents[2] / "configs/tiny/blocks.yaml"), tmp_path)
    samples = sciar.generate("graph", n=24, seed=0, model=path, valence=True, out=tmp_path / "drawn.smi")
    assert len(samples) == 24 and samples.valid.sum() >= 4, samples.summary()
    assert len((tmp_path / "drawn.smi").read_text().splitlines()) == 24
    assert all(g.number_of_nodes() <= 12 for g in samples.graphs if g is not None)
    assert np.isfinite(samples.scores).all() and samples.report()["network_calls_per_sample"] < 40
    again = sciar.generate("graph", n=24, seed=0, model=path, valence=True, batch_size=5)
    assert again.to_smiles() == samples.to_smiles()
    grown = sciar.generate("graph", n=8, seed=1, model=path, scaffold="C1CC1*", properties={"gap_eV": 7.0}, valence=True)
    assert not any("scaffold" in reason for verdict in grown for reason in verdict.reasons)
    placed = sciar.generate("graph", n=24, seed=0, model=path, valence=True, then_3d=True, out=tmp_path / "placed.sdf")
    assert len(placed) == 24 and len(placed.run.refused) == (~samples.valid).sum()
    assert all(v.structure.positions is not None for v, ok in zip(placed, samples.valid, strict=True) if ok)
    check_raises(lambda: sciar.generate("molecule", then_3d=True), InputError, "then_3d", "graph")
    check_raises(lambda: sciar.generate("graph", n=1, model=path, scaffold="CBr*"), InputError, "Br")
    check_raises(lambda: sciar.generate("graph", n=1, model=path, properties={"qed": 1.0}), InputError, "gap_eV")


def test_a_folder_of_own_graphs_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """graph6 and edge lists in, weights, graph6, networkx and PyG out."""
    monkeypatch.setenv("SCIAR_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "own"
    folder.mkdir()
    files.write(folder / "a.g6", [from_networkx(nx.random_labeled_tree(8, seed=k)) for k in range(12)])
    (folder / "b.edges").write_text("a b\nb c\nc a\n\n0 1\n1 1\n")  # a triangle, and a graph with a loop
    store, report = datasets.prepare(folder)
    assert len(store) == 13 and "self-loop of node 1 in line 6" in str(report.rejected[0])
    settings = ["task=graph", f"data.sets=[{folder}]", "data.validation=2", "tokenizer.atoms=[X]", "tokenizer.implied=false"]
    settings += ["tokenizer.properties=[]", "tokenizer.hops=1", "model.walk=2", "train.steps=2", "name=own"]
    recipe = config.load(Path(__file__).parents[2] / "configs/tiny/blocks.yaml", settings)
    path = train.fit(recipe, tmp_path / "run")
    samples = sciar.generate("graph", n=4, seed=0, model=path, out=tmp_path / "drawn.g6")
    assert [g.n_atoms for g in files.read(tmp_path / "drawn.g6")] == [g.number_of_nodes() for g in samples.graphs]
    samples.write(tmp_path / "drawn.edgelist")
    assert [
        nx.utils.graphs_equal(to_networkx(g), h) for g, h in zip(files.read(tmp_path / "drawn.edgelist"), samples.graphs, strict=True)
    ] == [True] * 4
    pytest.importorskip("torch_geometric")
    assert [d.num_nodes for d in samples.to_pyg()] == [g.number_of_nodes() for g in samples.graphs]
