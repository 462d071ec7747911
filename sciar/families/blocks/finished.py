"""Finished graphs as dense tensors, and what random walks on them tell of a pair of nodes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sciar.batch import Batch


@dataclass(frozen=True, slots=True)
class Clean:
    """Finished graphs as dense tensors: nodes (b n), pairs (b n n), blocks (b l).

    Args:
        kind, block, degree: of the nodes; block is -1 where `mask` is False.
        orders: bond orders, symmetric, 0 = none.
        sizes: nodes of each block, 0 = no block. block_degree: residual degree of blocks 0 … l, 0 where there is none.
    """

    kind: Int[Tensor, "b n"]
    block: Int[Tensor, "b n"]
    degree: Int[Tensor, "b n"]
    mask: Bool[Tensor, "b n"]
    orders: Int[Tensor, "b n n"]
    sizes: Int[Tensor, "b l"]
    block_degree: Int[Tensor, "b k"]

    @classmethod
    def of(cls, batch: Batch) -> Clean:
        width = batch.masks["nodes"].shape[1]
        n = min(width, fitting(int(batch.masks["nodes"].sum(1).max()), batch["kind"].device))  # pairs cost its square
        mask, block, kind, degree = (t[:, :n] for t in (batch.masks["nodes"], batch["block"], batch["kind"], batch["degree"]))
        b = len(mask)
        i, j, order = batch["bonds"].unbind(-1)
        order = order * batch.masks["bonds"]
        orders = torch.zeros(b, n * n, dtype=torch.long, device=block.device)
        orders.scatter_reduce_(1, i * n + j, order, "amax")
        orders.scatter_reduce_(1, j * n + i, order, "amax")
        levels = fitting(int(block.max()) + 2, block.device) - 1
        sizes = torch.zeros(b, levels + 1, dtype=torch.long, device=block.device)
        place = torch.where(mask, block, levels)
        sizes.scatter_add_(1, place, mask.long())
        of_block = torch.zeros_like(sizes).scatter_reduce_(1, place, degree * mask, "amax")
        return cls(kind, block, degree, mask, orders.view(b, n, n), sizes[:, :levels], of_block)


def fitting(count: int, device: torch.device) -> int:
    """The next width that a GPU's matrix units can multiply, a multiple of 8; on a CPU the count itself."""
    return count if device.type == "cpu" else -(-count // 8) * 8


def walk_features(clean: Clean, levels: Tensor, steps: int) -> Float[Tensor, "b r c w"]:
    """RRWP of the graph as it was when the later node of each pair came: 2 × `steps` features per pair.

    First half: return probabilities of the earlier node in the blocks before the later one's. Second half: walk
    probabilities between the two (both directions averaged) with the later block included; zero for virtual nodes.
    Source: Ma et al. 2023 (GRIT), relative random-walk probabilities; per block, so that nothing looks ahead.
    """
    b, n = clean.kind.shape
    depth, extra = int(clean.block.max()) + 1, levels.shape[1] - n
    inside = (clean.block[:, None] <= torch.arange(depth, device=levels.device)[:, None]) & clean.mask[:, None]
    adjacency = clean.orders.clamp(max=1).float()[:, None] * inside[..., None] * inside[:, :, None]
    walks = powers(adjacency, steps)  # b l n n w: the graph up to each block
    later = torch.maximum(clean.block[:, :, None], clean.block[:, None]).clamp(min=0)
    rows, columns = torch.arange(n, device=levels.device)[:, None], torch.arange(n, device=levels.device)
    own = walks[torch.arange(b, device=levels.device)[:, None, None], later, rows, columns]
    between = F.pad((own + own.transpose(1, 2)) / 2, (0, 0, 0, extra, 0, extra))
    returns = walks.diagonal(dim1=2, dim2=3).transpose(2, 3)  # b l n w
    before = returns.gather(1, (levels - 1).clamp(min=0)[:, :, None, None].expand(-1, -1, n, steps))
    seen = (clean.block[:, None] < levels[:, :, None]) & clean.mask[:, None]
    single = F.pad(before * seen[..., None], (0, 0, 0, extra))
    return torch.cat([single + single.transpose(1, 2), between], -1)


def powers(adjacency: Float[Tensor, "*b n n"], steps: int) -> Float[Tensor, "*b n n w"]:
    """Random-walk probabilities after 1 … steps steps."""
    step = adjacency / adjacency.sum(-1, keepdim=True).clamp(min=1)
    made = [step]
    for _ in range(steps - 1):
        made.append(made[-1] @ step)
    return torch.stack(made, -1)


def several_of(bonds: Bool[Tensor, "b n n"], inside: Bool[Tensor, "b l n"]) -> Bool[Tensor, "b l"]:
    """Whether the nodes `inside` are in several pieces, by the bonds between them."""
    walk = bonds.to(torch.float32)
    reached = inside & (inside.cumsum(-1) == 1)  # the first one, and all that can be reached from it
    while True:
        more = inside & ((reached.to(torch.float32) @ walk > 0) | reached)
        if torch.equal(more, reached):
            return (inside & ~reached).any(-1)
        reached = more
