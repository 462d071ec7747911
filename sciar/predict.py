"""Properties of given structures, read by the same network that draws them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from sciar import checkpoint
from sciar.batch import collate
from sciar.errors import InputError
from sciar.family import load_family
from sciar.generator import Generator, load
from sciar.prompt import Prompt
from sciar.request import with_unit
from sciar.structure import Structure
from sciar.validate import Verdict


@dataclass(frozen=True, slots=True, eq=False)
class Prediction:
    """Means over random poses, and how far the poses disagree.

    Args:
        name: of the property, with its unit.
        values, spread: one number per structure, in the unit of the property's name; nan where the model cannot hold it.
        problems: why a structure has no value, by its number.
    """

    name: str
    values: Float[np.ndarray, "n"]
    spread: Float[np.ndarray, "n"]
    problems: dict[int, str]


def predict(
    structures: Structure | Verdict | Sequence[Structure | Verdict],
    property: str,
    *,
    model: str | os.PathLike[str] | Generator | None = None,
    poses: int = 5,
    batch_size: int = 64,
    seed: int = 0,
    device: str | None = None,
) -> Prediction:
    """Predict one property of structures with positions.

    Args:
        structures: one or many, or `Samples`.
        property: name, with its unit or without: "gap_eV" or "gap".
        model: bundled name, weights file or `Generator` with a property head; None = the bundled one.
        poses: random orientations that are averaged.
        batch_size: structures at a time.
        seed: of the poses.
        device: as in `sciar.generate`.

    Raises:
        InputError: no structures, a model that predicts nothing, a property it does not know, or no structure it can hold.
        WeightsError: the model is missing or broken.
    """
    given, generator = _checked(structures, poses, model, device)
    names: Any = generator.model.predicts
    name = with_unit(property, names, f"property of model {generator.name!r}")
    return _read(given, generator, poses, batch_size, seed)[name]


def predict_all(
    structures: Structure | Verdict | Sequence[Structure | Verdict],
    *,
    model: str | os.PathLike[str] | Generator | None = None,
    poses: int = 5,
    batch_size: int = 64,
    seed: int = 0,
    device: str | None = None,
) -> dict[str, Prediction]:
    """Every property that the model knows, by its name, for the price of one; the same numbers as `predict` with the same seed.

    Args: as `predict`.

    Raises:
        InputError: no structures, a model that predicts nothing, or no structure it can hold.
        WeightsError: the model is missing or broken.
    """
    given, generator = _checked(structures, poses, model, device)
    return _read(given, generator, poses, batch_size, seed)


def _checked(
    structures: Structure | Verdict | Sequence[Structure | Verdict],
    poses: int,
    model: str | os.PathLike[str] | Generator | None,
    device: str | None,
) -> tuple[list[Structure], Generator]:
    listed = [structures] if isinstance(structures, (Structure, Verdict)) else list(structures)
    given = [one.structure if isinstance(one, Verdict) else one for one in listed]
    if not given:
        raise InputError("predict: expected at least one structure, got none")
    if poses < 1:
        raise InputError(f"predict: expected at least one pose, got {poses}")
    generator = model if isinstance(model, Generator) else load(model or checkpoint.default("predict"), device)
    if not getattr(generator.model, "predicts", ()):
        raise InputError(
            f"predict: expected a model with a property head, got {generator.name!r}; train one with model.property_weight above 0"
        )
    return given, generator


def _read(given: Sequence[Structure], generator: Generator, poses: int, batch_size: int, seed: int) -> dict[str, Prediction]:
    family = load_family(str(generator.header["family"]))
    records, rows, problems = [], [], {}
    for row, structure in enumerate(given):
        try:
            records.append(generator.tokenizer.encode(structure, Prompt()))
            rows.append(row)
        except InputError as error:
            problems[row] = str(error)
    if not records:
        raise InputError(f"predict: expected a structure the model can hold, got none; the first: {problems[0]}")
    model: Any = generator.model  # of a family that predicts
    drawn = np.full((poses, len(given), len(model.predicts)), np.nan)
    noise = torch.Generator(generator.device).manual_seed(seed)
    for first in range(0, len(records), batch_size):
        batch = collate(family.Tokens, records[first : first + batch_size]).to(generator.device)
        for pose in range(poses):
            drawn[pose, rows[first : first + batch_size]] = model.predict(batch, noise).cpu().numpy()
    mean, spread = drawn.mean(0), drawn.std(0)
    return {name: Prediction(name, mean[:, k], spread[:, k], problems) for k, name in enumerate(model.predicts)}
