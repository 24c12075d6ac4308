"""Calls of one session from several threads are in the kernels together, and one that ends early leaves nothing behind."""

import os
import subprocess
import sys
import threading
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from bitplane.runtime import InferenceSession, SessionOptions
from bitplane.runtime.errors import ResourceError
from bitplane.runtime.execute import threads
from bitplane.runtime.execute.threads import Part

MODEL = Path(__file__).resolve().parents[2] / "fixtures" / "format-1" / "ternary2.onnx"
LIMIT = 60
"""Seconds after which a test that waits for another thread gives up; none of them waits when it passes."""


@pytest.fixture
def shared(graphs, monkeypatch):
    """A session whose three threads divide every image, images, and their logits by a session of one thread."""
    monkeypatch.setattr("bitplane.runtime.session.SHARED_STEP_WORK", 0)
    builder = graphs.resnet(8, "Ternary", 2, 16, blocks=1)
    data, images = builder.model().SerializeToString(), builder.images(1)
    return InferenceSession(data, threads=3), images, InferenceSession(data).run(None, {"input": images})[0]


def test_two_calls_are_in_the_kernels_at_the_same_time():
    session, images = InferenceSession(MODEL), np.zeros((1, 3, 32, 32), np.uint8)
    expected = session.run(None, {"input": images})[0]
    both, run_plan = threading.Barrier(2), session._run_plan

    def meet(*arguments):
        both.wait(LIMIT)  # raises if the other call waits for this one to end
        run_plan(*arguments)
        both.wait(LIMIT)

    session._run_plan = session._idle[0]._run_plan = meet
    with ThreadPoolExecutor(2) as pool:
        for found in pool.map(lambda x: session.run(None, {"input": x})[0], [images] * 2):
            np.testing.assert_array_equal(found, expected)
    assert len(session._idle) == 2


def test_a_kernel_that_waits_lets_other_python_threads_run():
    session = InferenceSession(MODEL, threads=2)
    executor, images, logits = session._idle[0], np.zeros((1, 3, 32, 32), np.uint8), np.zeros((1, 10), np.float32)
    parts = [executor._call(images, logits, Part(0, 0, 1, part, 2)) for part in (0, 1)]
    waiting = threading.Thread(target=executor._run_plan, args=parts[1])  # part 1 of 2 spins for part 0
    waiting.start()
    executor._run_plan(*parts[0])  # is never reached if the GIL is held there
    waiting.join()
    np.testing.assert_array_equal(logits, session.run(None, {"input": images})[0])


def helpers():
    """The threads that help sessions of this process."""
    return {thread for thread, frame in sys._current_frames().items() if "_serve" in functions(frame)}


def functions(frame):
    """The names of a stack's functions."""
    while frame is not None:
        yield frame.f_code.co_name
        frame = frame.f_back


def wait_for(reached):
    """Wait until `reached()` holds."""
    end = time.monotonic() + LIMIT
    while not reached():
        assert time.monotonic() < end
        time.sleep(0.001)


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
@pytest.mark.parametrize("failing", [0, 2])
def test_an_interrupted_call_ends_its_other_parts_and_the_next_call_is_right(shared, error, failing):
    session, images, expected = shared
    others = helpers()
    session.run(None, {"input": images})
    (executor,) = session._idle
    first, call = helpers() - others, executor._call
    assert len(first) == 2

    def interrupted(x, logits, part, helpers=0):
        if part.number == failing:
            raise error
        return call(x, logits, part, helpers)

    executor._call = interrupted
    with pytest.raises(ResourceError if error is MemoryError else error):
        session.run(None, {"input": images})
    assert session._idle == []  # its memory is not used again
    wait_for(lambda: not first & helpers())  # nobody waits for what will not come
    np.testing.assert_array_equal(session.run(None, {"input": images})[0], expected)


class InterruptedAt:
    """An interrupt at the n-th opcode that this thread runs in some files; `reached` says whether it came."""

    def __init__(self, n, *files):
        self.left, self.reached, self.files = n, False, files

    def __call__(self, frame, event, _):
        if not frame.f_code.co_filename.endswith(self.files):
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            self.left -= 1
            if self.left == 0:
                self.reached = True
                raise KeyboardInterrupt
        return self


