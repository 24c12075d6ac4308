"""The exporter's self-check, on real samples.

1. The network as it was read computes what the source computes: logits, with the source's own activation values put in place of
   the network's, so that a value that falls on a tie counts for nothing.
2. The file, run by onnxruntime, computes what the quantized network computes: the file's activation values are put in place of
   the network's; what is left is rounding, in the codes (a tie may go either way) and in the logits, both within limits.
3. The file against the source: what quantization changed. This one is reported, not limited.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor

from bitplane.export.errors import ExportError, first_line
from bitplane.export.evaluate import evaluate
from bitplane.export.network import INPUT, Network, Node
from bitplane.export.nodes.quantize import Quantize
from bitplane.export.nodes.sign import Sign
from bitplane.format import names as fmt

LOGIT_LIMIT = 1e-4
"""Largest difference of a logit from the reference's, as a part of the spread of a sample's logits."""
READING_LIMIT = 1e-2
"""The same between source and reading, and for float networks, where no codes stop rounding errors from adding up."""
CODE_LIMIT = 1e-3
"""Largest share of activation codes of a quantizer that differ from the reference's, beyond `TIES`."""
READING_SLACK = 1e-3
"""What a value in front of a quantizer may differ by between source and reading, as a part of its tensor's spread: in float32 a
sum of zero behind a low-bit layer comes out of either sign (0.7 % of the codes of a `Sign`, docs/decisions/0001)."""
TIES = 4
"""Codes of a quantizer that may always differ, for tensors of a few hundred codes."""
REFERENCE_SAMPLES = 32
CODE_BYTES = 1 << 27
"""Bytes of all quantizers' values of the images that are compared value by value."""
BATCH_SIZE = 8

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Verification:
    """What the self-check measured.

    Attributes:
        samples: images compared with the source.
        top1_agreement: part of them on which the file and the source name the same class.
        max_logit_difference: largest absolute difference of a logit between the two.
        reference_top1_agreement: the same against the quantized network with the file's codes, on at most `REFERENCE_SAMPLES`
            images.
        reference_max_logit_difference: the same.
        reference_code_mismatch: largest share of a quantizer's codes that differ from the reference's.
    """

    samples: int
    top1_agreement: float
    max_logit_difference: float
    reference_top1_agreement: float
    reference_max_logit_difference: float
    reference_code_mismatch: float


