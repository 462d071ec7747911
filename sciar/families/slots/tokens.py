"""Crystals as the atoms of their primitive Niggli cell, element by element, with fractions and lattice vectors."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import cache

import numpy as np
from jaxtyping import Float, Int

from sciar.batch import TokenArrays, token_field
from sciar.errors import InputError
from sciar.family import Tokenizer as AbstractTokenizer
from sciar.family import moments
from sciar.lattice import form_of, fractional, placed, primitive, space_group
from sciar.prompt import Prompt
from sciar.structure import SYMBOLS, Structure

VERSION = 1  # of the encoding; prepared tokens of another version are made again
FLAT = 0.01  # Å³ an atom; a cell of less volume is none


@dataclass(frozen=True, slots=True)
class TokenizerConfig:
    """What the tokenizer can hold.

    Args:
        max_atoms: most atoms in the primitive cell.
        properties: entries of `Structure.info` that can be asked for.
    """

    max_atoms: int = 20
    properties: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "properties", tuple(self.properties))
        if not 0 < self.max_atoms < 256:
            raise InputError(f"TokenizerConfig: expected max_atoms 1 to 255, got {self.max_atoms}")


@dataclass(frozen=True, slots=True, eq=False)
class Tokens:
    """One crystal; elements by rising electronegativity, atoms of one element by rising fractions (UniGenX §1.2).

    Args:
        elements: atomic numbers. fractions: of the lattice vectors, in [0, 1).
        lattice: the three lattice vectors in Å, one after the other.
        group: its space group 1..230, 0 = not known. properties: one row, nan = not known.
    """

    elements: Int[np.ndarray, "n"] = token_field("atoms", "uint8")
    fractions: Float[np.ndarray, "n 3"] = token_field("atoms", "float32")
    lattice: Float[np.ndarray, "1 9"] = token_field("record", "float32")
    group: Int[np.ndarray, "1"] = token_field("record", "uint8")
    properties: Float[np.ndarray, "1 p"] = token_field("record", "float32", np.nan)


class Tokenizer(AbstractTokenizer):
    """Crystal ↔ slots. Exact to float32, up to the choice of the primitive cell."""

    normalisations = ("form_mean", "form_std")

    def __init__(self, config: TokenizerConfig) -> None:
        self.config = config

    def limits(self) -> dict[str, object]:
        return {"max_atoms": self.config.max_atoms, "properties": list(self.config.properties)}

    def statistics(self, arrays: TokenArrays) -> dict[str, object]:
        """Elements; mean and spread of the lattice numbers (`lattice.form_of`) of cells of one atom; moments of the properties."""
        cells = np.asarray(arrays.arrays["lattice"], dtype=np.float64).reshape(-1, 3, 3)
        forms = np.array([form_of(cell) for cell in cells])
        forms[:, :3] -= np.log(arrays.lengths("atoms"))[:, None] / 3
        present = np.unique(np.asarray(arrays.arrays["elements"])).tolist()
        return {
            "elements": [SYMBOLS[z] for z in present],
            "form_mean": forms.mean(0).round(5).tolist(),
            "form_std": np.maximum(forms.std(0), 0.02).round(5).tolist(),
            **moments(self.config.properties, arrays),
        }

    def encode(self, structure: Structure, prompt: Prompt | None = None) -> Tokens:
        """Tokens of a crystal, its primitive cell; the prompt is part of the structure.

        Raises:
            InputError: no cell, an empty site, or more atoms than the configuration holds.
        """
        if structure.cell is None or structure.positions is None or not structure.n_atoms:
            raise InputError("slots: expected a crystal with a cell and atoms, got none; molecules are for other families")
        if not structure.numbers.all():
            raise InputError("slots: expected an element on every site, got a site without one; order the crystal first")
        cell = primitive(structure)
        assert cell.cell is not None
        if cell.n_atoms > self.config.max_atoms:
            raise InputError(
                f"slots: expected at most {self.config.max_atoms} atoms in the primitive cell, got {cell.n_atoms}; use a smaller cell"
            )
        fractions = fractional(cell).astype(np.float32)
        fractions[(fractions < 1e-4) | (fractions > 1 - 1e-4)] = 0  # one atom on a face is not sorted first and last by rounding
        rank = np.array([place_of(z) for z in cell.numbers.tolist()])
        order = np.lexsort((*fractions.T[::-1].round(4), rank))
        info = structure.info
        values = [[float(info.get(name, np.nan)) for name in self.config.properties]]  # type: ignore[arg-type]
        group = np.array([space_group(cell)])
        return Tokens(cell.numbers[order], fractions[order], cell.cell.reshape(1, 9), group, np.array(values))

    def decode(self, tokens: Tokens) -> Structure:
        """The cell; total."""
        nothing = Structure(np.zeros(0, dtype=np.int64))
        cell, fractions = np.asarray(tokens.lattice, dtype=np.float64).reshape(3, 3), np.asarray(tokens.fractions, dtype=np.float64)
        if not (np.isfinite(cell).all() and np.isfinite(fractions).all()):
            return nothing.with_info(failure="no coordinates: the sampler diverged")
        if abs(np.linalg.det(cell)) < FLAT * max(1, len(fractions)):
            return nothing.with_info(failure="lattice: expected three vectors with a volume, got a flat cell")
        return placed(Structure(np.asarray(tokens.elements, dtype=np.int64)), cell, fractions)


@cache
def place_of(number: int) -> float:
    """Where an element stands among others: by electronegativity, those without one last."""
    from pymatgen.core import Element

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it tells of elements without one
        return float(np.nan_to_num(Element(SYMBOLS[number]).X, nan=9.0)) + number * 1e-4
