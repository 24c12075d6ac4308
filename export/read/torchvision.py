"""Opening a torchvision ResNet's weights."""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from bitplane.export.errors import ExportError
from bitplane.train.checkpoint import check_finite, read_tensors
from bitplane.train.models import Model, ModelConfig, build_model

IMAGENET = ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
"""torchvision's mean and standard deviation, in pixels."""
_DEPTHS = {(2, 2, 2, 2, False): "resnet18", (3, 4, 6, 3, False): "resnet34", (3, 4, 6, 3, True): "resnet50"}


def load_torchvision(path: Path) -> Model:
    """A float ResNet-18, 34 or 50 with the weights of a torchvision `state_dict` saved as safetensors.

    Its input takes pixels as they are; normalize by `IMAGENET`.

    Raises:
        ExportError: the file is a pickle, or not one of these networks' weights.
    """
    if path.suffix != ".safetensors":
        raise ExportError(
            f"{path}: only safetensors are read (a .pth file is a pickle, which can run code): save it again with"
            " safetensors.torch.save_file(torch.load(FILE, weights_only=True), 'NAME.safetensors')"
        )
    weights = {k: v for k, v in read_tensors(path).items() if not k.endswith("num_batches_tracked")}
    model = build_model(_configuration(path, weights))
    own = {k: v for k, v in model.state_dict().items() if not k.startswith("input.") and not k.endswith("num_batches_tracked")}
    for key in sorted(own.keys() ^ weights.keys()):
        raise ExportError(
            f"{path}: `{key}` is {'missing' if key in own else 'unknown'}; expected torchvision's {model.config.model}"
        )
    for key, value in weights.items():
        if own[key].shape != value.shape:
            raise ExportError(f"{path}: `{key}` is {list(value.shape)}, expected {list(own[key].shape)}")
    check_finite(weights, path)
    model.load_state_dict(weights, strict=False)
    return model.eval()


def _configuration(path: Path, weights: Mapping[str, Tensor]) -> ModelConfig:
    counts = tuple(sum(f"layer{i}.{j}.conv1.weight" in weights for j in range(64)) for i in range(1, 5))
    name = _DEPTHS.get((*counts, "layer1.0.conv3.weight" in weights))  # type: ignore[arg-type]
    shaped = all(k in weights and weights[k].dim() == dims for k, dims in (("conv1.weight", 4), ("fc.weight", 2)))
    if name is None or not shaped:
        raise ExportError(f"{path}: not the weights of torchvision's resnet18, resnet34 or resnet50 (blocks: {counts})")
    channels, classes = weights["conv1.weight"].shape[1], weights["fc.weight"].shape[0]
    return ModelConfig(
        model=name, weights="float", activations=32, classes=classes, channels=channels, zero_point=0, pixel_scale=1.0
    )
