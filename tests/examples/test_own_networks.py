"""The page of figures of networks from elsewhere runs, and its shares are those of the layers."""

import re
import subprocess
import sys
from pathlib import Path

PAGE = Path(__file__).resolve().parents[2] / "examples" / "own_networks.py"


def test_the_page_prints_the_shares_of_a_network():
    options = ["resnet18", "--batch-size", "2", "--size", "32", "--steps", "4"]
    run = subprocess.run([sys.executable, str(PAGE), *options], capture_output=True, text=True, timeout=540)
    assert run.returncode == 0, run.stderr
    found = re.match(
        r"resnet18: ([\d.]+) G multiply-adds, ([\d.]+)% low-bit on integers, ([\d.]+)% on pixels; .*; runs;", run.stdout
    )
    assert found
    total, low_bit, pixels = map(float, found.groups())
    # by hand: 7x7x3x64 at 16x16 pixels, then four stages of four 3x3 convolutions each and three of 1x1, from 8x8 to 1x1 pixels
    first = 147 * 64 * 256
    stages = {128: 16, 256: 4, 512: 1}
    blocks = 4 * 64 * 576 * 64 + sum((3 * 9 * c * c + 9 * c * c // 2 + c * c // 2) * pixels for c, pixels in stages.items())
    whole = first + blocks + 5120
    assert abs(total - whole / 1e9) < 1e-3
    assert abs(low_bit - 100 * blocks / whole) < 0.1
    assert abs(pixels - 100 * first / whole) < 0.1
