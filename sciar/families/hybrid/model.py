"""The hybrid family's network: words, graph encoder, slot decoder, diffusion head, joint refiner.

p(molecule) = p(words) Π_k p(x_k | graph, x_<k). The words are drawn by a causal transformer. Given the whole
graph, a bidirectional encoder gives every atom a state; a causal decoder walks the slots, reads where the
earlier atoms lie in the local frame of the atom it is placing, and hands a state to the diffusion head.

Source: UniGenX (arXiv 2503.06687) for words, slots and head; the local frame, the pair features and the
anchor-relative target are ours. `frame="haar", target="absolute", process="cosine", geometry=False,
graph_bias=False, history_noise=0, refiner_layers=0` is the published layout.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from sciar.batch import Batch
from sciar.diffusion.gaussian import EDM, Cosine
from sciar.errors import InputError
from sciar.families.hybrid.tokens import BOND_TYPES, FEATURE_SIZES, PAD, THEORIES, VOCABULARY, Tokenizer
from sciar.family import Draw, check_choices
from sciar.family import Model as AbstractModel
from sciar.nn.embedding import Fourier, RadialBasis
from sciar.nn.head import DiffusionHead
from sciar.nn.refiner import Refiner
from sciar.nn.transformer import Block, Cache, initialise
from sciar.prompt import Prompt

FARTHEST = 5
N_CODES = BOND_TYPES + FARTHEST + 1  # 0 itself · 1–5 bond types · 6–9 two to five bonds away · 10 farther
N_ROLES = 30  # see slot_roles


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Sizes and choices; each choice is one row of the ablation table.

    Args:
        width, heads: of the trunk. encoder_layers, decoder_layers, words_layers: depths (words_layers 0 = no de novo).
        pair: width of the pair features. head_width, head_depth: of the diffusion head. draws: noise levels per slot and step.
        refiner_layers, refiner_width: of the joint refiner (0 layers = none). refiner_sigma: largest error it learns to remove, Å.
        frame: "local" (frame of the references) or "haar" (absolute axes, random rotation in training).
        target: "residual" (x - anchor) or "absolute". process: "edm" or "cosine" (published ε-prediction).
        graph_bias: attention sees bonds and distances in the graph. geometry: attention sees where earlier atoms lie.
        history_noise: probability that a molecule's past coordinates are disturbed in training.
        sigma_data: spread of the target in Å. slot_weight, word_weight, refiner_weight: of the loss parts; with slot_weight 0
            only the words are trained.
    """

    width: int = 192
    heads: int = 6
    encoder_layers: int = 2
    decoder_layers: int = 4
    words_layers: int = 0
    pair: int = 32
    head_width: int = 256
    head_depth: int = 3
    draws: int = 4
    refiner_layers: int = 3
    refiner_width: int = 64
    refiner_sigma: float = 1.5
    frame: str = "local"
    target: str = "residual"
    process: str = "edm"
    graph_bias: bool = True
    geometry: bool = True
    history_noise: float = 0.5
    sigma_data: float = 0.9
    slot_weight: float = 1.0
    word_weight: float = 0.2
    refiner_weight: float = 1.0

    def __post_init__(self) -> None:
        check_choices(self, {"frame": ("local", "haar"), "target": ("residual", "absolute"), "process": ("edm", "cosine")})
        if self.width % self.heads:
            raise InputError(f"ModelConfig.heads: expected a divisor of width {self.width}, got {self.heads}")


@dataclass(frozen=True, slots=True)
class Geometry:
    """What the slots of a query see of the atoms placed so far.

    Args:
        origin: position of the anchor (b q 3), Å. axes: rows are the local frame (b q 3 3).
        kind: which reference fixed the torsion (b q): 0 none, 1 a sibling, 2 an atom behind.
        side, twist: the stereo signs for that reference, in {-1, 0, 1} (b q).
        seen: positions of all slots in the local frame (b q n 3).
    """

    origin: Tensor
    axes: Tensor
    kind: Tensor
    side: Tensor
    twist: Tensor
    seen: Tensor


def gather(values: Float[Tensor, "b n c"], index: Int[Tensor, "b q"]) -> Float[Tensor, "b q c"]:
    """Rows of each batch item; index -1 gives the first row."""
    return values.gather(1, index.clamp(min=0)[..., None].expand(-1, -1, values.shape[-1]))


