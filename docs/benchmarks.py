"""Pages that are made while the site is built, so that no figure is typed: benchmark results, model cards, figures in the text.

MkDocs calls the functions that begin with `on_`. `{{file.part.metric:format}}` in a page is that number of `bench/<file>.json`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
RESULTS = sorted((ROOT / "bench").glob("*.json"))
CARDS = sorted((ROOT / "sciar" / "weights").glob("*.md"))
PUBLISHED = yaml.safe_load((ROOT / "sciar" / "bench" / "published.yaml").read_text(encoding="utf-8"))
FIGURE = re.compile(r"\{\{(\w+)\.(\w+)\.([^}:]+):([^}]+)\}\}")

HEAD = """# Benchmarks

Each section is one committed file of `bench/` beside the published rows of `sciar/bench/published.yaml`; this page is made from both
whenever the site is built. Every draw counts in *raw*. *Ranked* are the draws that the model's own score would keep. Shares are between
0 and 1, lengths in Å. [Files](bench-json.md) explains the fields, [Measure a model](howto/benchmarks.md) how to make them.

Rows marked **✗** follow another protocol and are not to be compared. Sources that say *second hand* were read in a later paper's table
and not in the paper itself. All files were drawn on a machine of two cores without GPU, with other work beside.
"""


def page() -> str:
    """The benchmark page in Markdown."""
    return "\n".join([HEAD, *(section(path, json.loads(path.read_text(encoding="utf-8"))) for path in RESULTS)])


def section(path: Path, result: Mapping[str, Any]) -> str:
    """One result: how it was made, published rows beside it, every metric, the table of the run."""
    stamps = [f"{key} {result[key]}" for key in ("model", "date", "commit", "version") if key in result]
    facts = [
        f"protocol `{result['protocol']}`",
        f"{result['n_drawn']:,} draws for {result['n_requested']:,} requested",
        f"{result['seconds']:,.0f} s",
        *stamps,
    ]
    parts = [f"## {path.stem}", "", " · ".join(facts), "", f"Command: {commands()[path.name]}"]
    raw, ranked, intervals = result["raw"], result["ranked"] or {}, result["intervals"]
    sets = {row.get("set") for row in result["rows"]}
    rows = [row for row in PUBLISHED.get(result["protocol"], []) if "set" not in row or row["set"] in sets]
    columns = list(dict.fromkeys(key for row in rows for key in row["values"]))
    if columns:
        prefix = f"{rows[0]['set']}_" if "set" in rows[0] else ""  # a protocol of several test sets says in `raw` which
        ours = [["**this file, raw**", *(number(raw.get(prefix + key)) for key in columns), "", ""]]
        ours += [["**this file, ranked**", *(number(ranked.get(prefix + key)) for key in columns), "", ""]] if ranked else []
        theirs = [published_row(row, columns) for row in rows]
        parts += ["", "### Beside published rows", "", table(["model", *columns, "comparable", "source; protocol"], [*ours, *theirs])]
    header = ["metric", "raw", "95 % interval", *(["ranked"] if ranked else [])]
    lines = [[key, number(value), span(intervals.get(key)), *([number(ranked.get(key))] if ranked else [])] for key, value in raw.items()]
    parts += ["", "### All metrics", "", table(header, lines)]
    keys = list(dict.fromkeys(key for row in result["rows"] for key in row))
    if keys:
        parts += ["", "### Table of the run", "", table(keys, [[number(row.get(key)) for key in keys] for row in result["rows"]])]
    parts += ["", *(f"- {note}" for note in result["notes"])]
    return "\n".join(parts) + "\n"


def commands() -> dict[str, str]:
    """The command of each file, from `bench/README.md`."""
    text = (ROOT / "bench" / "README.md").read_text(encoding="utf-8")
    return dict(re.findall(r"^\| `(\S+\.json)` \| (.+) \|$", text, re.MULTILINE))


def number(value: Any) -> str:
    """Four digits of a number, a dash for none; shown as stored otherwise."""
    if value is None:
        return "–"
    if isinstance(value, float) and not value.is_integer():
        return f"{value:.0f}" if abs(value) >= 1e4 else f"{value:.4g}"
    return f"{value:g}" if isinstance(value, float) else str(value)


def span(interval: Sequence[float] | None) -> str:
    """Both ends of an interval."""
    return "" if interval is None else f"{number(interval[0])} to {number(interval[1])}"


def table(header: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    rows = [header, ["---"] * len(header), *lines]
    return "\n".join(f"| {' | '.join(str(cell).replace('|', '&#124;') for cell in row)} |" for row in rows)


def published_row(row: Mapping[str, Any], columns: Sequence[str]) -> list[str]:
    """The cells of a published row."""
    source = "; ".join(str(row[key]) for key in ("source", "protocol", "note") if key in row)
    return [row["model"], *(number(row["values"].get(key)) for key in columns), "✓" if row["comparable"] else "✗", source]


def with_figures(text: str) -> str:
    """A page whose `{{file.part.metric:format}}` are numbers.

    Raises:
        KeyError: no such number.
    """

    def figure(found: re.Match[str]) -> str:
        file, part, metric, form = found.groups()
        result = json.loads((ROOT / "bench" / f"{file}.json").read_text(encoding="utf-8"))
        return format(result[part][metric], form)

    return FIGURE.sub(figure, text)


def on_config(config: Any) -> Any:
    """One page for each model card."""
    config["nav"] = [{"Models": [f"models/{path.name}" for path in CARDS]} if entry == "Models" else entry for entry in config["nav"]]
    return config


def on_files(files: Any, config: Any) -> Any:
    """The pages that stand in no folder."""
    from mkdocs.structure.files import File

    files.append(File.generated(config, "benchmarks.md", content=page()))
    for path in CARDS:
        files.append(File.generated(config, f"models/{path.name}", content=path.read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Figures in the text."""
    return with_figures(markdown)
