"""The machine and its mood: processor, features, clocks, and whether somebody else was using it."""

import os
import platform
from pathlib import Path

from bitplane.benchmarks.results import Machine

FEATURES = (
    "avx",
    "avx2",
    "fma",
    "avx512f",
    "avx512bw",
    "avx512vl",
    "avx512_vnni",
    "avx512_vpopcntdq",
    "avx512_bf16",
    "avx_vnni",
)
FEATURES += ("amx_int8", "amx_bf16", "asimd", "asimddp", "sve", "i8mm")
CPU = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
ENERGY = Path("/sys/class/powercap/intel-rapl:0/energy_uj")


def describe_machine() -> Machine:
    """What runs the study; a field that this system does not tell is empty."""
    text = _read(Path("/proc/cpuinfo"))
    values = {k.strip().lower(): v.strip() for k, _, v in (line.partition(":") for line in text.splitlines())}
    flags = set((values.get("flags") or values.get("features") or "").split())
    try:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9
    except (ValueError, OSError):
        memory = 0.0
    return Machine(
        cpu=_cpu_name(values),
        features=[f for f in FEATURES if f in flags],
        processors=processors(),
        memory_gb=round(memory, 1),
        system=f"{platform.system()} {platform.release().split('-')[0]} {platform.machine()}",
        python=platform.python_version(),
        governor=_read(CPU).strip() or "not readable",
    )


def _cpu_name(values: dict[str, str]) -> str:
    name = values.get("model name") or platform.processor() or platform.machine()
    family, model = values.get("cpu family"), values.get("model")
    return f"{name} (family {family}, model {model})" if family and model else name


def processors() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def megahertz() -> float | None:
    """Clock of the first processor now; None where it cannot be read."""
    for line in _read(Path("/proc/cpuinfo")).splitlines():
        if line.startswith("cpu MHz"):
            return float(line.partition(":")[2])
    return None


def stolen_ticks() -> tuple[int, int] | None:
    """(ticks stolen by the hypervisor, all ticks) of all processors since boot."""
    fields = _read(Path("/proc/stat")).partition("\n")[0].split()[1:]
    return (int(fields[7]), sum(int(v) for v in fields[:8])) if len(fields) >= 8 else None


def load() -> float | None:
    """Processes that wanted to run, averaged over a minute."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def energy_uj(counter: Path = ENERGY) -> int | None:
    """The package's energy counter in microjoules (RAPL), None where it cannot be read; it wraps around."""
    text = _read(counter).strip()
    return int(text) if text.isdigit() else None


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