def local_geometry(
    positions: Float[Tensor, "b n 3"],
    anchor: Int[Tensor, "b q"],
    refs: Int[Tensor, "b q 5"],
    side: Int[Tensor, "b q 4"],
    twist: Int[Tensor, "b q 4"],
    codes: Int[Tensor, "b q n"],
    frame: str = "local",
) -> Geometry:
    """Local frames of the slots of a query and what they see.

    e₁ runs from b to the anchor, e₂ is the part of c - anchor orthogonal to it, e₃ = e₁ × e₂. The first
    reference c that is more than 0.25 Å off the line is taken; where there is none, e₂ is the y axis (the
    canonical frame of the tokenizer).
    """
    b, q = anchor.shape
    x_a = gather(positions, anchor)
    has_a, has_b = (anchor >= 0)[..., None], (refs[..., 0] >= 0)[..., None]
    unit = positions.new_tensor([1.0, 0.0, 0.0]).expand(b, q, 3)
    e1 = torch.where(has_b, x_a - gather(positions, refs[..., 0]), unit)
    e1 = e1 / e1.norm(dim=-1, keepdim=True).clamp(min=1e-6)
    c = refs[..., 1:]
    x_c = gather(positions, c.flatten(1)).view(b, q, c.shape[-1], 3) - x_a[..., None, :]
    off = x_c - (x_c * e1[..., None, :]).sum(-1, keepdim=True) * e1[..., None, :]
    fit = (c >= 0) & (off.norm(dim=-1) > 0.25)
    chosen = fit.int().argmax(-1, keepdim=True)
    found = fit.any(-1, keepdim=True) & has_b
    y, z = positions.new_tensor([0.0, 1.0, 0.0]), positions.new_tensor([0.0, 0.0, 1.0])
    spare = torch.where(e1[..., 1:2].abs() < 0.9, y, z)
    spare = spare - (spare * e1).sum(-1, keepdim=True) * e1
    e2 = torch.where(found, off.gather(2, chosen[..., None].expand(-1, -1, -1, 3)).squeeze(2), spare)
    e2 = e2 / e2.norm(dim=-1, keepdim=True).clamp(min=1e-6)
    axes = torch.stack([e1, e2, torch.linalg.cross(e1, e2)], 2)
    origin = torch.where(has_a, x_a, torch.zeros_like(x_a))
    if frame == "haar":
        axes = torch.eye(3, device=positions.device, dtype=positions.dtype).expand_as(axes)
    sibling = codes.gather(2, c.gather(2, chosen).clamp(min=0))  # code between this slot and c: two bonds away = sibling
    kind = torch.where(found, torch.where(sibling == BOND_TYPES + 1, 1, 2), 0).squeeze(-1)
    take = lambda signs: torch.where(found, signs.gather(2, chosen), 0).squeeze(-1)  # noqa: E731
    seen = torch.einsum("bqij,bqnj->bqni", axes, positions[:, None] - origin[:, :, None])
    return Geometry(origin, axes, kind, take(side), take(twist), seen)


def graph_codes(bonds: Int[Tensor, "b m 3"], mask: Bool[Tensor, "b m"], n: int) -> Int[Tensor, "b n n"]:
    """Bond type or distance in the graph of every pair of slots: see N_CODES."""
    b = bonds.shape[0]
    codes = torch.zeros(b, n * n, dtype=torch.long, device=bonds.device)
    i, j, kind = bonds.unbind(-1)
    kind = kind * mask
    codes.scatter_reduce_(1, i * n + j, kind, "amax")
    codes.scatter_reduce_(1, j * n + i, kind, "amax")
    codes = codes.view(b, n, n)
    reach = near = (codes > 0).float() + torch.eye(n, device=bonds.device)
    eye = torch.eye(n, dtype=torch.bool, device=bonds.device)
    out = torch.where(codes > 0, codes, BOND_TYPES + FARTHEST)
    for step in range(2, FARTHEST + 1):
        following = (reach @ near > 0).float()
        out = torch.where((following > 0) & (reach == 0), BOND_TYPES + step - 1, out)
        reach = following
    return out.masked_fill(eye, 0)


