"""Crystals as a formula and slots of numbers, drawn slot by slot (UniGenX, arXiv 2503.06687) or in blocks (ACDiT, arXiv 2412.07720)."""

from sciar.families.slots.model import Model, ModelConfig
from sciar.families.slots.tokens import Tokenizer, TokenizerConfig, Tokens

__all__ = ["Model", "ModelConfig", "Tokenizer", "TokenizerConfig", "Tokens"]
