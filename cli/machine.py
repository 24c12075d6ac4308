"""The commands about this machine: warmup."""

from dataclasses import asdict
from pathlib import Path

from bitplane.cli.output import UsageError, write_json


def warmup(json: Path | None = None) -> None:
    """Compile the kernels for this processor ahead, so that no later process has to.

    Args:
        json: write where the code lies and how long it took to this file.
    """
    from bitplane.runtime import machine_code
    from bitplane.runtime.kernels.target import cpu_name

    found = machine_code.origin()
    if found.problem:
        raise UsageError(f"{found.problem}; kernels cannot be kept, set BITPLANE_CACHE_DIR to a folder of your own")
    assert found.file is not None
    done = "compiled" if found.compiled else "already there, loaded"
    print(f"kernels for {cpu_name()}: {done} in {found.seconds:.2f} s; {found.file} ({found.file.stat().st_size} bytes)")
    write_json(json, asdict(found) | {"file": str(found.file)})
