"""Opening an ONNX model in memory: one image input, one result, the format's operator set, and the shapes of all values."""

from collections.abc import Mapping, Set
from dataclasses import dataclass

import onnx
from onnx import helper

from bitplane.export.errors import ExportError
from bitplane.export.network import Shape
from bitplane.export.read.onnx_constants import Constants
from bitplane.format import names as fmt


@dataclass(frozen=True)
class Model:
    """A model of images.

    Attributes:
        model: at the format's operator set, where that is needed.
        constants: its initializers.
        input_name: of its one input.
        input_shape: (C, H, W).
        pixels: whether that is uint8.
        shapes: shape of every value at batch size 1, with the batch axis; 0 where it is not known.
    """

    model: onnx.ModelProto
    constants: Constants
    input_name: str
    input_shape: tuple[int, int, int]
    pixels: bool
    shapes: Mapping[str, Shape]


def open_model(model: onnx.ModelProto, label: str, input_shape: tuple[int, int, int] | None, understood: Set[str]) -> Model:
    """Check what a model takes and gives.

    Args:
        model: the model, its tensors in memory.
        label: what to call it in messages.
        input_shape: (C, H, W), where the file leaves sizes open.
        understood: operators that are read at any operator set.

    Raises:
        ExportError: it is not a model of one image input and one result, or its operator set cannot be converted.
    """
    if model.functions:
        raise ExportError(f"{label}: has model-local functions; export from the network it was made from")
    model = _at_opset(model, label, understood)
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
    return Model(model, constants, own.name, shape, pixels, _infer_shapes(model, own, shape))


def _infer_shapes(model: onnx.ModelProto, value: onnx.ValueInfoProto, shape: Shape) -> dict[str, Shape]:
    known = onnx.ModelProto()
    known.CopyFrom(model)
    own = next(i for i in known.graph.input if i.name == value.name)
    own.CopyFrom(helper.make_tensor_value_info(value.name, value.type.tensor_type.elem_type, [1, *shape]))
    try:
        known = onnx.shape_inference.infer_shapes(known, data_prop=True)
    except Exception:
        return {}  # only kept operators need it, and they are refused without
    infos = [*known.graph.value_info, *known.graph.output]
    return {i.name: tuple(d.dim_value for d in i.type.tensor_type.shape.dim) for i in infos}


def _at_opset(model: onnx.ModelProto, label: str, understood: Set[str]) -> onnx.ModelProto:
    """The model at the format's opset, where an operator that is kept would change its meaning."""
    version = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 0)
    if version < 7:
        raise ExportError(f"{label}: opset {version} is not supported; export it with opset 7 or later")
    if version == fmt.OPSET_VERSION or all(n.op_type in understood or n.domain for n in model.graph.node):
        return model
    try:
        return onnx.version_converter.convert_version(model, fmt.OPSET_VERSION)
    except Exception as e:
        raise ExportError(
            f"{label}: opset {version} cannot be converted to {fmt.OPSET_VERSION}; export it with that opset"
        ) from e
