"""Quantizers of activations: what torch.compile makes of their gradients."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from bitplane.train.activations import LearnedStep, PRelu, Sign


def of_step(bits: int, step: float = 1.0) -> LearnedStep:
    quantizer = LearnedStep(bits)
    nn.init.constant_(quantizer.step, step)
    return quantizer


QUANTIZERS = {"2": of_step(2), "8": of_step(8), "1": Sign(), "1, thresholds": Sign(97), "PReLU": PRelu(97)}


@pytest.mark.parametrize("quantizer", QUANTIZERS.values(), ids=QUANTIZERS)
def test_a_compiled_quantizer_has_the_gradients_of_the_eager_one(quantizer: nn.Module) -> None:
    x = torch.linspace(-1, 5, 2 * 97).view(2, 97)
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


FORMATS = [torch.contiguous_format, torch.channels_last]


def features(dtype: torch.dtype, memory_format: torch.memory_format) -> tuple[torch.Tensor, torch.Tensor]:
    """Features with both zeros among them, and a gradient."""
    torch.manual_seed(0)
    x = torch.randn(3, 5, 7, 6).to(dtype)
    x.view(-1)[:4], x.view(-1)[4:8] = 0.0, -0.0
    return x.contiguous(memory_format=memory_format).requires_grad_(), torch.randn(3, 5, 7, 6).to(dtype)


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_prelu_is_torchs(dtype: torch.dtype, memory_format: torch.memory_format) -> None:
    x, grad = features(dtype, memory_format)
    with torch.no_grad():
        x[0, 0, 0, :2] = torch.tensor([torch.inf, -torch.inf])
    module = PRelu(5)
    nn.init.normal_(module.weight)
    value = module(x)
    value.backward(grad)
    found = x.grad, module.weight.grad
    assert value.is_contiguous(memory_format=memory_format)
    x.grad = module.weight.grad = None
    expected = nn.functional.prelu(x, module.weight.to(dtype))
    expected.backward(grad)
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(found[0], x.grad)
    torch.testing.assert_close(found[1][1:], module.weight.grad[1:], rtol=0.05, atol=0.05)


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_a_sign_compares_with_its_channels_threshold(dtype: torch.dtype, memory_format: torch.memory_format) -> None:
    x, grad = features(dtype, memory_format)
    sign = Sign(5)
    with torch.no_grad():
        sign.threshold.copy_(torch.tensor([0.0, 0.5, -0.25, 1.0, -2.0]))  # type: ignore[union-attr]
    code = sign(x)
    code.backward(grad)
    d = x.detach() - sign.threshold.detach().to(dtype).view(-1, 1, 1)  # type: ignore[union-attr]
    assert torch.equal(code, torch.where(d >= 0, 1.0, -1.0).to(dtype))
    assert code.is_contiguous(memory_format=memory_format)
    slope = (grad * (2 - 2 * d.abs()).clamp(min=0)).detach()
    torch.testing.assert_close(x.grad, slope)
    torch.testing.assert_close(sign.threshold.grad, -slope.float().sum((0, 2, 3)), rtol=1e-3, atol=1e-3)  # type: ignore[union-attr]
