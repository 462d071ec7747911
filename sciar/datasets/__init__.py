"""Data sets: raw files to structures, once, in a memory-mapped store.

A data set is one module of this package with `INFO` and `read(root, start=0) -> Iterator[Item]`; its name is the
module's name. `read` gets the folder of the raw files and skips the first `start` items of them; an item is a
`Structure`, a tuple of them (conformers of one molecule) or a `Rejected` row.

    >>> from sciar import datasets
    >>> [molecule.formula for molecule in datasets.samples("qm9")[:3]]
    ['CH4', 'H3N', 'H2O']

Raw files are taken from the folder in the environment variable `SCIAR_DATA`, else from the cache, else from the
original source. The cache is `SCIAR_CACHE`, or the user's cache folder.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib
import os
import pkgutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from sciar.datasets.split import held_out, identity
from sciar.datasets.store import Item, Rejected, Report, Store, Writer
from sciar.errors import DataError
from sciar.structure import Structure

__all__ = [
    "File",
    "Info",
    "Item",
    "Progress",
    "Rejected",
    "Report",
    "Store",
    "Writer",
    "build",
    "cache_dir",
    "fetch",
    "held_out",
    "identity",
    "info",
    "load",
    "names",
    "prepare",
    "published",
    "samples",
    "store_path",
]

Progress = Callable[[str, int, "int | None"], None]
"""Called with what is being done, how much is done (bytes or rows) and of how much, None = not known."""


@dataclass(frozen=True, slots=True)
class File:
    """A raw file and where it can be had.

    Args:
        name: file name in the raw folder.
        checksum: `sha256:…`, `md5:…` or `git:…` (name of the blob in a git repository).
        url: address of the original, or "".
        wheel: requirement of the PyPI package whose wheel it is, or "".
    """

    name: str
    checksum: str
    url: str = ""
    wheel: str = ""


@dataclass(frozen=True, slots=True)
class Info:
    """What a data set is, where it is from and how it may be used.

    Args:
        name: name of the module.
        version: changes when `read` gives something else for the same raw files.
        description: one line.
        licence: of the data.
        citation: of the data.
        sources: addresses a person can visit.
        files: alternatives, the preferred one first; each is a set of raw files that suffices.
        splits: number of rows of each split.
        n_rows: items of the source, 0 = not known.
        shard_items: items of the source per shard.
    """

    name: str
    version: str
    description: str
    licence: str
    citation: str
    sources: tuple[str, ...]
    files: tuple[tuple[File, ...], ...]
    splits: tuple[tuple[str, int], ...] = ()
    n_rows: int = 0
    shard_items: int = 16384


def names() -> tuple[str, ...]:
    """Names of the data sets that come with sciar."""
    modules = (importlib.import_module(f"{__name__}.{module.name}") for module in pkgutil.iter_modules(__path__))
    return tuple(sorted(module.INFO.name for module in modules if hasattr(module, "INFO")))


def info(name: str) -> Info:
    """The facts of a data set.

    Raises:
        DataError: when there is no such data set.
    """
    return _module(name).INFO


def cache_dir() -> Path:
    """Folder for raw files and stores: `SCIAR_CACHE`, or the user's cache folder."""
    import platformdirs

    return Path(os.environ.get("SCIAR_CACHE") or platformdirs.user_cache_dir("sciar"))


def fetch(name: str, progress: Progress | None = None) -> Path:
    """The folder with the raw files of a data set, checked; downloads what is neither in `SCIAR_DATA` nor in the cache.

    Raises:
        DataError: when the files cannot be had or do not have the expected checksum.
    """
    return _find(info(name), progress)[0]


def load(name: str, split: str | None = None, *, partial: bool = False, progress: Progress | None = None) -> Store:
    """The store of a data set, built on first use.

    Args:
        name: one of `names()`.
        split: one of its splits; None = everything.
        partial: open an unfinished store as it is, while another process builds it.
        progress: told about downloads and rows.

    Raises:
        DataError: when the raw files cannot be had, the store is being built by another process, or has no such split.
    """
    facts = info(name)
    store = _existing(facts, partial)
    if store is None:
        root, files = _find(facts, progress)
        store = build(store_path(facts, files), lambda start: _module(name).read(root, start), facts, progress)
    return store if split is None else store.split(split)


