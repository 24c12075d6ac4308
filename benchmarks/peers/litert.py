"""LiteRT (once TensorFlow Lite): the float32 file converted by litert-torch, and its int8 form by ai-edge-quantizer."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bitplane.benchmarks.peers import Loaded, Purpose


def load(file: str, threads: int, purpose: Purpose, variant: str = "") -> Loaded:
    """Open a .tflite file of one image; XNNPACK is on by default."""
    from importlib.metadata import version

    from ai_edge_litert.interpreter import Interpreter  # pyright: ignore[reportMissingImports]

    interpreter = Interpreter(model_path=file, num_threads=threads)
    interpreter.allocate_tensors()
    source, result = interpreter.get_input_details()[0], interpreter.get_output_details()[0]

    def run(x: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        out = []
        for i in range(len(x)):
            interpreter.set_tensor(source["index"], to_stored(x[i : i + 1], source))
            interpreter.invoke()
            out.append(from_stored(interpreter.get_tensor(result["index"])[0], result))
        return np.stack(out)

    return Loaded(run, version("ai-edge-litert"), {"num_threads": str(threads), "delegate": "XNNPACK"})


def to_stored(values: npt.NDArray[Any], tensor: dict[str, Any]) -> npt.NDArray[Any]:
    """Values as an interpreter's tensor stores them: by its scale and zero point where it is one of integers."""
    scale, zero = tensor["quantization"]
    if not scale:
        return values.astype(tensor["dtype"])
    limits = np.iinfo(tensor["dtype"])
    return np.clip(np.rint(values / scale) + zero, limits.min, limits.max).astype(tensor["dtype"])


def from_stored(stored: npt.NDArray[Any], tensor: dict[str, Any]) -> npt.NDArray[np.float32]:
    """The values of an interpreter's tensor."""
    scale, zero = tensor["quantization"]
    return ((stored.astype(np.float32) - zero) * scale if scale else stored).astype(np.float32)


def convert(source: Path, images: npt.NDArray[np.uint8], out: Path, variant: str) -> None:
    """Write a float32 ONNX file as .tflite, with float32 pixels as input.

    Args:
        source: the ONNX file.
        images: uint8 [N, C, H, W]: calibration of int8.
        out: where to write.
        variant: "float32", or "int8": static int8 activations and weights, by ai-edge-quantizer's recipe.
    """
    import litert_torch  # pyright: ignore[reportMissingImports]
    import torch

    from bitplane.benchmarks.peers.torch import module

    sample = torch.from_numpy(images[:1]).float()
    converted = litert_torch.convert(module(str(source)), (sample,))
    converted.export(str(out))
    if variant == "int8":
        from ai_edge_quantizer import quantizer, recipe  # pyright: ignore[reportMissingImports]

        q = quantizer.Quantizer(str(out), recipe.static_wi8_ai8())
        key, name = next(iter(_signature(out).items()))
        found = q.calibrate({key: [{name: images[i : i + 1].astype(np.float32)} for i in range(len(images))]})
        out.unlink()
        q.quantize(found).export_model(str(out))


def _signature(file: Path) -> dict[str, str]:
    # Key of the file's signature to the name of its one input.
    from ai_edge_litert.interpreter import Interpreter  # pyright: ignore[reportMissingImports]

    return {k: v["inputs"][0] for k, v in Interpreter(model_path=str(file)).get_signature_list().items()}
