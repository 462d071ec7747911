"""One run = one YAML file: typed, checked before any heavy work, overridable from the command line."""

from __future__ import annotations

import dataclasses
import difflib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from sciar.errors import InputError

T = TypeVar("T")
RETIRED = {"optimizer": "adamw"}  # keys of older files that may still say what is now always done
PRECISIONS = ("auto", "bf16", "32")


@dataclass(frozen=True, slots=True)
class DataConfig:
    """What is learned from.

    Args:
        sets: names of data sets or paths of files and folders, concatenated.
        limit: most training records of each set; 0 = all.
        validation: records held out for the validation loss, of the validation split if there is one, at most a tenth of all otherwise.
        split: what the held-out records share with no training record: "scaffold" (of molecules), "formula" (reduced) or "random"
            (nothing). Empty = the set's own split, or its last records.
        batch_tokens: padded atoms (or words, bonds) of one batch.
        prepared: folder written by `sciar train CONFIG --prepare FOLDER`; takes the place of `sets`. Empty = none.
    """

    sets: tuple[str, ...] = ("qm9",)
    limit: int = 0
    validation: int = 512
    batch_tokens: int = 1536
    prepared: str = ""
    split: str = ""


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """How it is learned.

    Args:
        steps: optimiser steps in all. warmup: steps of linear warm-up; then a cosine to `floor` × lr.
        lr, weight_decay, beta2, clip: AdamW; weight decay touches matrices only; clip is the gradient norm.
        ema: decay of the averaged weights that are evaluated and saved.
        precision: of the trunk: "auto" (bf16 autocast where the hardware has it), "bf16" or "32".
        seed: of weights, data order and noise.
        devices, accelerator, strategy: as in Lightning.
        max_minutes: stop after this long; 0 = never. The next call resumes. anneal: the cosine ends then if the steps do not end before,
            for a call that is the last one.
        validate_every, save_every: steps.
        threads: torch threads on a CPU; 0 = leave as is. ahead: a second process makes the batches (for a GPU).
        compile: the layers that say so (`compiled = True`) by torch.compile; costs a minute first (for a GPU).
        init: weights to start from (a name or a path), empty = none. init_parts: the parts of the model that are taken from there, by
            name; empty = all.
        only: the parts of the model that are trained, by name, the others stay as they are; empty = all.
    """

    steps: int = 2000
    warmup: int = 200
    lr: float = 1e-3
    floor: float = 0.02
    weight_decay: float = 0.01
    beta2: float = 0.99
    clip: float = 1.0
    ema: float = 0.999
    precision: str = "auto"
    seed: int = 0
    devices: int = 1
    accelerator: str = "auto"
    strategy: str = "auto"
    max_minutes: float = 0.0
    anneal: bool = False
    validate_every: int = 500
    save_every: int = 500
    threads: int = 0
    ahead: bool = False
    compile: bool = False
    init: str = ""
    init_parts: tuple[str, ...] = ()
    only: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.steps < 1 or self.lr <= 0 or self.warmup < 0:
            raise InputError(f"train: expected steps ≥ 1, lr > 0, warmup ≥ 0, got {self.steps}, {self.lr}, {self.warmup}")
        if self.anneal and not self.max_minutes:
            raise InputError("train.anneal: expected train.max_minutes, when the cosine is to end, got none; set both")
        if self.init_parts and not self.init:
            raise InputError(f"train.init_parts: expected train.init, the weights to take {', '.join(self.init_parts)} from; name them")
        if self.precision not in PRECISIONS:
            raise InputError(f"train.precision: expected {', '.join(PRECISIONS)}, got {self.precision!r}")


@dataclass(frozen=True, slots=True)
class Config:
    """A whole run. `task`: what the weights can do, joined by +.

    `tokenizer` and `model` hold the fields of the family's own configurations."""

    family: str = "hybrid"
    name: str = "run"
    task: str = "conformer"
    data: DataConfig = field(default_factory=DataConfig)
    tokenizer: Mapping[str, Any] = field(default_factory=dict)
    model: Mapping[str, Any] = field(default_factory=dict)
    train: TrainConfig = field(default_factory=TrainConfig)


def load(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read a YAML file and `section.key=value` overrides; a JSON file without overrides needs no YAML library.

    Raises:
        InputError: no such file, not YAML, an unknown key (the nearest one is named), a value of the wrong type.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"config: expected a YAML file, got {path}, which does not exist")
    if path.suffix == ".json" and not overrides:
        return fill(Config, json.loads(path.read_text()), path.name)
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        merged = OmegaConf.merge(OmegaConf.load(path), OmegaConf.from_dotlist(list(overrides)))
        plain = OmegaConf.to_container(merged, resolve=True)
    except (OmegaConfBaseException, ValueError, OSError) as error:
        raise InputError(f"config {path.name}: expected YAML and key=value overrides, got {str(error).splitlines()[0]}") from error
    except Exception as error:
        if type(error).__module__.startswith("yaml"):
            raise InputError(f"config {path.name}: not YAML: {str(error).splitlines()[0]}") from error
        raise
    if not isinstance(plain, dict):
        raise InputError(f"config {path.name}: expected a mapping of family, data, model, train, got {type(plain).__name__}")
    return fill(Config, {str(k): v for k, v in plain.items()}, path.name)


def fill(kind: type[T], values: Mapping[str, Any], where: str) -> T:
    """A frozen dataclass from a plain mapping; nested dataclasses too; "1e-3" is a number where a number is due.

    Raises:
        InputError: unknown key or wrong type.
    """
    fields = {f.name: f for f in dataclasses.fields(kind)}  # type: ignore[arg-type]
    made: dict[str, Any] = {}
    for key, value in values.items():
        if key not in fields:
            if (key, value) in RETIRED.items():
                continue
            near = difflib.get_close_matches(str(key), fields, 1)
            raise InputError(f"{where}: unknown key {key!r}; {f'did you mean {near[0]!r}?' if near else 'expected ' + ', '.join(fields)}")
        default, make = fields[key].default, fields[key].default_factory
        if default is dataclasses.MISSING and make is not dataclasses.MISSING:
            default = make()
        made[key] = _cast(value, default, f"{where}: {key}")
    return kind(**made)


def _cast(value: Any, default: Any, where: str) -> Any:
    if dataclasses.is_dataclass(default) and not isinstance(default, type):
        if not isinstance(value, Mapping):
            raise InputError(f"{where}: expected a mapping, got {value!r}")
        return fill(type(default), value, where)
    try:
        if isinstance(default, bool):
            if not isinstance(value, bool):
                raise ValueError
            return value
        if isinstance(default, int):
            if float(value) != int(float(value)):
                raise ValueError
            return int(float(value))
        if isinstance(default, float):
            return float(value)
        if isinstance(default, tuple):
            return tuple(value) if not isinstance(value, str) else tuple(value.split(","))
        if isinstance(default, str):
            return "" if value is None else str(value)  # `train.init=` on the command line
    except (TypeError, ValueError):
        raise InputError(f"{where}: expected {type(default).__name__}, got {value!r}") from None
    return value


def to_dict(config: Any) -> dict[str, Any]:
    """Plain nested dict, for a header or a YAML file."""
    plain = dataclasses.asdict(config)
    return {k: dict(v) if isinstance(v, Mapping) else v for k, v in plain.items()}
