"""Calibrated steps minimize the squared error of real activations."""

import pytest
import torch

from bitplane.export.calibrate import best_step, calibrate
from bitplane.train.activations import FloatActivation, LearnedStep


def error(x: torch.Tensor, step: float, bits: int) -> float:
    return float((((x / step).round().clamp(0, 2**bits - 1) * step) - x).square().mean())


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_the_step_is_as_good_as_a_fine_search(bits: int) -> None:
    x = torch.randn(20000, generator=torch.Generator().manual_seed(0)).relu()
    step = best_step(x, x.max().item(), bits)
    finest = min(error(x, float(s), bits) for s in torch.linspace(0.02, 1.02, 400) * x.max() / (2**bits - 1))
    assert error(x, step, bits) <= finest * 1.05


def test_an_outlier_is_clipped_at_few_bits() -> None:
    x = torch.cat([torch.rand(10000, generator=torch.Generator().manual_seed(0)), torch.tensor([4.0])])
    assert best_step(x, 4.0, 2) * 3 < 2


def test_a_dead_tensor_has_a_positive_step() -> None:
    assert best_step(torch.zeros(10), 0.0) > 0


def test_calibration_replaces_every_float_activation_and_leaves_the_network_alone(make_network) -> None:
    model, samples = make_network(activations=32)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    calibrated = calibrate(model, samples, batch=3)
    assert calibrated.config.activations == 8
    assert not any(isinstance(m, FloatActivation) for m in calibrated.modules())
    steps = [m for m in calibrated.modules() if isinstance(m, LearnedStep)]
    assert len(steps) == 18
    assert all(m.top == 255 and m.step.item() > 0 for m in steps)
    assert any(isinstance(m, FloatActivation) for m in model.modules())
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    with torch.no_grad():
        torch.testing.assert_close(calibrated(samples), model(samples), rtol=0.1, atol=0.1)


def test_calibration_is_reproducible(make_network) -> None:
    model, samples = make_network(activations=32, size=32)
    a, b = (calibrate(model, samples).state_dict() for _ in range(2))
    assert all(torch.equal(a[k], b[k]) for k in a)
