"""What people do with an onnxruntime session works with ours: the same calls on both, on one packed file."""

import threading
import warnings

import numpy as np
import onnxruntime
import pytest

from bitplane import runtime
from bitplane.runtime import InferenceSession, InputError, RunOptions, SessionOptions, process

BOTH = pytest.mark.parametrize("library", [onnxruntime, runtime], ids=["onnxruntime", "bitplane"])
LIMIT = 60
"""Seconds after which a test that waits for a thread gives up."""


@pytest.fixture(scope="module")
def data(graphs):
    model = graphs.resnet(1, "Ternary", 2, 8, (16,), 1).model()
    model.model_version, model.domain, model.doc_string = 7, "org.example", "what it is"
    model.graph.name, model.graph.doc_string = "resnet", "what the graph is"
    return model.SerializeToString()


@pytest.fixture(scope="module")
def images(graphs):
    return graphs.resnet(1, "Ternary", 2, 8, (16,), 1).images(3)


@pytest.fixture(scope="module")
def expected(data, images):
    return InferenceSession(data).run(None, {"input": images})[0]


def close(found, expected):
    np.testing.assert_allclose(found, expected, atol=1e-4, rtol=1e-4)


@BOTH
@pytest.mark.parametrize("names", [None, [], ["logits"]])
def test_no_names_and_an_empty_list_mean_all_outputs(library, data, images, expected, names):
    (found,) = library.InferenceSession(data, providers=["CPUExecutionProvider"]).run(names, {"input": images})
    close(found, expected)


@BOTH
def test_positional_options_providers_and_their_options(library, data, images, expected):
    options = library.SessionOptions()
    options.intra_op_num_threads = 2
    options.graph_optimization_level = library.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.execution_mode = library.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 3
    options.enable_mem_pattern = False
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"
    session = library.InferenceSession(data, options, ["CPUExecutionProvider"], [{}])
    close(session.run(None, {"input": images})[0], expected)
    assert session.get_session_options().intra_op_num_threads == 2
    assert list(session.get_provider_options()) == session.get_providers()
    assert set(session.get_providers()) <= set(library.get_available_providers())
    assert library.get_device() == "CPU"


@BOTH
def test_run_options_and_values(library, data, images, expected):
    session, options = library.InferenceSession(data, providers=["CPUExecutionProvider"]), library.RunOptions()
    options.log_severity_level, options.only_execute_path_to_fetches = 4, True
    options.add_run_config_entry("a", "b")
    value = library.OrtValue.ortvalue_from_numpy(images)
    assert (value.shape(), value.data_type(), value.device_name()) == ([3, 3, 8, 8], "tensor(uint8)", "cpu")
    assert value.is_tensor()
    assert value.has_value()
    (found,) = session.run_with_ort_values(["logits"], {"input": value}, options)
    assert (found.shape(), found.data_type()) == ([3, 10], "tensor(float)")
    close(found.numpy(), expected)


@BOTH
def test_a_value_is_updated_in_place(library, images):
    value = library.OrtValue.ortvalue_from_shape_and_type(images.shape, np.uint8)
    value.update_inplace(images)
    np.testing.assert_array_equal(value.numpy(), images)


@BOTH
def test_bound_inputs_and_outputs(library, data, images, expected):
    session = library.InferenceSession(data, providers=["CPUExecutionProvider"])
    binding, target = session.io_binding(), np.zeros((3, 10), np.float32)
    binding.bind_cpu_input("input", images)
    binding.bind_output("logits")
    session.run_with_iobinding(binding)
    close(binding.copy_outputs_to_cpu()[0], expected)
    close(binding.get_outputs()[0].numpy(), expected)
    binding.clear_binding_inputs()
    binding.clear_binding_outputs()
    binding.bind_input("input", "cpu", 0, np.uint8, images.shape, images.ctypes.data)
    binding.bind_output("logits", "cpu", 0, np.float32, target.shape, target.ctypes.data)
    session.run_with_iobinding(binding)
    close(target, expected)


@BOTH
def test_a_bound_value_holds_the_result(library, data, images, expected):
    session = library.InferenceSession(data, providers=["CPUExecutionProvider"])
    binding, value = session.io_binding(), library.OrtValue.ortvalue_from_numpy(np.zeros((3, 10), np.float32))
    binding.bind_ortvalue_input("input", library.OrtValue.ortvalue_from_numpy(images))
    binding.bind_ortvalue_output("logits", value)
    session.run_with_iobinding(binding)
    close(value.numpy(), expected)


@BOTH
def test_an_asynchronous_run_calls_back(library, data, images, expected):
    options = library.SessionOptions()
    options.intra_op_num_threads = 2  # onnxruntime's own condition
    session, done, given = library.InferenceSession(data, options, ["CPUExecutionProvider"]), threading.Event(), []

    def callback(results, user_data, error):
        given.extend([results, user_data, error])
        done.set()

    session.run_async(["logits"], {"input": images}, callback, "mine")
    assert done.wait(LIMIT)
    results, user_data, error = given
    assert (user_data, error) == ("mine", "")
    close(results[0], expected)


def test_an_error_of_an_asynchronous_run_is_given_to_its_callback(data):
    done, given = threading.Event(), []
    InferenceSession(data).run_async(None, {}, lambda *all_of_it: (given.extend(all_of_it), done.set()))
    assert done.wait(LIMIT)
    assert given[0] == []
    assert "[] were given" in given[2]


