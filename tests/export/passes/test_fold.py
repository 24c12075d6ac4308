"""Folded integers with their epilogue equal convolution and BatchNorm in PyTorch at double precision."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from bitplane.export.errors import ExportError
from bitplane.export.nodes.conv import Conv
from bitplane.export.nodes.epilogue import FoldedConv, fold_codes
from bitplane.export.nodes.normalize import Normalize
from bitplane.export.nodes.quantize import Quantize
from bitplane.export.nodes.weight import Weight
from bitplane.export.passes.fold import fold_affine
from bitplane.export.passes.weights import quantize_int8, quantize_stem
from bitplane.export.read.torch import read_torch
from bitplane.export.read.torch_modules import level_integers
from bitplane.format.levels import LEVEL_SETS
from bitplane.format.limits import PIXEL_WEIGHT_LIMIT
from bitplane.train.activations import LearnedStep, Sign
from bitplane.train.layers import INT8_LIMIT, Int8Conv2d, LowBitConv2d
from bitplane.train.quantizers import projector

NAMES = sorted(LEVEL_SETS)


def layer(name: str, scale: str = "channel", pad_value: float = 0.0) -> tuple[LowBitConv2d, nn.BatchNorm2d]:
    torch.manual_seed(1)
    conv = LowBitConv2d(5, 6, 3, 2, 1, levels=LEVEL_SETS[name], scale=scale, pad_value=pad_value)  # type: ignore[arg-type]
    conv.fit_scale()
    bn = nn.BatchNorm2d(6).eval()
    with torch.no_grad():
        conv.weight.copy_(projector(conv.weight, conv.levels, conv.level_scale))
        bn.weight.copy_(torch.tensor([1.5, -0.7, 0.2, 0.0, -2.0, 1e-42]))
        bn.bias.normal_()
        bn.bias[3] = 0
        assert bn.running_mean is not None
        assert bn.running_var is not None
        bn.running_mean.normal_()
        bn.running_var.uniform_(0.1, 4)
    return conv, bn


def fold(conv: nn.Conv2d, bn: nn.BatchNorm2d, quantizer: nn.Module) -> FoldedConv:
    """The way of a convolution through reading and folding."""
    network = fold_affine(read_torch(nn.Sequential(quantizer, conv, bn), (5, 7, 7)))
    source, *_, folded = (n for n in network.nodes if isinstance(n, Conv | Quantize) or type(n).__name__ == "Sign")
    assert isinstance(folded, Conv)
    return fold_codes(folded.name, folded.weight, folded.bias, source)


def apply(folded: FoldedConv, codes: Tensor, stride: int = 2) -> np.ndarray:
    acc = functional.conv2d(codes.double(), torch.from_numpy(folded.weight).double(), None, stride, 1).numpy()
    return acc * folded.scale + folded.bias


def expected(conv: nn.Conv2d, bn: nn.BatchNorm2d, x: Tensor) -> np.ndarray:
    with torch.no_grad():
        return bn.double()(conv.double()(x.double())).numpy()


@pytest.mark.parametrize("scale", ["none", "layer", "channel"])
@pytest.mark.parametrize("name", NAMES)
def test_codes_of_a_learned_step(name: str, scale: str) -> None:
    conv, bn = layer(name, scale)
    quantizer = LearnedStep(4)
    with torch.no_grad():
        quantizer.step.fill_(-0.37)  # training uses its magnitude
    codes = torch.randint(0, 16, (2, 5, 7, 7))
    folded = fold(conv, bn, quantizer)
    np.testing.assert_allclose(apply(folded, codes), expected(conv, bn, codes * 0.37), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_one_bit_codes_with_padding_of_minus_one(name: str) -> None:
    conv, bn = layer(name, pad_value=-1.0)
    codes = torch.randint(0, 2, (2, 5, 7, 7))
    folded = fold(conv, bn, Sign())
    np.testing.assert_allclose(apply(folded, codes), expected(conv, bn, 2 * codes - 1), rtol=1e-5, atol=1e-5)


def test_pixels() -> None:
    torch.manual_seed(0)
    conv = Conv(
        "conv1", "pixels", Weight(np.random.default_rng(0).normal(size=(6, 3, 3, 3))), np.arange(6.0), (2, 2), (1, 1, 1, 1)
    )
    x = torch.randint(0, 256, (2, 3, 9, 9), dtype=torch.uint8)
    stem, pixels = quantize_stem(conv, Normalize("pixels", "input", np.full(3, 117.0), np.full(3, 57.5)))
    assert (pixels.mean == 117).all()
    assert (pixels.std == 1).all()
    exact = functional.conv2d((x.double() - 117) / 57.5, torch.from_numpy(conv.weight.values), torch.arange(6.0).double(), 2, 1)
    found = apply(fold_codes(stem.name, stem.weight, stem.bias, pixels), x.double() - 117)
    np.testing.assert_allclose(found, exact.numpy(), atol=0.3)
    rounded = functional.conv2d(x.double() - 117, torch.from_numpy(stem.weight.values), torch.arange(6.0).double(), 2, 1)
    np.testing.assert_allclose(found, rounded.numpy(), rtol=1e-5, atol=1e-5)


def test_pixels_normalized_by_channel_are_exact_away_from_the_border() -> None:
    mean, std = np.array([123.675, 116.28, 103.53]), np.array([58.395, 57.12, 57.375])
    conv = Conv(
        "conv1", "pixels", Weight(np.random.default_rng(0).normal(size=(6, 3, 3, 3))), np.zeros(6), (1, 1), (1, 1, 1, 1)
    )
    stem, pixels = quantize_stem(conv, Normalize("pixels", "input", mean, std))
    x = torch.randint(0, 256, (2, 3, 9, 9), generator=torch.Generator().manual_seed(0)).double()
    view = (1, 3, 1, 1)
    normal = (x - torch.from_numpy(mean).view(view)) / torch.from_numpy(std).view(view)
    exact = functional.conv2d(normal, torch.from_numpy(conv.weight.values))
    found = functional.conv2d(x - pixels.mean[0], torch.from_numpy(stem.weight.values), torch.from_numpy(stem.bias))
    np.testing.assert_allclose(found.numpy(), exact.numpy(), atol=0.3)


@pytest.mark.parametrize("name", NAMES)
def test_scales_are_positive_and_dead_channels_give_their_bias(name: str) -> None:
    conv, bn = layer(name)
    folded = fold(conv, bn, LearnedStep(2))
    assert folded.scale.dtype == folded.bias.dtype == np.float32
    assert (folded.scale >= np.finfo(np.float32).tiny).all()
    dead = [3, 5]
    assert (folded.scale[dead] == np.finfo(np.float32).tiny).all()
    np.testing.assert_allclose(folded.bias[dead].ravel(), bn.bias.detach().numpy()[dead], atol=1e-20)
    if name == "ternary":
        assert not folded.weight[dead].any()
    else:
        assert (np.abs(folded.bias[dead]) > 1000 * 255 * 10 * folded.scale[dead]).all()
    assert np.isin(folded.weight, conv.levels.integers).all()
    negative = bn.weight.detach().numpy() < 0
    np.testing.assert_array_equal(folded.weight[negative], -level_integers("conv", conv)[negative])


def test_weights_off_the_level_set_are_refused() -> None:
    conv, _ = layer("ternary", "none")
    with torch.no_grad():
        conv.weight[0, 0, 0, 0] = 0.99
        conv.weight[1, 0, 0, 0] = 0.0005
    with pytest.raises(
        ExportError,
        match=r"layer1\.0\.conv1: 1 of 270 .* not in the ternary level set \(off by up to 0\.01 of its unit\): call",
    ):
        level_integers("layer1.0.conv1", conv)


def test_weights_that_are_not_numbers_are_refused() -> None:
    conv, _ = layer("ternary", "none")
    with torch.no_grad():
        conv.weight[0, 0, 0, 0] = torch.nan
    with pytest.raises(ExportError, match="1 of 270"):
        level_integers("conv", conv)


@pytest.mark.parametrize("value", [0.0, -1.0, torch.inf])
def test_level_scales_that_are_no_scales_are_refused(value: float) -> None:
    conv, _ = layer("ternary")
    conv.level_scale[2] = value
    with pytest.raises(ExportError, match="level scale is not positive"):
        level_integers("conv", conv)


def test_diverged_batch_norm_is_refused() -> None:
    conv, bn = layer("ternary")
    with torch.no_grad():
        bn.bias[0] = torch.nan
    with pytest.raises(ExportError, match="not finite"):
        fold(conv, bn, LearnedStep(2))


def test_stem_weights_are_never_worse_than_rounding_to_the_largest() -> None:
    w = np.random.default_rng(0).standard_t(3, (16, 3, 7, 7))
    w[3] = 0
    q, step = quantize_int8(w, 64)
    assert q.dtype == np.int8
    assert np.abs(q).max() <= 64
    assert (step > 0).all()
    assert not q[3].any()
    plain = np.maximum(np.abs(w).max((1, 2, 3), keepdims=True), 1e-9) / 64
    error = np.square(q * step[:, None, None, None] - w).sum((1, 2, 3))
    assert (error <= np.square(np.rint(w / plain) * plain - w).sum((1, 2, 3))).all()
    assert error.sum() < np.square(np.rint(w / plain) * plain - w).sum()


@pytest.mark.parametrize("seed", range(20))
def test_a_first_convolution_that_was_trained_rounded_is_stored_as_it_computed(seed: int) -> None:
    assert INT8_LIMIT == PIXEL_WEIGHT_LIMIT
    torch.manual_seed(seed)
    conv = Int8Conv2d(3, 8, 3, padding=1, bias=False)
    with torch.no_grad():
        conv.weight.mul_(torch.logspace(-3, 3, 8)[:, None, None, None])
        conv.weight[seed % 8] *= float(seed > 3)  # a channel of zeros too
    rounded = conv.rounded()
    integers, step = quantize_int8(rounded.double().numpy(), PIXEL_WEIGHT_LIMIT)
    np.testing.assert_allclose(integers * step[:, None, None, None], rounded.numpy(), rtol=1e-6)
    x = torch.rand(2, 3, 6, 6)
    y = conv(x)
    torch.testing.assert_close(y, torch.nn.functional.conv2d(x, rounded, padding=1))
    y.sum().backward()
    assert conv.weight.grad is not None
    weight = conv.weight.detach().clone()
    with torch.no_grad():
        conv.weight.copy_(rounded)
    torch.testing.assert_close(conv.rounded(), rounded)
    assert (rounded - weight).abs().amax((1, 2, 3)).le(weight.abs().amax((1, 2, 3)) / 128 * 1.0001).all()
