"""What a crystal's words may still be: orbits whose sizes add up to the composition exactly, so that no draw is rejected."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, lru_cache

import numpy as np

from sciar import pxrd
from sciar.errors import InputError
from sciar.families.orbits.tokens import TokenizerConfig
from sciar.families.orbits.wyckoff import group
from sciar.prompt import Prompt
from sciar.structure import NUMBERS

Composition = tuple[tuple[int, int], ...]  # (atomic number, atoms in the primitive cell), rising


@dataclass(frozen=True, slots=True)
class Wish:
    """A prompt as the sampler takes it.

    Args:
        compositions: those it may be, () = drawn too.
        elements: atomic numbers allowed. atoms: fewest and most in the cell. groups: space groups allowed.
        properties: wanted values in the order of the tokenizer's, nan = not asked for.
        profile: levels of the wanted powder profile, () = not asked for.
        narrow: elements, a size or a group is asked for, but no composition.
    """

    compositions: tuple[Composition, ...]
    elements: frozenset[int]
    atoms: tuple[int, int]
    groups: frozenset[int]
    properties: tuple[float, ...]
    profile: tuple[int, ...] = ()
    narrow: bool = False


def wish_of(prompt: Prompt, config: TokenizerConfig, known: frozenset[int]) -> Wish:
    """What a prompt asks of the words.

    Raises:
        InputError: fixed atoms, or a composition, size or group that cannot be had together.
    """
    if prompt.fixed is not None:
        raise InputError("orbits: expected no fixed atoms, got some; this family draws whole cells")
    few, most = prompt.n_atoms or (1, config.max_atoms)
    most = min(most, config.max_atoms)
    if few > most:
        raise InputError(f"n_atoms: expected at most {config.max_atoms} atoms in the primitive cell, got {few}; ask for fewer")
    groups = frozenset([prompt.space_group] if prompt.space_group else range(1, 231)) if config.symmetric else frozenset([1])
    if not config.symmetric and prompt.space_group not in (None, 1):
        raise InputError("spacegroup: expected a model that knows symmetry, got one that does not; leave it out")
    elements = frozenset(NUMBERS[symbol] for symbol in prompt.elements) if prompt.elements else known
    if not elements & known:
        raise InputError("elements: expected some that the model has seen, got none; `sciar models` says which they are")
    properties = tuple(float(prompt.properties.get(name, np.nan)) for name in config.properties)
    read = config.profile and prompt.pxrd is not None
    profile = tuple(pxrd.levels(pxrd.pattern_of(prompt.pxrd), config.profile).tolist()) if read else ()
    if prompt.composition is None:
        if not any(fits(g, (n,)) for g in groups for n in range(few, most + 1)):
            raise InputError(f"spacegroup: expected one with orbits of {few} to {most} atoms, got {prompt.space_group}; widen n_atoms=")
        narrow = bool(prompt.elements or prompt.n_atoms or prompt.space_group)
        return Wish((), elements & known, (few, most), groups, properties, profile, narrow)
    formula = tuple(sorted((NUMBERS[symbol], count) for symbol, count in prompt.composition.items()))
    size = sum(count for _, count in formula)
    units = [prompt.formula_units] if prompt.formula_units else range(1, most // size + 1)
    every = [tuple((z, count * k) for z, count in formula) for k in units if few <= k * size <= most]
    if not every:
        asked = f"{prompt.formula_units or 1} × {size}"
        raise InputError(f"formula: expected {few} to {most} atoms in the primitive cell, got {asked}; use fewer formula units or n_atoms=")
    if len(formula) > config.max_elements:
        raise InputError(f"formula: expected at most {config.max_elements} elements, got {len(formula)}; leave some out")
    possible = tuple(c for c in every if any(fits(g, tuple(n for _, n in c)) for g in groups))
    if not possible:
        counts = "/".join(str(n) for _, n in formula)
        most_units = len(every) if prompt.formula_units is None else prompt.formula_units
        raise InputError(
            f"spacegroup: expected one whose orbits add up to {counts} atoms, or up to {most_units} times that in at most {most}, "
            f"got {prompt.space_group}; choose another"
        )
    return Wish(possible, elements, (few, most), groups, properties, profile)


@lru_cache(maxsize=1_000_000)
def fits(number: int, lacking: tuple[int, ...], lowest: int = 0, taken: int = 0) -> bool:
    """Can the atoms each element still lacks be put on orbits of a group?

    Args:
        number: the group. lacking: atoms that each element lacks, the present one first.
        lowest: first letter that may come next for the present element. taken: bits of the points without freedom that are used.
    """
    if not lacking:
        return True
    need, rest = lacking[0], lacking[1:]
    if not need:
        return fits(number, rest, 0, taken)
    if not all(_reachable(number) >> n & 1 for n in lacking):
        return False
    for letter in range(lowest, len(group(number).positions)):
        position = group(number).positions[letter]
        bit, size = 0 if position.free else 1 << letter, position.multiplicity
        if size <= need and not taken & bit and fits(number, (need - size, *rest), letter, taken | bit):
            return True
    return False


@cache
def _reachable(number: int) -> int:
    """Bit n: some orbits have n atoms together, if each could be used again and again."""
    sums = 1
    for n in range(1, 256):
        if any(p.multiplicity <= n and sums >> (n - p.multiplicity) & 1 for p in group(number).positions):
            sums |= 1 << n
    return sums
