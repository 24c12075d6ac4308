"""torch: the float32 file's graph as a torch module (onnx2torch), channels-last, eager or compiled."""

import warnings
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
from torch import Tensor, nn
from torch.nn import functional

from bitplane.benchmarks.peers import Loaded, Purpose


class _Slice(nn.Module):
    """Slice with constant bounds."""

    def __init__(self, slices: dict[int, slice]) -> None:
        super().__init__()
        self.index = tuple(slices.get(axis, slice(None)) for axis in range(max(slices) + 1))

    def forward(self, x: Tensor) -> Tensor:
        return x[self.index]


class _Pad(nn.Module):
    """Pad with constant amounts, zeros."""

    def __init__(self, pads: list[int]) -> None:
        super().__init__()
        rank = len(pads) // 2
        self.pads = [p for axis in reversed(range(rank)) for p in (pads[axis], pads[axis + rank])]

    def forward(self, x: Tensor) -> Tensor:
        return functional.pad(x, self.pads)


def module(file: str) -> nn.Module:
    """The network of a float32 ONNX file of `bitplane export` as a torch module.

    onnx2torch knows Pad up to opset 13: without the newer input `axes` it is the same operator. Slices and pads, whose bounds
    onnx2torch reads from tensors at run time, get them as constants, so that torch.compile and torch.export see one graph.
    """
    import onnx2torch

    model = onnx.load(file)
    if all(len(n.input) < 4 for n in model.graph.node if n.op_type == "Pad"):
        model.opset_import[0].version = min(model.opset_import[0].version, 17)
    network = onnx2torch.convert(model).eval()
    constants = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    for node in model.graph.node:
        given = [constants[n] for n in node.input[1:] if n in constants]
        if node.op_type == "Slice":
            starts, ends, axes, *steps = (v.tolist() for v in given)
            bounds = zip(axes, starts, ends, *(steps or [[1] * len(axes)]), strict=True)
            _replace(network, node.name, _Slice({a: slice(s, e, t) for a, s, e, t in bounds}))
        elif node.op_type == "Pad":
            _replace(network, node.name, _Pad(given[0].tolist()))
    network.graph.eliminate_dead_code()
    network.recompile()
    return network


def _replace(network: Any, name: str, new: nn.Module) -> None:
    # In place of the module of an ONNX node, reading only that node's first input.
    target = name.replace(".", "/") if "." in name else name
    for call in network.graph.nodes:
        if call.op == "call_module" and call.target in (target, name):
            network.set_submodule(call.target, new) if "/" not in call.target else network.add_module(call.target, new)
            call.args = call.args[:1]


def load(file: str, threads: int, purpose: Purpose, variant: str = "") -> Loaded:
    """Build the module; compiled, by inductor with frozen weights."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(threads)
    network = module(file).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    settings = {"num_threads": str(threads), "memory_format": "channels_last", "graph": "onnx2torch"}
    call = network
    if variant == "compiled":
        import torch._inductor.config as inductor

        inductor.freezing = True
        call = torch.compile(network)
        settings["compile"] = "inductor, freezing"

    @torch.inference_mode()
    def run(x: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        images = torch.from_numpy(x).contiguous(memory_format=torch.channels_last)
        return call(images).numpy()

    return Loaded(run, torch.__version__, settings)
