"""`bitplane eval`."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from bitplane.cli.options import DataOptions, JsonFile, Model
from bitplane.cli.output import UsageError, say, write_json

if TYPE_CHECKING:
    from bitplane.train.data import Split


@dataclass(frozen=True)
class Options:
    """Measure the accuracy of a file on the test split of a data set.

    Attributes:
        model: a packed file (or, with onnxruntime, a float one).
        images: the data set.
        engine: what runs it.
        agreement: also compare every activation code, feature and logit of both engines on this many images.
        json: write the result to this file.
    """

    model: Model
    images: DataOptions = field(default_factory=lambda: DataOptions("digits"))
    engine: Literal["bitplane", "onnxruntime"] = "bitplane"
    agreement: int = 0
    json: JsonFile = None


def run(options: Options) -> None:
    """Run all test images."""
    from bitplane.benchmarks.measuring.timing import accuracy

    session = _open(options.model, options.engine)
    test = options.images.load().test
    top1 = accuracy(lambda x: session.run(None, {"input": x})[0], test.images.numpy(), test.labels.numpy())
    say(f"{options.model}: top-1 {100 * top1:.2f} % on {len(test.labels)} images ({options.engine})")
    document: dict[str, Any] = {"top1": top1, "images": len(test.labels), "engine": options.engine}
    if options.agreement > 0:
        document["agreement"] = _agreement(options.model, test, options.agreement)
    write_json(options.json, document)


def _open(model: Path, engine: str) -> Any:
    if engine == "bitplane":
        from bitplane.runtime import InferenceSession

        return InferenceSession(model)
    from bitplane.benchmarks.peers.onnxruntime import session

    if not model.is_file():
        raise UsageError(f"{model}: no such file")
    return session(str(model), 0)


def _agreement(model: Path, test: "Split", count: int) -> dict[str, Any]:
    import numpy as np

    from bitplane.benchmarks.agreement import agreement

    picked = np.linspace(0, len(test.labels) - 1, min(count, len(test.labels))).astype(int)
    found = agreement(model, test.images.numpy()[picked])
    say(
        f"bitplane and onnxruntime on {found.images} images: {found.different_codes} of {found.codes} activation codes and "
        f"{found.different_features} of {found.features} features differ; largest logit difference "
        f"{found.largest_logit_difference:.2g}; same class on {100 * found.same_class:.2f} %"
    )
    return asdict(found)