def test_an_interrupt_at_any_point_of_a_session_leaves_no_thread_and_no_wrong_memory_behind(shared):
    session, images, expected = shared
    others, points = helpers(), 0
    while True:
        points += 1
        interrupt = InterruptedAt(points, "execute/threads.py", "runtime/session.py")
        tracing = sys.gettrace()
        try:
            sys.settrace(interrupt)
            session.run(None, {"input": images})
        except KeyboardInterrupt:
            pass
        finally:
            sys.settrace(tracing)
        np.testing.assert_array_equal(session.run(None, {"input": images})[0], expected)
        session._idle.clear()
        if not interrupt.reached:
            break
    assert points > 300  # every opcode of a call that starts its threads
    wait_for(lambda: not helpers() - others)


def test_a_thread_that_cannot_be_started_ends_the_call(shared, monkeypatch):
    session, images, expected = shared
    others, start = helpers(), threads._thread.start_new_thread
    started = []

    def exhausted(function, arguments):
        if started:
            raise RuntimeError("can't start new thread")
        started.append(start(function, arguments))

    with monkeypatch.context() as m:
        m.setattr(threads._thread, "start_new_thread", exhausted)
        with pytest.raises(ResourceError, match="can't start"):
            session.run(None, {"input": images})
    np.testing.assert_array_equal(session.run(None, {"input": images})[0], expected)
    wait_for(lambda: len(helpers() - others) == 2)  # the one that was started has ended


@pytest.mark.parametrize("spins", [True, False])
def test_helpers_that_look_and_helpers_that_sleep_do_their_part(shared, graphs, monkeypatch, spins):
    monkeypatch.setattr("bitplane.runtime.session.SHARED_STEP_WORK", 0)
    builder = graphs.resnet(8, "Ternary", 2, 16, blocks=1)
    session = InferenceSession(builder.model().SerializeToString(), SessionOptions(4, allow_spinning=spins))
    _, images, expected = shared
    batch = np.concatenate([images] * 5)
    for pause in (0, 0.0001, 0.0005, 0.001, 0.01) * 20:  # around the moment at which they go to sleep
        np.testing.assert_array_equal(session.run(None, {"input": images})[0], expected)
        time.sleep(pause)
        np.testing.assert_array_equal(session.run(None, {"input": batch})[0], np.concatenate([expected] * 5))
        np.testing.assert_array_equal(session.run(None, {"input": batch[:2]})[0], np.concatenate([expected] * 2))


def test_the_threads_of_a_session_end_with_it(shared):
    session, images, expected = shared
    others = helpers()
    session.run(None, {"input": images})
    assert len(helpers() - others) == 2
    (executor,) = session._idle
    del executor
    session._idle.clear()
    wait_for(lambda: not helpers() - others)
    np.testing.assert_array_equal(session.run(None, {"input": images})[0], expected)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_process_starts_threads_of_its_own():
    code = """
import os, sys
import numpy as np
from bitplane.runtime import InferenceSession, SessionOptions
from bitplane.runtime.execute.threads import Part
session, images = InferenceSession(sys.argv[1], threads=2), np.arange(4 * 3072, dtype=np.uint8).reshape(4, 3, 32, 32)
expected = session.run(None, {"input": images})[0]
child = os.fork()
if child == 0:
    os._exit(0 if np.array_equal(session.run(None, {"input": images})[0], expected) else 1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", code, str(MODEL)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT)
    assert done.returncode == 0, done.stderr


def test_a_call_allocates_nothing_but_its_logits():
    session, images = InferenceSession(MODEL), np.zeros((16, 3, 32, 32), np.uint8)
    session.run(None, {"input": images})
    tracemalloc.start()
    try:
        session.run(None, {"input": images})
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        logits = session.run(None, {"input": images})[0]
        peak = tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
    # Less than one row of one image: the objects of a Python call, and the logits.
    assert peak - logits.nbytes < 4096
