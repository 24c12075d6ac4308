from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitplane.benchmarks.errors import StudyError
from bitplane.benchmarks.pareto import joint_groups, pareto_front, recommend
from bitplane.benchmarks.results import Conditions, Estimate, Group, Machine, Row, Stream, Study


def row(ms, top1, engine="bitplane", threads=1, size=1000):
    stream = None if ms is None else Stream(Estimate(ms, ms, ms), ms, ms, 1, 1)
    return Row(f"n{ms}", engine, threads, "ternary", 2, f"n{ms}.onnx", size, stream=stream, top1=top1)


def study(rows):
    machine = Machine("cpu", [], 1, 1.0, "", "", "")
    return Study("t", "", [Group("g", "", "d", "onnxruntime float32", machine, Conditions(True, 0, None, None, []), {}, rows)])


values = st.lists(st.tuples(st.none() | st.integers(1, 9), st.none() | st.integers(0, 9)), max_size=12)


@given(values)
def test_the_front_is_what_nothing_dominates(points):
    rows = [row(ms, top1) for ms, top1 in points]
    known = [(ms, top1) for ms, top1 in points if ms is not None and top1 is not None]
    kept = {(a, b) for a, b in known if not any((c <= a and d >= b) and (c, d) != (a, b) for c, d in known)}
    found = [(r.stream.ms.value, r.top1) for r in pareto_front(rows)]
    assert set(found) == kept
    assert found == sorted(found)


def test_a_recommendation_keeps_its_limits():
    rows = [row(0.1, 0.7), row(0.2, 0.8, size=5000), row(0.4, 0.9), row(0.05, 0.99, engine="other"), row(0.01, 0.99, threads=2)]
    chosen = lambda **limits: recommend(study(rows), **limits)[0][1]  # noqa: E731
    assert chosen(latency_ms=0.25).top1 == 0.8
    assert chosen(latency_ms=0.25, size=2000).top1 == 0.7
    assert chosen(accuracy=0.75).stream.ms.value == 0.2
    assert chosen().top1 == 0.9
    assert chosen(threads=2).top1 == 0.99


def test_without_an_answer_the_nearest_are_named():
    with pytest.raises(
        StudyError, match=r"no network is within these limits; .* n0.1: 0.1 ms, 70.00 % and n0.4: 0.4 ms, 90.00 %"
    ):
        recommend(study([row(0.1, 0.7), row(0.4, 0.9)]), accuracy=0.95)
    with pytest.raises(StudyError, match="no network of known latency and accuracy at 3 threads"):
        recommend(study([row(0.1, None)]), threads=3)


def test_groups_of_one_data_set_and_machine_are_compared_together():
    rows = [row(0.1, 0.7), row(0.4, 0.9)]
    (first,) = study(rows).groups
    noisy = Conditions(False, 0.2, None, None, [])
    second = replace(first, name="h", conditions=noisy, rows=[row(0.2, 0.95), row(0.3, 0.8, engine="other")])
    elsewhere = replace(first, name="i", machine=replace(first.machine, cpu="other cpu"), rows=[row(0.01, 0.99)])
    latency = replace(first, name="j", data="", rows=[row(9, None)])
    whole = replace(study([]), groups=[first, second, elsewhere, latency])
    (one,) = joint_groups(whole)
    assert one.rows == [*first.rows, *second.rows]
    assert not one.conditions.quiet
    assert [(r.stream.ms.value, r.top1) for r in pareto_front(one.rows)] == [(0.1, 0.7), (0.2, 0.95)]
    assert joint_groups(study(rows)) == []
    assert [(g.name, r.top1) for g, r in recommend(whole)] == [("h", 0.95), ("i", 0.99)]
    assert [(g.name, r.top1) for g, r in recommend(whole, latency_ms=0.15)] == [("g", 0.7), ("i", 0.99)]
