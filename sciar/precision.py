"""How precisely networks compute: in bf16 where the hardware multiplies it, else in fp32.

A CPU thread multiplied matrices 5 × faster in bf16 with AMX, and 60 × slower on one with AVX2 alone, which has to emulate it.
"""

from __future__ import annotations

from functools import cache

import torch

from sciar.config import PRECISIONS
from sciar.errors import InputError


def check(precision: str) -> None:
    """Refuse what is no precision of a sampler.

    Raises:
        InputError: another word than "auto", "bf16" or "32".
    """
    if precision not in PRECISIONS:
        raise InputError(f"sample: expected precision {', '.join(PRECISIONS)}, got {precision!r}")


def narrow(precision: str, device: torch.device) -> bool:
    """Whether `precision` means bf16 on a device; "auto" asks whether it has bf16 products of its own."""
    return precision == "bf16" or (precision == "auto" and (device.type == "cuda" or (device.type == "cpu" and _cpu())))


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """The region in which a network computes with `precision`."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=narrow(precision, device))


@cache
def _cpu() -> bool:
    known = getattr(torch.cpu, "get_capabilities", None)
    if known is not None:
        return any(bool(has) for name, has in known().items() if name.endswith("bf16"))
    asked = (getattr(torch.cpu, name, None) for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"))  # torch before 2.9
    return any(ask() for ask in asked if ask is not None)
