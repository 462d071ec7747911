"""Many draws by many processes: a run cut into shards, drawn by Ray workers into a folder that the same call goes on with.

Draw i is a function of (seed, i, weights) alone, and shard k is the draws k·shard … (k+1)·shard − 1, so it is the same whoever draws
it and however often, to the last digit. (Shards of another size make other batches, which round differently.) Only the process that
calls `generate` writes: a worker that is killed leaves nothing behind, and its shard goes to another one. `examples/slurm.sh` starts
a cluster under SLURM.
"""

from __future__ import annotations

import collections.abc
import contextlib
import copy
import dataclasses
import logging
import os
import re
import signal
import socket
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sciar.errors import InputError, SciarError
from sciar.generate import How, prepared, ready, tqdm_bar, versions
from sciar.generator import Generator, chosen_device
from sciar.record import text
from sciar.request import Request, Row, check, whole
from sciar.shards import CONSTRAINTS, Shards, parquet, span_of, table

WAIT = 10.0  # s, for a cluster to answer
LOSSES = 3  # workers that may be lost over one shard, or one after another before any of them draws
FORMATS = {"conformer": ("sdf", "smi"), "molecule": ("sdf", "smi"), "crystal": ("cif",)}


def generate(
    task: str | None = None,
    *,
    out: str | os.PathLike[str],
    ray_address: str | None = None,
    shard: int = 1000,
    workers: int | None = None,
    n: int = 1,
    model: str | os.PathLike[str] | Generator | None = None,
    seed: int | None = None,
    batch_size: int | None = None,
    device: str | None = None,
    retry: int = 0,
    fallback: str | None = None,
    progress: Any = None,
    drop_invalid: bool = False,
    **arguments: Any,
) -> Shards:
    """`sciar.generate` by the workers of a Ray cluster, into a folder; the same call again goes on where it stopped.

    Args:
        task: as in `sciar.generate`, as are n, model, seed, batch_size, retry, fallback, progress and the constraints and options.
        out: folder; a new one, or that of the same request. Only this process writes there.
        ray_address: "auto" = the cluster of this machine, "HOST:PORT", "ray://HOST:PORT"; None or "local" = one that is started here and
            stopped at the end. A cluster this process is connected to already is used as it is.
        shard: draws of one shard, which are in memory together and lost together.
        workers: processes, each with the model and one core or GPU; None = as many as the cluster has.
        device: "cpu", "cuda" (one GPU for each worker), or "auto" = GPUs if the cluster has some.
        drop_invalid: leave invalid draws out of the text files; the tables have every draw.
        **arguments: constraints and sampler's options.

    Returns:
        The finished folder.

    Raises:
        InputError: what is asked cannot be done, the folder holds another request, no cluster answers, or Ray is not installed.
        SciarError: the disk is full, or a shard loses one worker after another. What is finished is kept.
    """
    for name, plain in (("keep", 1), ("stream", False), ("then_3d", False)):
        if arguments.pop(name, plain) != plain:
            raise InputError(f"scale: expected a run without {name}=, which needs all draws in one process; leave it out")
    request = check(task, n=n, **{name: arguments.pop(name) for name in CONSTRAINTS & arguments.keys()})
    how = How(seed, batch_size, retry, fallback=fallback, drop_invalid=drop_invalid)
    how.check(request)
    whole(shard, "shard", 1)
    if workers is not None:
        whole(workers, "workers", 1)
    if device not in (None, "auto", "cpu", "cuda"):
        raise InputError(f"device: expected 'auto', 'cpu' or 'cuda' for workers, got {device!r}; Ray tells each of them which GPU it has")
    folder = Path(out)
    _checked(folder)
    ray = _ray()
    generator, rows, options = ready(request, how, model, "cpu", arguments)
    if generator.device.type != "cpu":
        generator = Generator(generator.tokenizer, copy.deepcopy(generator.model).cpu(), generator.header, generator.name)
    if all(row.problem for row in rows):
        raise InputError(str(rows[0].problem))
    graphs = ("smi",) if "elements" in generator.header["statistics"] else ("g6",)  # of molecules, or plain ones
    shards = Shards.begun(
        folder,
        {
            "arguments": {**request.arguments, "retry": retry, "keep": 1.0, "fallback": fallback, "drop_invalid": drop_invalid, **options},
            "weights_sha256": str(generator.header["sha256"]),
            "seed": seed,
            "shard": shard,
        },
        {
            "model": generator.name,
            "n_requested": len(rows) * n,
            "formats": FORMATS.get(request.task, graphs),
            "refused": {str(i): row.problem for i, row in enumerate(rows) if row.problem},
            "versions": versions(),
        },
    )
    show = tqdm_bar(shards.n_requested) if progress is True else progress
    todo = deque(k for k in range(shards.n_shards) if k not in shards.finished())
    if show is not None:
        show(shards.n_draws(), shards.n_requested)
    if todo:
        how = dataclasses.replace(how, seed=shards.manifest["seed"])
        with _cluster(ray, ray_address, workers) as resources:
            kind = "GPU" if device == "cuda" or (device != "cpu" and resources.get("GPU", 0) >= 1) else "CPU"
            if workers is None and resources.get(kind, 0) < 1:
                raise InputError(f"ray: expected a cluster with a {kind}, got none; add a node, or pass workers= if nodes come on demand")
            job = ray.put(Job(generator, request, how, rows, options, shards.manifest, "cuda" if kind == "GPU" else "cpu"))
            amount = {"num_cpus": 1, "num_gpus": 1} if kind == "GPU" else {"num_cpus": 1}
            start = ray.remote(**amount)(Worker).remote
            count = min(workers or int(resources[kind]), len(todo))
            with contextlib.closing(_drawn(ray, lambda: start(job), todo, count)) as finished:
                for number, files in finished:
                    shards.add(number, files)
                    if show is not None:
                        show(shards.n_draws(), shards.n_requested)
    return shards


