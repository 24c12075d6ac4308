"""Whether `bitplane.runtime` and onnxruntime agree on a packed file: every code and feature, and the logits."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from bitplane.benchmarks.peers.onnxruntime import session as ort_session
from bitplane.format import names as fmt
from bitplane.runtime import InferenceSession

BATCH = 50


@dataclass(frozen=True)
class Agreement:
    """What was compared, over all images.

    Attributes:
        images: images.
        codes: activation codes compared.
        different_codes: of them, those that differ.
        features: float values compared.
        different_features: of them, those that differ in any bit.
        largest_logit_difference: over all logits.
        same_class: share of images of one class in both.
    """

    images: int
    codes: int
    different_codes: int
    features: int
    different_features: int
    largest_logit_difference: float
    same_class: float


def agreement(path: Path, images: NDArray[np.generic]) -> Agreement:
    """Run a packed file in both engines.

    Args:
        path: the file.
        images: [N, C, H, W] as the file takes them.
    """
    own = InferenceSession(path)
    model = onnx.load(path)
    names = [n for n in own.trace({"input": images[:1]}) if n not in ("logits", "input.features")]
    model.graph.output.extend(onnx.helper.make_tensor_value_info(n, _kind(model, n), None) for n in names)
    theirs: onnxruntime.InferenceSession = ort_session(model.SerializeToString(), 1)
    counts = np.zeros(4, np.int64)
    worst, same = 0.0, 0
    for start in range(0, len(images), BATCH):
        feed = {"input": images[start : start + BATCH]}
        traced = own.trace(feed)
        logits, *values = (np.asarray(v) for v in theirs.run(["logits", *names], feed))
        for name, value in zip(names, values, strict=True):
            at = 0 if value.dtype == np.uint8 else 2
            counts[at] += value.size
            counts[at + 1] += int((traced[name] != value).sum())
        found = own.run(None, feed)[0]
        worst = max(worst, float(np.abs(found - logits).max()))
        same += int((found.argmax(1) == logits.argmax(1)).sum())
    codes, different_codes, features, different_features = (int(n) for n in counts)
    return Agreement(len(images), codes, different_codes, features, different_features, worst, same / len(images))


def _kind(model: onnx.ModelProto, name: str) -> int:
    node = next(n for n in model.graph.node if name in n.output)
    return onnx.TensorProto.UINT8 if node.op_type in fmt.CODERS else onnx.TensorProto.FLOAT
