"""Profiles: the steps are those of the network, the logits those of an ordinary run."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from bitplane.runtime import InferenceSession, InputError, SessionOptions


def test_a_profile_names_every_step_and_computes_the_same_logits(graphs, tmp_path):
    builder = graphs.resnet(8, "Quaternary", 2, 16, blocks=2)
    model, images = builder.model().SerializeToString(), builder.images(3)
    options = SessionOptions(enable_profiling=True, profile_file_prefix=str(tmp_path / "p"))
    session = InferenceSession(model, options)
    plain = InferenceSession(model)
    for _ in range(2):
        np.testing.assert_array_equal(session.run(None, {"input": images})[0], plain.run(None, {"input": images})[0])
    steps = session.profiled()
    kernels = session.kernels()
    assert [s.name for s in steps if s.name in kernels] == list(kernels)
    assert {s.name: s.kernel for s in steps if s.name in kernels} == kernels
    work = {layer.name: layer.multiply_adds for layer in session.layers()}
    assert {s.name: s.multiply_adds for s in steps if s.multiply_adds} == work
    name = session.end_profiling()
    trace = json.loads((tmp_path / name).read_text())["traceEvents"]
    assert len(trace) == 2 * 3 * len(steps)
    assert [e["name"] for e in trace[: len(steps)]] == [s.name for s in steps]
    assert all(e["ph"] == "X" and e["dur"] >= 0 for e in trace)
    assert all(a["ts"] <= b["ts"] for a, b in pairwise(trace))
    with pytest.raises(InputError, match="profiling is off"):
        session.end_profiling()


def test_without_the_option_there_is_no_profile(graphs):
    session = InferenceSession(graphs.resnet(8, "Binary", 1, 16, blocks=1).model().SerializeToString())
    with pytest.raises(InputError, match="set `enable_profiling`"):
        session.profiled()


def test_calls_from_several_threads_are_profiled_together(graphs, tmp_path):
    builder = graphs.resnet(8, "Binary", 1, 16, blocks=1)
    options = SessionOptions(enable_profiling=True, profile_file_prefix=str(tmp_path / "p"))
    session = InferenceSession(builder.model().SerializeToString(), options)
    images, start = builder.images(2), threading.Barrier(3)

    def call():
        start.wait()
        return session.run(None, {"input": images})[0]

    with ThreadPoolExecutor(3) as pool:
        first, *others = [f.result() for f in [pool.submit(call) for _ in range(3)]]
    for found in others:
        np.testing.assert_array_equal(found, first)
    steps = session.profiled()
    trace = json.loads(Path(session.end_profiling()).read_text())["traceEvents"]
    assert len(trace) == 3 * 2 * len(steps)
    threads = {e["tid"] for e in trace}
    assert len(threads) == 3
    for thread in threads:  # on a thread, one step after the other
        own = [e for e in trace if e["tid"] == thread]
        assert [e["name"] for e in own] == 2 * [s.name for s in steps]
        assert all(a["ts"] + a["dur"] <= b["ts"] + 1e-3 for a, b in pairwise(own))
    session.run(None, {"input": images})  # goes on without a profile
