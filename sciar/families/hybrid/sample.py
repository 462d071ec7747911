"""Drawing: words first where no graph is given, then slot by slot with a cache, then the joint refiner.

Rows of a batch are at different slots: a finished row is replaced by the next prompt. The noise of a draw
comes from its key alone, so the batch it happens to sit in does not matter.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from sciar.batch import Batch, collate
from sciar.convert import from_smiles
from sciar.errors import InputError
from sciar.families.hybrid.fixed import laid_over, match, scaffold_of
from sciar.families.hybrid.grammar import Writer
from sciar.families.hybrid.model import gather, local_geometry
from sciar.families.hybrid.tokens import BOND_TYPES, BOS, EOS, PAD, PROPERTIES, THEORIES, VOCABULARY, Tokens, text_of, words_of
from sciar.family import Draw
from sciar.nn.transformer import Cache
from sciar.prompt import Prompt
from sciar.structure import SYMBOLS, Structure

if TYPE_CHECKING:
    from sciar.families.hybrid.model import Model

LONGEST = 128
CONTACT = 0.72  # of the sum of van der Waals radii: a little above where the validator calls it a clash
UNITED = 1.25  # carbon and its hydrogens: heavy atoms five or more bonds away keep this much more distance
HYDROGEN_BOND = 0.64  # the same for hydrogen and N, O or F


@dataclasses.dataclass(frozen=True, slots=True)
class Options:
    """How to draw.

    Args:
        steps, hydrogen_steps: solver steps (network evaluations of the head) per heavy atom and per hydrogen.
        anneal: fewest solver steps, reached at the last slot; 0 = the same for all slots.
        solver: "2m", "heun" or "sde". temperature: scales the noise of the coordinates; below 1 is nearer to the mode.
        word_temperature: of the words. grammar: only characters that can still end in a molecule.
        redraw: how often an atom that lands too close to one four or more bonds away is drawn again.
        guidance: of the property condition; 1 = none.
        refine: evaluations of the joint refiner, 0 = none. refine_sigma: the error in Å it assumes at its start.
        history: the disturbance of earlier atoms that the decoder is told to expect, Å.
        theory: minimum of which level of theory; None = b3lyp where the training data reaches (elements and size), else mmff94s.
        score: also return a log-likelihood of what was drawn: True or "bound" adds one head evaluation per noise level (8),
            "exact" integrates the probability flow (25 times the cost of a draw).
        precision: "bf16" or "32".
    """

    steps: int = 10
    hydrogen_steps: int = 6
    anneal: int = 0
    solver: str = "2m"
    temperature: float = 1.0
    word_temperature: float = 1.0
    grammar: bool = True
    redraw: int = 3
    guidance: float = 1.5
    refine: int = 5
    refine_sigma: float = 1.0
    history: float = 0.01
    theory: str | None = None
    score: bool | str = False
    precision: str = "bf16"

    def __post_init__(self) -> None:
        for name, least in (("steps", 1), ("hydrogen_steps", 1), ("refine", 0), ("anneal", 0), ("redraw", 0)):
            if getattr(self, name) < least:
                raise InputError(f"sample: expected {name} ≥ {least}, got {getattr(self, name)}")
        if self.score not in (False, True, "bound", "exact"):
            raise InputError(f"sample: expected score bound or exact, got {self.score!r}")
        if self.theory is not None and self.theory not in THEORIES:
            raise InputError(f"sample: expected theory {' or '.join(THEORIES)}, got {self.theory!r}")


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class _Pins:
    """Fixed atoms: their numbers in the graph, where the user has them, and where they stand in the frame of the slots (both m × 3)."""

    atoms: np.ndarray
    given: np.ndarray
    placed: np.ndarray


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class _Job:
    index: int
    key: tuple[int, int]
    tokens: Tokens
    word_score: float
    calls: int
    pins: _Pins | None = None


def sample(
    model: Model, prompts: Sequence[Prompt], keys: Sequence[tuple[int, int]], batch_size: int = 64, **options: object
) -> Iterator[Draw]:
    """See `sciar.family.Model.sample`; `options` are the fields of `Options`."""
    unknown = sorted(set(options) - {f.name for f in dataclasses.fields(Options)})
    if unknown:
        raise InputError(f"sample: unknown option {unknown[0]!r}; expected {', '.join(f.name for f in dataclasses.fields(Options))}")
    chosen = Options(**options)  # type: ignore[arg-type]
    for prompt in prompts:
        if prompt.space_group is not None or prompt.pxrd is not None:
            raise InputError("hybrid: expected a SMILES, a scaffold, fixed atoms or properties, got a crystal's facts; not supported yet")
    jobs: list[_Job] = []
    encoded: dict[int, tuple[Tokens, _Pins | None]] = {}
    worded = [i for i, prompt in enumerate(prompts) if prompt.graph is None]
    for i, prompt in enumerate(prompts):
        if prompt.graph is not None:
            if id(prompt.graph) not in encoded:
                encoded[id(prompt.graph)] = _encoded(model, prompt.graph, prompt.fixed, chosen)
            tokens, pins = encoded[id(prompt.graph)]
            jobs.append(_Job(i, keys[i], tokens, 0.0, 0, pins))
    for first in range(0, len(worded), batch_size):
        rows = worded[first : first + batch_size]
        for i, (text, score, calls) in zip(
            rows, draw_words(model, [prompts[i] for i in rows], [keys[i] for i in rows], chosen), strict=True
        ):
            try:
                tokens, pins = _encoded(model, from_smiles(text), prompts[i].fixed, chosen)
            except InputError:
                yield Draw(i, _spelt(text), score, calls)
            else:
                jobs.append(_Job(i, keys[i], dataclasses.replace(tokens, de_novo=True), score, calls, pins))
    if jobs:
        jobs.sort(key=lambda job: -len(job.tokens.order))
        yield from _Rows(model, jobs, batch_size, chosen).run()


def _at_theory(model: Model, tokens: Tokens, asked: str | None) -> Tokens:
    """Tokens that ask for a minimum of a level of theory the weights know for these elements.

    Raises:
        InputError: the level was asked for and the training data had no such element at it.
    """
    seen: dict[str, Any] = model.statistics.get("theories", {})
    graph = tokens.graph
    assert graph is not None
    present = {SYMBOLS[z] for z in graph.numbers.tolist()}
    heavy = int((graph.numbers > 1).sum())
    if asked is None:
        fits = [t for t in reversed(THEORIES) if t in seen and present <= {*seen[t]["elements"]} and heavy <= seen[t]["max_heavy"]]
        asked = (fits or [*seen] or [THEORIES[-1]])[0]
    elif asked in seen and not present <= {*seen[asked]["elements"]}:
        missing = " ".join(sorted(present - {*seen[asked]["elements"]}))
        raise InputError(f"sample: expected elements these weights saw at theory={asked!r}, got {missing}; leave theory out")
    return dataclasses.replace(tokens, theory=np.array([THEORIES.index(asked)]))


def _encoded(model: Model, graph: Structure, fixed: Structure | None, options: Options) -> tuple[Tokens, _Pins | None]:
    """Tokens of a graph, and where its fixed atoms go; these take the first slots."""
    if fixed is None:
        return _at_theory(model, model.tokenizer.encode(graph), options.theory), None
    atoms = match(graph, fixed)
    held: np.ndarray = fixed.positions  # type: ignore[assignment]
    positions = np.zeros((graph.n_atoms, 3))
    positions[atoms] = held
    tokens = model.tokenizer.encode(graph.replace(positions=positions), fixed=atoms.tolist())
    tokens = dataclasses.replace(tokens, graph=graph)
    return _at_theory(model, tokens, options.theory), _Pins(atoms, held, tokens.positions[: len(atoms)])


def _spelt(text: str) -> Tokens:
    """Tokens of words that spell no molecule."""
    empty = {"features": (0, 8), "refs": (0, 5), "side": (0, 4), "twist": (0, 4), "bonds": (0, 3)}
    arrays: dict[str, Any] = {name: np.zeros(shape, dtype=np.int64) for name, shape in empty.items()} | {"positions": np.zeros((0, 3))}
    flat = np.zeros(0, dtype=np.int64)
    try:
        words = words_of(text)
    except InputError:
        words = np.array([BOS, EOS])
    known = np.full((1, len(PROPERTIES)), np.nan)
    return Tokens(words=words, order=flat, anchor=flat, rings=flat, theory=np.zeros(1, int), properties=known, **arrays)


@torch.inference_mode()
def draw_words(model: Model, prompts: Sequence[Prompt], keys: Sequence[tuple[int, int]], options: Options) -> list[tuple[str, float, int]]:
    """(text, log-likelihood, network calls) of each prompt; a scaffold is a given prefix."""
    if not model.config.words_layers:
        raise InputError("hybrid: these weights draw conformers only; pass smiles=… or take weights with words (model='qm9-hybrid')")
    device = next(model.parameters()).device
    b = len(prompts)
    wanted = np.full((b, len(PROPERTIES)), np.nan, dtype=np.float32)
    for row, prompt in zip(wanted, prompts, strict=True):
        for name, value in prompt.properties.items():
            row[PROPERTIES.index(name)] = value
    guided = bool(np.isfinite(wanted).any()) and options.guidance != 1
    properties = model.standardised(torch.from_numpy(wanted).to(device))
    if guided:
        properties = torch.cat([properties, torch.full_like(properties, float("nan"))])
    scaffolds = [p.scaffold or (scaffold_of(p.fixed) if p.fixed is not None else None) for p in prompts]
    given = [scaffold_words(s, k) if s else np.array([BOS]) for s, k in zip(scaffolds, keys, strict=True)]
    seen = {e for facts in model.statistics.get("theories", {}).values() for e in facts["elements"]} or set(SYMBOLS)
    elements = [i for i, word in enumerate(VOCABULARY) if word.capitalize() in SYMBOLS and word.capitalize() not in seen]
    unknown = [PAD, BOS, *elements]  # the grammar would otherwise fall back on atoms the weights never saw
    streams = [np.random.default_rng([*k, 1]) for k in keys]
    writers = [Writer() for _ in prompts]
    words = torch.full((b, LONGEST), PAD, device=device)
    words[:, 0] = BOS
    caches = [
        _Cache(len(properties), model.config.heads, LONGEST, model.config.width // model.config.heads, device) for _ in model.words.blocks
    ]
    score = torch.zeros(b, dtype=torch.float64, device=device)
    ended = torch.zeros(b, dtype=torch.bool, device=device)
    calls = np.zeros(b, dtype=int)
    for t in range(LONGEST - 1):
        token = words[:, t : t + 1].repeat(2 if guided else 1, 1)
        for cache in caches:
            cache.at = torch.full((len(properties),), t, device=device)
        logits = model.words(token, properties, [cache.up_to(t + 1) for cache in caches], first=t)[:, 0]
        if guided:
            conditional, free = logits.chunk(2)
            logits = free + options.guidance * (conditional - free)
        logits[:, unknown] = -torch.inf
        likely = (logits / options.word_temperature).log_softmax(-1).double()
        forced = torch.tensor([int(g[t + 1]) if t + 1 < len(g) else -1 for g in given], device=device)
        probable, done = likely.exp().cpu().numpy(), ended.tolist()
        probable[[len(g) == t + 1 and t > 0 for g in given], EOS] = 0  # a scaffold grows by at least one atom
        drawn = [
            PAD if done[r] else _next_word(probable[r], streams[r], writers[r] if options.grammar else None, int(forced[r]))
            for r in range(b)
        ]
        chosen = torch.tensor(drawn, device=device)
        score += torch.where(ended | (forced >= 0), 0.0, likely.gather(1, chosen[:, None])[:, 0])
        calls += (~ended).cpu().numpy()
        words[:, t + 1] = chosen
        ended |= chosen == EOS
        if bool(ended.all()):
            break
    return [(text_of(w), s, int(n)) for w, s, n in zip(words.cpu().numpy(), score.tolist(), calls, strict=True)]


def _next_word(probable: np.ndarray, stream: np.random.Generator, writer: Writer | None, forced: int) -> int:
    """Draw from `probable`, again without what the grammar refuses: the model's law given that the character is admissible."""
    if forced >= 0:
        if writer is not None:
            writer.add(VOCABULARY[forced])
        return forced
    probable = probable.copy()
    while probable.sum() > 1e-12:
        word = int(np.searchsorted(np.cumsum(probable), stream.random() * probable.sum(), side="right"))
        word = min(word, len(probable) - 1)
        if writer is None or writer.add("" if word == EOS else VOCABULARY[word]):
            return word
        probable[word] = 0.0
    return EOS


