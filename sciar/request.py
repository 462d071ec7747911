"""What the user asks for, checked before any model is loaded: arguments in, prompts out.

Contradictions and impossible numbers are refused with one sentence. One bad line among many lines of
input is not an error of the whole run: it stays in the request as a row without a prompt, so that every
denominator stays honest.
"""

from __future__ import annotations

import dataclasses
import difflib
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sciar.errors import InputError
from sciar.notation import elements, parse_formula, parse_smiles, space_group
from sciar.prompt import Prompt
from sciar.record import pack, unpack
from sciar.structure import NUMBERS, SYMBOLS, Structure

TASKS = ("conformer", "molecule", "graph", "crystal")
ALLOWED: Mapping[str, frozenset[str]] = {
    "conformer": frozenset({"smiles", "fixed"}),
    "molecule": frozenset({"formula", "scaffold", "fixed", "elements", "n_atoms", "properties"}),
    "graph": frozenset({"scaffold", "elements", "n_atoms", "properties"}),
    "crystal": frozenset({"formula", "n_formula_units", "fixed", "elements", "n_atoms", "spacegroup", "pxrd", "properties"}),
}
IMPLIED = {
    "smiles": "conformer",
    "formula": "crystal",
    "n_formula_units": "crystal",
    "spacegroup": "crystal",
    "pxrd": "crystal",
    "scaffold": "molecule",
}


@dataclass(frozen=True, slots=True, eq=False)
class Row:
    """One line of input: the prompt, or the sentence that says why there is none.

    Args:
        label: SMILES or formula as it was given; None for de novo.
        prompt: what goes to the model.
        problem: why this row cannot be drawn; None = it can.
    """

    label: str | None = None
    prompt: Prompt | None = None
    problem: str | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Request:
    """A checked request.

    Args:
        task: conformer, molecule, graph or crystal.
        n: draws for each row.
        rows: one per line of input.
        arguments: what was asked in JSON's types, enough to ask again.
    """

    task: str
    n: int
    rows: tuple[Row, ...]
    arguments: Mapping[str, Any]


def check(task: str | None = None, *, n: int = 1, **constraints: Any) -> Request:
    """Turn the arguments of `sciar.generate` into prompts.

    Args:
        task: None = inferred from the constraints.
        n: draws for each row of input.
        **constraints: smiles, scaffold, fixed, formula, n_formula_units, elements, n_atoms, spacegroup, pxrd, properties; None = not
            given.

    Raises:
        InputError: anything that cannot be done, in one sentence.
    """
    whole(n, "n", 1)
    given = {name: value for name, value in constraints.items() if value is not None}
    task = _task(task, given)
    shared: dict[str, Any] = {"crystal": task == "crystal"}
    arguments: dict[str, Any] = {"task": task, "n": n}
    if "elements" in given:
        arguments["elements"] = elements(given["elements"])
        hydrogen = ["H"] if task in ("molecule", "graph") else []  # as everywhere in SMILES, hydrogens need not be named
        shared["elements"] = tuple(dict.fromkeys([*arguments["elements"], *hydrogen]))
    if "n_atoms" in given:
        shared["n_atoms"] = arguments["n_atoms"] = _n_atoms(given["n_atoms"])
    if "spacegroup" in given:
        shared["space_group"] = arguments["spacegroup"] = space_group(given["spacegroup"])
    if "n_formula_units" in given:
        if "formula" not in given:
            raise InputError("n_formula_units: expected formula= with it, got none; pass for example formula='TiO2'")
        shared["formula_units"] = arguments["n_formula_units"] = whole(given["n_formula_units"], "n_formula_units", 1)
    if "properties" in given:
        shared["properties"] = arguments["properties"] = _properties(given["properties"])
    if "scaffold" in given:
        shared["scaffold"] = arguments["scaffold"] = _scaffold(given["scaffold"])
    if "fixed" in given:
        shared["fixed"] = _fixed(given["fixed"])
        arguments["fixed"] = pack(shared["fixed"])
    _only_allowed(shared)
    if "pxrd" in given:
        shared["pxrd"] = _pattern(given["pxrd"])
        arguments["pxrd"] = shared["pxrd"].tolist()
    rows: tuple[Row, ...]
    if "smiles" in given:
        lines, arguments["smiles"] = _lines(given["smiles"], "smiles")
        rows = tuple(_attempt(line, lambda text: Prompt(graph=parse_smiles(text), **shared)) for line in lines)
    elif "formula" in given:
        lines, arguments["formula"] = _lines(given["formula"], "formula")
        rows = tuple(_attempt(line, lambda text: _composed(text, shared)) for line in lines)
    else:
        rows = (Row(prompt=Prompt(**shared)),)
    if all(row.problem for row in rows):
        problem = rows[0].problem or ""
        raise InputError(problem if len(rows) == 1 else f"{problem} (and {len(rows) - 1} more rows, none of which can be drawn)")
    return Request(task, n, rows, arguments)


