"""Autoregression over the nodes of an octree, coarse to fine (Uni-3DAR, arXiv 2503.16278)."""

from sciar.families.octree.config import ModelConfig
from sciar.families.octree.model import Model
from sciar.families.octree.tokens import Tokenizer, TokenizerConfig, Tokens

__all__ = ["Model", "ModelConfig", "Tokenizer", "TokenizerConfig", "Tokens"]
