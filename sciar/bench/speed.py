"""How fast a model draws: seconds per 1,000 draws, drawn and valid, over batch sizes, on a stated device and thread count."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sciar.bench import Progress, Result, front
from sciar.errors import InputError

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
    """Run the protocol. The first line of each batch size is warm: a small run goes before it and is not counted.

    Args:
        model: to measure.
        n: draws in all; for conformers spread over eight drugs.
        seed: of the draws.
        progress: told which batch size is running.
        task: "conformer" or "molecule"; None = what the model is for.
        batch_sizes: to try; None = 16 and 64.
        device: where the model runs.
        threads: of torch on the CPU.

    Raises:
        InputError: no model, or a task without a protocol.
    """
    import time

    import torch

    if model is None:
        raise InputError("bench speed: expected model=, got none; name a bundled model or a weights file")
    generator = front.load(model, device)
    task = task or generator.header.get("tasks", ("conformer",))[0]
    if task not in ("conformer", "molecule"):
        raise InputError(f"bench speed: expected task conformer or molecule, got {task!r}")
    sizes = [batch_sizes] if isinstance(batch_sizes, int) else list(batch_sizes or (16, 64))
    rows: list[dict[str, Any]] = []
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for k, size in enumerate(sizes):
            progress(f"batch size {size}", k, len(sizes))
            what: dict[str, Any] = {"smiles": list(DRUGS), "n": max(1, n // len(DRUGS))} if task == "conformer" else {"n": n}
            generator.generate(task, **{**what, "n": 1}, seed=seed, batch_size=size)
            begin = time.perf_counter()
            samples = generator.generate(task, **what, seed=seed, batch_size=size, retry=0)
            seconds = time.perf_counter() - begin
            valid = int(samples.valid.sum())
            rows.append(
                {
                    "model": front.name_of(model),
                    "task": task,
                    "batch_size": size,
                    "device": str(generator.device),
                    "threads": threads,
                    "draws": len(samples),
                    "valid": valid / len(samples),
                    "seconds": seconds,
                    "seconds_per_1000": 1000 * seconds / len(samples),
                    "seconds_per_1000_valid": 1000 * seconds / valid if valid else float("nan"),
                    "network_calls_per_sample": samples.run.calls / len(samples),
                }
            )
    finally:
        torch.set_num_threads(before)
    best = min(rows, key=lambda row: row["seconds_per_1000"])
    raw = {key: best[key] for key in ("batch_size", "valid", "seconds_per_1000", "seconds_per_1000_valid", "network_calls_per_sample")}
    drawn = sum(row["draws"] for row in rows)
    return Result(
        "speed",
        drawn,
        drawn,
        sum(row["seconds"] for row in rows),
        raw,
        rows=rows,
        notes=[f"raw: the fastest batch size, {best['batch_size']}"],
    )
