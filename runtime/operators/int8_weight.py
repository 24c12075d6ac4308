"""`Int8Weight`: int8 integers times a unit an output channel, as a float weight."""

import math

import numpy as np
import onnx

from bitplane.format import names as fmt
from bitplane.runtime.operators.reader import Reader


def read(r: Reader, node: onnx.NodeProto) -> None:
    """Keep the weight; it is no value of an image, so it makes no node."""
    name, unit_name = r.inputs(node, 2)
    r.attributes(node)
    dims = r.dims(name)
    if len(dims) not in (2, 4) or min(dims) < 1:
        raise r.fail(f"'{name}' has shape {dims[:8]}, expected [O, C] or [O, C, kh, kw]")
    r.unpack_budget(math.prod(dims))
    integers = r.constant(name, np.int8, dims)
    unit = r.finite("unit", unit_name, (dims[0], *[1] * (len(dims) - 1)))
    r.store_weight(node, integers, unit, "int8")


OPERATORS = {(fmt.DOMAIN, fmt.INT8_WEIGHT): read}