def slot_roles(batch: Batch) -> Int[Tensor, "b n n"]:
    """What slot j is to slot i: 0 nothing · 1 its anchor · 2 its b · 3–7 its c (free, side ±, twist ±); +7 the other way round;
    +15 in one ring.

    This is how the encoder looks ahead: which side a bridge must take is decided by stereo signs of slots that come later.
    """
    refs, side, twist = batch["refs"], batch["side"], batch["twist"]
    b, n = batch["anchor"].shape
    marked = torch.where(side != 0, torch.where(side > 0, 4, 5), torch.where(twist > 0, 6, 7))
    first = (torch.arange(side.shape[-1], device=side.device) == 0).expand_as(side)
    thirds = torch.where((side != 0) | (twist != 0), marked, torch.where(first, 3, 0))
    kinds = torch.cat([torch.ones_like(refs[..., :1]), torch.full_like(refs[..., :1], 2), thirds], -1)
    others = torch.cat([batch["anchor"][..., None], refs], -1)
    kinds = torch.where(others >= 0, kinds, 0)
    roles = torch.zeros(b, n, n, dtype=torch.long, device=refs.device).scatter_reduce_(2, others.clamp(min=0), kinds, "amax")
    roles = roles + torch.where(roles > 0, roles + 7, 0).transpose(1, 2)
    shared = batch["rings"][:, :, None] & batch["rings"][:, None]
    return roles + 15 * (shared != 0)


def random_rotations(count: int, generator: torch.Generator | None, device: torch.device) -> Float[Tensor, "b 3 3"]:
    """Haar-uniform rotations from normalised Gaussian quaternions."""
    w, x, y, z = F.normalize(torch.randn(count, 4, generator=generator, device=device), dim=-1).unbind(-1)
    return torch.stack(
        [
            1 - 2 * (y * y + z * z),
            2 * (x * y - w * z),
            2 * (x * z + w * y),
            2 * (x * y + w * z),
            1 - 2 * (x * x + z * z),
            2 * (y * z - w * x),
            2 * (x * z - w * y),
            2 * (y * z + w * x),
            1 - 2 * (x * x + y * y),
        ],
        -1,
    ).view(-1, 3, 3)


class Words(nn.Module):
    """Causal language model over SMILES characters with learned positions and property conditions."""

    def __init__(self, width: int, heads: int, layers: int, properties: int, longest: int = 256) -> None:
        super().__init__()
        self.longest = longest
        self.token, self.position = nn.Embedding(len(VOCABULARY), width), nn.Embedding(longest, width)
        self.fourier = Fourier(16, 0.1, 2.0)
        self.condition = nn.Linear(properties * 16, width, bias=False)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.norm, self.out = nn.RMSNorm(width, eps=1e-6), nn.Linear(width, len(VOCABULARY))

    def start(self, properties: Float[Tensor, "b p"]) -> Float[Tensor, "b d"]:
        """Condition of standardised properties; nan = not given."""
        given = ~properties.isnan()
        features = self.fourier(properties.nan_to_num()) * given[..., None]
        return self.condition(features.flatten(1))

    def forward(
        self, words: Int[Tensor, "b w"], properties: Float[Tensor, "b p"], caches: Sequence[Cache] | None = None, first: int = 0
    ) -> Float[Tensor, "b w v"]:
        position = torch.arange(first, first + words.shape[1], device=words.device)
        h = self.token(words) + self.position(position) + self.start(properties)[:, None]
        for i, block in enumerate(self.blocks):
            h = block(h, None, cache=None if caches is None else caches[i], causal=caches is None)
        return self.out(self.norm(h)).float()


