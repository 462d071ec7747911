"""New processes that do not run the caller's script again."""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.context import SpawnContext


@contextmanager
def spawning() -> Iterator[SpawnContext]:
    """A context whose processes, started within, know nothing of the caller's script.

    A process that is spawned runs the caller's script first, under another name, for what may be defined there; a script without
    `if __name__ == "__main__"` then starts processes without end, which Python refuses with a page of text. Ours need nothing of it.
    """
    main = sys.modules["__main__"]
    hidden = {name: getattr(main, name) for name in ("__file__", "__spec__") if hasattr(main, name)}
    for name in hidden:
        setattr(main, name, None)
    try:
        yield multiprocessing.get_context("spawn")
    finally:
        for name, value in hidden.items():
            setattr(main, name, value)
