"""What a file says of itself (`metadata_props`), read and checked once for everyone.

The strings come from strangers: lengths, depths and numbers are bounded, and nothing of a size that they name is allocated.
Keys that are not known are ignored, as `FORMAT.md` asks. Text is returned as it is: who shows it makes it safe
(`bitplane.format.text`).
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NoReturn, get_args

from bitplane.format import names as fmt
from bitplane.format.errors import MetadataError
from bitplane.format.limits import MAX_SIDE
from bitplane.format.text import plain

MAX_TEXT = 1_000
"""Characters of a name."""
MAX_JSON = 1 << 24
"""Characters of a JSON value: 2^20 class names of 16 characters."""
MAX_DEPTH = 4
"""Of brackets in a JSON value; known ones have two."""
MAX_CLASSES = 1 << 20
MAX_PIXELS = 1 << 28
"""Values of one image, as `bitplane.runtime` bounds a tensor."""

Resize = Literal["bilinear", "bicubic"]
Fit = Literal["stretch", "crop"]
DEFAULT_RESIZE: Resize = "bilinear"
DEFAULT_FIT: Fit = "stretch"
"""How images are resized where a file does not say it, and in training and calibration."""

_STRING = re.compile(r'"(?:[^"\\]|\\.)*+"?', re.DOTALL)


@dataclass(frozen=True)
class InputInfo:
    """The input of a network (`bitplane.input`).

    Attributes:
        size: (height, width) of an image.
        channels: of an image.
        mean: subtracted from the pixels while training, one number or one a channel; () where it is not known.
        std: that they were divided by.
        resize: filter by which images of other sizes are resized.
        fit: "stretch": the whole image, whatever its sides; "crop": its middle, in the right proportion.
    """

    size: tuple[int, int]
    channels: int
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    resize: Resize = DEFAULT_RESIZE
    fit: Fit = DEFAULT_FIT


@dataclass(frozen=True)
class Metadata:
    """What a file says of itself; what it does not say is empty or None.

    Attributes:
        model: architecture.
        method: update rule of the training.
        level_set: "binary", "ternary", "quaternary", "float", "mixed", or a name that the network's author gave.
        activation_bits: of the activations that low-bit weights read; None if mixed.
        dataset: name of the data set.
        classes: class names, in the order of the logits.
        input: what the network takes.
        accuracy: top-1 accuracy that training measured, 0 to 1.
    """

    model: str = ""
    method: str = ""
    level_set: str = ""
    activation_bits: int | None = None
    dataset: str = ""
    classes: tuple[str, ...] = ()
    input: InputInfo | None = None
    accuracy: float | None = None


def read_metadata(properties: Mapping[str, str], label: str) -> Metadata:
    """Read and check what is known in the metadata of a file.

    Args:
        properties: key to value, as `metadata_props` has them.
        label: what messages call the file.

    Raises:
        MetadataError: a known key has a value that is not as `FORMAT.md` describes it, or exceeds a bound.
    """
    return Metadata(
        model=_Value(properties, fmt.META_MODEL, label).text(),
        method=_Value(properties, fmt.META_METHOD, label).text(),
        level_set=_Value(properties, fmt.META_LEVEL_SET, label).text(),
        activation_bits=_Value(properties, fmt.META_ACTIVATION_BITS, label).bits(),
        dataset=_Value(properties, fmt.META_DATASET, label).text(),
        classes=_Value(properties, fmt.META_CLASSES, label).classes(),
        input=_Value(properties, fmt.META_INPUT, label).input(),
        accuracy=_Value(properties, fmt.META_ACCURACY, label).accuracy(),
    )


def check_fit(metadata: Metadata, label: str, shape: tuple[int, ...], classes: int) -> None:
    """Compare metadata with the network that they are of.

    Args:
        metadata: of the file.
        label: what messages call the file.
        shape: (channels, height, width) of the network's input.
        classes: logits.

    Raises:
        MetadataError: the metadata name another input, or another number of classes.
    """
    given = metadata.input
    if given is not None and (given.channels, *given.size) != shape:
        said = [given.channels, *given.size]
        raise MetadataError(f"{plain(label)}: metadata {fmt.META_INPUT} says {said}, the network takes {list(shape)}")
    if metadata.classes and len(metadata.classes) != classes:
        raise MetadataError(
            f"{plain(label)}: metadata {fmt.META_CLASSES} has {len(metadata.classes)} names, the network has {classes} logits"
        )


class _Value:
    """One value, or None; each method reads it as one kind of thing."""

    def __init__(self, properties: Mapping[str, str], key: str, label: str) -> None:
        self.value, self.key, self.label = properties.get(key), key, label

    def fail(self, problem: str) -> NoReturn:
        raise MetadataError(f"{plain(self.label)}: metadata {self.key} {plain(problem)}; export the file again")

    def text(self) -> str:
        """A name."""
        if self.value is not None and len(self.value) > MAX_TEXT:
            self.fail(f"has {len(self.value)} characters, at most {MAX_TEXT} are read")
        return self.value or ""

    def bits(self) -> int | None:
        """1 to 32, "mixed", or nothing."""
        text = self.text()
        if text in ("", "mixed"):
            return None
        if not re.fullmatch(r"[0-9]{1,2}", text, re.ASCII) or not 1 <= int(text) <= 32:
            self.fail(f"is '{text}', expected 1 to 32 or 'mixed'")
        return int(text)

    def classes(self) -> tuple[str, ...]:
        """Class names."""
        value = self._json()
        if value is None:
            return ()
        if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
            self.fail("is no list of names")
        if not 1 <= len(value) <= MAX_CLASSES or any(len(name) > MAX_TEXT for name in value):
            self.fail(f"must have 1 to {MAX_CLASSES} names of at most {MAX_TEXT} characters")
        return tuple(value)

    def input(self) -> InputInfo | None:
        """Size and normalization."""
        value = self._object()
        if not value:
            return None
        sides, channels = value.get("size"), value.get("channels")
        if not (isinstance(sides, list) and len(sides) == 2):
            self.fail("has no `size` of height and width")
        height, width = (self._integer("size", side, MAX_SIDE) for side in sides)
        planes = self._integer("channels", channels, MAX_SIDE)
        if height * width * planes > MAX_PIXELS:
            self.fail(f"has an image of {height * width * planes} values, at most {MAX_PIXELS} are read")
        mean, std = self._numbers(value, "mean", planes), self._numbers(value, "std", planes)
        if bool(mean) != bool(std) or any(s <= 0 for s in std):
            self.fail("must have both `mean` and `std` or neither, and `std` must be positive")
        resize = self._choice(value, "resize", get_args(Resize), DEFAULT_RESIZE)
        return InputInfo((height, width), planes, mean, std, resize, self._choice(value, "fit", get_args(Fit), DEFAULT_FIT))

    def accuracy(self) -> float | None:
        """`test_top1`, if it is there."""
        value = self._object()
        if "test_top1" not in value:
            return None
        share = value["test_top1"]
        if not _is_number(share) or not 0 <= share <= 1:
            self.fail(f"has `test_top1` {_short(share)}, expected a share of 0 to 1")
        return float(share)

    def _json(self) -> Any:
        if self.value is None:
            return None
        if len(self.value) > MAX_JSON:
            self.fail(f"has {len(self.value)} characters, at most {MAX_JSON} are read")
        depth = 0
        for bracket in re.findall(r"[\[\]{}]", _STRING.sub("", self.value)):
            depth += 1 if bracket in "[{" else -1
            if depth > MAX_DEPTH:
                self.fail(f"is nested deeper than {MAX_DEPTH} levels")
        try:
            return json.loads(self.value, parse_constant=_refuse_constant)
        except ValueError as e:
            self.fail(f"is not readable JSON ({str(e)[:100]})")

    def _object(self) -> dict[str, Any]:
        value = self._json()
        if value is not None and not isinstance(value, dict):
            self.fail("is no JSON object")
        return value or {}

    def _integer(self, name: str, value: object, most: int) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
            self.fail(f"has `{name}` {_short(value)}, expected an integer of 1 to {most}")
        return value

    def _numbers(self, value: Mapping[str, Any], name: str, channels: int) -> tuple[float, ...]:
        """One number, or one a channel."""
        found = value.get(name, [])
        found = found if isinstance(found, list) else [found]
        if len(found) not in (0, 1, channels) or not all(_is_number(v) for v in found):
            self.fail(f"has `{name}` {_short(value[name])}, expected one number or one of each of {channels} channels")
        return tuple(float(v) for v in found)

    def _choice(self, value: Mapping[str, Any], name: str, choices: tuple[Any, ...], default: Any) -> Any:
        found = value.get(name, default)
        if found not in choices:
            self.fail(f"has `{name}` {_short(found)}, this bitplane knows {', '.join(choices)}")
        return found


def _is_number(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) < 1e30 and math.isfinite(value)


def _short(value: object) -> str:
    return json.dumps(value)[:60]


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")
