"""Drug-like molecules with MMFF94s conformers, made from SMILES by RDKit.

Each molecule is embedded with ETKDGv3 from a seed of its own ([seed, row]) and minimised with MMFF94s, or with UFF
where MMFF94s has no parameters. Every record carries the stereo marks of its own coordinates, so a centre that the
SMILES leaves open is set to what was embedded.
"""

from __future__ import annotations

import lzma
import multiprocessing
import os
import time
from collections.abc import Iterable, Iterator, Set
from dataclasses import dataclass
from itertools import chain, islice, zip_longest
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np

from sciar.convert import from_rdkit
from sciar.datasets import File, Info, Item, Progress, Rejected, Report, Store
from sciar.datasets import build as build_store
from sciar.errors import DataError
from sciar.structure import Structure

N_CONFORMERS = 2
MAX_HEAVY_ATOMS = 50
ELEMENTS = frozenset({1, 5, 6, 7, 8, 9, 14, 15, 16, 17, 35, 53})
MAX_STEPS = 2000  # of the minimiser; half of the conformers converge within 200, all but a few within 500

INFO = Info(
    name="molecules3d",
    version="1",
    description="drug-like molecules of GEOM-DRUGS (train) and MOSES (train), two MMFF94s conformers each, made here with RDKit",
    licence="SMILES: GEOM CC0, MOSES MIT; coordinates: made here",
    citation="Axelrod & Gómez-Bombarelli, Sci. Data 9 (2022) 185; Polykovskiy et al., Front. Pharmacol. 11 (2020) 565644; "
    "Riniker & Landrum, J. Chem. Inf. Model. 55 (2015) 2562; Halgren, J. Comput. Chem. 20 (1999) 720",
    sources=("https://doi.org/10.7910/DVN/JNGTDF", "https://github.com/molecularsets/moses"),
    files=(
        (
            File("geom_drugs_smiles.npz", "sha256:f95fcd67498bc7721ec19e6244bc33a76c9d4c5c06e2fa0e8b93fe1ffd58f174"),
            File("moses_train.smi.xz", "sha256:2c5ba1525714512578bb6ca3a00d0a6415a81c1a551170ce57dce2cfa408a0d9"),
            File("conf_hutchison_dev.npz", "sha256:39a7cfcee25219d70b378343adcc08fb7aad7a630825dcddb5c9a1863dddd796"),
        ),
    ),
    splits=(("train", 0), ("validation", 0)),
    n_rows=155_000,
    shard_items=1000,
)


def read(root: Path, start: int = 0) -> Iterator[Item]:
    """Two conformers of each molecule: GEOM-DRUGS train (shuffled) and MOSES train in turn, `INFO.n_rows` SMILES in all.

    Molecules of the GEOM-DRUGS validation and test splits and of the Hutchison conformer benchmark are rejected,
    whatever their stereo marks. About 1 % of the molecules are the validation split.
    """
    with np.load(root / "geom_drugs_smiles.npz", allow_pickle=False) as arrays:
        geom, *held_out = (_lines(arrays[f"{split}_smiles_utf8"]) for split in ("train", "val", "test"))
    with np.load(root / "conf_hutchison_dev.npz", allow_pickle=False) as arrays:
        held_out.append(_lines(arrays["mapped_smiles_utf8"]))
    with lzma.open(root / "moses_train.smi.xz", "rt") as file:
        moses = list(islice((line.strip() for line in file), INFO.n_rows))
    exclude = {flat for smiles in chain.from_iterable(held_out) if (flat := flat_smiles(smiles))}
    order = np.random.default_rng(0).permutation(len(geom))
    pairs = zip_longest((geom[i] for i in order), moses)
    mixed = [smiles for smiles in chain.from_iterable(pairs) if smiles is not None][: INFO.n_rows]
    yield from generate(mixed, workers=os.cpu_count() or 1, start=start, exclude=exclude)


def build(
    smiles: Iterable[str],
    out: str | Path,
    *,
    n_conformers: int = N_CONFORMERS,
    workers: int = 1,
    seed: int = 0,
    timeout_seconds: float = 60.0,
    exclude: Set[str] = frozenset(),
    progress: Progress | None = None,
) -> Store:
    """A store of conformers of any molecules; an interrupted build goes on where it stopped.

    Args:
        smiles: one molecule each; the same in the same order when a build is resumed.
        out: folder of the store.
        n_conformers: at most so many per molecule.
        workers: processes.
        seed: conformers depend on (seed, row, SMILES) alone.
        timeout_seconds: a molecule that takes longer is rejected.
        exclude: molecules to leave out, as `flat_smiles`.
        progress: told about rows.

    Raises:
        DataError: when another process is building this store.
    """
    smiles = list(smiles)
    facts = Info(Path(out).name, "1", "", "", "", (), (), n_rows=len(smiles), shard_items=1000)

    def items(start: int) -> Iterator[Item]:
        return generate(smiles, n_conformers, workers=workers, seed=seed, timeout_seconds=timeout_seconds, exclude=exclude, start=start)

    return build_store(Path(out), items, facts, progress)


