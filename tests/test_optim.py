import copy

import torch
from torch import nn

from sciar.optim import Together, optimiser


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Embedding(5, 8), nn.ModuleList([nn.Linear(8, 8)])[0], nn.LayerNorm(8), Stack())


class Stack(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks, self.head = nn.ModuleList(nn.Linear(8, 8) for _ in range(2)), nn.Linear(8, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = x + torch.tanh(block(x))
        return self.head(x)


def steps(model: nn.Module, optimizer: torch.optim.Optimizer, count: int) -> list[float]:
    x, y = torch.arange(5), torch.tensor([0.0, 1.0, 0.0, -1.0, 2.0])
    losses = []
    for _ in range(count):
        optimizer.zero_grad()
        loss = (model(x)[:, 0] - y).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


def made(model: nn.Module, kind: str) -> torch.optim.Optimizer:
    return optimiser(model, kind, 1e-2, 0.01, 0.99, fused=False)


def test_muon_takes_the_hidden_matrices_alone() -> None:
    model = network()
    both = made(model, "muon")
    assert isinstance(both, Together) and isinstance(both.parts[1], torch.optim.Muon)
    hidden = {id(p) for group in both.parts[1].param_groups for p in group["params"]}
    assert hidden == {id(block.weight) for block in model[3].blocks}
    every = [id(p) for group in both.param_groups for p in group["params"]]
    assert len(every) == len(set(every)) == len(list(model.parameters()))
    assert isinstance(made(model, "adamw"), torch.optim.AdamW)


def test_both_learn_and_go_on_where_they_stopped() -> None:
    for kind in ("adamw", "muon"):
        model = network()
        optimizer = made(model, kind)
        first = steps(model, optimizer, 20)
        assert first[-1] < 0.5 * first[0]
        saved, weights = copy.deepcopy(optimizer.state_dict()), copy.deepcopy(model.state_dict())
        onward = steps(model, optimizer, 5)
        other = network()
        other.load_state_dict(weights)
        resumed = made(other, kind)
        resumed.load_state_dict(saved)
        for group in resumed.param_groups:
            group["lr"] = 1e-2
        assert steps(other, resumed, 5) == onward


def test_one_schedule_drives_all() -> None:
    both = made(network(), "muon")
    schedule = torch.optim.lr_scheduler.LambdaLR(both, lambda step: 1 / (1 + step))
    both.step()
    schedule.step()
    assert {group["lr"] for part in both.parts for group in part.param_groups} == {5e-3}  # type: ignore[attr-defined]
