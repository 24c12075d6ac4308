"""Whole networks give onnxruntime's codes and features exactly, and its logits to 1e-5."""

import pytest


@pytest.mark.parametrize("kind", ["Binary", "Ternary", "Quaternary"])
@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_cifar_resnet_equals_onnxruntime(graphs, check, kind, bits):
    check(graphs.resnet(3, kind, bits, 16, blocks=2), count=2)
