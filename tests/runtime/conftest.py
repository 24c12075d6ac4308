"""Fixtures of the runtime's tests."""

import importlib.util
from pathlib import Path

import numpy as np
import onnxruntime
import pytest


def load(name):
    """A module of this folder."""
    spec = importlib.util.spec_from_file_location(f"runtime_{name}", Path(__file__).with_name(f"{name}.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def pytest_addoption(parser):
    parser.addoption("--memory", choices=["after", "before", "poison"], help="run in the memory of guarded.py")
    parser.addoption("--shapes", help="tiles and plans of another processor (shapes.py), such as avx512-vpopcntdq")


def pytest_configure(config):
    if config.getoption("--shapes", default=None):
        load("shapes").install(config.getoption("--shapes"))  # before any test imports kernels
    if config.getoption("--memory", default=None):
        load("guarded").install(config.getoption("--memory"))


@pytest.fixture(scope="session")
def graphs():
    """The graph builder (`graphs.py` in this folder)."""
    return load("graphs")


def _oracle(builder, images):
    """Every value of a graph by onnxruntime."""
    names = [n for node in builder.nodes for n in node.output if n != "logits" and len(builder.shapes[n]) == 3]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(builder.model(names).SerializeToString(), options, ["CPUExecutionProvider"])
    return dict(zip(["logits", *names], session.run(["logits", *names], {"input": images}), strict=True))


@pytest.fixture(scope="session")
def check():
    """Compare every value of a graph with onnxruntime: codes and features exactly, logits to 1e-5."""
    from bitplane.runtime import InferenceSession  # not above: `--shapes` comes first

    def run(builder, count=2, threads=1):
        images = builder.images(count)
        expected = _oracle(builder, images)
        session = InferenceSession(builder.model().SerializeToString(), threads=threads)
        for merge in (True, False):
            found = session.trace({"input": images}, merge)
            for name, value in found.items():
                if name.startswith("globalaveragepool"):  # the order of its sums is not specified
                    np.testing.assert_allclose(value, expected[name], rtol=1e-5, atol=1e-5)
                elif name != "logits":
                    np.testing.assert_array_equal(value, expected[name], err_msg=f"{name}, merge={merge}", strict=True)
        assert set(expected) - set(found) <= {n for n in expected if expected[n].shape[2:] == (1, 1)}
        logits = session.run(None, {"input": images})[0]
        scale = np.abs(expected["logits"]).max() + 1
        np.testing.assert_allclose(logits / scale, expected["logits"] / scale, atol=1e-5, rtol=0)
        np.testing.assert_array_equal(logits, found["logits"])
        return session

    return run
