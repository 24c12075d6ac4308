"""Descriptions of studies: groups that can be measured, or one line of a StudyError."""

from scratch import one_line, written

from bitplane.benchmarks.description import find_files, read_description
from bitplane.benchmarks.errors import StudyError


def check(data: bytes) -> None:
    path = written(data, "study.toml")
    try:
        description = read_description(path)
    except StudyError as error:
        one_line(error, path)
        return
    assert description.measure.counts()
    for group in description.group:
        assert len([kind for kind in (group.packed, group.model, group.experiment, group.layers) if kind]) == 1
        patterns = [p for p in [*group.packed, *group.shared] if "*" not in p]  # no walk over the disk
        try:
            find_files(path.parent, patterns, "here")
        except StudyError as error:
            one_line(error)
