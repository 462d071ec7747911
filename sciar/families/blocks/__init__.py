"""Block-by-block discrete diffusion of graphs in a structural order (PARD, arXiv 2402.03687)."""

from sciar.families.blocks.model import Model, ModelConfig
from sciar.families.blocks.tokens import Tokenizer, TokenizerConfig, Tokens

__all__ = ["Model", "ModelConfig", "Tokenizer", "TokenizerConfig", "Tokens"]
