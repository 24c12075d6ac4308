"""Results of studies and of experiments: pages of plain text, or one line of an error."""

from pathlib import Path

from scratch import one_line, written

from bitplane.benchmarks.errors import StudyError
from bitplane.benchmarks.pareto import recommend
from bitplane.benchmarks.report.markdown import markdown
from bitplane.benchmarks.results import read_study, to_json
from bitplane.train.errors import CheckpointError
from bitplane.train.experiments import read_experiment
from bitplane.train.experiments.results import merge, page, read_records

EXPERIMENT = read_experiment(Path(__file__).parents[1] / "corpus" / "experiment" / "two.toml")


def check(data: bytes) -> None:
    path = written(data, "results.json")
    try:
        study = read_study(path)
        assert read_study(written(to_json(study).encode(), "again.json")) == study
        assert "<script" not in markdown(study, {})
        recommend(study)
    except StudyError as error:
        one_line(error)
    try:
        records = read_records(path)
    except CheckpointError as error:
        one_line(error, path)
        return
    assert page(EXPERIMENT, merge(records, records)).startswith("# ")
