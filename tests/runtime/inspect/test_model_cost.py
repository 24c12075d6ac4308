"""The cost of a network is a number of the file and a named processor, not of this machine, and near what callgrind counts."""

import json
from pathlib import Path

import pytest

from bitplane.runtime import InferenceSession, InputError, model_cost
from bitplane.runtime.kernels.target import CPUS

ROOT = Path(__file__).resolve().parents[3]
FIXTURES = ROOT / "tests" / "fixtures"
COUNTED = json.loads((ROOT / "tests" / "benchmarks" / "instructions.json").read_text())[
    "instructions"
]  # by callgrind, for Haswell
GOLDEN = {  # (file, processor): multiply-adds, bytes, instructions
    ("format-1/ternary2.onnx", "generic"): (40_551_040, 1_035_988, 7_978_048),
    ("format-1/ternary2.onnx", "neon"): (40_551_040, 1_035_988, 4_531_264),
    ("format-1/ternary2.onnx", "avx2"): (40_551_040, 1_096_276, 3_563_520),
    ("format-1/ternary2.onnx", "avx512"): (40_551_040, 1_540_540, 1_535_552),
    ("format-1/ternary2.onnx", "avx512-vpopcntdq"): (40_551_040, 1_039_732, 815_392),
    ("format-1.1/every-operator.onnx", "generic"): (459_040, 241_016, 459_541),
    ("format-1.1/every-operator.onnx", "neon"): (459_040, 241_016, 459_541),
    ("format-1.1/every-operator.onnx", "avx2"): (459_040, 241_016, 422_453),
    ("format-1.1/every-operator.onnx", "avx512"): (459_040, 241_016, 203_859),
    ("format-1.1/every-operator.onnx", "avx512-vpopcntdq"): (459_040, 241_016, 203_859),
}


@pytest.mark.parametrize(("name", "cpu"), GOLDEN)
def test_the_cost_of_a_file_is_the_same_on_every_machine(name, cpu):
    found = model_cost(FIXTURES / name, cpu)
    assert (found.multiply_adds, found.bytes_moved, found.instructions) == GOLDEN[name, cpu]


@pytest.mark.parametrize("file", COUNTED)
def test_modeled_instructions_are_near_the_counted_ones(file):
    assert model_cost(ROOT / file, "avx2").instructions == pytest.approx(COUNTED[file], rel=0.15)


@pytest.mark.parametrize("cpu", CPUS)
@pytest.mark.parametrize("kind", ["Binary", "Ternary", "Quaternary"])
@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_every_processor_has_a_plan_and_its_work_is_the_networks(graphs, cpu, kind, bits):
    data = graphs.resnet(4, kind, bits, 32, (16, 64), 1, "B", 7, pool=True).model().SerializeToString()
    layers = {layer.name: layer for layer in InferenceSession(data).layers()}
    found = model_cost(data, cpu)
    assert found.cpu == cpu
    assert {s.name: s.multiply_adds for s in found.steps if s.multiply_adds} == {n: x.multiply_adds for n, x in layers.items()}
    assert found.multiply_adds == sum(x.multiply_adds for x in layers.values())
    assert all(s.bytes_moved > 0 < s.instructions for s in found.steps)


def test_bytes_are_those_of_the_values_and_weights():
    steps = {s.name: s.bytes_moved for s in model_cost(FIXTURES / "format-1" / "binary1.onnx").steps}
    assert steps["input"] == 2 * 3 * 32 * 32  # pixels in, pixels out
    assert steps["fc"] == 4 * (8 * 8 * 64 + 64 * 16 + 2 * 10)  # features, weights of 16 classes, bias and logits


@pytest.mark.parametrize(
    ("cpu", "bits", "kernel"),
    [
        ("avx2", 1, "popcount"),
        ("avx2", 2, "look-up"),
        ("avx2", 4, "dot"),
        ("avx512-vpopcntdq", 4, "popcount"),
        ("avx512-vpopcntdq", 8, "dot"),
        ("neon", 1, "popcount"),
    ],
)
def test_the_products_are_those_the_processor_would_take(graphs, cpu, bits, kernel):
    data = graphs.resnet(4, "Ternary", bits, 16, (64,), 1).model().SerializeToString()
    _, *steps = (
        s for s in model_cost(data, cpu).steps if s.kernel.startswith(("popcount", "dot", "look-up"))
    )  # the first is of pixels
    assert {s.kernel.split()[0] for s in steps} == {kernel}


def test_an_unknown_processor_is_refused():
    with pytest.raises(InputError, match="cpu 'z80' is unknown, expected one of generic, neon, avx2, avx512, avx512-vpopcntdq"):
        model_cost(FIXTURES / "format-1" / "binary1.onnx", "z80")
