"""`InferenceSession`: onnxruntime's interface over a plan."""

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitplane.runtime import format as fmt
from bitplane.runtime.describe import LayerInfo, describe
from bitplane.runtime.errors import InputError
from bitplane.runtime.kernels.walker import run_plan
from bitplane.runtime.model import Conv, FloatConv, Model
from bitplane.runtime.parse import parse
from bitplane.runtime.plan import Plan, make_plan
from bitplane.runtime.trace import read_codes, read_features

SHARED_IMAGE_WORK = 100_000_000
"""Multiply-adds of one image from which several threads share it; below, waking them costs more than they save."""


@dataclass
class SessionOptions:
    """Options of a session, named as onnxruntime's.

    Attributes:
        intra_op_num_threads: threads of one `run`; 0 means one a processor.
    """

    intra_op_num_threads: int = 1


@dataclass(frozen=True)
class NodeArg:
    """An input or output: its name, onnxruntime's name of its type, and its shape."""

    name: str
    type: str
    shape: list[str | int]


@dataclass(frozen=True)
class ModelMetadata:
    """Metadata of the file, as in FORMAT.md."""

    custom_metadata_map: dict[str, str]
    graph_name: str = ""
    producer_name: str = "bitplane"


@dataclass
class _Worker:
    """One arena and its address."""

    memory: NDArray[np.uint8]
    address: int = field(init=False)

    def __post_init__(self) -> None:
        self.address = self.memory.ctypes.data


