"""Drawing: prompts in, finished molecules out. Words (where no graph is given) are drawn in words.py, coordinates in rows.py.

The noise of a draw comes from its key alone, so the batch it happens to sit in does not matter.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from sciar import precision
from sciar.convert import from_smiles
from sciar.errors import InputError
from sciar.families.hybrid.fixed import match
from sciar.families.hybrid.rows import Job, Pins, Rows
from sciar.families.hybrid.tokens import BOS, EOS, THEORIES, Tokens, words_of
from sciar.families.hybrid.words import Written, draw_words
from sciar.family import Draw, options_of
from sciar.prompt import Prompt
from sciar.structure import SYMBOLS, Structure

if TYPE_CHECKING:
    from sciar.families.hybrid.model import Model

CANDIDATES, ATTEMPTS = 8, 256  # at the words of a molecule of a given size, formula or elements: at once, and in all


@dataclasses.dataclass(frozen=True, slots=True)
class Options:
    """How to draw.

    Args:
        steps, hydrogen_steps: solver steps (network evaluations of the head) per heavy atom and per hydrogen.
        anneal: fewest solver steps, reached at the last slot; 0 = the same for all slots.
        solver: "2m", "heun" or "sde". temperature: scales the noise of the coordinates; below 1 is nearer to the mode.
        word_temperature: of the words. grammar: only characters that can still end in a molecule.
        guidance: of the property condition; 1 = none.
        refine: evaluations of the joint refiner, 0 = none. refine_sigma: the error in Å it assumes at its start;
            None = 0.1 for up to two evaluations, 0.3 for up to four, else 1.
        history: the disturbance of earlier atoms that the decoder is told to expect, Å.
        theory: minimum of which level of theory; None = b3lyp where the training data reaches (elements and size), else mmff94s.
        score: also return a log-likelihood of what was drawn: True or "bound" adds one head evaluation per noise level (8),
            "exact" integrates the probability flow (25 times the cost of a draw).
        precision: "auto" (bf16 where the hardware has it), "bf16" or "32".
    """

    steps: int = 10
    hydrogen_steps: int = 6
    anneal: int = 0
    solver: str = "2m"
    temperature: float = 1.0
    word_temperature: float = 1.0
    grammar: bool = True
    guidance: float = 1.5
    refine: int = 5
    refine_sigma: float | None = None
    history: float = 0.01
    theory: str | None = None
    score: bool | str = False
    precision: str = "auto"

    def __post_init__(self) -> None:
        for name, least in (("steps", 1), ("hydrogen_steps", 1), ("refine", 0), ("anneal", 0)):
            if getattr(self, name) < least:
                raise InputError(f"sample: expected {name} ≥ {least}, got {getattr(self, name)}")
        precision.check(self.precision)
        if self.score not in (False, True, "bound", "exact"):
            raise InputError(f"sample: expected score bound or exact, got {self.score!r}")
        if self.theory is not None and self.theory not in THEORIES:
            raise InputError(f"sample: expected theory {' or '.join(THEORIES)}, got {self.theory!r}")


def sample(
    model: Model, prompts: Sequence[Prompt], keys: Sequence[tuple[int, int]], batch_size: int = 64, **options: object
) -> Iterator[Draw]:
    """See `sciar.family.Model.sample`; `options` are the fields of `Options`."""
    chosen = options_of(Options, options)
    for prompt in prompts:
        if prompt.crystal:
            raise InputError("hybrid: expected a SMILES, a scaffold, fixed atoms or properties, got a crystal's facts; not supported yet")
    jobs: list[Job] = []
    encoded: dict[int, tuple[Tokens, Pins | None]] = {}
    worded = [i for i, prompt in enumerate(prompts) if prompt.graph is None]
    for i, prompt in enumerate(prompts):
        if prompt.graph is not None:
            if id(prompt.graph) not in encoded:
                encoded[id(prompt.graph)] = _encoded(model, prompt.graph, prompt.fixed, chosen)
            tokens, pins = encoded[id(prompt.graph)]
            jobs.append(Job(i, keys[i], tokens, 0.0, 0, pins))
    for first in range(0, len(worded), batch_size):
        rows = worded[first : first + batch_size]
        for i, graph, (text, score, calls, _) in _worded(model, {i: prompts[i] for i in rows}, keys, chosen):
            try:
                tokens, pins = _encoded(model, from_smiles(text) if graph is None else graph, prompts[i].fixed, chosen)
            except InputError:
                yield Draw(i, _unreadable(text), score, calls)
            else:
                jobs.append(Job(i, keys[i], dataclasses.replace(tokens, de_novo=True), score, calls, pins))
    if jobs:
        jobs.sort(key=lambda job: -len(job.tokens.order))
        yield from Rows(model, jobs, batch_size, chosen).run()


def _worded(
    model: Model, prompts: dict[int, Prompt], keys: Sequence[tuple[int, int]], options: Options
) -> Iterator[tuple[int, Structure | None, Written]]:
    """Words and their graph for each prompt.

    Where a size, a formula or elements are asked for: one of several candidates that keep it, drawn by its importance weight,
    which makes up for what the masks did to the law of the words (sampling importance resampling). A size that none of the first ones
    has is rare: the next ones are told how many heavy atoms to have, each number as often.
    """
    free = [i for i, p in prompts.items() if p.n_atoms is None and p.composition is None and p.elements is None]
    for i, written in zip(free, draw_words(model, [prompts[i] for i in free], [keys[i] for i in free], options), strict=True):
        yield i, _spelled(written.text), written
    due = [i for i in prompts if i not in free]
    calls: Counter[int] = Counter()
    for start in range(0, ATTEMPTS, CANDIDATES):
        if not due:
            return
        rows, attempts = [i for i in due for _ in range(CANDIDATES)], [*range(start, start + CANDIDATES)] * len(due)
        heavy = [_heavy(model, prompts[i], [*keys[i], 6, a]) if start else None for i, a in zip(rows, attempts, strict=True)]
        drawn = draw_words(model, [prompts[i] for i in rows], [keys[i] for i in rows], options, attempts, heavy)
        waiting, due = due, []
        for k, i in enumerate(waiting):
            candidates = [(_spelled(w.text), w) for w in drawn[k * CANDIDATES : (k + 1) * CANDIDATES]]
            calls[i] += sum(w.calls for _, w in candidates)
            kept = [(graph, w) for graph, w in candidates if _suits(graph, prompts[i])]
            if not kept and start + CANDIDATES < ATTEMPTS:
                due.append(i)
                continue
            kept = kept or candidates
            weights = np.exp([w.weight - max(w.weight for _, w in kept) for _, w in kept])
            graph, w = kept[np.random.default_rng([*keys[i], 5, start]).choice(len(kept), p=weights / weights.sum())]
            yield i, graph, w._replace(calls=calls[i])


def _heavy(model: Model, prompt: Prompt, key: Sequence[int]) -> int | None:
    """A number of heavy atoms that a molecule of the wanted size can have, each with at most two hydrogens and two more at the ends."""
    if prompt.n_atoms is None or prompt.composition is not None:
        return None
    few, most = prompt.n_atoms
    least, top = max(1, -(-(few - 2) // 3)), min(most, model.statistics.get("max_heavy_atoms", most))
    return int(np.random.default_rng(key).integers(min(least, top), top + 1))


def _spelled(text: str) -> Structure | None:
    try:
        return from_smiles(text)
    except InputError:
        return None


def _suits(graph: Structure | None, prompt: Prompt) -> bool:
    if graph is None:
        return False
    few, most = prompt.n_atoms or (1, graph.n_atoms)
    counts = Counter(SYMBOLS[z] for z in graph.numbers)
    return few <= graph.n_atoms <= most and prompt.composition in (None, dict(counts))


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


def _encoded(model: Model, graph: Structure, fixed: Structure | None, options: Options) -> tuple[Tokens, Pins | None]:
    """Tokens of a graph, and where its fixed atoms go; these take the first slots."""
    if fixed is None:
        return _at_theory(model, model.tokenizer.encode(graph), options.theory), None
    atoms = match(graph, fixed)
    held: np.ndarray = fixed.positions  # type: ignore[assignment]
    positions = np.zeros((graph.n_atoms, 3))
    positions[atoms] = held
    tokens = model.tokenizer.encode(graph.replace(positions=positions), fixed=atoms.tolist())
    tokens = dataclasses.replace(tokens, graph=graph)
    return _at_theory(model, tokens, options.theory), Pins(atoms, held, tokens.positions[: len(atoms)])


def _unreadable(text: str) -> Tokens:
    """Tokens of words that spell no molecule."""
    empty = {"features": (0, 8), "refs": (0, 5), "side": (0, 4), "twist": (0, 4), "bonds": (0, 3)}
    arrays: dict[str, Any] = {name: np.zeros(shape, dtype=np.int64) for name, shape in empty.items()} | {"positions": np.zeros((0, 3))}
    flat = np.zeros(0, dtype=np.int64)
    try:
        words = words_of(text)
    except InputError:
        words = np.array([BOS, EOS])
    return Tokens(words=words, order=flat, anchor=flat, rings=flat, theory=np.zeros(1, int), properties=np.zeros((1, 0)), **arrays)
