"""Ten thousand mutants of packed files, each refused in one line or computed as onnxruntime computes it.

    python tests/runtime/model/fuzz/run.py --count 10000 --json fuzz.json

Mutants run in other processes, a few hundred each, with a limit on address space and on processor time of each mutant: one that
crashes or hangs ends its process and is named by its seed. `--show SEED` runs one here, without limits; `--write SEED FILE`
keeps it.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import helper

if TYPE_CHECKING:
    import onnxruntime

TESTS = Path(__file__).resolve().parents[3]
SOURCES = [
    TESTS / "fixtures/format-1.1/every-operator.onnx",
    TESTS / "fixtures/format-1.1/ternary4.onnx",
    TESTS / "fixtures/format-1.2/reactnet.onnx",
    TESTS / "fixtures/format-1.4/four-levels.onnx",
    TESTS / "fixtures/format-1/binary1.onnx",
    TESTS / "fixtures/format-1/ternary2.onnx",
    TESTS / "fixtures/format-1/quaternary4.onnx",
    *(TESTS.parent / f"examples/resnet20-cifar10-{kind}.onnx" for kind in ("binary1", "ternary2", "ternary8")),
]
BATCH = 250
ADDRESS_SPACE = 6 << 30
SECONDS = 60
"""Processor time a mutant may take, onnxruntime's included."""
MOST_WORK = 3_000_000_000
"""Multiply-adds of the largest accepted mutant that is also run."""
GOOD = ("refused", "equal", "equal node by node", "equal to the reference", "not finite", "too large to run")
"""Outcomes that are no faults.

equal                   onnxruntime's logits
equal node by node      a quantizer reads float sums, whose order is not specified: each node, of our inputs, is onnxruntime's
equal to the reference  onnxruntime does not open the file; the logits are those of `runtime/inspect/reference.py`
not finite              the network overflows float32 and onnxruntime's logits are infinite or NaN
too large to run        accepted, but more than MOST_WORK multiply-adds
"""
TOLERANCE = 2e-5


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def source(seed: int) -> Path:
    """The file a mutant is made from; every second one is the small file that holds every operator."""
    return SOURCES[0] if seed % 2 else SOURCES[seed // 2 % len(SOURCES)]


def outcome(seed: int) -> tuple[str, str]:
    """What became of a mutant: a word of GOOD, or a fault; and why."""
    from mutate import mutant

    from bitplane.runtime import BitplaneError, InferenceSession

    done, data = mutant(source(seed).read_bytes(), seed)
    try:
        session = InferenceSession(data)
    except BitplaneError as error:
        message = str(error)
        one_line = message.isprintable() and len(message) < 1000
        return "refused" if one_line else "fault: not one line", f"{done}: {message!r}"[:1500]
    except MemoryError as error:
        return "fault: MemoryError", f"{done}: {error}"
    except (Exception, RecursionError) as error:
        return f"fault: {type(error).__name__}", f"{done}: {str(error)[:500]}"
    (given,) = session.get_inputs()
    rng = np.random.default_rng(seed)
    shape = (1 + seed % 2, *given.shape[1:])
    if sum(layer.multiply_adds for layer in session.layers()) > MOST_WORK or np.prod(shape, dtype=float) > 1e8:
        return "too large to run", done
    images = rng.integers(0, 256, shape).astype(np.uint8)
    if given.type == "tensor(float)":
        images = (images / 64 - 2).astype(np.float32)
    try:
        found = session.run(None, {given.name: images})[0]
    except Exception as error:
        return f"fault: {type(error).__name__} in run", f"{done}: {str(error)[:500]}"
    return compare(data, images, found, done)


def compare(data: bytes, images: np.ndarray, found: np.ndarray, done: str) -> tuple[str, str]:
    """Ours against onnxruntime, or against the NumPy reference where onnxruntime does not take the file."""
    import onnxruntime

    word = "equal"
    try:
        expected = onnxruntime.InferenceSession(data, quiet(), ["CPUExecutionProvider"]).run(None, {"input": images})[0]
    except Exception as error:
        word, done = "equal to the reference", f"{done}: {str(error)[:300]}"
        from bitplane.runtime.inspect.reference import evaluate
        from bitplane.runtime.model.parse import parse

        with np.errstate(all="ignore"):
            expected = np.stack([np.asarray(evaluate(parse(data), image)["logits"]).ravel() for image in images])
    expected = expected.reshape(len(images), -1)
    if expected.shape != found.shape:
        return "fault: shape", f"{done}: {found.shape}, expected {expected.shape}"
    if not np.isfinite(expected).all():
        return ("fault: finite logits" if np.isfinite(found).all() else "not finite"), done
    if close(found, expected):
        return word, done
    if word == "equal" and all(equal for _, equal in nodes(data, images)):
        return "equal node by node", done
    return "fault: other logits", f"{done}: {found.ravel()[:4]}, expected {expected.ravel()[:4]}"


def close(found: np.ndarray, expected: np.ndarray, terms: int = 1) -> bool:
    """Whether values are equal up to the order of a sum of `terms` float32."""
    scale = np.abs(expected).max() + 1
    return bool(np.abs(found / scale - expected / scale).max() <= max(TOLERANCE, terms * 2**-24))


def nodes(data: bytes, images: np.ndarray) -> Iterator[tuple[str, bool]]:
    """Every value that `trace` keeps, and whether onnxruntime makes the same of the values it is made from."""
    import onnxruntime

    from bitplane.runtime import InferenceSession

    model, traced = onnx.load_model_from_string(data), InferenceSession(data).trace({"input": images}, merge=False)
    traced["input"] = images
    makers = {n.output[0]: n for n in model.graph.node}
    constants = {t.name: t for t in model.graph.initializer}
    for name in traced.keys() & makers.keys():
        chosen, needed, pending = [], set(), [name]
        while pending:
            node = makers[pending.pop()]
            chosen.insert(0, node)
            needed.update(node.input)
            pending += [i for i in node.input if i in makers and i not in traced]
        given = {i: traced[i] for i in sorted(needed & traced.keys())}
        info = [helper.make_tensor_value_info(i, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape) for i, v in given.items()]
        made = [helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(traced[name].dtype), None)]
        graph = helper.make_graph(chosen, "g", info, made, [constants[i] for i in sorted(needed & constants.keys())])
        part = helper.make_model(graph, opset_imports=model.opset_import, functions=model.functions, ir_version=8)
        session = onnxruntime.InferenceSession(part.SerializeToString(), quiet(), ["CPUExecutionProvider"])
        value = session.run(None, given)[0].reshape(traced[name].shape)
        exact = traced[name].dtype == np.uint8
        terms = given[chosen[-1].input[0]][0, 0].size if chosen[-1].op_type == "GlobalAveragePool" else 1
        yield name, bool((value == traced[name]).all()) if exact else close(traced[name], value, terms)


