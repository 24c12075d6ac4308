"""The dequantized form: standard float32 operators, for everything that knows nothing of `bitplane`.

Quantizers become Div, Round, Clip, Mul; weights are stored as the values they have. A float network is written so too: the twin
that other engines are measured on.
"""

from bitplane.export.graph import GraphBuilder
from bitplane.export.network import Network
from bitplane.export.nodes.conv import Conv
from bitplane.export.nodes.flatten import Flatten


def write_dequantized(network: Network) -> GraphBuilder:
    """Write a network in standard operators of the format's opset."""
    graph = GraphBuilder(network, ending_layer(network))
    for node in network.nodes:
        graph.names[node.name] = node.write(graph)
    return graph


def ending_layer(network: Network) -> str:
    """Name of the fully connected layer whose flattened value, which nothing else reads, is the result; "" if none is."""
    producers = network.producers()
    last = producers[network.output]
    layer = producers.get(last.source) if isinstance(last, Flatten) else None
    is_dense = isinstance(layer, Conv) and layer.dense and len(network.readers()[layer.name]) == 1
    return layer.name if is_dense and layer is not None else ""
