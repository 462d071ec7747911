"""A key-value cache of fixed size whose rows are at different places, so that a finished row can begin anew."""

from __future__ import annotations

import torch
from jaxtyping import Int
from torch import Tensor

from sciar.nn.transformer import Cache


class StaticCache:
    """Keys and values (rows, heads, longest, channels) of one attention layer; allocated once."""

    def __init__(self, rows: int, heads: int, longest: int, channels: int, device: torch.device, dtype: torch.dtype) -> None:
        self.keys = torch.zeros(rows, heads, longest, channels, device=device, dtype=dtype)
        self.values = torch.zeros_like(self.keys)
        self.rows = torch.arange(rows, device=device)[:, None]

    def at(self, slots: Int[Tensor, "b q"], width: int) -> Cache:
        """Writes q new tokens of each row to its `slots` and answers with the first `width` slots."""

        def write(key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
            for store, new in ((self.keys, key), (self.values, value)):
                store[self.rows, :, slots] = new.transpose(1, 2).to(store.dtype)
            return self.keys[:, :, :width], self.values[:, :, :width]

        return write
