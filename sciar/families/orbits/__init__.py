"""Crystals as words of their symmetry and diffusion of what symmetry leaves free (UniGenX's hybrid, arXiv 2503.06687, over Wyckoff orbits)."""

from sciar.families.orbits.model import Model, ModelConfig
from sciar.families.orbits.tokens import Tokenizer, TokenizerConfig, Tokens

__all__ = ["Model", "ModelConfig", "Tokenizer", "TokenizerConfig", "Tokens"]
