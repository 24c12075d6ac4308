"""Read a packed file (`FORMAT.md`, version 1.4) and refuse, in one line, whatever is not one.

A file may come from a stranger: the digest of its bytes must match before anything is read from them, sizes are bounded before
anything is allocated, no other file is opened, and an operator of domain `bitplane` is one of ours only if the function it
carries is ours.
"""

import math
import re
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError

from bitplane.format import names as fmt
from bitplane.format.checksums import planes_sha256, weights_sha256
from bitplane.format.functions import known_signatures, signature
from bitplane.format.limits import MAX_ELEMENTS, MAX_NODES
from bitplane.format.text import plain
from bitplane.runtime.errors import ModelError
from bitplane.runtime.model.file import CheckedFile, read_file
from bitplane.runtime.model.graph import FileInfo, Model
from bitplane.runtime.model.scan import scan
from bitplane.runtime.operators import OPERATORS
from bitplane.runtime.operators.base import Node, Tensor
from bitplane.runtime.operators.flatten import read_output
from bitplane.runtime.operators.normalize import read_float_input
from bitplane.runtime.operators.reader import Reader

OWN_VERSION = tuple(int(v) for v in fmt.FORMAT_VERSION.split("."))


def parse(source: str | Path | bytes | CheckedFile) -> Model:
    """Read and check a packed file.

    Args:
        source: path of the file, its bytes, or what `read_file` made of either.

    Returns:
        The model.

    Raises:
        ModelError: the file is missing, truncated, not ONNX, altered, of an unknown version, or breaks a rule of the format.
    """
    file = source if isinstance(source, CheckedFile) else read_file(source)
    label = file.label
    proto = _load(file.data, label)
    try:
        return _model(Reader(label, proto), proto, file.digest)
    except (TypeError, ValueError, LookupError, ArithmeticError, AttributeError) as error:
        # Bytes that are valid protobuf but no valid model: text that is not UTF-8, an attribute of another type.
        raise ModelError(f"{label}: damaged ({type(error).__name__}: {plain(str(error)[:80])}); export it again") from error
    except MemoryError:
        raise ModelError(f"{label}: its weights need more memory than this process can have") from None


def _load(data: bytes, label: str) -> onnx.ModelProto:
    """The message, once it is known that it will not grow."""
    try:
        if not data:  # protobuf reads it as a message without fields
            raise ValueError
        scan(data)
        return onnx.load_model_from_string(data)
    except (DecodeError, ValueError):
        raise ModelError(f"{label}: not an ONNX model, or truncated; export it again") from None
    except MemoryError:
        raise ModelError(f"{label}: its entries would need far more memory than its bytes; it is no packed file") from None


def _model(r: Reader, proto: onnx.ModelProto, digest: str | None) -> Model:
    metadata = {p.key: p.value for p in proto.metadata_props}
    minor = _check_version(r, proto, metadata)
    _check_sizes(r, proto)
    _check_keys(r, metadata, minor, digest)
    _check_functions(r, proto)
    nodes = [*_read_input(r, proto.graph)]
    for node in proto.graph.node:
        read = _read_node(r, node, minor)
        if read is not None:
            nodes.append(read)
    r.where = ""
    outputs = [o.name for o in proto.graph.output]
    if outputs != [fmt.OUTPUT_NAME]:
        raise r.fail(f"the graph's outputs are {outputs}, expected ['{fmt.OUTPUT_NAME}']")
    output = read_output(r)
    if output is not None:
        nodes.append(output)
    if fmt.OUTPUT_NAME not in r.tensors or r.tensors[fmt.OUTPUT_NAME].kind != "logits":
        raise r.fail(f"no Gemm or Flatten makes the output '{fmt.OUTPUT_NAME}'")
    if digest is None:
        _check_digests(r, proto.graph, metadata)
    graph, info = proto.graph, (proto.producer_name, proto.graph.name, proto.domain, proto.doc_string)
    says = FileInfo(*info, graph.doc_string, proto.model_version)
    return Model(r.label, tuple(nodes), r.tensors, fmt.INPUT_NAME, fmt.OUTPUT_NAME, metadata, says)


def _check_version(r: Reader, proto: onnx.ModelProto, metadata: dict[str, str]) -> int:
    """The minor version of the format."""
    version = metadata.get(fmt.META_FORMAT_VERSION)
    if version is None:
        raise r.fail(f"metadata {fmt.META_FORMAT_VERSION} is missing: not a packed file", "make one with `bitplane export`")
    match = re.fullmatch(r"([0-9]{1,4})(?:\.([0-9]{1,4}))?", version)
    major, minor = (int(match[1]), int(match[2] or 0)) if match else (0, 0)
    if major != OWN_VERSION[0]:
        raise r.fail(
            f"format version '{version[:20]}' is unknown, this runtime reads {OWN_VERSION[0]}.0 to {fmt.FORMAT_VERSION}",
            "upgrade bitplane",
        )
    versions = {o.domain if o.domain != "ai.onnx" else "": o.version for o in proto.opset_import}
    if versions.get(fmt.DOMAIN) != fmt.DOMAIN_VERSION:
        found = f"has version {versions[fmt.DOMAIN]}" if fmt.DOMAIN in versions else "is not used: this is a plain ONNX model"
        raise r.fail(f"domain '{fmt.DOMAIN}' {found}, expected version {fmt.DOMAIN_VERSION}")
    if versions.get("") != fmt.OPSET_VERSION or len(versions) != len(proto.opset_import):
        opsets = [o.version for o in proto.opset_import if o.domain in ("", "ai.onnx")]
        raise r.fail(f"has ONNX operator sets {opsets[:4]}, expected [{fmt.OPSET_VERSION}], each domain once")
    return minor


