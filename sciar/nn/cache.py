"""A key-value cache whose rows are at different places, so that a finished row can begin anew."""

from __future__ import annotations

from functools import partial

import torch
from jaxtyping import Int
from torch import Tensor

from sciar.nn.transformer import Cache


class StaticCache:
    """Keys and values (rows, heads, slots, channels) of one attention layer, up to `longest` slots.

    The slots are as many as were asked for at once so far: a product with a part of a longer store would copy it first
    (2.6 times slower on a CPU). Growing copies too, but only a few times in a run.
    """

    def __init__(self, rows: int, heads: int, longest: int, channels: int, device: torch.device, dtype: torch.dtype) -> None:
        self.longest = longest
        self.keys = torch.zeros(rows, heads, 0, channels, device=device, dtype=dtype)
        self.values = self.keys
        self.rows = torch.arange(rows, device=device)[:, None]

    def at(self, slots: Int[Tensor, "b q"], width: int) -> Cache:
        """Writes q new tokens of each row to its `slots`, all below `width`, and answers with the first `width` slots."""
        more = min(width, self.longest) - self.keys.shape[2]
        if more > 0:
            rows, heads, _, channels = self.keys.shape
            room = self.keys.new_zeros(rows, heads, more, channels)
            self.keys, self.values = torch.cat([self.keys, room], 2), torch.cat([self.values, room], 2)
        return partial(self._write, slots, width)

    def _write(self, slots: Int[Tensor, "b q"], width: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        for store, new in ((self.keys, key), (self.values, value)):
            store[self.rows, :, slots] = new.transpose(1, 2).to(store.dtype)
        return self.keys[:, :, :width], self.values[:, :, :width]
