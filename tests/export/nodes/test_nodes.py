"""Every node type of the network: its shape and its value are those of the file that it writes, in every form."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from bitplane.export.evaluate import evaluate
from bitplane.export.network import Node, make_network
from bitplane.export.nodes import node_types
from bitplane.export.nodes.add import Add
from bitplane.export.nodes.affine import Affine
from bitplane.export.nodes.clip import Clip
from bitplane.export.nodes.conv import Conv
from bitplane.export.nodes.flatten import Flatten
from bitplane.export.nodes.global_average_pool import GlobalAveragePool
from bitplane.export.nodes.kept import Kept
from bitplane.export.nodes.max_pool import MaxPool
from bitplane.export.nodes.normalize import Normalize
from bitplane.export.nodes.pad_shortcut import PadShortcut
from bitplane.export.nodes.prelu import PRelu
from bitplane.export.nodes.quantize import Quantize
from bitplane.export.nodes.relu import Relu
from bitplane.export.nodes.sign import Sign
from bitplane.export.nodes.weight import Weight
from bitplane.export.qonnx import runnable
from bitplane.export.write.forms import FORMS, write_model

RNG = np.random.default_rng(0)
WEIGHT = RNG.normal(size=(5, 4, 3, 2))
EXAMPLES: dict[str, list[Node]] = {
    "Add": [Relu("r", "input"), Add("y", "r", "input")],
    "Conv": [Conv("y", "input", Weight(WEIGHT), np.arange(5.0), (2, 1), (1, 0, 2, 1), pad_value=-0.5)],
    "Flatten": [Flatten("y", "input")],
    "GlobalAveragePool": [GlobalAveragePool("y", "input")],
    "Kept": [Kept("y", ("input",), onnx.helper.make_node("Selu", ["a"], ["b"]), {}, (4, 6, 7))],
    "MaxPool": [MaxPool("y", "input", (3, 2), (2, 1), (1, 0, 1, 1))],
    "Normalize": [Normalize("y", "input", np.arange(4.0), 1 + np.arange(4.0))],
    "PadShortcut": [PadShortcut("y", "input", (2, 3), 1, 2)],
    "PRelu": [PRelu("y", "input", RNG.normal(size=4))],
    "Quantize": [Quantize("y", "input", 0.25, 7, -8)],
    "Relu": [Relu("y", "input")],
    "Clip": [Clip("y", "input", -0.4, 0.7)],
    "Sign": [Sign("y", "input", 0.5, RNG.normal(size=4))],
}
"""A network of the node type, on [4, 6, 7]."""


def test_every_node_type_has_an_example() -> None:
    assert set(EXAMPLES) == set(node_types()) - {Affine.__name__}  # no file holds one: `passes/fold` leaves none


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", EXAMPLES)
def test_a_node_computes_what_onnxruntime_computes_on_what_it_writes(kind: str, form) -> None:
    pixels = kind == "Normalize"
    network = make_network("net", EXAMPLES[kind], (4, 6, 7), pixels, "y")
    x = RNG.integers(0, 256, (2, 4, 6, 7)).astype(np.uint8) if pixels else RNG.normal(size=(2, 4, 6, 7)).astype(np.float32)
    expected: list[torch.Tensor] = []
    evaluate(network, torch.from_numpy(x), visit=lambda node, value: expected.append(value))
    assert expected[-1].shape[1:] == network.shapes["y"]
    file, _ = write_model(network, form)
    session = onnxruntime.InferenceSession((runnable(file) if form == "qonnx" else file).SerializeToString())
    (found,) = session.run(None, {"input": x.astype(np.float32) if form == "qonnx" else x})
    np.testing.assert_allclose(found, expected[-1].numpy(), rtol=1e-5, atol=1e-5)
