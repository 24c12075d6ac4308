"""Opening an ONNX or QONNX file; nothing here executes a file.

External data of an ONNX file is read only from a regular file, under one name, inside the model's own folder.
"""

import hashlib
import math
import os
import stat
from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import DecodeError

from bitplane.export.errors import ExportError
from bitplane.format.limits import MAX_ELEMENTS

MAX_FILE = 1 << 31
"""Bytes of the largest file read: protobuf's own limit."""


def load_onnx(path: Path) -> onnx.ModelProto:
    """Read an ONNX file, with its external data in memory.

    Raises:
        ExportError: the file is missing, not ONNX, or its tensors lie outside its folder or are not as large as declared.
    """
    try:
        size = path.stat().st_size
        data = path.read_bytes() if 0 < size < MAX_FILE else b""
    except OSError as e:
        raise ExportError(f"{path}: cannot be read ({e.strerror}); check the path") from None
    if not data:
        raise ExportError(f"{path}: is empty or larger than {MAX_FILE} bytes; give an ONNX model")
    try:
        model = onnx.load_model_from_string(data)
    except (DecodeError, ValueError):
        raise ExportError(f"{path}: not an ONNX model, or truncated; export it again") from None
    for tensor in model.graph.initializer:
        count = math.prod(tensor.dims) if min(tensor.dims, default=1) >= 0 else -1
        if not 0 <= count <= MAX_ELEMENTS:
            raise ExportError(
                f"{path}: tensor '{tensor.name}' declares shape {list(tensor.dims)}, at most {MAX_ELEMENTS} elements are read"
            )
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            _load_external(path, tensor, count)
    return model


def _load_external(path: Path, tensor: onnx.TensorProto, count: int) -> None:
    entries = {e.key: e.value for e in tensor.external_data}
    name = entries.get("location", "")

    def refuse(why: str) -> ExportError:
        return ExportError(
            f"{path}: data of tensor '{tensor.name}' lie in '{name}', {why}; save the model with its data inside"
        )

    if not name or os.path.isabs(name) or ".." in Path(name).parts or "\\" in name:
        raise refuse("which is not inside the model's folder")
    wanted = count * np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)).itemsize
    try:
        offset, length = int(entries.get("offset", 0)), int(entries.get("length", wanted))
    except ValueError:
        raise refuse("at an offset or length that is no number") from None
    file = path.parent / name
    try:
        if file.resolve() != path.parent.resolve() / name:
            raise refuse("which is a link")
        # O_NONBLOCK: opening a pipe must not wait for its writer.
        descriptor = os.open(file, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    except OSError as e:
        raise refuse(f"which cannot be read ({e.strerror})") from None
    try:
        info = os.fstat(descriptor)
        if not stat.S_ISREG(info.st_mode) or info.st_nlink != 1:
            raise refuse("which is not a regular file of one name")
        if offset < 0 or length != wanted or offset + wanted > info.st_size:
            raise refuse(f"which has {info.st_size} bytes, {length} at {offset} are declared for {wanted}")
        tensor.raw_data = os.pread(descriptor, wanted, offset)
    finally:
        os.close(descriptor)
    tensor.data_location = onnx.TensorProto.DEFAULT
    del tensor.external_data[:]


def file_sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