class InferenceSession:
    """Runs a packed file on the CPU.

    Images of a batch are divided among the session's threads; results do not depend on their number. Calls of `run` from
    several threads wait for each other: give each thread a session of its own, or one session more threads.

    Args:
        path_or_bytes: a packed file, or its bytes.
        sess_options: number of threads; `threads` overrides it.
        providers: accepted for onnxruntime's sake and not used: there is one provider.
        threads: threads of one `run`; 0 means one a processor.

    Raises:
        ModelError: the file cannot be read or breaks a rule of the format.
    """

    def __init__(
        self,
        path_or_bytes: str | os.PathLike[str] | bytes,
        sess_options: SessionOptions | None = None,
        providers: Sequence[Any] | None = None,
        *,
        threads: int | None = None,
    ) -> None:
        source = path_or_bytes if isinstance(path_or_bytes, bytes) else Path(path_or_bytes)
        wanted = threads if threads is not None else (sess_options or SessionOptions()).intra_op_num_threads
        self._threads = max(1, wanted or os.cpu_count() or 1)
        self._model: Model = parse(source)
        self._plan: Plan = make_plan(self._model, self._threads)
        self._constants = self._plan.constants.ctypes.data
        self._workers = [_Worker(self._plan.arena.create())]
        self._pool: ThreadPoolExecutor | None = None
        self._lock = Lock()
        self._barrier = np.zeros(16, np.int64)
        self._shape = self._model.tensors[fmt.INPUT_NAME].shape
        self._floats = self._model.tensors[fmt.INPUT_NAME].kind == "floats"
        self._classes = self._model.tensors[fmt.OUTPUT_NAME].shape[0]
        self._share_image = self._threads > 1 and _work(self._model) >= SHARED_IMAGE_WORK

    def run(
        self,
        output_names: Sequence[str] | None,
        input_feed: Mapping[str, Any],
        run_options: Any = None,
    ) -> list[NDArray[np.float32]]:
        """Compute logits.

        Args:
            output_names: None, or ["logits"].
            input_feed: {"input": uint8 [N, C, H, W], or float32 where the model takes it}.
            run_options: accepted for onnxruntime's sake and not used.

        Returns:
            [logits], float32 [N, classes].

        Raises:
            InputError: a wrong name, type or shape.
        """
        if output_names is not None and list(output_names) != [fmt.OUTPUT_NAME]:
            raise InputError(f"outputs {list(output_names)} were asked for, the model has ['{fmt.OUTPUT_NAME}']")
        images = self._check(input_feed)
        logits = np.empty((images.shape[0], self._classes), np.float32)
        with self._lock:
            self._run(images, logits)
        return [logits]

    def _check(self, input_feed: Mapping[str, Any]) -> NDArray[Any]:
        if list(input_feed) != [fmt.INPUT_NAME]:
            raise InputError(f"inputs {list(input_feed)} were given, the model has ['{fmt.INPUT_NAME}']")
        value = np.asarray(input_feed[fmt.INPUT_NAME])
        if self._floats:
            if value.dtype != np.float32:
                raise InputError(f"input '{fmt.INPUT_NAME}' is {value.dtype}, expected float32, normalized as in training")
            if not np.isfinite(value).all():
                raise InputError(f"input '{fmt.INPUT_NAME}' contains NaN or infinity, expected finite values")
        elif value.dtype != np.uint8:
            if value.dtype.kind == "f" and np.isnan(value).any():
                raise InputError(f"input '{fmt.INPUT_NAME}' is {value.dtype} and contains NaN, expected uint8 pixels 0 to 255")
            raise InputError(f"input '{fmt.INPUT_NAME}' is {value.dtype}, expected uint8 pixels, without normalization")
        if value.ndim != 4 or value.shape[1:] != self._shape:
            raise InputError(
                f"input '{fmt.INPUT_NAME}' has shape {list(value.shape)}, expected [batch, {str(list(self._shape))[1:]}"
            )
        return np.ascontiguousarray(value)

    def _run(self, images: NDArray[Any], logits: NDArray[np.float32]) -> None:
        count = len(images)
        if self._threads == 1 or count == 0 or (count == 1 and not self._share_image):
            self._call(0, images, logits, 0, count)
        elif count == 1:
            self._barrier[:] = 0
            self._parallel([(0, 0, 1, part, self._threads) for part in range(self._threads)], images, logits)
        else:
            parts = min(self._threads, count)
            cuts = [count * part // parts for part in range(parts + 1)]
            self._parallel([(part, cuts[part], cuts[part + 1], 0, 1) for part in range(parts)], images, logits)

    def _call(
        self,
        worker: int,
        images: NDArray[Any],
        logits: NDArray[np.float32],
        begin: int,
        end: int,
        part: int = 0,
        parts: int = 1,
    ) -> None:
        image_bytes, logits_bytes = images.strides[0], logits.strides[0]
        run_plan(
            self._plan.table,
            self._workers[worker].address,
            self._constants,
            images.ctypes.data + begin * image_bytes,
            image_bytes,
            logits.ctypes.data + begin * logits_bytes,
            logits_bytes,
            end - begin,
            part << 32 | parts,
            self._barrier.ctypes.data,
        )

    def _parallel(self, calls: list[tuple[int, int, int, int, int]], images: NDArray[Any], logits: NDArray[np.float32]) -> None:
        """Run all calls (worker, begin, end, part, parts) at once, the first of them here."""
        while len(self._workers) <= max(call[0] for call in calls):
            self._workers.append(_Worker(self._plan.arena.create()))
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self._threads - 1, thread_name_prefix="bitplane")
        pending = [self._pool.submit(self._call, w, images, logits, b, e, p, n) for w, b, e, p, n in calls[1:]]
        w, b, e, p, n = calls[0]
        self._call(w, images, logits, b, e, p, n)
        for future in pending:
            future.result()

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
        images = self._check(input_feed)
        plan = make_plan(self._model, 1, merge, reuse=False)
        memory = plan.arena.create()
        out: dict[str, list[NDArray[Any]]] = {}
        for image in images:
            logits = np.empty(self._classes, np.float32)
            addresses = memory.ctypes.data, plan.constants.ctypes.data, image.ctypes.data
            run_plan(plan.table, *addresses, 0, logits.ctypes.data, 0, 1, 1, 0)
            for name, (layout, at) in plan.codes.items():
                out.setdefault(name, []).append(read_codes(memory, layout, at, self._model.tensors[name].shape[0]))
            for name, (layout, at) in plan.features.items():
                channels = self._model.tensors[name].shape[0]
                out.setdefault(name, []).append(read_features(memory, layout, at, channels))
            out.setdefault(fmt.OUTPUT_NAME, []).append(logits)
        return {name: np.stack(values) for name, values in out.items()}

    def kernels(self) -> dict[str, str]:
        """What runs each layer, by node name; such as "popcount ternary x2b, 16-bit lanes, P8C1, threshold epilogue"."""
        return dict(self._plan.kernels)

    def layers(self) -> list[LayerInfo]:
        """Every convolution and fully connected layer: shapes, bits, multiply-adds, bytes and kernel."""
        return describe(self._model, self.kernels())

    def get_inputs(self) -> list[NodeArg]:
        """The one input."""
        kind = "tensor(float)" if self._floats else "tensor(uint8)"
        return [NodeArg(fmt.INPUT_NAME, kind, [fmt.BATCH_AXIS, *self._shape])]

    def get_outputs(self) -> list[NodeArg]:
        """The one output."""
        return [NodeArg(fmt.OUTPUT_NAME, "tensor(float)", [fmt.BATCH_AXIS, self._classes])]

    def get_modelmeta(self) -> ModelMetadata:
        """Metadata of the file."""
        return ModelMetadata(dict(self._model.metadata))

    def get_providers(self) -> list[str]:
        """Names of what runs the model."""
        return ["BitplaneExecutionProvider"]


def _work(model: Model) -> int:
    """Multiply-adds of one image's convolutions."""
    total = 0
    for node in model.nodes:
        if isinstance(node, Conv | FloatConv):
            _, height, width = model.tensors[node.output].shape
            total += prod(node.weight_shape) * height * width
    return total
