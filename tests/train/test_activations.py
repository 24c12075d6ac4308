"""Quantizers of activations: what torch.compile makes of their gradients."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from bitplane.train.activations import LearnedStep, Sign


@pytest.mark.parametrize("quantizer", [LearnedStep(2), LearnedStep(8), Sign()], ids=["2", "8", "1"])
def test_a_compiled_quantizer_has_the_gradients_of_the_eager_one(quantizer: nn.Module) -> None:
    x = torch.linspace(-1, 5, 97)
    weight = torch.linspace(1, 2, 97)

    def loss(v: torch.Tensor) -> torch.Tensor:
        return (quantizer(v * 0.9) * weight).sum()

    def gradients(f: Callable[[torch.Tensor], torch.Tensor]) -> list[torch.Tensor]:
        leaf = x.clone().requires_grad_()
        quantizer.zero_grad()
        f(leaf).backward()
        return [leaf.grad, *(p.grad.clone() for p in quantizer.parameters())]  # type: ignore[list-item,union-attr]

    torch._dynamo.reset()
    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    for expected, got in zip(gradients(loss), gradients(compiled), strict=True):
        assert expected.abs().max() > 0
        torch.testing.assert_close(got, expected)
