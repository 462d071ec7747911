"""The notations a user writes: SMILES, formulas, element symbols. Each is read here, or refused in one sentence."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable
from functools import lru_cache

import numpy as np

from sciar.errors import InputError
from sciar.structure import NUMBERS, SYMBOLS, Structure

LONGEST_SMILES = 10_000  # characters; beyond this RDKit's parser is the wrong tool
NON_METALS = frozenset(NUMBERS[s] for s in "H He B C N O F Ne Si P S Cl Ar Ge As Se Br Kr Te I Xe At Rn".split())


def parse_smiles(smiles: str) -> Structure:
    """A bonded molecule with explicit hydrogens from one SMILES, atoms in the order of the SMILES, added hydrogens last.

    Raises:
        InputError: not a SMILES, several fragments, radicals, metals, dummy atoms.
    """
    from rdkit import Chem, rdBase

    from sciar import convert

    def refuse(expected: str, got: str, advice: str) -> InputError:
        shown = smiles if len(smiles) <= 80 else f"{smiles[:77]}…"
        return InputError(f"smiles {shown!r}: expected {expected}, got {got}; {advice}")

    if not isinstance(smiles, str) or not smiles.strip():
        return convert.from_smiles(smiles)  # which refuses it
    smiles = smiles.strip()
    if len(smiles) > LONGEST_SMILES:
        raise refuse(f"at most {LONGEST_SMILES} characters", str(len(smiles)), "split the molecule")
    if not smiles.isascii() or not smiles.isprintable() or " " in smiles:
        raise refuse("one SMILES", "blanks or characters that SMILES does not have", "pass one molecule per text")
    with rdBase.BlockLogs():
        mol = Chem.MolFromSmiles(smiles, sanitize=False)
    if mol is None:
        for symbol in re.findall(r"\[\d*([A-Z][a-z]?)", smiles):
            element(symbol, f"smiles {smiles[:80]!r}")
    else:
        if (fragments := len(Chem.GetMolFrags(mol))) > 1:
            raise refuse("one connected molecule", f"{fragments} parts", "pass one part, for example without the counter-ion")
        numbers = {atom.GetAtomicNum() for atom in mol.GetAtoms()}
        if 0 in numbers or mol.HasQuery():
            raise refuse("real atoms", "a place-holder", "replace * or the query by an element")
        if metals := sorted(numbers - NON_METALS):
            raise refuse("non-metals", ", ".join(SYMBOLS[z] for z in metals), "metals and their complexes are not supported")
    structure = convert.from_smiles(smiles)
    with rdBase.BlockLogs():
        Chem.SanitizeMol(mol)
    if radicals := sum(atom.GetNumRadicalElectrons() for atom in mol.GetAtoms()):
        raise refuse("a closed-shell molecule", f"{radicals} unpaired electron{'s' * (radicals > 1)}", "add the missing hydrogens")
    return structure


def parse_formula(formula: str) -> dict[str, int]:
    """Atoms per element of a formula such as "LiFePO4" or "Ca(OH)2".

    Raises:
        InputError: not a formula, or an unknown element.
    """
    refused = InputError(
        f"formula: expected text such as 'LiFePO4' or 'Ca(OH)2', got {str(formula)[:80]!r}; write element symbols and whole numbers"
    )
    text = formula.strip() if isinstance(formula, str) else ""
    while group := re.search(r"\(((?:[A-Z][a-z]?\d{0,4})+)\)(\d{0,2})", text):
        text = text[: group.start()] + group[1] * int(group[2] or 1) + text[group.end() :]
        if len(text) > 10_000:
            raise refused
    if not re.fullmatch(r"(?:[A-Z][a-z]?(?:[1-9]\d{0,3})?)+", text):
        raise refused
    counts: dict[str, int] = {}
    for symbol, number in re.findall(r"([A-Z][a-z]?)(\d*)", text):
        element(symbol, f"formula {formula!r}")
        counts[symbol] = counts.get(symbol, 0) + int(number or 1)
    return counts


def elements(value: str | int | Iterable[str | int], where: str = "elements") -> list[str]:
    """Element symbols from symbols or atomic numbers, in order, without repeats; of text such as "Li-Fe-O", "Li, Fe, O" too.

    Raises:
        InputError: an unknown element, or none at all.
    """
    entries = re.split(r"[-,\s]+", value.strip()) if isinstance(value, str) else [value] if isinstance(value, int) else list(value)
    symbols = [element(entry, where) for entry in entries]
    if not symbols:
        raise InputError(f"{where}: expected at least one element, got none; pass for example ['C', 'N', 'O']")
    return list(dict.fromkeys(symbols))


def space_group(value: int | str) -> int:
    """International number 1..230 of a number or of a Hermann–Mauguin symbol, short or full, in any setting.

    Raises:
        InputError: neither; the nearest symbol is suggested.

    >>> space_group("Fm-3m"), space_group("P b n m"), space_group("14"), space_group(225)
    (225, 62, 14, 225)
    """
    if isinstance(value, (int, np.integer)) and not isinstance(value, bool) and 1 <= value <= 230:
        return int(value)
    if isinstance(value, str) and value.strip().isdigit() and 1 <= int(value) <= 230:
        return int(value)
    table = _symbols()
    text = _compact(value) if isinstance(value, str) else ""
    if text in table:
        return table[text]
    lower, wanted = {symbol.lower(): symbol for symbol in table}, text.lower()

    def likeness(symbol: str) -> tuple[float, int]:
        """Of equally near ones, more is mistyped at the end than at the beginning."""
        return difflib.SequenceMatcher(None, symbol, wanted).ratio(), len(os.path.commonprefix([symbol, wanted]))

    near = max(difflib.get_close_matches(wanted, lower, n=9, cutoff=0.5), key=likeness, default="")
    hint = f"did you mean {lower[near]!r}?" if near else "write for example 225 or 'Fm-3m'"
    raise InputError(f"spacegroup: expected a number from 1 to 230 or a Hermann–Mauguin symbol, got {value!r}; {hint}")


@lru_cache(maxsize=1)
def _symbols() -> dict[str, int]:
    """Symbols of all 530 settings without blanks, the standard ones first."""
    import moyopy

    found: dict[str, int] = {}
    for number in range(1, 231):
        found.setdefault(_compact(moyopy.SpaceGroupType(number).hm_short), number)
    for hall in range(1, 531):
        entry = moyopy.HallSymbolEntry(hall)
        for symbol in (entry.hm_short, entry.hm_full):
            found.setdefault(_compact(symbol), int(entry.number))
    return found


def _compact(symbol: str) -> str:
    return re.sub(r"[\s_]", "", symbol)


def element(value: str | int, where: str) -> str:
    """The symbol of one element.

    Raises:
        InputError: unknown; near misses are suggested.
    """
    if isinstance(value, (int, np.integer)) and not isinstance(value, bool) and 1 <= value <= 118:
        return SYMBOLS[int(value)]
    if isinstance(value, str) and value in NUMBERS and value != "X":
        return value
    near = [symbol for symbol in SYMBOLS[1:] if symbol.lower() == str(value).lower()] or difflib.get_close_matches(
        str(value), SYMBOLS[1:], n=1
    )
    hint = f"did you mean {near[0]!r}?" if near else "use symbols such as 'C'"
    raise InputError(f"{where}: expected known elements, got {value!r}; {hint}")
