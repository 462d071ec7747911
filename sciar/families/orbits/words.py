"""The words of crystals as a network reads them, and their drawing under exact constraints, all rows of a batch one token at a time."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from sciar.families.orbits.constraints import Composition, Wish, fits
from sciar.families.orbits.memory import Numbers, Recalled
from sciar.families.orbits.options import Options
from sciar.families.orbits.wyckoff import group
from sciar.nn.cache import StaticCache
from sciar.pxrd import UNKNOWN

if TYPE_CHECKING:
    from sciar.families.orbits.model import Model

BEGIN, PAIR, END, GROUP, ORBIT = range(5)
CANDIDATES, BATCH = 32, 512  # compositions of each draw within limits; sentences at once


@dataclass(frozen=True, slots=True, eq=False)
class Words:
    """The sequence <begin> pairs <end> group orbits of a batch, t tokens.

    Args:
        kind: BEGIN, PAIR, END, GROUP or ORBIT.
        element, count: of a pair, or the element of an orbit and how many of its atoms are left after it.
        group, position: of a group and of an orbit.
        next_element, next_left: what the orbit that follows a group or an orbit is of, and how many atoms that element still lacks.
        real: no padding.
    """

    kind: Int[Tensor, "b t"]
    element: Int[Tensor, "b t"]
    count: Int[Tensor, "b t"]
    group: Int[Tensor, "b t"]
    position: Int[Tensor, "b t"]
    next_element: Int[Tensor, "b t"]
    next_left: Int[Tensor, "b t"]
    real: Bool[Tensor, "b t"]


@dataclass(slots=True, eq=False)
class Sentence:
    """One crystal's words while they are drawn."""

    index: int
    key: tuple[int, int]
    wish: Wish
    rng: np.random.Generator
    given: Composition | None = None
    pairs: list[tuple[int, int]] = field(default_factory=list)
    number: int = 0
    orbits: list[tuple[int, int]] = field(default_factory=list)  # (owner, letter)
    lacking: list[int] = field(default_factory=list)  # atoms that each element still lacks
    taken: int = 0
    score: float = 0.0
    weight: float = 0.0  # ln of what masks left of the law of the composition, at the temperatures of the draw
    summary: Tensor | None = None
    recalled: list[tuple[float, Recalled]] = field(default_factory=list)  # remembered crystals of these words so far, and ln p with them
    own: float = 0.0  # ln p with the network's law, of the words so far
    like: Numbers | None = None  # of remembered crystals of these words, where the drawing of the numbers begins

    @property
    def next_owner(self) -> int:
        """The element of the next orbit; the number of elements when all are placed."""
        return next((k for k, n in enumerate(self.lacking) if n), len(self.lacking))


