"""Run a `Network` in torch, node by node: the calibration's source of values and the self-check's reference."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import cast

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator
from torch import Tensor
from torch.nn import functional

from bitplane.export.network import (
    INPUT,
    Add,
    Affine,
    Conv,
    Flatten,
    Float64,
    GlobalAveragePool,
    Kept,
    MaxPool,
    Network,
    Node,
    Normalize,
    PadShortcut,
    PRelu,
    Quantize,
    Relu,
    Sign,
    Weight,
    sources,
)
from bitplane.format import names as fmt


@torch.no_grad()
def evaluate(
    network: Network,
    images: Tensor,
    *,
    force: Mapping[str, Tensor] | None = None,
    visit: Callable[[Node, Tensor], None] | None = None,
) -> Tensor:
    """Run a network in float32.

    Args:
        network: the network.
        images: uint8 or float32 [N, C, H, W].
        force: values to go on with in place of what these nodes make.
        visit: called with every node and the value it makes, before `force`.

    Returns:
        The result, float32 [N, classes].
    """
    last = {name: node.name for node in network.nodes for name in sources(node)}
    producers = network.producers()
    values: dict[str, Tensor] = {INPUT: images}
    for node in network.nodes:
        source = producers.get(node.source) if isinstance(node, Conv) else None
        if isinstance(node, Conv) and isinstance(source, Quantize | Sign) and node.weight.integers is not None:
            value = convolve_codes(node, source, values[node.source])
        else:
            value = apply(node, [values[name] for name in sources(node)])
        if visit is not None:
            visit(node, value)
        values[node.name] = force[node.name] if force and node.name in force else value
        for name in sources(node):
            if last[name] == node.name and name != network.output:
                values.pop(name, None)
    return values[network.output].flatten(1).float()


def apply(node: Node, inputs: list[Tensor]) -> Tensor:
    """The value of one node."""
    x = inputs[0]
    match node:
        case Normalize():
            mean, std = (torch.from_numpy(v.astype(np.float32))[:, None, None] for v in (node.mean, node.std))
            return (x.float() - mean) / std
        case Conv():
            return convolve(node, x)
        case Affine():
            factor, offset = (torch.from_numpy(v.astype(np.float32)) for v in (node.factor, node.offset))
            view = (-1, *[1] * (x.dim() - 2))
            return x * factor.view(view) + offset.view(view)
        case Quantize():
            return quantize(x, node)
        case Sign():
            thresholds = 0 if node.thresholds is None else _float32(node.thresholds)
            return (x >= thresholds).float() * (2 * node.scale) - node.scale
        case Relu():
            return torch.relu(x)
        case PRelu():
            return torch.where(x > 0, x, x * _float32(node.slope))
        case Add():
            return x + inputs[1]
        case MaxPool():
            top, left, bottom, right = node.pads
            padded = functional.pad(x, (left, right, top, bottom), value=-torch.inf)
            return functional.max_pool2d(padded, node.kernel, node.strides)
        case GlobalAveragePool():
            return x.mean((2, 3), keepdim=True)
        case PadShortcut():
            return functional.pad(x[:, :, :: node.steps[0], :: node.steps[1]], (0, 0, 0, 0, node.front, node.back))
        case Flatten():
            return x.flatten(1)
        case Kept():
            return _keep(node, inputs)


def _float32(channels: Float64) -> Tensor:
    return torch.from_numpy(channels.astype(np.float32)).view(-1, 1, 1)


def convolve(node: Conv, x: Tensor) -> Tensor:
    """The convolution of `node` with its bias, in the dtype of `x`."""
    # Copies: a source's arrays may be read-only.
    weight, bias = (torch.tensor(v, dtype=x.dtype) for v in (node.weight.values, node.bias))
    top, left, bottom, right = node.pads
    if any(node.pads):
        if node.pad_value == 0 and (top, left) == (bottom, right):
            return functional.conv2d(x, weight, bias, node.strides, (top, left), groups=node.group)
        x = functional.pad(x, (left, right, top, bottom), value=node.pad_value)
    return functional.conv2d(x, weight, bias, node.strides, groups=node.group)


def convolve_codes(node: Conv, source: Quantize | Sign, x: Tensor) -> Tensor:
    """The convolution of integer weights on the values of codes, with exact integer sums: a sum of zero is zero."""
    assert node.weight.integers is not None
    assert node.weight.unit is not None
    step, largest = (source.scale, 1) if isinstance(source, Sign) else (source.step, max(abs(source.low), source.high))
    exact_in_float32 = np.abs(node.weight.integers.astype(np.int64)).sum((1, 2, 3)).max() * largest < 1 << 24
    dtype = torch.float32 if exact_in_float32 else torch.float64
    codes = torch.round(x.to(dtype) / float(np.float32(step)))
    whole = Weight(node.weight.integers.astype(np.float64))
    sums = convolve(replace(node, weight=whole, bias=np.zeros(len(node.bias)), pad_value=round(node.pad_value / step)), codes)
    scale = torch.from_numpy((node.weight.unit * step).astype(np.float32)).view(-1, 1, 1)
    return sums.float() * scale + torch.from_numpy(node.bias.astype(np.float32)).view(-1, 1, 1)


def quantize(x: Tensor, node: Quantize) -> Tensor:
    """The value of a quantizer, each operation rounded as float32."""
    step = torch.tensor(node.step, dtype=torch.float32)
    return (x / step).round_().clamp_(node.low, node.high).mul_(step)


def _keep(node: Kept, inputs: list[Tensor]) -> Tensor:
    feeds = dict(zip(sources(node), (i.numpy() for i in inputs), strict=True))
    names = list(dict.fromkeys(i for i in node.inputs if i))
    arrays = {n: feeds[n] if n in feeds else node.constants[n] for n in names}
    proto = onnx.NodeProto()
    proto.CopyFrom(node.proto)
    del proto.input[:], proto.output[:]
    proto.input.extend(node.inputs)
    proto.output.append("y")
    graph = onnx.helper.make_graph(
        [proto],
        "node",
        [
            onnx.helper.make_tensor_value_info(n, onnx.helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
            for n, a in arrays.items()
        ],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", fmt.OPSET_VERSION)])
    (result,) = cast("list[NDArray[np.float32]]", ReferenceEvaluator(model).run(None, arrays))
    return torch.from_numpy(np.asarray(result))
