"""The two checksums of a packed file: of its planes (format 1.0) and of all its constants (format 1.1)."""

import hashlib

from onnx import GraphProto, TensorProto, numpy_helper

from bitplane.format import names as fmt


def tensor_bytes(tensor: TensorProto) -> bytes:
    """A tensor's elements in C order, little-endian."""
    if tensor.HasField("raw_data"):
        return tensor.raw_data
    value = numpy_helper.to_array(tensor)
    return value.astype(value.dtype.newbyteorder("<"), copy=False).tobytes()


def planes_sha256(graph: GraphProto) -> str:
    """Hexadecimal SHA-256 of all planes' bytes, in node order, then input order."""
    constants = {t.name: t for t in graph.initializer}
    digest = hashlib.sha256()
    for node in graph.node:
        if node.domain != fmt.DOMAIN or node.op_type not in fmt.LEVELS:
            continue
        first = 0 if node.op_type in fmt.WEIGHT_OPERATORS else 1
        for name in node.input[first : first + len(fmt.LEVELS[node.op_type].plane_names)]:
            digest.update(tensor_bytes(constants[name]) if name in constants else b"")
    return digest.hexdigest()


def weights_sha256(graph: GraphProto) -> str:
    """Hexadecimal SHA-256 of every initializer, in the file's order.

    Each adds: name, a zero byte, "<data type>:<dims joined by commas>" in decimal, a zero byte, the elements in C order,
    little-endian.
    """
    digest = hashlib.sha256()
    for tensor in graph.initializer:
        head = f"{tensor.name}\0{tensor.data_type}:{','.join(str(d) for d in tensor.dims)}\0"
        digest.update(head.encode())
        digest.update(tensor_bytes(tensor))
    return digest.hexdigest()
