import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sciar.nn.cache import StaticCache
from sciar.nn.rotary import Turning, angles, axis_waves, line_waves, periodic_waves, published_waves, sphere_waves, turned
from sciar.nn.transformer import Block

WAVES = {
    "published": published_waves(16),
    "axes": axis_waves(16, 0.6, 40.0),
    "sphere": sphere_waves(4, 16, 0.6, 40.0),
    "periodic": periodic_waves(16),
}


@pytest.mark.parametrize("name", WAVES)
@given(seed=st.integers(0, 2**31))
@settings(deadline=None, max_examples=10)
def test_products_depend_on_the_displacement_alone(name: str, seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    q, k = torch.randn(2, 1, 4, 5, 32, generator=g)
    x, y = torch.randn(2, 1, 5, 3, generator=g)
    shift = torch.randn(3, generator=g)
    q, k = q.double(), k.double()

    def product(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        a, b, _ = Turning(angles(WAVES[name], x), angles(WAVES[name], y))(q, k, k)
        return a @ b.transpose(-1, -2)

    scale = float(WAVES[name].norm(dim=-1).max())  # fp32 phases: error grows with the wave vector
    assert (product(x, y) - product(x + shift, y + shift)).abs().max() < 2e-5 * max(1.0, scale)
    assert torch.allclose(turned(q, angles(WAVES[name], x)).norm(dim=-1), q.norm(dim=-1), atol=1e-5)


def test_turned_values_are_read_as_displacements() -> None:
    """What a block answers does not change when everything is moved; without turned values neither, but then it cannot see where."""
    torch.manual_seed(1)
    block, waves = Block(32, 4), sphere_waves(4, 4, 1.0, 10.0)
    x, at = torch.randn(1, 6, 32), torch.randn(1, 6, 3)

    def answer(at: torch.Tensor, values: bool) -> torch.Tensor:
        by = angles(waves, at)
        with torch.no_grad():
            return block(x, None, causal=True, turn=Turning(by, by, values))

    assert (answer(at, True) - answer(at + 3.0, True)).abs().max() < 1e-4
    one = x[:, :1].expand(1, 6, 32).contiguous()  # equal tokens: weights are uniform up to phases, values tell where the others are
    x = one
    assert (answer(at, True) - answer(2 * at, True)).abs().max() > 1e-3


def test_published_spectrum() -> None:
    """Reference §5.2: ten frequencies an axis, two pairs of 32 not turned, wavelengths from 0.063 to about 250 Å."""
    waves = published_waves(32)
    assert (waves.norm(dim=-1)[0] == 0).sum() == 2
    lengths = 2 * math.pi / waves[0, :10, 0]
    assert abs(lengths[0] - 0.0628) < 1e-3 and 150 < lengths[-1] < 300


def test_sphere_has_every_direction_and_wavelength_in_each_head() -> None:
    waves = sphere_waves(8, 16, 0.6, 40.0)
    lengths = 2 * math.pi / waves.norm(dim=-1)
    assert torch.allclose(lengths[0], lengths[7]) and abs(lengths[0, 0] - 0.6) < 1e-3 and abs(lengths[0, -1] - 40) < 1e-2
    unit = waves / waves.norm(dim=-1, keepdim=True)
    assert (unit.mean((0, 1)).abs() < 0.05).all() and (unit.mean(1).abs() < 0.35).all()


def test_periodic_waves_wrap_around() -> None:
    waves = periodic_waves(24)
    x = torch.rand(2, 7, 3)
    a, b = angles(waves, x), angles(waves, x + torch.tensor([1.0, -2.0, 3.0]))
    assert torch.allclose(a[0], b[0], atol=1e-4) and torch.allclose(a[1], b[1], atol=1e-4)
    whole = (waves[0] / (2 * math.pi)).round().long()
    assert len({tuple(v) for v in whole.tolist()} | {tuple(-c for c in v) for v in whole.tolist()}) == 48  # no vector and no opposite twice


def test_one_dimension() -> None:
    cos, sin = angles(line_waves(4), torch.arange(6.0).view(1, 6, 1))
    assert cos.shape == (1, 1, 6, 4) and torch.allclose(cos[0, 0, :, 0], torch.arange(6.0).cos())


def test_cached_steps_equal_one_pass_also_for_rows_at_different_places() -> None:
    torch.manual_seed(0)
    block, waves = Block(32, 4), sphere_waves(4, 4, 0.6, 10.0)
    x, at = torch.randn(2, 9, 32), torch.randn(2, 9, 3)
    by = angles(waves, at)
    with torch.no_grad():
        whole = block(x, None, causal=True, turn=Turning(by, by, values=True))
        cache = StaticCache(2, 4, 16, 8, x.device, torch.float32)
        start = torch.tensor([0, -3])  # the second row begins three steps later
        for step in range(12):
            place = (start + step).clamp(0, 8)
            now = angles(waves, at[torch.arange(2), place][:, None])
            bias = torch.where(torch.arange(16) <= place[:, None, None, None], 0.0, -1e4)
            out = block(x[torch.arange(2), place][:, None], bias, cache=cache.at(place[:, None], 16), turn=Turning(now, now, values=True))
            for r in range(2):
                if 0 <= start[r] + step <= 8:
                    assert torch.allclose(out[r, 0], whole[r, place[r]], atol=1e-5)
