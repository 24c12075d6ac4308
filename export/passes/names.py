"""Names that a file needs for itself."""

from dataclasses import replace

from bitplane.export.network import Network, Node
from bitplane.export.nodes.flatten import Flatten
from bitplane.format import names as fmt


def free_output_name(network: Network) -> Network:
    """Rename a node that is called as the file's result is to be (`logits`) without being it."""
    producers = network.producers()
    if fmt.OUTPUT_NAME not in producers or _is_result(network):
        return network
    count = 2
    while f"{fmt.OUTPUT_NAME}_{count}" in producers:
        count += 1
    names = {fmt.OUTPUT_NAME: f"{fmt.OUTPUT_NAME}_{count}"}
    nodes: list[Node] = [replace(n, name=names.get(n.name, n.name)).renamed(names) for n in network.nodes]
    return network.with_nodes(nodes)


def _is_result(network: Network) -> bool:
    """Whether the node of that name makes the result, up to a `Flatten` that a file may do without."""
    last = network.producers()[network.output]
    return fmt.OUTPUT_NAME in (last.name, *(last.sources if isinstance(last, Flatten) else ()))
