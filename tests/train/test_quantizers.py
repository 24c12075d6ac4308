import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bitplane.format.levels import LEVEL_SETS, LevelSet, LevelSetError
from bitplane.train.quantizers import nearest_scale, piecewise_linear, projector
from bitplane.train.quantizers.piecewise_linear import binary_relax, parq
from bitplane.train.quantizers.random import averaged, chosen, stochastic
from bitplane.train.quantizers.smooth import clip_backward, sign_swish, sign_swish_backward, tanh

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
    assert (q.from_planes(q.to_planes(w.numpy())) == w.numpy()).all()


def test_the_scale_of_binary_weights_is_their_mean_absolute_value():
    w = torch.randn(8, 5, 3, 3, generator=torch.Generator().manual_seed(0))
    got = nearest_scale(w, LEVEL_SETS["binary"], per_channel=True)
    torch.testing.assert_close(got.flatten(), w.abs().mean((1, 2, 3)))


def points_of_the_definition(q, rho, varrho):
    """The map's corners as DESIGN and the paper's text give them: flat around levels, rising, jumping at midpoints."""
    levels, mids = q.values, q.midpoints
    x, y = [levels[0]], [levels[0]]
    for k, p in enumerate(mids):
        low, high = levels[k], levels[k + 1]
        x += [min(p, low + rho), p - 1e-9, p, max(p, high - rho), high]
        y += [low, max(low, p - varrho), min(high, p + varrho), high, high]
    return x, y


@given(levels, st.floats(0, 0.25), st.floats(0, 0.25))
def test_the_closed_form_goes_through_the_corners_of_the_definition(name, rho, varrho):
    q = LEVEL_SETS[name]
    x, y = points_of_the_definition(q, rho, varrho)
    got = piecewise_linear(torch.tensor(x, dtype=torch.float64), q, rho, varrho)
    torch.testing.assert_close(got, torch.tensor(y, dtype=torch.float64), rtol=0, atol=1e-7)


@given(levels, st.floats(0, 1e3))
def test_binary_relax_mixes_the_latent_with_its_projection(name, mu):
    q = LEVEL_SETS[name]
    x = torch.linspace(q.values[0], q.values[-1], 402, dtype=torch.float64)
    torch.testing.assert_close(binary_relax(x, q, mu), (x + mu * projector(x, q)) / (1 + mu), rtol=0, atol=1e-12)


@given(levels, st.floats(1, 1e3))
def test_parqs_map_is_continuous_with_its_slope(name, slope):
    q = LEVEL_SETS[name]
    mids = torch.tensor(q.midpoints, dtype=torch.float64)
    eps = min(q.gaps) / 2 / slope / 2
    torch.testing.assert_close(parq(mids + eps, q, slope) - parq(mids - eps, q, slope), torch.full_like(mids, 2 * eps * slope))
    torch.testing.assert_close(parq(mids, q, slope), mids)


@given(st.floats(0.1, 20))
def test_smooth_maps_of_binary_weights_are_the_published_ones(beta):
    x = torch.linspace(-3, 3, 301, dtype=torch.float64)
    torch.testing.assert_close(tanh(x, LEVEL_SETS["binary"], beta), torch.tanh(beta * x))
    s = torch.sigmoid(beta * x)
    torch.testing.assert_close(sign_swish(x, LEVEL_SETS["binary"], beta), 2 * s * (1 + beta * x * (1 - s)) - 1)


@given(levels, st.sampled_from([tanh, sign_swish]))
def test_smooth_maps_become_the_projector(name, smooth):
    q = LEVEL_SETS[name]
    x = torch.linspace(-1.2, 1.2, 300, dtype=torch.float64)
    torch.testing.assert_close(smooth(x, q, 1e5), projector(x, q), rtol=0, atol=1e-6)
    assert torch.equal(smooth(x, q, math.inf), projector(x, q))


def test_the_backward_map_of_bnn_is_the_derivative_of_sign_swish_up_to_its_peak():
    x = torch.linspace(-0.5, 0.5, 101, dtype=torch.float64, requires_grad=True)
    beta = 3.0
    (derivative,) = torch.autograd.grad(sign_swish(x, LEVEL_SETS["binary"], beta).sum(), x)
    got = sign_swish_backward(x.detach(), LEVEL_SETS["binary"], beta)
    torch.testing.assert_close(got, (derivative / derivative.max()).clamp(min=0))
    assert torch.equal(
        clip_backward(torch.tensor([-1.1, -1.0, 0.0, 1.2]), LEVEL_SETS["binary"], 1), torch.tensor([0.0, 1, 1, 0])
    )


@given(levels)
def test_random_maps_have_the_means_that_theorem_3_2_needs(name):
    q = LEVEL_SETS[name]
    x = torch.linspace(-1.1, 1.1, 23, dtype=torch.float64)
    many = x.expand(20000, -1)
    drawn = stochastic(many, q, 0.0, torch.Generator().manual_seed(0))
    assert torch.isin(drawn, torch.tensor(q.values, dtype=torch.float64)).all()
    torch.testing.assert_close(drawn.mean(0), x.clamp(-1, 1), rtol=0, atol=0.03)
    picked = chosen(many, q, 0.3, torch.Generator().manual_seed(0)).mean(0)
    torch.testing.assert_close(picked, averaged(x, q, 0.3), rtol=0, atol=0.03)
    torch.testing.assert_close(averaged(x, q, 0.3), 0.7 * x.clamp(-1, 1) + 0.3 * projector(x, q))
    assert torch.equal(averaged(x, q, math.inf), projector(x, q))


@pytest.mark.parametrize(
    ("integers", "complaint"),
    [((1,), "two levels"), ((1, -1), "sorted"), ((-1, -1, 1), "sorted"), ((-1, 0, 2), "symmetric")],
)
def test_a_level_set_that_is_none_is_refused(integers, complaint):
    with pytest.raises(LevelSetError, match=complaint):
        LevelSet("mine", integers, 1, 1.0)
