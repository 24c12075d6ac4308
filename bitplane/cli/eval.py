"""`bitplane eval`."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from bitplane.cli.options import DATA_SETS, CountOrNone, DataOptions, JsonFile, Model
from bitplane.cli.output import UsageError, say, write_json
from bitplane.errors import BitplaneError
from bitplane.format.text import plain

if TYPE_CHECKING:
    import numpy as np

    from bitplane.format.metadata import Metadata
    from bitplane.train.data.dataset import Split


@dataclass(frozen=True)
class Options:
    """Measure the accuracy of a file on the test split of a data set.

    Classes are matched by name: a folder may have some of the model's classes, in any order. Its images are made into what the
    model takes.

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
    agreement: CountOrNone = 0
    json: JsonFile = None


def run(options: Options) -> None:
    """Run all test images."""
    from bitplane.benchmarks.measuring.timing import accuracy

    with _refusals(options):
        session = _open(options.model, options.engine)
        images, labels = _test_images(options, session)
        name = session.get_inputs()[0].name
        top1 = accuracy(lambda x: session.run(None, {name: x})[0], images, labels)
    say(f"{options.model}: top-1 {100 * top1:.2f} % on {len(labels)} images ({options.engine})")
    document: dict[str, Any] = {"top1": top1, "images": len(labels), "engine": options.engine}
    if options.agreement > 0:
        document["agreement"] = _agreement(options.model, images, options.agreement)
    write_json(options.json, document)


@contextmanager
def _refusals(options: Options) -> Iterator[None]:
    """Whatever onnxruntime raises at a file or at images is a refusal of them."""
    try:
        yield
    except (BitplaneError, OSError, MemoryError):
        raise
    except Exception as e:
        if options.engine != "onnxruntime":
            raise
        raise UsageError(f"{options.model}: onnxruntime does not run it on these images ({plain(str(e))})") from e


def _test_images(options: Options, session: Any) -> "tuple[np.ndarray, np.ndarray]":
    """Images of the test split, and the number of each one's logit."""
    from bitplane.benchmarks.classes import match_classes
    from bitplane.format.metadata import read_metadata

    label, data = str(options.model), options.images.data or "digits"
    meta = read_metadata(session.get_modelmeta().custom_metadata_map, label)
    if data in DATA_SETS or not Path(data).is_dir():
        loaded = options.images.load()
        test, names = loaded.test, loaded.classes
    else:
        test, names = _folder(options, Path(data), meta, session.get_inputs()[0].shape[1:])
    images = test.images.numpy()
    return images, match_classes(names, meta.classes, _logits(session, images), data, label)[test.labels.numpy()]


def _folder(options: Options, root: Path, meta: "Metadata", shape: Sequence[Any]) -> "tuple[Split, tuple[str, ...]]":
    """The test split of a folder, made into what the network takes, and the names of its classes."""
    from bitplane.pixels import PixelForm
    from bitplane.train.data.folder import class_names, load_split, test_folder

    split = test_folder(root)
    if split is None:
        raise UsageError(f"{root}: expected a folder test/ (or val/) with one folder a class")
    size = options.images.size
    form = PixelForm((size, size) if size else None)
    if meta.input is not None:
        form = PixelForm.of(meta.input)
    elif len(shape) == 3 and all(isinstance(d, int) for d in shape):
        form = PixelForm((shape[1], shape[2]), shape[0])
    if size and form.size != (size, size):
        raise UsageError(f"--size {size}: {options.model} takes images of {form.size}; leave the option out")
    names = class_names(split)
    return load_split(split, names, form), names


def _logits(session: Any, images: "np.ndarray") -> int:
    """Number of logits; images that the network does not take are refused by the engine."""
    return int(session.run(None, {session.get_inputs()[0].name: images[:1]})[0].shape[1])


def _open(model: Path, engine: str) -> Any:
    if engine == "bitplane":
        from bitplane.runtime import InferenceSession

        return InferenceSession(model)
    from bitplane.benchmarks.peers.onnxruntime import session

    if not model.is_file():
        raise UsageError(f"{model}: no such file")
    return session(str(model), 0)


def _agreement(model: Path, images: "np.ndarray", count: int) -> dict[str, Any]:
    import numpy as np

    from bitplane.benchmarks.agreement import agreement

    picked = np.linspace(0, len(images) - 1, min(count, len(images))).astype(int)
    found = agreement(model, images[picked])
    say(
        f"bitplane and onnxruntime on {found.images} images: {found.different_codes} of {found.codes} activation codes and "
        f"{found.different_features} of {found.features} features differ; largest logit difference "
        f"{found.largest_logit_difference:.2g}; same class on {100 * found.same_class:.2f} %"
    )
    return asdict(found)