def whole(value: Any, name: str, least: int, most: int | None = None) -> int:
    """`value` as an int within its limits.

    Raises:
        InputError: not a whole number, or out of range.
    """
    span = f"a whole number from {least} to {most}" if most is not None else f"a whole number of at least {least}"
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least or (most is not None and value > most):
        raise InputError(f"{name}: expected {span}, got {value!r}; correct it")
    return int(value)


def known(value: str, names: Sequence[str], where: str) -> str:
    """`value` if it is one of `names`.

    Raises:
        InputError: it is not; the nearest name is suggested.
    """
    if value in names:
        return value
    near = difflib.get_close_matches(str(value), names, n=1)
    hint = f"did you mean {near[0]!r}?" if near else "see the documentation"
    raise InputError(f"{where}: expected {', '.join(names) or 'none (this model takes none)'}, got {value!r}; {hint}")


def within_limits(request: Request, statistics: Mapping[str, Any], model: str) -> tuple[Row, ...]:
    """The request's rows, those that exceed what the model was trained for turned into rows with a problem.

    Args:
        request: a checked request.
        statistics: from the model's header: elements, max_heavy_atoms, max_atoms, properties, each optional.
        model: its name, for the sentence.

    Raises:
        InputError: no row is left, or a property that the model does not know.
    """
    names = sorted(statistics.get("properties") or ())
    meant = {name: with_unit(name, names, f"properties of model {model!r}") for name in request.arguments.get("properties", ())}
    rows = tuple(_renamed(row, meant) for row in request.rows)
    rows = tuple(row if row.problem else Row(row.label, row.prompt, _excess(row, statistics, model)) for row in rows)
    if all(row.problem for row in rows):
        more = f" (and {len(rows) - 1} more rows, none of which can be drawn)" if len(rows) > 1 else ""
        raise InputError(f"{rows[0].problem}{more}")
    return rows


def with_unit(name: str, names: Sequence[str], where: str) -> str:
    """The property that `name` means: itself, or the only one that is `name` and a unit, as band_gap is band_gap_eV."""
    longer = [one for one in names if one.startswith(f"{name}_")]
    return longer[0] if name not in names and len(longer) == 1 else known(name, names, where)


def _renamed(row: Row, meant: Mapping[str, str]) -> Row:
    """The row with the properties called as the model calls them."""
    if row.prompt is None or not row.prompt.properties:
        return row
    properties = {meant[name]: value for name, value in row.prompt.properties.items()}
    return dataclasses.replace(row, prompt=dataclasses.replace(row.prompt, properties=properties))


