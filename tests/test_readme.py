"""The Python of the README runs as it stands, top to bottom."""

from pathlib import Path

import pytest
import snippets

import sciar

README = Path(__file__).parents[1] / "README.md"


def test_python_blocks_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tasks = {task for model in sciar.models() for task in model.task.split(", ")}
    if not {"conformer", "molecule"} <= tasks:
        pytest.skip("no bundled weights for conformers and molecules yet")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for block in snippets.blocks(README):
        if block.language == "python":
            exec(block.text, names)
    assert (tmp_path / "ibuprofen.sdf").read_text().count("$$$$") == 5
