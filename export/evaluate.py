"""Run a `Network` in torch, node by node: the calibration's source of values and the self-check's reference."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from bitplane.export.network import INPUT, Network, Node


@torch.no_grad()
def evaluate(
    network: Network,
    images: Tensor,
    *,
    force: Mapping[str, Tensor] | None = None,
    visit: Callable[[Node, Tensor], None] | None = None,
) -> Tensor:
    """Run a network in float32; sums of integer convolutions are exact.

    Args:
        network: the network.
        images: uint8 or float32 [N, C, H, W].
        force: values to go on with in place of what these nodes make.
        visit: called with every node and the value it makes, before `force`.

    Returns:
        The result, float32 [N, classes].
    """
    last = {name: node.name for node in network.nodes for name in node.sources}
    producers = network.producers()
    values: dict[str, Tensor] = {INPUT: images}
    for node in network.nodes:
        value = node.evaluate_on(producers.get(node.sources[0]), [values[name] for name in node.sources])
        if visit is not None:
            visit(node, value)
        values[node.name] = force[node.name] if force and node.name in force else value
        for name in node.sources:
            if last[name] == node.name and name != network.output:
                values.pop(name, None)
    return values[network.output].flatten(1).float()
