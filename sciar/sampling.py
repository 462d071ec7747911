"""From prompts to judged records: draw, decode, judge, redraw the failures, go on after out-of-memory.

Draw i of a run is a function of (seed, i, weights) alone, so order, batch size, retries of other draws and
interruptions change nothing.
"""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from sciar.errors import InputError, SciarError
from sciar.family import Draw, Model, Tokenizer
from sciar.journal import Entry, Journal
from sciar.prompt import Prompt
from sciar.record import Record, kinds
from sciar.request import Row
from sciar.structure import Structure
from sciar.validate import Verdict, validate

CHUNK = 16  # batches that are drawn before their failures are redrawn: long enough to keep batches full
ATTEMPT = 2**32  # distance between the keys of two attempts at one sample


@dataclass(frozen=True, slots=True)
class Slot:
    """One requested sample: its number in the run, its row and its number within the row."""

    index: int
    row: int
    draw: int


@dataclass(frozen=True, slots=True, eq=False)
class Preview:
    """A draw while it sharpens.

    Args:
        row, draw: which sample of the run it is.
        left: levels of detail that are still to come; 0 = finished.
        structure: vertices without element in the middles of cubes of side `info["side_A"]`, each of which will hold atoms; at last
            the molecule.
        verdict: of the finished structure, else None.
    """

    row: int
    draw: int
    left: int
    structure: Structure
    verdict: Verdict | None = None


