"""Weights of the fake family, for the tests of the front door."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fake import family
from sciar import checkpoint

STATISTICS = {"elements": list(family.TokenizerConfig().elements), "max_heavy_atoms": 50, "properties": ["gap_eV", "mu_D"]}


def save(
    folder: Path,
    name: str = "fake",
    statistics: dict[str, Any] = STATISTICS,
    task: Any = ("conformer", "molecule"),
    card: dict[str, Any] | None = None,
    **config: Any,
) -> Path:
    """A weights file of a fake model that behaves as `config` says."""
    tokenizer = family.Tokenizer(family.TokenizerConfig())
    model = family.Model(family.ModelConfig(**config), tokenizer)
    return checkpoint.save(
        folder / f"{name}.safetensors",
        model,
        family="fake.family",
        tokenizer_config=tokenizer.config,
        model_config=model.config,
        statistics=statistics,
        card={"task": task, "trained_on": "nothing", **(card or {})},
    )
