"""Training: one Lightning module for every family, exact resume, averaged weights, one file at the end."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import math
import os
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback, EMAWeightAveraging, ModelCheckpoint, Timer
from lightning.pytorch.loggers import CSVLogger
from torch.utils.data import DataLoader

from sciar import __version__, encode, precision
from sciar.batch import Batch, TokenArrays
from sciar.config import Config, DataConfig, fill, to_dict
from sciar.errors import DataError, InputError, SciarError
from sciar.family import Model, load_family
from sciar.files import to_dict as structure_to_dict
from sciar.loader import Batches, plan


class Learner(L.LightningModule):
    """Loss, optimiser and logs; knows no family. Noise of step s on rank r is a function of (seed, s, r)."""

    def __init__(self, model: Model, config: Config) -> None:
        super().__init__()
        self.model, self.config = model, config
        self._clock = time.perf_counter()
        self._tokens = 0

    def training_step(self, batch: Batch, index: int) -> torch.Tensor:
        parts = self.model.loss(batch, self._generator(self.config.train.seed, self.global_step, self.global_rank))
        if not torch.isfinite(parts["loss"]):
            raise SciarError(f"train: the loss is not finite at step {self.global_step}; lower train.lr or use train.precision=32")
        self._tokens += int(max(m.sum() for m in batch.masks.values()))
        self.log_dict({f"train/{k}": v.detach() for k, v in parts.items()}, prog_bar=True)
        return parts["loss"]

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        if self.global_step % min(50, self.config.train.save_every) == 0:
            now = time.perf_counter()
            rate = self._tokens / max(now - self._clock, 1e-9)
            self._clock, self._tokens = now, 0
            n = sum(p.numel() for p in self.model.parameters())
            # 6 n FLOPs per token is a lower bound: the diffusion head is run several times per slot
            self.log_dict(
                {"tokens_per_second": rate, "tflops": 6 * n * rate / 1e12, "utilisation": 6 * n * rate / _peak_flops(self.device)},
                prog_bar=True,
            )

    def validation_step(self, batch: Batch, index: int) -> None:
        parts = self.model.loss(batch, self._generator(12345, index, 0))
        self.log_dict({f"val/{k}": v for k, v in parts.items()}, prog_bar=True, batch_size=len(batch), sync_dist=True)

    def configure_optimizers(self) -> Any:
        c = self.config.train
        matrices = [p for p in self.model.parameters() if p.requires_grad and p.ndim > 1]
        others = [p for p in self.model.parameters() if p.requires_grad and p.ndim <= 1]
        groups = [{"params": matrices, "weight_decay": c.weight_decay}, {"params": others, "weight_decay": 0.0}]
        begun = time.monotonic()
        optimizer = torch.optim.AdamW(groups, lr=c.lr, betas=(0.9, c.beta2))  # a fused one refuses clipping

        def factor(step: int) -> float:
            if step < c.warmup:
                return (step + 1) / c.warmup
            done = (step - c.warmup) / max(1, c.steps - c.warmup)
            if c.anneal:
                done = max(done, (time.monotonic() - begun) / (60 * c.max_minutes))
            return c.floor + (1 - c.floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))

        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": torch.optim.lr_scheduler.LambdaLR(optimizer, factor), "interval": "step"},
        }

    def _generator(self, *key: int) -> torch.Generator:
        seed = int.from_bytes(hashlib.blake2b(repr(key).encode(), digest_size=7).digest(), "little")
        return torch.Generator(device=self.device).manual_seed(seed)


class SaveLast(Callback):
    """The training state at the very end; stands before the averaging callback, which then overwrites the weights."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        trainer.save_checkpoint(self.path)


class Deadline(Timer):
    """Ends this call after so long. Lightning's own timer goes on from what earlier calls used, so that a resumed one ends at once."""

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        pass