def few(samples: Tensor, network: Network) -> Tensor:
    """At most `REFERENCE_SAMPLES` of the samples, evenly spaced; fewer where their codes would not fit `CODE_BYTES`."""
    codes = sum(int(np.prod(network.shapes[n.name])) for n in network.nodes if isinstance(n, Quantize | Sign))
    count = max(1, min(REFERENCE_SAMPLES, CODE_BYTES // max(1, 4 * codes)))
    return samples[:: -(-len(samples) // count)]


def check_reading(network: Network, samples: Tensor, logits: Floats, values: Mapping[str, Tensor]) -> None:
    """Refuse a network that does not compute what its source does.

    Args:
        network: as read, BatchNorm folded.
        samples: images.
        logits: what the source makes of them, float32 [N, classes].
        values: what the source's quantizers made of them, by name.

    Raises:
        ExportError: it does not, in the codes of a quantizer or in the logits.
    """
    wrong: dict[str, float] = {}
    read = {q for n in network.nodes if n.name in values for q in n.sources}
    made: dict[str, Tensor] = {INPUT: samples.float()}

    def count(node: Node, own: Tensor) -> None:
        if node.name in values:
            x, value = made[node.sources[0]], values[node.name]
            slack = READING_SLACK * float(x.std(correction=0))
            low, high = node.evaluate([x - slack]), node.evaluate([x + slack])
            half = _step(node) / 2
            wrong[node.name] = float(((value < low - half) | (value > high + half)).double().mean())
        if node.name in read:
            made[node.name] = values.get(node.name, own)

    found = evaluate(network, samples, force=values, visit=count).numpy()
    for name, share in wrong.items():
        if share - TIES / values[name].numel() > CODE_LIMIT:
            raise ExportError(
                f"{network.name}: reading differs from the source: {share:.2%} of the activation codes of {name} are others;"
                " something in front of it computes otherwise than it is read"
            )
    _compare(network.name, "reading differs from the source", found, logits.reshape(len(logits), -1), READING_LIMIT)


def _step(quantizer: Node) -> float:
    """What one code of a quantizer is worth; of a sign, half of what its two values differ by."""
    return quantizer.step if isinstance(quantizer, Quantize) else getattr(quantizer, "scale", 1.0)


def _evaluate_with(network: Network, images: Tensor, values: Mapping[str, Tensor]) -> tuple[Floats, dict[str, float]]:
    """Logits of a network that goes on with `values` of its quantizers, and the share of each one's codes that are others."""
    mismatch: dict[str, float] = {}

    def count(node: Node, own: Tensor) -> None:
        if node.name in values:
            mismatch[node.name] = float(((own - values[node.name]).abs() > _step(node) / 2).double().mean())

    return evaluate(network, images, force=values, visit=count).numpy(), mismatch


def verify(file: onnx.ModelProto, network: Network, samples: Tensor, expected: Floats) -> Verification:
    """Check a model before it is written.

    Args:
        file: the model in any form.
        network: what it was written from.
        samples: images, as the file reads them.
        expected: logits of the source for them, float32 [N, classes].

    Raises:
        ExportError: the ONNX checker or onnxruntime refuses the model, or its logits or codes are not the network's.
    """
    made = {name for node in file.graph.node for name in node.output}
    quantizers = [n for n in network.nodes if isinstance(n, Quantize | Sign) and n.name in made]
    chosen = few(samples, network)
    try:
        if len(file.functions) or all(n.domain == "" for n in file.graph.node):
            onnx.checker.check_model(file, full_check=True)
            onnx.shape_inference.infer_shapes(file, check_type=True, strict_mode=True)
        (logits,) = run_onnxruntime(file, samples)
        tapped, *taps = run_onnxruntime(file, chosen, [q.name for q in quantizers])
    except Exception as e:  # onnx and onnxruntime share no base class of their own
        raise ExportError(
            f"{network.name}: onnxruntime refuses the file ({first_line(e)}); leave out the operator or option that it names"
        ) from e
    values = {q.name: _value(q, tap) for q, tap in zip(quantizers, taps, strict=True)}
    exact, mismatch = _evaluate_with(network, chosen, values)
    for name, share in mismatch.items():
        if share - TIES / values[name].numel() > CODE_LIMIT:
            raise ExportError(
                f"{network.name}: {share:.2%} of the activation codes of {name} differ from the network's (limit"
                f" {CODE_LIMIT:.2%}): sums that lie on a threshold, which only the packed form has exact, or too large values"
            )
    limit = LOGIT_LIMIT if quantizers else READING_LIMIT
    difference = _compare(network.name, "logits of the exported graph differ from the network's", tapped, exact, limit)
    return Verification(
        len(samples),
        float((logits.argmax(1) == expected.argmax(1)).mean()),
        float(np.abs(logits - expected).max()),
        float((tapped.argmax(1) == exact.argmax(1)).mean()),
        difference,
        max(mismatch.values(), default=0.0),
    )


def _compare(name: str, what: str, found: Floats, exact: Floats, share: float) -> float:
    difference = float(np.abs(found - exact).max())
    limit = share * float(np.median(np.ptp(exact, axis=1))) + 1e-5 * (1 + float(np.abs(exact).max()))
    if not difference <= limit:
        raise ExportError(
            f"{name}: {what} by {difference:.3g} (limit {limit:.3g}); an operation computes otherwise than it is read,"
            " or values are too large for float32"
        )
    return difference


def _value(quantizer: Quantize | Sign, tap: NDArray[Any]) -> Tensor:
    """The values of what the file calls by the quantizer's name: codes uint8, or values already."""
    out = torch.from_numpy(tap)
    if tap.dtype != np.uint8:
        return out
    if isinstance(quantizer, Quantize):
        return out.float() * float(np.float32(quantizer.step))
    return (2.0 * out.float() - 1) * quantizer.scale


def run_onnxruntime(file: onnx.ModelProto, samples: Tensor, taps: Sequence[str] = ()) -> list[NDArray[Any]]:
    """The result of a model on onnxruntime's CPU provider, [N, classes], then the values named in `taps`."""
    tapped = onnx.ModelProto()
    tapped.CopyFrom(file)
    coded = {n.output[0] for n in file.graph.node if n.domain == fmt.DOMAIN and n.op_type in fmt.CODERS}
    if not file.functions:  # inlined: the last operator of `Quantize` and of `Sign`
        quantized = {n.output[0] for n in file.graph.node if n.op_type == "QuantizeLinear"}
        coded |= {n.output[0] for n in file.graph.node if n.op_type == "Clip" and n.input[0] in quantized}
        coded |= {n.output[0] for n in file.graph.node if n.op_type == "Cast" and n.attribute[0].i == onnx.TensorProto.UINT8}
    for name in taps:
        kind = onnx.TensorProto.UINT8 if name in coded else onnx.TensorProto.FLOAT
        tapped.graph.output.append(onnx.helper.make_tensor_value_info(name, kind, None))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(tapped.SerializeToString(), options, providers=["CPUExecutionProvider"])
    (own,) = session.get_inputs()
    feed = samples.numpy().astype(np.float32 if own.type == "tensor(float)" else np.uint8)
    names = [file.graph.output[0].name, *taps]
    batch = own.shape[0] if isinstance(own.shape[0], int) else BATCH_SIZE
    # A model of a fixed batch size gets a last batch that is filled up with the first images.
    missing = -len(feed) % batch if isinstance(own.shape[0], int) else 0
    full = np.concatenate([feed, *[feed[i % len(feed)][None] for i in range(missing)]])
    batches = [session.run(names, {own.name: full[i : i + batch]}) for i in range(0, len(full), batch)]
    parts = [np.concatenate([np.asarray(batch[i]) for batch in batches])[: len(feed)] for i in range(len(names))]
    return [parts[0].reshape(len(samples), -1), *parts[1:]]
