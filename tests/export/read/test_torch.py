"""Any torch module of supported layers becomes a network that computes the same, whatever way its forward is written."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from bitplane.export import ExportError, Quantization, to_onnx
from bitplane.export.evaluate import evaluate
from bitplane.export.nodes.conv import Conv
from bitplane.export.read.source import folded
from bitplane.export.read.torch import read_torch
from bitplane.export.read.torch_modules import level_integers
from bitplane.format.levels import LEVEL_SETS
from bitplane.runtime import InferenceSession
from bitplane.train.activations import LearnedStep, Sign, start_steps
from bitplane.train.layers import LowBitConv2d
from bitplane.train.quantizers import projector


class OptionA(nn.Module):
    """He et al.'s shortcut by indexing and padding, functional calls, `view`, and a module used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.bn = nn.BatchNorm2d(8)
        self.conv = nn.Conv2d(8, 16, 3, 2, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(16, affine=False)
        self.relu = nn.ReLU(inplace=True)
        self.drop = nn.Dropout(0.5)
        self.fc = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.bn(self.stem(x)))
        y = self.bn2(self.conv(x))
        y += functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 4, 4), "constant", 0)
        y = self.relu(self.relu(y))
        y = functional.max_pool2d(y, 3, stride=1, padding=1)
        y = functional.avg_pool2d(y, y.size()[3])
        return self.fc(self.drop(y.view(y.size(0), -1)))


