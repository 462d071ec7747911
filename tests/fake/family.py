"""A family without a network: conformers by RDKit plus noise from a key, so that the front door can be tested without weights.

Its one parameter is the noise in Å. Some draws fail on purpose (`broken`), so that retries and summaries have something to do.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sciar import family as contract
from sciar.prompt import Prompt
from sciar.structure import NUMBERS, Structure


@dataclass(frozen=True)
class TokenizerConfig:
    """What it can hold."""

    elements: tuple[str, ...] = ("H", "C", "N", "O", "F", "P", "S", "Cl", "Br", "I")


@dataclass(frozen=True)
class ModelConfig:
    """How often a draw is broken, by chance or always, and how long it takes in seconds."""

    broken: float = 0.0
    slow: float = 0.0
    memory: int = 0  # batches above this size are out of memory; 0 = never
    poison: str = ""  # a file: the process that finds it before draw 7 of a batch removes it and is killed


@dataclass(frozen=True)
class Tokens:
    """Here simply the structure."""

    structure: Structure


class Tokenizer(contract.Tokenizer):
    def __init__(self, config: TokenizerConfig) -> None:
        self.config = config

    def encode(self, structure: Structure, prompt: Prompt) -> Tokens:
        return Tokens(structure)

    def decode(self, tokens: Tokens) -> Structure:
        return tokens.structure


class Model(contract.Model):
    def __init__(self, config: ModelConfig, tokenizer: Tokenizer) -> None:
        super().__init__()
        self.config, self.tokenizer = config, tokenizer
        self.noise = nn.Parameter(torch.tensor(0.01))
        self.tied = self.noise

    def loss(self, batch: Any, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        return {"loss": self.noise**2}

    def sample(
        self, prompts: Sequence[Prompt], keys: Sequence[tuple[int, int]], batch_size: int = 64, *, nfe: int = 1, score: bool = True
    ) -> Iterator[contract.Draw]:
        if not isinstance(nfe, int):
            raise ValueError(f"nfe: expected a whole number, got {nfe!r}")
        for start in range(0, len(prompts), batch_size):
            batch = range(start, min(start + batch_size, len(prompts)))
            if self.config.memory and len(batch) > self.config.memory:
                raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
            for index in reversed(batch):  # any order is allowed
                time.sleep(self.config.slow)
                if self.config.poison and index - start == 7 and Path(self.config.poison).exists():
                    Path(self.config.poison).unlink()
                    os.kill(os.getpid(), signal.SIGKILL)
                rng = np.random.default_rng(keys[index])
                structure = self._drawn(prompts[index], rng)
                if rng.random() < self.config.broken and structure.positions is not None:
                    structure = structure.replace(positions=structure.positions * 0.1)  # everything clashes
                yield contract.Draw(index, Tokens(structure), float(rng.normal()) if score else float("nan"), nfe)

    def _drawn(self, prompt: Prompt, rng: np.random.Generator) -> Structure:
        from rdkit.Chem import rdDistGeom

        from sciar import convert

        if prompt.crystal:
            return self._crystal(prompt, rng)
        graph = prompt.graph or convert.from_smiles(("CCO", "CC=O", "C1CC1", "c1ccccc1")[rng.integers(4)])
        mol = convert.to_rdkit(graph)
        rdDistGeom.EmbedMolecule(mol, randomSeed=int(rng.integers(2**31)))
        noise = rng.normal(scale=abs(self.noise.item()), size=(graph.n_atoms, 3))
        return graph.replace(positions=mol.GetConformer().GetPositions() + noise)

    def _crystal(self, prompt: Prompt, rng: np.random.Generator) -> Structure:
        """The atoms that are asked for, on a cubic grid of 2.8 Å, in a random order; any number of formula units up to two."""
        composition = prompt.composition or {"Na": 1, "Cl": 1}
        units = prompt.formula_units or int(rng.integers(1, 3))
        numbers = rng.permutation([NUMBERS[symbol] for symbol, count in composition.items() for _ in range(count * units)])
        side = int(np.ceil(len(numbers) ** (1 / 3)))
        grid = np.stack(np.meshgrid(*[np.arange(side)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)[: len(numbers)]
        noise = rng.normal(scale=abs(self.noise.item()), size=grid.shape)
        return Structure(numbers, 2.8 * grid + noise, cell=2.8 * side * np.eye(3))
