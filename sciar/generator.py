"""A model ready to draw: its weights, its tokenizer, its device."""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from sciar import checkpoint
from sciar.errors import InputError, WeightsError
from sciar.family import Model, Tokenizer

if TYPE_CHECKING:
    from sciar.samples import Samples


class Generator:
    """A model ready to draw: `sciar.load("drugs-hybrid").generate(smiles="CCO", n=10)`.

    Args:
        tokenizer: of the model's family.
        model: on its device, in evaluation mode.
        header: of its weights file.
        name: as it was asked for.
    """

    def __init__(self, tokenizer: Tokenizer, model: Model, header: Mapping[str, Any], name: str) -> None:
        self.tokenizer = tokenizer
        self.model = model
        self.header = header
        self.name = name

    def __repr__(self) -> str:
        return f"Generator({self.name!r}, {', '.join(checkpoint.tasks(self.header)) or 'any task'}, {self.device})"

    @property
    def device(self) -> torch.device:
        return next((p.device for p in self.model.parameters()), torch.device("cpu"))

    @property
    def card(self) -> Mapping[str, Any]:
        """Plain facts about the model."""
        return dict(self.header["card"])

    def generate(self, task: str | None = None, **arguments: Any) -> Samples:
        """`sciar.generate` with this model; see there."""
        from sciar.generate import generate

        samples: Samples = generate(task, model=self, **arguments)
        return samples

    def sampler_options(self) -> tuple[str, ...] | None:
        """Names that the sampler takes; None = it takes any."""
        parameters = inspect.signature(self.model.sample).parameters.values()
        names = tuple(p.name for p in parameters if p.kind is not p.VAR_KEYWORD and p.name not in ("self", "prompts", "keys", "batch_size"))
        return None if not names and any(p.kind is p.VAR_KEYWORD for p in parameters) else names


def load(name_or_path: str | os.PathLike[str], device: str | None = "auto") -> Generator:
    """A model by bundled name, weights file or hub repository ("org/name"); loaded once while the file stays the same.

    Raises:
        InputError: no such name, or no such device.
        WeightsError: missing, broken or of another version.
    """
    path = checkpoint.find(name_or_path)
    where = chosen_device(device)
    try:
        stamp = path.stat().st_mtime_ns
    except OSError as error:
        raise WeightsError(f"{path}: expected a readable weights file, got {error.strerror}; check path and permissions") from None
    return _loaded(path, stamp, where, os.fspath(name_or_path))


def chosen_device(device: str | None) -> str:
    """The device a word means here; "auto" and None take a GPU if there is one.

    Raises:
        InputError: unknown, or not on this machine.
    """
    if device in (None, "auto"):
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        chosen = torch.device(str(device))
    except RuntimeError:
        raise InputError(f"device: expected 'auto', 'cpu' or 'cuda', got {device!r}; correct it") from None
    if chosen.type == "cuda" and (not torch.cuda.is_available() or (chosen.index or 0) >= torch.cuda.device_count()):
        raise InputError(
            f"device: expected one of this machine, got {device!r} with {torch.cuda.device_count()} GPUs visible; use 'cpu' or 'auto'"
        )
    return str(chosen)


@functools.lru_cache(maxsize=2)
def _loaded(path: Path, stamp: int, device: str, name: str) -> Generator:
    header, tensors = checkpoint.open_weights(path)
    return Generator(*checkpoint.build(header, tensors, device), header, name)
