"""A user's own level sets go through every form: packed, dequantized and QONNX mean the same network."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from bitplane.export import export_file, to_onnx
from bitplane.export.qonnx import runnable
from bitplane.format.levels import LevelSet, level_set
from bitplane.runtime import InferenceSession
from bitplane.train.level_sets import WEIGHT_LEVELS, register_level_set

SETS = {
    "uniform4": (level_set("uniform4", [-1, -1 / 3, 1 / 3, 1]), "FourLevelConv", [1, 3]),
    "wide": (level_set("wide", [-3, -1, 1, 3]), "FourLevelConv", [1, 3]),
    "quarter": (level_set("quarter", [-1, -0.25, 0.25, 1]), "FourLevelConv", [1, 4]),
    "tenths": (level_set("tenths", [-2, -0.6, 0.6, 2]), "QuaternaryConv", None),
    "half": (level_set("half", [-0.75, 0.75]), "BinaryConv", None),
    "doubled": (level_set("doubled", [-2, 0, 2]), "TernaryConv", None),
    "five": (LevelSet("five", (-4, -2, 0, 2, 4), 4, 1.6), "Conv", None),
    "by hand": (LevelSet("by hand", (-6, -2, 2, 6), 6, 1.5), "FourLevelConv", [1, 3]),
}


@pytest.fixture(autouse=True)
def registered():
    before = dict(WEIGHT_LEVELS)
    for name, (levels, _, _) in SETS.items():
        WEIGHT_LEVELS[name] = levels  # "by hand" has a space, which `register_level_set` refuses
    yield
    WEIGHT_LEVELS.clear()
    WEIGHT_LEVELS.update(before)


@pytest.mark.parametrize(("name", "activations"), [*zip(SETS, [2, 4, 8] * 3, strict=False), ("uniform4", 1), ("doubled", 1)])
def test_every_form_of_a_network_gives_the_same_logits(make_network, tmp_path, name, activations) -> None:
    _, operator, levels = SETS[name]
    model, samples = make_network(samples=8, weights=name, activations=activations, shortcut="B")
    to_onnx(model, samples, tmp_path / "packed.onnx")
    file = onnx.load(tmp_path / "packed.onnx")
    layers = [n for n in file.graph.node if n.name.startswith("layer") and n.op_type.endswith("Conv")]
    assert {n.op_type for n in layers} == {operator}
    found = {tuple(a.ints) for n in layers for a in n.attribute if a.name == "levels"}
    assert found == ({tuple(levels)} if levels else set())
    meta = {p.key: p.value for p in file.metadata_props}
    assert meta["bitplane.level_set"] == (name if operator != "Conv" else "float")
    assert meta["bitplane.format_version"] == "1.4"
    for form in ("dequantized", "qonnx"):
        to_onnx(model, samples, tmp_path / f"{form}.onnx", form=form)
    feeds = {"input": samples.numpy()}
    packed = InferenceSession(tmp_path / "packed.onnx").run(None, feeds)[0]
    others = {}
    others["onnxruntime"] = onnxruntime.InferenceSession(tmp_path / "packed.onnx").run(None, feeds)[0]
    for form in ("dequantized", "qonnx"):
        made = runnable(onnx.load(tmp_path / f"{form}.onnx"))
        session = onnxruntime.InferenceSession(made.SerializeToString())
        kind = session.get_inputs()[0].type
        given = samples.numpy().astype(np.float32) if kind == "tensor(float)" else samples.numpy()
        others[form] = session.run(None, {"input": given})[0]
    scale = np.abs(packed).max() + 1
    for form, logits in others.items():
        same = np.abs(logits - packed).max(1) <= 2e-5 * scale
        assert same.mean() >= (1 if form == "onnxruntime" else 0.7), form  # a float sum may round to another code


def test_levels_beyond_eight_bits_are_exported_as_floats(make_network, tmp_path) -> None:
    WEIGHT_LEVELS["thousandths"] = LevelSet("thousandths", (-1000, -333, 333, 1000), 1000, 1.5)
    model, samples = make_network(samples=8, weights="thousandths", activations=32)
    to_onnx(model, samples, tmp_path / "float.onnx")
    found = onnxruntime.InferenceSession(tmp_path / "float.onnx").run(None, {"input": samples.numpy()})[0]
    with torch.no_grad():
        np.testing.assert_allclose(found, model(samples).numpy(), atol=1e-3)


def test_qonnx_of_four_levels_is_read_back_as_the_same_operators(make_network, tmp_path) -> None:
    model, samples = make_network(samples=16, weights="uniform4", activations=2)
    packed = to_onnx(model, samples, tmp_path / "packed.onnx")
    to_onnx(model, samples, tmp_path / "q.onnx", form="qonnx")
    bits = {
        float(onnx.numpy_helper.to_array(t))
        for n in onnx.load(tmp_path / "q.onnx").graph.node
        if n.op_type == "Quant" and n.name.startswith("layer") and n.name.endswith("conv2.quant")
        for t in onnx.load(tmp_path / "q.onnx").graph.initializer
        if t.name == n.input[3]
    }
    assert bits == {3.0}  # -3 to 3
    back = export_file(tmp_path / "q.onnx", samples, tmp_path / "back.onnx", normalize=(0, 1))
    assert [(a.operator, a.bytes) for a in back.layers] == [(a.operator, a.bytes) for a in packed.layers]


def test_a_name_with_another_meaning_is_refused() -> None:
    for name in ("int8", "mixed", "float"):
        with pytest.raises(Exception, match=f"`weights` {name} is taken"):
            register_level_set(level_set(name, [-1, 1]))
