"""FORMAT.md is enough to read a packed file: a second reader, written from that page alone, gives onnxruntime's logits."""

import hashlib
import re
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper
from PIL import Image

from bitplane.format.functions import describe_all

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted([*(ROOT / "tests" / "fixtures").glob("format-*/*.onnx"), *(ROOT / "examples").glob("resnet20*[128].onnx")])


def bits(plane, shape):
    _, kh, kw, c = shape
    flat = np.array([[row[k // 8] >> (k % 8) & 1 for k in range(kh * kw * c)] for row in plane.tolist()], np.float64)
    return flat.reshape(shape).transpose(0, 3, 1, 2)


def weight(op, planes, shape, levels):
    u = [bits(p, shape) for p in planes]
    low, high = levels
    return {
        "Binary": lambda: 1 - 2 * u[0],
        "Ternary": lambda: u[1] - 2 * u[0],
        "Quaternary": lambda: 10 - 13 * u[0] - 7 * u[1],
        "FourLevel": lambda: high - (high + low) * u[0] - (high - low) * u[1],
    }[op]()


def convolve(x, w, strides, pads):
    (sy, sx), (top, left, bottom, right) = strides, pads
    x = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)))
    windows = np.lib.stride_tricks.sliding_window_view(x, w.shape[2:], (2, 3))[:, :, ::sy, ::sx]
    return np.einsum("nchwij,ocij->nohw", windows, w, optimize=True)


def read(path, pixels):
    """Logits of a file of the operators that a ResNet has."""
    data = path.read_bytes()
    if (at := data.find(b"bitplane.file_sha256\x12\x40") + 22) > 22:
        whole = hashlib.sha256(data[:at] + b"0" * 64 + data[at + 64 :])
        assert data[at : at + 64].decode() == whole.hexdigest()
    model = onnx.load_model_from_string(data)
    meta = {p.key: p.value for p in model.metadata_props}
    major, _, minor = meta["bitplane.format_version"].partition(".")
    assert major == "1"
    assert int(minor or 0) < 4 or "bitplane.file_sha256" in meta
    constants = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    values, digest = {"input": pixels, **constants}, hashlib.sha256()
    for node in model.graph.node:
        x, *rest = (values[name] for name in node.input)
        a = {i.name: onnx.helper.get_attribute_value(i) for i in node.attribute}
        if node.op_type == "PixelConv":
            w, zero, scale, bias = rest
            y = np.float32(convolve(x.astype(float) - float(zero), w.astype(float), a["strides"], a["pads"])) * scale + bias
        elif node.op_type.endswith(("aryWeight", "LevelWeight", "Conv")) and node.domain == "bitplane":
            op, is_weight = node.op_type.removesuffix("Conv").removesuffix("Weight"), node.op_type.endswith("Weight")
            planes = [values[name] for name in node.input[0 if is_weight else 1 :]][: 1 + (op != "Binary")]
            digest.update(b"".join(p.tobytes() for p in planes))
            w = weight(op, planes, a["weight_shape"], a.get("levels", (0, 0)))
            if is_weight:
                y = np.float32(w) * rest[-1]
            else:
                y = np.float32(convolve(x.astype(float), w, a["strides"], a["pads"])) * rest[-2] + rest[-1]
        elif node.op_type == "Conv":
            parts = zip(np.split(x, a["group"], 1), np.split(rest[0], a["group"]), strict=True)
            y = np.concatenate([convolve(u, w, a["strides"], a["pads"]) for u, w in parts], 1) + rest[1][:, None, None]
        elif node.op_type == "Quantize":
            y = np.clip(np.rint(x / rest[0]), 0, a["top"][0])
        elif node.op_type == "PadShortcut":
            padding = [(a["pads"][i], a["pads"][i + 4]) for i in range(4)]
            y = np.pad(x[:, :, :: a["steps"][0], :: a["steps"][1]], padding)
        else:
            y = {
                "Sign": lambda x: (x >= 0) * 1,
                "ChannelSign": lambda x, threshold: (x >= threshold) * 1,
                "PRelu": lambda x, slope: np.where(x > 0, x, x * slope),
                "Relu": lambda x: np.maximum(x, 0),
                "Clip": lambda x, low, high: np.minimum(np.maximum(x, low), high),
                "Add": lambda x, other: x + other,
                "GlobalAveragePool": lambda x: x.mean((2, 3), keepdims=True),
                "Flatten": lambda x: x.reshape(len(x), -1),
                "Gemm": lambda x, w, b: x @ w.T + b,
                "Int8Weight": lambda w, unit: w.astype(np.float32) * unit,
                "Normalize": lambda x, mean, std: (x.astype(np.float32) - mean) / std,
                "FakeQuantize": lambda x, step, a=a: np.clip(np.rint(x / step), *a["limits"]) * step,
                "Bipolar": lambda x, scale: np.where(x >= 0, scale, -scale),
            }[node.op_type](x, *rest)
        values[node.output[0]] = y
    assert digest.hexdigest() == meta["bitplane.planes_sha256"]
    return values["logits"]


@pytest.mark.parametrize("path", FILES, ids=lambda p: f"{p.parent.name}-{p.stem}")
def test_a_reader_of_the_page_alone_gives_onnxruntimes_logits(path: Path) -> None:
    session = onnxruntime.InferenceSession(path)
    c, h, w = session.get_inputs()[0].shape[1:]
    image = Image.open(ROOT / "examples" / "images" / "ship.png").convert("L" if c == 1 else "RGB").resize((w, h))
    pixels = np.asarray(image).reshape(h, w, c).transpose(2, 0, 1)[None].copy()
    np.testing.assert_allclose(read(path, pixels), session.run(None, {"input": pixels})[0], atol=1e-4)


def test_the_page_lists_the_functions_as_they_are() -> None:
    """If it does not: replace that section by what `bitplane.format.functions.describe_all()` returns."""
    page = (ROOT / "bitplane" / "format" / "FORMAT.md").read_text()
    assert page.split("## Function bodies\n\n")[1].strip() == describe_all().strip()


def test_the_worked_example_is_right() -> None:
    page = (ROOT / "bitplane" / "format" / "FORMAT.md").read_text()
    example = page.split("## Worked example")[1]
    signs, masks = np.zeros((2, 10), np.uint8), np.zeros((2, 10), np.uint8)
    for line in re.findall(r"channel \d    tap 0: .*", example):
        channel = int(line[8])
        values = [int(v) for v in re.findall(r"[+-]1| 0", line.split("tap 0:")[1].replace("tap 1:", ""))]
        assert len(values) == 10
        signs[channel], masks[channel] = [v < 0 for v in values], [v != 0 for v in values]
    data = b"".join(np.packbits(p, axis=1, bitorder="little").tobytes() for p in (signs, masks))
    assert data.hex() == "04011f0005033f00"
    assert data.hex() in example
    assert hashlib.sha256(data).hexdigest() in example