@dataclass(frozen=True, slots=True, eq=False)
class Job:
    """What a worker needs to draw any shard."""

    generator: Generator
    request: Request
    how: How
    rows: tuple[Row, ...]
    options: Mapping[str, Any]
    manifest: Mapping[str, Any]
    device: str


class Worker:
    """A process that holds the model, on one thread."""

    def __init__(self, job: Job) -> None:
        torch.set_num_threads(1)
        self.job = job
        job.generator.model.to(chosen_device(job.device)).eval()

    def ready(self) -> None:
        """Returns when the model is loaded."""

    def draw(self, number: int) -> dict[str, bytes]:
        """The files of a shard by their suffix."""
        job = self.job
        span = span_of(job.manifest, number)
        sampling = prepared(job.generator, job.request, job.how, job.rows, job.options, None, job.manifest["seed"], span)
        records = list(sampling.records())
        facts = {
            "fingerprint": job.manifest["fingerprint"],
            "n": len(records),
            "n_drawn": sampling.n_drawn,
            "n_valid": sampling.n_valid,
            "n_fallback": sampling.n_fallback,
            "reasons": dict(sampling.reasons),
            "calls": sampling.calls,
            "seconds": round(sampling.seconds, 3),
        }
        shown = [r for r in records if r.valid or not job.how.drop_invalid]
        texts = {suffix: "".join(text(r, f".{suffix}") for r in shown).encode() for suffix in job.manifest["formats"]}
        return {**texts, "parquet": table(records, span, facts)}


