"""bf16 only where the hardware has it."""

from __future__ import annotations

import pytest
import torch

from sciar import precision
from sciar.config import TrainConfig
from sciar.errors import InputError

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("known", "has"),
    [
        ({"avx2": True, "avx512_bf16": False, "amx_bf16": False}, False),
        ({"avx2": True, "avx512_bf16": True, "amx_bf16": False}, True),
        ({"avx512_f": True, "amx_bf16": True}, True),
        ({"neon": True, "bf16": True}, True),
        ({}, False),
    ],
)
def test_a_cpu_is_asked_for_bf16(monkeypatch: pytest.MonkeyPatch, known: dict[str, bool], has: bool) -> None:
    precision._cpu.cache_clear()
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: known, raising=False)
    assert precision.narrow("auto", CPU) is has
    with precision.autocast("auto", CPU):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == (torch.bfloat16 if has else torch.float32)
    precision._cpu.cache_clear()


def test_an_older_torch_is_asked_another_way(monkeypatch: pytest.MonkeyPatch) -> None:
    precision._cpu.cache_clear()
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False, raising=False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True, raising=False)
    assert precision.narrow("auto", CPU)
    precision._cpu.cache_clear()


def test_what_is_asked_for_is_done() -> None:
    assert precision.narrow("bf16", CPU) and not precision.narrow("32", CPU)
    assert precision.narrow("auto", torch.device("cuda")) and not precision.narrow("auto", torch.device("mps"))
    with pytest.raises(InputError, match="auto, bf16, 32"):
        precision.check("16")
    with pytest.raises(InputError, match="auto, bf16, 32"):
        TrainConfig(precision="16")
