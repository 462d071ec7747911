"""Drawing crystals: words under exact constraints, then the lattice, then all free coordinates together."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from sciar.errors import InputError
from sciar.families.orbits.constraints import Composition, Wish, fits, wish_of
from sciar.families.orbits.tokens import Tokens
from sciar.families.orbits.wyckoff import group
from sciar.family import Draw
from sciar.nn.cache import StaticCache
from sciar.prompt import Prompt
from sciar.structure import NUMBERS

if TYPE_CHECKING:
    from sciar.families.orbits.model import Model
    from sciar.families.orbits.sites import Frame

PAIR, END, GROUP, ORBIT = 1, 2, 3, 4
LEVELS = 8  # of the lattice's likelihood bound
SIGMAS = (0.07, 0.1, 0.14, 0.2, 0.28, 0.4)  # Å, of the coordinates'


@dataclass(frozen=True, slots=True)
class Options:
    """How to draw.

    Args:
        temperature: of all words: composition, space group, positions; 1 = the model's own law.
        guidance: of the wanted properties; 1 = none.
        lattice_steps: solver steps of the lattice's head. lattice_temperature: of its noise.
        steps: evaluations of the joint denoiser. sigma: its first noise level, Å. strain: the error of the lattice it assumes at first.
        churn: share of fresh noise in each of its steps.
        score: "bound": nats of the drawn words and lower bounds of ln p of the lattice and of the free coordinates; "words": of the words
            alone, which saves a third of the time.
        precision: "bf16" or "32".
    """

    temperature: float = 1.0
    guidance: float = 1.0
    lattice_steps: int = 12
    lattice_temperature: float = 1.0
    steps: int = 30
    sigma: float = 1.5
    strain: float = 0.15
    churn: float = 0.6
    score: str = "bound"
    precision: str = "bf16"

    def __post_init__(self) -> None:
        if not (self.temperature > 0 and self.lattice_temperature >= 0):
            raise InputError("sample: expected temperature > 0 and lattice_temperature ≥ 0; use 1 for the model's own law")
        if self.steps < 1 or self.lattice_steps < 1 or not (self.sigma > 0 and self.strain > 0) or not 0 <= self.churn <= 1:
            raise InputError("sample: expected steps ≥ 1, sigma and strain > 0, churn from 0 to 1; correct them")
        if self.score not in ("bound", "words"):
            raise InputError(f"sample: expected score bound or words, got {self.score!r}")
        if self.precision not in ("bf16", "32"):
            raise InputError(f"sample: expected precision bf16 or 32, got {self.precision!r}")


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
    summary: Tensor | None = None

    @property
    def next_owner(self) -> int:
        """The element of the next orbit; the number of elements when all are placed."""
        return next((k for k, n in enumerate(self.lacking) if n), len(self.lacking))


def sample(
    model: Model, prompts: Sequence[Prompt], keys: Sequence[tuple[int, int]], batch_size: int = 64, **options: object
) -> Iterator[Draw]:
    """See `sciar.family.Model.sample`; `options` are the fields of `Options`.

    Raises:
        InputError: an unknown option, or a prompt that cannot be kept (see `wish_of`).
    """
    unknown = sorted(set(options) - {f.name for f in dataclasses.fields(Options)})
    if unknown:
        raise InputError(f"sample: unknown option {unknown[0]!r}; expected {', '.join(f.name for f in dataclasses.fields(Options))}")
    chosen = Options(**options)  # type: ignore[arg-type]
    seen = frozenset(NUMBERS[symbol] for symbol in model.statistics.get("elements", ())) or frozenset(range(1, 119))
    wishes: dict[int, Wish] = {}
    for prompt in prompts:  # the draws of one row share their prompt
        if id(prompt) not in wishes:
            wishes[id(prompt)] = wish_of(prompt, model.tokenizer.config, seen)
    device = next(model.parameters()).device
    for start in range(0, len(prompts), batch_size):
        part = range(start, min(start + batch_size, len(prompts)))
        rows = [Sentence(i, keys[i], wishes[id(prompts[i])], np.random.default_rng([*keys[i]])) for i in part]
        with torch.inference_mode(), torch.autocast(device.type, dtype=torch.bfloat16, enabled=chosen.precision == "bf16"):
            Writer(model, chosen).write(rows)
            drawn = numbers(model, rows, chosen)
        calls = chosen.lattice_steps + chosen.steps + (LEVELS + len(SIGMAS)) * (chosen.score == "bound")
        for row, (lattice, free, nats) in zip(rows, drawn, strict=True):
            yield Draw(row.index, _tokens(row, lattice, free), row.score + nats, calls + 3 + len(row.pairs) + len(row.orbits))


class Writer:
    """Draws the words of a batch, one token of every row at a time."""

    def __init__(self, model: Model, options: Options) -> None:
        self.model, self.options = model, options
        self.device = next(model.parameters()).device
        self.table = model.catalogue.vectors()

    def write(self, rows: Sequence[Sentence]) -> None:
        """Fill in the words, the score in nats of those that were drawn, and the state behind the last."""
        self._choose_compositions(rows)
        begin = self._begin(rows)
        guided = self.options.guidance != 1.0 and any(np.isfinite(row.wish.properties).any() for row in rows)
        if guided:
            begin = torch.cat([begin, self.model.begin(torch.full((len(rows), len(self.model.conditions)), torch.nan, device=self.device))])
        copies = len(begin) // max(1, len(rows))
        config, c = self.model.tokenizer.config, self.model.config
        longest = config.max_elements + config.max_atoms + 3
        caches = [StaticCache(len(begin), c.heads, longest, c.width // c.heads, self.device, torch.float32) for _ in self.model.blocks]
        tokens: list[tuple[int, ...]] = [(0, 0, 0, 0, self.model.catalogue.count, 0, 0)] * len(rows)
        for step in range(longest):
            hidden = self._read(tokens, begin, caches, step, copies)
            tokens = self._next(rows, tokens, hidden)
            if all(row.summary is not None for row in rows):
                return

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

    def _begin(self, rows: Sequence[Sentence]) -> Tensor:
        wanted = np.array([row.wish.properties for row in rows], dtype=np.float32).reshape(len(rows), -1)
        return self.model.begin(torch.from_numpy(wanted).to(self.device))

    def _read(self, tokens: list[tuple[int, ...]], begin: Tensor, caches: list[StaticCache], step: int, copies: int) -> Tensor:
        from sciar.families.orbits.model import Words

        columns = torch.tensor(tokens, device=self.device).repeat(copies, 1)
        words = Words(*columns[:, :, None].unbind(1), torch.ones_like(columns[:, :1], dtype=torch.bool))  # type: ignore[call-arg]
        place = torch.full((len(columns), 1), step, device=self.device)
        x = self.model.embedded(words, begin, self.table)
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
        pairing = [k for k in writing if kinds[k] in (0, PAIR)]
        both = lambda picked: [*picked, *(n + k for k in picked)] if len(hidden) > n else picked  # noqa: E731
        if pairing:
            logits = self._guided(model.to_element(hidden[both(pairing)]), len(pairing))
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
        if total < most and len(row.pairs) < config.max_elements:
            allowed[[z for z in row.wish.elements if z > last]] = True
        allowed[0] = bool(row.pairs) and total >= few
        return self._drawn(row, logits, allowed)

    def _count(self, row: Sentence, z: int, logits: np.ndarray) -> int:
        if row.given is not None:
            return row.given[len(row.pairs)][1]
        few, most = row.wish.atoms
        total = sum(n for _, n in row.pairs)
        more = len(row.pairs) + 1 < self.model.tokenizer.config.max_elements and any(other > z for other in row.wish.elements)
        allowed = np.zeros(len(logits), dtype=bool)
        allowed[1 if more else max(1, few - total) : most - total + 1] = True
        if not more and row.wish.groups != frozenset(range(1, 231)):
            sizes = tuple(n for _, n in row.pairs)
            allowed &= [n > 0 and any(fits(g, (*sizes, n)) for g in row.wish.groups) for n in range(len(logits))]
        return self._drawn(row, logits, allowed)

    def _group(self, row: Sentence, logits: np.ndarray) -> None:
        allowed = np.zeros(len(logits), dtype=bool)
        allowed[sorted(row.wish.groups)] = True
        while True:
            before = row.score
            row.number = self._drawn(row, logits, allowed)
            if fits(row.number, tuple(row.lacking)):
                return
            allowed[row.number], row.score = False, before

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
        letter = self._drawn(row, logits, allowed)
        row.orbits.append((owner, letter))
        row.lacking[owner] -= positions[letter].multiplicity
        row.taken |= 0 if positions[letter].free else 1 << letter
        return owner, letter

    def _drawn(self, row: Sentence, logits: np.ndarray, allowed: np.ndarray) -> int:
        choice, nats = _draw(np.where(allowed, logits, -np.inf), row.rng, self.options.temperature)
        row.score += nats
        return choice


def _draw(logits: np.ndarray, rng: np.random.Generator, temperature: float) -> tuple[int, float]:
    """A choice at a temperature and its log-probability at temperature 1."""
    cold = np.exp((logits - logits.max()) / temperature)
    choice = int(np.searchsorted(np.cumsum(cold), rng.random() * cold.sum(), side="right"))
    choice = min(choice, int(np.flatnonzero(cold)[-1]))
    warm = logits - logits.max()
    return choice, float(warm[choice] - np.log(np.exp(warm).sum()))


def numbers(model: Model, rows: Sequence[Sentence], options: Options) -> list[tuple[np.ndarray, np.ndarray, float]]:
    """Lattice numbers (6,), free coordinates (o, 3) and the nats of both of finished words."""
    device, c = next(model.parameters()).device, model.catalogue
    summary = torch.stack([row.summary for row in rows])  # type: ignore[misc]
    number = torch.tensor([row.number for row in rows], device=device)
    atoms = torch.tensor([sum(n for _, n in row.pairs) for row in rows], device=device)
    most = max(len(row.orbits) for row in rows)
    position = torch.full((len(rows), most), c.count, device=device)
    element = torch.zeros_like(position)
    start, noise = torch.zeros(len(rows), most, 3), torch.zeros(len(rows), 6)
    fresh = torch.zeros(max(0, options.steps - 2), len(rows), most, 3) if options.churn else None
    for k, row in enumerate(rows):
        n = len(row.orbits)
        position[k, :n] = torch.tensor([group(row.number).start + letter for _, letter in row.orbits])
        element[k, :n] = torch.tensor([row.pairs[owner][0] for owner, _ in row.orbits])
        rng = np.random.default_rng([*row.key, 1])
        noise[k] = torch.from_numpy(rng.standard_normal(6, dtype=np.float32))
        start[k, :n] = torch.from_numpy(rng.random((n, 3), dtype=np.float32))
        if fresh is not None:
            fresh[:, k, :n] = torch.from_numpy(rng.standard_normal((len(fresh), n, 3), dtype=np.float32))
    used = (c.basis[c.system[number]] != 0).any(1)
    scaled = model.lattice_head.sample(summary, noise.to(device), options.lattice_steps, temperature=options.lattice_temperature, used=used)
    lattice = model.scaled(scaled.float(), number, atoms, back=True)
    frame, u = c.frame(number, position), start.to(device)
    facts = c.facts[position][..., 2:]
    sigmas, strains = (np.geomspace(first, last, options.steps) for first, last in ((options.sigma, 0.01), (options.strain, 0.003)))
    for i, (sigma, strain) in enumerate(zip(sigmas, strains, strict=True)):
        if fresh is not None and 0 < i < options.steps - 1:
            with torch.autocast(device.type, enabled=False):
                kick = sigma * ((1 + options.churn) ** 2 - 1) ** 0.5 * fresh[i - 1].to(device)
                u, sigma = u + frame.projected(frame.cell(lattice), kick), sigma * (1 + options.churn)
        levels = (torch.full((len(rows),), float(level), device=device) for level in (sigma, strain))
        clean_u, clean_lattice = model.sites(frame, u, lattice, *levels, element, facts)
        last = i + 1 == options.steps
        u = clean_u + (0.0 if last else float(sigmas[i + 1] / sigma)) * (u - clean_u)
        lattice = clean_lattice + (0.0 if last else float(strains[i + 1] / strain)) * (lattice - clean_lattice)
    u = (u % 1.0) * (torch.arange(3, device=device) < c.free[position][..., None])
    nats = torch.zeros(len(rows), device=device)
    if options.score == "bound":
        probe, tilt = torch.zeros(len(rows), 6), torch.zeros_like(start)
        for k, row in enumerate(rows):
            rng = np.random.default_rng([*row.key, 2])
            probe[k] = torch.from_numpy(rng.standard_normal(6, dtype=np.float32))
            tilt[k, : len(row.orbits)] = torch.from_numpy(rng.standard_normal((len(row.orbits), 3), dtype=np.float32))
        scaled = model.scaled(lattice, number, atoms)
        nats = model.lattice_head.likelihood_bound(summary, scaled, probe.to(device), LEVELS, used).float()
        nats = nats + _sites_bound(model, frame, u, lattice, tilt.to(device), element, facts)
    columns = (x.double().cpu().numpy() for x in (lattice, u, nats))
    return [(p, x[: len(row.orbits)], float(value)) for row, p, x, value in zip(rows, *columns, strict=True)]


def _sites_bound(
    model: Model,
    frame: Frame,
    u: Float[Tensor, "b o 3"],
    lattice: Float[Tensor, "b 6"],
    noise: Float[Tensor, "b o 3"],
    element: Int[Tensor, "b o"],
    facts: Int[Tensor, "b o f"],
) -> Float[Tensor, "b"]:
    """What the noise levels `SIGMAS` add to a bound of ln p of the free coordinates: -∫ E|x - D(x + σε)|²/σ² d ln σ.

    Levels below tell a crystal from itself relaxed a little more, levels above differ little between good and bad crystals.
    """
    total = torch.zeros(len(u), device=u.device)
    step = float(np.log(SIGMAS[-1] / SIGMAS[0]) / (len(SIGMAS) - 1))
    for i, sigma in enumerate(SIGMAS):
        exact = torch.autocast(u.device.type, enabled=False)
        with exact:
            cell = frame.cell(lattice)
            shift = frame.projected(cell, (-1) ** i * sigma * noise)
        levels = (torch.full((len(u),), level, device=u.device) for level in (sigma, 0.02))
        clean, _ = model.sites(frame, u + shift, lattice, *levels, element, facts)
        with exact:
            total -= step * frame.shifted(cell, clean - u).square().sum((1, 2)) / sigma**2
    return total


def _tokens(row: Sentence, lattice: np.ndarray, free: np.ndarray) -> Tokens:
    owner, letters = np.array(row.orbits).T
    pairs = np.array(row.pairs)
    return Tokens(
        pairs[:, 0],
        pairs[:, 1],
        np.array([row.number]),
        lattice[None],
        np.array([row.wish.properties]).reshape(1, -1),
        owner,
        letters,
        free,
    )
