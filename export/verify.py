"""The exporter's self-check: the ONNX checker, then onnxruntime against PyTorch on real samples.

Two comparisons are made. Against the network as it was trained, the stem's int8 weights and, for networks of float activations,
the calibrated 8-bit codes differ by design, so this one is reported. Against a reference that has the same stem weights and the
same activations only rounding differs; a code whose value falls on a tie may still go either way and shift what follows, so the
median over samples is held to a limit, not the maximum.
"""

import copy
from dataclasses import dataclass

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor

from bitplane.export.errors import ExportError
from bitplane.export.fold import quantize_pixel_weight, to_float64
from bitplane.runtime import format as fmt
from bitplane.train.models import ResNet

REFERENCE_LIMIT = 0.1
"""Largest median difference of a sample's logits from the reference, as a part of the spread of its logits."""
BATCH = 32


@dataclass(frozen=True)
class Verification:
    """What the self-check measured.

    Attributes:
        samples: images compared.
        top1_agreement: part of the samples on which the file and the trained network name the same class.
        max_logit_difference: largest absolute difference of a logit between the two.
        reference_top1_agreement: the same against the reference with int8 stem weights and the file's activations.
        reference_max_logit_difference: the same.
    """

    samples: int
    top1_agreement: float
    max_logit_difference: float
    reference_top1_agreement: float
    reference_max_logit_difference: float


def verify(file: onnx.ModelProto, trained: ResNet, reference: ResNet, samples: Tensor) -> Verification:
    """Check a model before it is written.

    Args:
        file: the model, packed or float.
        trained: the network as it was trained, in eval mode.
        reference: what the file was built from: `trained`, or its calibrated copy.
        samples: uint8 [N, C, H, W], real images.

    Raises:
        ExportError: the ONNX checker or onnxruntime refuses the model, or its logits are not the reference's.
    """
    try:
        onnx.checker.check_model(file, full_check=True)
        logits = run_onnxruntime(file.SerializeToString(), samples)
    except Exception as e:  # onnx and onnxruntime share no base class of their own
        reason = str(e).strip().splitlines()[0] if str(e).strip() else type(e).__name__
        raise ExportError(f"{file.graph.name}: the exported graph is refused ({reason}); please report this defect") from e
    if reference.config.weights != "float":
        reference = with_pixel_weights(reference)
    expected, exact = run_torch(trained, samples), run_torch(reference, samples)
    difference = np.abs(logits - exact).max(1)
    spread = np.ptp(exact, axis=1)
    limit = REFERENCE_LIMIT * float(np.median(spread)) + 1e-5
    if not float(np.median(difference)) <= limit:
        raise ExportError(
            f"{file.graph.name}: logits of the exported graph differ from PyTorch's by {np.median(difference):.3g}"
            f" (limit {limit:.3g}) on half of the samples; this is a defect or a diverged network, compare layer by layer"
        )
    return Verification(
        len(samples),
        float((logits.argmax(1) == expected.argmax(1)).mean()),
        float(np.abs(logits - expected).max()),
        float((logits.argmax(1) == exact.argmax(1)).mean()),
        float(difference.max()),
    )


def with_pixel_weights(model: ResNet) -> ResNet:
    """A copy whose stem has the int8 weights of the file, as floats."""
    model = copy.deepcopy(model)
    integers, step = quantize_pixel_weight(to_float64(model.conv1.weight))
    with torch.no_grad():
        model.conv1.weight.copy_(torch.from_numpy(integers * step[:, None, None, None]))
    return model


@torch.no_grad()
def run_torch(model: ResNet, samples: Tensor) -> NDArray[np.float32]:
    """Logits float32 [N, classes] of a network in eval mode."""
    return torch.cat([model(images) for images in samples.split(BATCH)]).numpy()


def run_onnxruntime(file: bytes, samples: Tensor) -> NDArray[np.float32]:
    """Logits float32 [N, classes] of a serialized model on onnxruntime's CPU provider."""
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    parts = [session.run([fmt.OUTPUT_NAME], {fmt.INPUT_NAME: images.numpy()})[0] for images in samples.split(BATCH)]
    return np.concatenate([np.asarray(p, np.float32) for p in parts])