def embed(
    source: str | Path, out: str | Path, *, n_conformers: int = N_CONFORMERS, seed: int = 0, progress: Progress | None = None
) -> Report:
    """Conformers of every molecule of a file of SMILES or a table, as one file of structures; resumable.

    Args:
        source: any file that `sciar.read` reads; coordinates it may have are not used.
        out: file to write, in the format of its suffix.
        n_conformers, seed, progress: as `build`, by all processors.

    Returns:
        What became of the rows.

    Raises:
        InputError: a file that cannot be read or written. DataError: nothing in it could be embedded.
    """
    from sciar import files
    from sciar.convert import to_smiles
    from sciar.datasets import store_path

    source = Path(source)
    smiles = [row if isinstance(row, str) else to_smiles(row) for _, row in files.iter_read(source)]
    checksum = crc32("\n".join(smiles).encode())
    facts = Info(f"{source.stem}-conformers", INFO.version, "", "", "", (), ())
    folder = store_path(facts, (File(source.name, f"{checksum} {n_conformers} {seed}"),))
    store = build(smiles, folder, n_conformers=n_conformers, workers=os.cpu_count() or 1, seed=seed, progress=progress)
    if not len(store):
        first = store.report.rejected[0] if store.report.rejected else "there are no records"
        raise DataError(f"{source.name}: expected molecules, got none that could be embedded ({first}); correct the file")
    files.write(out, store)
    return store.report


def generate(
    smiles: Iterable[str],
    n_conformers: int = N_CONFORMERS,
    *,
    workers: int = 1,
    seed: int = 0,
    timeout_seconds: float = 60.0,
    exclude: Set[str] = frozenset(),
    start: int = 0,
) -> Iterator[Item]:
    """For each SMILES, in order, the tuple of its conformers or the reason why there is none; see `build`."""
    tasks = iter(islice(enumerate(smiles), start, None))
    pool = [_Worker(n_conformers, seed, exclude) for _ in range(workers)]
    done: dict[int, Item] = {}
    following = start
    try:
        while True:
            for worker in pool:
                # a molecule that hangs must not let the others run arbitrarily far ahead
                if worker.row is None and len(done) < 1000 and (task := next(tasks, None)) is not None:
                    worker.give(*task)
            busy = [worker for worker in pool if worker.row is not None]
            if not busy:
                return
            first = min(worker.began for worker in busy)
            ready = wait([worker.pipe for worker in busy], timeout=max(0.0, first + timeout_seconds - time.monotonic()))
            for worker in busy:
                if worker.pipe in ready:
                    row, item = worker.take()
                elif time.monotonic() - worker.began >= timeout_seconds:
                    row, item = worker.give_up(f"took too long: more than {timeout_seconds:g} s")
                else:
                    continue
                done[row] = item
            while following in done:
                yield done.pop(following)
                following += 1
    finally:
        for worker in pool:
            worker.stop()


def conformers(smiles: str, n: int, seed: int, exclude: Set[str] = frozenset()) -> tuple[Structure, ...]:
    """Up to `n` minimised conformers of one molecule, hydrogens included.

    `info`: `smiles` (canonical, with the stereo marks of this conformer) and `energy_mmff94s_kcal_per_mol` or
    `energy_uff_kcal_per_mol`.

    Raises:
        DataError: the reason why there are none.
    """
    from rdkit import Chem
    from rdkit.Chem import rdDistGeom, rdForceFieldHelpers

    mol = _parsed(smiles, exclude)
    mol = Chem.AddHs(mol)
    settings = rdDistGeom.ETKDGv3()
    settings.randomSeed = seed
    settings.maxIterations = 20
    ids = list(rdDistGeom.EmbedMultipleConfs(mol, n, settings))
    if not ids:
        settings.useRandomCoords = True
        ids = list(rdDistGeom.EmbedMultipleConfs(mol, n, settings))
    if not ids:
        raise DataError("no coordinates: ETKDGv3 found none")
    if rdForceFieldHelpers.MMFFHasAllMoleculeParams(mol):
        key = "energy_mmff94s_kcal_per_mol"
        outcomes = rdForceFieldHelpers.MMFFOptimizeMoleculeConfs(mol, maxIters=MAX_STEPS, mmffVariant="MMFF94s")
    elif rdForceFieldHelpers.UFFHasAllMoleculeParams(mol):
        key = "energy_uff_kcal_per_mol"
        outcomes = rdForceFieldHelpers.UFFOptimizeMoleculeConfs(mol, maxIters=MAX_STEPS)
    else:
        raise DataError("no force field: neither MMFF94s nor UFF has parameters")
    found = []
    for conformer, (status, energy) in zip(ids, outcomes, strict=True):
        if status == 0:
            marked = Chem.Mol(mol, confId=conformer)
            Chem.AssignStereochemistryFrom3D(marked, conformer)
            text = Chem.MolToSmiles(Chem.RemoveHs(marked))
            found.append(from_rdkit(marked, conformer).replace(info={"smiles": text, key: energy}))
    if not found:
        raise DataError(f"not minimised: no conformer converged in {MAX_STEPS} steps")
    return tuple(found)


