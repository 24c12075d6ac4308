"""onnxruntime's `OrtValue` and `IOBinding`: values and buffers by name, all in the memory of this process."""

import ctypes
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitplane.runtime.errors import InputError

TYPE_NAMES = {"uint8": "tensor(uint8)", "float32": "tensor(float)"}
"""Name of a dtype to onnxruntime's name of its tensors."""


class OrtValue:
    """An array with onnxruntime's interface. Make one with `ortvalue_from_numpy` or `ortvalue_from_shape_and_type`."""

    def __init__(self, array: NDArray[Any]) -> None:
        self._array = array

    @staticmethod
    def ortvalue_from_numpy(numpy_obj: NDArray[Any], device_type: str = "cpu", device_id: int = 0) -> "OrtValue":
        """A value that shares memory with an array.

        Raises:
            InputError: the device is not the CPU.
        """
        _check_device(device_type)
        return OrtValue(np.asarray(numpy_obj))

    @staticmethod
    def ortvalue_from_shape_and_type(
        shape: Sequence[int], element_type: Any = np.float32, device_type: str = "cpu", device_id: int = 0
    ) -> "OrtValue":
        """A value of zeros.

        Raises:
            InputError: the device is not the CPU.
        """
        _check_device(device_type)
        return OrtValue(np.zeros(tuple(shape), element_type))

    def numpy(self) -> NDArray[Any]:
        """The array itself."""
        return self._array

    def shape(self) -> list[int]:
        """Its shape."""
        return list(self._array.shape)

    def data_type(self) -> str:
        """Onnxruntime's name of its type."""
        name = self._array.dtype.name
        return TYPE_NAMES.get(name, f"tensor({name})")

    def device_name(self) -> str:
        """Where it lies."""
        return "cpu"

    def data_ptr(self) -> int:
        """Address of its first element."""
        return self._array.ctypes.data

    def is_tensor(self) -> bool:
        """Whether it is a tensor: always."""
        return True

    def has_value(self) -> bool:
        """Whether it holds a value: always."""
        return True

    def tensor_size_in_bytes(self) -> int:
        """Bytes of its elements."""
        return self._array.nbytes

    def update_inplace(self, np_arr: NDArray[Any]) -> None:
        """Copy an array of the same shape and type into it.

        Raises:
            InputError: shape or type differ.
        """
        if np_arr.shape != self._array.shape or np_arr.dtype != self._array.dtype:
            have, given = f"{self._array.dtype} {self.shape()}", f"{np_arr.dtype} {list(np_arr.shape)}"
            raise InputError(f"update_inplace: the value is {have}, the array {given}; give an array of the same")
        np.copyto(self._array, np_arr)


class IOBinding:
    """Inputs and outputs by name for `InferenceSession.run_with_iobinding`.

    Args:
        outputs: names of the session's outputs.
    """

    def __init__(self, outputs: Sequence[str]) -> None:
        self._known = list(outputs)
        self.inputs: dict[str, Any] = {}
        self.outputs: dict[str, NDArray[Any] | None] = {}  # where to write; None: new memory
        self.results: list[OrtValue] = []

    def bind_cpu_input(self, name: str, arr_on_cpu: NDArray[Any]) -> None:
        """Take an array as an input."""
        self.inputs[name] = arr_on_cpu

    def bind_ortvalue_input(self, name: str, ortvalue: OrtValue) -> None:
        """Take a value as an input."""
        self.inputs[name] = ortvalue

    def bind_input(
        self, name: str, device_type: str, device_id: int, element_type: Any, shape: Sequence[int], buffer_ptr: int
    ) -> None:  # onnxruntime's signature
        """Take memory at an address as an input; it must stay there until the run is over.

        Raises:
            InputError: the device is not the CPU.
        """
        _check_device(device_type)
        self.inputs[name] = _at(buffer_ptr, element_type, shape)

    def bind_output(
        self,
        name: str,
        device_type: str = "cpu",
        device_id: int = 0,
        element_type: Any = None,
        shape: Sequence[int] | None = None,
        buffer_ptr: int | None = None,
    ) -> None:  # onnxruntime's signature
        """Ask for an output: in new memory, or written to an address.

        Raises:
            InputError: no such output, the device is not the CPU, or an address without type and shape.
        """
        _check_device(device_type)
        if buffer_ptr is None:
            self._bind(name, None)
        elif element_type is None or shape is None:
            raise InputError(f"bind_output '{name}': an address needs element_type and shape too")
        else:
            self._bind(name, _at(buffer_ptr, element_type, shape))

    def bind_ortvalue_output(self, name: str, ortvalue: OrtValue) -> None:
        """Ask for an output, written into a value."""
        self._bind(name, ortvalue.numpy())

    def _bind(self, name: str, target: NDArray[Any] | None) -> None:
        if name not in self._known:
            raise InputError(f"output '{name}' was bound, the model has {self._known}")
        self.outputs[name] = target

    def get_outputs(self) -> list[OrtValue]:
        """The results of the last run, in the order in which outputs were bound."""
        return self.results

    def copy_outputs_to_cpu(self) -> list[NDArray[Any]]:
        """The same as arrays."""
        return [value.numpy() for value in self.results]

    def clear_binding_inputs(self) -> None:
        """Forget the inputs."""
        self.inputs.clear()

    def clear_binding_outputs(self) -> None:
        """Forget the outputs."""
        self.outputs.clear()

    def synchronize_inputs(self) -> None:
        """Nothing to wait for."""

    def synchronize_outputs(self) -> None:
        """Nothing to wait for."""

    def run(self, run: Callable[[Mapping[str, Any]], list[NDArray[Any]]]) -> None:
        """Call `run` with the inputs, and put its results where they were asked for.

        Raises:
            InputError: no output was bound, or a result does not fit its place.
        """
        if not self.outputs:
            raise InputError("no output is bound; call bind_output first")
        results = dict(zip(self._known, run(self.inputs), strict=True))
        self.results = []
        for name, target in self.outputs.items():
            value = results[name]
            if target is not None:
                if target.shape != value.shape or target.dtype != value.dtype:
                    bound, made = f"{target.dtype} {list(target.shape)}", f"{value.dtype} {list(value.shape)}"
                    raise InputError(f"output '{name}' is {made}, but {bound} is bound to it")
                np.copyto(target, value)
            self.results.append(OrtValue(value if target is None else target))


def _check_device(device_type: str) -> None:
    if device_type.lower() != "cpu":
        raise InputError(f"device '{device_type}' does not exist here, expected 'cpu'")


def _at(address: int, element_type: Any, shape: Sequence[int]) -> NDArray[Any]:
    """The array at an address."""
    kind = np.dtype(element_type)
    size = int(np.prod(shape, dtype=np.int64)) * kind.itemsize
    memory = np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))
    return memory.view(kind).reshape(tuple(shape))
