"""A call in a traced forward, as the readers of modules and functions see it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import fx

from bitplane.export.errors import ExportError
from bitplane.export.network import Node
from bitplane.export.read.construction import NetworkBuilder, Value

SUPPORTED = (
    "Conv2d, Linear, BatchNorm2d, ReLU, PReLU, LeakyReLU, MaxPool2d, AdaptiveAvgPool2d(1), Flatten, Dropout, Identity, "
    "addition, zero-padded shortcuts, and bitplane.train's layers"
)


class _Batch:
    """The size of the batch axis, or a number computed from it: known only when the network runs."""

    def __repr__(self) -> str:
        return "the batch size"


BATCH = _Batch()


@dataclass(frozen=True)
class Call:
    """A call whose first argument is a value of the network.

    Attributes:
        builder: collects what it is read as.
        values: what every traced call before it makes.
        name: path of the module that is called, or name of the function.
        where: path of the module in whose forward a function is called.
        args: positional arguments; sizes are numbers, or `BATCH`.
        kwargs: keyword arguments.
    """

    builder: NetworkBuilder
    values: Mapping[fx.Node, Value]
    name: str
    where: str
    args: list[Any]
    kwargs: dict[str, Any]

    @property
    def x(self) -> Value:
        """The first argument."""
        return self.value(self.args[0] if self.args else None)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the first argument without the batch axis."""
        return self.builder.shapes[self.x.name]

    def reads(self, kind: type[Node]) -> bool:
        """Whether a node of this kind makes the first argument."""
        return any(n.name == self.x.name and isinstance(n, kind) for n in self.builder.nodes)

    def value(self, of: Any) -> Value:
        """The value of an argument.

        Raises:
            ExportError: it is no value of the network.
        """
        if not isinstance(of, fx.Node) or of not in self.values:
            raise self.refuse(f"`{self.name}` of {self.describe()}")
        return self.values[of]

    def add(self, node: Node) -> Value:
        """Append a node whose value the source sees as it sees the first argument, flattened or not."""
        return self.builder.add(node, flat=self.x.flat)

    def named(self, kind: str) -> str:
        """Name of a node that a function makes."""
        return f"{self.where}.{kind}" if self.where else kind

    def describe(self) -> str:
        """The arguments as a person reads them."""
        given = [*map(repr, self.args), *(f"{k}={v!r}" for k, v in self.kwargs.items())]
        return f"({', '.join(given)})"

    def refuse(self, what: str) -> ExportError:
        """That something is not supported, where it stands, and what is."""
        return ExportError(
            f"{self.builder.label}: {self.where or 'forward'}: {what} is not supported; supported are {SUPPORTED}"
        )
