"""Fold BatchNorm, and every other affine map a channel, into the convolutions and signs around it.

With s = gamma / sqrt(var + eps) of BatchNorm and integer weights w of unit l, in float64:

    BN(conv(x, l w)) = conv(x, (s l) w) + (beta - mean s)
"""

from dataclasses import replace

import numpy as np

from bitplane.export.network import Network, Node
from bitplane.export.nodes.affine import Affine
from bitplane.export.nodes.conv import Conv
from bitplane.export.nodes.sign import Sign
from bitplane.export.nodes.weight import Weight


def fold_affine(network: Network) -> Network:
    """Merge every BatchNorm into the convolution that alone feeds it, or into the signs that alone read it.

    A factor must be positive for a sign; others become 1x1 convolutions of one group a channel.
    """
    readers = network.readers()
    nodes: dict[str, Node] = {}
    renamed: dict[str, str] = {}
    for original in network.nodes:
        node = original.renamed(renamed)
        if isinstance(node, Sign) and isinstance(before := nodes.get(node.source), Affine):
            low = 0.0 if node.thresholds is None else node.thresholds
            node = replace(node, source=before.source, thresholds=(low - before.offset) / before.factor)
        if not isinstance(node, Affine):
            nodes[node.name] = node
            continue
        source = nodes.get(node.source)
        # By the source's own name of it: a BatchNorm that the convolution has swallowed already may have other readers.
        swallowed = next(iter(original.sources))
        if isinstance(source, Conv) and len(readers[swallowed]) == 1 and swallowed != network.output:
            nodes[source.name] = source.scaled(node.factor, node.offset)
            renamed[node.name] = source.name
        elif _is_threshold(network, node, readers[node.name]):
            nodes[node.name] = node  # until its readers have been seen
        else:
            weight = Weight(node.factor.reshape(-1, 1, 1, 1))
            nodes[node.name] = Conv(node.name, node.source, weight, node.offset, group=len(node.factor))
    nodes = {k: n for k, n in nodes.items() if not isinstance(n, Affine)}
    output = renamed.get(network.output, network.output)
    return replace(network, output=output).with_nodes(list(nodes.values()))


def _is_threshold(network: Network, node: Affine, readers: list[Node]) -> bool:
    """Whether signs alone read a BatchNorm, of which each only compares with a number a channel then."""
    if node.name == network.output or len(network.shapes[node.name]) != 3 or not readers:
        return False
    limit = np.finfo(np.float32).max
    return all(isinstance(r, Sign) for r in readers) and bool((np.abs(node.offset) < limit * node.factor).all())
