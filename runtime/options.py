"""Options of a session and of a run, named as onnxruntime's. docs/onnxruntime.md says what each does here."""

import contextlib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from enum import IntEnum
from typing import Any

from bitplane.runtime.errors import InputError

PROVIDER = "BitplaneExecutionProvider"
"""The one provider; CPUExecutionProvider means it too."""
SPINNING = "session.intra_op.allow_spinning"


class OptionError(InputError, AttributeError):
    """An option that does not exist."""


class GraphOptimizationLevel(IntEnum):
    """Accepted without effect: a plan is always the best one known."""

    ORT_DISABLE_ALL = 0
    ORT_ENABLE_BASIC = 1
    ORT_ENABLE_EXTENDED = 2
    ORT_ENABLE_LAYOUT = 3
    ORT_ENABLE_ALL = 99


class ExecutionMode(IntEnum):
    """Accepted without effect: instructions run one after the other."""

    ORT_SEQUENTIAL = 0
    ORT_PARALLEL = 1


class _Options:
    """Refuses attributes that do not exist: a misspelled option would be ignored without a word."""

    def __setattr__(self, name: str, value: Any) -> None:
        known = [f.name for f in fields(self)]  # type: ignore[arg-type]  every subclass is a dataclass
        if name not in known:
            raise OptionError(f"{type(self).__name__} has no option '{name}'; known are {', '.join(known)}")
        super().__setattr__(name, value)


@dataclass
class SessionOptions(_Options):
    """Options of a session.

    Attributes:
        intra_op_num_threads: threads of one `run`; 0 means one for each processor that this process may use.
        enable_profiling: time every step of every `run`, on one thread; `end_profiling` writes the trace.
        profile_file_prefix: start of the trace's file name.
        allow_spinning: whether threads that helped look for the next call for about a millisecond before they sleep; the entry
            "session.intra_op.allow_spinning" sets it too.

    The other attributes are onnxruntime's and accepted without effect.
    """

    intra_op_num_threads: int = 1
    enable_profiling: bool = False
    profile_file_prefix: str = "bitplane_profile"
    allow_spinning: bool = True
    inter_op_num_threads: int = 0
    execution_mode: Any = ExecutionMode.ORT_SEQUENTIAL
    execution_order: Any = 0
    graph_optimization_level: Any = GraphOptimizationLevel.ORT_ENABLE_ALL
    enable_cpu_mem_arena: bool = True
    enable_mem_pattern: bool = True
    enable_mem_reuse: bool = True
    log_severity_level: int = -1
    log_verbosity_level: int = 0
    logid: str = ""
    optimized_model_filepath: str = ""
    use_deterministic_compute: bool = False
    use_per_session_threads: bool = True
    config_entries: dict[str, str] = field(default_factory=dict[str, str])

    def add_session_config_entry(self, key: str, value: str) -> None:
        """Keep an entry; only "session.intra_op.allow_spinning" has an effect."""
        self.config_entries[key] = value
        if key == SPINNING:
            self.allow_spinning = value != "0"

    def get_session_config_entry(self, key: str) -> str:
        """The entry of a key.

        Raises:
            InputError: there is none.
        """
        if key not in self.config_entries:
            raise InputError(f"session options have no entry '{key}'; set it with add_session_config_entry")
        return self.config_entries[key]

    def register_custom_ops_library(self, path: str) -> None:
        """Refused: code beside the file is never loaded.

        Raises:
            InputError: always.
        """
        raise InputError(f"custom operators ({path}) cannot be registered: a packed file has its own operators only")


@dataclass
class RunOptions(_Options):
    """Options of a run, onnxruntime's; accepted without effect, but `terminate`: such a run is refused."""

    log_severity_level: int = -1
    log_verbosity_level: int = 0
    logid: str = ""
    only_execute_path_to_fetches: bool = False
    terminate: bool = False
    config_entries: dict[str, str] = field(default_factory=dict[str, str])

    def add_run_config_entry(self, key: str, value: str) -> None:
        """Keep an entry; none has an effect."""
        self.config_entries[key] = value


def read_options(given: Any) -> SessionOptions:
    """Session options of None, of ours, or of an onnxruntime `SessionOptions` object.

    Raises:
        InputError: it is something else, or a value that cannot be used.
    """
    if given is None:
        return SessionOptions()
    if isinstance(given, SessionOptions):
        options = given
    elif hasattr(given, "intra_op_num_threads") and hasattr(given, "graph_optimization_level"):
        options = SessionOptions(**{f.name: getattr(given, f.name) for f in fields(SessionOptions) if hasattr(given, f.name)})
        with contextlib.suppress(Exception):  # onnxruntime raises where there is no such entry
            options.add_session_config_entry(SPINNING, given.get_session_config_entry(SPINNING))
    else:
        raise InputError(f"sess_options is {type(given).__name__}, expected SessionOptions")
    if options.optimized_model_filepath:
        raise InputError("optimized_model_filepath is not supported: a packed file is already optimized; leave it empty")
    return options


def read_threads(given: Any) -> int:
    """A number of threads: 0 or more.

    Raises:
        InputError: it is none.
    """
    if isinstance(given, bool) or not isinstance(given, int) or given < 0:
        raise InputError(f"threads is {given!r}, expected an integer of at least 0 (0: one for each processor)")
    return given


def check_providers(providers: Any, provider_options: Any) -> None:
    """Warn of providers that do not exist here.

    Raises:
        InputError: they are no sequence of names or (name, options), or there are not as many options.
    """
    if providers is None:
        return
    if isinstance(providers, str) or not isinstance(providers, Sequence):
        raise InputError(f"providers is {providers!r}, expected a list such as ['{PROVIDER}']")
    for entry in providers:
        name = entry[0] if isinstance(entry, tuple) and len(entry) == 2 else entry
        if not isinstance(name, str):
            raise InputError(f"providers holds {entry!r}, expected a name or (name, options)")
        if name not in (PROVIDER, "CPUExecutionProvider"):
            warnings.warn(f"provider '{name}' is not available, {PROVIDER} runs the model", UserWarning, stacklevel=3)
    if provider_options is not None and len(provider_options) != len(providers):
        raise InputError(f"provider_options has {len(provider_options)} entries for {len(providers)} providers")


def check_run_options(given: Any) -> None:
    """Refuse a run that is asked to end.

    Raises:
        InputError: `terminate` is set.
    """
    if given is not None and getattr(given, "terminate", False):
        raise InputError("the run was asked to terminate (RunOptions.terminate)")


def get_available_providers() -> list[str]:
    """Names of what can run a model."""
    return [PROVIDER]


def get_device() -> str:
    """The kind of device."""
    return "CPU"
