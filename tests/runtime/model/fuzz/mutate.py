"""Mutants of packed files: from a file and a seed always the same bytes.

A third are changes of bytes that know nothing of protobuf. The others change one to three fields of the model as a stranger
could, and most of these are sealed again, so that the checksums do not hide what comes after them.
"""

import hashlib
import random

import onnx
from changes import CHANGES, DOMAIN, PLANES
from onnx import TensorProto, numpy_helper

FILE_KEY = "bitplane.file_sha256"


def mutant(data: bytes, seed: int) -> tuple[str, bytes]:
    """What was done to the file, and the bytes."""
    rng = random.Random(seed)
    if rng.random() < 1 / 3:
        return change_bytes(data, rng)
    model = onnx.load_model_from_string(data)
    done = []
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        change = rng.choice(CHANGES)
        change(model, rng)
        done.append(change.__name__)
    if rng.random() < 0.9:
        done.append("sealed")
        return " ".join(done), seal(model)
    return " ".join(done), model.SerializeToString()


def change_bytes(data: bytes, rng: random.Random) -> tuple[str, bytes]:
    kind = rng.choice(["bits", "bytes", "truncate", "delete", "insert", "repeat", "swap", "ones", "head"])
    out, size = bytearray(data), len(data)
    at, length = rng.randrange(size), rng.choice([1, 2, 4, 8, 100, 1000])
    if kind == "bits":
        for _ in range(rng.choice([1, 1, 2, 8])):
            bit = rng.randrange(8 * size)
            out[bit // 8] ^= 1 << bit % 8
    elif kind == "bytes":
        for _ in range(rng.choice([1, 1, 2, 8])):
            out[rng.randrange(size)] = rng.randrange(256)
    elif kind == "truncate":
        del out[at:]
    elif kind == "delete":
        del out[at : at + length]
    elif kind == "insert":
        out[at:at] = rng.randbytes(length)
    elif kind == "repeat":
        out[at:at] = out[at : at + length]
    elif kind == "swap":
        other = rng.randrange(size)
        first, second = out[at : at + length], out[other : other + length]
        out[at : at + len(second)], out[other : other + len(first)] = second, first
    elif kind == "ones":
        out[at : at + length] = b"\xff" * len(out[at : at + length])
    else:  # names, shapes and attributes lie at the ends of the file, weights between
        at = rng.randrange(min(4000, size)) * rng.choice([1, -1])
        out[at] ^= rng.randrange(1, 256)
    return kind, bytes(out)


def seal(model: onnx.ModelProto) -> bytes:
    """The model's bytes, with the checksums that they have now."""
    _seal_constants(model)
    for prop in model.metadata_props:
        if prop.key == FILE_KEY:
            prop.value = "0" * 64
    data, head = model.SerializeToString(), FILE_KEY.encode() + b"\x12\x40"
    return data.replace(head + b"0" * 64, head + hashlib.sha256(data).hexdigest().encode())


def _seal_constants(model: onnx.ModelProto) -> None:
    constants = {t.name: t for t in model.graph.initializer}
    planes, weights = hashlib.sha256(), hashlib.sha256()
    try:
        for node in model.graph.node:
            first = 0 if node.op_type.endswith("Weight") else 1
            for name in node.input[first : first + PLANES.get(node.op_type, 0)] if node.domain == DOMAIN else []:
                planes.update(_data(constants[name]) if name in constants else b"")
        for t in model.graph.initializer:
            weights.update(f"{t.name}\0{t.data_type}:{','.join(map(str, t.dims))}\0".encode() + _data(t))
    except (TypeError, ValueError, KeyError):
        return  # such a tensor has no checksum
    for prop in model.metadata_props:
        if prop.key in ("bitplane.planes_sha256", "bitplane.weights_sha256"):
            prop.value = (planes if "planes" in prop.key else weights).hexdigest()


def _data(tensor: TensorProto) -> bytes:
    return tensor.raw_data if tensor.HasField("raw_data") else numpy_helper.to_array(tensor).tobytes()
