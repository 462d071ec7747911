"""A small `blocks` model, untrained, and molecules with charges that tests share."""

from __future__ import annotations

import torch

from sciar.convert import from_smiles
from sciar.families.blocks import Model, ModelConfig, Tokenizer, TokenizerConfig
from sciar.structure import Structure

TINY = ModelConfig(width=32, pair=16, heads=4, layers=2, steps=3)
CHARGED = ("C", "N", "O", "F", "S", "N+", "O-", "S-")
SMILES = "CC(=O)Oc1ccccc1C(=O)O CCO c1ccc2[nH]ccc2c1 C[N+](C)(C)CC(=O)[O-] O=[N+]([O-])c1ccco1 C[NH+](C)C CS(=O)(=O)N C".split()


def molecules() -> list[Structure]:
    return [from_smiles(s, explicit_hydrogens=False) for s in SMILES]


def tokenizer() -> Tokenizer:
    return Tokenizer(TokenizerConfig(atoms=CHARGED))


def model(tokenizer: Tokenizer) -> Model:
    torch.manual_seed(0)
    return Model(TINY, tokenizer)
