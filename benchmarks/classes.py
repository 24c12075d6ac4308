"""Classes of images and of a network, matched by their names."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from bitplane.benchmarks.errors import StudyError

SHOWN = 10
"""Class names in a message."""


def match_classes(names: Sequence[str], known: Sequence[str], logits: int, data: str, model: str) -> npt.NDArray[np.int64]:
    """The number of the logit of each class of the data.

    A network whose classes have no names but numbers takes as many classes as it has logits, in their order.

    Args:
        names: classes of the data.
        known: classes of the network, in the order of its logits; () where it names none.
        logits: of the network.
        data: what messages call the data.
        model: what messages call the network.

    Raises:
        StudyError: the network has no class of a name, or several.
    """
    known = list(known) or [str(i) for i in range(logits)]
    if all(known.count(name) == 1 for name in names):
        return np.array([known.index(name) for name in names], np.int64)
    if known == [str(i) for i in range(logits)] and len(names) == logits:
        return np.arange(logits)
    wrong = next(name for name in names if known.count(name) != 1)
    few = ", ".join(known[:SHOWN]) + (", ..." if len(known) > SHOWN else "")
    raise StudyError(
        f"{data}: class '{wrong}' is {'several' if wrong in known else 'none'} of the {len(known)} classes of {model} ({few}); "
        "name the classes of the data as the model does"
    )
