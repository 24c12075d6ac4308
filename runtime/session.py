"""`InferenceSession`: onnxruntime's interface over a plan."""

import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bitplane.atomic import write_file
from bitplane.format import names as fmt
from bitplane.runtime.errors import InputError, ResourceError
from bitplane.runtime.execute import machine_code
from bitplane.runtime.execute.threads import Executor
from bitplane.runtime.model.file import read_file
from bitplane.runtime.model.graph import Model
from bitplane.runtime.model.parse import parse
from bitplane.runtime.options import (
    SessionOptions,
    check_providers,
    check_run_options,
    get_available_providers,
    read_options,
    read_threads,
)
from bitplane.runtime.plan.make import make_plan
from bitplane.runtime.plan.options import PlanOptions
from bitplane.runtime.plan.plan import Plan
from bitplane.runtime.process import memory_limit, processors

if TYPE_CHECKING:  # what a run does not need is imported where it is used: every start pays for it
    from bitplane.runtime.binding import IOBinding, OrtValue
    from bitplane.runtime.inspect.describe import LayerInfo
    from bitplane.runtime.inspect.profile import Event, StepTime

SHARED_STEP_WORK = 300_000
"""Modeled instructions of an average step from which threads share an image; below, meeting after every step costs too much.

Two threads against one on a Zen 5, with 0 here: ResNet-56 takes 1.4 times as long at 28,000 (binary, 1 bit), 1.1 times at
40,000 and, by AVX2, at 179,000 (ternary, 2 bits), 0.9 times at 77,000 (8 bits); ResNet-18 at 224x224 0.5 to 0.65 times from
670,000 on.
"""


@dataclass(frozen=True)
class NodeArg:
    """An input or output: its name, onnxruntime's name of its type, and its shape."""

    name: str
    type: str
    shape: list[str | int]


@dataclass(frozen=True)
class ModelMetadata:
    """Metadata of the file; `custom_metadata_map` as in FORMAT.md."""

    custom_metadata_map: dict[str, str]
    producer_name: str = ""
    graph_name: str = ""
    domain: str = ""
    description: str = ""
    graph_description: str = ""
    version: int = 0


