"""The machine code of the kernels: compiled by numba once a machine, kept in a file, loaded by LLVM alone.

    sources of kernels/ -> numba -> object code (ELF, Mach-O or COFF) -> CACHE/kernels-<key>.bin -> LLVM's linker -> address

Loading needs llvmlite but not numba, so a process that finds the file starts in a fraction of the time and memory. The key is
a hash of everything that the code depends on: sources of kernels and level sets, versions, processor. `code_cache` says which
files can be trusted. A file is written whole and renamed; a lock makes processes that start together compile once. A folder
that can only be read is read. Without a usable one, or where the file cannot be written, the kernels are compiled in memory,
with a warning.
"""

import ctypes
import hashlib
import os
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import llvmlite.binding as llvm

from bitplane.format import levels
from bitplane.runtime.errors import MachineCodeError
from bitplane.runtime.execute import code_cache
from bitplane.runtime.kernels.fields import ARGUMENTS
from bitplane.runtime.kernels.target import cpu_features, cpu_name

NEVER_CALLED = "define void @NRT_MemInfo_call_dtor(ptr %memory) { ret void }"
"""The one function of numba that kernels refer to: it would free an array's memory, and kernels own none."""

OTHER_OPTIONS = (
    *("NUMBA_CACHE_DIR=", "NUMBA_NUM_THREADS=", "NUMBA_THREADING_LAYER", "NUMBA_DISABLE_JIT="),
    *("NUMBA_CPU_NAME=", "NUMBA_CPU_FEATURES="),
)
"""Numba's environment variables that change no machine code, or that stand in the key by what they mean."""

RunPlan = Callable[..., None]


@dataclass(frozen=True)
class Origin:
    """Where the machine code came from.

    Attributes:
        file: the cache's file; None if it is not kept.
        compiled: whether this process compiled it.
        seconds: that loading or compiling took.
        problem: why it is not kept; "" if it is.
    """

    file: Path | None
    compiled: bool
    seconds: float
    problem: str


_loaded: tuple[RunPlan, Origin, Any] | None = None
"""The walker, where it came from, and LLVM's engine, which owns it."""
_lock = threading.Lock()


def _forget_lock() -> None:
    global _lock
    _lock = threading.Lock()  # a forked process has not the thread that may hold it


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_lock)


def key() -> str:
    """Hexadecimal hash of what the machine code depends on."""
    digest = hashlib.sha256()
    options = [f"{name}={value}" for name, value in sorted(os.environ.items()) if name.startswith("NUMBA_")]
    compiler = [option for option in options if not option.startswith(OTHER_OPTIONS)]
    for part in (_version("numba"), _version("llvmlite"), llvm.get_process_triple(), cpu_name(), cpu_features(), *compiler):
        digest.update(part.encode() + b"\0")
    for path in [*sorted((Path(__file__).parents[1] / "kernels").glob("*.py")), Path(levels.__file__)]:
        digest.update(path.read_bytes() + b"\0")
    return digest.hexdigest()[:32]


def _version(package: str) -> str:
    found: str | None = version(package)  # None where its metadata cannot be opened
    if found is None:
        raise OSError(f"the metadata of {package} cannot be read")
    return found


def load() -> RunPlan:
    """The compiled walker, `kernels/walker.py`; the first call loads or compiles it, later ones return it.

    It takes the walker's arguments and releases the GIL while it runs.

    Raises:
        MachineCodeError: the kernels can neither be loaded nor compiled.
    """
    return _load()[0]


def origin() -> Origin:
    """Where the code that `load` returned came from; loads it if need be."""
    return _load()[1]


def _load() -> tuple[RunPlan, Origin, Any]:
    global _loaded
    if _loaded is None:
        with _lock:
            if _loaded is None:
                start = time.perf_counter()
                with _one_line():
                    symbol, code, file, compiled, problem = _find_or_compile()
                    engine, run = _link(symbol, code)
                _loaded = run, Origin(file, compiled, time.perf_counter() - start, problem), engine
    return _loaded


