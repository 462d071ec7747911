"""How fast models draw: seconds per 1,000 draws, drawn and valid, latency, memory and FLOP utilisation, over batch sizes.

One row for each model, task and batch size; beside conformers RDKit's ETKDGv3 on the same molecules. Seconds are wall time of drawing
and judging (ETKDGv3: of drawing); on a busy machine the processor time beside them says more. Peak memory is that of a fresh process
that loads the model and draws one batch.
"""

from __future__ import annotations

import functools
import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sciar import checkpoint
from sciar.bench import Progress, Result, front
from sciar.errors import InputError, SciarError

if TYPE_CHECKING:
    import torch

TASKS = ("conformer", "molecule", "graph", "crystal")
BASELINE = "RDKit ETKDGv3"
# eight approved drugs, 11 to 37 heavy atoms
DRUGS = (
    "CC(C)Cc1ccc(cc1)[C@H](C)C(=O)O",
    "CN1CCC[C@H]1c1cccnc1",
    "CC(=O)Nc1ccc(O)cc1",
    "CN(C)CCOC(c1ccccc1)c1ccccc1",
    "CC(C)NCC(O)COc1cccc2ccccc12",
    "COc1ccc2[nH]c(S(=O)Cc3ncc(C)c(OC)c3C)nc2c1",
    "CCOC(=O)C1=C(COCCN)NC(C)=C(C(=O)OC)C1c1ccccc1Cl",
    "O=C(O)C(c1ccc(C(O)CCCN2CCC(C(O)(c3ccccc3)c3ccccc3)CC2)cc1)(C)C",
)

# eight molecules of QM9's kind, for a model that knows no larger ones
SMALL = ("CCO", "CC(=O)N", "c1ccncc1", "OCC1CC1", "CC(C)C=O", "C1CCOC1", "N#CCCO", "CC1=CCNC1")
COUNTED = 8  # draws whose FLOPs are counted
ALONE = "from sciar.bench.speed import drawn_alone; print(drawn_alone(**json.loads(sys.argv[1])))"


def run_protocol(
    model: Any = None,
    n: int = 320,
    seed: int = 0,
    progress: Progress = lambda what, done, total: None,
    task: str | None = None,
    batch_sizes: Sequence[int] | int | None = None,
    device: str | None = None,
    threads: int = 1,
) -> Result:
    """Run the protocol. Everything is warm: the draws whose FLOPs are counted come first and are in no time.

    Args:
        model: to measure; None = every bundled one.
        n: draws of a row; for conformers spread over eight molecules.
        seed: of the draws.
        progress: told which row is being made.
        task: "conformer", "molecule", "graph" or "crystal"; None = all that the model is for.
        batch_sizes: to try; None = 16 and 64.
        device: where the model runs.
        threads: of torch on the CPU.

    Raises:
        InputError: no such task, or no model for it. SciarError: a fresh process failed.
    """
    import torch

    if task is not None and task not in TASKS:
        raise InputError(f"bench speed: expected task {', '.join(TASKS)}, got {task!r}")
    cases = _cases(model, task)
    sizes = [batch_sizes] if isinstance(batch_sizes, int) else list(batch_sizes or (16, 64))
    imports = {name: import_seconds(name) for name in ("sciar", "rdkit.Chem.rdDistGeom")}
    rows: list[dict[str, Any]] = []
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for k, (subject, what) in enumerate(cases):
            generator = front.load(subject, device)
            asked = _asked(generator, what, n)
            flop = _flop(generator, what, asked, seed)
            for j, size in enumerate(sizes):
                progress(f"{front.name_of(subject)}, {what}, batch size {size}", k * len(sizes) + j, len(cases) * len(sizes))
                row = {
                    "model": front.name_of(subject),
                    "task": what,
                    "batch_size": size,
                    "device": str(generator.device),
                    "threads": threads,
                }
                rows.append({**row, **_measured(generator, what, asked, size, seed, flop, threads), "import_seconds": imports["sciar"]})
            if what == "conformer":
                row = {"model": BASELINE, "task": what, "batch_size": None, "device": "cpu", "threads": 1}
                rows.append({**row, **_baseline(asked["smiles"], asked["n"], seed), "import_seconds": imports["rdkit.Chem.rdDistGeom"]})
    finally:
        torch.set_num_threads(before)
    ours = [row for row in rows if row["model"] != BASELINE]
    raw: dict[str, float] = {}
    for subject, what in cases:
        mine = [row for row in ours if (row["model"], row["task"]) == (front.name_of(subject), what)]
        best = min(mine, key=lambda row: float(row["seconds_per_1000"]))
        prefix = f"{best['model']}/{what}/" if len(cases) > 1 else ""
        raw |= {prefix + key: value for key, value in best.items() if key not in ("model", "task", "device", "set", "dtype", "note")}
    drawn = sum(row["draws"] for row in ours)
    notes = [
        "raw: the fastest batch size. first_sample_seconds: one draw asked for in a warm process, median of three.",
        f"import_seconds: `import sciar` (RDKit's embedding for {BASELINE}) in a fresh interpreter, median of three.",
        "peak_memory_mib: largest resident set of a fresh process that loads the model and draws one batch; on a GPU, torch's memory.",
        f"gflop_per_draw: matrix products only, counted by torch on up to {COUNTED} draws. utilisation: these by second of drawing and "
        "judging over the best rate of a plain large matrix product in the same process and dtype.",
    ]
    return Result("speed", drawn, drawn, sum(row["seconds"] for row in ours), raw, rows=rows, notes=notes)


