"""What training crystals of a like composition look like: a nearest-neighbour law of the words beside the network's own, and numbers.

p(words | composition) = λ Σ_j w_j [the words are those of crystal j, its elements replaced] + (1 - λ) p_network(words | composition),
w = softmax_j(-d_j) over the nearest crystals with the same numbers of atoms. d is the least Σ |v(a) - v(b)| over the ways to replace
elements a by elements b of equal count, v a vector for each element, learnt so that every training crystal is likely given all others.
Numbers: Σ_j w_j numbers_j over those of the drawn words and the same setting, which the denoiser then puts right in one step.

Sources: Khandelwal et al., nearest-neighbour language models, ICLR 2020 (the mixture); Hautier et al., Inorg. Chem. 50 (2011) 656
(which elements replace each other is learnt from known crystals).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from sciar.batch import Batch, TokenArrays
from sciar.nn.elements import facts

NEAREST = 64  # crystals that take part
MANY = 720  # ways to replace the elements; a composition that has more is not looked up
PASSES, BATCH, RATE, FLOOR = 3, 256, 5e-3, 0.002  # of learning the vectors; FLOOR: what the law gives to words that it does not know
CLOSE = 0.06  # fractions by which coordinates of crystals in the same setting differ at most
AVERAGED = 8  # crystals whose numbers are averaged, at most
KEPT = 8  # means of the crystals of the same words that are kept in training, some 10 kB
PADDING = 255


class _Column(NamedTuple):
    """A field of `Tokens` as it is kept: its axis, the shape of one entry, its storage, and whole numbers per unit."""

    axis: str
    shape: tuple[int, ...] = ()
    dtype: torch.dtype = torch.uint8
    scale: int = 1


_COLUMNS = {
    "elements": _Column("elements"),
    "counts": _Column("elements"),
    "group": _Column("record"),
    "owner": _Column("orbits"),
    "letters": _Column("orbits"),
    "free": _Column("orbits", (3,), scale=256),
    "lattice": _Column("record", (6,), torch.int16, scale=4096),
}


@dataclass(frozen=True, slots=True, eq=False)
class Recalled:
    """A remembered crystal as an answer to a composition.

    Args:
        share: ln w. number: space group. orbits: (index of the element in the composition, letter), in the order that they are drawn in.
        free: free coordinates of its orbits, to 1/256. lattice: its lattice numbers. elements: atomic numbers that its orbits have.
        same: no element was replaced.
    """

    share: float
    number: int
    orbits: tuple[tuple[int, int], ...]
    free: Float[np.ndarray, "o 3"]
    lattice: Float[np.ndarray, "6"]
    elements: Int[np.ndarray, "o"]
    same: bool


class Numbers(NamedTuple):
    """Numbers that an answer begins with.

    Args:
        free: free coordinates. lattice: its lattice numbers. facts: of the elements that its orbits had (see `nn.elements.facts`).
        same: they are of a crystal of the same elements, so its volume is known.
    """

    free: Float[np.ndarray, "o 3"]
    lattice: Float[np.ndarray, "6"]
    facts: Float[np.ndarray, "o f"]
    same: bool


class _Pile(NamedTuple):
    """Recalled crystals of the same words, field by field."""

    share: Float[np.ndarray, "k"]
    free: Float[np.ndarray, "k o 3"]
    lattice: Float[np.ndarray, "k 6"]
    elements: Int[np.ndarray, "k o"]
    same: Bool[np.ndarray, "k"]

    @classmethod
    def of(cls, recalled: Sequence[Recalled]) -> _Pile:
        column = lambda name, dtype: np.array([getattr(one, name) for one in recalled], dtype=dtype)  # noqa: E731
        numbers = column("free", np.float32), column("lattice", np.float32)  # kept in fewer digits
        return cls(column("share", float), *numbers, column("elements", np.uint8), column("same", bool))


def stacked(numbers: Sequence[Numbers], orbits: int) -> tuple[Float[Tensor, "b o 3"], Float[Tensor, "b 6"], Float[Tensor, "b o f"]]:
    """Free coordinates, lattice numbers and facts of several crystals, filled up with zeros to so many orbits."""
    padded = lambda column: np.stack([np.pad(x, ((0, orbits - len(x)), (0, 0))) for x in column])  # noqa: E731
    columns = padded([one.free for one in numbers]), np.stack([one.lattice for one in numbers]), padded([one.facts for one in numbers])
    free, lattice, facts = (torch.from_numpy(column).float() for column in columns)
    return free, lattice, facts


class Memory(nn.Module):
    """Compositions, words and numbers of training crystals, and the vectors that say which elements are alike; stored with the weights."""

    vectors: Float[Tensor, "z f"]
    facts: Float[Tensor, "z f"]
    elements: Int[Tensor, "n m"]
    counts: Int[Tensor, "n m"]
    group: Int[Tensor, "n 1"]
    owner: Int[Tensor, "n o"]
    letters: Int[Tensor, "n o"]
    free: Int[Tensor, "n o 3"]
    lattice: Int[Tensor, "n 1 6"]

    def __init__(self, max_elements: int, max_atoms: int) -> None:
        super().__init__()
        self.register_buffer("vectors", facts())
        self.register_buffer("facts", facts(), persistent=False)
        widths = {"elements": max_elements, "record": 1, "orbits": max_atoms}
        for name, column in _COLUMNS.items():
            self.register_buffer(name, torch.zeros(0, widths[column.axis], *column.shape, dtype=column.dtype))
        self._known: dict[tuple[int, ...], _Alike] | None = None
        self._apart: np.ndarray | None = None
        # answers of `starts` by words: a look-up takes a millisecond, and every epoch asks the same ones
        self._begun: dict[tuple[Any, ...], tuple[_Pile, dict[int, Numbers]] | None] = {}

    def __len__(self) -> int:
        return len(self.group)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        for name in _COLUMNS:  # as many crystals as the file has
            if prefix + name in state_dict:
                setattr(self, name, torch.empty_like(state_dict[prefix + name], device=getattr(self, name).device))
        self._known = self._apart = None
        self._begun.clear()
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def add(self, arrays: TokenArrays) -> None:
        """Remember these crystals as well, but for those that are there already; from the first ones the vectors are learnt (half a
        minute for 26,000)."""
        first, columns = not len(self), dict[str, np.ndarray]()
        for name, column in _COLUMNS.items():
            offsets, empty = np.asarray(arrays.offsets[column.axis]), getattr(self, name)[:0].cpu().numpy()
            row = np.repeat(np.arange(len(arrays)), np.diff(offsets))
            values = np.round(np.asarray(arrays.arrays[name]).reshape(len(row), *column.shape) * column.scale).astype(int)
            columns[name] = np.full((len(arrays), *empty.shape[1:]), PADDING, dtype=empty.dtype)
            columns[name][row, np.arange(len(row)) - offsets[row]] = values.astype(empty.dtype)  # 256/256 is 0
        known = set(self._rows({name: getattr(self, name).cpu().numpy() for name in _COLUMNS}))
        fresh = np.array([row not in known for row in self._rows(columns)], dtype=bool)
        for name, new in columns.items():
            old = getattr(self, name)
            setattr(self, name, torch.cat([old, torch.from_numpy(new[fresh]).to(old.device)]))
        self._known = None
        self._begun.clear()
        if first:
            self._learn()

    @staticmethod
    def _rows(columns: dict[str, np.ndarray]) -> list[bytes]:
        """Each crystal as bytes."""
        return [b"".join(column.tobytes() for column in row) for row in zip(*columns.values(), strict=True)]

    def near(self, composition: Sequence[tuple[int, int]]) -> list[Recalled]:
        """The nearest crystals to (atomic number, atoms) pairs, rising; () if none has these numbers of atoms. Shares add up to 1."""
        return self._recalled(composition)

    def of(self, composition: Sequence[tuple[int, int]], number: int, orbits: Sequence[tuple[int, int]], itself: bool) -> list[Recalled]:
        """Those of them that have these words; without `itself` the nearest one, which the words were read from, is left out."""
        return self._recalled(composition, (number, tuple(orbits)), itself)

    def _recalled(self, composition: Sequence[tuple[int, int]], words: Any = None, itself: bool = True) -> list[Recalled]:
        elements, counts = np.array(composition).T
        alike, rows, slots, distance = self._nearest(elements, counts, self._distances(), None if itself else words)
        if alike is None or not len(rows):
            return []
        answers = []
        for share, row, slot in zip((-distance - np.logaddexp.reduce(-distance)).tolist(), rows.tolist(), slots, strict=True):
            if words is not None and alike.group[row] != words[0]:
                continue  # most are not of these words, and this is soon seen
            number, orbits = alike.words(row, slot)
            if words is None or words == (number, orbits):
                own = np.empty(len(slot), dtype=int)
                own[slot] = alike.elements[row]
                free, owner = alike.free[row][alike.order(row, slot)], [k for k, _ in orbits]
                answers.append(Recalled(share, number, orbits, free, alike.lattice[row], own[owner], np.array_equal(own, elements)))
        return answers

    def mean(self, recalled: Sequence[Recalled], first: int) -> Numbers:
        """Numbers of crystals of the same words, by their shares, as far as they stand in the setting of the first-th one; of that one
        alone if it has the elements that are asked for."""
        return self._mean(_Pile.of(recalled), first)

    def _mean(self, pile: _Pile, first: int) -> Numbers:
        alone, k = bool(pile.same[first]), len(pile.share)
        every = np.array([first] if alone else [first, *range(first), *range(first + 1, k)][:AVERAGED])
        off = pile.free[every] - pile.free[first]
        off -= np.round(off)
        weights = np.exp(pile.share[every] - pile.share[first]) * (np.abs(off) < CLOSE).all((1, 2))
        weights /= weights.sum()
        table = self.facts.cpu().numpy()
        average = lambda values: np.einsum("k,k...->...", weights, values).astype(np.float32)  # noqa: E731
        return Numbers(pile.free[first] + average(off), average(pile.lattice[every]), average(table[pile.elements[every]]), alone)

    def starts(self, batch: Batch, luck: Sequence[float], itself: bool) -> list[Numbers | None]:
        """Numbers that crystals of the words of a batch have, each in the setting of one that a number below 1 picks; None where there is
        none. Without `itself` of others than those that the batch holds."""
        columns = [batch[name].tolist() for name in ("elements", "counts", "owner", "letters", "group")]
        lengths = [batch.masks[axis].sum(1).tolist() for axis in ("elements", "orbits")]
        found: list[Numbers | None] = []
        for elements, counts, owner, letters, (number,), pairs, orbits, value in zip(*columns, *lengths, luck, strict=True):
            composition = tuple(zip(elements[:pairs], counts[:pairs], strict=True))
            words = composition, number, tuple(zip(owner[:orbits], letters[:orbits], strict=True)), itself
            if words not in self._begun:
                recalled = self.of(*words)
                self._begun[words] = (_Pile.of(recalled), {}) if recalled else None
            if (begun := self._begun[words]) is None:
                found.append(None)
                continue
            pile, means = begun
            shares = np.exp(pile.share).cumsum()
            first = int(np.searchsorted(shares, value * shares[-1]))
            numbers = means.get(first) or self._mean(pile, first)
            if len(means) < KEPT:
                means[first] = numbers
            found.append(numbers)
        return found

    def _nearest(
        self, elements: np.ndarray, counts: np.ndarray, distances: np.ndarray, without: tuple[Any, ...] | None = None
    ) -> tuple[_Alike | None, np.ndarray, np.ndarray, np.ndarray]:
        """Crystals of these numbers of atoms, the nearest of them, which element takes the place of which (r m), and their distances.

        Args:
            distances: of any two elements. without: one crystal of these words, the nearest, is left out.
        """
        order = np.argsort(counts, kind="stable")
        alike = self._by_counts().get(tuple(counts[order].tolist()))
        if alike is None or not len(ways := _ways(tuple(counts[order].tolist()))):
            return None, np.zeros(0, int), np.zeros((0, len(counts)), int), np.zeros(0)
        every = distances[elements[order][ways][:, None], alike.elements].sum(-1)  # ways rows
        best, least = every.argmin(0), every.min(0)
        rows = np.argsort(least, kind="stable")[: NEAREST + (without is not None)]
        if without is not None:
            own = next((k for k, row in enumerate(rows.tolist()) if alike.words(row, order[ways[best[row]]]) == without), len(rows) - 1)
            rows = np.delete(rows, own)
        return alike, rows, order[ways[best[rows]]], least[rows]

    def _distances(self) -> Float[np.ndarray, "z z"]:
        """Of any two elements."""
        if self._apart is None:
            self._apart = torch.cdist(self.vectors, self.vectors).double().cpu().numpy()
        return self._apart

    def _by_counts(self) -> dict[tuple[int, ...], _Alike]:
        if self._known is None:
            columns = {name: getattr(self, name).cpu().numpy().astype(int) for name in _COLUMNS}
            order = np.argsort(columns["counts"], axis=1, kind="stable")  # padding last
            patterns, which = np.unique(np.take_along_axis(columns["counts"], order, 1), axis=0, return_inverse=True)
            self._known = {}
            for k, pattern in enumerate(patterns):
                rows, size = np.flatnonzero(which.reshape(-1) == k), int((pattern != PADDING).sum())
                places = order[rows][:, :size]
                self._known[tuple(pattern[:size].tolist())] = _Alike(
                    np.take_along_axis(columns["elements"][rows], places, 1),
                    places.argsort(1),
                    columns["group"][rows, 0],
                    columns["owner"][rows],
                    columns["letters"][rows],
                    columns["free"][rows] / _COLUMNS["free"].scale,
                    columns["lattice"][rows, 0] / _COLUMNS["lattice"].scale,
                )
        return self._known

    def _learn(self) -> None:
        """The vectors, by Adam on the likelihood of each crystal's words given all others, nearest by the facts of their elements."""
        distances = self._distances()
        shape = len(self), NEAREST, self.counts.shape[1]
        own, other = np.zeros(shape, np.uint8), np.zeros(shape, np.uint8)
        real, same = np.zeros(shape[:2], bool), np.zeros(shape[:2], bool)
        columns = {name: getattr(self, name).cpu().numpy().astype(int) for name in _COLUMNS}
        for k in range(len(self)):
            m, there = int((columns["counts"][k] != PADDING).sum()), columns["owner"][k] != PADDING
            elements, counts = columns["elements"][k, :m], columns["counts"][k, :m]
            orbits = zip(columns["owner"][k, there].tolist(), columns["letters"][k, there].tolist(), strict=True)
            truth = int(columns["group"][k, 0]), tuple(orbits)
            alike, rows, slots, _ = self._nearest(elements, counts, distances, truth)
            for r, (row, slot) in enumerate(zip(rows.tolist(), slots, strict=True)):
                assert alike is not None
                own[k, r, :m], other[k, r, :m], real[k, r] = elements[slot], alike.elements[row], True
                same[k, r] = alike.group[row] == truth[0] and alike.words(row, slot) == truth
        a, b = torch.from_numpy(own), torch.from_numpy(other)
        known, right = torch.from_numpy(real), torch.from_numpy(same)
        useful = torch.from_numpy(np.flatnonzero(same.any(1) & ~same.all(1)))
        vectors = self.vectors.detach().cpu().clone().requires_grad_()
        optimizer, generator = torch.optim.Adam([vectors], lr=RATE), torch.Generator().manual_seed(0)
        with torch.enable_grad():
            for _ in range(PASSES):
                for rows in useful[torch.randperm(len(useful), generator=generator)].split(BATCH):
                    apart = ((vectors[a[rows].long()] - vectors[b[rows].long()]).square().sum(-1) + 1e-6).sqrt().sum(-1)
                    shares = apart.neg().masked_fill(~known[rows], -1e9).softmax(-1)
                    loss = -torch.log((shares * right[rows]).sum(-1) + FLOOR).mean()
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
        self.vectors.copy_(vectors.detach())
        self._apart = None


