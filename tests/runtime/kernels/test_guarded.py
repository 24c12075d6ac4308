"""No kernel touches memory outside a buffer: networks of every kind run where that would end the process."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parents[1]
MODULES = ("test_networks", "test_graphs", "test_float_layers", "kernels/test_kernels", "kernels/test_layers")
NETWORKS = [HERE / f"{name}.py" for name in MODULES]
FILES = [HERE.parent / "test_golden.py", HERE.parent / "test_examples.py"]

pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="mprotect is POSIX"),
    pytest.mark.skipif("config.getoption('--memory', default=None)", reason="runs inside"),
]


@pytest.mark.parametrize("mode", ["after", "before", "poison"])
def test_networks_of_every_kind_stay_inside_their_buffers(mode):
    # All of tests/runtime runs so in CI; here without the layers that come by the hundred.
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "--memory", mode]
    left_out = ("tile_exists", "register_loop", "random", "layer_equals", "stem_equals", "width")
    choice = ["-k", "not " + " and not ".join(left_out)]
    done = subprocess.run([*command, *choice, *NETWORKS, *FILES], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert " passed" in done.stdout


SABOTAGE = """
import sys
sys.path.insert(0, {here!r})
import guarded, graphs
from bitplane.runtime import InferenceSession
from bitplane.runtime.plan import memory
guarded.install({mode!r})
{change}
builder = graphs.resnet(1, "Ternary", 2, 32, (16, 64), 1)
InferenceSession(builder.model().SerializeToString()).run(None, {{"input": builder.images(1)}})
"""
SCRATCH = "memory._scratch_bytes = lambda model, cpu: 64"
SHORT = "memory.CodesLayout.size = property(lambda self: self.planes * self.plane - 256)"
EARLY = "at = memory.CodesLayout.at; memory.CodesLayout.at = lambda self, y, x: at(self, y, x) - 256"


@pytest.mark.parametrize(
    ("mode", "change"), [("after", SCRATCH), ("after", SHORT), ("before", EARLY), ("poison", SCRATCH), ("poison", SHORT)]
)
def test_a_buffer_that_is_too_small_is_seen(mode, change):
    script = SABOTAGE.format(here=str(HERE), mode=mode, change=change)
    unverified = {**os.environ, "BITPLANE_VERIFY": "0"}  # the plan verifier would see it first
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, env=unverified)
    if mode == "poison":
        assert "a kernel wrote to byte" in done.stderr
    else:
        assert done.returncode == -signal.SIGSEGV, done.stderr
