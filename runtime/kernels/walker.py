"""The one compiled call: walk the step table for every image of a batch.

Several threads may walk the same table over one arena, each doing its share of every step; a barrier separates the steps.

Arguments, all int64: address of the step table, int64 [rows, FIELDS], and its rows; addresses of the arena and the constants;
address of the images (uint8, [C, H, W] each) and bytes between two; address of the logits (float32) and bytes between two;
number of images; helpers << 48 | this thread's number << 32 | number of threads; address of a meeting place (used with several
threads only). `bitplane.runtime.execute.machine_code` compiles, keeps and calls it.

A meeting place is int64 words (`fields`): arrivals at barriers, helpers that are done, and a mailbox for each helper, a cache
line or two apart. A call that names helpers lets their sequence numbers grow, walks, and waits until they are done. A helper
calls with a negative count, the number of looks it takes at its mailbox, whose address comes in place of the meeting place's,
and the sequence number it knows in place of the table's address: when the number has grown it walks with the arguments in the
mailbox. So a helper that still looks starts within a microsecond, and nobody asks for Python's lock.
"""

from typing import Any

import numba

from bitplane.runtime.kernels import fields as f
from bitplane.runtime.kernels.conv import run_features
from bitplane.runtime.kernels.dense import run_classifier
from bitplane.runtime.kernels.features import run_average_pool, run_fake_quantize, run_load, run_output
from bitplane.runtime.kernels.image import run_image
from bitplane.runtime.kernels.intrinsics import carray, fetch_add, load_acquire, pointer, yield_processor
from bitplane.runtime.kernels.options import ENTRY, INNER
from bitplane.runtime.kernels.pool import run_pad_shortcut

SPINS = 2000
"""Looks at the barrier before a waiting thread gives up its time slice."""


@numba.njit(**INNER)
def _wait(barrier, arrivals) -> None:  # noqa: ANN001
    """Count this thread in and wait until `arrivals` have been counted."""
    fetch_add(barrier, 1)
    _wait_until(barrier, arrivals, 0)


@numba.njit(**INNER)
def _wait_until(address, least, most) -> bool:  # noqa: ANN001
    """Look at a word until it is at least `least`; False after `most` looks (0: never)."""
    looks = 0
    while load_acquire(address) < least:
        looks += 1
        if looks == most:
            return False
        if looks > SPINS:
            yield_processor()
    return True


SIGNATURE = numba.int64(*[numba.int64] * f.ARGUMENTS)


def compile_run_plan() -> Any:
    """Compile the walker and all kernels for the processor of `target`: numba's dispatcher, with one overload."""

    @numba.njit(SIGNATURE, **ENTRY)
    def run_plan(table, rows, arena, constants, images, image_bytes, logits, logits_bytes, count, part_parts, barrier) -> int:  # noqa: ANN001
        helping = count < 0
        if helping:
            if not _wait_until(barrier, table + 1, -count):
                return 0
            mail = carray(pointer(barrier, numba.int64), f.MAILBOX)
            mail[f.MAIL_TAKEN] = table + 1
            table, rows, arena, constants, images = mail[1], mail[2], mail[3], mail[4], mail[5]
            image_bytes, logits, logits_bytes = mail[6], mail[7], mail[8]
            count, part_parts, barrier = mail[9], mail[10], mail[11]
        helpers, part, parts = part_parts >> 48, part_parts >> 32 & 0xFFFF, part_parts & 0xFFFFFFFF
        for helper in range(helpers):
            fetch_add(barrier + 8 * (f.MAILBOXES + helper * f.MAILBOX), 1)
        steps = carray(pointer(table, numba.int64), (rows, f.FIELDS))
        arrivals = 0
        for n in range(count):
            for i in range(rows):
                if steps[i, f.BAND] < 0:
                    continue  # a pool that ran with the convolution before it
                op = steps[i, f.OP]
                if op in (f.OP_CONV, f.OP_MAX_POOL, f.OP_ELEMENTWISE):
                    run_features(steps, i, arena, constants, part, parts)
                elif op == f.OP_IMAGE:
                    run_image(steps, i, arena, images + n * image_bytes, part, parts)
                elif op == f.OP_PAD_SHORTCUT:
                    run_pad_shortcut(steps, i, arena, part, parts)
                elif op == f.OP_LOAD:
                    run_load(steps, i, arena, constants, images + n * image_bytes, part, parts)
                elif op == f.OP_FAKE_QUANTIZE:
                    run_fake_quantize(steps, i, arena, constants, part, parts)
                elif op == f.OP_CLASSIFIER:
                    run_classifier(steps, i, arena, constants, logits + n * logits_bytes, part, parts)
                elif part != 0:
                    pass
                elif op == f.OP_AVERAGE_POOL:
                    run_average_pool(steps, i, arena)
                else:
                    run_output(steps, i, arena, logits + n * logits_bytes)
                if parts > 1:
                    arrivals += parts
                    _wait(barrier, arrivals)
        if helping:
            fetch_add(barrier + 8 * f.DONE, 1)
        elif helpers > 0:
            _wait_until(barrier + 8 * f.DONE, helpers, 0)
        return 0

    return run_plan
