"""What torch's functions and tensor methods are read as; a row of `FUNCTIONS` by their name.

A reader takes the call's arguments after the first by torch's names and defaults, so none is overlooked: a call with others is
refused with them.
"""

import operator
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from bitplane.export.nodes.add import Add
from bitplane.export.nodes.affine import Affine
from bitplane.export.nodes.clip import Clip
from bitplane.export.nodes.global_average_pool import GlobalAveragePool
from bitplane.export.nodes.max_pool import MaxPool
from bitplane.export.nodes.pad_shortcut import PadShortcut
from bitplane.export.nodes.relu import Relu
from bitplane.export.read.construction import Value, pair
from bitplane.export.read.torch_call import BATCH, Call


def add(call: Call, other: Any, *, alpha: float = 1) -> Value:
    """Sum of x and alpha * other."""
    second = call.value(other)
    if second.flat != call.x.flat:
        raise call.refuse(f"`add` of a flattened value and one that is not {call.describe()}")
    if alpha != 1:
        channels = call.builder.shapes[second.name][0]
        factor = np.full(channels, float(alpha))
        second = call.add(Affine(call.named("alpha"), second.name, factor, np.zeros(channels)))
    return call.add(Add(call.named("add"), call.x.name, second.name))


def relu(call: Call, inplace: bool = False) -> Value:
    """max(x, 0)."""
    return call.add(Relu(call.named("relu"), call.x.name))


def relu6(call: Call, inplace: bool = False) -> Value:
    """min(max(x, 0), 6)."""
    return call.add(Clip(call.named("relu6"), call.x.name, 0.0, 6.0))