def _excess(row: Row, statistics: Mapping[str, Any], model: str) -> str | None:
    assert row.prompt is not None
    prompt = row.prompt
    label = f"smiles {row.label[:80]!r}" if row.label and prompt.graph is not None else row.label or "prompt"
    numbers = [z for part in (prompt.graph, prompt.fixed) if part is not None for z in part.numbers.tolist()]
    numbers += [NUMBERS[symbol] for symbol, count in (prompt.composition or {}).items() for _ in range(count * (prompt.formula_units or 1))]
    if allowed := statistics.get("elements"):
        foreign = sorted(set(numbers) - {NUMBERS[z] if isinstance(z, str) else int(z) for z in allowed})
        if foreign:
            names = " ".join(z if isinstance(z, str) else SYMBOLS[int(z)] for z in allowed)
            got = ", ".join(SYMBOLS[z] for z in foreign)
            return f"{label}: expected the elements of model {model!r} ({names}), got {got}; use another model"
    for key, count, what in (
        ("max_heavy_atoms", sum(z > 1 for z in numbers), "heavy atoms"),
        ("max_atoms", len(numbers), "atoms"),
    ):
        if statistics.get(key) and count > statistics[key]:
            return f"{label}: expected at most {statistics[key]} {what} for model {model!r}, got {count}; use another model"
    if statistics.get("max_atoms") and prompt.n_atoms is not None and prompt.n_atoms[0] > statistics["max_atoms"]:
        return f"n_atoms: expected at most {statistics['max_atoms']} for model {model!r}, got {prompt.n_atoms[0]}; use another model"
    return None


