"""Autoregression over words and atoms with a diffusion head for coordinates (UniGenX, arXiv 2503.06687)."""

from sciar.families.hybrid.model import Model, ModelConfig
from sciar.families.hybrid.tokens import Tokenizer, TokenizerConfig, Tokens

__all__ = ["Model", "ModelConfig", "Tokenizer", "TokenizerConfig", "Tokens"]
