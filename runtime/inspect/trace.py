"""Every value of a run, in ONNX's layout."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitplane.runtime.execute.call import instructions_of
from bitplane.runtime.execute.machine_code import RunPlan
from bitplane.runtime.layouts import FOURS, CodesLayout, FeaturesLayout
from bitplane.runtime.model.graph import Model
from bitplane.runtime.plan.make import make_plan
from bitplane.runtime.plan.options import PlanOptions


def trace(run_plan: RunPlan, model: Model, images: NDArray[Any], merge: bool) -> dict[str, NDArray[Any]]:
    """Run a model on a plan in which every value has memory of its own.

    Args:
        run_plan: the compiled walker.
        model: a checked model.
        images: [N, C, H, W], C-contiguous, as the model takes them.
        merge: whether nodes are merged into steps; False returns all values.

    Returns:
        Tensor name to codes uint8 or features float32, [N, C, H, W], and to logits float32 [N, classes].
    """
    plan = make_plan(model, PlanOptions(merge=merge, reuse=False))
    memory, classes = plan.arena.create(), model.tensors[model.output_name].shape[0]
    out: dict[str, list[NDArray[Any]]] = {}
    for image in images:
        logits = np.empty(classes, np.float32)
        call = instructions_of(plan, memory.ctypes.data)
        run_plan(*call._replace(images=image.ctypes.data, logits=logits.ctypes.data))
        for name, (layout, at) in plan.codes.items():
            out.setdefault(name, []).append(read_codes(memory, layout, at, model.tensors[name].shape[0]))
        for name, (layout, at) in plan.features.items():
            out.setdefault(name, []).append(read_features(memory, layout, at, model.tensors[name].shape[0]))
        out.setdefault(model.output_name, []).append(logits)
    return {name: np.stack(values) for name, values in out.items()}


def read_codes(memory: NDArray[np.uint8], layout: CodesLayout, at: int, channels: int) -> NDArray[np.uint8]:
    """Codes uint8 [C, H, W] of a buffer at byte `at` of an arena."""
    if layout.code_bits > 1:
        high, wide = layout.height + 2 * layout.halo, layout.width + 2 * layout.halo
        codes = memory[at : at + high * layout.row].reshape(high, wide, layout.pixel)
        inner = codes[layout.halo : layout.halo + layout.height, layout.halo : layout.halo + layout.width]
        if layout.code_bits == FOURS:
            fields = inner[..., None] >> np.arange(0, 8, 2, dtype=np.uint8) & np.uint8(3)
            inner = fields.astype(np.uint8).reshape(*inner.shape[:2], -1)
        return inner[:, :, :channels].transpose(2, 0, 1).copy()
    out = np.zeros((layout.channels, layout.height, layout.width), np.uint8)
    high, wide, halo = layout.height + 2 * layout.halo, layout.width + 2 * layout.halo, layout.halo
    for plane in range(layout.planes):
        start = at + plane * layout.plane
        packed = memory[start : start + high * layout.row].reshape(high, wide, layout.pixel)
        bits = np.unpackbits(packed, axis=-1, count=layout.channels, bitorder="little")
        out |= bits[halo : halo + layout.height, halo : halo + layout.width].transpose(2, 0, 1) << plane
    return out


def read_features(memory: NDArray[np.uint8], layout: FeaturesLayout, at: int, channels: int) -> NDArray[np.float32]:
    """Features float32 [C, H, W] of a buffer at byte `at` of an arena."""
    values = memory[at : at + layout.size].view(np.float32).reshape(layout.height, layout.width, layout.channels)
    return values[:, :, :channels].transpose(2, 0, 1).copy()
