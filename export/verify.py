"""The exporter's self-check: the ONNX checker, then onnxruntime against PyTorch on real samples.

Two comparisons are made. Against the network as it was trained, the stem's int8 weights, calibrated activations and codes that
fall on a tie differ, and every flipped code shifts what follows: this one is reported. For the second, a reference gets the
file's stem weights, and each of its activation quantizers passes on the file's codes in place of its own: what is left is
rounding, in the codes (a tie may go either way) and in the logits, and both are held to limits.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bitplane.export.errors import ExportError
from bitplane.export.fold import quantize_pixel_weight, to_float64
from bitplane.runtime import format as fmt
from bitplane.train.activations import LearnedStep, Sign
from bitplane.train.models import ResNet

LOGIT_LIMIT = 1e-4
"""Largest difference of a logit from the reference's, as a part of the spread of a sample's logits."""
FLOAT_LOGIT_LIMIT = 1e-2
"""The same for a float twin, where no codes stop rounding errors from adding up."""
CODE_LIMIT = 1e-3
"""Largest share of activation codes of a quantizer that differ from the reference's, beyond `TIES`."""
TIES = 4
"""Codes of a quantizer that may always differ, for tensors of a few hundred codes."""
REFERENCE_SAMPLES = 32
BATCH = 8


@dataclass(frozen=True)
class Verification:
    """What the self-check measured.

    Attributes:
        samples: images compared with the trained network.
        top1_agreement: part of them on which the file and the trained network name the same class.
        max_logit_difference: largest absolute difference of a logit between the two.
        reference_top1_agreement: the same against the reference, on at most `REFERENCE_SAMPLES` images.
        reference_max_logit_difference: the same.
        reference_code_mismatch: largest share of a quantizer's codes that differ from the reference's.
    """

    samples: int
    top1_agreement: float
    max_logit_difference: float
    reference_top1_agreement: float
    reference_max_logit_difference: float
    reference_code_mismatch: float


def verify(file: onnx.ModelProto, trained: ResNet, source: ResNet, samples: Tensor) -> Verification:
    """Check a model before it is written.

    Args:
        file: the model, packed or float.
        trained: the network as it was trained, in eval mode.
        source: what the file was built from: `trained`, or its calibrated copy.
        samples: uint8 [N, C, H, W], real images.

    Raises:
        ExportError: the ONNX checker or onnxruntime refuses the model, or its logits or codes are not the reference's.
    """
    name = file.graph.name
    taps = [n for n, m in source.named_modules() if isinstance(m, LearnedStep | Sign)]
    chosen = samples[:: -(-len(samples) // REFERENCE_SAMPLES)]
    try:
        onnx.checker.check_model(file, full_check=True)
        (logits,) = run_onnxruntime(file, samples)
        tapped, *codes = run_onnxruntime(file, chosen, taps)
    except Exception as e:  # onnx and onnxruntime share no base class of their own
        reason = str(e).strip().splitlines()[0] if str(e).strip() else type(e).__name__
        raise ExportError(f"{name}: the exported graph is refused ({reason}); please report this defect") from e
    exact, mismatch = run_reference(source, chosen, dict(zip(taps, codes, strict=True)))
    excess = {tap: mismatch[tap] - TIES / value.size for tap, value in zip(taps, codes, strict=True)}
    worst = max(excess, key=excess.__getitem__, default="")
    if worst and excess[worst] > CODE_LIMIT:
        share = f"{mismatch[worst]:.2%} of the activation codes"
        raise ExportError(f"{name}: {share} of {worst} differ from PyTorch's; a defect or a diverged network, please report it")
    difference = float(np.abs(tapped - exact).max())
    share_limit = LOGIT_LIMIT if file.functions else FLOAT_LOGIT_LIMIT
    limit = share_limit * float(np.median(np.ptp(exact, axis=1))) + 1e-5 * (1 + float(np.abs(exact).max()))
    if not difference <= limit:
        raise ExportError(
            f"{name}: logits of the exported graph differ from PyTorch's by {difference:.3g} (limit {limit:.3g});"
            " a defect or a diverged network, please report it"
        )
    expected = run_torch(trained, samples)
    return Verification(
        len(samples),
        float((logits.argmax(1) == expected.argmax(1)).mean()),
        float(np.abs(logits - expected).max()),
        float((tapped.argmax(1) == exact.argmax(1)).mean()),
        difference,
        max(mismatch.values(), default=0.0),
    )


@torch.no_grad()
def run_reference(
    source: ResNet, samples: Tensor, codes: dict[str, NDArray[Any]]
) -> tuple[NDArray[np.float32], dict[str, float]]:
    """Run a network with the file's stem weights and the file's activation codes.

    Args:
        source: the network that the file was built from, in eval mode; not modified.
        samples: uint8 [N, C, H, W].
        codes: output of each activation quantizer in the file, [N, C, H, W]: codes uint8, or values float32 of a float twin.

    Returns:
        Logits float32 [N, classes], and by quantizer the share of its own codes that differ from the file's.
    """
    reference = copy.deepcopy(source)
    if source.config.weights != "float":
        integers, step = quantize_pixel_weight(to_float64(reference.conv1.weight))
        reference.conv1.weight.copy_(torch.from_numpy(integers * step[:, None, None, None]))
    position = 0
    wrong = dict.fromkeys(codes, 0)

    def force(name: str, quantizer: LearnedStep | Sign) -> None:
        step = torch.ones(1) if isinstance(quantizer, Sign) else quantizer.step.abs().clamp(min=1e-8)

        def replace(_module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            values = torch.from_numpy(codes[name][position : position + len(output)])
            if values.dtype == torch.uint8:
                values = 2.0 * values - 1 if isinstance(quantizer, Sign) else values * step
            wrong[name] += int(((output - values).abs() > step / 2).sum())
            return values

        quantizer.register_forward_hook(replace)

    for name, module in reference.named_modules():
        if isinstance(module, LearnedStep | Sign):
            force(name, module)
    parts: list[NDArray[np.float32]] = []
    for images in samples.split(BATCH):
        parts.append(reference(images).numpy())
        position += len(images)
    return np.concatenate(parts), {name: wrong[name] / codes[name].size for name in codes}


@torch.no_grad()
def run_torch(model: ResNet, samples: Tensor) -> NDArray[np.float32]:
    """Logits float32 [N, classes] of a network in eval mode."""
    return torch.cat([model(images) for images in samples.split(BATCH)]).numpy()


def run_onnxruntime(file: onnx.ModelProto, samples: Tensor, taps: Sequence[str] = ()) -> list[NDArray[Any]]:
    """Logits float32 [N, classes] of a model on onnxruntime's CPU provider, then the values of the nodes named in `taps`."""
    tapped = onnx.ModelProto()
    tapped.CopyFrom(file)
    kind = onnx.TensorProto.UINT8 if file.functions else onnx.TensorProto.FLOAT
    tapped.graph.output.extend(onnx.helper.make_tensor_value_info(name, kind, list("nchw")) for name in taps)
    session = onnxruntime.InferenceSession(tapped.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [fmt.OUTPUT_NAME, *taps]
    batches = [session.run(names, {fmt.INPUT_NAME: images.numpy()}) for images in samples.split(BATCH)]
    return [np.concatenate([np.asarray(batch[i]) for batch in batches]) for i in range(len(names))]