class Progress(Callback):
    """Hands (step, steps, {metric: value}) to a function."""

    def __init__(self, report: Callable[[int, int, dict[str, float]], None], steps: int) -> None:
        self.report, self.steps, self.every = report, steps, min(50, max(1, steps // 20))

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any, **kwargs: Any) -> None:
        if trainer.global_step % self.every == 0:
            self.report(trainer.global_step, self.steps, {k: float(v) for k, v in trainer.callback_metrics.items()})


def fit(config: Config, folder: str | Path | None = None, progress: Callable[[int, int, dict[str, float]], None] | None = None) -> Path:
    """Train to the end of `config`, or go on where the last call stopped; returns the weights file.

    Everything is kept in `folder` (default runs/<name>): config.json, state.ckpt, weights.safetensors, log/metrics.csv of this call and
    log/metrics-<step>.csv of earlier ones, named by the step that the next one began with.

    Raises:
        InputError: the configuration does not fit the family, or it has nothing to compile. DataError: no usable training record.
    """
    if config.train.threads:
        torch.set_num_threads(config.train.threads)
    folder = Path(folder or Path("runs") / config.name)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(to_dict(config), indent=1))
    training, validation, statistics = prepare(config)
    if config.train.init:
        statistics = continued(config, statistics)
    model = build(config, statistics)
    if config.train.init:
        initialise_from(model, config.train.init, config.train.init_parts)
    if config.train.only:
        keep_all_but(model, config.train.only)
    to_compile = [layer for layer in model.modules() if getattr(layer, "compiled", False)] if config.train.compile else []
    if config.train.compile and not to_compile:
        raise InputError(f"train.compile: expected a family with layers to compile, got {config.family}, which has none; leave it out")
    state = folder / "state.ckpt"
    done = int(torch.load(state, map_location="cpu", weights_only=True)["global_step"]) if state.exists() else 0
    if not done:
        model.remember(training)
    train = config.train
    ranks = train.devices
    rank = int(os.environ.get("LOCAL_RANK", 0))
    log = folder / "log" / "metrics.csv"
    if rank == 0 and log.exists():  # the logger begins anew
        log.rename(log.with_name(f"metrics-{done}.csv"))
    for part in ("lightning.pytorch", "lightning.fabric"):  # tips and notices; its errors are exceptions
        logging.getLogger(part).setLevel(logging.ERROR)
    trainer = L.Trainer(
        default_root_dir=folder,
        max_steps=train.steps,
        accelerator=train.accelerator,
        devices=train.devices,
        strategy=train.strategy,
        precision="bf16-mixed" if precision.narrow(train.precision, _device(train.accelerator)) else "32-true",
        gradient_clip_val=train.clip,
        logger=CSVLogger(folder, name="", version="log", flush_logs_every_n_steps=min(50, train.save_every)),
        log_every_n_steps=min(50, train.save_every),
        val_check_interval=train.validate_every if len(validation) else None,
        limit_val_batches=1.0 if len(validation) else 0,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        callbacks=[
            SaveLast(state),
            EMAWeightAveraging(decay=train.ema, use_buffers=False),  # ours are constant tables; averaging would spoil whole numbers
            ModelCheckpoint(
                dirpath=folder,
                filename="state",
                every_n_train_steps=train.save_every,
                save_top_k=1,
                enable_version_counter=False,
                save_last=False,
            ),
            *([Deadline(timedelta(minutes=train.max_minutes))] if train.max_minutes else []),
            *([Progress(progress, train.steps)] if progress else []),
        ],
    )
    for layer in to_compile:
        layer.compile(dynamic=True)
    learner = Learner(model, config)
    batches = Batches(training, config.data.batch_tokens, train.seed, done, rank, ranks)
    loader = DataLoader(batches, batch_size=None, num_workers=int(train.ahead), pin_memory=trainer.accelerator.name() == "cuda")
    checks: Any = [validation.batch(rows) for rows in plan(validation, config.data.batch_tokens, 0, 0)] if len(validation) else []
    held_out = DataLoader(checks, batch_size=None)
    started = time.time()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"lightning\.|torch\.")  # resuming into a folder that is not empty is what we do
        trainer.fit(learner, loader, held_out if len(validation) else None, ckpt_path=str(state) if done else None, weights_only=True)
    if not trainer.is_global_zero:
        return folder / "weights.safetensors"
    facts = {"records": len(training), "seconds": round(time.time() - started), "hardware": _hardware(trainer.strategy.root_device)}
    return export(config, folder, statistics, facts)


def export(config: Config, folder: str | Path, statistics: dict[str, Any] | None = None, card: dict[str, Any] | None = None) -> Path:
    """The averaged weights of folder/state.ckpt, also of an unfinished run, as folder/weights.safetensors (fp16).

    Raises:
        InputError: the folder holds no training state.
    """
    from sciar.checkpoint import save

    folder = Path(folder)
    if not (folder / "state.ckpt").is_file():
        raise InputError(f"export: expected a run folder with state.ckpt, got {folder}; train first")
    if statistics is None:
        statistics = prepare(config)[2]
        statistics = continued(config, statistics) if config.train.init else statistics
    model = build(config, statistics)
    state = torch.load(folder / "state.ckpt", map_location="cpu", weights_only=True)
    averaged = {k.removeprefix("model."): v for k, v in state["state_dict"].items() if k.startswith("model.")}
    model.load_state_dict(averaged)
    path = folder / "weights.safetensors"
    save(
        path,
        model,
        family=config.family,
        tokenizer_config=dataclasses.asdict(model.tokenizer.config),
        model_config=dataclasses.asdict(model.config),
        statistics=statistics,
        card={
            "name": config.name,
            "tasks": config.task.split("+"),
            "trained_on": " + ".join(config.data.sets),
            "steps": int(state["global_step"]),
            "config": to_dict(config),
            "sciar": __version__,
            **_inherited(config),
            **(card or {}),
        },
        dtype=torch.float16,
    )
    return path


