"""Train a bundled model further on a person's own molecules, graphs or crystals, also on properties it has not known."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sciar import checkpoint
from sciar.config import Config, DataConfig, TrainConfig, fill, to_dict
from sciar.datasets.store import Report
from sciar.errors import DataError, InputError
from sciar.structure import SYMBOLS, Structure

BUDGET = 1024  # padded atoms of a batch
LOOKED_AT = 10_000  # records of a part that the report encodes


@dataclass(frozen=True, slots=True)
class DataReport:
    """What a file holds and how it is used; `str()` is what the command line shows.

    Args:
        read: records that could be read, and the rows that could not.
        unfit: records that the model cannot hold, by reason.
        total: training and held-out records as split by `split`, "" = the file's own split.
        training, held_out: of the first `LOOKED_AT` of each, those that the model can hold; all other numbers are of these.
        repeated: records that occur more than once. leaked: held-out records that the training part holds as well.
        elements: how many records have each. atoms: fewest, median and most.
        properties: for each one asked for: records that have it, smallest, mean, largest value.
    """

    read: Report
    unfit: dict[str, int]
    total: tuple[int, int]
    training: int
    held_out: int
    split: str
    repeated: int
    leaked: int
    elements: dict[str, int]
    atoms: tuple[int, int, int]
    properties: dict[str, tuple[int, float, float, float]]

    def __str__(self) -> str:
        lines = [self.read.summary()]
        lines += [f"{count:,} do not fit the model: {reason}" for reason, count in list(self.unfit.items())[:5]]
        if len(self.unfit) > 5:
            lines.append(f"{sum(self.unfit.values()):,} do not fit the model in all, for {len(self.unfit)} reasons")
        if sum(self.total) > self.training + self.held_out + sum(self.unfit.values()):
            lines.append(f"{self.total[0]:,} for training and {self.total[1]:,} held out in all; of the first {LOOKED_AT:,} of each:")
        parts = f"{self.training:,} for training, {self.held_out:,} held out (split by {self.split or 'the column split'})"
        lines.append(f"{parts}; {self.repeated:,} repeats, {self.leaked:,} leaks")
        elements = " ".join(f"{e} {n:,}" for e, n in self.elements.items())
        lines.append(
            f"atoms: {self.atoms[0]} to {self.atoms[2]}, median {self.atoms[1]}" + (f"; records with {elements}" if elements else "")
        )
        for name, (known, low, mean, high) in self.properties.items():
            lines.append(f"{name}: known of {known:,}, {low:.4g} to {high:.4g}, mean {mean:.4g}")
        return "\n".join(lines)


def finetune(
    source: str | Path,
    model: str | None = None,
    folder: str | Path | None = None,
    properties: Sequence[str] = (),
    split: str | None = None,
    progress: Callable[[int, int, dict[str, float]], None] | None = None,
    report: Callable[[DataReport], None] | None = None,
    **train: Any,
) -> Path:
    """Weights that start from `model` and have seen `source`; an interrupted run goes on when called again.

    Args:
        source: SDF, XYZ, SMILES, CIF, graph6 or CSV file, a folder of them, or the name of a data set.
        model: bundled name or weights file; default: the bundled model for crystals, for graphs (records without coordinates) or for
            conformers, by what the first record is, that can hold most of the first hundred.
        folder: where the run is kept; default runs/<file>-<model>.
        properties: columns or tags of `source` that can be asked for afterwards: `generate(…, properties={name: value})`.
        split: what held-out records must not share with training records: "scaffold", "formula" or "random"; default: the split of
            `source` if it has one, else scaffold for molecules, formula for crystals, random for graphs, a tenth of the records and
            at most 512.
        progress: told (step, steps, metrics). report: told what the data are, before training.
        train: fields of `sciar.config.TrainConfig`. Defaults for small data: 20 passes, at least 50 and at most 2000 steps, a small
            learning rate, averaged weights.

    Returns:
        The weights file; `sciar.load(path)` takes it.

    Raises:
        InputError: an unknown model, option or property. DataError: no record of the file can be used; the reasons are in the message.
    """
    from sciar.train import fit

    config, facts = plan(source, model, properties, split, train)
    if report is not None:
        report(facts)
    return fit(config, folder, progress)


def plan(
    source: str | Path,
    model: str | None = None,
    properties: Sequence[str] = (),
    split: str | None = None,
    train: dict[str, Any] | None = None,
) -> tuple[Config, DataReport]:
    """The run that `finetune` makes, and what the data are; the same arguments and errors."""
    from sciar.datasets import prepare
    from sciar.family import load_family
    from sciar.request import known
    from sciar.train import splits

    store, read = prepare(source)
    if not len(store):
        raise DataError(f"finetune: expected records the model can learn from in {source}, got none: {read.summary()}")
    kind, default_split = _kind(store[0])
    name = model or _holding_most(kind, store[:100])
    header = checkpoint.read_header(checkpoint.find(name))
    for wanted in properties:
        known(wanted, [column for column in store.columns if column != "split"], f"columns of {source}")
        words = [value for value in store.column(wanted) if isinstance(value, str)]
        if words:
            raise InputError(f"finetune: expected numbers in the column {wanted!r}, got {words[0]!r}; correct the file")
    family = load_family(header["family"])
    tokenizer = fill(family.TokenizerConfig, header["tokenizer_config"], "tokenizer")
    if properties:
        if not hasattr(tokenizer, "properties"):
            raise InputError(f"finetune: expected a model that knows properties, got {name} of the family {header['family']}; take another")
        tokenizer = dataclasses.replace(
            tokenizer, properties=(*tokenizer.properties, *(p for p in properties if p not in tokenizer.properties))
        )
    by = split or ("" if "train" in store.splits else default_split)
    data = DataConfig(sets=(str(source),), validation=512, batch_tokens=BUDGET, split=by)
    parts = splits(str(source), data)
    facts = _report(family.Tokenizer(tokenizer), read, parts, data.split, properties)
    if not facts.training:
        reasons = "; ".join(f"{n:,}: {reason}" for reason, n in list(facts.unfit.items())[:5])
        raise DataError(f"finetune: expected records that {name} can hold in {source}, got none: {reasons}; take another model")
    steps = max(50, min(2000, 20 * int(store.n_atoms().sum()) // BUDGET))
    small = {"steps": steps, "warmup": steps // 20, "lr": 3e-4, "ema": 0.99, "save_every": 100, "validate_every": 100, "init": str(name)}
    return Config(
        family=header["family"],
        name=f"{Path(source).stem}-{Path(str(name)).stem}",
        task="+".join(checkpoint.tasks(header)) or "conformer",
        data=data,
        tokenizer=dataclasses.asdict(tokenizer),
        model=header["model_config"],
        train=fill(TrainConfig, to_dict(TrainConfig()) | small | (train or {}), "finetune"),
    ), facts


def _kind(first: Structure) -> tuple[str, str]:
    """Task of the default model, and default split, for records like this one."""
    if first.cell is not None:
        return "crystal", "formula"
    if not first.numbers.all():
        return "graph", "random"
    return ("graph" if first.positions is None else "conformer"), "scaffold"


def _holding_most(task: str, structures: Sequence[Structure]) -> str:
    """The bundled model for a task that can hold most of these records; of equals the default one, then the largest."""
    from sciar.family import load_family

    best, most = checkpoint.default(task), -1
    fitting = [model.name for model in checkpoint.models() if task in model.task.split(", ")]
    headers = {name: checkpoint.read_header(checkpoint.find(name)) for name in fitting}
    for name, header in sorted(headers.items(), key=lambda item: (item[0] != best, -checkpoint.find(item[0]).stat().st_size)):
        family = load_family(header["family"])
        tokenizer = family.Tokenizer(fill(family.TokenizerConfig, header["tokenizer_config"], "tokenizer"))
        held = sum(1 for _ in tokenizer.encode_many(structures)) // tokenizer.records
        if held > most:
            best, most = name, held
    return best


def _report(tokenizer: Any, read: Report, parts: Sequence[Sequence[Structure]], split: str, properties: Sequence[str]) -> DataReport:
    from sciar.datasets import identity

    unfit: Counter[str] = Counter()
    elements: Counter[str] = Counter()
    names: list[list[str]] = [[], []]
    sizes: list[int] = []
    values: dict[str, list[float]] = {name: [] for name in properties}
    for part, structures in enumerate(parts):
        for structure in structures[:LOOKED_AT]:
            try:
                tokenizer.encode(structure)
            except InputError as error:
                unfit[str(error).split(";")[0]] += 1
                continue
            names[part].append(identity(structure))
            sizes.append(structure.n_atoms)
            elements.update(SYMBOLS[z] for z in np.unique(structure.numbers).tolist() if z)
            for name, column in values.items():
                value = structure.info.get(name)
                if isinstance(value, (int, float)) and np.isfinite(value):
                    column.append(float(value))
    for name, column in values.items():
        if not column:
            raise InputError(f"finetune: expected numbers in the column {name!r}, got none; correct the file")
    trained = set(names[0])
    return DataReport(
        read,
        dict(unfit.most_common()),
        (len(parts[0]), len(parts[1])),
        len(names[0]),
        len(names[1]),
        split,
        len(sizes) - len(trained | set(names[1])),
        sum(name in trained for name in names[1]),
        dict(elements.most_common()),
        (min(sizes, default=0), int(np.median(sizes or [0])), max(sizes, default=0)),
        {name: (len(column), min(column), float(np.mean(column)), max(column)) for name, column in values.items()},
    )
