"""A whole model in plain NumPy, by what every operator means: the oracle of the kernels.

One image, channels first. Integers are int64, features float32 with each operation rounded once.
"""

import numpy as np
from numpy.typing import NDArray

from bitplane.runtime.model.graph import Model


def evaluate(model: Model, image: NDArray[np.generic]) -> dict[str, NDArray[np.generic]]:
    """Every value of a model for one image [C, H, W], by tensor name."""
    values: dict[str, NDArray[np.generic]] = {model.input_name: image}
    for node in model.nodes:
        values[node.output] = node.evaluate(*(values[name] for name in node.reads))
    return values
