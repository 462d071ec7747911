"""Notebooks hold no output and run from a kernel of this environment."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

import sciar

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_no_stored_output(path: Path) -> None:
    cells = nbformat.read(path, as_version=4).cells
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in cells)


@pytest.mark.parametrize("path", [pytest.param(p, id=p.stem, marks=[] if p.stem == "quickstart" else pytest.mark.slow) for p in NOTEBOOKS])
def test_runs(path: Path, tmp_path: Path) -> None:
    if not sciar.models():
        pytest.skip("no bundled weights yet")
    where = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(nbformat.read(path, as_version=4), timeout=120, kernel_name="python3", resources=where).execute()
