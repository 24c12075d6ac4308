"""QONNX: the network with `Quant` and `BipolarQuant` nodes on float values, as FINN and hls4ml read it.

It has no integer images: the input is float32 holding pixels 0 to 255.
"""

from bitplane.export.graph import GraphBuilder
from bitplane.export.network import Network


def write_qonnx(network: Network) -> GraphBuilder:
    """Write a network as QONNX."""
    graph = GraphBuilder(network)
    for node in network.nodes:
        graph.names[node.name] = node.write_qonnx(graph)
    return graph
