"""What a model family is: a tokenizer and a model, found by the name of its folder.

`sciar.families.<name>` exports five names: `Tokens TokenizerConfig Tokenizer ModelConfig Model`. A
third party's family is a module of its own with the same five names; nothing is registered.
"""

from __future__ import annotations

import dataclasses
import importlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from sciar.batch import TokenArrays
from sciar.errors import InputError
from sciar.prompt import Prompt
from sciar.structure import Structure

T = TypeVar("T")


class Tokenizer(ABC):
    """Structure ↔ tokens. Final classes only; no torch module, no learned state."""

    config: Any  # a frozen dataclass

    @abstractmethod
    def encode(self, structure: Structure, prompt: Prompt) -> Any:
        """Tokens of `structure` given `prompt`. Raises ValueError, saying why, if it cannot be held."""

    @abstractmethod
    def decode(self, tokens: Any) -> Structure:
        """The structure of `tokens`; total: never raises, whatever the tokens."""

    def encode_many(self, structures: Iterable[Structure]) -> Iterator[Any]:
        """Tokens of the structures that can be held, in order, the others left out; a family may do many at once faster."""
        for structure in structures:
            try:
                yield self.encode(structure, Prompt())
            except InputError:
                continue

    records: int = 1  # that `encode_many` makes of a structure
    normalisations: ClassVar[tuple[str, ...]] = ()  # statistics that weights are tied to: further training keeps them

    def limits(self) -> dict[str, Any]:
        """What prompts may ask for: `elements`, `max_heavy_atoms`, `properties`; kept in the weights file."""
        return {}

    def statistics(self, arrays: TokenArrays) -> dict[str, Any]:
        """What the model must know of its training data; kept in the weights file and handed to `Model(…, statistics)`."""
        return {}


@dataclass(frozen=True, slots=True)
class Draw:
    """One finished sample.

    Args:
        index: which prompt it answers.
        tokens: what `Tokenizer.decode` takes.
        score: log-likelihood of the drawn part in nats (higher = the model finds it likelier); nan if not asked for.
        calls: network evaluations spent on it (trunk steps + solver steps).
        left: levels of detail that are still to be drawn; above 0 this is a preview, and the draw itself follows.
    """

    index: int
    tokens: Any
    score: float
    calls: int
    left: int = 0


class Model(nn.Module, ABC):
    """A generative model over one family's tokens.

    Training is `loss = model.loss(batch, generator)["loss"]; loss.backward()`; sampling is
    `for draw in model.sample(prompts, keys): structure = tokenizer.decode(draw.tokens)`.
    """

    config: Any  # a frozen dataclass
    tokenizer: Tokenizer
    coarse_to_fine: ClassVar[bool] = False  # the sampler takes previews=True and then yields each level of a draw as well

    @abstractmethod
    def loss(self, batch: Any, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """{"loss": scalar, part: scalar …}, all finite."""

    def remember(self, arrays: TokenArrays) -> None:
        """Keep what sampling looks up in the training records; called once, before the first step. Nothing by default."""

    @abstractmethod
    def sample(self, prompts: Sequence[Prompt], keys: Sequence[tuple[int, int]], batch_size: int = 64, **options: Any) -> Iterator[Draw]:
        """Draw one answer per prompt, yielded as they finish, in any order.

        Draw i is a function of (prompts[i], keys[i], weights) alone, where a key is (seed, index): the same for
        any batch size. The answer contains its prompt.
        """


def moments(names: Sequence[str], arrays: TokenArrays) -> dict[str, Any]:
    """Statistics of the field `properties`, one column per name: those `properties` that are known of some record, and `mean` and `std`
    of every column (0 and 1 where nothing is known); only the first if nothing is known at all."""
    values = np.asarray(arrays.arrays["properties"], dtype=np.float64).reshape(len(arrays), len(names))
    known = [column[np.isfinite(column)] for column in values.T]
    found: dict[str, Any] = {"properties": [name for name, column in zip(names, known, strict=True) if len(column)]}
    if found["properties"]:
        found["mean"] = [round(float(c.mean()), 6) if len(c) else 0.0 for c in known]
        found["std"] = [max(round(float(c.std()), 6), 1e-6) if len(c) else 1.0 for c in known]
    return found


def options_of(kind: type[T], given: Mapping[str, Any]) -> T:
    """A sampler's options from keywords.

    Raises:
        InputError: a name that `kind`, a dataclass, does not have, or a switch that is neither true nor false.
    """
    names = [field.name for field in dataclasses.fields(kind)]  # type: ignore[arg-type]
    unknown = sorted(set(given) - set(names))
    if unknown:
        raise InputError(f"sample: unknown option {unknown[0]!r}; expected {', '.join(names)}")
    for field in dataclasses.fields(kind):  # type: ignore[arg-type]
        if isinstance(field.default, bool) and not isinstance(value := given.get(field.name, True), bool):
            raise InputError(f"sample: expected {field.name} true or false, got {value!r}; correct it")
    return kind(**given)


def check_choices(config: Any, choices: Mapping[str, Sequence[str]]) -> None:
    """Refuse a value that a field of a model's configuration cannot have.

    Raises:
        InputError: another value than those listed for its field.
    """
    for name, allowed in choices.items():
        if getattr(config, name) not in allowed:
            listed = (" or " if len(allowed) == 2 else ", ").join(allowed)
            raise InputError(f"ModelConfig.{name}: expected {listed}, got {getattr(config, name)!r}")


def load_family(name: str) -> ModuleType:
    """The module of a family: a folder of `sciar.families` or an importable module of your own.

    Raises:
        ValueError: no such family, or a module that lacks one of the five names.
    """
    target = name if "." in name else f"sciar.families.{name}"
    try:
        module = importlib.import_module(target)
    except ModuleNotFoundError as error:
        if error.name is None or not target.startswith(error.name):
            raise
        raise ValueError(f"family: expected octree, hybrid, blocks, orbits, slots or an importable module, got {name!r}") from None
    missing = [n for n in ("Tokens", "TokenizerConfig", "Tokenizer", "ModelConfig", "Model") if not hasattr(module, n)]
    if missing:
        raise ValueError(
            f"family {name!r}: expected the names Tokens TokenizerConfig Tokenizer ModelConfig Model, lacks {', '.join(missing)}"
        )
    return module