def hardtanh(call: Call, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> Value:
    """Between two limits."""
    return call.add(Clip(call.named("hardtanh"), call.x.name, float(min_val), float(max_val)))


def alias(call: Call, memory_format: object = None) -> Value:
    """The value itself."""
    return call.x


def dropout(call: Call, p: float = 0.5, training: bool = True, inplace: bool = False) -> Value:
    """Nothing, outside of training."""
    if training:
        raise call.refuse("`dropout` that drops in eval mode (training=self.training is missing)")
    return call.x


def flatten(call: Call, start_dim: int = 0, end_dim: int = -1) -> Value:
    """[C, H, W] to [K]."""
    if start_dim != 1:
        raise call.refuse(f"flatten from axis {start_dim}")
    if end_dim not in (-1, len(call.shape)):
        raise call.refuse(f"flatten to axis {end_dim}")
    return replace(call.x, flat=True)


def view(call: Call, *sizes: Any) -> Value:
    """Flattening by sizes."""
    wanted = sizes[0] if len(sizes) == 1 and isinstance(sizes[0], tuple | list) else sizes
    size = int(np.prod(call.shape))
    if len(wanted) != 2 or not ((wanted[0] is BATCH and wanted[1] in (-1, size)) or (wanted[0] == -1 and wanted[1] == size)):
        raise call.refuse(f"view to {wanted}")
    return replace(call.x, flat=True)


def mean(call: Call, dim: Any = None, keepdim: bool = False, *, dtype: object = None) -> Value:
    """Mean over all pixels."""
    if not isinstance(dim, tuple | list) or len(call.shape) != 3 or sorted(a % 4 for a in dim) != [2, 3] or dtype is not None:
        raise call.refuse(f"mean over axes {dim}")
    return call.builder.add(GlobalAveragePool(call.named("avgpool"), call.x.name), flat=not keepdim)


def average_pool(
    call: Call,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: Any = None,
) -> Value:
    """Mean over all pixels, where the kernel is as large as the image."""
    if divisor_override is not None:
        raise call.refuse(f"average pooling with divisor_override={divisor_override}")
    if padding not in (0, (0, 0), [0, 0]) or not is_window(kernel_size) or pair(kernel_size) != call.shape[1:]:
        raise call.refuse(f"average pooling that leaves more than one pixel {call.describe()}")
    return call.add(GlobalAveragePool(call.named("avgpool"), call.x.name))


def adaptive_average_pool(call: Call, output_size: Any) -> Value:
    """Mean over all pixels, or over each alone: then the value itself."""
    if tuple(pair(output_size)) == call.shape[1:]:
        return call.x
    if output_size not in (1, (1, 1), [1, 1]):
        raise call.refuse(f"average pooling that leaves more than one pixel ({output_size})")
    return call.add(GlobalAveragePool(call.named("avgpool"), call.x.name))


def is_window(size: Any) -> bool:
    """Whether an argument is one or two plain integers."""
    sizes = size if isinstance(size, Sequence) else (size,)
    return len(sizes) in (1, 2) and all(isinstance(s, int) for s in sizes)


def max_pool(
    call: Call,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Value:
    """Sliding maximum."""
    if ceil_mode or return_indices or pair(dilation) != (1, 1):
        raise call.refuse("max_pool2d with ceil_mode, dilation or return_indices")
    if not all(is_window(s) for s in (kernel_size, stride or 1, padding)):
        raise call.refuse(f"`max_pool2d` of {call.describe()}")
    return add_max_pool(call, call.named("maxpool"), kernel_size, stride, padding)


def add_max_pool(call: Call, name: str, kernel: Any, stride: Any, padding: Any) -> Value:
    """A `MaxPool` of torch's arguments; without a stride it is the kernel's size."""
    py, px = pair(padding)
    size = pair(kernel)
    return call.add(MaxPool(name, call.x.name, size, pair(stride) if stride else size, (py, px, py, px)))


def subsample(call: Call, index: Any) -> Value:
    """x[:, :, ::2, ::2]."""
    cuts = index if isinstance(index, tuple) else (index,)
    if not all(isinstance(c, slice) and c.start in (None, 0) and c.stop is None for c in cuts):
        raise call.refuse(f"indexing by {cuts}")
    steps = [c.step or 1 for c in cuts] + [1] * (4 - len(cuts))
    if steps[:2] != [1, 1]:
        raise call.refuse(f"indexing by {cuts}")
    return call.add(PadShortcut(call.named("shortcut"), call.x.name, (steps[2], steps[3]), 0, 0))


def pad(call: Call, pad: Any, mode: str = "constant", value: float | None = None) -> Value:
    """Zero channels around."""
    pads = [*pad, 0, 0, 0, 0, 0, 0]
    if any(pads[:4]) or any(pads[6:]) or mode != "constant" or value not in (None, 0):
        raise call.refuse(f"pad by {call.describe()}")
    last = call.builder.nodes[-1] if call.builder.nodes else None
    # Behind a subsampling it is the second half of one shortcut, which has the first one's name.
    kind = "shortcut.pad" if isinstance(last, PadShortcut) and last.name == call.x.name else "shortcut"
    return call.add(PadShortcut(call.named(kind), call.x.name, (1, 1), pads[4], pads[5]))


FUNCTIONS: dict[str, Callable[..., Value]] = {
    **dict.fromkeys(("add", "add_", "iadd"), add),
    **dict.fromkeys(("relu", "relu_"), relu),
    "relu6": relu6,
    "hardtanh": hardtanh,
    **dict.fromkeys(("contiguous", "float", "clone"), alias),
    "dropout": dropout,
    "flatten": flatten,
    **dict.fromkeys(("view", "reshape"), view),
    "mean": mean,
    "avg_pool2d": average_pool,
    "adaptive_avg_pool2d": adaptive_average_pool,
    **dict.fromkeys(("max_pool2d", "boolean_dispatch"), max_pool),
    "getitem": subsample,
    "pad": pad,
}
"""Name of a function, an operator or a method to its reader."""
COPIES = ("clone",)
"""Those whose result is the value itself, in memory of its own."""
SIZES: dict[str, Callable[..., Any]] = {
    name: getattr(operator, name) for name in ("getitem", "add", "sub", "mul", "floordiv", "mod", "neg")
}
"""Name of a function on sizes to what computes it."""
