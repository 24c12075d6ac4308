"""`bitplane warmup`."""

from dataclasses import asdict, dataclass

from bitplane.cli.options import JsonFile
from bitplane.cli.output import UsageError, say, write_json


@dataclass(frozen=True)
class Options:
    """Compile the kernels for this processor ahead, so that no later process has to.

    Attributes:
        json: write where the code lies and how long it took to this file.
    """

    json: JsonFile = None


def run(options: Options) -> None:
    """Compile or load the kernels, and say where they are kept."""
    from bitplane.runtime.execute import machine_code
    from bitplane.runtime.kernels.target import cpu_name

    problem = machine_code.keep_problem()
    found = None if problem else machine_code.origin()
    if found is None or found.file is None:
        problem = problem or (found.problem if found else "")
        raise UsageError(f"{problem}; kernels cannot be kept, set BITPLANE_CACHE_DIR to a folder of your own")
    done = "compiled" if found.compiled else "already there, loaded"
    say(f"kernels for {cpu_name()}: {done} in {found.seconds:.2f} s; {found.file} ({found.file.stat().st_size} bytes)")
    write_json(options.json, asdict(found) | {"file": str(found.file)})
