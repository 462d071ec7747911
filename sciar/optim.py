"""The optimiser: AdamW, and for the matrices of hidden layers Muon if it is wanted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


class Together(torch.optim.Optimizer):
    """Several optimisers that step as one; their groups are its groups, so one schedule drives all."""

    def __init__(self, *parts: torch.optim.Optimizer) -> None:
        super().__init__([group for part in parts for group in part.param_groups], {})
        self.parts = parts

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part in self.parts:
            part.step()
        return loss

    def state_dict(self) -> dict[str, Any]:
        return {"state": {}, "param_groups": [], "parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for part, state in zip(self.parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)
        self.param_groups = [group for part in self.parts for group in part.param_groups]


def optimiser(model: nn.Module, kind: str, lr: float, weight_decay: float, beta2: float, fused: bool) -> torch.optim.Optimizer:
    """AdamW for everything ("adamw"), or Muon for the weights of linear layers inside stacks of blocks and AdamW for the rest ("muon").

    Both take the same `lr` and `weight_decay`: Muon's orthogonal updates are scaled to the size of Adam's. Embeddings, heads and
    whatever is no matrix stay with Adam. Weight decay touches matrices only.

    Source: Jordan et al. 2024, Muon; Liu et al. 2025 (arXiv 2502.16982), eq. 4 for the scale.
    """
    hidden: list[Tensor] = []
    if kind == "muon":
        stacks = [part for part in model.modules() if isinstance(part, nn.ModuleList)]
        hidden = [m.weight for stack in stacks for m in stack.modules() if isinstance(m, nn.Linear) and min(m.weight.shape) > 1]
        hidden = list({id(p): p for p in hidden if p.requires_grad}.values())
    mine = {id(p) for p in hidden}
    rest = [p for p in model.parameters() if id(p) not in mine]
    groups = [
        {"params": [p for p in rest if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in rest if p.ndim <= 1], "weight_decay": 0.0},
    ]
    adam = torch.optim.AdamW(groups, lr=lr, betas=(0.9, beta2), fused=fused)
    if not hidden:
        return adam
    return Together(adam, torch.optim.Muon(hidden, lr=lr, weight_decay=weight_decay, momentum=0.95, adjust_lr_fn="match_rms_adamw"))
