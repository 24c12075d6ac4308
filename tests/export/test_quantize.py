"""Calibrated steps minimize the squared error of real activations."""

import pytest
import torch

from bitplane.export.quantize import best_step


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
    assert best_step(torch.zeros(10), 0.0, 8) > 0
