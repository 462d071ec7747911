"""Crystals and molecules moved to a minimum of an interatomic potential: any ASE calculator; time-outs and failures keep their reason.

Each structure is relaxed in a process of its own, which is ended when its time is over, so that one bad cell cannot stop the others.
"""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

import numpy as np

from sciar.convert import from_ase, to_ase
from sciar.errors import InputError
from sciar.processes import spawning
from sciar.structure import Structure

MODELS = ("chgnet", "emt", "lj")
OPTIMIZERS = ("FIRE", "BFGS")
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True, eq=False)
class Relaxed:
    """What became of a structure.

    Args:
        structure: relaxed; as it was given when it failed.
        energy_before: eV per cell; nan = not known.
        energy_after: eV per cell; nan = not known.
        steps: taken.
        converged: all forces are below the limit.
        failure: why there is no relaxed structure; None = there is one.
    """

    structure: Structure
    energy_before: float = float("nan")
    energy_after: float = float("nan")
    steps: int = 0
    converged: bool = False
    failure: str | None = None


@dataclass(frozen=True, slots=True)
class How:
    """As the arguments of `relax`."""

    model: Any
    steps: int
    force: float
    cell: bool
    optimizer: str


def relax(
    structures: Sequence[Structure],
    model: Any = "chgnet",
    steps: int = 300,
    force: float = 0.05,
    cell: bool = True,
    optimizer: str = "FIRE",
    seconds: float = 300.0,
    jobs: int = 1,
    progress: Progress | None = None,
) -> list[Relaxed]:
    """Relax structures one by one.

    Args:
        structures: crystals, or molecules with positions.
        model: "chgnet", "emt", "lj", an ASE calculator, or a function that makes one; it must be picklable.
        steps: at most so many; 0 = only the energy of the structure as it is.
        force: eV/Å, largest force at which a structure is relaxed.
        cell: relax the cell of a crystal too (Fréchet filter).
        optimizer: "FIRE" or "BFGS".
        seconds: for one structure; then it failed.
        jobs: structures relaxed at the same time.
        progress: told how many are done.

    Returns:
        One entry per structure, in order.

    Raises:
        InputError: ASE or the potential is not installed, an unknown name, or a number out of range.
    """
    done: dict[int, Relaxed] = {}
    for index, result in relaxing(structures, How(model, steps, force, cell, optimizer), seconds, jobs):
        done[index] = result
        if progress is not None:
            progress(len(done), len(structures))
    return [done[k] for k in range(len(structures))]


def relaxing(structures: Sequence[Structure], how: How, seconds: float = 300.0, jobs: int = 1) -> Iterator[tuple[int, Relaxed]]:
    """`relax`, one (index, result) as soon as it is there, in any order.

    Raises:
        InputError: as `relax`, when the first result is asked for.
    """
    _check(how.model, how.steps, how.force, how.optimizer, seconds, jobs)
    try:
        pickle.dumps(how)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise InputError(
            f"relax: expected a calculator that can be sent to a process, got {error}; pass a function that makes it"
        ) from None
    n_done = 0
    waiting = list(range(len(structures)))[::-1]
    workers = [_Worker(how) for _ in range(min(jobs, len(structures)))]
    try:
        while n_done < len(structures):
            for worker in workers:
                if worker.index is None and waiting:
                    worker.give(waiting[-1], structures[waiting.pop()], seconds)
            busy = [worker for worker in workers if worker.index is not None]
            left = max(0.0, min(worker.deadline for worker in busy) - time.monotonic())
            wait([worker.pipe for worker in busy], timeout=left)
            for worker in busy:
                if (result := worker.take(structures)) is not None:
                    n_done += 1
                    yield result
    finally:
        for worker in workers:
            worker.end()


def calculator(model: Any) -> Any:
    """The ASE calculator of a name; a calculator itself; what a function makes.

    Raises:
        InputError: the package of this name is not installed.
    """
    if model == "emt":
        from ase.calculators.emt import EMT

        return EMT()
    if model == "lj":
        from ase.calculators.lj import LennardJones

        return LennardJones()
    if model == "chgnet":
        try:
            from chgnet.model.dynamics import CHGNetCalculator
        except ImportError:
            raise InputError("relax: expected the package chgnet, got none; pip install 'sciar[relax]', or pass a calculator") from None
        return CHGNetCalculator(use_device="cpu", verbose=False)
    return model if hasattr(model, "get_property") and not isinstance(model, type) else model()


