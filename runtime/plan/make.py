"""`make_plan`: a checked model to a plan, stage by stage."""

from math import prod

from bitplane.runtime.errors import ModelError
from bitplane.runtime.instructions.table import encode
from bitplane.runtime.model.graph import Model
from bitplane.runtime.plan.arena import Constants
from bitplane.runtime.plan.choose import choose
from bitplane.runtime.plan.emission import Emission
from bitplane.runtime.plan.emit import emit
from bitplane.runtime.plan.fuse import fuse
from bitplane.runtime.plan.memory import check_size, place
from bitplane.runtime.plan.options import PlanOptions
from bitplane.runtime.plan.plan import Plan, PlannedStep
from bitplane.runtime.plan.stage import stage
from bitplane.runtime.plan.verify import verify
from bitplane.runtime.process import memory_limit


def make_plan(model: Model, options: PlanOptions | None = None) -> Plan:
    """Plan a model.

    Args:
        model: a checked model.
        options: threads, processor, and what tracing needs.

    Raises:
        ModelError: the plan needs more memory than it, or this process, may have.
        PlanError: planning has a defect; only where `options.verify` asks for the check.
    """
    options = options or PlanOptions()
    try:
        plan = _plan(model, options)
    except MemoryError:
        raise ModelError(f"{model.label}: its weights need more memory than this process can have") from None
    if options.verify:
        verify(plan)
    return plan


def _plan(model: Model, options: PlanOptions) -> Plan:
    steps, copies = stage(model, fuse(model, options.merge))
    layouts = choose(model, options.cpu)
    memory = place(model, steps, layouts.tensors, copies, options)
    limit, threads = memory_limit(), options.threads
    constants = Constants(lambda size: check_size(model.label, memory.arena.size, size, threads, limit))
    emitted = emit(Emission(model, memory, options.cpu, constants), steps)
    instructions, image = tuple(e.instruction for e in emitted), model.tensors[model.input_name]
    return Plan(
        instructions,
        encode(instructions),
        constants.bytes(),
        memory.arena,
        {name: codes for name, codes in memory.codes.items() if name not in copies},
        memory.features,
        tuple(PlannedStep(e.name, e.kernel, e.is_layer, e.step) for e in emitted),
        layouts.estimates,
        memory.buffers,
        tuple(constants.bounds),
        prod(image.shape) * (4 if image.kind == "floats" else 1),
        4 * model.tensors[model.output_name].shape[0],
        options,
    )
