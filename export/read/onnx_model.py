"""Opening an ONNX model in memory: one image input, one result, and the format's operator set."""

from dataclasses import dataclass

import numpy as np
import onnx
from onnx import numpy_helper

from bitplane.export.errors import ExportError
from bitplane.export.read.onnx_constants import Constants
from bitplane.format import names as fmt


@dataclass(frozen=True)
class Model:
    """A model of images.

    Attributes:
        model: at the format's operator set, where onnx can convert it, and in float32.
        constants: its initializers.
        input_name: of its one input.
        input_shape: (C, H, W).
        pixels: whether that is uint8.
        opset: version of its operators: the format's, unless onnx cannot convert them.
        batch: the batch size that is written into the model; 0 if it is open.
    """

    model: onnx.ModelProto
    constants: Constants
    input_name: str
    input_shape: tuple[int, int, int]
    pixels: bool
    opset: int
    batch: int


def open_model(model: onnx.ModelProto, label: str, input_shape: tuple[int, int, int] | None) -> Model:
    """Check what a model takes and gives.

    Args:
        model: the model, its tensors in memory.
        label: what to call it in messages.
        input_shape: (C, H, W), where the file leaves sizes open.

    Raises:
        ExportError: it is not a model of one image input and one result, or its operator set is too old.
    """
    if model.functions:
        raise ExportError(f"{label}: has model-local functions; export from the network it was made from")
    model = _in_float32(_at_opset(model, label))
    constants = Constants(model, label)
    inputs = [i for i in model.graph.input if i.name not in constants]
    if len(inputs) != 1 or len(model.graph.output) != 1:
        raise ExportError(f"{label}: has {len(inputs)} inputs and {len(model.graph.output)} outputs, expected one of each")
    (own,) = inputs
    kind = own.type.tensor_type
    sizes = [d.dim_value for d in kind.shape.dim]
    if len(sizes) != 4 or (min(sizes[1:]) < 1 and input_shape is None):
        raise ExportError(f"{label}: input '{own.name}' has shape {sizes}, expected [batch, C, H, W]; give samples")
    shape = input_shape or (sizes[1], sizes[2], sizes[3])
    if any(s not in (0, g) for s, g in zip(sizes[1:], shape, strict=True)):
        raise ExportError(f"{label}: input '{own.name}' has shape {sizes}, the samples are {list(shape)}")
    if kind.elem_type not in (onnx.TensorProto.UINT8, onnx.TensorProto.FLOAT):
        raise ExportError(f"{label}: input '{own.name}' is neither uint8 nor float32")
    pixels = kind.elem_type == onnx.TensorProto.UINT8
    return Model(model, constants, own.name, shape, pixels, _version(model), max(sizes[0], 0))


def _version(model: onnx.ModelProto) -> int:
    return next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 0)


def _at_opset(model: onnx.ModelProto, label: str) -> onnx.ModelProto:
    """The model at the format's opset; at its own, where onnx cannot convert it."""
    version = _version(model)
    if version < 7:
        raise ExportError(f"{label}: opset {version} is not supported; export it with opset 7 or later")
    if version == fmt.OPSET_VERSION:
        return model
    try:
        return onnx.version_converter.convert_version(model, fmt.OPSET_VERSION)
    except Exception:  # onnx's converter raises what it likes
        return model


def _in_float32(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with float32 wherever it computes in float16 or bfloat16, as half of the converters leave it."""
    halves = (onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)
    constants = [a.t for n in model.graph.node for a in n.attribute if a.type == onnx.AttributeProto.TENSOR]
    tensors = [t for t in (*model.graph.initializer, *constants) if t.data_type in halves]
    casts = [a for n in model.graph.node if n.op_type == "Cast" for a in n.attribute if a.name == "to" and a.i in halves]
    if not tensors and not casts:
        return model
    out = onnx.ModelProto()
    out.CopyFrom(model)
    constants = [a.t for n in out.graph.node for a in n.attribute if a.type == onnx.AttributeProto.TENSOR]
    for tensor in (t for t in (*out.graph.initializer, *constants) if t.data_type in halves):
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name))
    for node in out.graph.node:
        for a in node.attribute:
            if node.op_type == "Cast" and a.name == "to" and a.i in halves:
                a.i = onnx.TensorProto.FLOAT
    return out
