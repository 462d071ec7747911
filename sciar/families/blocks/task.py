"""What the trunk is told, and the task of one training step: whole graphs with virtual copies of their blocks to be found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sciar.diffusion import categorical
from sciar.families.blocks.finished import Clean, fitting, walk_features

if TYPE_CHECKING:
    from sciar.families.blocks.model import Model

Uniform = Callable[..., Tensor]

MASKED, SELF, NOISED = 4, 5, 6  # pair codes: 0 no bond · 1–3 bond order · masked · itself · 6–9 noised class 0–3
CLEAN, VIRTUAL, READER = 0, 1, 2
MOST_PLACES = 4  # free places of a node are counted up to this
MOST_EXCESS = 3  # bond orders beyond the free places that are told apart
MOST_RING = 9  # sizes of rings are told apart up to this


@dataclass(frozen=True, slots=True)
class Rows:
    """What the trunk is told of r nodes, against c columns (the rows themselves, or also what is finished).

    Args:
        kind: node type. level: block. role: CLEAN, VIRTUAL (not yet finished) or READER (of the header of block `level`).
        degree: residual degree of the block. left, spent: open bonds and bond orders in use of a virtual node. size: nodes of the block.
        codes: state of each pair. apart: blocks between its nodes. used, near: bond orders and neighbours that the
        earlier node of a pair has in the blocks before the later node's. walks: RRWP features of the pair.
        free: 1 + free places of the earlier node of a pair, 0 where there is none; None where they are not told.
        ring: nodes of the smallest ring that a bond of an open row and a column closes, 0 where it closes none; None where not told.
        sees: what each row attends to. time: noise level of each row in [0, 1], 0 where there is none.
    """

    kind: Int[Tensor, "b r"]
    level: Int[Tensor, "b r"]
    role: Int[Tensor, "b r"]
    degree: Int[Tensor, "b r"]
    left: Int[Tensor, "b r"]
    spent: Int[Tensor, "b r"]
    size: Int[Tensor, "b r"]
    codes: Int[Tensor, "b r c"]
    apart: Int[Tensor, "b r c"]
    used: Int[Tensor, "b r c"]
    near: Int[Tensor, "b r c"]
    free: Int[Tensor, "b r c"] | None
    ring: Int[Tensor, "b r c"] | None
    sees: Bool[Tensor, "b r c"]
    walks: Float[Tensor, "b r c w"] | None
    time: Float[Tensor, "b r"]


def limit_of(rows: Rows, capacity: Int[Tensor, "t"]) -> Int[Tensor, "b r r"]:
    """Largest bond order that an open row and a column have free places for, one kept for each other open bond of both.

    Args:
        rows: of whole graphs, whose columns are the rows. capacity: largest bond order sum of each node type.
    """
    most, virtual = capacity[rows.kind], rows.role == VIRTUAL
    own = most - rows.spent - (rows.left - 1).clamp(min=0)
    earlier = rows.level[:, None] < rows.level[..., None]
    mates = (rows.level[:, None] == rows.level[..., None]) & virtual[:, None] & virtual[..., None]
    known = torch.where(rows.codes < MASKED, rows.codes, 0)
    used = ((earlier & (rows.role == CLEAN)[:, None]) | mates).float() @ known.float()  # of a column, when the row's block is open
    return torch.minimum(own[..., None], torch.where(earlier, most[:, None] - used.long(), own[:, None]))


def rings_of(bonds: Bool[Tensor, "b c c"], sees: Bool[Tensor, "b r c"]) -> Int[Tensor, "b r c"]:
    """Nodes of the smallest ring that a bond of each of the last r nodes closes with each node, 0 where it closes none.

    Paths are what a row sees. MOST_RING stands for all larger ones.
    """
    b, r, c = sees.shape
    walk, front = bonds.to(torch.float32), bonds[:, c - r :] & sees
    seen = front | torch.eye(c, dtype=torch.bool, device=sees.device)[c - r :]
    ring = torch.zeros(b, r, c, dtype=torch.long, device=sees.device)
    size = 2
    while bool(front.any()):
        size = min(size + 1, MOST_RING)
        front = (front.to(torch.float32) @ walk > 0) & sees & ~seen
        ring, seen = torch.where(front, size, ring), seen | front
    return ring


@dataclass(frozen=True, slots=True)
class Task:
    """One training step: input rows (n clean, v virtual, readers) and what is to be found.

    Args:
        rows: for the trunk.
        truth: bond orders of the virtual rows to clean and virtual ones (v, n + v). mask: pairs to be found. weight: of each row or pair.
        n_chosen: virtual blocks in the batch.
    """

    rows: Rows
    truth: Int[Tensor, "b v c"]
    mask: Bool[Tensor, "b v c"]
    weight: Tensor
    n_chosen: Tensor


def task_of(model: Model, clean: Clean, draw: Uniform) -> Task:
    """The clean graph, and virtual copies of some random blocks with part of their bonds shown. `draw(*shape)`: uniform numbers."""
    config = model.config
    b, n = clean.kind.shape
    levels = clean.sizes.shape[1]
    score = draw(b, levels).masked_fill(clean.sizes == 0, 2.0)
    wanted = config.blocks or levels
    picked = (score.argsort(1).argsort(1) < wanted) & clean.sizes.gt(0)
    place = clean.block.clamp(min=0)
    virtual = picked.gather(1, place) & clean.mask
    v = min(n, fitting(max(1, int(virtual.sum(1).max())), virtual.device))
    index = (~virtual).long().argsort(dim=1, stable=True)[:, :v]
    real = virtual.gather(1, index)
    take = lambda t: t.gather(1, index)  # noqa: E731
    level, kind = take(clean.block).masked_fill(~real, -2), take(clean.kind)
    size, degree = take(clean.sizes.gather(1, place)), take(clean.degree)
    # bonds of the virtual nodes: to earlier clean nodes, and to their mates
    orders = clean.orders.gather(1, index[..., None].expand(-1, -1, n))
    earlier = (clean.block[:, None] < level[:, :, None]) & clean.mask[:, None] & real[..., None]
    inner = orders.gather(2, index[:, None].expand(-1, v, -1))
    mates = (level[:, :, None] == level[:, None]) & real[..., None] & real[:, None]
    mates = mates & ~torch.eye(v, dtype=torch.bool, device=mates.device)
    truth = torch.cat([orders * earlier, inner * mates], 2)
    candidate = torch.cat([earlier, mates], 2)
    time = torch.zeros(b, v, device=truth.device)
    if config.kernel == "absorbing":
        mask, weight = _hidden(candidate, truth, mates, real, size, config.partial, draw)
        codes = torch.where(mask, MASKED, truth)
    else:
        # one noise level per block, given to all its nodes
        level_time = (1 + (draw(b, levels) * config.steps).floor()) / config.steps
        time = level_time.gather(1, level.clamp(min=0))
        law = model.noise_law(degree[..., None].float(), candidate.sum(-1, keepdim=True)).expand(*truth.shape, -1)
        alpha = categorical.cosine(time)[..., None].expand(truth.shape)
        mixed = categorical.noised(truth, alpha, law, draw(*truth.shape, 2))
        square = mixed[:, :, n:]
        upper = torch.ones(v, v, dtype=torch.bool, device=square.device).triu()
        mixed = torch.cat([mixed[:, :, :n], torch.where(upper, square, square.transpose(1, 2))], 2)
        mask, weight = candidate, torch.where(candidate, 1.0, 0.0)
        weight = torch.cat([weight[:, :, :n], weight[:, :, n:] * upper], 2)
        codes = NOISED + mixed
    codes = torch.where(candidate, codes, 0)
    shown = torch.where(candidate & ~mask, truth > 0, False).sum(-1)
    left, role = degree - shown, torch.full_like(kind, VIRTUAL)
    if config.reader:
        extra = torch.arange(levels + 1, device=kind.device).expand(b, -1)
        asked = extra <= clean.sizes.gt(0).sum(1, keepdim=True)
        role = torch.cat([role, torch.full_like(extra, READER)], 1)
        level, real = torch.cat([level, extra.masked_fill(~asked, -2)], 1), torch.cat([real, asked], 1)
        kind, degree, left, size, time = (F.pad(t, (0, levels + 1)) for t in (kind, degree, left, size, time))
        codes = F.pad(codes, (0, levels + 1, 0, levels + 1))
    return Task(_rows(model, clean, kind, level, role, real, degree, left, size, codes, time), truth, mask, weight, picked.sum())


def _hidden(
    candidate: Tensor, truth: Tensor, mates: Tensor, real: Tensor, size: Tensor, partial: float, draw: Uniform
) -> tuple[Bool[Tensor, "b v c"], Float[Tensor, "b v"]]:
    """Which pairs are masked, and the weight of each masked row (size / masked rows of its block, 0 if it is shown)."""
    b, v = real.shape
    n = candidate.shape[2] - v
    score = draw(b, v)
    rank = (mates & (score[:, None] < score[:, :, None])).sum(-1)
    # any_order asks for one number per block: that of its first node
    uniform = draw(b, v)
    same = mates | torch.eye(v, dtype=torch.bool, device=mates.device)
    uniform = uniform.gather(1, same.long().argmax(-1))
    masked, weight = categorical.any_order(size, uniform)
    hidden = (rank < masked) & real
    mask = candidate & hidden[..., None]
    mask = torch.cat([mask[:, :, :n], mask[:, :, n:] & hidden[:, None]], 2)
    # some rows show part of their bonds, as when neighbours are drawn one at a time
    open_ = mask & (truth > 0)
    left = open_.sum(-1)
    tell = (draw(b, v) < partial) & (left > 1)
    shown = (draw(b, v) * (left - 1)).floor() + 1
    place = draw(*mask.shape).masked_fill(~open_, 2.0).argsort(-1).argsort(-1)
    told = open_ & (place < shown[..., None]) & tell[..., None]
    inner = told[:, :, n:] | told[:, :, n:].transpose(1, 2)
    return mask & ~torch.cat([told[:, :, :n], inner], 2), weight * hidden


def _rows(
    model: Model,
    clean: Clean,
    kind: Tensor,
    level: Tensor,
    role: Tensor,
    real: Tensor,
    degree: Tensor,
    left: Tensor,
    size: Tensor,
    codes: Tensor,
    time: Tensor,
) -> Rows:
    """Clean nodes followed by virtual ones and readers, everything against everything."""
    config = model.config
    b, n = clean.kind.shape
    v = kind.shape[1]
    join = lambda a, c: torch.cat([a, c], 1)  # noqa: E731
    levels = join(clean.block.masked_fill(~clean.mask, -1), level)
    roles = join(torch.full_like(clean.kind, CLEAN), role)
    valid = join(clean.mask, real)
    eye = torch.eye(n + v, dtype=torch.bool, device=kind.device)
    below = levels[:, None] < levels[:, :, None]
    same = (levels[:, None] == levels[:, :, None]) & (roles[:, None] == roles[:, :, None])
    sees = ((below & (roles == CLEAN)[:, None]) | same) & valid[:, None] & valid[:, :, None] | eye
    left_columns = torch.cat([torch.where(eye[:n, :n], SELF, clean.orders), codes[:, :, :n]], 1)
    square = torch.where(eye[n:, n:], SELF, codes[:, :, n:])
    right_columns = torch.cat([codes[:, :, :n].transpose(1, 2), square], 1)
    strict = (clean.block[:, None] < levels[:, :, None]) & clean.mask[:, None]
    known = torch.where(codes <= model.n_orders, codes, 0)
    mates = same[:, n:, n:].float()
    counts = []
    for table, drawn in ((clean.orders, known), (clean.orders.clamp(max=1), known.clamp(max=1))):
        count = strict.float() @ table.float()
        if config.shown:
            count[:, n:] += mates @ drawn[..., :n].float()
        count = F.pad(count.long() * strict, (0, v))
        counts.append(count + count.transpose(1, 2))
    free = None
    nothing = torch.zeros_like(clean.degree)
    left, spent = join(nothing, left), join(nothing, known.sum(-1))
    if config.places:
        earlier, capacity = F.pad(strict, (0, v)), model.capacity[join(clean.kind, kind)]
        remaining = capacity[:, None] - counts[0]
        left_of = (remaining.clamp(0, MOST_PLACES) + 1) * earlier
        free = left_of + left_of.transpose(1, 2)
    ring = None
    if config.rings:
        bonds = torch.cat([torch.cat([clean.orders, known[..., :n].transpose(1, 2)], 2), known], 1) > 0
        ring = F.pad(rings_of(bonds, sees[:, n:] & (role == VIRTUAL)[..., None]), (0, 0, n, 0))
    distance = (levels[:, None] - levels[:, :, None]).abs()
    walks = walk_features(clean, levels, config.walk) if config.walk else None
    return Rows(
        kind=join(clean.kind, kind),
        level=levels,
        role=roles,
        degree=join(clean.degree, degree),
        left=left,
        spent=spent,
        size=join(nothing, size),
        codes=torch.cat([left_columns, right_columns], 2),
        apart=distance,
        used=counts[0],
        near=counts[1],
        free=free,
        ring=ring,
        sees=sees,
        walks=walks,
        time=join(torch.zeros(b, n, device=time.device), time),
    )
