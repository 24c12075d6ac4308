"""Walk a ResNet in the order of its data and write it in one of the two dialects as an ONNX model."""

from typing import cast

import numpy as np
from onnx import ModelProto, TensorProto, helper
from torch import nn

from bitplane.export.builder import Dialect, GraphBuilder
from bitplane.export.floating import FloatDialect
from bitplane.export.functions import function
from bitplane.export.pack import planes_sha256
from bitplane.export.packed import PackedDialect
from bitplane.runtime import format as fmt
from bitplane.train.layers import PadShortcut
from bitplane.train.models import BasicBlock, Bottleneck, ResNet


def build_graph(model: ResNet, size: tuple[int, int]) -> tuple[ModelProto, str]:
    """Write a network as an ONNX model without metadata.

    Args:
        model: a network in eval mode; its activations have 8 bits or fewer unless its weights are float.
        size: height and width of the images in pixels.

    Returns:
        The model (`FORMAT.md`, or plain float32 operators where `config.weights` is "float") and the SHA-256 of its planes.

    Raises:
        ExportError: a layer cannot be folded, or its weights are off the level set.
    """
    builder = GraphBuilder()
    packed = PackedDialect(builder)
    dialect = FloatDialect(builder) if model.config.weights == "float" else packed
    _walk(builder, dialect, model)
    config = model.config
    graph = helper.make_graph(
        builder.nodes,
        config.model,
        [helper.make_tensor_value_info(fmt.INPUT_NAME, TensorProto.UINT8, [fmt.BATCH_AXIS, config.channels, *size])],
        [helper.make_tensor_value_info(fmt.OUTPUT_NAME, TensorProto.FLOAT, [fmt.BATCH_AXIS, config.classes])],
        builder.initializers,
    )
    operators = builder.low_bit_operators()
    opsets = [helper.make_opsetid("", fmt.OPSET_VERSION)]
    if operators:
        opsets.append(helper.make_opsetid(fmt.DOMAIN, fmt.DOMAIN_VERSION))
    onnx_model = helper.make_model(
        graph,
        functions=[function(op) for op in operators],
        opset_imports=opsets,
        ir_version=fmt.IR_VERSION,
        producer_name="bitplane",
    )
    return onnx_model, planes_sha256(packed.planes)


def _walk(b: GraphBuilder, dialect: Dialect, model: ResNet) -> None:
    value = dialect.stem(model.input, model.conv1, model.bn1, fmt.INPUT_NAME)
    if not model.bi_real:
        value = b.node("Relu", "relu", [value])
    if isinstance(model.maxpool, nn.MaxPool2d):
        kernel, stride, pad = (cast(int, v) for v in (model.maxpool.kernel_size, model.maxpool.stride, model.maxpool.padding))
        value = b.node("MaxPool", "maxpool", [value], kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=[pad] * 4)
    for name, block in model.blocks():
        value = (_bottleneck if isinstance(block, Bottleneck) else _basic)(b, dialect, name, block, value)
    value = b.node("GlobalAveragePool", "avgpool", [value])
    value = b.node("Flatten", "flatten", [value])
    weight = b.constant("fc.weight", model.fc.weight.detach().cpu().numpy().astype(np.float32))
    bias = b.constant("fc.bias", model.fc.bias.detach().cpu().numpy().astype(np.float32))
    b.nodes.append(helper.make_node("Gemm", [value, weight, bias], [fmt.OUTPUT_NAME], name="fc", transB=1))


def _basic(b: GraphBuilder, dialect: Dialect, name: str, block: BasicBlock | Bottleneck, x: str) -> str:
    codes = dialect.quantize(f"{name}.quant1", block.quant1, x)
    y = dialect.conv(f"{name}.conv1", block.conv1, block.bn1, block.quant1, codes)
    if block.bi_real:
        y = b.node("Add", f"{name}.add1", [y, _shortcut(dialect, name, block, x, codes)])
    else:
        y = b.node("Relu", f"{name}.relu1", [y])
    z = dialect.quantize(f"{name}.quant2", block.quant2, y)
    z = dialect.conv(f"{name}.conv2", block.conv2, block.bn2, block.quant2, z)
    if block.bi_real:
        return b.node("Add", f"{name}.add2", [z, y])
    z = b.node("Add", f"{name}.add", [z, _shortcut(dialect, name, block, x, codes)])
    return b.node("Relu", f"{name}.relu2", [z])


def _bottleneck(b: GraphBuilder, dialect: Dialect, name: str, block: BasicBlock | Bottleneck, x: str) -> str:
    assert isinstance(block, Bottleneck)
    codes = y = dialect.quantize(f"{name}.quant1", block.quant1, x)
    y = dialect.conv(f"{name}.conv1", block.conv1, block.bn1, block.quant1, y)
    for i, conv, bn, quantizer in ((2, block.conv2, block.bn2, block.quant2), (3, block.conv3, block.bn3, block.quant3)):
        if not block.bi_real:
            y = b.node("Relu", f"{name}.relu{i - 1}", [y])
        y = dialect.quantize(f"{name}.quant{i}", quantizer, y)
        y = dialect.conv(f"{name}.conv{i}", conv, bn, quantizer, y)
    y = b.node("Add", f"{name}.add", [y, _shortcut(dialect, name, block, x, codes)])
    return y if block.bi_real else b.node("Relu", f"{name}.relu3", [y])


def _shortcut(dialect: Dialect, name: str, block: BasicBlock | Bottleneck, x: str, codes: str) -> str:
    if block.downsample is None:
        return x
    if isinstance(block.downsample, PadShortcut):
        return dialect.pad_shortcut(f"{name}.downsample", block.downsample, x)
    conv, bn = cast(nn.Sequential, block.downsample)
    return dialect.conv(f"{name}.downsample.0", cast(nn.Conv2d, conv), cast(nn.BatchNorm2d, bn), block.quant1, codes)