class InferenceSession:
    """Runs a packed file on the CPU.

    Images of a batch are divided among the session's threads; results do not depend on their number. `run` may be called from
    several Python threads at once: the calls run at the same time, each with memory and helping threads of its own.

    Args:
        path_or_bytes: a packed file, or its bytes.
        sess_options: ours, or an onnxruntime `SessionOptions`; `threads` overrides its number of threads.
        providers: there is one provider, and a warning for names of others.
        provider_options: accepted without effect.
        threads: threads of one `run`; 0 means one for each processor that this process may use.
        verify_key: path of a public key (PEM, P-256, P-384 or P-521): the file must be signed by its owner, in the file of its
            name and ".sig" (`bitplane.signature`). None asks for no signature.

    Raises:
        ModelError: the file cannot be read or breaks a rule of the format.
        SignatureError: the file is not signed by `verify_key`.
        InputError: an option cannot be used.
    """

    def __init__(
        self,
        path_or_bytes: str | os.PathLike[str] | bytes | bytearray | memoryview,
        sess_options: Any = None,
        providers: Sequence[Any] | None = None,
        provider_options: Sequence[Any] | None = None,
        *,
        threads: int | None = None,
        verify_key: str | os.PathLike[str] | None = None,
    ) -> None:
        self._options = options = read_options(sess_options)
        check_providers(providers, provider_options)
        wanted = read_threads(options.intra_op_num_threads if threads is None else threads)
        self._threads = wanted or processors()
        is_path = isinstance(path_or_bytes, str | os.PathLike)
        source = Path(path_or_bytes) if is_path else bytes(path_or_bytes)  # type: ignore[arg-type]
        self._model: Model = parse(read_file(source, verify_key))
        try:
            self._plan: Plan = make_plan(self._model, PlanOptions(self._threads))
            self._run_plan = machine_code.load()
            self._idle = [self._executor()]
        except MemoryError as e:
            raise ResourceError(f"{self._model.label}: needs more memory than this process can have") from e
        self._events: list[Event] | None = [] if options.enable_profiling else None
        self._started = time.perf_counter_ns()
        self._shape = self._model.tensors[fmt.INPUT_NAME].shape
        self._floats = self._model.tensors[fmt.INPUT_NAME].kind == "floats"
        self._classes = self._model.tensors[fmt.OUTPUT_NAME].shape[0]
        self._share_image = self._threads > 1 and self._is_worth_sharing()

    def _is_worth_sharing(self) -> bool:
        """Whether threads that share an image save more than meeting after every step costs."""
        from bitplane.runtime.inspect.model_cost import instructions

        return instructions(self._plan) >= SHARED_STEP_WORK * len(self._plan.table)

    def _executor(self) -> Executor:
        return Executor(self._run_plan, self._plan, self._threads, self._options.allow_spinning)

    def run(
        self,
        output_names: Sequence[str] | None,
        input_feed: Mapping[str, Any],
        run_options: Any = None,
    ) -> list[NDArray[np.float32]]:
        """Compute logits.

        Args:
            output_names: None, [] or ["logits"].
            input_feed: {"input": uint8 [N, C, H, W], or float32 where the model takes it}; an array or an `OrtValue`.
            run_options: `RunOptions`, accepted without effect but for `terminate`.

        Returns:
            [logits], float32 [N, classes].

        Raises:
            InputError: a wrong name, type or shape.
            ResourceError: there is not enough memory, or a thread cannot be started.
        """
        check_run_options(run_options)
        if output_names is not None and (isinstance(output_names, str) or list(output_names) not in ([], [fmt.OUTPUT_NAME])):
            raise InputError(f"outputs {output_names!r} were asked for, the model has ['{fmt.OUTPUT_NAME}']")
        try:
            return [self._logits(self._check(input_feed))]
        except MemoryError as e:
            raise ResourceError("the call needs more memory than this process can have; give smaller batches") from e

    def _logits(self, images: NDArray[Any]) -> NDArray[np.float32]:
        logits = np.empty((images.shape[0], self._classes), np.float32)
        try:
            executor = self._idle.pop()
        except IndexError:
            executor = self._executor()
        events = self._events
        if events is None:
            executor.run(images, logits, self._share_image)
        else:
            from bitplane.runtime.inspect.profile import run_steps

            events.extend(run_steps(self._run_plan, self._plan, executor.memory, images, logits))
        self._idle.append(executor)  # not after an exception: parts of the call may still run
        return logits

    def run_with_ort_values(
        self, output_names: Sequence[str] | None, input_dict_ort_values: "Mapping[str, OrtValue]", run_options: Any = None
    ) -> "list[OrtValue]":
        """`run` on values, with values as results."""
        from bitplane.runtime.binding import OrtValue

        return [OrtValue(a) for a in self.run(output_names, input_dict_ort_values, run_options)]

    def io_binding(self) -> "IOBinding":
        """Inputs and outputs to be bound by name."""
        from bitplane.runtime.binding import IOBinding

        return IOBinding([fmt.OUTPUT_NAME])

    def run_with_iobinding(self, iobinding: "IOBinding", run_options: Any = None) -> None:
        """`run` on what is bound; results go where they are bound to."""
        iobinding.run(lambda feed: self.run(None, feed, run_options))

    def run_async(
        self,
        output_names: Sequence[str] | None,
        input_feed: Mapping[str, Any],
        callback: Callable[[list[NDArray[np.float32]], Any, str], None],
        user_data: Any = None,
        run_options: Any = None,
    ) -> None:
        """`run` in a thread, which then calls `callback(results, user_data, error)`; `error` is "" where all went well."""

        def work() -> None:
            try:
                results, error = self.run(output_names, input_feed, run_options), ""
            except Exception as e:
                results, error = [], str(e)
            callback(results, user_data, error)

        threading.Thread(target=work, name="bitplane run_async").start()

    def end_profiling(self) -> str:
        """Stop profiling and write what `run` did since the session was made, as a Chrome trace.

        Returns:
            The file's name: the prefix, the time, ".json".

        Raises:
            InputError: `enable_profiling` was not set, or the file cannot be written.
        """
        from bitplane.runtime.inspect.profile import chrome_trace

        if self._events is None:
            raise InputError("profiling is off; set `enable_profiling` of SessionOptions before the session is made")
        name = f"{self._options.profile_file_prefix}_{time.strftime('%Y-%m-%d_%H-%M-%S')}.json"
        steps = self.profiled()
        write_file(Path(name), chrome_trace(self._plan, self._events, steps, self._model.label).encode(), InputError)
        self._events = None
        return name

    def profiled(self) -> "list[StepTime]":
        """The steps with the medians of what was profiled so far.

        Raises:
            InputError: `enable_profiling` was not set.
        """
        from bitplane.runtime.inspect.profile import summarize

        if self._events is None:
            raise InputError("profiling is off; set `enable_profiling` of SessionOptions before the session is made")
        return summarize(self._plan, self._events, {layer.name: layer.multiply_adds for layer in self.layers()})

    def _check(self, input_feed: Mapping[str, Any]) -> NDArray[Any]:
        try:
            return self._checked(input_feed)
        except MemoryError:
            raise InputError(f"input '{fmt.INPUT_NAME}' needs more memory than there is; give smaller batches") from None

    def _checked(self, input_feed: Mapping[str, Any]) -> NDArray[Any]:
        if not isinstance(input_feed, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]  callers need not have types
            raise InputError(f"the input feed is {type(input_feed).__name__}, expected {{'{fmt.INPUT_NAME}': images}}")
        if list(input_feed) != [fmt.INPUT_NAME]:
            raise InputError(f"inputs {list(input_feed)} were given, the model has ['{fmt.INPUT_NAME}']")
        try:
            value = np.asarray(_plain_value(input_feed[fmt.INPUT_NAME]))
        except (TypeError, ValueError) as error:
            raise InputError(f"input '{fmt.INPUT_NAME}' is no array ({' '.join(str(error).split())[:100]})") from None
        if value.dtype != (np.float32 if self._floats else np.uint8):
            wanted = "float32, normalized as in training" if self._floats else "uint8 pixels, without normalization"
            if not self._floats and value.dtype.kind == "f" and np.isnan(value).any():
                raise InputError(f"input '{fmt.INPUT_NAME}' is {value.dtype} and contains NaN, expected uint8 pixels 0 to 255")
            raise InputError(f"input '{fmt.INPUT_NAME}' is {value.dtype}, expected {wanted}")
        if value.ndim != 4 or value.shape[1:] != self._shape:
            raise InputError(
                f"input '{fmt.INPUT_NAME}' has shape {list(value.shape)}, expected [batch, {str(list(self._shape))[1:]}"
            )
        if not value.flags.c_contiguous and value.nbytes > memory_limit():
            raise MemoryError  # a view of little memory would become a copy of more than there is
        value = np.require(value, requirements=["C", "A"])  # a copy where it is not contiguous, or its float32 not aligned
        if self._floats and not np.isfinite(value).all():
            raise InputError(f"input '{fmt.INPUT_NAME}' contains NaN or infinity, expected finite values")
        return value

    def trace(self, input_feed: Mapping[str, Any], merge: bool = True) -> dict[str, NDArray[Any]]:
        """Compute logits and every value between, for tests and for study.

        Args:
            input_feed: {"input": uint8 [N, C, H, W], or float32 where the model takes it}.
            merge: True runs the kernels that `run` uses and returns the values they leave in memory; False runs every node by
                itself and returns all values.

        Returns:
            Tensor name to codes uint8 or features float32, [N, C, H, W], and to logits float32 [N, classes].

        Raises:
            InputError: a wrong name, type or shape.
        """
        from bitplane.runtime.inspect.trace import trace

        images = self._check(input_feed)
        return trace(self._run_plan, self._model, images, merge)

    def kernels(self) -> dict[str, str]:
        """What runs each layer, by node name; such as "popcount ternary x2b, 16-bit lanes, P8C1, threshold epilogue"."""
        return {name: kernel.text for name, kernel in self._plan.kernels().items()}

    def layers(self) -> "list[LayerInfo]":
        """Every convolution and fully connected layer: shapes, bits, multiply-adds, bytes and kernel."""
        from bitplane.runtime.inspect.describe import describe

        return describe(self._model, self._plan.kernels(), self._plan.estimates)

    def get_inputs(self) -> list[NodeArg]:
        """The one input."""
        kind = "tensor(float)" if self._floats else "tensor(uint8)"
        return [NodeArg(fmt.INPUT_NAME, kind, [fmt.BATCH_AXIS, *self._shape])]

    def get_outputs(self) -> list[NodeArg]:
        """The one output."""
        return [NodeArg(fmt.OUTPUT_NAME, "tensor(float)", [fmt.BATCH_AXIS, self._classes])]

    def get_modelmeta(self) -> ModelMetadata:
        """Metadata of the file."""
        return ModelMetadata(dict(self._model.metadata), **asdict(self._model.info))

    def get_providers(self) -> list[str]:
        """Names of what runs the model."""
        return get_available_providers()

    def get_provider_options(self) -> dict[str, dict[str, str]]:
        """Options of the provider: none."""
        return {name: {} for name in self.get_providers()}

    def set_providers(self, providers: Sequence[Any] | None = None, provider_options: Sequence[Any] | None = None) -> None:
        """Accepted without effect; a warning for names of other providers."""
        check_providers(providers, provider_options)

    def get_session_options(self) -> SessionOptions:
        """The options of this session."""
        return self._options

    def get_overridable_initializers(self) -> list[NodeArg]:
        """Constants that a feed may replace: none."""
        return []

    def get_profiling_start_time_ns(self) -> int:
        """When the session was made, in nanoseconds of `time.perf_counter_ns`."""
        return self._started

    def enable_fallback(self) -> None:
        """Accepted without effect."""

    def disable_fallback(self) -> None:
        """Accepted without effect."""


def _plain_value(value: Any) -> Any:
    """The array of an `OrtValue`, ours or onnxruntime's; anything else as it is."""
    return value.numpy() if type(value).__name__ == "OrtValue" else value
