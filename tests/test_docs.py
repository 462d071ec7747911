"""The pages under docs/ run as they stand, and no figure on them is typed: results, schema and names are the repository's own."""

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import jsonschema
import pytest
import snippets

import sciar
from sciar import bench

ROOT = Path(__file__).parents[1]
PAGES = sorted(page for page in (ROOT / "docs").rglob("*.md") if any(b.language in ("python", "bash") for b in snippets.blocks(page)))
RESULTS = sorted((ROOT / "bench").glob("*.json"))
SCHEMA = json.loads((ROOT / "docs" / "bench.schema.json").read_text())


@pytest.fixture(scope="module")
def hook() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_benchmarks", ROOT / "docs" / "benchmarks.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT / "docs")))
def test_page_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not {"conformer", "molecule", "graph", "crystal"} <= {task for model in sciar.models() for task in model.task.split(", ")}:
        pytest.skip("not all bundled weights are there")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SCIAR_CACHE", str(tmp_path / "cache"))
    monkeypatch.syspath_prepend(str(tmp_path))
    try:
        snippets.run(page, tmp_path)
    finally:
        for name in [name for name in sys.modules if name.split(".")[0] == "mine"]:  # of docs/extend.md
            del sys.modules[name]


def test_a_family_of_your_own_is_short() -> None:
    code = [b for b in snippets.blocks(ROOT / "docs" / "extend.md") if b.language in ("python", "yaml")]
    assert sum(bool(line.strip()) for block in code for line in block.text.splitlines()) <= 130


@pytest.mark.parametrize("path", RESULTS, ids=lambda p: p.stem)
def test_result_meets_the_schema(path: Path) -> None:
    result = json.loads(path.read_text())
    jsonschema.validate(result, SCHEMA)
    assert result["protocol"] in bench.protocols()
    assert set(result["intervals"]) <= set(result["raw"])
    assert result["ranked"] is None or set(result["ranked"]) <= set(result["raw"])


def test_a_new_result_meets_the_schema() -> None:
    rows = [{"model": "m", "valid": float("nan"), "exact": True}]
    result = bench.Result("qm9", 1, 2, 0.5, {"valid": float("nan")}, {"valid": 1.0}, {"valid": (0.1, 0.2)}, bench.published("qm9"), rows)
    jsonschema.validate(result.as_dict(), SCHEMA)
    for broken in ({"raw": {}}, {"raw": {"valid": "all"}}, {"seconds": None}, {"intervals": {"valid": [0.1]}}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(result.as_dict() | broken, SCHEMA)


@pytest.mark.parametrize("path", RESULTS, ids=lambda p: p.stem)
def test_result_is_on_the_page(path: Path, hook: ModuleType) -> None:
    """Command, draws, every metric raw and ranked, every published row of its protocol with its source and mark."""
    result = json.loads(path.read_text())
    section = re.search(rf"^## {path.stem}\n(.*?)(?=^## |\Z)", hook.page(), re.DOTALL | re.MULTILINE)
    assert section, "no section"
    assert f"{result['n_drawn']:,} draws for {result['n_requested']:,} requested" in section[1]
    assert "Command: `sciar " in section[1]
    tables = {
        name: [[cell.strip() for cell in line.strip("|").split(" | ")] for line in body.strip().splitlines() if line.startswith("|")]
        for name, body in re.findall(r"^### (.+?)\n(.*?)(?=^###|\Z)", section[1], re.DOTALL | re.MULTILINE)
    }
    shown = {row[0]: row[1:] for row in tables["All metrics"][2:]}
    assert list(shown) == list(result["raw"])
    for metric, value in result["raw"].items():
        assert is_shown(value, shown[metric][0])
        if result["ranked"]:
            assert is_shown(result["ranked"].get(metric), shown[metric][2])
    assert len(tables.get("Table of the run", [0, 0])) - 2 == len(result["rows"])
    published = [
        row for row in hook.PUBLISHED.get(result["protocol"], []) if row.get("set") in {None, *(r.get("set") for r in result["rows"])}
    ]
    header, _, *lines = tables.get("Beside published rows", [[], []])
    beside = {row[0]: dict(zip(header[1:], row[1:], strict=True)) for row in lines}
    for row in published:
        cells = beside[row["model"]]
        assert row["source"] in cells.pop("source; protocol") and cells.pop("comparable") == ("✓" if row["comparable"] else "✗")
        assert {key: float(cell) for key, cell in cells.items() if cell != "–"} == pytest.approx(row["values"])
    assert len(beside) == len(published) + bool(published) * (2 if result["ranked"] else 1)


def is_shown(value: float | None, cell: str) -> bool:
    return cell == "–" if value is None else float(cell) == pytest.approx(value, rel=5e-4)


def test_figures_in_the_text(hook: ModuleType) -> None:
    text = "\n".join(page.read_text() for page in (ROOT / "docs").rglob("*.md"))
    filled = hook.with_figures(text)
    assert hook.FIGURE.search(text) and "{{" not in filled
    value = json.loads((ROOT / "bench" / "mp20_csp.json").read_text())["raw"]["match_rate"]
    assert f"{100 * value:.1f}% of MP-20's test cells" in filled
    with pytest.raises(KeyError):
        hook.with_figures("{{mp20_csp.raw.no such metric:.1%}}")


def test_api_page_has_every_public_name() -> None:
    named = re.findall(r"^::: (\S+)$", (ROOT / "docs" / "api.md").read_text(), re.MULTILINE)
    assert sorted(named) == sorted(f"sciar.{file}.{name}" for name, file in sciar._PUBLIC.items())


@pytest.mark.slow
def test_site_builds(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs", reason="the extra `docs` is not installed")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert all((tmp_path / "models" / path.stem / "index.html").exists() for path in (ROOT / "sciar" / "weights").glob("*.md"))
    assert not re.search(r'(?:src|href)="(?:https?:)?//[^"]+\.(?:js|css|woff2?)"', (tmp_path / "index.html").read_text())
