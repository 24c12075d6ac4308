"""Descriptions of experiments: runs inside of the output folder, or one line of a ConfigError."""

from pathlib import Path

from scratch import one_line, written

from bitplane.train.errors import ConfigError
from bitplane.train.experiments import plan, read_experiment
from bitplane.train.experiments.results import page

OUTPUT = Path("/output")


def check(data: bytes) -> None:
    path = written(data, "experiment.toml")
    try:
        experiment = read_experiment(path)
        planned = plan(experiment, OUTPUT, {})
    except ConfigError as error:
        one_line(error, path)
        return
    for run in planned:
        assert OUTPUT in run.folder.parents
        assert ".." not in run.folder.parts
    assert page(experiment, []).startswith("# ")
