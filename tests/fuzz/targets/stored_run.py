"""The JSON files of a run: a configuration, a result and a state that can be used, or one line of a CheckpointError."""

import math

from scratch import one_line, written

from bitplane.train.checkpoint import read_config, read_json, read_result
from bitplane.train.config import from_options, to_options
from bitplane.train.errors import CheckpointError
from bitplane.train.resume import Progress


def check(data: bytes) -> None:
    path = written(data, "run/config.json")
    try:
        config = read_config(path.parent)
    except CheckpointError as error:
        one_line(error, path)
    else:
        assert from_options(to_options(config)) == config
    path = written(data, "run/final/result.json")
    try:
        result = read_result(path.parents[1])
    except CheckpointError as error:
        one_line(error, path)
    else:
        assert 0 <= result["test_top1"] <= 1 <= result["epochs"]
    path = written(data, "run/state.json")
    try:
        state = read_json(path, Progress)
    except CheckpointError as error:
        one_line(error, path)
    else:
        assert state.epoch >= 0
        assert 0 <= state.bits <= 8
        assert math.isfinite(state.average_weight)