def flat_smiles(smiles: str) -> str | None:
    """Canonical SMILES without stereo marks, isotopes, atom maps and explicit hydrogens; None when it is not a molecule."""
    from rdkit import Chem, rdBase

    with rdBase.BlockLogs():
        mol = Chem.MolFromSmiles(smiles)
        return None if mol is None else _flat(mol)


def _flat(mol: Any) -> str:
    from rdkit import Chem

    plain = Chem.Mol(mol)
    for atom in plain.GetAtoms():
        atom.SetAtomMapNum(0)
    return Chem.MolToSmiles(Chem.RemoveHs(plain), isomericSmiles=False)


def _parsed(smiles: str, exclude: Set[str]) -> Any:
    from rdkit import Chem
    from rdkit.Chem.Descriptors import NumRadicalElectrons

    mol = Chem.MolFromSmiles(smiles)
    if mol is None or not mol.GetNumAtoms():
        raise DataError(f"not a SMILES: {smiles}")
    if len(Chem.GetMolFrags(mol)) > 1:
        raise DataError(f"more than one fragment: {smiles}")
    if strange := {atom.GetSymbol() for atom in mol.GetAtoms() if atom.GetAtomicNum() not in ELEMENTS}:
        raise DataError(f"element not allowed: {', '.join(sorted(strange))}")
    if mol.GetNumHeavyAtoms() > MAX_HEAVY_ATOMS:
        raise DataError(f"more than {MAX_HEAVY_ATOMS} heavy atoms: {smiles}")
    if NumRadicalElectrons(mol):
        raise DataError(f"radical: {smiles}")
    for atom in mol.GetAtoms():
        atom.SetIsotope(0)
    if exclude and _flat(mol) in exclude:
        raise DataError(f"held out: {smiles}")
    return mol


def _lines(utf8: np.ndarray) -> list[str]:
    return utf8.tobytes().decode().splitlines()


def _attempt(row: int, smiles: str, n: int, seed: int, exclude: Set[str]) -> Item:
    """One task of a worker."""
    own_seed = int(np.random.SeedSequence([seed, row]).generate_state(1)[0]) & 0x7FFFFFFF
    try:
        found = conformers(smiles, n, own_seed, exclude)
    except (DataError, RuntimeError, ValueError) as error:  # RDKit raises the latter two; its reason is kept
        return Rejected(row, str(error).strip())
    # all stereoisomers of a molecule, and the molecule wherever else it occurs, fall into the same split
    split = "validation" if crc32((flat_smiles(smiles) or smiles).encode()) % 100 == 0 else "train"
    return tuple(structure.with_info(row=row, split=split) for structure in found)


def _work(pipe: Connection, n: int, seed: int, exclude: Set[str]) -> None:
    from rdkit import RDLogger

    RDLogger.DisableLog("rdApp.*")  # in this process only
    parent = multiprocessing.parent_process()
    assert parent is not None
    while pipe in wait([pipe, parent.sentinel]):  # ends with its parent, however that ends
        row, smiles = pipe.recv()
        pipe.send((row, _attempt(row, smiles, n, seed, exclude)))


@dataclass
class _Worker:
    """A process with one task at a time, so that it can be ended when the task takes too long."""

    n_conformers: int
    seed: int
    exclude: Set[str]
    row: int | None = None
    began: float = 0.0

    def __post_init__(self) -> None:
        self._start()

    def _start(self) -> None:
        self.pipe, other = multiprocessing.Pipe()
        self._process: BaseProcess = multiprocessing.Process(
            target=_work, args=(other, self.n_conformers, self.seed, self.exclude), daemon=True
        )
        self._process.start()
        other.close()

    def give(self, row: int, smiles: str) -> None:
        self.pipe.send((row, smiles))
        self.row, self.began = row, time.monotonic()

    def take(self) -> tuple[int, Item]:
        try:
            row, item = self.pipe.recv()
        except EOFError:
            return self.give_up("crashed: the process that made its conformers died")
        self.row = None
        return row, item

    def give_up(self, reason: str) -> tuple[int, Item]:
        assert self.row is not None
        row = self.row
        self.stop()
        self.row = None
        self._start()
        return row, Rejected(row, reason)

    def stop(self) -> None:
        self._process.kill()
        self._process.join()
        self.pipe.close()