def scaffold_words(scaffold: str, key: tuple[int, int]) -> np.ndarray:
    """Word ids of a fragment written so that the atom at `*` (or, without one, some atom with a hydrogen) comes last.

    Raises:
        InputError: not a SMILES, more than one `*`, or no atom that could grow.
    """
    from rdkit import Chem, rdBase

    with rdBase.BlockLogs():
        mol = Chem.MolFromSmiles(scaffold)
    if mol is None or not mol.GetNumAtoms():
        raise InputError(f"scaffold: expected a SMILES with at most one *, got {scaffold!r}")
    stars = [a.GetIdx() for a in mol.GetAtoms() if a.GetAtomicNum() == 0]
    rng = np.random.default_rng([*key, 2])
    if len(stars) > 1:
        raise InputError(f"scaffold: expected at most one *, got {len(stars)}; grow one place at a time")
    if not stars:
        open_atoms = [a.GetIdx() for a in mol.GetAtoms() if a.GetTotalNumHs()]
        if not open_atoms:
            raise InputError(f"scaffold: expected an atom with a hydrogen to grow from, got none in {scaffold!r}")
        edited = Chem.RWMol(mol)
        star = edited.AddAtom(Chem.Atom(0))
        edited.AddBond(int(rng.choice(open_atoms)), star, Chem.BondType.SINGLE)
        mol = edited.GetMol()
        Chem.SanitizeMol(mol)
    Chem.Kekulize(mol, clearAromaticFlags=True)
    for _ in range(500):
        atoms = rng.permutation(mol.GetNumAtoms()).tolist()
        text = Chem.MolToSmiles(Chem.RenumberAtoms(mol, atoms), canonical=False, kekuleSmiles=True)
        if text.endswith("*"):
            return words_of(text[:-1])[:-1]
    raise InputError(f"scaffold: expected a fragment that can be written with * last, got {scaffold!r}")


