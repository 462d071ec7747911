"""The code blocks of a page, run top to bottom as they stand.

A block whose title is a file name is written to that file; a title that begins with "not run" says why a block is left out.
Python shares one set of names; of shell blocks the lines that begin with `sciar` are run.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import NamedTuple

FENCE = re.compile(r'^( *)```(\w+)(?: title="([^"\n]*)")?\n(.*?)^\1```', re.DOTALL | re.MULTILINE)
LEFT_OUT = "not run"


class Block(NamedTuple):
    language: str
    title: str
    text: str


def blocks(page: Path) -> list[Block]:
    """Fenced blocks of a page in order."""
    return [Block(language, title, text) for _, language, title, text in FENCE.findall(page.read_text())]


def run(page: Path, folder: Path) -> dict[str, object]:
    """Run a page's blocks in `folder`, which is the working directory; the names they leave."""
    from sciar import cli

    names: dict[str, object] = {}
    for block in blocks(page):
        if block.title.startswith(LEFT_OUT):
            continue
        if block.title:
            (folder / block.title).parent.mkdir(parents=True, exist_ok=True)
            (folder / block.title).write_text(block.text)
        elif block.language == "python":
            exec(block.text, names)
        elif block.language == "bash":
            for line in block.text.splitlines():
                if line.startswith("sciar "):
                    assert cli.run(shlex.split(line, comments=True)[1:]) == cli.DONE, line
    return names
