"""From files to networks: a state dictionary into a network, and the network of a finished run."""

import re
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from bitplane.train.checkpoint import Result, check_finite, read_config, read_result, read_tensors
from bitplane.train.config import TrainConfig
from bitplane.train.errors import CheckpointError
from bitplane.train.models import Model, PixelNetwork, ResNet, build_model
from bitplane.train.models.python_file import PythonFile, check_named


def present_name(model: Model, name: str) -> str:
    """A tensor's name today: quantizers were blocks' own before they belonged to the convolution that reads them."""
    return re.sub(r"\.quant([123])\.", r".conv\1.quantizer.", name) if isinstance(model, ResNet) else name


def load_weights(model: Model, path: Path, *, lenient: bool = False) -> list[str]:
    """Load a state dictionary.

    Args:
        model: the network; level scales and learned steps absent from the file are left alone if `lenient`.
        path: a model.safetensors.
        lenient: accept a network of the same shape with other levels or activations, one with another number of classes, whose
            last layer then stays as it is, the names of a network that is not behind `PixelNetwork`, and a ResNet of ours with
            fewer blocks in its stages, whose function the deeper model then starts from: blocks that the file lacks start as
            the identity (Net2DeeperNet; Chen, Goodfellow, Shlens, ICLR 2016).

    Returns:
        Names of the model's tensors that the file did not have, or has in another shape.

    Raises:
        CheckpointError: the file belongs to another model.
    """
    values, own = {present_name(model, k): v for k, v in read_tensors(path).items()}, model.state_dict()
    if lenient and isinstance(model, PixelNetwork):
        values = _behind_pixels(values)
    wrong = [k for k in own.keys() & values.keys() if own[k].shape != values[k].shape and not (lenient and _is_extra(model, k))]
    if lenient:
        wrong = [k for k in wrong if not _is_head_of_other_classes(model, k, own[k], values[k])]
    blocks = model.blocks() if isinstance(model, ResNet) else []
    new_blocks = {n: b for n, b in blocks if lenient and not any(k.startswith(f"{n}.") for k in values)}
    new = tuple(f"{n}." for n in new_blocks if not n.endswith(".0"))
    missing = [k for k in own.keys() ^ values.keys() if not (lenient and (_is_extra(model, k) or k.startswith(new)))]
    if wrong or missing:
        k = sorted(wrong + missing)[0]
        had = list(values[k].shape) if k in values else "absent"
        want = list(own[k].shape) if k in own else "absent"
        raise CheckpointError(f"{path}: belongs to another model: `{k}` is {had} there and {want} in {model.config.model}")
    usable = {k: v for k, v in values.items() if k in own and own[k].shape == v.shape}
    for k, v in usable.items():
        floats = v.is_floating_point() and own[k].is_floating_point()
        if v.dtype != own[k].dtype and not (floats and lenient):
            raise CheckpointError(f"{path}: `{k}` is {v.dtype} there and {own[k].dtype} in {model.config.model}")
    check_finite(usable, path)
    state = OrderedDict(usable)
    state._metadata = own._metadata  # type: ignore[attr-defined]  # some modules ask of which version a state is: torchvision's MNASNet
    model.load_state_dict(state, strict=False)
    for block in new_blocks.values():
        block.start_as_identity()
    return sorted(own.keys() - usable.keys())


def head_of(model: Model) -> str:
    """Name of a network's last layer, which makes the logits."""
    return ("" if isinstance(model, ResNet) else "network.") + model.preparation.layers[-1].name


def _is_extra(model: Model, name: str) -> bool:
    """Whether a tensor may be missing, or of another form, in the weights that a network starts from."""
    # `num_batches_tracked` only matters while BatchNorm averages; older files of torchvision lack it.
    extra = (".level_scale", ".quantizer.step", ".quantizer.threshold", ".num_batches_tracked")
    if isinstance(model, ResNet):
        extra += (".act1.weight", ".act2.weight", ".act3.weight")
    return name in ("input.zero_point", "input.scale") or name.endswith(extra)


def _is_head_of_other_classes(model: Model, name: str, own: Tensor, found: Tensor) -> bool:
    """Whether a tensor is of the last layer, and differs in the number of classes alone."""
    return name.startswith(f"{head_of(model)}.") and own.dim() > 0 and own.shape[1:] == found.shape[1:]


def _behind_pixels(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A network's tensors as `PixelNetwork` calls them, also where a file has the names of the network itself."""
    inputs = ("input.zero_point", "input.scale")
    if all(k.startswith("network.") or k in inputs for k in values):
        return dict(values)
    return {f"network.{k}": v for k, v in values.items() if k not in inputs}


def load_final(run: Path, code: PythonFile | None = None) -> tuple[Model, TrainConfig, Result]:
    """The finished network of a run in eval mode, its configuration, and its result.

    Args:
        run: its folder.
        code: the Python file that makes its network, if one does. A folder alone never has a file run.

    Raises:
        CheckpointError: the run is missing, unfinished, damaged, or of another model.
        ConfigError: its network is of a Python file, and `code` is not that file.
    """
    config = read_config(run)
    result = read_result(run)
    check_named(config.model, code, run)
    model = build_model(config.model, code)
    load_weights(model, run / "final" / "model.safetensors")
    return model.eval(), config, result
