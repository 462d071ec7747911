"""Crystals as words of their symmetry, then diffusion of what symmetry leaves free (UniGenX, arXiv 2503.06687, over orbits)."""

from sciar.families.orbits.model import Model, ModelConfig
from sciar.families.orbits.tokens import Tokenizer, TokenizerConfig, Tokens

__all__ = ["Model", "ModelConfig", "Tokenizer", "TokenizerConfig", "Tokens"]
