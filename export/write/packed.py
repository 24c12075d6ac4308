"""The packed form: operators of domain `bitplane` on integer codes and planes wherever a convolution reads codes."""

from bitplane.export.graph import GraphBuilder
from bitplane.export.network import Network
from bitplane.export.nodes.conv import Conv
from bitplane.export.write.dequantized import ending_layer


def write_packed(network: Network) -> GraphBuilder:
    """Write a network in operators of domain `bitplane`.

    Raises:
        ExportError: a factor is not finite in float32.
    """
    graph = GraphBuilder(network, _gemm(network))
    for node in network.nodes:
        if name := node.write_packed(graph):
            graph.names[node.name] = name
    return graph


def _gemm(network: Network) -> str:
    """The fully connected layer that ends the network, where it computes in floats on single pixels."""
    layer = network.producers().get(ending_layer(network))
    if not isinstance(layer, Conv) or layer.weight.shape[2:] != (1, 1) or layer.weight.is_low_bit:
        return ""
    return "" if layer.reads_codes(network.producers().get(layer.source)) else layer.name