@dataclass(frozen=True, slots=True, eq=False)
class _Alike:
    """Crystals of the same numbers of atoms.

    Args:
        elements: sorted by their counts. slot: place in that order of each element as it stands in the composition.
        group, owner, letters, free, lattice: their words and numbers.
    """

    elements: Int[np.ndarray, "n m"]
    slot: Int[np.ndarray, "n m"]
    group: Int[np.ndarray, "n"]
    owner: Int[np.ndarray, "n o"]
    letters: Int[np.ndarray, "n o"]
    free: Float[np.ndarray, "n o 3"]
    lattice: Float[np.ndarray, "n 6"]

    def words(self, row: int, new: Int[np.ndarray, "m"]) -> tuple[int, tuple[tuple[int, int], ...]]:
        """Group and orbits of a crystal; `new[s]` is the element, by its place in a composition, that takes the s-th place here."""
        there = self.owner[row] != PADDING
        owner = new[self.slot[row][self.owner[row][there]]]
        return int(self.group[row]), tuple(sorted(zip(owner.tolist(), self.letters[row][there].tolist(), strict=True)))

    def order(self, row: int, new: Int[np.ndarray, "m"]) -> Int[np.ndarray, "o"]:
        """Which of its orbits each of these words is."""
        there = self.owner[row] != PADDING
        return np.lexsort((self.letters[row][there], new[self.slot[row][self.owner[row][there]]]))


@lru_cache(maxsize=4096)
def _ways(counts: tuple[int, ...]) -> Int[np.ndarray, "w m"]:
    """Permutations within equal counts, which rise; none if there are more than `MANY`."""
    blocks = [[k for k, n in enumerate(counts) if n == size] for size in sorted(set(counts))]
    every = itertools.product(*(itertools.permutations(block) for block in blocks))
    ways = [sum(way, ()) for way in itertools.islice(every, MANY + 1)]
    return np.array(ways if len(ways) <= MANY else [], dtype=int).reshape(-1, len(counts))
