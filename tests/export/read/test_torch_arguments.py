"""Every argument of a call is read, or the call is refused by its name; the oracle is the module itself."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from bitplane.export import ExportError, to_onnx
from bitplane.export.evaluate import evaluate
from bitplane.export.read.source import folded
from bitplane.export.read.torch import read_torch


class Body(nn.Module):
    """A convolution, what is tried on its values, a classifier."""

    def __init__(self, body: Callable[[Tensor], Tensor], features: int = 4) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = body
        self.conv, self.fc = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(features, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.body(self.conv(x)))


def pooled(x: Tensor) -> Tensor:
    return torch.flatten(F.adaptive_avg_pool2d(x, 1), 1)


def dropped_add(x: Tensor) -> Tensor:
    y = F.relu(x)
    y.add_(x)
    return pooled(y)


def dropped_relu(x: Tensor) -> Tensor:
    F.relu(x, inplace=True)
    return pooled(x)


def relu_of_an_alias(x: Tensor) -> Tensor:
    x.contiguous().relu_()
    return pooled(x)


def relu_of_a_copy(x: Tensor) -> Tensor:
    y = x.clone()
    x.relu_()
    return pooled(y + F.max_pool2d(x, 3, 1, 1))


def used_flat_and_not(x: Tensor) -> Tensor:
    p = F.adaptive_avg_pool2d(x, 1)
    return torch.flatten(p, 1) + torch.flatten(F.relu(p), 1)


def subsampled_twice(x: Tensor) -> Tensor:
    s = x[:, :, ::2, ::2]
    return pooled(F.relu(F.pad(s, (0, 0, 0, 0, 0, 2)) + F.pad(s, (0, 0, 0, 0, 2, 0)))[:, :, ::1, ::1])


READ = {
    "add, alpha": (lambda x: pooled(torch.add(F.relu(x), x, alpha=-0.5)), 4),
    "relu6": (lambda x: pooled(F.relu6(torch.add(x, x, alpha=9))), 4),
    "hardtanh, limits": (lambda x: pooled(F.hardtanh(x, -0.3, max_val=0.2)), 4),
    "hardtanh": (lambda x: pooled(F.hardtanh(torch.add(x, x, alpha=2))), 4),
    "add_, alpha": (lambda x: pooled(F.relu(x).add_(x, alpha=2)), 4),
    "a sum in place whose result is dropped": (dropped_add, 4),
    "relu in place whose result is dropped": (dropped_relu, 4),
    "relu in place of an alias": (relu_of_an_alias, 4),
    "relu in place beside a copy": (relu_of_a_copy, 4),
    "a kernel of the image's size": (lambda x: torch.flatten(F.avg_pool2d(x, x.size()[2:]), 1), 4),
    "a kernel computed from it": (lambda x: torch.flatten(F.avg_pool2d(x, x.shape[-1] * 2 // 2), 1), 4),
    "view by the batch size": (lambda x: F.adaptive_avg_pool2d(x, (1, 1)).view(x.size(0), -1), 4),
    "view by all sizes": (lambda x: x.reshape(x.shape[0], x.size(1) * x.size(2) * x.size(3)), 256),
    "flatten to the last axis": (lambda x: torch.flatten(x, 1, 3), 256),
    "input as a keyword": (lambda x: torch.flatten(input=F.adaptive_avg_pool2d(input=x, output_size=1), start_dim=1), 4),
    "one value flattened and not": (used_flat_and_not, 4),
    "one subsampling with two paddings": (subsampled_twice, 6),
}


@pytest.mark.parametrize("case", READ)
def test_a_call_is_read_with_all_its_arguments(case: str) -> None:
    body, features = READ[case]
    model = Body(body, features).eval()
    x = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = model(x.clone())
    torch.testing.assert_close(evaluate(folded(read_torch(model, (3, 8, 8))), x), expected, rtol=1e-4, atol=1e-5)


REFUSED = {
    "average pooling with divisor_override=3": lambda x: torch.flatten(F.avg_pool2d(x, 8, divisor_override=3), 1),
    "average pooling that leaves more than one pixel": lambda x: torch.flatten(F.avg_pool2d(x, 8, padding=4), 1)[:, :4],
    "max_pool2d with ceil_mode": lambda x: pooled(F.max_pool2d(x, 3, 2, ceil_mode=True)),
    "`view` of .*dtype=": lambda x: pooled(x.view(dtype=torch.float32)),
    "mean over axes": lambda x: torch.mean(x, (2, 3), dtype=torch.float64).float(),
    "flatten to axis 2": lambda x: torch.flatten(torch.flatten(x, 1, 2), 1)[:, :4],
    "drops in eval mode": lambda x: pooled(F.dropout(x, 0.5)),
    "view to": lambda x: F.adaptive_avg_pool2d(x, 1).view(-1, 2),
    "`add` of": lambda x: pooled(x + 1),
    "pad by": lambda x: pooled(F.pad(x, (1, 1, 1, 1), "reflect")),
}


@pytest.mark.parametrize("match", REFUSED)
def test_a_call_that_is_not_read_is_named(tmp_path, match: str) -> None:
    with pytest.raises(ExportError, match=match) as caught:
        to_onnx(Body(REFUSED[match]).eval(), torch.randn(2, 3, 8, 8), tmp_path / "m.onnx")
    assert "\n" not in str(caught.value)
    assert "report" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_module_that_fails_on_the_samples_is_a_refusal_with_its_cause(tmp_path) -> None:
    class Fails(Body):
        def forward(self, x: Tensor) -> Tensor:
            if not isinstance(x, torch.fx.Proxy):
                raise ValueError("no more\nthan that")
            return super().forward(x)

    with pytest.raises(ExportError, match=r"Fails: cannot be exported \(ValueError: no more\)") as caught:
        to_onnx(Fails(pooled).eval(), torch.randn(2, 3, 8, 8), tmp_path / "m.onnx")
    assert isinstance(caught.value.__cause__, ValueError)


@pytest.mark.parametrize("layer", [nn.AvgPool2d(8, padding=4), nn.AvgPool2d(8, divisor_override=2), nn.Flatten(1, 2)])
def test_a_layer_whose_arguments_say_otherwise_is_named(tmp_path, layer: nn.Module) -> None:
    with pytest.raises(ExportError, match=r"layer 'body' \((AvgPool2d|Flatten)\)"):
        to_onnx(Body(layer).eval(), torch.randn(2, 3, 8, 8), tmp_path / "m.onnx")
