"""Powder profiles as a network reads them: silent at first, silent where nothing is known, disturbed as measurements are."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from sciar import datasets
from sciar.nn.profile import Profile, disturbed, profiles
from sciar.pxrd import LEVELS, UNKNOWN
from sciar.reflections import Reflections


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
    dropped = torch.arange(400) % 2 == 0
    found = disturbed(told, dropped, generator)
    assert torch.equal((found == UNKNOWN).all(1), dropped)
    kept = found[~dropped]
    assert (kept[:, 3] == UNKNOWN).all() and kept.min() >= 0 and kept.max() <= UNKNOWN
    known = kept != UNKNOWN
    assert (known.sum(1) >= 0.25 * 0.9 * 200 - 2).all() and 0.35 < (known.sum(1) == 199).float().mean() < 0.65
    gaps = (known[:, 4:].int().diff(dim=1) == 1).sum(1)  # known again after a hole: only the cut at low angles
    assert gaps.max() <= 1
    off = (kept - told[~dropped])[known].float()
    assert 1 < off.abs().mean() < 30


@pytest.mark.parametrize("row", range(6))
def test_profiles_are_those_of_the_crystals(row: int) -> None:
    """From the strongest reflections, also in a larger cell, and broader; padding changes nothing."""
    crystal = datasets.samples("mp20")[row]
    assert crystal.cell is not None and crystal.positions is not None
    index, square = Reflections.of(crystal).strongest(crystal.cell, 192)
    change = 1.03 * np.eye(3)  # of any symmetry
    for cell in (crystal.cell, crystal.cell @ change):
        length = torch.from_numpy(np.linalg.norm(np.linalg.solve(cell, index.T), axis=0)).float()
        padded = F.pad(torch.stack([length, length]), (0, 5)), F.pad(torch.from_numpy(square).float().expand(2, -1), (0, 5))
        found = profiles(*padded, 426, torch.tensor([1.0, 1.5]))
        wanted = Reflections.of(crystal.replace(cell=cell, positions=crystal.positions @ np.linalg.solve(crystal.cell, cell)))
        for levels_, wide in zip(found, (1.0, 1.5), strict=True):
            curve = wanted.profile(np.linspace(5, 90, 426), 0.4 * wide, np.zeros(6))
            off = np.abs(levels_.numpy() - LEVELS * np.sqrt(curve / curve.max()))
            assert off.max() < 26 and off.mean() < 2.5  # of 254: what is left out is weak


def test_no_reflections_no_profile() -> None:
    assert (profiles(torch.zeros(2, 3), torch.zeros(2, 3), 100) == UNKNOWN).all()
