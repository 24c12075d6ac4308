"""What this process can have: a plan that asks for more memory is refused before any of it is allocated."""

import os
import sys
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup/memory.max")
"""Where Linux says how much memory a container has, or "max"."""


def memory_limit() -> int:
    """Bytes of the machine's memory, or fewer where the process or its container is limited."""
    limits = [1 << 62]
    if sys.platform != "win32":
        import resource

        limits.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
        soft = resource.getrlimit(resource.RLIMIT_AS)[0]
        limits.append(soft if soft != resource.RLIM_INFINITY else limits[0])
    try:
        text = CGROUP.read_text().strip()
    except OSError:
        text = "max"
    limits.append(int(text) if text.isdecimal() else limits[0])
    return min(limits)