def published(name: str) -> bool:
    """Whether `load` gives a set's published records, and not new ones of the same law; raises as `load`."""
    return load(name).path != store_path(info(name), ())


def prepare(source: str | Path, progress: Progress | None = None) -> tuple[Store, Report]:
    """The store of a data set or of a user's own file or folder, and what became of its rows.

    Args:
        source: one of `names()`, or a path to SDF, XYZ, SMILES or CSV files.
        progress: told about downloads and rows.

    Raises:
        DataError: when it is neither, or nothing in it can be used.
    """
    if str(source) in names():
        store = load(str(source), progress=progress)
    elif Path(source).exists():
        from sciar.datasets import folder

        store = folder.load(Path(source), progress)
    else:
        raise DataError(f"prepare: expected a data set or a file, got {str(source)!r}, which does not exist;{_near(str(source))}")
    return store, store.report


def samples(name: str) -> list[Structure]:
    """A few real records that come with the package: `qm9` (240 molecules), `molecules3d` (48 molecules, 2 conformers
    each) or `mp20` (120 crystals).

    Raises:
        DataError: when there are none of this name.
    """
    folder = Path(__file__).parent / "samples"
    known = sorted(path.name for path in folder.iterdir() if path.is_dir())
    if name not in known:
        raise DataError(f"samples: expected one of {', '.join(known)}, got {name!r}")
    return list(Store(folder / name))


def build(path: Path, read: Callable[[int], Iterable[Item]], facts: Info, progress: Progress | None = None) -> Store:
    """Write, or go on writing, a store from the items that `read(start)` yields.

    Raises:
        DataError: when another process is building it.
    """
    with Writer(path, shard_items=facts.shard_items) as writer:
        for item in read(writer.cursor):
            writer.add(item)
            if progress is not None:
                progress(f"building {facts.name}", writer.cursor, facts.n_rows or None)
    return Store(path)


def store_path(facts: Info, files: tuple[File, ...]) -> Path:
    """Folder of the store: keyed by the version and the checksums of the raw files."""
    key = hashlib.sha256("\n".join(file.checksum for file in files).encode()).hexdigest()[:12]
    return cache_dir() / "stores" / f"{facts.name}-{facts.version}-{key}"


def _existing(facts: Info, partial: bool) -> Store | None:
    """The store of the first of the set's files, in their order, that are here, prepared or raw."""
    for files in facts.files:
        path = store_path(facts, files)
        if (path / "complete").exists() or (partial and any(path.glob("shard-*.npz"))):
            return Store(path)
        if any(_holds(folder, files) for folder in _folders(facts)):
            return None  # to be prepared; a store of the files that come next is of other records
    return None


def _folders(facts: Info) -> list[Path]:
    own = [Path(os.environ["SCIAR_DATA"])] if os.environ.get("SCIAR_DATA") else []
    return [*own, cache_dir() / "raw" / facts.name]


def _holds(folder: Path, files: tuple[File, ...]) -> bool:
    return all((folder / file.name).exists() for file in files)


def _find(facts: Info, progress: Progress | None) -> tuple[Path, tuple[File, ...]]:
    from sciar.datasets import download

    folders = _folders(facts)
    for folder in folders:
        for files in facts.files:
            if _holds(folder, files):
                for file in files:
                    download.check(folder / file.name, file.checksum)
                return folder, files
    reasons = []
    for files in facts.files:
        try:
            for file in files:
                download.get(file, folders[-1], progress)
            return folders[-1], files
        except DataError as error:
            reasons.append(str(error))
    wanted = " or ".join(" + ".join(file.name for file in files) for files in facts.files)
    raise DataError(
        f"{facts.name}: expected its raw files, got none ({'; '.join(reasons)}); put {wanted} into a folder and set SCIAR_DATA to it"
    )


def _module(name: str) -> ModuleType:
    if name not in names():
        raise DataError(f"datasets: expected one of {', '.join(names())}, got {name!r};{_near(name)}")
    return importlib.import_module(f"{__name__}.{name}")


def _near(name: str) -> str:
    near = difflib.get_close_matches(name, names(), n=1)
    return f" did you mean {near[0]!r}?" if near else f" the data sets are {', '.join(names())}"
