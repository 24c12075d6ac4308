"""Whole networks give onnxruntime's codes and features exactly, and its logits to 1e-5."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from bitplane.runtime import InferenceSession


@pytest.mark.parametrize("kind", ["Binary", "Ternary", "Quaternary"])
@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_cifar_resnet_equals_onnxruntime(graphs, check, kind, bits):
    check(graphs.resnet(3, kind, bits, 32, blocks=2))


@pytest.mark.parametrize("kind", ["Binary", "Quaternary"])
def test_reactnet_equals_onnxruntime(graphs, check, kind):
    session = check(graphs.resnet(3, kind, 1, 16, blocks=2, react=True))
    alone = [name for name in session.kernels().values() if name.startswith("elementwise")]
    assert not alone  # slopes and thresholds are part of the convolutions' epilogues


@pytest.mark.parametrize(("kind", "bits"), [("Binary", 1), ("Ternary", 2)])
def test_imagenet_resnet_equals_onnxruntime(graphs, check, kind, bits):
    check(graphs.resnet(4, kind, bits, 64, (64, 128, 256), 1, "B", 7, pool=True), count=1)


@pytest.mark.parametrize("bits", [1, 2])
def test_projection_shortcut_equals_onnxruntime(graphs, check, bits):
    check(graphs.resnet(5, "Ternary", bits, 8, blocks=1, shortcut="B"))


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("count", [0, 1, 2, 5])
def test_results_do_not_depend_on_threads_or_batch(graphs, threads, count):
    builder = graphs.resnet(6, "Ternary", 2, 16, blocks=1)
    data = builder.model().SerializeToString()
    images = builder.images(count)
    alone = InferenceSession(data)
    expected = [alone.run(None, {"input": image[None]})[0][0] for image in images]
    found = InferenceSession(data, threads=threads).run(None, {"input": images})[0]
    assert found.shape == (count, 10)
    np.testing.assert_array_equal(found, np.array(expected, np.float32).reshape(count, 10))


@pytest.mark.parametrize("threads", [2, 3])
def test_threads_that_share_one_image_give_the_same_bits(graphs, monkeypatch, threads):
    monkeypatch.setattr("bitplane.runtime.session.SHARED_STEP_WORK", 0)
    builder = graphs.resnet(7, "Quaternary", 2, 16, (16, 64), 1, "B", 7, pool=True)
    data = builder.model().SerializeToString()
    images = builder.images(1)
    shared = InferenceSession(data, threads=threads)
    expected = InferenceSession(data).run(None, {"input": images})[0]
    for _ in range(20):
        np.testing.assert_array_equal(shared.run(None, {"input": images})[0], expected)


def test_calls_from_several_threads_do_not_disturb_each_other(graphs):
    builder = graphs.resnet(8, "Ternary", 2, 32, blocks=1)
    session = InferenceSession(builder.model().SerializeToString())
    images = [builder.images(1) for _ in range(32)]
    expected = [session.run(None, {"input": x})[0] for x in images]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda x: session.run(None, {"input": x})[0], images * 4))
    np.testing.assert_array_equal(np.concatenate(found), np.concatenate(expected * 4))


def test_calls_that_share_an_image_among_threads_run_at_once_without_waiting_for_each_other(graphs, monkeypatch):
    monkeypatch.setattr("bitplane.runtime.session.SHARED_STEP_WORK", 0)  # every image is divided, at barriers
    builder = graphs.resnet(8, "Ternary", 2, 32, blocks=1)
    model = builder.model().SerializeToString()
    session, images = InferenceSession(model, threads=3), [builder.images(1) for _ in range(16)]
    expected = [InferenceSession(model).run(None, {"input": x})[0] for x in images]
    with ThreadPoolExecutor(5) as pool:
        found = list(pool.map(lambda x: session.run(None, {"input": x})[0], images * 4))
    np.testing.assert_array_equal(np.concatenate(found), np.concatenate(expected * 4))
    assert 1 <= len(session._idle) <= 5


def test_a_call_that_was_served_before_makes_no_new_memory(graphs):
    builder = graphs.resnet(8, "Ternary", 2, 32, blocks=1)
    session, images = InferenceSession(builder.model().SerializeToString(), threads=2), builder.images(4)
    session.run(None, {"input": images})
    (executor,) = session._idle
    arenas = [a.ctypes.data for a in executor._arenas]
    session.run(None, {"input": images})
    assert session._idle == [executor]
    assert [a.ctypes.data for a in executor._arenas] == arenas
