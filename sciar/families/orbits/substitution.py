"""Training crystals with elements put in the place of similar ones: a substituted crystal mostly keeps its structure type.

A network of words knows the crystals it was shown by heart, from their composition. Neighbours on Pettifor's scale take each other's
place in known structures, so what it is shown are such relatives as well.

Source: Pettifor 1984 (the scale); Glawe et al. 2016, New J. Phys. 18, 093011 (neighbours on such a scale as substitutes).
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from sciar.batch import Batch

REACH = 2.0  # places on the scale: mean of the exponential law of how far the substitute stands


def substituted(
    batch: Batch, scale: Int[Tensor, "e"], share: float, generator: torch.Generator | None = None
) -> tuple[Batch, Bool[Tensor, "b"]]:
    """A batch in which about a `share` of the crystals has other elements, and which these are.

    Crystals whose elements would become equal stay as they are.

    Args:
        batch: of `orbits` tokens. scale: atomic numbers along the scale; other elements stay.
    """
    elements, real = batch["elements"], batch.masks["elements"]
    draw = lambda *shape: torch.rand(*shape, generator=generator, device=elements.device)  # noqa: E731
    known, place = _places(elements, scale)
    far = (-REACH * draw(*elements.shape).log()).round().long() * torch.where(draw(*elements.shape) < 0.5, -1, 1)
    new = torch.where(known, scale[(place + far).clamp(0, len(scale) - 1)], elements)
    new = torch.where((draw(len(elements)) < share)[:, None] & real, new, elements)
    equal = (new[:, :, None] == new[:, None]) & real[:, None] & real[:, :, None]
    new = torch.where((equal.sum((1, 2)) > real.sum(1))[:, None], elements, new)
    # elements come by rising number, orbits element by element
    order = new.masked_fill(~real, 255).argsort(dim=1, stable=True)
    owner = order.argsort(dim=1).gather(1, batch["owner"])
    there = batch.masks["orbits"]
    moved = owner.masked_fill(~there, elements.shape[1]).argsort(dim=1, stable=True)
    tokens = dict(batch.tokens) | {
        "elements": new.gather(1, order),
        "counts": batch["counts"].gather(1, order),
        "owner": owner.gather(1, moved),
        "letters": batch["letters"].gather(1, moved),
        "free": batch["free"].gather(1, moved[..., None].expand(-1, -1, 3)),
    }
    return Batch(tokens, batch.masks), (new != elements).any(1)


def _places(elements: Int[Tensor, "b m"], scale: Int[Tensor, "e"]) -> tuple[Bool[Tensor, "b m"], Int[Tensor, "b m"]]:
    """Which elements the scale has, and where."""
    same = elements[..., None] == scale
    return same.any(-1), same.byte().argmax(-1)
