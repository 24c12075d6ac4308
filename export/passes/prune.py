"""Leave out what the result does not need."""

from bitplane.export.network import Network, Node


def prune(network: Network) -> Network:
    """The network without nodes that its result does not need."""
    needed = {network.output}
    kept: list[Node] = []
    for node in reversed(network.nodes):
        if node.name in needed:
            needed.update(node.sources)
            kept.append(node)
    return network.with_nodes(kept[::-1])
