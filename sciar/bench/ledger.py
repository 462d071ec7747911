"""What took long to compute, on disk by key: a run that was stopped goes on, and a second one is quick."""

from __future__ import annotations

import importlib.metadata
import json
import sqlite3
from collections.abc import Iterator, MutableMapping
from typing import Any

from sciar.datasets import cache_dir


def comparisons() -> Ledger:
    """Of pairs of crystals, for `sciar.metrics.crystal`."""
    return Ledger(f"comparisons-pymatgen-{importlib.metadata.version('pymatgen')}")


class Ledger(MutableMapping[str, Any]):
    """Values of JSON's types in `bench/<name>.sqlite` of the cache; several processes may write.

    Raises:
        OSError: the folder cannot be made.
    """

    def __init__(self, name: str) -> None:
        path = cache_dir() / "bench" / f"{name}.sqlite"
        path.parent.mkdir(parents=True, exist_ok=True)
        self._table = sqlite3.connect(path, timeout=60, isolation_level=None)
        self._table.execute("PRAGMA journal_mode = WAL")
        self._table.execute("PRAGMA synchronous = NORMAL")  # one sync in many entries; a power cut loses the last ones, never the file
        self._table.execute("CREATE TABLE IF NOT EXISTS entries (key TEXT PRIMARY KEY, value TEXT)")

    def __getitem__(self, key: str) -> Any:
        found = self._table.execute("SELECT value FROM entries WHERE key = ?", (key,)).fetchone()
        if found is None:
            raise KeyError(key)
        return json.loads(found[0])

    def __setitem__(self, key: str, value: Any) -> None:
        self._table.execute("INSERT OR REPLACE INTO entries VALUES (?, ?)", (key, json.dumps(value)))

    def __delitem__(self, key: str) -> None:
        if not self._table.execute("DELETE FROM entries WHERE key = ?", (key,)).rowcount:
            raise KeyError(key)

    def __iter__(self) -> Iterator[str]:
        return (key for (key,) in self._table.execute("SELECT key FROM entries").fetchall())

    def __len__(self) -> int:
        return int(self._table.execute("SELECT COUNT(*) FROM entries").fetchone()[0])