class Writer:
    """Draws the words of a batch, one token of every row at a time."""

    def __init__(self, model: Model, options: Options) -> None:
        self.model, self.options = model, options
        self.device = next(model.parameters()).device
        self.table = model.catalogue.vectors()
        self.remembered: dict[Composition, list[Recalled]] = {}

    def write(self, rows: Sequence[Sentence]) -> None:
        """Fill in the words, the score in nats of those that were drawn, the state behind the last, and numbers to begin with."""
        self._choose_compositions(rows)
        self._resample([row for row in rows if row.wish.narrow])
        self._recall(rows)
        lattice = self._write(rows)
        for row, more in zip(rows, lattice, strict=True):
            row.summary = row.summary + more
            row.like = self._like(row) if self.options.near else None

    def _recall(self, rows: Sequence[Sentence]) -> None:
        """Remembered crystals for the rows that ask for a formula and for nothing that they know nothing of."""
        share = self.options.memory
        for row in rows if share else ():
            if row.given is None or not row.wish.compositions or np.isfinite(row.wish.properties).any() or row.wish.profile:
                continue
            if every := self._near(row.given):
                row.own = float(np.log1p(-share))
                row.recalled = [(float(np.log(share)) + one.share, one) for one in every]

    def _mixed(self, row: Sentence, logits: np.ndarray, word: Callable[[Recalled], int]) -> np.ndarray:
        """ln p of the next word with all words before it, of those that the logits do not bar."""
        values = row.own + logits - np.logaddexp.reduce(logits)
        for weight, one in row.recalled:
            if np.isfinite(logits[word(one)]):
                values[word(one)] = np.logaddexp(values[word(one)], weight)
        return values

    def _chosen(self, row: Sentence, logits: np.ndarray, choice: int, word: Callable[[Recalled], int]) -> None:
        row.own += float(logits[choice] - np.logaddexp.reduce(logits))
        row.recalled = [(weight, one) for weight, one in row.recalled if word(one) == choice]

    def _like(self, row: Sentence) -> Numbers | None:
        """Numbers of remembered crystals of the drawn words, in the setting of one by their shares; None where there is none."""
        same = [one for one in self._near(tuple(row.pairs)) if one.number == row.number and one.orbits == tuple(row.orbits)]
        if not same:
            return None
        first, _ = _draw(np.array([one.share for one in same]), row.rng, self.options.temperature)
        return self.model.memory.mean(same, first)

    def _near(self, composition: Composition) -> list[Recalled]:
        if composition not in self.remembered:
            self.remembered[composition] = self.model.memory.near(composition) if self.model.config.memory else []
        return self.remembered[composition]

    def _resample(self, rows: Sequence[Sentence]) -> None:
        """A composition within limits for each row: one of several, drawn by what the masks left of the law of each.

        Masks alone look one word ahead: asked for Fe and O, as much oxygen would be drawn as goes with all that may not come. With the
        weights the law is the model's own, given the limits, for many candidates (sampling importance resampling).
        """
        tries = [
            dataclasses.replace(row, rng=np.random.default_rng([*row.key, 3, c]), pairs=[], orbits=[], lacking=[])
            for row in rows
            for c in range(CANDIDATES)
        ]
        for start in range(0, len(tries), BATCH):
            self._write(tries[start : start + BATCH], compositions=True)
        for k, row in enumerate(rows):
            own = tries[k * CANDIDATES : (k + 1) * CANDIDATES]
            row.given = tuple(own[_draw(np.array([one.weight for one in own]), row.rng, 1.0)[0]].pairs)
        for row, score in zip(rows, self.log_likelihoods([row.given for row in rows if row.given]) if rows else [], strict=True):
            row.score = score

    def _write(self, rows: Sequence[Sentence], compositions: bool = False) -> Tensor:
        """All words, or compositions and their weights alone; returns what the wishes add to the last state."""
        begin, told, lattice = self._conditions(rows)
        guided = self.options.guidance != 1.0 and any(np.isfinite(row.wish.properties).any() or row.wish.profile for row in rows)
        if guided:
            begin = torch.cat([begin, self.model.begin(torch.full((len(rows), len(self.model.conditions)), torch.nan, device=self.device))])
            told = torch.cat([told, torch.zeros_like(told)])
        copies = len(begin) // max(1, len(rows))
        config, c = self.model.tokenizer.config, self.model.config
        longest = config.max_elements + config.max_atoms + 3
        caches = [StaticCache(len(begin), c.heads, longest, c.width // c.heads, self.device, torch.float32) for _ in self.model.blocks]
        tokens: list[tuple[int, ...]] = [(BEGIN, 0, 0, 0, self.model.catalogue.count, 0, 0)] * len(rows)
        for step in range(longest):
            hidden = self._read(tokens, begin, told, caches, step, copies)
            tokens = self._next(rows, tokens, hidden)
            if all(row.summary is not None or (compositions and row.number > 0) for row in rows):
                break
        return lattice

    def _choose_compositions(self, rows: Sequence[Sentence]) -> None:
        """A composition for each row that may only be some; by the model's own weights where there are several."""
        asked = sorted({c for row in rows for c in row.wish.compositions if len(row.wish.compositions) > 1})
        weight = dict(zip(asked, self.log_likelihoods(asked), strict=True)) if asked else {}
        for row in rows:
            choices = row.wish.compositions
            if len(choices) == 1:
                row.given = choices[0]
            elif choices:
                chosen, row.score = _draw(np.array([weight[c] for c in choices]), row.rng, self.options.temperature)
                row.given = choices[chosen]

    def log_likelihoods(self, compositions: Sequence[Composition]) -> list[float]:
        """ln p of whole compositions."""
        most = max(len(c) for c in compositions)
        elements = torch.zeros(len(compositions), most, dtype=torch.long, device=self.device)
        counts = elements.clone()
        for k, c in enumerate(compositions):
            elements[k, : len(c)] = torch.tensor([z for z, _ in c])
            counts[k, : len(c)] = torch.tensor([n for _, n in c])
        return self.model.composition_nats(elements, counts, elements > 0).neg().tolist()

    def _conditions(self, rows: Sequence[Sentence]) -> tuple[Tensor, Tensor, Tensor]:
        """What the wishes add to the first token, to every token, and to the last state."""
        wanted = np.array([row.wish.properties for row in rows], dtype=np.float32).reshape(len(rows), -1)
        profile = np.full((len(rows), self.model.tokenizer.config.profile), UNKNOWN)
        for k, row in enumerate(rows):
            if row.wish.profile:
                profile[k] = row.wish.profile
        return self.model.begin(torch.from_numpy(wanted).to(self.device)), *self.model.told(torch.from_numpy(profile).to(self.device))

    def _read(
        self, tokens: list[tuple[int, ...]], begin: Tensor, told: Tensor, caches: list[StaticCache], step: int, copies: int
    ) -> Tensor:
        columns = torch.tensor(tokens, device=self.device).repeat(copies, 1)
        words = Words(*columns[:, :, None].unbind(1), torch.ones_like(columns[:, :1], dtype=torch.bool))  # type: ignore[call-arg]
        place = torch.full((len(columns), 1), step, device=self.device)
        x = self.model.embedded(words, begin, told, self.table)
        return self.model.states(x, None, [cache.at(place, step + 1) for cache in caches])[:, 0]

    def _guided(self, values: Tensor, rows: int) -> np.ndarray:
        """Logits in float64; where there is a second copy, drawn without properties, away from it."""
        values = values.double()
        if len(values) > rows:
            free = values[rows:]
            values = free + self.options.guidance * (values[:rows] - free)
        return values.cpu().numpy()

    def _next(self, rows: Sequence[Sentence], tokens: list[tuple[int, ...]], hidden: Tensor) -> list[tuple[int, ...]]:
        """The next token of every row."""
        model, n, none = self.model, len(rows), self.model.catalogue.count
        kinds = [token[0] for token in tokens]
        following = list(tokens)
        writing = [k for k, row in enumerate(rows) if row.summary is None]
        pairing = [k for k in writing if kinds[k] in (BEGIN, PAIR)]
        both = lambda picked: [*picked, *(n + k for k in picked)] if len(hidden) > n else picked  # noqa: E731
        if pairing:
            logits = self._guided(model.element_logits(hidden[both(pairing)]), len(pairing))
            chosen = [self._element(rows[k], row) for k, row in zip(pairing, logits, strict=True)]
            going = [(k, z) for k, z in zip(pairing, chosen, strict=True) if z]
            if going:
                which = both([k for k, _ in going])
                element = torch.tensor([z for _, z in going] * (len(which) // len(going)), device=self.device)
                logits = self._guided(model.count_logits(hidden[which], element), len(going))
                for (k, z), row in zip(going, logits, strict=True):
                    rows[k].pairs.append((z, self._count(rows[k], z, row)))
                    following[k] = (PAIR, z, rows[k].pairs[-1][1], 0, none, 0, 0)
            for k, z in zip(pairing, chosen, strict=True):
                if not z:
                    rows[k].lacking = [count for _, count in rows[k].pairs]
                    following[k] = (END, 0, 0, 0, none, 0, 0)
        if ended := [k for k in writing if kinds[k] == END]:
            logits = self._guided(model.to_group(hidden[both(ended)]), len(ended))
            for k, row in zip(ended, logits, strict=True):
                self._group(rows[k], row)
                following[k] = (GROUP, 0, 0, rows[k].number, none, *self._outlook(rows[k]))
        placing = [k for k in writing if kinds[k] in (GROUP, ORBIT)]
        for k in placing:
            if rows[k].next_owner == len(rows[k].pairs):
                rows[k].summary = hidden[k]
        placing = [k for k in placing if rows[k].summary is None]
        if placing:
            numbers = torch.tensor([rows[k].number for k in placing], device=self.device)
            candidates = self.table[model.catalogue.of_group(numbers)]
            which = both(placing)
            logits = self._guided(
                model.position_logits(hidden[which][:, None], candidates.repeat(len(which) // len(placing), 1, 1))[:, 0], len(placing)
            )
            for k, row in zip(placing, logits, strict=True):
                owner, letter = self._orbit(rows[k], row)
                z, position = rows[k].pairs[owner][0], group(rows[k].number).start + letter
                following[k] = (ORBIT, z, rows[k].lacking[owner], 0, position, *self._outlook(rows[k]))
        return following

    def _outlook(self, row: Sentence) -> tuple[int, int]:
        """Element of the next orbit and how many of its atoms are lacking; zeros after the last."""
        owner = row.next_owner
        return (row.pairs[owner][0], row.lacking[owner]) if owner < len(row.pairs) else (0, 0)

    def _element(self, row: Sentence, logits: np.ndarray) -> int:
        if row.given is not None:
            return row.given[len(row.pairs)][0] if len(row.pairs) < len(row.given) else 0
        config = self.model.tokenizer.config
        few, most = row.wish.atoms
        total, last = sum(n for _, n in row.pairs), row.pairs[-1][0] if row.pairs else 0
        allowed = np.zeros(len(logits), dtype=bool)
        if total < most and len(row.pairs) < config.max_elements and self._counts_that_fit(row).any():
            allowed[[z for z in row.wish.elements if z > last]] = True
        allowed[0] = bool(row.pairs) and (total >= few or not allowed.any())
        return self._drawn(row, logits, allowed, self.options.composition_temperature)

    def _count(self, row: Sentence, z: int, logits: np.ndarray) -> int:
        if row.given is not None:
            return row.given[len(row.pairs)][1]
        few = row.wish.atoms[0]
        total = sum(n for _, n in row.pairs)
        more = len(row.pairs) + 1 < self.model.tokenizer.config.max_elements and any(other > z for other in row.wish.elements)
        allowed = self._counts_that_fit(row)
        if not more and allowed[few - total :].any():
            allowed[: max(1, few - total)] = False
        return self._drawn(row, logits, allowed, self.options.count_temperature)

    def _counts_that_fit(self, row: Sentence) -> np.ndarray:
        """How many atoms one more element may have: within the wanted size, and on orbits of a wanted group."""
        sizes = tuple(n for _, n in row.pairs)
        allowed = np.zeros(self.model.tokenizer.config.max_atoms + 1, dtype=bool)
        allowed[1 : row.wish.atoms[1] - sum(sizes) + 1] = True
        if 1 not in row.wish.groups:  # that one holds anything
            allowed &= [bool(n) and any(fits(g, (*sizes, n)) for g in row.wish.groups) for n in range(len(allowed))]
        return allowed

    def _group(self, row: Sentence, logits: np.ndarray) -> None:
        """One that the composition fits; its nats count those that it does not fit too, which saves trying them all."""
        allowed = np.zeros(len(logits), dtype=bool)
        allowed[sorted(row.wish.groups)] = True
        wanted = np.where(allowed, logits, -np.inf)
        row.weight += _left(wanted, logits, self.options.temperature)
        mixed = self._mixed(row, wanted, word := lambda one: one.number)
        while True:
            row.number, _ = _draw(np.where(allowed, mixed, -np.inf), row.rng, self.options.temperature)
            if fits(row.number, tuple(row.lacking)):
                break
            allowed[row.number] = False
        row.score += float(mixed[row.number] - np.logaddexp.reduce(mixed))
        self._chosen(row, wanted, row.number, word)

    def _orbit(self, row: Sentence, logits: np.ndarray) -> tuple[int, int]:
        owner = row.next_owner
        rest = tuple(row.lacking[owner + 1 :])
        lowest = row.orbits[-1][1] if row.orbits and row.orbits[-1][0] == owner else 0
        positions = group(row.number).positions
        allowed = np.zeros(len(logits), dtype=bool)
        for letter in range(lowest, len(positions)):
            size, bit = positions[letter].multiplicity, 0 if positions[letter].free else 1 << letter
            if size <= row.lacking[owner] and not row.taken & bit:
                allowed[letter] = fits(row.number, (row.lacking[owner] - size, *rest), letter, row.taken | bit)
        wanted, place = np.where(allowed, logits, -np.inf), len(row.orbits)
        mixed = self._mixed(row, wanted, word := lambda one: one.orbits[place][1])
        letter, nats = _draw(mixed, row.rng, self.options.temperature)
        row.score += nats
        self._chosen(row, wanted, letter, word)
        row.orbits.append((owner, letter))
        row.lacking[owner] -= positions[letter].multiplicity
        row.taken |= 0 if positions[letter].free else 1 << letter
        return owner, letter

    def _drawn(self, row: Sentence, logits: np.ndarray, allowed: np.ndarray, temperature: float) -> int:
        """Of a composition."""
        left = np.where(allowed, logits, -np.inf)
        choice, nats = _draw(left, row.rng, temperature)
        row.score += nats
        row.weight += _left(left, logits, temperature)
        return choice


def _left(left: np.ndarray, logits: np.ndarray, temperature: float) -> float:
    """ln of the probability that is left, where what is barred has -inf."""
    top = logits.max()
    masses = [np.exp((values - top) / temperature).sum() for values in (left, logits)]
    return float(np.log(max(masses[0], 1e-300)) - np.log(masses[1]))


def _draw(logits: np.ndarray, rng: np.random.Generator, temperature: float) -> tuple[int, float]:
    """A choice at a temperature and its log-probability at temperature 1."""
    cold = np.exp((logits - logits.max()) / temperature)
    choice = int(np.searchsorted(np.cumsum(cold), rng.random() * cold.sum(), side="right"))
    choice = min(choice, int(np.flatnonzero(cold)[-1]))
    warm = logits - logits.max()
    return choice, float(warm[choice] - np.log(np.exp(warm).sum()))
