"""The network of the blocks family: every kernel trains, nothing leaks, cached = full, the sampler sees what training saw."""

from __future__ import annotations

import dataclasses
from typing import Any

import networkx as nx
import numpy as np
import pytest
import small_blocks
import torch
from small_blocks import TINY

from sciar.batch import collate
from sciar.convert import from_networkx
from sciar.families.blocks import Model, Tokenizer, TokenizerConfig, Tokens, finished, task
from sciar.families.blocks.finished import Clean, walk_features
from sciar.families.blocks.fragment import Piece
from sciar.families.blocks.growing import Growing, begun
from sciar.families.blocks.options import Options
from sciar.families.blocks.sample import _Batch
from sciar.families.blocks.task import MOST_RING, READER, limit_of, rings_of, task_of
from sciar.prompt import Prompt
from sciar.structure import Structure


@pytest.fixture(scope="module")
def molecules() -> list[Structure]:
    return small_blocks.molecules()


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return small_blocks.tokenizer()


@pytest.mark.parametrize("kernel", ["absorbing", "marginal", "uniform", "block"])
@pytest.mark.parametrize(("blocks", "reader"), [(0, True), (1, False)])
def test_every_kernel_trains(molecules: list[Structure], tokenizer: Tokenizer, kernel: str, blocks: int, reader: bool) -> None:
    model = Model(
        dataclasses.replace(
            TINY,
            kernel=kernel,
            blocks=blocks,
            count=True,
            reader=reader,
            shown=reader,
            row_bias=reader,
            places=reader,
            room=reader,
            excess=reader and kernel == "absorbing",
            rings=reader and kernel == "absorbing",
        ),
        tokenizer,
    )
    batch = collate(Tokens, [tokenizer.encode(m) for m in molecules])
    parts = model.loss(batch, torch.Generator().manual_seed(0))
    parts["loss"].backward()
    assert set(parts) == {"loss", "size", "degree", "types", "edges"} and all(torch.isfinite(v) for v in parts.values())
    assert all(p.grad is not None for p in model.parameters())


SWITCHES = dict.fromkeys(("reader", "shown", "row_bias", "places", "room", "excess", "rings", "pieces"), True)


