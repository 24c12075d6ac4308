"""`Conv` (ONNX): a float32 convolution, on weights that the file holds as floats, planes or int8."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from bitplane.runtime.layouts import round_up
from bitplane.runtime.operators.base import Convolution, Tensor, windows
from bitplane.runtime.operators.reader import Reader


@dataclass(frozen=True, eq=False)
class FloatConv(Convolution):
    """A float32 convolution of features.

    Attributes:
        weight: float32 [O, C / group, kh, kw].
        bias: float32 [O].
        group: groups of channels.
        stored: what the file stores: name of a level set, "int8" or "float".
    """

    weight: NDArray[np.float32]
    bias: NDArray[np.float32]
    group: int
    stored: str = "float"

    @property
    def weight_shape(self) -> tuple[int, int, int, int]:
        """(O, kh, kw, C / group)."""
        o, c, kh, kw = self.weight.shape
        return o, kh, kw, c

    def evaluate(self, *values: NDArray[Any]) -> NDArray[np.float32]:
        """Float32 convolution in groups, then bias; the order of its sums differs from the kernel's."""
        o, kh, kw, c = self.weight_shape
        taps = windows(values[0], (kh, kw), self.strides, self.pads, 0).astype(np.float32)
        rows = o // self.group
        parts = [
            np.tensordot(self.weight[g * rows : (g + 1) * rows], taps[g * c : (g + 1) * c], ((1, 2, 3), (0, 3, 4)))
            for g in range(self.group)
        ]
        return np.asarray(np.concatenate(parts) + self.bias[:, None, None], np.float32)


def read(r: Reader, node: onnx.NodeProto) -> FloatConv:
    """The checked node."""
    source, weight_name, bias_name = r.inputs(node, 3)
    source, tensor = r.features(source)
    c, h, w = tensor.shape
    found = r.float_weight(weight_name, 4)
    o, per_group, kh, kw = found.values.shape
    lengths = {"strides": 2, "pads": 4, "group": 0, "kernel_shape": 2}
    a = r.attributes(node, lengths, {"auto_pad": b"NOTSET", "dilations": [1, 1]})
    (group,) = a["group"]
    if a["kernel_shape"] != (kh, kw):
        raise r.fail(f"kernel_shape is {list(a['kernel_shape'])}, the weight's is {[kh, kw]}")
    if group < 1 or o % group or per_group * group != c:
        shape = list(found.values.shape)
        raise r.fail(f"weight '{weight_name}' has shape {shape}, group is {group}, the input has {c} channels")
    r.unpack_budget(round_up(o, 16) * round_up(c, 16) * kh * kw)
    (sy, sx), (top, left, bottom, right) = a["strides"], a["pads"]
    height, width = r.window((h, w), (kh, kw), a["strides"], a["pads"])
    bias = r.finite("bias", bias_name, (o,))
    r.add(node.output[0], Tensor("features", (o, height, width)), kh * kw * c)
    return FloatConv(
        node.name, source, node.output[0], (sy, sx), (top, left, bottom, right), found.values, bias, group, found.kind
    )


OPERATORS = {("", "Conv"): read}
