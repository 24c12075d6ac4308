"""The commands about this machine: warmup."""

from dataclasses import asdict
from pathlib import Path

from bitplane.cli.output import UsageError, write_json


def warmup(json: Path | None = None) -> None:
    """Compile the kernels for this processor ahead, so that no later process has to.

    Args:
        json: write where the code lies and how long it took to this file.
    """
    from bitplane.runtime.execute import machine_code
    from bitplane.runtime.kernels.target import cpu_name

    problem = machine_code.keep_problem()
    found = None if problem else machine_code.origin()
    if found is None or found.file is None:
        problem = problem or (found.problem if found else "")
        raise UsageError(f"{problem}; kernels cannot be kept, set BITPLANE_CACHE_DIR to a folder of your own")
    done = "compiled" if found.compiled else "already there, loaded"
    print(f"kernels for {cpu_name()}: {done} in {found.seconds:.2f} s; {found.file} ({found.file.stat().st_size} bytes)")
    write_json(json, asdict(found) | {"file": str(found.file)})
