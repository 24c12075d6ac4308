"""Merge neighbors that are one node: the arithmetic of normalization, the two halves of a shortcut, a quantizer of bytes."""

from dataclasses import replace

from bitplane.export.network import Network, Node
from bitplane.export.nodes.affine import Affine
from bitplane.export.nodes.normalize import Normalize
from bitplane.export.nodes.pad_shortcut import PadShortcut
from bitplane.export.nodes.quantize import Quantize


def merge_neighbors(network: Network) -> Network:
    """Merge a node into the one that makes its source, where nothing else reads that.

    - An affine map of normalized pixels is another normalization.
    - Zero channels around subsampled pixels are one shortcut.
    - A quantizer of pixels as they are leaves them so.
    """
    readers = network.readers()
    nodes: dict[str, Node] = {}
    renamed: dict[str, str] = {}
    for original in network.nodes:
        node = original.renamed(renamed)
        before = nodes.get(node.sources[0])
        alone = before is not None and len(readers[original.sources[0]]) == 1 and original.sources[0] != network.output
        merged = _merged(before, node) if before is not None and alone else None
        if merged is None:
            nodes[node.name] = node
        else:
            nodes[merged.name] = merged
            renamed[node.name] = merged.name
    output = renamed.get(network.output, network.output)
    return replace(network, output=output).with_nodes(list(nodes.values()))


def _merged(before: Node, node: Node) -> Node | None:
    """Both nodes in one under the first's name, or None."""
    if isinstance(before, Normalize) and isinstance(node, Affine) and (node.factor > 0).all():
        return replace(before, mean=before.mean - node.offset * before.std / node.factor, std=before.std / node.factor)
    if isinstance(before, PadShortcut) and isinstance(node, PadShortcut) and not (before.front or before.back):
        return replace(before, front=node.front, back=node.back) if node.steps == (1, 1) else None
    if isinstance(before, Normalize) and isinstance(node, Quantize) and (node.low, node.high) == (0, 255):
        is_bytes = not before.mean.any() and bool((abs(before.std * node.step - 1) < BYTE_TOLERANCE).all())
        return before if is_bytes else None
    return None


BYTE_TOLERANCE = 1e-6
"""Relative error of a step that is stored in float32: 2^-24, and of the division before it."""