class Model(AbstractModel):
    """See the module's docstring. `statistics`: {"mean": …, "std": …} of the properties in the training data."""

    tokenizer: Tokenizer

    def __init__(self, config: ModelConfig, tokenizer: Tokenizer, statistics: dict[str, Any] | None = None) -> None:
        super().__init__()
        self.config, self.tokenizer, self.statistics = config, tokenizer, statistics or {}
        c, w = config, config.width
        self.atom = nn.ModuleList(nn.Embedding(size, w) for size in FEATURE_SIZES)
        self.theory = nn.Embedding(len(THEORIES), w)
        self.encoder_bias = nn.Embedding(N_CODES, c.encoder_layers * c.heads)
        self.roles = nn.Embedding(N_ROLES, c.encoder_layers * c.heads)
        self.encoder = nn.ModuleList(Block(w, c.heads) for _ in range(c.encoder_layers))
        self.encoder_norm = nn.RMSNorm(w, eps=1e-6)
        self.placed = nn.Linear(2 * w, w)
        self.marks = nn.ModuleList(nn.Embedding(3, w) for _ in range(3))
        self.level = nn.Linear(1, w, bias=False)
        self.radial = RadialBasis(20)
        self.code = nn.Embedding(N_CODES, 64)
        self.pair_in, self.pair_out = nn.Linear(26, 64), nn.Linear(64, c.pair)
        self.pair_bias = nn.Linear(c.pair, c.decoder_layers * c.heads, bias=False)
        self.decoder = nn.ModuleList(Block(w, c.heads, c.pair) for _ in range(c.decoder_layers))
        self.decoder_norm = nn.RMSNorm(w, eps=1e-6)
        if not c.geometry:
            self.previous = nn.Sequential(nn.Linear(3, w), nn.GELU(), nn.Linear(w, w))
        process = EDM(sigma_data=c.sigma_data, sigma_max=10 * c.sigma_data) if c.process == "edm" else Cosine()
        self.head = DiffusionHead(w, c.head_width, c.head_depth, process)
        if c.refiner_layers:
            self.refiner = Refiner(w, c.refiner_width, c.refiner_layers, N_CODES)
        if c.words_layers:
            self.words = Words(w, c.heads, c.words_layers, len(tokenizer.config.properties))
        initialise(self, max(c.encoder_layers, c.decoder_layers))
        nn.init.zeros_(self.roles.weight)
        self.head.reset()
        if c.refiner_layers:
            for push in self.refiner.push:
                nn.init.normal_(push.weight, std=1e-3)  # type: ignore[arg-type]

    # ---- shared by training and sampling

    def encode(self, batch: Batch) -> tuple[Float[Tensor, "b n d"], Int[Tensor, "b n n"]]:
        """Atom states from the whole graph, and the codes of all pairs."""
        features, mask = batch["features"], batch.masks["atoms"]
        n = features.shape[1]
        codes = graph_codes(batch["bonds"].clamp(min=0), batch.masks["bonds"], n)
        seen = codes if self.config.graph_bias else torch.zeros_like(codes)
        h = sum(table(features[..., i]) for i, table in enumerate(self.atom)) + self.theory(batch["theory"])
        bias = self.encoder_bias(seen)
        if self.config.graph_bias:
            bias = bias + self.roles(slot_roles(batch))
        bias = bias.permute(0, 3, 1, 2).float().masked_fill(~mask[:, None, None], -1e4)
        for i, block in enumerate(self.encoder):
            h = block(h, bias[:, i * self.config.heads : (i + 1) * self.config.heads])
        return self.encoder_norm(h), codes

    def slots(self, own: Tensor, anchors: Tensor, geometry: Geometry, level: Tensor, previous: Tensor) -> Tensor:
        """Input of the decoder: what is placed, at which anchor, with which stereo signs. `level` = ln of the history noise."""
        h = self.placed(torch.cat([own, anchors], -1)) + self.level((level + 4.0)[:, None, None].expand(*own.shape[:2], 1))
        for table, value in zip(self.marks, (geometry.kind, geometry.side + 1, geometry.twist + 1), strict=True):
            h = h + table(value)
        return h if self.config.geometry else h + self.previous(previous)

    def pairs(
        self, geometry: Geometry, codes: Int[Tensor, "b q n"], usable: Bool[Tensor, "b q n"], own: Bool[Tensor, "b q n"]
    ) -> tuple[Tensor, Tensor]:
        """Pair features (b q n p) and attention biases (b, layers·h, q, n) of slots towards earlier slots."""
        p = geometry.seen.masked_fill(own[..., None], 0.0)
        distance = (p.square().sum(-1) + 1e-6).sqrt()
        geometric = torch.cat([p * 0.3, p / (distance + 0.3)[..., None], self.radial(distance)], -1)
        hidden = self.code(codes if self.config.graph_bias else torch.zeros_like(codes))
        if self.config.geometry:
            hidden = hidden + self.pair_in(geometric)
        pair = self.pair_out(F.silu(hidden))
        bias = self.pair_bias(pair).permute(0, 3, 1, 2).float().masked_fill(~usable[:, None], -1e4)
        return pair, bias

    # ---- training

    def loss(self, batch: Batch, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Denoising loss per slot, refiner loss per atom, cross-entropy per word (nats)."""
        c = self.config
        parts = self._coordinate_losses(batch, generator) if c.slot_weight else {}
        if c.words_layers:
            parts["word"] = self._word_loss(batch, generator)
        weights = {"slot": c.slot_weight, "refiner": c.slot_weight * c.refiner_weight, "word": c.word_weight}
        return {"loss": torch.stack([weights[name] * value for name, value in parts.items()]).sum(), **parts}

    def _word_loss(self, batch: Batch, generator: torch.Generator | None) -> Tensor:
        words = batch["words"]
        properties = self.standardised(batch["properties"][:, 0])
        # half of the records unconditional, so that drawing without a condition is as well trained as with one
        keep = torch.rand(properties.shape, generator=generator, device=words.device) > 0.5
        keep &= torch.rand(len(words), 1, generator=generator, device=words.device) > 0.5
        logits = self.words(words[:, :-1], properties.where(keep, float("nan")))
        return F.cross_entropy(logits.flatten(0, 1), words[:, 1:].flatten(), ignore_index=PAD)

    def _coordinate_losses(self, batch: Batch, generator: torch.Generator | None) -> dict[str, Tensor]:
        c = self.config
        state, codes = self.encode(batch)
        mask, anchor, positions = batch.masks["atoms"], batch["anchor"], batch["positions"]
        b, n = mask.shape
        device = positions.device
        with torch.autocast(device.type, enabled=False):
            if c.frame == "haar":
                positions = torch.einsum("bij,bnj->bni", random_rotations(b, generator, device), positions)
            level = torch.empty(b, device=device).uniform_(-5.3, -2.3, generator=generator)  # 0.005 to 0.1 Å
            disturbed = torch.rand(b, generator=generator, device=device) < c.history_noise
            level = torch.where(disturbed, level, -7.0)
            noise = torch.randn(positions.shape, generator=generator, device=device)
            history = positions + (level.exp() * disturbed)[:, None, None] * noise
            geometry = local_geometry(history, anchor, batch["refs"], batch["side"], batch["twist"], codes, c.frame)
            origin = geometry.origin if c.target == "residual" else torch.zeros_like(geometry.origin)
            target = torch.einsum("bnij,bnj->bni", geometry.axes, positions - origin)
        earlier = torch.ones(n, n, dtype=torch.bool, device=device).tril()
        own = torch.eye(n, dtype=torch.bool, device=device).expand(b, n, n)
        pair, bias = self.pairs(geometry, codes, (earlier & mask[:, None]) | own, own)
        previous = torch.cat([torch.zeros_like(history[:, :1]), history[:, :-1]], 1)
        h = self.slots(state, gather(state, anchor), geometry, level, previous)
        for i, block in enumerate(self.decoder):
            h = block(h, bias[:, i * c.heads : (i + 1) * c.heads], pair)
        h = self.decoder_norm(h)
        drawn = (mask & (anchor >= 0)).float()
        parts = {"slot": (self.head.loss(h, target, c.draws, generator) * drawn).sum() / drawn.sum().clamp(min=1)}
        if c.refiner_layers:
            sigma = (torch.randn(b, generator=generator, device=device) * 1.1 - 1.8).exp().clamp(0.01, c.refiner_sigma)
            noise = torch.randn(positions.shape, generator=generator, device=device) * mask[..., None]
            error = self.refiner(positions + sigma[:, None, None] * noise, sigma, state, codes, mask) - positions
            parts["refiner"] = ((error / sigma[:, None, None]).square().mean(-1) * mask).sum() / mask.sum()
        return parts

    def standardised(self, properties: Float[Tensor, "b p"]) -> Float[Tensor, "b p"]:
        """Z-scores by the training set's mean and spread."""
        if "mean" not in self.statistics:
            return torch.full_like(properties, float("nan"))
        return (properties - properties.new_tensor(self.statistics["mean"])) / properties.new_tensor(self.statistics["std"])

    # ---- sampling: see sample.py

    def sample(self, prompts: Sequence[Prompt], keys: Sequence[tuple[int, int]], batch_size: int = 64, **options: Any) -> Iterator[Draw]:
        from sciar.families.hybrid.sample import sample

        return sample(self, prompts, keys, batch_size, **options)
