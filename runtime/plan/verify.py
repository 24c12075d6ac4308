"""The plan verifier: what a plan says about memory is checked against what its instructions touch.

Every address lies inside one buffer or constant, everything is written before it is read, and no two buffers that live at the
same time overlap. The accesses are derived from the instructions alone, the buffers from where values were placed.
"""

from collections.abc import Iterator

from bitplane.errors import BitplaneError
from bitplane.runtime.instructions import Access, Machine
from bitplane.runtime.kernels.shapes import tiles_for
from bitplane.runtime.plan.memory import SCRATCH, Buffer
from bitplane.runtime.plan.plan import Plan


class PlanError(BitplaneError):
    """A defect of planning: running the plan would touch memory that it must not."""


def verify(plan: Plan) -> None:
    """Check a plan.

    Raises:
        PlanError: the first rule that an instruction breaks.
    """
    _check_buffers(plan)
    machine = Machine(tiles_for(plan.options.cpu), plan.options.threads)
    written = {b.name for b in plan.buffers if b.first < 0}
    for number, (planned, instruction) in enumerate(zip(plan.steps, plan.instructions, strict=True)):
        where = f"instruction {number} ({planned.name}: {planned.kernel.text})"
        made: set[str] = set()
        for access in instruction.accesses(machine):
            if access.space == "arena":
                name = _buffer(plan, access, planned.step, where).name
                if access.writes:
                    made.add(name)
                elif name not in written:
                    raise PlanError(f"{where} reads '{name}' before anything has written it")
            elif not _fits(plan, access):
                raise PlanError(f"{where} touches bytes {access.start} to {access.stop} of the {access.space}, outside of it")
        written |= made


def _check_buffers(plan: Plan) -> None:
    by_address = sorted(plan.buffers, key=lambda b: b.at)
    for i, first in enumerate(by_address):
        if first.at < 0 or first.at + first.size > plan.arena.size:
            raise PlanError(f"buffer '{first.name}' lies outside of the arena of {plan.arena.size} bytes")
        for second in by_address[i + 1 :]:
            if second.at >= first.at + first.size:
                break
            live_together = first.first <= second.last and second.first <= first.last
            if live_together and not _replaces(first, second) and not _replaces(second, first):
                raise PlanError(f"buffers '{first.name}' and '{second.name}' overlap while both are in use")


def _replaces(new: Buffer, old: Buffer) -> bool:
    """Whether a step writes `new` over `old` as it reads it for the last time."""
    return new.replaces == old.name and new.first == old.last and (new.at, new.size) == (old.at, old.size)


def _buffer(plan: Plan, access: Access, step: int, where: str) -> Buffer:
    """The buffer that an access must stay in: one that the step makes if it writes, one that is there if it reads."""
    holding = [b for b in _live(plan, step) if b.at <= access.start < b.at + b.size]
    if access.writes:
        holding = [b for b in holding if b.first == step or b.name == SCRATCH]
    elif len(holding) > 1:
        holding = [b for b in holding if b.first < step]
    what = "writes" if access.writes else "reads"
    if len(holding) != 1:
        raise PlanError(f"{where} {what} byte {access.start} of the arena, which is in no buffer of this step")
    (buffer,) = holding
    if access.stop > buffer.at + buffer.size:
        end = buffer.at + buffer.size
        raise PlanError(f"{where} {what} bytes up to {access.stop}, but '{buffer.name}' ends at {end}")
    return buffer


def _live(plan: Plan, step: int) -> Iterator[Buffer]:
    return (b for b in plan.buffers if b.first <= step <= b.last)


def _fits(plan: Plan, access: Access) -> bool:
    """Whether an access lies inside one constant, or inside an image or its logits."""
    if access.space == "constants":
        return any(at <= access.start and access.stop <= at + size for at, size in plan.constant_parts)
    return access.start >= 0 and access.stop <= (plan.image_bytes if access.space == "image" else plan.logits_bytes)