def _task(task: str | None, given: Mapping[str, Any]) -> str:
    implied = {name: wanted for name, wanted in IMPLIED.items() if name in given}
    if task is None:
        if not given:
            raise InputError("generate: expected a task or a constraint, got neither; pass for example 'molecule' or smiles='CCO'")
        if not implied:
            raise InputError(f"generate: expected a task, got only {', '.join(sorted(given))}; pass 'molecule', 'graph' or 'crystal' first")
        task = next(iter(implied.values()))
    elif not isinstance(task, str) or task not in TASKS:
        near = difflib.get_close_matches(str(task).lower(), TASKS, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else "a molecule goes into smiles="
        raise InputError(f"task: expected {', '.join(TASKS)}, got {task!r}; {hint}")
    foreign = sorted(given.keys() - ALLOWED[task])
    if foreign:
        if implied and any(name != foreign[0] for name in implied):
            first = next(name for name in implied if name != foreign[0])
            raise InputError(
                f"generate: expected constraints of one task, got {first}= ({task}) together with {foreign[0]}=; leave one out"
            )
        allowed = ", ".join(sorted(ALLOWED[task]))
        raise InputError(f"generate: expected only {allowed} for task {task!r}, got {foreign[0]}=; leave it out or change the task")
    if task == "conformer" and "smiles" not in given:
        raise InputError("generate: expected smiles= for task 'conformer', got none; pass a SMILES or a list of them")
    return task


def _attempt(line: Any, make: Any) -> Row:
    label = line if isinstance(line, str) else None
    try:
        return Row(label.strip() if label else label, make(line))
    except InputError as error:
        return Row(label, None, str(error))


def _lines(value: Any, name: str) -> tuple[list[Any], Any]:
    if isinstance(value, str):
        return [value], value
    if not isinstance(value, Iterable) or isinstance(value, (bytes, Mapping)):
        raise InputError(f"{name}: expected text or a list of texts, got {type(value).__name__}; pass a string")
    lines = list(value)
    if not lines:
        raise InputError(f"{name}: expected at least one, got an empty list; nothing to draw")
    return lines, [line if isinstance(line, str) else repr(line) for line in lines]


def _n_atoms(value: Any) -> tuple[int, int]:
    few, most = value if isinstance(value, (tuple, list)) and len(value) == 2 else (value, value)
    few, most = whole(few, "n_atoms", 1), whole(most, "n_atoms", 1)
    if few > most:
        raise InputError(f"n_atoms: expected (fewest, most), got ({few}, {most}); swap them")
    return few, most


def _properties(value: Any) -> dict[str, float]:
    if not isinstance(value, Mapping) or not value:
        raise InputError(f"properties: expected names and numbers such as {{'gap_eV': 5.0}}, got {value!r}; the unit may be left out")
    for name, number in value.items():
        if isinstance(number, bool) or not isinstance(number, (int, float, np.number)) or not np.isfinite(number):
            raise InputError(f"properties: expected a finite number for {name!r}, got {number!r}; correct it")
    return {str(name): float(number) for name, number in value.items()}


def _scaffold(value: Any) -> str:
    from rdkit import Chem, rdBase

    from sciar import convert

    if not isinstance(value, str) or not value.strip():
        raise InputError(f"scaffold: expected a SMILES such as 'c1ccccc1*', got {value!r}; `*` marks where it may grow")
    with rdBase.BlockLogs(), rdBase.CaptureErrorLog() as log:
        mol = Chem.MolFromSmiles(value.strip())
    if mol is None or not mol.GetNumAtoms():
        reason = convert.log_reason(log.messages) or "no molecule"
        raise InputError(f"scaffold: expected a SMILES such as 'c1ccccc1*', got {value[:80]!r} ({reason}); `*` marks where it may grow")
    plain = Chem.Mol(mol)
    Chem.RemoveStereochemistry(plain)
    for atom in plain.GetAtoms():
        atom.SetIsotope(0)
    if Chem.MolToSmiles(plain) != Chem.MolToSmiles(mol):
        raise InputError(
            f"scaffold: expected no isotopes or stereo marks, which would be lost, got {value[:80]!r}; write {Chem.MolToSmiles(plain)!r}"
        )
    return value.strip()


def _fixed(value: Any) -> Structure:
    if isinstance(value, Mapping):
        value = unpack(value)
    elif isinstance(value, (str, os.PathLike)):
        from sciar import files

        value = next(iter(files.read(value)), None)
    elif not isinstance(value, Structure) and hasattr(value, "GetAtoms"):
        from sciar import convert

        try:
            value = convert.from_rdkit(value)
        except InputError:  # a removed hydrogen leaves an aromatic atom that RDKit takes for a radical
            value = type(value)(value)
            for atom in value.GetAtoms():
                atom.SetNoImplicit(False)
                atom.SetNumRadicalElectrons(0)
            value.UpdatePropertyCache(strict=False)
            value = convert.from_rdkit(value)
    if not isinstance(value, Structure) or value.positions is None or not value.n_atoms:
        raise InputError(
            f"fixed: expected atoms with positions (Structure, RDKit Mol or file), got {type(value).__name__}; give it coordinates"
        )
    return value


def _pattern(value: Any) -> np.ndarray:
    from sciar import pxrd

    return pxrd.pattern_of(value)


def _only_allowed(shared: Mapping[str, Any]) -> None:
    """Refuse given atoms of an element that is not allowed."""
    if "elements" not in shared:
        return
    from rdkit import Chem

    parts: dict[str, set[str]] = {}
    if "scaffold" in shared:
        parts["scaffold"] = {atom.GetSymbol() for atom in Chem.MolFromSmiles(shared["scaffold"]).GetAtoms()} - {"*"}
    if "fixed" in shared:
        parts["fixed"] = {SYMBOLS[z] for z in shared["fixed"].numbers}
    for name, held in parts.items():
        if foreign := sorted(held - set(shared["elements"])):
            raise InputError(f"{name}: expected only the elements in elements=, got {', '.join(foreign)}; leave one of the two out")


def _composed(formula: str, shared: Mapping[str, Any]) -> Prompt:
    composition = parse_formula(formula)
    foreign = sorted(composition.keys() - set(shared.get("elements", composition)))
    if foreign:
        raise InputError(
            f"formula {formula!r}: expected only the elements in elements=, got {', '.join(foreign)}; leave one of the two out"
        )
    if "n_atoms" in shared:
        few, most = shared["n_atoms"]
        size = sum(composition.values()) * (shared.get("formula_units") or 1)
        several = shared["crystal"] and "formula_units" not in shared
        if (most // size * size if several else size) < few or size > most:
            units = "multiples of " if several else ""
            raise InputError(f"formula {formula!r}: expected {few} to {most} atoms (n_atoms=), got {units}{size}; leave one of the two out")
    return Prompt(composition=composition, **shared)