def _drawn(
    ray: Any, start: Callable[[], Any], todo: deque[int], workers: int
) -> collections.abc.Generator[tuple[int, dict[str, bytes]], None, None]:
    """Every shard of `todo` with its files, in the order they are finished; a lost worker is replaced and its shard drawn by another.

    A shard is given only to a worker that has answered, so one that finds no place in the cluster holds nothing up.
    """
    left, losses = len(todo), Counter[int | None]()
    idle: list[Any] = []
    running: dict[Any, tuple[Any, int | None]] = {}  # call → worker and shard; None = the worker is starting

    def another() -> None:
        worker = start()
        running[worker.ready.remote()] = (worker, None)

    try:
        for _ in range(workers):
            another()
        while left:
            while idle and todo:
                worker, number = idle.pop(), todo.popleft()
                running[worker.draw.remote(number)] = (worker, number)
            (call,), _ = ray.wait(list(running), num_returns=1)
            worker, shard = running.pop(call)
            try:
                files = ray.get(call)
            except ray.exceptions.RayTaskError as error:  # an error of the draw itself would come again
                raise (error.cause if isinstance(error.cause, SciarError) else error) from None
            except ray.exceptions.RayError as error:
                ray.kill(worker)
                losses[shard] += 1
                if losses[shard] > LOSSES:
                    what = "ray: expected a worker that starts" if shard is None else f"shard {shard}: expected a worker that finishes it"
                    raise SciarError(
                        f"{what}, got {losses[shard]} that were lost ({_first_line(error)}); give them more memory or lower batch_size"
                    ) from None
                if shard is not None:
                    todo.appendleft(shard)
                another()
                continue
            idle.append(worker)
            if shard is not None:
                losses[None] = 0
                left -= 1
                yield shard, files
    finally:
        for worker in [*idle, *(worker for worker, _ in running.values())]:
            ray.kill(worker)


def _ray() -> Any:
    """The package.

    Raises:
        InputError: it or pyarrow is not installed.
    """
    parquet()
    try:
        import ray
    except ImportError:
        raise InputError("ray: expected the package ray, got none; pip install 'sciar[ray]'") from None
    return ray


@contextlib.contextmanager
def _cluster(ray: Any, address: str | None, workers: int | None) -> Iterator[Mapping[str, float]]:
    """What the cluster has; one that was started here ends with the block."""
    if ray.is_initialized():
        yield ray.cluster_resources()
        return
    address = address or "local"
    place = re.fullmatch(r"(?:ray://)?([\w.-]+|\[[0-9a-fA-F:]+\]):(\d{1,5})", address)
    if address not in ("local", "auto") and not place:
        raise InputError(f"ray: expected local, auto, HOST:PORT or ray://HOST:PORT, got {address!r}; correct it")
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address == "local":
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent anywhere
        quiet |= {"num_cpus": workers, "include_dashboard": False}
    before = signal.getsignal(signal.SIGTERM)  # Ray sets its own and leaves it there
    try:
        if place:
            _answers(place[1].strip("[]"), int(place[2]))
        ray.init(address=address, **quiet)
    except (OSError, OverflowError, RuntimeError, ValueError) as error:
        raise InputError(
            f"ray: expected a cluster at {address}, got none ({_first_line(error)}); try `ray start --head`, or no address"
        ) from None
    try:
        yield ray.cluster_resources()
    finally:
        ray.shutdown()
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


def _answers(host: str, port: int) -> None:
    """Whether a gRPC server is there, in `WAIT` seconds for each step; Ray itself would ask for minutes.

    Raises:
        OSError: nobody, or somebody else.
    """
    with socket.create_connection((host, port), timeout=WAIT) as connection:
        if os.environ.get("RAY_USE_TLS") in (None, "", "0"):
            connection.sendall(
                b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
            )  # RFC 9113, 3.4: and empty settings
            if connection.recv(4)[3:] != b"\4":  # which the server answers with its own
                raise ConnectionError("something that is not Ray answers there")


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__


def _checked(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise InputError(f"output: expected a folder for shards, got the file {folder}; choose another name")
    if not folder.parent.is_dir():
        raise InputError(f"output: expected an existing folder, got {folder.parent}; create it first")
    if not os.access(folder if folder.exists() else folder.parent, os.W_OK):
        raise InputError(f"output: expected a place that can be written, got {folder}; choose another one")
    if folder.exists() and not (folder / "manifest.json").exists() and any(folder.iterdir()):
        raise InputError(f"output: expected a new or empty folder or one that sciar wrote, got {folder}; choose another one")
