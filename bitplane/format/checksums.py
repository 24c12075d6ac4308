"""The checksums of a packed file: of its planes (format 1.0), of all its constants (1.1), of all its bytes (1.4)."""

import hashlib

from onnx import GraphProto, ModelProto, TensorProto, numpy_helper

from bitplane.format import names as fmt

DIGITS = 64
"""Of a hexadecimal SHA-256."""
_KEY = fmt.META_FILE_SHA256.encode()
_ENTRY = b"\x72\x58\x0a\x14" + _KEY + b"\x12\x40"
"""What comes before the digits: field 14 of ModelProto (`metadata_props`) of 88 bytes, its key of 20 and its value of 64."""


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
        if node.domain != fmt.DOMAIN or node.op_type not in fmt.PLANE_NAMES:
            continue
        first = 0 if node.op_type in fmt.WEIGHT_OPERATORS else 1
        for name in node.input[first : first + len(fmt.PLANE_NAMES[node.op_type])]:
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


def file_sha256(data: bytes) -> tuple[str, str] | None:
    """The digest that a file carries, and the one of its bytes with a zero in place of each of the digest's digits.

    Args:
        data: the whole file. Nothing of it is parsed: whatever a reader makes of it later, these are the bytes it was.

    Returns:
        Both in hexadecimal, or None where the key `bitplane.file_sha256` is nowhere among the bytes.

    Raises:
        ValueError: the key is there twice, or not in the form that `FORMAT.md` gives it.
    """
    key = data.find(_KEY)
    if key < 0:
        return None
    entry = max(0, key - _ENTRY.index(_KEY))
    start = entry + len(_ENTRY)
    end = start + DIGITS
    if data[entry:start] != _ENTRY or end > len(data) or data.find(_KEY, start) >= 0:
        raise ValueError
    digest = hashlib.sha256(memoryview(data)[:start])
    digest.update(b"0" * DIGITS)
    digest.update(memoryview(data)[end:])
    return data[start:end].decode("ascii", "replace"), digest.hexdigest()


def serialize(model: ModelProto) -> bytes:
    """The bytes of a file, with the digest of them all in its metadata. Whoever changes a model writes it again by this.

    Raises:
        ValueError: a text in the model contains `bitplane.file_sha256`, which belongs to the digest alone.
    """
    complete = ModelProto()
    complete.CopyFrom(model)
    kept = [p for p in model.metadata_props if p.key != fmt.META_FILE_SHA256]
    del complete.metadata_props[:]
    complete.metadata_props.extend(kept)
    complete.metadata_props.add(key=fmt.META_FILE_SHA256, value="0" * DIGITS)
    data = complete.SerializeToString(deterministic=True)
    try:
        digests = file_sha256(data)
    except ValueError:
        digests = None
    if digests is None:
        raise ValueError(f"a text in the model contains '{fmt.META_FILE_SHA256}'; give it another name")
    return data.replace(_ENTRY + b"0" * DIGITS, _ENTRY + digests[1].encode())
