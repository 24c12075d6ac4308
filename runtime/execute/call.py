"""The arguments of the compiled walker."""

from typing import NamedTuple

from bitplane.runtime.plan.plan import Plan


class Call(NamedTuple):
    """One call of the walker, in its order; addresses are those of memory, sizes are in bytes.

    Attributes:
        table: address of the instructions.
        rows: instructions to run.
        arena: address of the arena.
        constants: address of the constants.
        images: address of the first image.
        image_bytes: between two images.
        logits: address of the first image's logits.
        logits_bytes: between two images' logits.
        n_images: how many; of a worker that looks for mail, minus its looks.
        role: how many threads share an image, which of them this is, and how many helpers a call wakes (`role`).
        shared: address of the words that the threads share; 0 for one thread alone.
    """

    table: int
    rows: int
    arena: int
    constants: int
    images: int = 0
    image_bytes: int = 0
    logits: int = 0
    logits_bytes: int = 0
    n_images: int = 1
    role: int = 1
    shared: int = 0


def role(part: int = 0, parts: int = 1, helpers: int = 0) -> int:
    """`Call.role` of thread `part` of `parts` that share an image, which wakes `helpers` others."""
    return helpers << 48 | part << 32 | parts


def wait_for_mail(known: int, looks: int, mailbox: int) -> Call:
    """The call of a helper: look at a mailbox `looks` times, and run what is in it when its number has passed `known`."""
    return Call(known, 0, 0, 0, n_images=-looks, role=0, shared=mailbox)


def instructions_of(plan: Plan, arena: int, first: int = 0, count: int | None = None) -> Call:
    """A call of `count` instructions of a plan from `first` on, all by default, for one image in an arena."""
    rows = len(plan.table) if count is None else count
    return Call(plan.table.ctypes.data + first * plan.table.strides[0], rows, arena, plan.constants.ctypes.data)
