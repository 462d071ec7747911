"""Small `octree` models, untrained, and how tests draw from them."""

from __future__ import annotations

import dataclasses

import torch

from sciar.families.octree import Model, ModelConfig, Tokenizer
from sciar.prompt import Prompt
from sciar.structure import Structure

TINY = ModelConfig(width=32, heads=2, layers=2, waves="sphere", place="bins", refiner_layers=2, refiner_width=16)
PLAIN = {"refine": 0, "precision": "32", "tree_temperature": 1.0, "element_temperature": 1.0, "place_temperature": 1.0}


def made(tokenizer: Tokenizer, **changes: object) -> Model:
    """A small model away from its uniform start."""
    torch.manual_seed(0)
    model = Model(dataclasses.replace(TINY, **changes), tokenizer, {"mean": [0.0] * 7, "std": [1.0] * 7})
    with torch.no_grad():
        for p in model.parameters():
            p += 0.05 * torch.randn_like(p)
    return model


def drawn(model: Model, prompts: list[Prompt], batch_size: int = 5, seed: int = 0, **options: object) -> list[Structure]:
    draws = model.sample(prompts, [(seed, i) for i in range(len(prompts))], batch_size, **{**PLAIN, **options})
    return [model.tokenizer.decode(d.tokens) for d in sorted(draws, key=lambda d: d.index)]
