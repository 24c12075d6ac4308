"""What a packed file says, checked: frozen values that planning can trust. `bitplane.runtime.model.parse` makes them."""

from dataclasses import dataclass

from bitplane.runtime.operators.base import Node, Tensor


@dataclass(frozen=True)
class FileInfo:
    """What a file says of itself beside its metadata, as onnxruntime names it."""

    producer_name: str = ""
    graph_name: str = ""
    domain: str = ""
    description: str = ""
    graph_description: str = ""
    version: int = 0


@dataclass(frozen=True)
class Model:
    """A packed file.

    Attributes:
        label: what to call the file in messages.
        nodes: in topological order.
        tensors: every value, by name.
        input_name: name of the pixels.
        output_name: name of the logits.
        metadata: `metadata_props`.
        info: what else the file says of itself.
    """

    label: str
    nodes: tuple[Node, ...]
    tensors: dict[str, Tensor]
    input_name: str
    output_name: str
    metadata: dict[str, str]
    info: FileInfo = FileInfo()
