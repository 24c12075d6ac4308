"""What goes into a .tflite file of integers, and what comes out of it."""

import numpy as np

from bitplane.benchmarks.peers.litert import from_stored, to_stored

PIXELS = {"dtype": np.int8, "quantization": (0.5, -128)}


def test_pixels_are_quantized_as_the_file_says_not_cast():
    stored = to_stored(np.array([0, 1, 100, 255], np.uint8), PIXELS)
    np.testing.assert_array_equal(stored, np.array([-128, -126, 72, 127], np.int8), strict=True)


def test_logits_leave_as_numbers():
    found = from_stored(np.array([-45, 5], np.int8), {"dtype": np.int8, "quantization": (0.25, -45)})
    np.testing.assert_array_equal(found, np.array([0, 12.5], np.float32), strict=True)


def test_float_tensors_pass_as_they_are():
    tensor = {"dtype": np.float32, "quantization": (0.0, 0)}
    np.testing.assert_array_equal(to_stored(np.array([7], np.uint8), tensor), np.array([7], np.float32), strict=True)
    np.testing.assert_array_equal(from_stored(np.array([1.5], np.float32), tensor), np.array([1.5], np.float32), strict=True)