@dataclass(slots=True)
class Sampling:
    """One run of a model over rows of input; iterate `records()` once, then read the counts.

    Args:
        tokenizer: of the model.
        model: in evaluation mode, on its device.
        rows: the input; those with a problem are not drawn.
        n: draws for each row.
        seed: of the run.
        batch_size: to begin with; out-of-memory halves it.
        retry: how often a failure is redrawn.
        fallback: "etkdg" or None.
        options: for the sampler.
        tag: name of the rows' labels in records.
        journal: finished draws are taken from and noted in it.
        progress: called with (samples done, samples requested).
        span: numbers of the samples to draw, of rows × n; None = all.
    """

    tokenizer: Tokenizer
    model: Model
    rows: Sequence[Row]
    n: int
    seed: int
    batch_size: int
    retry: int = 0
    fallback: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    tag: str = "SCIAR_SMILES"
    journal: Journal | None = None
    progress: Callable[[int, int], None] | None = None
    span: range | None = None
    n_drawn: int = 0
    n_valid: int = 0
    n_fallback: int = 0
    calls: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    unsettled: dict[int, Record] = field(default_factory=dict)
    _begun: float = 0.0
    _done: int = 0

    @property
    def seconds(self) -> float:
        """Time spent so far, interrupted runs that the journal knows included."""
        return time.perf_counter() - self._begun + (self.journal.seconds if self.journal else 0.0)

    def records(self) -> Iterator[Record]:
        """Every requested sample in order. After an exception, `unsettled` holds what was drawn but not yet given out.

        Raises:
            InputError: the tokenizer cannot hold a prompt.
            SciarError: out of memory with one sample at a time, or a model that leaves prompts unanswered.
            OSError: the journal cannot be written.
        """
        self._begun = time.perf_counter()
        span = self.span if self.span is not None else range(len(self.rows) * self.n)
        size = CHUNK * self.batch_size
        for start in range(0, len(span), size):
            slots = [Slot(i, *divmod(i, self.n)) for i in span[start : start + size]]
            self._settle(slots, len(span))
            for slot in slots:
                yield self.unsettled.pop(slot.index)

    def previews(self) -> Iterator[Preview]:
        """Every level of every draw as it comes, not in order; a draw's last one has its verdict. Failures are not redrawn.

        Raises:
            InputError, SciarError: see `records`.
        """
        self._begun = time.perf_counter()
        slots = [Slot(i, *divmod(i, self.n)) for i in range(len(self.rows) * self.n)]
        open_ = [slot for slot in slots if self.rows[slot.row].problem is None]
        prompts, keys = [self._prompt(slot) for slot in open_], [(self.seed, slot.index) for slot in open_]
        for position, draw in self._draws(prompts, keys, previews=True):
            slot, structure = open_[position], self.tokenizer.decode(draw.tokens)
            verdict = None if draw.left else validate(structure, self._prompt(slot))
            yield Preview(slot.row, slot.draw, draw.left, structure, verdict)

    def _settle(self, slots: Sequence[Slot], total: int) -> None:
        found = self.unsettled
        todo = []
        for slot in slots:
            row = self.rows[slot.row]
            if row.problem is None:
                todo.append(slot)
            else:
                verdict = Verdict(Structure(np.zeros(0, dtype=np.int64)), None, (f"input: {row.problem}",))
                found[slot.index] = Record(slot.row, slot.draw, verdict, row.label, attempts=0, tag=self.tag)
                self._done += 1
        for attempt in range(self.retry + 1):
            for slot, entry in self._entries(todo, attempt):
                found[slot.index] = self._judged(slot, entry, found.get(slot.index))
                self._done += attempt == 0
                if self.progress is not None:
                    self.progress(self._done, total)
            todo = [slot for slot in todo if not found[slot.index].valid]
            if not todo:
                return
        if self.fallback == "etkdg":
            for slot in todo:
                found[slot.index] = self._replaced(slot, found[slot.index])

    def _judged(self, slot: Slot, entry: Entry, earlier: Record | None) -> Record:
        row = self.rows[slot.row]
        verdict = validate(entry.structure, self._prompt(slot))
        self.n_drawn += 1
        self.calls += entry.calls
        if verdict.valid:
            self.n_valid += 1
        else:
            self.reasons[kinds(verdict.reasons)[0]] += 1
        attempts = earlier.attempts + 1 if earlier else 1
        calls = entry.calls + (earlier.calls if earlier else 0)
        score = entry.score
        if earlier and not verdict.valid:  # the first attempt is the one that (seed, i) names
            verdict, score = earlier.verdict, earlier.score
        return Record(slot.row, slot.draw, verdict, row.label, score, calls, attempts, tag=self.tag)

    def _replaced(self, slot: Slot, failed: Record) -> Record:
        prompt = self._prompt(slot)
        structure = embedded(prompt.graph, self.seed, slot.index) if prompt.graph is not None else None
        verdict = validate(structure, prompt) if structure is not None else None
        if verdict is None or not verdict.valid:
            return failed
        self.n_fallback += 1
        return Record(
            slot.row, slot.draw, verdict, failed.label, calls=failed.calls, attempts=failed.attempts, fallback="etkdg", tag=self.tag
        )

    def _entries(self, slots: Sequence[Slot], attempt: int) -> Iterator[tuple[Slot, Entry]]:
        """Finished draws of `slots`, those of the journal first."""
        fresh = []
        for slot in slots:
            entry = self.journal.done.get((slot.index, attempt)) if self.journal else None
            if entry is None:
                fresh.append(slot)
            else:
                yield slot, entry
        prompts = [self._prompt(slot) for slot in fresh]
        keys = [(self.seed, slot.index + attempt * ATTEMPT) for slot in fresh]
        for position, draw in self._draws(prompts, keys):
            entry = Entry(self.tokenizer.decode(draw.tokens), float(draw.score), int(draw.calls))
            if self.journal:
                self.journal.add((fresh[position].index, attempt), entry, time.perf_counter() - self._begun)
            yield fresh[position], entry

    def _draws(self, prompts: Sequence[Prompt], keys: Sequence[tuple[int, int]], **more: Any) -> Iterator[tuple[int, Draw]]:
        """Every prompt's draw with its position; out-of-memory halves the batch and redraws only what is not finished."""
        left = dict.fromkeys(range(len(prompts)))
        while left:
            order = list(left)
            try:
                options = {**self.options, **more}
                draws = self.model.sample([prompts[i] for i in order], [keys[i] for i in order], batch_size=self.batch_size, **options)
                while (draw := _next(draws)) is not None:
                    if not draw.left:
                        left.pop(order[draw.index])
                    yield order[draw.index], draw
                if left:
                    raise SciarError(f"model: expected a draw for each of {len(order)} prompts, got {len(order) - len(left)}; report this")
            except (RuntimeError, MemoryError) as error:
                if not _out_of_memory(error):
                    raise
                if self.batch_size == 1:
                    raise SciarError(
                        "memory: expected room for one sample at a time, got none left; use a smaller molecule or another device"
                    ) from None
                self.batch_size //= 2
            except (ValueError, TypeError) as error:
                if isinstance(error, SciarError):
                    raise
                raise InputError(
                    f"model: expected a prompt and options it can hold, got {' '.join(str(error).split())}; change them"
                ) from error
            if torch.cuda.is_available():
                torch.cuda.empty_cache()

    def _prompt(self, slot: Slot) -> Prompt:
        prompt = self.rows[slot.row].prompt
        assert prompt is not None
        return prompt


def embedded(graph: Structure, seed: int, index: int) -> Structure | None:
    """`graph` with coordinates by RDKit's ETKDGv3, the same for the same (seed, index); None if RDKit fails too."""
    from rdkit import rdBase
    from rdkit.Chem import rdDistGeom

    from sciar import convert

    rules: Any = rdDistGeom.ETKDGv3()
    rules.randomSeed = int.from_bytes(hashlib.sha256(f"{seed} {index}".encode()).digest()[:4], "little") & 0x7FFFFFFF
    with rdBase.BlockLogs():
        mol = convert.to_rdkit(graph)
        if rdDistGeom.EmbedMolecule(mol, rules) < 0:
            return None
    return graph.replace(positions=mol.GetConformer().GetPositions())


def _next(draws: Iterator[Draw]) -> Draw | None:
    with torch.inference_mode():  # entered for each step, as a generator must not hold it open while its caller works
        return next(draws, None)


def _out_of_memory(error: BaseException) -> bool:
    text = str(error).lower()
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "out of memory" in text or "can't allocate memory" in text