def _inherited(config: Config) -> dict[str, Any]:
    """The sampler's options that the weights training began with are at their best with."""
    from sciar.checkpoint import find, read_header

    if not config.train.init:
        return {}
    header = read_header(find(config.train.init))
    options = header["card"].get("options")
    return {"options": options} if options and header["family"] == config.family else {}


def build(config: Config, statistics: dict[str, Any]) -> Model:
    """The untrained model of a configuration; its weights are a function of the seed."""
    family, tokenizer = load_family(config.family), _tokenizer(config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.train.seed)
        return family.Model(fill(family.ModelConfig, config.model, "model"), tokenizer, statistics)


def _tokenizer(config: Config) -> Any:
    family = load_family(config.family)
    return family.Tokenizer(fill(family.TokenizerConfig, config.tokenizer, "tokenizer"))


def initialise_from(model: Model, name: str, parts: Sequence[str] = ()) -> None:
    """Copy every tensor of the same name and shape from other weights, also of another configuration or version.

    Where all others are only larger here, along one dimension (more properties, more atom types after the same ones), they begin with
    the others' numbers.

    Args:
        model: that is filled. name: of the weights. parts: of the model that are filled; () = all.

    Raises:
        InputError: the model has no such part, or no such weights.
    """
    from sciar.checkpoint import find, open_weights

    header, source = open_weights(find(name))
    own = model.state_dict()
    wanted = _parts(model, "train.init_parts", parts)
    both = {key: source[key] for key, value in own.items() if _part(key) in wanted and key in source and source[key].ndim == value.ndim}
    learnt = dict(model.named_parameters())
    common = {key: given for key, given in both.items() if key in learnt}
    grown = all(sum(a != b for a, b in zip(given.shape, own[key].shape, strict=True)) <= 1 for key, given in common.items())
    grown = grown and all(a <= b for key, given in common.items() for a, b in zip(given.shape, own[key].shape, strict=True))
    own |= {key: given for key, given in both.items() if key not in learnt and given.shape[1:] == own[key].shape[1:]}
    for key, given in common.items():
        if given.shape == own[key].shape:
            own[key] = given
        elif grown:
            own[key][tuple(slice(k) for k in given.shape)] = given.to(own[key])
    model.load_state_dict(own)


def keep_all_but(model: Model, names: Sequence[str]) -> None:
    """Train nothing but the parts of these names.

    Raises:
        InputError: the model has no such part.
    """
    wanted = _parts(model, "train.only", names)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(_part(name) in wanted)


def _part(name: str) -> str:
    return name.split(".")[0]


def _parts(model: Model, what: str, names: Sequence[str]) -> set[str]:
    """Those of these names, or all parts."""
    parts = {_part(name) for name in model.state_dict()}
    if unknown := [name for name in names if name not in parts]:
        raise InputError(f"{what}: expected parts among {', '.join(sorted(parts))}, got {', '.join(unknown)}")
    return set(names) or parts


def continued(config: Config, statistics: dict[str, Any]) -> dict[str, Any]:
    """Statistics of the training data, with the normalisations that the weights of `train.init` are used to."""
    from sciar.checkpoint import find, read_header

    header = read_header(find(config.train.init))
    if header["family"] != config.family:
        return statistics
    family, tokenizer, before = load_family(config.family), _tokenizer(config), header["statistics"]
    kept = {name: before[name] for name in tokenizer.normalisations if name in before}
    names = tuple(getattr(tokenizer.config, "properties", ()))
    if names and "mean" in before:
        earlier = fill(family.TokenizerConfig, header["tokenizer_config"], "tokenizer").properties
        for name in ("mean", "std"):
            now = dict(zip(names, statistics.get(name, [float(name == "std")] * len(names)), strict=True))
            known = {n: v for n, v in zip(earlier, before[name], strict=True) if n in before["properties"]}
            kept[name] = [known.get(n, now[n]) for n in names]
        kept["properties"] = [n for n in names if n in before["properties"] or n in statistics["properties"]]
    return statistics | kept