def relaxed(structure: Structure, how: How, potential: Any) -> Relaxed:
    """One structure in this process."""
    from ase.filters import FrechetCellFilter
    from ase.optimize import BFGS, FIRE

    atoms = to_ase(structure.replace(info={}))
    atoms.calc = potential
    try:
        before = float(atoms.get_potential_energy())
        target = FrechetCellFilter(atoms) if how.cell and structure.cell is not None else atoms
        run = {"FIRE": FIRE, "BFGS": BFGS}[how.optimizer](target, logfile=None)
        converged = bool(run.run(fmax=how.force, steps=how.steps))
        after = float(atoms.get_potential_energy())
    except Exception as error:  # a foreign potential may raise anything; the reason is kept and the other structures go on
        return Relaxed(structure, failure=f"{type(error).__name__}: {' '.join(str(error).split())[:200]}")
    if not np.isfinite(after) or not np.isfinite(atoms.positions).all() or not np.isfinite(np.asarray(atoms.cell)).all():
        return Relaxed(structure, before, failure="energy or positions are not finite")
    moved = from_ase(atoms)
    result = structure.replace(positions=moved.positions, cell=moved.cell if structure.cell is not None else None)
    return Relaxed(result, before, after, int(run.get_number_of_steps()), converged)


class _Worker:
    """A process that relaxes one structure after another; it is replaced when it is too slow or dies."""

    def __init__(self, how: How) -> None:
        self.how = how
        self.index: int | None = None
        self.deadline = 0.0
        self._start()

    def _start(self) -> None:
        with spawning(self.how) as context:
            self.pipe, there = context.Pipe()
            self.process = context.Process(target=_serve, args=(there, self.how), daemon=True)
            self.process.start()
        there.close()
        self.fresh = True

    def give(self, index: int, structure: Structure, seconds: float) -> None:
        self.index, self.seconds = index, seconds
        # a new process first loads its potential; its time begins when it says that it is ready
        if self.fresh:
            try:
                said = self.pipe.recv()
            except EOFError:
                said = "the end of its process (with a calculator of your script, the rest belongs under `if __name__ == '__main__'`)"
            if said is not None:
                raise InputError(f"relax: expected a potential that can be loaded, got {said}; correct it")
            self.fresh = False
        self.pipe.send(structure)
        self.deadline = time.monotonic() + seconds

    def take(self, structures: Sequence[Structure]) -> tuple[int, Relaxed] | None:
        """The result, or what went wrong; None while it is still at work."""
        assert self.index is not None
        index, result = self.index, None
        if self.pipe.poll():
            try:
                result = self.pipe.recv()
            except EOFError:
                result = Relaxed(structures[index], failure="the process ended without a result")
                self._restart()
        elif time.monotonic() >= self.deadline:
            result = Relaxed(structures[index], failure=f"not done after {self.seconds:g} s")
            self._restart()
        if result is None:
            return None
        self.index = None
        return index, result

    def _restart(self) -> None:
        self.end()
        self._start()

    def end(self) -> None:
        self.process.kill()
        self.process.join()
        self.pipe.close()


def _serve(pipe: Connection, how: How) -> None:
    import ase.filters
    import ase.optimize  # noqa: F401 - loading it is not part of a structure's time

    try:
        potential = calculator(how.model)
    except Exception as error:  # told to the process that asked
        pipe.send(f"{type(error).__name__}: {error}")
        return
    pipe.send(None)
    while True:
        try:
            structure = pipe.recv()
        except EOFError:
            return
        pipe.send(relaxed(structure, how, potential))


def _check(model: Any, steps: int, force: float, optimizer: str, seconds: float, jobs: int) -> None:
    import importlib.util

    if importlib.util.find_spec("ase") is None:
        raise InputError("relax: expected the package ase, got none; pip install 'sciar[relax]'")
    if isinstance(model, str):
        if model not in MODELS:
            raise InputError(f"relax: expected {', '.join(MODELS)} or an ASE calculator, got {model!r}; correct it")
        if model == "chgnet" and importlib.util.find_spec("chgnet") is None:
            raise InputError("relax: expected the package chgnet, got none; pip install 'sciar[relax]', or pass a calculator")
    elif not callable(model) and not hasattr(model, "get_property"):
        raise InputError(f"relax: expected an ASE calculator or its name, got {type(model).__name__}; pass for example 'chgnet'")
    if optimizer not in OPTIMIZERS:
        raise InputError(f"relax: expected optimizer {' or '.join(OPTIMIZERS)}, got {optimizer!r}; correct it")
    for name, value, least in (("steps", steps, 0), ("force", force, 1e-6), ("seconds", seconds, 1e-3), ("jobs", jobs, 1)):
        if isinstance(value, bool) or not isinstance(value, (int, float)) or value < least:
            raise InputError(f"relax: expected {name} of at least {least:g}, got {value!r}; correct it")
