"""Crystals as words (composition, space group, positions of orbits) followed by the numbers that symmetry leaves free."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from sciar.batch import TokenArrays, token_field
from sciar.errors import InputError
from sciar.families.orbits.wyckoff import LENGTHS, Orbits, group, orbits_of, structure_of, system_of
from sciar.family import Tokenizer as AbstractTokenizer
from sciar.family import moments
from sciar.prompt import Prompt
from sciar.reflections import NO_REFLECTIONS, kept
from sciar.structure import SYMBOLS, Structure

VERSION = 3  # of the encoding; prepared tokens of another version are made again


@dataclass(frozen=True, slots=True)
class TokenizerConfig:
    """What the tokenizer can hold.

    Args:
        max_atoms: most atoms in the primitive cell.
        max_elements: most different elements.
        symmetric: False knows no symmetry but translations: one orbit per atom, group 1 (the published layouts, as a baseline).
        properties: entries of `Structure.info` that can be asked for.
        profile: points of the powder profile that a draw can be given (see `sciar.pxrd.levels`); 0 = none.
    """

    max_atoms: int = 20
    max_elements: int = 8
    symmetric: bool = True
    properties: tuple[str, ...] = ()
    profile: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "properties", tuple(self.properties))
        if not 0 < self.max_atoms < 256 or self.max_elements < 1:
            raise InputError(
                f"TokenizerConfig: expected max_atoms 1 to 255 and max_elements ≥ 1, got {self.max_atoms}, {self.max_elements}"
            )
        if self.profile and not 16 <= self.profile <= 4096:
            raise InputError(f"TokenizerConfig.profile: expected 16 to 4096 points, or 0 for none, got {self.profile}")


@dataclass(frozen=True, slots=True, eq=False)
class Tokens:
    """One crystal; orbits element by element, those of one element by letter.

    Args:
        elements: atomic numbers, rising. counts: atoms of each in the primitive cell.
        group: space group 1..230.
        owner: which of `elements` each orbit is of. letters: its Wyckoff position.
        free: its free coordinates, zeros behind them.
        lattice: free numbers of the conventional cell (see `wyckoff.cell_of`), zeros behind them.
        properties: one row, nan = not known.
        index, square: Miller indices (in the primitive cell) and Σ|F|² in electrons² of the strongest reflections, from which
            training makes powder profiles; none if the model reads none.
    """

    elements: Int[np.ndarray, "m"] = token_field("elements", "uint8")
    counts: Int[np.ndarray, "m"] = token_field("elements", "uint8")
    group: Int[np.ndarray, "1"] = token_field("record", "uint8")
    lattice: Float[np.ndarray, "1 6"] = token_field("record", "float32")
    properties: Float[np.ndarray, "1 p"] = token_field("record", "float32", np.nan)
    owner: Int[np.ndarray, "o"] = token_field("orbits", "uint8")
    letters: Int[np.ndarray, "o"] = token_field("orbits", "uint8")
    free: Float[np.ndarray, "o 3"] = token_field("orbits", "float32")
    index: Int[np.ndarray, "r 3"] = token_field("reflections", "int8", empty=(0, 3))
    square: Float[np.ndarray, "r"] = token_field("reflections", "float32", empty=(0,))


class Tokenizer(AbstractTokenizer):
    """Crystal ↔ words and free numbers. Exact up to the tolerance within which its symmetry was found."""

    normalisations = ("lattice_mean", "lattice_std")

    def __init__(self, config: TokenizerConfig) -> None:
        self.config = config

    def limits(self) -> dict[str, object]:
        return {"max_atoms": self.config.max_atoms, "properties": list(self.config.properties)}

    def statistics(self, arrays: TokenArrays) -> dict[str, object]:
        """Elements; mean and spread of each crystal system's lattice numbers, for cells of one atom; moments of the properties."""
        groups = np.asarray(arrays.arrays["group"])
        system = np.array([system_of(g) for g in range(231)])[groups]
        atoms = np.add.reduceat(np.asarray(arrays.arrays["counts"], dtype=np.int64), arrays.offsets["elements"][:-1])
        copies = np.array([1, *(group(g).copies for g in range(1, 231))])[groups]
        lattice = np.asarray(arrays.arrays["lattice"], dtype=np.float64).reshape(-1, 6)
        lattice = lattice - LENGTHS[system] * (np.log(atoms * copies) / 3)[:, None]
        means, spreads = np.zeros((6, 6)), np.ones((6, 6))
        for k in range(6):
            rows = lattice[system == k]
            if len(rows) > 1:
                means[k], spreads[k] = rows.mean(0), np.maximum(rows.std(0), 0.02)
        present = np.unique(np.asarray(arrays.arrays["elements"])).tolist()
        return {
            "elements": [SYMBOLS[z] for z in present],
            "lattice_mean": means.round(5).tolist(),
            "lattice_std": spreads.round(5).tolist(),
            **moments(self.config.properties, arrays),
        }

    def encode(self, structure: Structure, prompt: Prompt | None = None) -> Tokens:
        """Tokens of a crystal, its primitive cell; the prompt is part of the structure.

        Raises:
            InputError: no cell, more atoms or elements than the configuration holds, or no symmetry to be found.
        """
        if structure.cell is None or structure.positions is None or not structure.n_atoms:
            raise InputError("orbits: expected a crystal with a cell and atoms, got none; molecules are for other families")
        if not structure.numbers.all():
            raise InputError("orbits: expected an element on every site, got a site without one; order the crystal first")
        orbits = orbits_of(structure, self.config.symmetric)
        elements, owner = np.unique(orbits.numbers, return_inverse=True)
        positions = group(orbits.group).positions
        sizes = np.array([positions[letter].multiplicity for letter in orbits.letters])
        counts = np.bincount(owner, sizes).astype(int)
        if counts.sum() > self.config.max_atoms or len(elements) > self.config.max_elements:
            raise InputError(
                f"orbits: expected at most {self.config.max_atoms} atoms and {self.config.max_elements} elements in the primitive cell, "
                f"got {counts.sum()} and {len(elements)}; use a smaller cell"
            )
        info = structure.info
        values = [[float(info.get(name, np.nan)) for name in self.config.properties]]  # type: ignore[arg-type]
        reflections = kept(structure_of(orbits)) if self.config.profile else NO_REFLECTIONS
        row = elements, counts, np.array([orbits.group]), orbits.lattice[None], np.array(values), owner, orbits.letters, orbits.free
        return Tokens(*row, *reflections)

    def decode(self, tokens: Tokens) -> Structure:
        """The primitive cell; total."""
        nothing = Structure(np.zeros(0, dtype=np.int64))
        number = int(tokens.group[0])
        if not 1 <= number <= 230:
            return nothing.with_info(failure=f"space group: {number}, expected 1 to 230")
        known = len(group(number).positions)
        if not (np.isfinite(tokens.lattice).all() and np.isfinite(tokens.free).all() and np.abs(tokens.lattice).max() < 10):
            return nothing.with_info(failure="no coordinates: the sampler diverged")
        if (tokens.letters >= known).any() or (tokens.owner >= len(tokens.elements)).any():
            return nothing.with_info(failure=f"positions: expected those of space group {number}, got another")
        numbers = np.asarray(tokens.elements)[tokens.owner].astype(int)
        lattice, free = (np.asarray(part, dtype=np.float64) for part in (tokens.lattice[0], tokens.free))
        orbits = Orbits(number, lattice, numbers, np.asarray(tokens.letters), free)
        return structure_of(orbits)
