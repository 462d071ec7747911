"""The laws a family keeps, shipped so that a family of your own can be held to them too.

from sciar.testing import check_family
check_family("hybrid", structures)
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sciar.batch import collate
from sciar.family import Model, Tokenizer, load_family
from sciar.prompt import Prompt
from sciar.structure import Structure

QUANTUM = 1e-5  # Å, what a float32 round trip may cost
BATCHED = 2e-3  # Å, what another batch size may change in fp32 after a whole molecule


def check_family(name: str, structures: Sequence[Structure], tokenizer: Tokenizer | None = None, model: Model | None = None) -> None:
    """Every law below on some structures; configurations default to the family's own."""
    family = load_family(name)
    tokenizer = tokenizer or family.Tokenizer(family.TokenizerConfig())
    check_tokenizer(tokenizer, structures, getattr(tokenizer, "tolerance", QUANTUM))
    model = model or family.Model(family.ModelConfig(), tokenizer)
    check_model(model, tokenizer, family.Tokens, structures)
    check_saved(name, model, tokenizer, family.Tokens, structures)


def check_tokenizer(tokenizer: Tokenizer, structures: Sequence[Structure], tolerance: float = QUANTUM) -> None:
    """Round trip within tolerance; deterministic; the same whatever the order of the atoms and the frame."""
    rng = np.random.default_rng(0)
    for structure in structures:
        tokens = tokenizer.encode(structure, Prompt())
        again = tokenizer.decode(tokens)
        assert (again.numbers == structure.numbers).all(), "decode(encode(s)) has other atoms"
        if structure.positions is not None and again.positions is not None:
            assert np.abs(distances(again) - distances(structure)).max() <= tolerance, "decode(encode(s)) has other distances"
            assert np.sign(_volume(again)) == np.sign(_volume(structure)) or abs(_volume(structure)) < max(1e-3, 20 * tolerance), (
                "decode(encode(s)) is a mirror image"
            )
        repeated = tokenizer.encode(structure, Prompt())
        shuffled = tokenizer.encode(structure.permuted(rng.permutation(structure.n_atoms)), Prompt())
        for field in _batched(tokens):
            assert _same(getattr(tokens, field), getattr(repeated, field)), f"encode is not deterministic: {field}"
            if field not in ("order", "positions"):
                assert _same(getattr(tokens, field), getattr(shuffled, field)), f"encode depends on the order of the atoms: {field}"


def check_model(model: Model, tokenizer: Tokenizer, kind: type, structures: Sequence[Structure]) -> None:
    """Finite scalar loss, same generator → same loss, a gradient in every parameter, an item alone = the item in a batch."""
    records = [tokenizer.encode(s, Prompt()) for s in structures]
    batch = collate(kind, records)
    model.train()
    losses = [model.loss(batch, torch.Generator().manual_seed(1)) for _ in range(2)]
    assert losses[0]["loss"].ndim == 0 and all(torch.isfinite(v) for v in losses[0].values()), "the loss is not a finite scalar"
    assert torch.equal(losses[0]["loss"], losses[1]["loss"]), "the loss depends on more than its generator"
    losses[0]["loss"].backward()
    dead = [name for name, p in model.named_parameters() if p.grad is None]
    model.zero_grad()
    assert not dead, f"no gradient reaches {', '.join(dead)}"


def check_sampler(model: Model, tokenizer: Tokenizer, prompts: Sequence[Prompt], tolerance: float = BATCHED, **options: Any) -> None:
    """Draw i is the same for any batch size; every prompt is answered once."""
    model.eval()
    keys = [(7, i) for i in range(len(prompts))]
    whole = _answers(model, tokenizer, prompts, keys, len(prompts), **options)
    small = _answers(model, tokenizer, prompts, keys, 2, **options)
    last = _answers(model, tokenizer, prompts[-1:], keys[-1:], 1, **options)
    assert len(whole) == len(small) == len(prompts), "not every prompt has one answer"
    for a, b in [*zip(whole, small, strict=True), (whole[-1], last[0])]:
        assert (a.numbers == b.numbers).all(), "a draw depends on the batch size"
        if a.positions is not None and b.positions is not None:
            assert np.abs(distances(a) - distances(b)).max(initial=0) <= tolerance, "a draw depends on the batch size"


def check_saved(family: str, model: Model, tokenizer: Tokenizer, kind: type, structures: Sequence[Structure]) -> None:
    """save → load → the same loss."""
    from sciar import checkpoint

    batch = collate(kind, [tokenizer.encode(s, Prompt()) for s in structures])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights.safetensors"
        statistics = getattr(model, "statistics", {})
        checkpoint.save(
            path, model, family=family, tokenizer_config=tokenizer.config, model_config=model.config, statistics=statistics, card={}
        )
        _, restored = checkpoint.build(*checkpoint.open_weights(path))
    before, after = (m.loss(batch, torch.Generator().manual_seed(3))["loss"] for m in (model.eval(), restored))
    assert torch.equal(before, after), "a saved model has another loss"


def check_raises(call: Callable[[], object], kind: type[Exception], *words: str) -> None:
    """`call` raises `kind` with one line that has all `words`."""
    try:
        call()
    except kind as error:
        text = str(error)
        assert "\n" not in text and all(w in text for w in words), f"unclear message: {text!r}"
    else:
        raise AssertionError(f"expected {kind.__name__}, got none")


def distances(structure: Structure) -> np.ndarray:
    """All interatomic distances in Å (n n)."""
    x = structure.positions
    assert x is not None
    return np.linalg.norm(x[:, None] - x[None], axis=-1)


def _answers(model: Model, tokenizer: Tokenizer, prompts: Any, keys: Any, batch_size: int, **options: Any) -> list[Structure]:
    drawn = sorted(model.sample(prompts, keys, batch_size=batch_size, **options), key=lambda d: d.index)
    return [tokenizer.decode(d.tokens) for d in drawn]


def _volume(structure: Structure) -> float:
    """A signed volume that a reflection turns over; the four atoms farthest apart in the list."""
    x = structure.positions
    assert x is not None
    if len(x) < 4:
        return 0.0
    return float(np.linalg.det(x[1:4] - x[0]))


def _batched(tokens: Any) -> list[str]:
    from sciar.batch import token_fields

    return list(token_fields(type(tokens)))


def _same(a: Any, b: Any) -> bool:
    return np.array_equal(np.asarray(a), np.asarray(b), equal_nan=np.asarray(a).dtype.kind == "f")
