"""The end of a training: weights in their level sets for good, and BatchNorm's statistics at them."""

import itertools
import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from bitplane.train.errors import ConfigError
from bitplane.train.layers import batch_norms, low_bit_layers
from bitplane.train.methods import Point
from bitplane.train.optimizer import ProxOptimizer


def finish(model: nn.Module, optimizer: Any, batches: Iterable[Any] | None = None) -> None:
    """Project the weights onto their level sets for good: the network is then ready for `to_onnx`.

    BatchNorm's running statistics are those of the weights that training ran with. Where these are not the final ones (methods
    that take gradients at the latents, averaged iterates, or a training that ends before the quantizer is hard), they are taken
    anew from `batches`.

    Args:
        model: the prepared network, also inside DistributedDataParallel or `torch.compile`; its mode, training or eval, stays.
        optimizer: its `ProxOptimizer`, also as Accelerate or Lightning wraps it. It takes no further step.
        batches: batches of training images, or (images, ...) as a data loader gives them; every process needs some.

    Raises:
        ConfigError: it is not the optimizer of this network, the network is finished already, or `batches` are needed and
            missing or empty.
    """
    inner = _unwrapped(optimizer)
    layers = low_bit_layers(model)
    if {id(m.weight) for m in layers.values()} != {id(t.parameter) for t in inner.targets}:
        raise ConfigError(
            "`optimizer` moves other weights than those of the model's low-bit layers: give the one that trained it"
        )
    if inner.finished:
        raise ConfigError("the network is finished already: export it, or make a new ProxOptimizer to train on")
    reason = why_statistics_are_stale(inner)
    if reason and batches is None and any(True for _ in batch_norms(model)):
        raise ConfigError(f"{reason}: give `batches`, some training images, from which BatchNorm's statistics are taken anew")
    images = (b[0] if isinstance(b, tuple | list) else b for b in (batches if reason and batches is not None else ()))
    first = next(images, None)
    if reason and batches is not None and first is None:
        raise ConfigError("`batches` is empty: BatchNorm's statistics need some training images")
    inner.project()
    if first is not None:
        reestimate_statistics(model, itertools.chain([first], images))
    inner.finished = True


def why_statistics_are_stale(optimizer: ProxOptimizer) -> str:
    """Why BatchNorm's running statistics do not belong to the projected weights; "" if they do."""
    update = optimizer.update
    if update.method.rule.gradient_at is Point.LATENT:
        return "the method trains at the latent weights"
    if update.average_weight > 0:
        return "the final weights are an average"
    if not math.isinf(update.schedule(update.step_count)):
        return f"after {update.step_count} steps the quantizer is not hard yet"
    return ""


@torch.no_grad()
def reestimate_statistics(model: nn.Module, images: Iterable[Tensor]) -> None:
    """Replace BatchNorm's running statistics by means over batches at the present weights.

    Every process must call it. Modules keep the mode that they have.

    Args:
        model: the network.
        images: what its forward takes, on any device; at least one batch.
    """
    norms = list(batch_norms(model))
    if not norms:
        return
    device = next(model.parameters()).device
    before = [(m, m.training) for m in model.modules()]
    momenta = [m.momentum for m in norms]
    model.eval()  # but for BatchNorm: dropout, for one, is to leave values alone
    for m in norms:
        m.reset_running_stats()
        m.momentum = None  # a cumulative average
        m.train()
    try:
        for x in images:
            model(x.to(device))
    finally:
        for m, momentum in zip(norms, momenta, strict=True):
            m.momentum = momentum
        for m, training in before:
            m.training = training


def _unwrapped(optimizer: Any) -> ProxOptimizer:
    """The optimizer inside what Accelerate, Lightning or another library has put around it."""
    seen: Any = optimizer
    # Lightning's wrapper is of a class made of ours, and holds ours as an attribute.
    while not (isinstance(seen, ProxOptimizer) and "update" in vars(seen)):
        held: dict[str, Any] = getattr(seen, "__dict__", {})
        seen = held.get("optimizer", held.get("_optimizer"))
        if seen is None:
            raise ConfigError(f"`optimizer` is a {type(optimizer).__name__}: give the ProxOptimizer that trained the network")
    return seen
