"""New processes that do not run the caller's script again, and files that one process keeps for itself."""

from __future__ import annotations

import multiprocessing
import pickle
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.context import SpawnContext
from multiprocessing.pool import Pool
from typing import IO, Any

try:
    import fcntl
except ImportError:  # Windows: processes are not kept apart
    fcntl = None  # type: ignore[assignment]


def keep(file: IO[Any]) -> None:
    """Have an open file for this process alone until it is closed.

    Raises:
        BlockingIOError: another process has it.
    """
    if fcntl is not None:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


@contextmanager
def spawning(sent: object = None) -> Iterator[SpawnContext]:
    """A context whose processes, started within, know nothing of the caller's script.

    A process that is spawned runs the caller's script first, under another name, for what may be defined there; a script without
    `if __name__ == "__main__"` then starts processes without end, which Python refuses with a page of text. So the script is hidden,
    unless something of it is `sent`.
    """
    main = sys.modules["__main__"]
    names = () if b"__main__" in pickle.dumps(sent) else ("__file__", "__spec__")
    hidden = {name: getattr(main, name) for name in names if hasattr(main, name)}
    for name in hidden:
        setattr(main, name, None)
    try:
        yield multiprocessing.get_context("spawn")
    finally:
        for name, value in hidden.items():
            setattr(main, name, value)


@contextmanager
def pool(jobs: int) -> Iterator[Pool]:
    """So many of them, for functions of this package."""
    with spawning() as context:
        made = context.Pool(jobs)
    with made:
        yield made