def save_prepared(config: Config, folder: str | Path) -> Path:
    """Everything a run needs as plain arrays, for a machine without the chemistry libraries; returns the configuration to train there.

    `folder` gets train.npz, valid.npz, statistics.json, the initial weights if there are any, and config.json whose data.prepared names it.
    """
    from sciar.checkpoint import find

    folder = Path(folder)
    training, validation, statistics = prepare(config)
    folder.mkdir(parents=True, exist_ok=True)
    training.pack(folder / "train.npz")
    validation.pack(folder / "valid.npz")
    (folder / "statistics.json").write_text(json.dumps(statistics, indent=1))
    train = config.train
    if train.init:
        (folder / "init.safetensors").write_bytes(find(train.init).read_bytes())
        train = dataclasses.replace(train, init=str(folder / "init.safetensors"))
    plain = to_dict(dataclasses.replace(config, data=dataclasses.replace(config.data, prepared=str(folder)), train=train))
    (folder / "config.json").write_text(json.dumps(plain, indent=1))
    return folder / "config.json"


def prepare(config: Config) -> tuple[TokenArrays, TokenArrays, dict[str, Any]]:
    """Training and validation tokens and the statistics of the training part; encoded once, then memory-mapped.

    Raises:
        DataError: no record fits the family, or data.prepared is not a folder that `save_prepared` wrote.
    """
    if config.data.prepared:
        folder, kind = Path(config.data.prepared), load_family(config.family).Tokens
        if not (folder / "statistics.json").is_file():
            raise DataError(f"data.prepared: expected a folder written by `sciar train CONFIG --prepare`, got {folder}; make it first")
        statistics = json.loads((folder / "statistics.json").read_text())
        return TokenArrays.load(kind, folder / "train.npz"), TokenArrays.load(kind, folder / "valid.npz"), statistics
    parts: dict[str, list[TokenArrays]] = {"train": [], "valid": []}
    for name in config.data.sets:
        training, validation = splits(name, config.data)
        if config.data.limit:
            training = training[: config.data.limit]
        by = f"-{config.data.split}" if config.data.split else ""
        parts["train"].append(_encoded(config, training, f"{name}-train{by}"))
        parts["valid"].append(_encoded(config, validation, f"{name}-valid{by}"))
    training, validation = (TokenArrays.concatenated(p) if len(p) > 1 else p[0] for p in parts.values())
    if not len(training):
        raise DataError(f"train: expected records that the {config.family} family can hold in {', '.join(config.data.sets)}, got none")
    tokenizer = _tokenizer(config)
    statistics = {"n_records": len(training), **tokenizer.limits(), **tokenizer.statistics(training)}
    return training, validation, statistics


def splits(name: str, data: DataConfig) -> tuple[Any, Any]:
    """Training and held-out records of a data set, a file or a folder.

    The last training records are held out where there is no validation split.
    """
    from sciar import datasets

    held_out = data.validation
    if name.startswith("sample:"):
        records = datasets.samples(name.removeprefix("sample:"))
        return records[held_out:], records[:held_out]
    store = datasets.load(name, partial=True) if name in datasets.names() else datasets.prepare(name)[0]
    if data.split:
        out = datasets.held_out(store, min(held_out, len(store) // 10), data.split)
        return store.select(np.flatnonzero(~out)), store.select(np.flatnonzero(out))
    own = set(store.column("split")) if "split" in store.columns else set()
    if "train" in own:
        training, valid = store.split("train"), next((s for s in ("validation", "valid", "val") if s in own), None)
        if valid:
            return training, store.split(valid)[:held_out]
        store = training
    count = min(held_out, len(store) // 10)
    return store[: len(store) - count], store[len(store) - count :]


def _encoded(config: Config, structures: Any, label: str) -> TokenArrays:
    """Tokens of some structures from the cache, else encoded now; what does not fit the family is left out and counted."""
    from sciar.datasets import cache_dir

    family, tokenizer = load_family(config.family), _tokenizer(config)
    if hasattr(structures, "path"):
        source = str(structures.path)  # of a store; it names the checksum of what it was made from
    else:
        source = hashlib.sha256(json.dumps([structure_to_dict(s) for s in structures]).encode()).hexdigest()
    version = getattr(sys.modules[family.Tokens.__module__], "VERSION", 1)  # of the encoding; a family may be one module
    facts = [config.family, dataclasses.asdict(tokenizer.config), label, source, len(structures), version]
    key = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:12]
    folder = cache_dir() / "tokens" / f"{Path(label).name.replace(':', '-')}-{key}"
    if not (folder / "index.json").exists():
        encode.write(family.Tokens, tokenizer, structures, folder)
    return TokenArrays.load(family.Tokens, folder)


def _device(accelerator: str) -> torch.device:
    """The kind of device that Lightning will take."""
    if accelerator in ("auto", "gpu"):
        return torch.device("cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu")
    return torch.device(accelerator)


def _hardware(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} CPU thread(s)"


def _peak_flops(device: torch.device) -> float:
    """Dense bf16 peak of one device: 990 TFLOP/s for an H100/H200; 0.4 TFLOP/s a CPU thread (measured with AMX)."""
    return 990e12 if device.type == "cuda" else 0.4e12 * torch.get_num_threads()