@BOTH
def test_what_the_file_says_of_itself(library, data):
    meta = library.InferenceSession(data, providers=["CPUExecutionProvider"]).get_modelmeta()
    assert (meta.version, meta.domain, meta.description) == (7, "org.example", "what it is")
    assert (meta.graph_name, meta.graph_description) == ("resnet", "what the graph is")
    assert meta.custom_metadata_map["bitplane.format_version"] == "1"


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_the_file_as_any_kind_of_bytes(data, images, expected, kind):
    np.testing.assert_array_equal(InferenceSession(kind(data)).run(None, {"input": images})[0], expected)


def test_options_of_onnxruntime_itself_are_taken(data, images, expected):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.enable_profiling = 3, True
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = InferenceSession(data, options)
    found = session.get_session_options()
    assert (found.intra_op_num_threads, found.enable_profiling, found.allow_spinning) == (3, True, False)
    np.testing.assert_array_equal(session.run(None, {"input": images})[0], expected)


@pytest.mark.parametrize("options", [SessionOptions, RunOptions])
def test_a_misspelled_option_is_refused(options):
    with pytest.raises(InputError, match=r"has no option 'intra_op_num_thread'; known are .*log_severity_level"):
        options().intra_op_num_thread = 2


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (4, "sess_options is int, expected SessionOptions"),
        (SessionOptions(optimized_model_filepath="x.onnx"), "optimized_model_filepath is not supported"),
        (SessionOptions(intra_op_num_threads=-1), "threads is -1, expected an integer of at least 0"),
        (SessionOptions(intra_op_num_threads=2.0), "threads is 2.0"),
    ],
)
def test_options_that_cannot_be_used_are_refused(data, options, words):
    with pytest.raises(InputError, match=words):
        InferenceSession(data, options)


def test_custom_operators_are_refused():
    with pytest.raises(InputError, match="custom operators"):
        SessionOptions().register_custom_ops_library("lib.so")


def test_an_unknown_provider_gives_a_warning_and_runs_all_the_same(data, images, expected):
    with pytest.warns(UserWarning, match=r"'CUDAExecutionProvider' is not available") as seen:
        session = InferenceSession(data, providers=[("CUDAExecutionProvider", {"device_id": 0}), "CPUExecutionProvider"])
    assert len(seen) == 1
    assert seen[0].filename == __file__
    np.testing.assert_array_equal(session.run(None, {"input": images})[0], expected)


@pytest.mark.parametrize(
    ("providers", "options", "words"),
    [
        ("CPUExecutionProvider", None, "expected a list"),
        ([3], None, "providers holds 3"),
        (["CPUExecutionProvider"], [{}, {}], "2 entries for 1"),
    ],
)
def test_providers_of_another_kind_are_refused(data, providers, options, words):
    with pytest.raises(InputError, match=words):
        InferenceSession(data, None, providers, options)


def test_a_run_that_is_asked_to_end_is_refused(data, images):
    with pytest.raises(InputError, match="asked to terminate"):
        InferenceSession(data).run(None, {"input": images}, RunOptions(terminate=True))


@pytest.mark.parametrize(
    ("action", "words"),
    [
        (lambda b: b.bind_output("probabilities"), r"the model has \['logits'\]"),
        (lambda b: b.bind_output("logits", "cuda"), "device 'cuda' does not exist"),
        (lambda b: b.bind_output("logits", buffer_ptr=64), "needs element_type and shape"),
    ],
)
def test_a_binding_that_cannot_be_is_refused(data, action, words):
    with pytest.raises(InputError, match=words):
        action(InferenceSession(data).io_binding())


def test_a_result_that_does_not_fit_its_place_is_refused(data, images):
    session = InferenceSession(data)
    binding = session.io_binding()
    binding.bind_cpu_input("input", images)
    with pytest.raises(InputError, match="no output is bound"):
        session.run_with_iobinding(binding)
    binding.bind_ortvalue_output("logits", runtime.OrtValue(np.zeros((2, 10), np.float32)))
    with pytest.raises(InputError, match=r"float32 \[3, 10\], but float32 \[2, 10\] is bound"):
        session.run_with_iobinding(binding)


@pytest.mark.parametrize(
    ("allowed", "limit", "count"),
    [
        ({0, 1, 2, 3}, "max 100000", 4),
        ({0}, "max 100000", 1),
        ({0, 1, 2, 3}, "150000 100000", 2),
        ({0, 1}, "20000 100000", 1),
        ({0, 1}, None, 2),
    ],
)
def test_zero_threads_are_the_processors_that_this_process_may_use(tmp_path, monkeypatch, allowed, limit, count):
    monkeypatch.setattr(process, "PROCESSOR_LIMIT", tmp_path / "cpu.max")
    monkeypatch.setattr(process.os, "sched_getaffinity", lambda _: allowed, raising=False)
    if limit is not None:
        (tmp_path / "cpu.max").write_text(limit + "\n")
    assert process.processors() == count


def test_a_session_of_zero_threads_has_one_for_each_of_them(data, monkeypatch):
    monkeypatch.setattr("bitplane.runtime.session.processors", lambda: 3)
    assert InferenceSession(data, threads=0)._threads == 3


def test_nothing_warns_where_all_is_known(data):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        InferenceSession(data, providers=["BitplaneExecutionProvider", "CPUExecutionProvider"])
