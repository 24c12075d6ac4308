"""The same bits on every processor, with any number of threads, in any batch.

`fixtures/digests.json` holds a hash of the logits of 32 images for every golden file and some examples, written once (for a new
file: `python tests/runtime/kernels/test_portable.py FILE ...` prints it). CI compares them under the AVX2 and the generic form
too, and on whatever processor it runs; AVX-512 and arm64 are to give the same.
"""

import hashlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from bitplane.runtime import InferenceSession

TESTS = Path(__file__).resolve().parents[2]
DIGESTS = json.loads((TESTS / "fixtures" / "digests.json").read_text())
GOLDEN = sorted(TESTS.glob("fixtures/format-*/*.onnx"))


def images(path, count=32):
    """Pixels that need no generator, so that no version of one changes them."""
    shape = (count, *InferenceSession(path).get_inputs()[0].shape[1:])
    stream = hashlib.shake_256(path.name.encode()).digest(int(np.prod(shape)))
    return np.frombuffer(stream, np.uint8).reshape(shape)


def digest(logits):
    return hashlib.sha256(logits.astype("<f4", copy=False).tobytes()).hexdigest()


def test_every_golden_file_has_a_digest():
    assert {str(p.relative_to(TESTS.parent)) for p in GOLDEN} <= set(DIGESTS)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", DIGESTS)
def test_logits_have_the_same_bits_on_every_processor_with_every_number_of_threads_in_every_batch(name, threads, monkeypatch):
    monkeypatch.setattr("bitplane.runtime.session.SHARED_STEP_WORK", 0)  # so that threads share even a small image
    path = TESTS.parent / name
    session, pixels = InferenceSession(path, threads=threads), images(path)
    whole = session.run(None, {"input": pixels})[0]
    assert digest(whole) == DIGESTS[name]
    for batch in (1, 7):
        parts = [session.run(None, {"input": pixels[at : at + batch]})[0] for at in range(0, len(pixels), batch)]
        np.testing.assert_array_equal(np.concatenate(parts), whole)


if __name__ == "__main__":
    for file in map(Path, sys.argv[1:]):
        sys.stdout.write(f"{file} {digest(InferenceSession(file).run(None, {'input': images(file)})[0])}\n")