class Vgg(nn.Module):
    """Grouped convolution, a BatchNorm that no convolution feeds, flattening of several pixels, two fully connected layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.BatchNorm2d(4)
        self.body = nn.Sequential(nn.Conv2d(4, 8, 3, padding=1, groups=2), nn.ReLU(), nn.MaxPool2d(2))
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(8 * 4 * 4, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(self.first(x)))


def trained(model: nn.Module, x: Tensor) -> nn.Module:
    torch.manual_seed(0)
    for m in model.modules():
        if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d) and m.affine:
            nn.init.normal_(m.weight, 1, 0.6)
            nn.init.normal_(m.bias, 0, 0.3)
    start_steps(model, x)
    with torch.no_grad():
        model.train()(x)
    return model.eval()


@pytest.mark.parametrize(("make", "channels"), [(OptionA, 3), (Vgg, 4)])
def test_the_network_computes_what_the_module_does(tmp_path, make, channels: int) -> None:
    x = torch.randn(6, channels, 8, 8, generator=torch.Generator().manual_seed(0))
    model = trained(make(), x)
    network = folded(read_torch(model, (channels, 8, 8)))
    with torch.no_grad():
        torch.testing.assert_close(evaluate(network, x), model(x), rtol=1e-4, atol=1e-4)
    packed = to_onnx(model, x, tmp_path / "m.onnx", quantization=Quantization(weights="ternary", activations=4))
    assert {layer.levels for layer in packed.layers} >= {"ternary"} if make is OptionA else True
    logits = InferenceSession(tmp_path / "m.onnx").run(None, {"input": x.numpy()})[0]
    assert logits.shape == model(x).shape


class Mixed(nn.Module):
    """Low-bit, 1-bit with zero padding, 8-bit and float layers in one network."""

    def __init__(self) -> None:
        super().__init__()
        levels = LEVEL_SETS["binary"]
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.quant = LearnedStep(4)
        self.ternary = LowBitConv2d(16, 16, 3, 1, 1, levels=LEVEL_SETS["ternary"], scale="channel")
        self.sign = Sign()
        self.zero_padded = LowBitConv2d(16, 16, 3, 1, 1, levels=levels, scale="channel")
        self.binary = LowBitConv2d(16, 16, 3, 1, 1, levels=levels, scale="channel", pad_value=-1.0)
        self.depthwise = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.pool, self.fc = nn.AdaptiveAvgPool2d((1, 1)), nn.Linear(16, 4)
        with torch.no_grad():
            for m in (self.ternary, self.zero_padded, self.binary):
                m.fit_scale()
                m.weight.copy_(projector(m.weight, m.levels, m.level_scale))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        y = self.ternary(self.quant(x))
        s = self.sign(y)
        y = self.zero_padded(s) + self.binary(s) + x
        return self.fc(torch.flatten(self.pool(self.depthwise(y)), 1))


def test_a_mix_of_low_bit_eight_bit_and_float_layers_runs_in_the_runtime(tmp_path) -> None:
    x = torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    torch.manual_seed(0)
    model = trained(Mixed(), x)
    report = to_onnx(model, x, tmp_path / "m.onnx", quantization=Quantization(edges=8))
    how = {layer.name: (layer.operator, layer.reason) for layer in report.layers}
    assert how["ternary"] == ("TernaryConv", "")
    assert how["binary"] == ("BinaryConv", "")
    assert how["zero_padded"] == ("Conv", "it pads 1-bit activations with 0")
    assert how["depthwise"] == ("Conv", "its weights are float")
    assert {layer.name: layer.levels for layer in report.layers}["fc"] == "int8"
    logits = InferenceSession(tmp_path / "m.onnx").run(None, {"input": x.numpy()})[0]
    with torch.no_grad():
        assert abs(logits - model(x).numpy()).max() < 0.05 * model(x).abs().max()


class Slopes(nn.Module):
    """Negative slopes of three kinds; signs with a threshold, of their own and of a BatchNorm that only they read."""

    def __init__(self) -> None:
        super().__init__()
        levels = LEVEL_SETS["binary"]
        self.stem, self.leaky = nn.Conv2d(3, 16, 3, padding=1), nn.LeakyReLU(0.2)
        self.sign, self.bn, self.second = Sign(16), nn.BatchNorm2d(16), Sign(16)
        self.first = LowBitConv2d(16, 16, 3, 1, 1, levels=levels, scale="channel", pad_value=-1.0)
        self.zero_padded = LowBitConv2d(16, 16, 3, 1, 1, levels=levels, scale="channel")
        self.last = LowBitConv2d(16, 16, 1, levels=levels, scale="channel")
        self.slope, self.slopes = nn.PReLU(), nn.PReLU(16)
        self.pool, self.fc = nn.AdaptiveAvgPool2d((1, 1)), nn.Linear(16, 4)
        with torch.no_grad():
            for m in (self.first, self.zero_padded, self.last):
                m.fit_scale()
                m.weight.copy_(projector(m.weight, m.levels, m.level_scale))
            for p in (self.sign.threshold, self.second.threshold, self.slopes.weight):
                assert p is not None
                p.normal_(0, 0.5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.leaky(self.stem(x))
        s = self.sign(x)
        y = self.slope(self.first(s) + self.zero_padded(s))
        y = self.slopes(self.last(self.second(self.bn(y))) + y)
        return self.fc(torch.flatten(self.pool(y), 1))


def test_slopes_and_thresholds_run_in_the_runtime(tmp_path) -> None:
    x = torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    torch.manual_seed(0)
    model = trained(Slopes(), x)
    nn.init.uniform_(model.bn.weight, 0.5, 2)  # type: ignore[arg-type]
    network = folded(read_torch(model, (3, 8, 8)))
    assert not any(isinstance(n, Conv) and n.name == "bn" for n in network.nodes)  # the second sign's thresholds have it
    with torch.no_grad():
        torch.testing.assert_close(evaluate(network, x), model(x), rtol=1e-4, atol=1e-4)
    report = to_onnx(model, x, tmp_path / "m.onnx", quantization=Quantization(edges=32))
    how = {layer.name: layer.operator for layer in report.layers}
    assert how == {"stem": "Conv", "first": "BinaryConv", "zero_padded": "Conv", "last": "BinaryConv", "fc": "Gemm"}
    logits = InferenceSession(tmp_path / "m.onnx").run(None, {"input": x.numpy()})[0]
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(logits), model(x), rtol=1e-3, atol=1e-3)


class Unsupported(nn.Module):
    def __init__(self, what: str) -> None:
        super().__init__()
        self.what = what
        self.conv = nn.Conv2d(3, 4, 3, dilation=2 if what == "dilation" else 1)
        self.act = nn.GELU() if what == "layer" else nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        if self.what == "branch" and x.sum() > 0:
            return x
        x = self.act(self.conv(x))
        if self.what == "function":
            return torch.cumsum(x, 1)
        if self.what == "pool":
            return functional.avg_pool2d(x, 2)
        return (x, x) if self.what == "tuple" else x.flatten(2 if self.what == "flatten" else 1)


@pytest.mark.parametrize(
    ("what", "match"),
    [
        ("layer", r"layer 'act' \(GELU\) is not supported; supported are Conv2d, Linear"),
        ("dilation", r"Conv2d 'conv' with dilation"),
        ("function", "`cumsum` is not supported"),
        ("pool", "average pooling that leaves more than one pixel"),
        ("flatten", "flatten from axis 2"),
        ("branch", "torch.fx cannot trace its forward"),
        ("tuple", "returns several values"),
    ],
)
def test_what_is_not_supported_is_named(tmp_path, what: str, match: str) -> None:
    with pytest.raises(ExportError, match=match):
        to_onnx(Unsupported(what).eval(), torch.zeros(1, 3, 8, 8), tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []


def test_samples_of_a_size_that_does_not_fit(tmp_path) -> None:
    with pytest.raises(ExportError, match=r"stem: reads 5 channels"):
        to_onnx(OptionA().eval(), torch.zeros(1, 5, 8, 8), tmp_path / "m.onnx")


def test_scales_of_two_sides_are_refused() -> None:
    conv = LowBitConv2d(4, 4, 3, levels=LEVEL_SETS["ternary"], scale="two-sided")
    with pytest.raises(ExportError, match="method ttq"):
        level_integers("layer1", conv)


class Twice(nn.Module):
    """A quantizer and a convolution that are called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.quant = nn.Conv2d(3, 8, 3, padding=1), LearnedStep(4)
        self.conv = LowBitConv2d(8, 8, 3, 1, 1, levels=LEVEL_SETS["ternary"], scale="channel")
        self.pool, self.fc = nn.AdaptiveAvgPool2d(1), nn.Linear(8, 4)
        with torch.no_grad():
            self.conv.fit_scale()
            self.conv.weight.copy_(projector(self.conv.weight, self.conv.levels, self.conv.level_scale))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        x = torch.relu(self.conv(self.quant(x)) + x)
        return self.fc(torch.flatten(self.pool(self.conv(self.quant(x))), 1))


def test_a_module_that_is_called_twice_is_two_layers(tmp_path) -> None:
    x = torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    torch.manual_seed(0)
    model = trained(Twice(), x)
    report = to_onnx(model, x, tmp_path / "m.onnx", quantization=Quantization(edges=32))
    assert [layer.operator for layer in report.layers] == ["Conv", "TernaryConv", "TernaryConv", "Gemm"]
    logits = InferenceSession(tmp_path / "m.onnx").run(None, {"input": x.numpy()})[0]
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(logits), model(x), rtol=1e-3, atol=1e-3)
