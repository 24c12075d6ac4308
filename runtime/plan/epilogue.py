"""What follows a convolution, a pool or an addition: residual, activation, stored features, codes."""

import numpy as np

from bitplane.runtime.instructions import Activation, Codes, Epilogue, Quantization, Results
from bitplane.runtime.kernels import fields as f
from bitplane.runtime.layouts import BYTES, FOURS, FeaturesLayout, pad_channels
from bitplane.runtime.operators.base import Quantizer
from bitplane.runtime.plan.emission import Emission
from bitplane.runtime.plan.fuse import Step


def make_epilogue(e: Emission, step: Step, results: Results, activation: Activation | None = None) -> Epilogue:
    """The epilogue of a step.

    Args:
        e: the plan so far; constants are added to it.
        step: the step.
        results: what the epilogue starts from.
        activation: in place of the step's own.
    """
    if activation is None:
        activation = Activation() if step.activation is None else step.activation.encode(e)
    residual = (e.memory.zeros, 0, 0)
    if step.residual is not None:
        layout, at = e.features(step.residual)
        residual = (at, layout.row, layout.pixel)
    features = (0, 0, 0, 0)
    if step.stored is not None:
        layout, at = _stored(e, step.stored)
        features = (1, at, layout.row, layout.pixel)
    if step.quantizer is None:
        return Epilogue(results, activation, Quantization(), Codes(), *residual, *features)
    quantization = _quantization(e, step.quantizer)
    return Epilogue(results, activation, quantization, e.output(step.quantizer.output), *residual, *features)


def _stored(e: Emission, name: str) -> tuple[FeaturesLayout, int]:
    band = e.memory.bands.get(name)
    return (band.features, band.at) if band is not None else e.features(name)


def _quantization(e: Emission, quantizer: Quantizer) -> Quantization:
    code_bits, channels = e.codes(quantizer.output)[0].code_bits, e.channels(quantizer.output)
    if quantizer.code_bits > 2 or code_bits == BYTES:
        kind = f.QUANT_BYTES if code_bits == BYTES else f.QUANT_DIVIDE
        return Quantization(kind, step=e.constant(np.array([quantizer.divisor], np.float32)))
    reached = quantizer.thresholds()
    levels = np.full((3 if code_bits == FOURS else len(reached), pad_channels(channels)), np.nan, np.float32)
    for level, values in zip(levels, reached, strict=False):  # missing levels stay NaN: never reached
        level[:channels] = values
    in_planes = f.QUANT_ONE if quantizer.code_bits == 1 else f.QUANT_TWO
    kind = f.QUANT_FOURS if code_bits == FOURS else in_planes
    return Quantization(kind, e.constant(levels), levels[0].nbytes)


def describe_epilogue(step: Step) -> str:
    """The epilogue in words, such as " + residual + relu + 2b codes"."""
    parts = [
        " + residual" if step.residual is not None else "",
        f" + {step.activation.label}" if step.activation is not None else "",
        f" + {step.quantizer.code_bits}b codes" if step.quantizer is not None else "",
        " + store" if step.stored is not None else "",
    ]
    return "".join(parts)
