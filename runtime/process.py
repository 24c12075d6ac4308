"""What this process can have: memory, and processors that its threads can run on."""

import os
import sys
from pathlib import Path

MEMORY_LIMIT = Path("/sys/fs/cgroup/memory.max")
"""Where Linux says how much memory a container has, or "max"."""
PROCESSOR_LIMIT = Path("/sys/fs/cgroup/cpu.max")
"""Where Linux says how much time on processors a container has: microseconds, or "max", and the period they are of."""


def memory_limit() -> int:
    """Bytes of the machine's memory, or fewer where the process or its container is limited."""
    limits = [1 << 62]
    if sys.platform != "win32":
        import resource

        limits.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
        soft = resource.getrlimit(resource.RLIMIT_AS)[0]
        limits.append(soft if soft != resource.RLIM_INFINITY else limits[0])
    text = _read(MEMORY_LIMIT)
    limits.append(int(text) if text.isdecimal() else limits[0])
    return min(limits)


def processors() -> int:
    """Processors that this process may use: by its affinity, and by the time that its container has."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota, _, period = _read(PROCESSOR_LIMIT).partition(" ")
    if quota.isdecimal() and period.isdecimal() and int(period):
        count = min(count, -(-int(quota) // int(period)))
    return max(1, count)


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
