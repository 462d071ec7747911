"""Words of the command line and of its input files, as the values that Python's `generate` takes."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

from sciar.errors import InputError


def given_or_file(name: str, given: Sequence[str], options: dict[str, Any], file: Path | None) -> str | list[str] | None:
    """The entries called `name`: free words, an option of that name, which is taken from `options`, or those of a file; one alone is text.

    Raises:
        InputError: words and a file, or a file that cannot be read.
    """
    entries = [*given, *([str(options.pop(name))] if name in options else [])]
    if file is None:
        return entries[0] if len(entries) == 1 else entries or None
    if entries:
        raise InputError(f"generate: expected {name} or --{name}-file, got both; leave one out")
    return lines_of(file, name)


def lines_of(path: Path, name: str) -> list[str]:
    """The first word of each line, so that a "SMILES name" file works, or column `name` of a table (.csv, .tsv).

    An empty line is an empty entry, also in a table of one column.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "bytes that are not text"
        raise InputError(f"{path}: expected a text file with one entry per line, got {reason}; check the path") from None
    if path.suffix.lower() not in (".csv", ".tsv"):
        return [(line.split() or [""])[0] for line in text.splitlines()]
    rows = csv.reader(io.StringIO(text, newline=""), delimiter="\t" if path.suffix.lower() == ".tsv" else ",")
    header = next(rows, [])
    columns = [k for k, column in enumerate(header) if column.strip().lower() == name]
    if len(columns) != 1:
        found = ", ".join(header) or "no line"
        raise InputError(f"{path}: expected a table with one column {name}, got {found}; name the column, or give one entry per line")
    return ["".join(row[columns[0] : columns[0] + 1]).strip() for row in rows if row or len(header) == 1]


def options_of(words: Sequence[str]) -> tuple[list[str], dict[str, Any]]:
    """Free arguments, and sampler options: --nfe 10, --nfe=10."""
    free: list[str] = []
    options: dict[str, Any] = {}
    rest = iter(words)
    for word in rest:
        if not word.startswith("--"):
            if word.startswith("-") and len(word) > 1:
                raise InputError(f"option: expected one that `--help` lists, got {word!r}; correct it")
            free.append(word)
            continue
        name, equals, value = word[2:].partition("=")
        if not equals and (value := next(rest, "--")).startswith("--"):
            raise InputError(f"option: expected a value after {word!r}, got none; write {word}=VALUE")
        options[name.replace("-", "_")] = value_of(value)
    return free, options


def with_value(words: Sequence[str], option: str, value: str) -> list[str]:
    """The words with a value for `option` where it stands alone.

    >>> with_value(["-n", "9", "--ray", "-o", "new"], "--ray", "local")
    ['-n', '9', '--ray=local', '-o', 'new']
    """
    alone = [word == option and (after is None or after.startswith("-")) for word, after in zip_longest(words, words[1:])]
    return [f"{word}={value}" if bare else word for word, bare in zip(words, alone, strict=True)]


def value_of(word: str) -> Any:
    try:
        return json.loads(word)
    except ValueError:
        return word


def range_of(text: str | None) -> int | tuple[int, ...] | None:
    if text is None:
        return None
    try:
        numbers = tuple(int(part) for part in text.replace("-", ",").split(","))
    except ValueError:
        raise InputError(f"n_atoms: expected a number or FEWEST-MOST, got {text!r}; write 18 or 4-20") from None
    return numbers if len(numbers) > 1 else numbers[0]


def properties_of(pairs: Sequence[str] | None) -> dict[str, Any] | None:
    if not pairs:
        return None
    found = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals:
            raise InputError(f"property: expected NAME=VALUE, got {pair!r}; write for example gap_eV=5.0")
        found[name] = value_of(value)
    return found
