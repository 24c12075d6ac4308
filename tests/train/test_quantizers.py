import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bitplane.train.levels import LEVEL_SETS, from_planes, to_planes
from bitplane.train.quantizers import nearest_scale, piecewise_linear, projector

levels = st.sampled_from(sorted(LEVEL_SETS))
positive = st.floats(0, 3)


@given(levels, positive, positive)
def test_monotone_and_levels_are_fixed_points(name, rho, varrho):
    q = LEVEL_SETS[name]
    x = torch.linspace(-1.5, 1.5, 601, dtype=torch.float64)
    y = piecewise_linear(x, q, rho, varrho)
    assert (y.diff() >= -1e-12).all()
    at = torch.tensor(q.values, dtype=torch.float64)
    torch.testing.assert_close(piecewise_linear(at, q, rho, varrho), at, rtol=0, atol=1e-12)
    assert y.min() >= q.values[0]
    assert y.max() <= q.values[-1]


@given(levels)
def test_zero_is_the_identity_and_infinity_the_projector(name):
    q = LEVEL_SETS[name]
    x = torch.linspace(-1.5, 1.5, 602, dtype=torch.float64)
    torch.testing.assert_close(piecewise_linear(x, q, 0, 0), x.clamp(q.values[0], q.values[-1]), rtol=0, atol=1e-12)
    at = torch.tensor(q.values, dtype=torch.float64)
    nearest = at[(x[:, None] - at).abs().argmin(1)]
    torch.testing.assert_close(projector(x, q), nearest)


@given(st.floats(0, 0.99))
def test_binary_with_equal_parameters_is_proxquants_map(r):
    x = torch.linspace(-1, 1, 400, dtype=torch.float64)
    torch.testing.assert_close(piecewise_linear(x, LEVEL_SETS["binary"], r, r), x.sign() * (x.abs() + r).clamp(max=1))


def test_negative_or_nan_parameters_are_refused():
    for bad in (-1.0, math.nan):
        with pytest.raises(ValueError, match="non-negative"):
            piecewise_linear(torch.zeros(1), LEVEL_SETS["binary"], bad, 0)


@given(levels, st.integers(0, 2**31))
def test_planes_round_trip(name, seed):
    q = LEVEL_SETS[name]
    w = torch.tensor(q.integers, dtype=torch.int8)[
        torch.randint(len(q.integers), (37,), generator=torch.Generator().manual_seed(seed))
    ]
    assert (from_planes(to_planes(w.numpy(), q), q) == w.numpy()).all()


def test_the_scale_of_binary_weights_is_their_mean_absolute_value():
    w = torch.randn(8, 5, 3, 3, generator=torch.Generator().manual_seed(0))
    got = nearest_scale(w, LEVEL_SETS["binary"], per_channel=True)
    torch.testing.assert_close(got.flatten(), w.abs().mean((1, 2, 3)))
