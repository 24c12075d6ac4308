from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 32 training and 16 test images of 16x16 pixels, two classes that a few steps tell apart."""
    root = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for split, count in (("train", 16), ("test", 8)):
        for c in range(2):
            folder = root / split / f"class{c}"
            folder.mkdir(parents=True)
            for i in range(count):
                x = rng.integers(0, 100, (16, 16, 3))
                x[8 * c : 8 * c + 8] += 120
                Image.fromarray(x.astype(np.uint8)).save(folder / f"{i}.png")
    return root
