"""bitplane itself."""

from importlib.metadata import version

from bitplane.benchmarks.peers import Loaded, Purpose
from bitplane.runtime import InferenceSession


def load(file: str, threads: int, purpose: Purpose, variant: str = "") -> Loaded:
    """Open a packed file."""
    session = InferenceSession(file, threads=threads)
    return Loaded(lambda x: session.run(None, {"input": x})[0], version("bitplane"), {"intra_op_num_threads": str(threads)})
