"""OpenVINO: the float32 file (bf16 where the CPU has it), its int8 by NNCF or onnxruntime, and the inlined packed file."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import openvino as ov

from bitplane.benchmarks.peers import Loaded, Purpose


def load(file: str, threads: int, purpose: Purpose, variant: str = "") -> Loaded:
    """Compile a file for the CPU: hint LATENCY for one image at a time, THROUGHPUT (requests of one image) for many."""
    core = ov.Core()
    hint = "LATENCY" if purpose == "stream" else "THROUGHPUT"
    config = {"PERFORMANCE_HINT": hint, "INFERENCE_NUM_THREADS": threads}
    if variant:
        config["INFERENCE_PRECISION_HINT"] = variant
    model = core.read_model(file)
    if purpose == "offline":
        model.reshape([1, *(d.get_length() for d in list(model.inputs[0].partial_shape)[1:])])
    compiled = core.compile_model(model, "CPU", config)
    settings = {k: str(compiled.get_property(k)) for k in ("PERFORMANCE_HINT", "INFERENCE_NUM_THREADS", "NUM_STREAMS")}
    settings["INFERENCE_PRECISION_HINT"] = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
    if purpose == "stream":
        request = compiled.create_infer_request()
        return Loaded(lambda x: request.infer([x], share_inputs=True).to_tuple()[0], ov.__version__, settings)
    queue = ov.AsyncInferQueue(compiled)
    settings["requests"] = str(len(queue))

    def run(x: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        out: list[npt.NDArray[np.float32]] = [np.empty(0, np.float32)] * len(x)

        def keep(request: ov.InferRequest, index: int) -> None:
            out[index] = request.get_output_tensor(0).data[0].copy()

        queue.set_callback(keep)
        for i in range(len(x)):
            queue.start_async([x[i : i + 1]], i)
        queue.wait_all()
        return np.stack(out)

    return Loaded(run, ov.__version__, settings)


def convert(source: Path, images: npt.NDArray[np.uint8], out: Path, variant: str) -> None:
    """Make a file that OpenVINO opens.

    Args:
        source: a packed file, or for "nncf" a float32 ONNX file.
        images: uint8 [N, C, H, W]: calibration of int8.
        out: where to write.
        variant: "inlined": ONNX with model-local functions expanded; "nncf": int8 after training by NNCF (MIXED preset) in
            OpenVINO's format, out.xml and out.bin.
    """
    if variant == "inlined":
        import onnx
        import onnx.inliner

        from bitplane.format.checksums import serialize

        out.write_bytes(serialize(onnx.inliner.inline_local_functions(onnx.load(source))))
        return
    import nncf

    model = ov.Core().read_model(source)
    samples = nncf.Dataset([images[i : i + 1] for i in range(len(images))])
    quantized = nncf.quantize(model, samples, preset=nncf.QuantizationPreset.MIXED, subset_size=len(images))
    ov.save_model(quantized, out, compress_to_fp16=False)