def _check_sizes(r: Reader, proto: onnx.ModelProto) -> None:
    """Bound everything that is walked or allocated later; refuse what a packed file never holds."""
    graph = proto.graph
    count = max(len(graph.node), len(graph.initializer), len(proto.functions), len(proto.metadata_props))
    if count > MAX_NODES:
        raise r.fail(f"has {count} nodes, constants, functions or metadata, at most {MAX_NODES} are read")
    if len({p.key for p in proto.metadata_props}) != len(proto.metadata_props):
        raise r.fail("two metadata have one key")
    if len(r.initializers) != len(graph.initializer):
        raise r.fail("two initializers have one name")
    names = [node.name for node in graph.node if node.name]
    if len(set(names)) != len(names):
        raise r.fail("two nodes have one name")
    if graph.sparse_initializer or proto.training_info:
        raise r.fail("holds sparse initializers or training information")
    for tensor in graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.external_data:
            raise r.fail(f"'{tensor.name}' lies in another file", "a packed file holds all its data: export it again")
        if min(tensor.dims, default=1) < 0 or math.prod(tensor.dims) > MAX_ELEMENTS:
            raise r.fail(f"'{tensor.name}' declares shape {list(tensor.dims)[:8]}, at most {MAX_ELEMENTS} elements are read")


def _check_functions(r: Reader, proto: onnx.ModelProto) -> None:
    """Every operator of domain `bitplane` must carry our own definition of it."""
    defined: dict[str, onnx.FunctionProto] = {}
    for function in proto.functions:
        if function.domain != fmt.DOMAIN or function.name in defined or function.overload:
            raise r.fail(
                f"defines function '{function.domain}.{function.name}', which is not one of the format's or comes twice"
            )
        defined[function.name] = function
    for op in dict.fromkeys(n.op_type for n in proto.graph.node if n.domain == fmt.DOMAIN):
        if (fmt.DOMAIN, op) not in OPERATORS:
            continue  # refused where it is used, by name and position
        if op not in defined:
            raise r.fail(f"operator '{fmt.DOMAIN}.{op}' carries no function")
        if signature(defined[op]) not in known_signatures(op):
            raise r.fail(f"the function of operator '{fmt.DOMAIN}.{op}' does not say what the format says it means")


def _check_keys(r: Reader, metadata: dict[str, str], minor: int, digest: str | None) -> None:
    """The checksums that a version demands are there; a key that is there is checked, whatever the version says."""
    if metadata.get(fmt.META_FILE_SHA256) != digest:
        raise r.fail(f"{fmt.META_FILE_SHA256} is not among the metadata, where it belongs")
    for key, since in ((fmt.META_PLANES_SHA256, 0), (fmt.META_WEIGHTS_SHA256, 1), (fmt.META_FILE_SHA256, 4)):
        if minor >= since and key not in metadata:
            raise r.fail(f"{key} is missing, which format 1.{minor} demands: the file was altered")


def _check_digests(r: Reader, graph: onnx.GraphProto, metadata: dict[str, str]) -> None:
    """The checksums of a file without a digest of all its bytes, which covers what they cover."""
    for key, digest in ((fmt.META_PLANES_SHA256, planes_sha256), (fmt.META_WEIGHTS_SHA256, weights_sha256)):
        if key not in metadata:
            continue  # before 1.1
        expected, found = metadata[key], digest(graph)
        if expected != found:
            what = "planes" if key == fmt.META_PLANES_SHA256 else "constants"
            raise r.fail(f"{key} is {expected[:64]} but the {what} hash to {found}: the weights were altered")


def _read_input(r: Reader, graph: onnx.GraphProto) -> list[Node]:
    """The node that makes features of a float32 input; pixels need none."""
    inputs = [i for i in graph.input if i.name not in r.initializers]
    if [i.name for i in inputs] != [fmt.INPUT_NAME]:
        raise r.fail(f"the graph's inputs are {[i.name for i in inputs][:4]}, expected ['{fmt.INPUT_NAME}']")
    kind = inputs[0].type.tensor_type
    if kind.elem_type not in (onnx.TensorProto.UINT8, onnx.TensorProto.FLOAT):
        raise r.fail(f"input '{fmt.INPUT_NAME}' is neither uint8 nor float32")
    sizes = [d.dim_value for d in kind.shape.dim]
    if len(sizes) != 4 or min(sizes[1:]) < 1:
        raise r.fail(f"input '{fmt.INPUT_NAME}' has shape {sizes[:8]}, expected [batch, C, H, W] with C, H, W known")
    floats = kind.elem_type == onnx.TensorProto.FLOAT
    shape = (sizes[1], sizes[2], sizes[3])
    r.add(fmt.INPUT_NAME, Tensor("floats" if floats else "pixels", shape))
    return [read_float_input(r, shape)] if floats else []


def _read_node(r: Reader, node: onnx.NodeProto, minor: int) -> Node | None:
    r.where = f"node '{node.name}' ({node.op_type}): "
    read = OPERATORS.get((node.domain if node.domain != "ai.onnx" else "", node.op_type))
    if read is None:
        operator = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
        newer = f"; the file has format 1.{minor}" if minor > OWN_VERSION[1] else ""
        raise r.fail(
            f"operator '{operator}' is not part of format version {fmt.FORMAT_VERSION}{newer}",
            "upgrade bitplane" if newer else "export it again, or run it in onnxruntime",
        )
    if node.overload:
        raise r.fail(f"asks for overload '{node.overload}', the format has none")
    if len(node.output) != 1:
        raise r.fail(f"has {len(node.output)} outputs, expected 1")
    return read(r, node)
