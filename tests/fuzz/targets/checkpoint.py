"""Weights of strangers: finite tensors of the network's shapes and types, or one line of a CheckpointError.

The input is the header of a safetensors file, or after a byte 255 the whole file. Behind a header lie as many bytes as the
network's tensors have: zeros, or infinities and NaN where the header has an odd length.
"""

import contextlib
import struct

import torch
from scratch import one_line, written

from bitplane.export.errors import ExportError
from bitplane.export.read.torchvision import load_torchvision
from bitplane.train.config import ModelConfig
from bitplane.train.errors import CheckpointError
from bitplane.train.models import build_model
from bitplane.train.weights import load_weights

torch.set_num_threads(1)
MODEL = build_model(ModelConfig(model="resnet20", weights="ternary", classes=2, channels=1))
BYTES = sum(v.numel() * v.element_size() for v in MODEL.state_dict().values())


def check(data: bytes) -> None:
    content = data[1:]
    if data[:1] != b"\xff":
        content = struct.pack("<Q", len(data)) + data + (b"\xff" if len(data) % 2 else b"\0") * BYTES
    path = written(content, "model.safetensors")
    for lenient in (False, True):
        try:
            load_weights(MODEL, path, lenient=lenient)
        except CheckpointError as error:
            one_line(error, path)
        else:
            floats = [v for v in MODEL.state_dict().values() if v.is_floating_point()]
            assert all(bool(torch.isfinite(v).all()) for v in floats)
    with contextlib.suppress(CheckpointError, ExportError):
        load_torchvision(path)