@pytest.mark.parametrize(
    ("options", "widths"), [(SWITCHES, (13 + 13 + 6, 16 + 16 + 8)), ({"kernel": "uniform", "walk": 3}, (13 + 13, 16 + 16))]
)
def test_widths_that_a_gpu_multiplies_change_nothing(
    molecules: list[Structure], tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], widths: tuple[int, int]
) -> None:
    """A GPU's tables are filled up to multiples of 8: the same loss and the same gradients."""
    torch.manual_seed(0)
    model = Model(dataclasses.replace(TINY, **options), tokenizer)
    batch = collate(Tokens, [tokenizer.encode(m) for m in molecules])
    monkeypatch.setattr(torch, "rand", lambda shape, **_: torch.full(shape, 0.5))  # the same for every shape
    found = []
    for widen in (False, True):
        if widen:
            for module in (finished, task):
                monkeypatch.setattr(module, "fitting", lambda count, device: -(-count // 8) * 8)
        rows = task.task_of(model, Clean.of(batch), lambda *shape: torch.rand(shape)).rows
        assert rows.kind.shape[1] == widths[widen]
        model.zero_grad()
        loss = model.loss(batch)["loss"]
        loss.backward()
        found.append([loss.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)])
    for narrow, wide in zip(*found, strict=True):
        torch.testing.assert_close(wide, narrow, rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize(("walk", "reader"), [(0, False), (0, True), (3, True)])
def test_nothing_a_block_must_not_see_changes_its_logits(molecules: list[Structure], tokenizer: Tokenizer, walk: int, reader: bool) -> None:
    """Rewrite every bond and type of blocks above b: rows of blocks up to b, and readers up to b + 1, stay as they were."""
    model = Model(dataclasses.replace(TINY, walk=walk, reader=reader, places=reader, rings=reader), tokenizer).eval()
    if reader:
        for zero in (model.told, model.free, model.spare, model.ring):
            torch.nn.init.normal_(zero.weight, std=0.1)
    record = tokenizer.encode(molecules[0])
    cut = int(record.block.max()) // 2
    late = record.block > cut
    kinds = np.where(late, (record.kind + 1) % 3, record.kind)
    bonds = record.bonds.copy()
    bonds[late[bonds[:, :2]].any(1), 2] = 3
    changed = dataclasses.replace(record, kind=kinds, bonds=bonds[: len(bonds) - 1])

    def run(tokens: Tokens) -> tuple[torch.Tensor, ...]:
        generator = torch.Generator().manual_seed(5)
        task = task_of(model, Clean.of(collate(Tokens, [tokens])), lambda *s: torch.rand(s, generator=generator))
        x, logits, read = model.answers(task.rows, None)
        n, v = len(tokens.kind), task.truth.shape[1]
        level, role = task.rows.level[0], task.rows.role[0]
        keep = (level <= cut + (role == READER)) & (level >= 0)
        edges = logits[:, n : n + v, : n + v].masked_fill(~task.mask[..., None], 0.0)
        return x[0, keep], edges[0, keep[n : n + v]], x[0, ~keep], *(() if read is None else (read[0, : cut + 2], read[0, cut + 2 :]))

    before, after = run(record), run(changed)
    assert [torch.equal(a, b) for a, b in zip(before, after, strict=True)] == [True, True, False, True, False][: len(before)]


@torch.no_grad()
@pytest.mark.parametrize(("kernel", "walk", "reader"), [("absorbing", 0, True), ("absorbing", 3, True), ("marginal", 0, False)])
def test_cached_equals_full_forward(molecules: list[Structure], tokenizer: Tokenizer, kernel: str, walk: int, reader: bool) -> None:
    """Clean states, edge logits and readings of every block: from the sampler's cache, and from one pass over the doubled graph."""
    switches = dict.fromkeys(("reader", "row_bias", "places", "shown", "excess", "rings"), reader)
    chosen = dataclasses.replace(TINY, kernel=kernel, walk=walk, **switches)  # type: ignore[arg-type]
    model = Model(chosen, tokenizer, {"capacity": [3, 2, 1, 1, 4, 1, 2, 3]}).eval()
    if reader:
        for zero in (model.told.weight, model.of_row.weight, model.free.weight, model.spare.weight, model.ring.weight, model.excess):
            torch.nn.init.normal_(zero, std=0.1)
    record = tokenizer.encode(molecules[0])
    clean = Clean.of(collate(Tokens, [record], multiple=1))
    task = task_of(model, clean, lambda *s: torch.full(s, 0.999) if len(s) < 3 or kernel == "absorbing" else torch.full(s, 0.5))
    x, logits, read = model.answers(task.rows, None)
    n = len(record.kind)
    logits = logits[0, n:]
    codes = task.rows.codes[0, n:]
    readings = []
    orders = clean.orders[0].numpy()
    graph = begun(model, 0, Prompt(), (0, 0))
    batch = _Batch(model, [graph], [Prompt()], 1, Options())
    batch._fill()
    if read is not None:
        put, batch._headers = batch._headers, lambda condition: None
        batch._advance()
        readings.append(batch.reading[0].clone())
        batch._headers = put
    for b in range(int(record.block.max()) + 1):
        rows = np.flatnonzero(record.block == b)
        end = int(rows[-1]) + 1
        graph.begin(record.kind[rows], int(record.degree[rows[0]]))
        graph.shown[:] = False
        if kernel != "absorbing":
            graph.time = model.config.steps
            noisy = (codes[rows][:, :end] - 6).numpy().clip(0)
            noisy[:, rows[0] : end] = (codes[rows][:, n + rows[0] : n + end] - 6).numpy().clip(0)
            graph.noisy = noisy
        found = {}
        put = "_reveal" if kernel == "absorbing" else "_denoise"
        setattr(batch, put, lambda g, own, found=found: found.update(logits=own))
        batch._advance()
        columns = [*range(rows[0]), *(n + k for k in range(rows[0], end))]
        wanted = logits[rows][:, columns].double().numpy()
        off = ~np.eye(end, dtype=bool)[rows]
        if graph.size * graph.n > 1:
            assert np.abs(found["logits"] - wanted)[off].max() < 1e-5
        graph.phase, graph.start, graph.n = "header", graph.start, graph.start
        graph.forced = [Piece(record.kind[rows], record.degree[rows], orders[rows][:, :end])]
        batch._advance()
        readings.append(batch.reading[0].clone())
    if read is not None:
        assert (torch.stack(readings) - read[0]).abs().max() < 1e-5 and read.std(1).min() > 1e-2
    assert (batch.states[0, :n] - x[0, :n]).abs().max() < 1e-5


@torch.no_grad()
@pytest.mark.parametrize("seed", range(4))
def test_the_sampler_tells_an_open_block_what_training_told_it(molecules: list[Structure], tokenizer: Tokenizer, seed: int) -> None:
    """Every feature of every open row, with some rows of the block shown, some in part, some hidden; and the counts for the header."""
    capacity = [4, 3, 2, 1, 4, 1, 3, 2]
    model = Model(
        dataclasses.replace(TINY, partial=0.7, shown=seed > 1, places=True, excess=True, rings=True), tokenizer, {"capacity": capacity}
    ).eval()
    record = tokenizer.encode(molecules[seed])
    clean = Clean.of(collate(Tokens, [record], multiple=1))
    generator = torch.Generator().manual_seed(seed)
    rows = task_of(model, clean, lambda *s: torch.rand(s, generator=generator)).rows
    limits = limit_of(rows, model.capacity)[0].numpy()
    n, told = len(record.kind), 0
    before = clean.block[:, None] < torch.arange(int(clean.block.max()) + 1)[:, None]
    trained = model.alike_of(clean.kind[:, None], before.float() @ clean.orders.float(), before)
    graph = begun(model, 0, Prompt(), (0, 0))
    batch = _Batch(model, [graph], [Prompt()], 1, Options())
    batch._fill()
    orders = clean.orders[0].numpy()
    for b in range(int(record.block.max()) + 1):
        mine = np.flatnonzero(record.block == b)
        end = int(mine[-1]) + 1
        room = np.array(capacity)[record.kind[: mine[0]]] - orders[: mine[0], : mine[0]].sum(1)
        alike = [int((room == 1).sum()), int((room == 2).sum()), int((room == 3).sum()), int((room >= 4).sum())]
        assert batch._alike([graph]).tolist() == [alike] and trained[0, b].tolist() == alike
        columns = [*range(mine[0]), *(n + k for k in range(mine[0], end))]
        wanted = {name: getattr(rows, name)[0, n + mine].numpy() for name in ("kind", "level", "degree", "left", "spent", "size", "role")}
        pairs = ("codes", "apart", "used", "near", "free", "ring", "sees")
        wanted |= {name: getattr(rows, name)[0, n + mine][:, columns].numpy() for name in pairs}
        graph.begin(record.kind[mine], int(record.degree[mine[0]]))
        known = np.where(wanted["codes"] <= 3, wanted["codes"], 0)
        graph.put(known)
        graph.left = wanted["left"]
        graph.shown = ~(wanted["codes"] == 4).any(1)
        told += int(known.sum())
        found, _ = batch._rows()
        assert all(np.array_equal(getattr(found, name)[0].numpy(), value) for name, value in wanted.items()), b
        for row in np.flatnonzero(~graph.shown).tolist():
            others = np.arange(end) != mine[row]
            assert np.array_equal(batch._limit(graph, np.array([row]))[0][others], limits[n + mine[row], columns][others])
        graph.put(orders[mine, :end])
        graph.start = graph.n
    assert told


@torch.no_grad()
@pytest.mark.parametrize("seed", range(4))
def test_the_sampler_tells_the_header_what_training_told_it(molecules: list[Structure], tokenizer: Tokenizer, seed: int) -> None:
    """Drawn with every choice as in a record, sizes, degrees and types cost what they cost in training."""
    chosen = dataclasses.replace(TINY, reader=True, shown=True, count=True, places=True, room=True, pieces=True)
    model = Model(chosen, tokenizer, {"capacity": [4, 3, 2, 1, 6, 4, 1, 1]}).eval()
    torch.nn.init.constant_(model.pieces, -0.1)
    for zero in (model.told, model.alike, model.header.rest, model.header.size_of, model.header.type_of):
        torch.nn.init.normal_(zero.weight, std=0.3)
    record = tokenizer.encode(molecules[seed])
    clean = Clean.of(collate(Tokens, [record], multiple=1))
    task = task_of(model, clean, lambda *s: torch.rand(s, generator=torch.Generator().manual_seed(seed)))
    x, _, read = model.answers(task.rows, None)
    trained = sum(float(v) for v in model._header_loss(clean, x[:, : len(record.kind)], read, None).values())
    graph = begun(model, 0, Prompt(), (0, 0))
    graph.most = len(record.kind)
    batch = _Batch(model, [graph], [Prompt()], 1, Options(connected=False))
    batch._fill()
    wanted, orders, spent = [], clean.orders[0].numpy(), 0.0
    for b in range(int(record.block.max()) + 1):
        mine = np.flatnonzero(record.block == b)
        wanted += [len(mine), int(record.degree[mine[0]]), *record.kind[mine].tolist()]
    wanted.append(0)

    def choose(logits: torch.Tensor, due: list, skip: list | None = None) -> torch.Tensor:
        nonlocal spent
        spent -= float(logits.log_softmax(-1)[0, wanted[0]])
        return torch.tensor([wanted.pop(0)])

    def reveal(g: object, logits: np.ndarray) -> None:
        block = slice(graph.start, graph.n)
        graph.put(orders[block, : graph.n])
        graph.shown[:] = True

    batch._chosen, batch._reveal = choose, reveal  # type: ignore[method-assign]
    batch._impossible = lambda due, needs: torch.zeros(1, tokenizer.config.max_block + 1, dtype=torch.bool)  # type: ignore[method-assign]
    while graph.phase != "done":
        batch._advance()
    assert not wanted and abs(spent - trained) < 1e-3 and trained > 10


def test_excess_knows_the_bonds_drawn_since_the_network_looked(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    """All rows of a block from one call, without masks: no bond goes beyond the free places where another one does not."""
    config = dataclasses.replace(TINY, excess=True)
    model = Model(config, tokenizer, {"capacity": [4, 3, 2, 1, 4, 1, 3, 2]}).eval()
    torch.nn.init.constant_(model.excess, -10.0)
    batch = _Batch(model, [], [], 1, Options(connected=False))
    drawn, connect = [], Growing.connect

    def spy(g: Growing, row: int, column: int, order: int) -> None:
        limit, law = batch._limit(g, np.array([row]))[0], batch._law(g, np.array([row]), np.zeros((g.size, g.n, 3)))[0]
        drawn.append((order <= limit[column], bool(((limit > 0) & (law.max(1) > -1e3)).any())))
        connect(g, row, column, order)

    monkeypatch.setattr(Growing, "connect", spy)
    list(model.sample([Prompt()] * 12, [(1, i) for i in range(12)], connected=False, entropy=1e9))
    assert sum(free for _, free in drawn) > 100 and all(within for within, free in drawn if free)


def test_rings_are_closed_on_the_shortest_path_that_a_row_sees() -> None:
    """Against NetworkX: a bond of an open row closes a ring of one node more than the path has bonds; not through what comes later."""
    rng, checked = np.random.default_rng(0), 0
    for _ in range(20):
        n, block = 12, np.sort(rng.integers(0, 4, 12))
        graph = nx.gnm_random_graph(n, 13, seed=int(rng.integers(1000)))
        bonds = torch.from_numpy(nx.to_numpy_array(graph) > 0)
        level = torch.from_numpy(block)
        sees = (level <= level[:, None]).repeat(1, 1)
        found = rings_of(bonds[None], sees[None])[0].numpy()
        for i in range(n):
            lengths = nx.single_source_shortest_path_length(graph.subgraph(np.flatnonzero(block <= block[i]).tolist()), i)
            wanted = [min(lengths[j] + 1, MOST_RING) if lengths.get(j, 0) > 1 else 0 for j in range(n)]
            assert found[i].tolist() == wanted
            checked += sum(w > 3 for w in wanted)
    assert checked > 100


def test_rings_know_the_bonds_drawn_since_the_network_looked(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    """All rows of a block from one call: no ring of other than five nodes is closed where another bond can be drawn."""
    model = Model(dataclasses.replace(TINY, rings=True), tokenizer, {"capacity": [4, 3, 2, 1, 4, 1, 3, 2]}).eval()
    with torch.no_grad():
        model.rings.copy_(torch.tensor([-10.0, -10, 0, -10, -10, -10, -10]))
    batch = _Batch(model, [], [], 1, Options(connected=False))
    closed, connect = [], Growing.connect

    def spy(g: Growing, row: int, column: int, order: int) -> None:
        lengths = nx.single_source_shortest_path_length(nx.from_numpy_array(g.orders[: g.n, : g.n] > 0), g.start + row)
        law = batch._law(g, np.array([row]), np.zeros((g.size, g.n, 3)))[0]
        closed.append((lengths.get(column, -1) + 1, bool((law.max(1) > -50).any())))
        connect(g, row, column, order)

    monkeypatch.setattr(Growing, "connect", spy)
    list(model.sample([Prompt()] * 8, [(1, i) for i in range(8)], connected=False, entropy=1e9))
    sizes = [size for size, free in closed if free]
    assert len(sizes) > 100 and set(sizes) == {0, 5}


def test_walk_features_are_those_of_the_graph_of_their_time() -> None:
    """Against a walk on each prefix in NumPy, for two graphs of different size in one batch."""
    plain, steps = Tokenizer(TokenizerConfig(atoms=("X",), implied=False, hops=1)), 3
    records = [plain.encode(from_networkx(g)) for g in (nx.wheel_graph(7), nx.barbell_graph(4, 2))]
    clean = Clean.of(collate(Tokens, records))
    levels = torch.cat([clean.block, clean.block[:, :5]], 1)  # five virtual nodes behind
    found = walk_features(clean, levels, steps).numpy()
    for g in range(2):
        block, bonds = clean.block[g].numpy(), clean.orders[g].numpy() > 0
        n, r = len(block), len(levels[g])

        def walks(upto: int, bonds: np.ndarray = bonds, block: np.ndarray = block) -> list[np.ndarray]:
            inside = (block >= 0) & (block <= upto)
            step = bonds * np.outer(inside, inside) / np.maximum((bonds * np.outer(inside, inside)).sum(1, keepdims=True), 1)
            return [np.linalg.matrix_power(step, k + 1) for k in range(steps)]

        for i in range(r):
            for j in range(n):
                a, c = int(levels[g, i]), int(block[j])
                if a < 0 or c < 0:
                    continue
                returns = [w[j, j] for w in walks(a - 1)] if c < a else [w[i, i] for w in walks(c - 1)] if a < c and i < n else None
                between = [(w[i, j] + w[j, i]) / 2 for w in walks(max(a, c))] if i < n else [0.0] * steps
                if returns is not None or a == c:
                    assert np.allclose(found[g, i, j], [*(returns or [0.0] * steps), *between], atol=1e-6), (g, i, j)
