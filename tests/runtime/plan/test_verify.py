"""The plan verifier accepts every plan and finds each kind of defect; instructions survive their encoding."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitplane.runtime.instructions import Convolve, Elementwise, Interleave, MaxPool
from bitplane.runtime.instructions.table import decode, encode
from bitplane.runtime.kernels.target import CPUS
from bitplane.runtime.model.parse import parse
from bitplane.runtime.plan.make import make_plan
from bitplane.runtime.plan.options import PlanOptions
from bitplane.runtime.plan.verify import PlanError, verify


def network(graphs, kind="Ternary", bits=2):
    """A ResNet with a pooled first convolution, float layers in its shortcuts and residuals."""
    return parse(graphs.resnet(2, kind, bits, 24, (16, 48), 1, "B", 7, pool=True).model().SerializeToString())


@pytest.fixture
def plan(graphs):
    return make_plan(network(graphs), PlanOptions(threads=2, verify=False))


@pytest.mark.parametrize("cpu", CPUS)
@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("kind", ["Binary", "Ternary", "Quaternary", "FourLevel"])
def test_plans_of_every_processor_are_accepted_and_read_back_from_their_table(graphs, kind, bits, cpu):
    model = network(graphs, kind, bits)
    for threads, merge in ((1, True), (3, True), (1, False)):
        made = make_plan(model, PlanOptions(threads, merge, merge, cpu=CPUS[cpu], verify=True))
        assert tuple(decode(made.table)) == made.instructions


@given(number=st.integers(0, 10_000), data=st.data())
def test_any_numbers_of_an_instruction_are_read_back(graphs, number, data):
    plan = make_plan(network(graphs), PlanOptions(verify=False))
    row = plan.table[number % len(plan.table)].copy()
    written = np.flatnonzero(row[1:]) + 1
    for column in data.draw(st.lists(st.sampled_from(written.tolist()), max_size=4)):
        row[column] = data.draw(st.integers(-(2**62), 2**62))
    np.testing.assert_array_equal(encode(decode(row[None])), row[None])


def change(plan, at, **changes):
    """The plan with other numbers in one instruction."""
    instructions = list(plan.instructions)
    instructions[at] = instructions[at]._replace(**changes)
    return replace(plan, instructions=tuple(instructions))


def first(plan, kind, **having):
    """Index of the first instruction of a kind."""
    return next(
        n
        for n, i in enumerate(plan.instructions)
        if isinstance(i, kind) and all(getattr(i, key) == value for key, value in having.items())
    )


def refusal(plan):
    with pytest.raises(PlanError) as error:
        verify(plan)
    return str(error.value)


def test_a_plan_is_accepted_before_it_is_changed(plan):
    verify(plan)


@pytest.mark.parametrize(("field", "by"), [("source", -(1 << 20)), ("source", 1 << 30), ("height", 400), ("kernel_rows", 90)])
def test_a_convolution_that_reads_outside_of_its_input_is_found(plan, field, by):
    at = first(plan, Convolve, source_planes=1)
    assert "reads" in refusal(change(plan, at, **{field: getattr(plan.instructions[at], field) + by}))


def test_a_write_behind_the_end_of_a_value_is_found(plan):
    at = first(plan, Interleave)
    assert "writes" in refusal(change(plan, at, codes_row=4 * plan.instructions[at].codes_row))


def test_a_write_into_another_value_is_found(plan):
    at = next(n for n, i in enumerate(plan.instructions) if isinstance(i, Convolve) and n > 4 and i.epilogue.store)
    conv = plan.instructions[at]
    elsewhere = plan.instructions[first(plan, Interleave)].codes
    assert "writes" in refusal(change(plan, at, epilogue=conv.epilogue._replace(features=elsewhere)))


def test_constants_outside_of_the_block_are_found(plan):
    at = first(plan, Convolve)
    assert "of the constants" in refusal(change(plan, at, weights=len(plan.constants)))


def test_weights_that_run_into_the_next_constant_are_found(plan):
    at = first(plan, Convolve)
    assert "of the constants" in refusal(change(plan, at, weights_group=plan.instructions[at].weights_group + 64))


def test_an_image_read_past_its_end_is_found(plan):
    at = first(plan, Interleave)
    alone = replace(plan, instructions=plan.instructions[: at + 1], steps=plan.steps[: at + 1])
    assert "of the image" in refusal(replace(alone, image_bytes=plan.image_bytes - 1))


def test_a_value_that_is_read_before_it_is_written_is_found(plan):
    at = first(plan, Interleave)
    assert "before anything has written it" in refusal(
        replace(plan, instructions=plan.instructions[at + 1 :], steps=plan.steps[at + 1 :])
    )


def test_two_values_in_one_place_are_found(plan):
    one, two, *rest = sorted(plan.buffers, key=lambda b: b.at)
    assert "overlap while both are in use" in refusal(replace(plan, buffers=(one, replace(two, at=one.at), *rest)))


def test_a_value_outside_of_the_arena_is_found(plan):
    *rest, last = sorted(plan.buffers, key=lambda b: b.at)
    assert "lies outside of the arena" in refusal(replace(plan, buffers=(*rest, replace(last, at=plan.arena.size))))


@pytest.mark.parametrize("kind", [MaxPool, Elementwise])
def test_a_longer_pool_or_elementwise_step_is_found(graphs, kind):
    b = graphs.Builder(1, 3, 12, 12)
    x = b.op("Relu", b.pixel_conv(16, 3))
    b.classifier(b.op("Add", b.max_pool(x, 3, 1, 1), b.op("Add", x, x)))
    plan = make_plan(parse(b.model().SerializeToString()), PlanOptions(merge=False, verify=False))
    at = first(plan, kind)
    refusal(change(plan, at, height=100 * plan.instructions[at].height))


def test_the_check_is_asked_for_by_the_environment(monkeypatch):
    monkeypatch.setenv("BITPLANE_VERIFY", "1")
    assert PlanOptions().verify
    monkeypatch.delenv("BITPLANE_VERIFY")
    assert not PlanOptions().verify
