"""Train a bundled model further on a person's own molecules."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from sciar import checkpoint
from sciar.config import Config, DataConfig, TrainConfig, to_dict
from sciar.errors import DataError


def finetune(
    source: str | Path,
    model: str | None = None,
    folder: str | Path | None = None,
    progress: Callable[[int, int, dict[str, float]], None] | None = None,
    **train: Any,
) -> Path:
    """Weights that start from `model` and have seen `source`; an interrupted run goes on when called again.

    Args:
        source: SDF, XYZ, SMILES or CSV file, a folder of them, or the name of a data set.
        model: bundled name or weights file; default: the bundled conformer model.
        folder: where the run is kept; default runs/<file>-<model>.
        progress: told (step, steps, metrics).
        train: fields of `sciar.config.TrainConfig`. Defaults for small data: 20 passes, at most 2000 steps, a small learning
            rate, averaged weights, a tenth of the records (at most 512) held out.

    Returns:
        The weights file; `sciar.load(path)` takes it.

    Raises:
        InputError: an unknown model or option. DataError: no record of the file can be used; the reasons are in the message.
    """
    from sciar.config import fill
    from sciar.datasets import prepare
    from sciar.train import fit

    name = model or checkpoint.default("conformer")
    header = checkpoint.read_header(checkpoint.find(name))
    store, report = prepare(source)
    if not len(store):
        raise DataError(f"finetune: expected molecules the model can learn from in {source}, got none: {report.summary()}")
    atoms = int(store.n_atoms().sum())
    budget = 1024
    steps = max(50, min(2000, 20 * atoms // budget))
    chosen = {
        "steps": steps,
        "warmup": steps // 20,
        "lr": 3e-4,
        "ema": 0.99,
        "save_every": 100,
        "validate_every": 100,
        "init": str(name),
        **train,
    }
    config = Config(
        family=header["family"],
        name=f"{Path(source).stem}-{Path(str(name)).stem}",
        task="+".join(checkpoint.tasks(header)) or "conformer",
        data=DataConfig(sets=(str(source),), validation=512, batch_tokens=budget),
        tokenizer=header["tokenizer_config"],
        model=header["model_config"],
        train=fill(TrainConfig, to_dict(TrainConfig()) | chosen, "finetune"),
    )
    return fit(config, folder, progress)