def quiet() -> "onnxruntime.SessionOptions":
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return options


def work(first: int, count: int) -> None:
    """A worker: one line a mutant before it runs, one after."""
    import onnxruntime  # noqa: F401  loaded, like the kernels, before memory is limited

    from bitplane.runtime import InferenceSession

    InferenceSession(SOURCES[0]).run(None, {"input": np.zeros((1, 3, *_size(SOURCES[0])), np.uint8)})
    warnings.simplefilter("error")
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    for seed in range(first, first + count):
        resource.setrlimit(resource.RLIMIT_CPU, (int(time.process_time()) + SECONDS, resource.RLIM_INFINITY))
        say(json.dumps([seed, "started", ""]))
        say(json.dumps([seed, *outcome(seed)]))


def _size(path: Path) -> tuple[int, int]:
    from bitplane.runtime import InferenceSession

    _, _, height, width = InferenceSession(path).get_inputs()[0].shape
    return int(height), int(width)


def results(first: int, count: int) -> dict[int, tuple[str, str]]:
    """Every mutant's outcome; a worker that dies is followed by another that begins after the mutant that killed it."""
    found: dict[int, tuple[str, str]] = {}
    at = first
    while at < first + count:
        end = min(at + BATCH, first + count)
        command = [sys.executable, __file__, "--worker", str(at), str(end - at)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]
        found.update({seed: (word, why) for seed, word, why in lines if word != "started"})
        if not lines:
            raise RuntimeError(done.stderr)
        at = end
        if done.returncode != 0:
            last = lines[-1][0]
            found[last] = (f"fault: the process ended with {done.returncode}", done.stderr[-1000:])
            at = last + 1
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--worker", type=int, nargs=2)
    parser.add_argument("--show", type=int)
    parser.add_argument("--write", nargs=2)
    args = parser.parse_args()
    if args.worker:
        work(*args.worker)
        return 0
    if args.show is not None:
        say("\n".join([source(args.show).name, *outcome(args.show)]))
        return 0
    if args.write:
        from mutate import mutant

        Path(args.write[1]).write_bytes(mutant(source(int(args.write[0])).read_bytes(), int(args.write[0]))[1])
        return 0
    found = results(args.first, args.count)
    counts = Counter(word for word, _ in found.values())
    faults = {seed: [word, why] for seed, (word, why) in found.items() if word not in GOOD}
    report = {"first": args.first, "count": len(found), "outcomes": dict(counts.most_common()), "faults": faults}
    text = json.dumps(report, indent=1)
    say(text)
    if args.json:
        args.json.write_text(text)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