@contextmanager
def _one_line() -> Iterator[None]:
    try:
        yield
    except (MemoryError, ctypes.ArgumentError) as e:  # ctypes makes the first one the second
        raise MachineCodeError("the kernels need more memory than this process can have; give it more") from e
    except (OSError, ImportError) as e:
        raise MachineCodeError(f"the kernels cannot be loaded ({e}); install bitplane and numba again if this stays") from e


def _find_or_compile() -> tuple[str, bytes, Path | None, bool, str]:
    folder = code_cache.cache_folder()
    file, problem = _file(folder), code_cache.folder_problem(folder)
    if not problem and (found := code_cache.read(file)) is not None:
        return *found, file, False, ""
    if problem := problem or code_cache.write_problem(folder):
        _warn(problem)
        return *compile_kernels(), None, True, problem
    with code_cache.locked(file, _tell) as waited:
        if (found := code_cache.read(file)) is not None:
            return *found, file, False, ""
        symbol, code = compile_kernels()
        problem = code_cache.write(file, symbol, code)
        if problem:
            _warn(problem)
        elif waited:
            warnings.warn_explicit(f"{waited}; kernels were compiled a second time", RuntimeWarning, "bitplane", 1)
        return symbol, code, None if problem else file, True, problem


def _warn(problem: str) -> None:
    text = f"{problem}; kernels are compiled anew in every process (BITPLANE_CACHE_DIR names another folder)"
    warnings.warn_explicit(text, RuntimeWarning, "bitplane", 1)  # one line: there is no source line to show


def _tell(text: str) -> None:
    """Say on a terminal why nothing happens."""
    if not sys.flags.quiet and sys.stderr is not None and sys.stderr.isatty():
        print(f"bitplane: {text}", file=sys.stderr)  # noqa: T201


def _file(folder: Path) -> Path:
    return folder / f"kernels-{key()}.bin"


def keep_problem() -> str:
    """Why machine code can neither be found nor kept; "" if it can."""
    folder = code_cache.cache_folder()
    found = code_cache.folder_problem(folder) or code_cache.read(_file(folder))
    return found if isinstance(found, str) else "" if found else code_cache.write_problem(folder)


def compile_kernels() -> tuple[str, bytes]:
    """Compile the kernels: name of the entry point, and object code.

    Raises:
        MachineCodeError: numba does not compile.
    """
    from bitplane.runtime.kernels.walker import compile_run_plan

    _tell("compiling kernels for this processor, once")  # half a minute without a word
    try:
        (overload,) = compile_run_plan().overloads.values()
    except AttributeError as e:
        if os.environ.get("NUMBA_DISABLE_JIT", "0") == "0":
            raise
        raise MachineCodeError(
            "NUMBA_DISABLE_JIT is set and the kernels are not compiled yet; run `bitplane warmup` without it"
        ) from e
    library = overload.library
    return overload.fndesc.llvm_func_name, library._codegen._tm.emit_object(library._final_module)


def _link(symbol: str, code: bytes) -> tuple[Any, RunPlan]:
    """LLVM's engine with the code in it, and the entry point."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    machine = llvm.Target.from_triple(llvm.get_process_triple()).create_target_machine()
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(NEVER_CALLED), machine)
    engine.add_object_file(llvm.ObjectFileRef.from_data(code))
    engine.finalize_object()
    # numba's convention: status (pointer to result, pointer to exception, arguments ...). Kernels raise nothing.
    kind = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p, ctypes.c_void_p, *[ctypes.c_int64] * ARGUMENTS)
    native, slots = kind(engine.get_function_address(symbol)), (ctypes.c_int64 * 2)()
    result, exception = ctypes.addressof(slots), ctypes.addressof(slots) + 8

    def run_plan(*arguments: int) -> None:
        try:
            native(result, exception, *arguments)
        except ctypes.ArgumentError as e:  # not started: there was no memory to convert an integer
            raise MemoryError from e

    run_plan.slots = slots  # type: ignore[attr-defined]  keeps them alive
    return engine, run_plan
