"""Powder profiles as a network reads them: silent at first, silent where nothing is known, disturbed as measurements are."""

from __future__ import annotations

import torch

from sciar.nn.profile import Profile, disturbed
from sciar.pxrd import LEVELS, UNKNOWN


def levels(rows: int = 64, points: int = 200) -> torch.Tensor:
    return torch.randint(0, LEVELS + 1, (rows, points), generator=torch.Generator().manual_seed(0))


def test_says_nothing_at_first_and_nothing_of_what_is_not_known() -> None:
    torch.manual_seed(0)
    reader = Profile(200, 16, readers=3)
    reader.reset()
    assert reader(levels()).shape == (3, 64, 16) and not reader(levels()).any()
    torch.nn.init.normal_(reader.out.weight)
    told = levels()
    told[1:3] = UNKNOWN
    assert not reader(told)[:, 1:3].any() and (reader(told)[:, 3:] != 0).all()


def test_what_is_not_known_is_not_read() -> None:
    """The same numbers for UNKNOWN as a hole; a height of zero is something else."""
    torch.manual_seed(0)
    reader = Profile(200, 16, readers=1)
    told, zero = levels(4), levels(4)
    told[:, 90:] = UNKNOWN
    zero[:, 90:] = 0
    assert (reader(told) - reader(zero)).abs().max() > 1e-4


def test_disturbed() -> None:
    told, generator = levels(400), torch.Generator().manual_seed(1)
    told[:, 3] = UNKNOWN
    found = disturbed(told, 0.5, generator)
    dropped = (found == UNKNOWN).all(1)
    assert 0.4 < dropped.float().mean() < 0.6
    kept = found[~dropped]
    assert (kept[:, 3] == UNKNOWN).all() and kept.min() >= 0 and kept.max() <= UNKNOWN
    known = kept != UNKNOWN
    assert (known.sum(1) >= 0.25 * 0.9 * 200 - 2).all() and 0.35 < (known.sum(1) == 199).float().mean() < 0.65
    gaps = (known[:, 4:].int().diff(dim=1) == 1).sum(1)  # known again after a hole: only the cut at low angles
    assert gaps.max() <= 1
    off = (kept - told[~dropped])[known].float()
    assert 1 < off.abs().mean() < 30 and not torch.equal(disturbed(told, 0.0, generator), told)
    assert (disturbed(told, 1.0, generator) == UNKNOWN).all()