def _cases(model: Any, task: str | None) -> list[tuple[Any, str]]:
    """Which model for which task."""
    models = [found.name for found in checkpoint.models()] if model is None else [model]
    cases = []
    for one in models:
        header = one.header if hasattr(one, "header") else checkpoint.read_header(checkpoint.find(one))
        claimed = checkpoint.tasks(header) or ("conformer",)
        cases += [(one, what) for what in TASKS if what in claimed and task in (None, what)]
    if not cases:
        wanted = f"task {task}" if task is not None else f"one of the tasks {', '.join(TASKS)}"
        raise InputError(f"bench speed: expected a model for {wanted}, got {front.name_of(model) if model is not None else 'none bundled'}")
    return cases


def _asked(generator: Any, task: str, n: int) -> dict[str, Any]:
    """What is drawn: n draws, of conformers as many of each molecule as make n."""
    if task != "conformer":
        return {"n": n}
    for molecules in (DRUGS, SMALL):
        try:
            refused = generator.generate(task, smiles=list(molecules), n=1, seed=0).run.refused
        except InputError:
            continue
        if not refused:
            return {"smiles": list(molecules), "n": max(1, n // len(molecules))}
    raise InputError(f"bench speed: expected a model that takes small organic molecules, got {generator.name}, which refuses some of them")


def _flop(generator: Any, task: str, asked: Mapping[str, Any], seed: int) -> float:
    """FLOPs of the matrix products of one draw."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

    def attention(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
        return int(sdpa_flop_count(query, key, value))

    fused = getattr(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu", None)  # which torch does not count by itself
    few = {**asked, "n": 1 if "smiles" in asked else min(asked["n"], COUNTED)}
    with FlopCounterMode(display=False, custom_mapping={fused: attention} if fused is not None else None) as counter:
        drawn = len(generator.generate(task, **few, seed=seed, batch_size=COUNTED, retry=0))
    return float(counter.get_total_flops()) / drawn


def _measured(generator: Any, task: str, asked: Mapping[str, Any], size: int, seed: int, flop: float, threads: int) -> dict[str, Any]:
    note = _busy()
    dtype = next(generator.model.parameters()).dtype
    rate = matmul_rate(generator.device, dtype, threads)
    one = {**asked, "n": 1} | ({"smiles": asked["smiles"][0]} if "smiles" in asked else {})
    first = _median(lambda: generator.generate(task, **one, seed=seed, batch_size=size, retry=0))
    begin, begin_cpu = time.perf_counter(), time.process_time()
    samples = generator.generate(task, **asked, seed=seed, batch_size=size, retry=0)
    seconds, cpu_seconds = time.perf_counter() - begin, time.process_time() - begin_cpu
    rows = len(samples) // asked["n"]
    batch = {**asked, "n": math.ceil(min(size, len(samples)) / rows)}
    alone = {"model": generator.name, "task": task, "asked": batch, "size": size, "device": str(generator.device), "threads": threads}
    return {
        **_times(len(samples), int(samples.valid.sum()), seconds, cpu_seconds, first),
        "peak_memory_mib": _fresh(ALONE, json.dumps(alone)),
        "network_calls_per_sample": samples.run.calls / len(samples),
        "gflop_per_draw": flop / 1e9,
        "matmul_gflop_per_s": rate / 1e9,
        "utilisation": flop * len(samples) / seconds / rate,
        "dtype": str(dtype).removeprefix("torch."),
        "set": _set(asked),
        "note": note,
    }


def _baseline(smiles: Sequence[str], n: int, seed: int) -> dict[str, Any]:
    """RDKit's conformers of the same molecules; valid: right stereochemistry and accepted by the verdict."""
    import numpy as np

    from sciar.bench.conformers import Target, draw, etkdg, molecule

    note = _busy()
    first = _median(lambda: etkdg(smiles[:1], 1, seed))
    targets = [Target(text, molecule(text), np.zeros((0, 0, 3))) for text in smiles]
    outcome = draw(etkdg, targets, n, seed)
    alone = {"model": None, "task": "conformer", "asked": {"smiles": list(smiles), "n": n}, "size": 1, "device": "cpu", "threads": 1}
    return {
        **_times(n * len(smiles), int(outcome.n_kept.sum()), outcome.seconds, outcome.cpu_seconds, first),
        "peak_memory_mib": _fresh(ALONE, json.dumps(alone)),
        "set": _set({"smiles": smiles}),
        "note": note,
    }


def _times(draws: int, valid: int, seconds: float, cpu_seconds: float, first: float) -> dict[str, float]:
    return {
        "draws": draws,
        "valid": valid / draws,
        "seconds": seconds,
        "seconds_per_1000": 1000 * seconds / draws,
        "seconds_per_1000_valid": 1000 * seconds / valid if valid else float("nan"),
        "cpu_seconds_per_1000": 1000 * cpu_seconds / draws,
        "first_sample_seconds": first,
    }


def _set(asked: Mapping[str, Any]) -> str:
    return {DRUGS: "eight drugs", SMALL: "eight small molecules"}.get(tuple(asked.get("smiles", ())), "")


def _busy() -> str:
    """What a reader of wall times must know."""
    processors, load = os.cpu_count() or 1, os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    return f"busy machine: load {load:.1f} on {processors} processors" if load > processors else ""


def _seconds(call: Callable[[], object]) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def _median(call: Callable[[], object]) -> float:
    """Seconds of a call, of three."""
    return statistics.median(_seconds(call) for _ in range(3))


@functools.cache
def matmul_rate(device: torch.device, dtype: torch.dtype, threads: int) -> float:
    """FLOP/s of a plain large matrix product, the best of fifty: other work on the machine slows most of them."""
    import torch

    side = 1024 if device.type == "cpu" else 8192
    a = torch.rand(side, side, device=device).to(dtype)

    def multiply() -> None:
        a @ a
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    return 2 * side**3 / min(_seconds(multiply) for _ in range(50))


def import_seconds(module: str) -> float:
    """Of a module in a fresh interpreter; median of three."""
    code = "t = time.perf_counter(); __import__(sys.argv[1]); print(time.perf_counter() - t)"
    return statistics.median(_fresh(code, module) for _ in range(3))


def drawn_alone(model: str | None, task: str, asked: Mapping[str, Any], size: int, device: str, threads: int) -> float:
    """Draw in this process, by ETKDG without a model, and say how much memory that took at most, in MiB."""
    if model is None:
        from sciar.bench.conformers import etkdg

        etkdg(asked["smiles"], asked["n"], 0)
        return _resident()
    import torch

    torch.set_num_threads(threads)
    front.load(model, device).generate(task, **asked, seed=0, batch_size=size, retry=0)
    return torch.cuda.max_memory_allocated(device) / 2**20 if device.startswith("cuda") else _resident()


def _resident() -> float:
    """Largest resident set of this process so far, MiB; nan where the system does not tell."""
    status = Path("/proc/self/status")
    if status.exists():  # getrusage would also tell of the process that forked this one
        return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM")) / 1024
    try:
        import resource
    except ImportError:
        return float("nan")
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / (2**20 if sys.platform == "darwin" else 1024)


def _fresh(code: str, argument: str) -> float:
    """The number that a fresh interpreter prints last.

    Raises:
        SciarError: it fails.
    """
    path = os.pathsep.join(filter(None, [str(Path(checkpoint.__file__).parents[1]), os.environ.get("PYTHONPATH")]))
    command = [sys.executable, "-c", f"import json, sys, time; {code}", argument]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path})
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no output"])[-1]
        raise SciarError(f"bench speed: expected a fresh process to draw, got {reason!r}; pass model= as a name or a file")
    return float(done.stdout.split()[-1])
