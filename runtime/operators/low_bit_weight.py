"""`BinaryWeight`, `TernaryWeight`, `QuaternaryWeight`, `FourLevelWeight`: bit-planes unpacked into a float weight."""

import math

import numpy as np
import onnx

from bitplane.format import names as fmt
from bitplane.format.limits import MAX_ELEMENTS
from bitplane.format.pack import unpack_weight
from bitplane.runtime.operators.reader import Reader


def read(r: Reader, node: onnx.NodeProto) -> None:
    """Keep the weight; it is no value of an image, so it makes no node."""
    *names, unit_name = r.inputs(node, len(fmt.PLANE_NAMES[node.op_type]) + 1)
    levels, attributes = r.level_set(node, {"weight_shape": 4})
    o, kh, kw, c = shape = attributes["weight_shape"]
    if min(shape) < 1 or math.prod(shape) > MAX_ELEMENTS:
        raise r.fail(f"weight_shape is {list(shape)}, expected [O, kh, kw, C] of 1 to {MAX_ELEMENTS} elements")
    r.unpack_budget(math.prod(shape))
    integers = unpack_weight(levels, r.planes(levels, names, shape), (o, kh, kw, c))
    unit = r.constant(unit_name, np.float32, (o, 1, 1, 1))
    if not (np.isfinite(unit).all() and (unit >= 0).all()):
        raise r.fail(f"unit '{unit_name}' must be finite and not negative")
    r.store_weight(node, integers.transpose(0, 3, 1, 2), unit, levels.name)


OPERATORS = {(fmt.DOMAIN, op): read for op in fmt.WEIGHT_OPERATORS}
