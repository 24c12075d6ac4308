"""The machine code of the kernels: compiled by numba once a machine, kept in a file, loaded by LLVM alone.

    sources of kernels/ -> numba -> object code (ELF, Mach-O or COFF) -> CACHE/kernels-<key>.bin -> LLVM's linker -> address

Loading needs llvmlite but not numba, so a process that finds the file starts in a fraction of the time and memory. The key is
a hash of everything that the code depends on: sources of kernels and level sets, versions, processor. What the folder holds is
executed, so it is used only if it belongs to this user and nobody else can write to it. A file is written whole and renamed; a
lock makes processes that start together compile once. A folder that can only be read is read; without a usable one the kernels
are compiled in memory, with a warning.
"""

import ctypes
import hashlib
import os
import stat
import sys
import tempfile
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
from bitplane.runtime.kernels.fields import ARGUMENTS
from bitplane.runtime.kernels.target import cpu_features, cpu_name

MAGIC = b"bitplane machine code 1\n"
NEVER_CALLED = "define void @NRT_MemInfo_call_dtor(ptr %memory) { ret void }"
"""The one function of numba that kernels refer to: it would free an array's memory, and kernels own none."""

OTHER_OPTIONS = ("NUMBA_CACHE_DIR=", "NUMBA_NUM_THREADS=", "NUMBA_THREADING_LAYER", "NUMBA_CPU_NAME=", "NUMBA_CPU_FEATURES=")
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


@dataclass
class _State:
    run: RunPlan | None = None
    origin: Origin | None = None
    engine: Any = None  # owns the code


_state = _State()
_lock = threading.Lock()


def cache_folder() -> Path:
    """Where machine code is kept: BITPLANE_CACHE_DIR, or `bitplane` in NUMBA_CACHE_DIR or in the user's cache folder."""
    if given := os.environ.get("BITPLANE_CACHE_DIR"):
        return Path(given).absolute()
    if given := os.environ.get("NUMBA_CACHE_DIR"):
        return Path(given).absolute() / "bitplane"
    return user_cache()


def user_cache() -> Path:
    """`bitplane` in the user's cache folder; not an absolute path if the user has no home."""
    from platformdirs import user_cache_path

    return user_cache_path("bitplane", appauthor=False)


def key() -> str:
    """Hexadecimal hash of what the machine code depends on."""
    digest = hashlib.sha256()
    options = [f"{name}={value}" for name, value in sorted(os.environ.items()) if name.startswith("NUMBA_")]
    compiler = [option for option in options if not option.startswith(OTHER_OPTIONS)]
    for part in (version("numba"), version("llvmlite"), llvm.get_process_triple(), cpu_name(), cpu_features(), *compiler):
        digest.update(part.encode() + b"\0")
    for path in [*sorted((Path(__file__).parents[1] / "kernels").glob("*.py")), Path(levels.__file__)]:
        digest.update(path.read_bytes() + b"\0")
    return digest.hexdigest()[:32]


def load() -> RunPlan:
    """The compiled walker, `kernels/walker.py`; the first call loads or compiles it, later ones return it.

    It takes the walker's arguments and releases the GIL while it runs.
    """
    with _lock:
        if _state.run is None:
            start = time.perf_counter()
            symbol, code, file, compiled, problem = _find_or_compile()
            _state.engine, _state.run = _link(symbol, code)
            _state.origin = Origin(file, compiled, time.perf_counter() - start, problem)
        return _state.run


def origin() -> Origin:
    """Where the code that `load` returned came from; loads it if need be."""
    load()
    assert _state.origin is not None
    return _state.origin


def _find_or_compile() -> tuple[str, bytes, Path | None, bool, str]:
    folder = cache_folder()
    file, problem = _file(folder), folder_problem(folder)
    if not problem and (found := _read(file)) is not None:
        return *found, file, False, ""
    if problem := problem or _write_problem(folder):
        text = f"{problem}; kernels are compiled anew in every process (BITPLANE_CACHE_DIR names another folder)"
        warnings.warn_explicit(text, RuntimeWarning, "bitplane", 1)  # one line: there is no source line to show
        return *compile_kernels(), None, True, problem
    with _locked(file):
        if (found := _read(file)) is not None:
            return *found, file, False, ""
        symbol, code = compile_kernels()
        problem = _write(file, symbol, code)
        return symbol, code, None if problem else file, True, problem


def _file(folder: Path) -> Path:
    return folder / f"kernels-{key()}.bin"


def keep_problem() -> str:
    """Why machine code can neither be found nor kept; "" if it can."""
    folder = cache_folder()
    return folder_problem(folder) or ("" if _read(_file(folder)) is not None else _write_problem(folder))


def folder_problem(folder: Path) -> str:
    """Why machine code in a folder, which is made if it is not there, cannot be trusted; "" if it can."""
    if not folder.is_absolute():
        return "this user has no home folder"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.stat()
    except OSError as e:
        return f"{folder} cannot be made ({e.strerror})"
    if hasattr(os, "geteuid"):
        if found.st_uid != os.geteuid():
            return f"{folder} belongs to another user"
        if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            return f"{folder} can be written by others (chmod go-w {folder})"
    return ""


def _write_problem(folder: Path) -> str:
    try:
        with tempfile.TemporaryFile(dir=folder):
            return ""
    except OSError as e:
        return f"{folder} cannot be written ({e.strerror})"


@contextmanager
def _locked(file: Path) -> Iterator[None]:
    """Hold the lock of a file; where the file system has no locks, go on without: the worst is compiling twice."""
    from filelock import FileLock

    lock = FileLock(f"{file}.lock", mode=0o600)
    try:
        lock.acquire()
    except (OSError, NotImplementedError):
        yield
        return
    try:
        yield
    finally:
        lock.release()


def _read(file: Path) -> tuple[str, bytes] | None:
    """Symbol and code of a file; None if it is missing, damaged or not this user's."""
    try:
        handle = os.open(file, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0))
    except OSError:
        return None
    with os.fdopen(handle, "rb") as f:
        found = os.fstat(f.fileno())
        if hasattr(os, "geteuid") and (found.st_uid != os.geteuid() or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)):
            return None
        content = f.read()
    head, _, rest = content[len(MAGIC) :].partition(b"\n")
    if not content.startswith(MAGIC) or head.decode("ascii", "replace") != hashlib.sha256(rest).hexdigest():
        return None
    symbol, _, code = rest.partition(b"\n")
    return symbol.decode(), code


def _write(file: Path, symbol: str, code: bytes) -> str:
    """Why the file could not be written, such as a full disk: then the next process compiles again; "" if it was."""
    rest = symbol.encode() + b"\n" + code
    content = MAGIC + hashlib.sha256(rest).hexdigest().encode() + b"\n" + rest
    temporary = None
    try:
        handle, temporary = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")  # mode 0600
        with os.fdopen(handle, "wb") as f:
            f.write(content)
            f.flush()
            os.fsync(f.fileno())
        os.replace(temporary, file)
    except OSError as e:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
        return f"{file} cannot be written ({e.strerror})"
    return ""


def compile_kernels() -> tuple[str, bytes]:
    """Compile the kernels: name of the entry point, and object code."""
    from bitplane.runtime.kernels.walker import compile_run_plan

    if not sys.flags.quiet and sys.stderr is not None and sys.stderr.isatty():
        print("bitplane: compiling kernels for this processor, once", file=sys.stderr)  # noqa: T201  half a minute without a word
    (overload,) = compile_run_plan().overloads.values()
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
        native(result, exception, *arguments)

    run_plan.slots = slots  # type: ignore[attr-defined]  keeps them alive
    return engine, run_plan