class _Cache:
    """Keys and values of one block (b, h, n, d); row r writes its new token at `at[r]`."""

    def __init__(self, rows: int, heads: int, longest: int, width: int, device: torch.device, dtype: torch.dtype = torch.float32) -> None:
        self.keys = torch.zeros(rows, heads, longest, width, device=device, dtype=dtype)
        self.values = torch.zeros_like(self.keys)
        self.at = torch.zeros(rows, dtype=torch.long, device=device)
        self.rows = torch.arange(rows, device=device)

    def up_to(self, width: int) -> Cache:
        """Writes a new token and answers with the first `width` tokens."""

        def write(key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
            for store, new in ((self.keys, key), (self.values, value)):
                store[self.rows, :, self.at] = new[:, :, 0].to(store.dtype)
            return self.keys[:, :, :width].to(key.dtype), self.values[:, :, :width].to(value.dtype)

        return write


def _contacts(elements: Sequence[str]) -> Tensor:
    """How near two atoms of any two elements may come, Å (e, e)."""
    from rdkit import Chem

    radius = torch.tensor([Chem.GetPeriodicTable().GetRvdw(e) for e in elements])
    factor = torch.full((len(elements), len(elements)), CONTACT)
    for i, first in enumerate(elements):
        for j, second in enumerate(elements):
            if "H" in (first, second) and {first, second} & {"N", "O", "F"}:
                factor[i, j] = HYDROGEN_BOND
    return factor * (radius[:, None] + radius)


def _placed(origin: Tensor, axes: Tensor, local: Tensor) -> Tensor:
    return origin + torch.einsum("bij,bi->bj", axes, local)


def _room(origin: Tensor, axes: Tensor, local: Tensor, positions: Tensor, allowed: Tensor) -> Tensor:
    """Smallest distance minus allowed distance of the new atom to the earlier ones (b), Å; negative = too close."""
    distance = (positions - _placed(origin, axes, local)[:, None]).norm(dim=-1)
    return torch.where(allowed > 0, distance - allowed, torch.inf).amin(1)


class _Rows:
    """A batch whose rows are at different slots of different molecules."""

    def __init__(self, model: Model, jobs: list[_Job], rows: int, options: Options) -> None:
        self.model, self.options = model, options
        self.device = next(model.parameters()).device
        self.jobs = jobs
        self.rows = min(rows, len(jobs))
        c, n, b = model.config, len(jobs[0].tokens.order), self.rows
        self.width = n
        dtype = torch.bfloat16 if options.precision == "bf16" else torch.float32
        self.caches = [_Cache(b, c.heads, n, c.width // c.heads, self.device, dtype) for _ in model.decoder]
        zeros = lambda *shape, dtype=torch.float32: torch.zeros(b, *shape, dtype=dtype, device=self.device)  # noqa: E731
        self.state, self.codes = zeros(n, c.width), zeros(n, n, dtype=torch.long)
        self.positions, self.noise, self.probe = zeros(n, 3), zeros(n, 3), zeros(n, 3)
        self.fields = {
            "anchor": zeros(n, dtype=torch.long),
            "refs": zeros(n, 5, dtype=torch.long),
            "side": zeros(n, 4, dtype=torch.long),
            "twist": zeros(n, 4, dtype=torch.long),
        }
        self.heavy = zeros(n, dtype=torch.bool)
        self.element = zeros(n, dtype=torch.long)
        self.contacts = _contacts(model.tokenizer.config.elements).to(self.device)
        self.length, self.at, self.pinned = zeros(dtype=torch.long), zeros(dtype=torch.long), zeros(dtype=torch.long)
        self.score = zeros(dtype=torch.float64)
        self.job: list[_Job | None] = [None] * b
        self.calls = np.zeros(b, dtype=int)

    def run(self) -> Iterator[Draw]:
        waiting = iter(self.jobs)
        self._fill(waiting, list(range(self.rows)))
        while any(job is not None for job in self.job):
            ready: list[int] = []
            # one autocast region for many steps: it keeps the cast weights until it ends
            with torch.inference_mode(), torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.options.precision == "bf16"):
                while not ready:
                    self._step()
                    ready = self._ready()
            finished = self._finish(ready)
            self._fill(waiting, ready)
            yield from finished

    def _ready(self) -> list[int]:
        """Finished rows, once they are worth it: encoding and refining a few at a time costs more than letting them wait."""
        at, length = self.at.tolist(), self.length.tolist()
        done = [r for r, job in enumerate(self.job) if job is not None and at[r] >= length[r]]
        running = sum(job is not None for job in self.job) - len(done)
        return done if running == 0 or len(done) >= max(1, self.rows // 4) else []

    @torch.inference_mode()
    def _fill(self, waiting: Iterator[_Job], rows: list[int]) -> None:
        new = [(r, job) for r, job in zip(rows, waiting, strict=False)]
        if not new:
            return
        where = torch.tensor([r for r, _ in new], device=self.device)
        batch: Batch = collate(Tokens, [job.tokens for _, job in new], multiple=1).to(self.device)
        n = batch["anchor"].shape[1]
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.options.precision == "bf16"):
            state, codes = self.model.encode(batch)
        self.state[where, :n], self.codes[where, :n, :n] = state.float(), codes
        for name, store in self.fields.items():
            store[where, :n] = batch[name]
        self.heavy[where] = False
        self.heavy[where, :n] = batch["features"][..., 0] != self.model.tokenizer.element_code.get(1, -1)
        self.element[where, :n] = batch["features"][..., 0]
        self.length[where] = batch.masks["atoms"].sum(1)
        self.at[where], self.score[where], self.positions[where], self.pinned[where] = 0, 0.0, 0.0, 0
        for r, job in new:
            stream, slots = np.random.default_rng([*job.key, 0]), len(job.tokens.order)
            for store in (self.noise, self.probe):  # of the draw and of its likelihood
                store[r, :slots] = torch.from_numpy(stream.standard_normal((slots, 3), dtype=np.float32)).to(self.device)
            self.job[r], self.calls[r] = job, job.calls
            if job.pins is not None:
                self.pinned[r] = len(job.pins.atoms)
                self.positions[r, : len(job.pins.atoms)] = torch.from_numpy(job.pins.placed).to(self.positions)

    def _step(self) -> None:
        """Place one atom in every row."""
        model, options = self.model, self.options
        at = torch.minimum(self.at, self.length - 1).clamp(min=0)
        w = int(at.max()) + 1
        rows = torch.arange(self.rows, device=self.device)
        anchor, refs, side, twist = (self.fields[name][rows, at][:, None] for name in ("anchor", "refs", "side", "twist"))
        codes = self.codes[rows, at, :w][:, None]
        positions = self.positions[:, :w]
        geometry = local_geometry(positions, anchor, refs, side, twist, codes, model.config.frame)
        slot = torch.arange(w, device=self.device)
        pair, bias = model.pairs(geometry, codes, (slot <= at[:, None])[:, None], (slot == at[:, None])[:, None])
        level = torch.full((self.rows,), float(np.log(options.history)), device=self.device)
        previous = self.positions[rows, (at - 1).clamp(min=0)][:, None]
        h = model.slots(self.state[rows, at][:, None], gather(self.state, anchor), geometry, level, previous)
        heads = model.config.heads
        for i, (block, cache) in enumerate(zip(model.decoder, self.caches, strict=True)):
            cache.at = at
            h = block(h, bias[:, i * heads : (i + 1) * heads], pair, cache.up_to(w))
        z = model.decoder_norm(h)[:, 0]
        drawn, running = (anchor[:, 0] >= 0) & (at >= self.pinned), self.at < self.length
        local = torch.zeros_like(positions[:, 0])
        wanted = torch.where(self.heavy[rows, at], options.steps, options.hydrogen_steps)
        if options.anneal:  # DiSA (arXiv 2505.20297), linear: later slots are easier
            left = 1 - at / (self.length - 1).clamp(min=1)
            wanted = torch.minimum(wanted, options.anneal + (left * (options.steps - options.anneal)).round().long())
        for steps in wanted[running & drawn].unique().tolist():  # a row's steps must not depend on the others
            some = (running & drawn & (wanted == steps)).nonzero()[:, 0]
            noise = self._fresh(some, at) if options.solver == "sde" else None
            local[some] = model.head.sample(z[some], self.noise[some, at[some]], steps, options.solver, options.temperature, noise)
        origin = geometry.origin[:, 0] if model.config.target == "residual" else torch.zeros_like(local)
        axes = geometry.axes[:, 0]
        far = (codes[:, 0] >= BOND_TYPES + 3) & (slot < at[:, None])
        apart = (codes[:, 0] >= BOND_TYPES + 4) & self.heavy[rows, at][:, None] & self.heavy[:, :w]
        allowed = self.contacts[self.element[rows, at][:, None], self.element[:, :w]] * far * torch.where(apart, UNITED, 1.0)
        room = _room(origin, axes, local, positions, allowed)
        for attempt in range(options.redraw):
            some = (running & drawn & (room < 0)).nonzero()[:, 0]
            if not len(some):
                break
            start, noise = self._fresh(some, at)(-1 - attempt), self._fresh(some, at)
            again = model.head.sample(z[some], start, options.steps, options.solver, options.temperature, noise)
            found = _room(origin[some], axes[some], again, positions[some], allowed[some])
            better = some[found > room[some]]
            local[better], room[better] = again[found > room[some]], found[found > room[some]]
            self.calls[some.cpu().numpy()] += options.steps
        if options.score:
            probe = self.probe[rows, at]
            value = model.head.log_likelihood(z, local) if options.score == "exact" else model.head.likelihood_bound(z, local, probe)
            self.score += torch.where(drawn & running, value, 0.0).double()
        placed = _placed(origin, axes, local)
        active = self.at < self.length
        self.positions[rows[active], at[active]] = torch.where(drawn[:, None], placed, self.positions[rows, at])[active]
        self.calls += torch.where(active, wanted * drawn + 1, 0).cpu().numpy()
        self.at += active

    def _fresh(self, some: Tensor, at: Tensor) -> Callable[[int], Tensor]:
        """Noise of the stochastic solver (steps ≥ 0) and of redraws (steps < 0): a function of (key, slot, step)."""

        def noise(step: int) -> Tensor:
            pairs = [(self.job[r], int(at[r])) for r in some.tolist()]
            made = [np.random.default_rng([*job.key, 3, a, step + 1000]).standard_normal(3) for job, a in pairs if job]
            return torch.from_numpy(np.array(made, dtype=np.float32)).to(self.device)

        return noise

    @torch.inference_mode()
    def _finish(self, ready: list[int]) -> list[Draw]:
        finished = []
        where = torch.tensor(ready, device=self.device)
        n = int(self.length[where].max())
        x = self.positions[where, :n]
        mask = torch.arange(n, device=self.device) < self.length[where, None]
        if self.options.refine and self.model.config.refiner_layers:
            with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.options.precision == "bf16"):
                free = (torch.arange(n, device=self.device) >= self.pinned[where, None])[..., None]
                x = self._refined(x, self.state[where, :n], self.codes[where, :n, :n], mask, free)
        positions, scores = x.float().cpu().numpy(), self.score.tolist()
        for r, xyz in zip(ready, positions, strict=True):
            job = self.job[r]
            assert job is not None
            self.job[r] = None
            xyz = xyz[: len(job.tokens.order)]
            if job.pins is not None:
                xyz = laid_over(xyz, np.arange(len(job.pins.atoms)), job.pins.given[np.argsort(_slots_of(job))])
            tokens = dataclasses.replace(job.tokens, positions=xyz)
            score = job.word_score + scores[r] if self.options.score or job.word_score else float("nan")
            finished.append(Draw(job.index, tokens, score, int(self.calls[r]) + self.options.refine))
        return finished

    def _refined(self, x: Tensor, state: Tensor, codes: Tensor, mask: Tensor, free: Tensor) -> Tensor:
        """Deterministic denoising of the free atoms from refine_sigma to 0 (Euler in σ; the last step returns the estimate)."""
        sigmas = (
            np.geomspace(self.options.refine_sigma, 0.02, self.options.refine) if self.options.refine > 1 else [self.options.refine_sigma]
        )
        for i, sigma in enumerate(sigmas):
            level = torch.full((len(x),), float(sigma), device=x.device)
            clean = self.model.refiner(x, level, state, codes, mask).float()
            ratio = 0.0 if i + 1 == len(sigmas) else float(sigmas[i + 1] / sigma)
            x = torch.where(free, clean + ratio * (x - clean), x)
        return x


def _slots_of(job: _Job) -> np.ndarray:
    """The slot of each fixed atom, in the order they were given."""
    assert job.pins is not None
    slot = np.empty(len(job.tokens.order), dtype=int)
    slot[job.tokens.order] = np.arange(len(slot))
    return slot[job.pins.atoms]
