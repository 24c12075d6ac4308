"""The end of a training in the user's own loop: exact levels, statistics that belong to them, and what export then takes."""

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from torch import nn

import bitplane
from bitplane.export import Quantization
from bitplane.train.config import ModelConfig, from_options
from bitplane.train.data import load_data
from bitplane.train.data.augment import BatchLoader
from bitplane.train.data.dataset import with_data
from bitplane.train.errors import ConfigError
from bitplane.train.finish import finish
from bitplane.train.layers import low_bit_layers
from bitplane.train.loop import train
from bitplane.train.models import build_model
from bitplane.train.optimizer import ProxOptimizer
from bitplane.train.prepare import prepare
from bitplane.train.schedules import warmup_cosine

STEPS = 8


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 12, 3, padding=1, bias=False),
        nn.BatchNorm2d(12), nn.Dropout(0.5), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 16), nn.ReLU(),
        nn.Linear(16, 4),
    )  # fmt: skip


def batches(count: int = STEPS) -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [(torch.rand(6, 3, 8, 8, generator=generator), torch.randint(0, 4, (6,), generator=generator)) for _ in range(count)]


def trained(method: str = "pc", steps: int = STEPS, weights: str = "ternary", activations: int = 4, **options):
    model = network()
    prepare(model, weights, activations)
    base = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    optimizer = ProxOptimizer(base, model, method, steps=steps, **options)
    for x, y in batches():
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    return model, optimizer


def distance(model: nn.Module) -> float:
    units = [(m.weight.detach() / m.level_scale, m.levels.values) for m in low_bit_layers(model).values()]
    return max((u[..., None] - torch.tensor(q)).abs().min(-1).values.max().item() for u, q in units)


def test_weights_are_levels_and_running_statistics_stay_where_they_belong_to_them():
    model, optimizer = trained()
    mean = model[4].running_mean.clone()
    finish(model, optimizer)
    assert distance(model) < 1e-6
    assert torch.equal(model[4].running_mean, mean)
    assert model.training


STALE = {
    "ptq": ({"method": "ptq"}, "the method trains at the latent weights"),
    "rpc": ({"method": "rpc"}, "the method trains at the latent weights"),
    "average": ({"average_from": 0.5}, "the final weights are an average"),
    "early": ({"steps": 100}, "after 8 steps the quantizer is not hard yet"),
}


@pytest.mark.parametrize("case", STALE)
def test_statistics_are_taken_anew_where_training_ran_at_other_weights(case):
    options, complaint = STALE[case]
    model, optimizer = trained(**options)
    model.eval()
    before = [p.clone() for p in model.state_dict().values()]
    for missing, what in ((None, f"^{complaint}: give `batches`"), ([], "^`batches` is empty")):
        with pytest.raises(ConfigError, match=what):
            finish(model, optimizer, missing)
    assert all(map(torch.equal, before, model.state_dict().values()))
    finish(model, optimizer, iter(batches(3)))
    assert distance(model) < 1e-6
    assert not model.training
    with torch.no_grad():  # the oracle: means over the batches of what reaches the second BatchNorm, dropout left out
        reached = [model[3](torch.relu(_normed(model, x))) for x, _ in batches(3)]
    torch.testing.assert_close(model[4].running_mean, torch.stack([v.mean((0, 2, 3)) for v in reached]).mean(0))
    torch.testing.assert_close(model[4].running_var, torch.stack([v.var((0, 2, 3)) for v in reached]).mean(0))


def _normed(model: nn.Sequential, x: torch.Tensor) -> torch.Tensor:
    v = model[0](x)
    mean, var = v.mean((0, 2, 3), keepdim=True), v.var((0, 2, 3), keepdim=True, unbiased=False)
    return (v - mean) / (var + model[1].eps).sqrt() * model[1].weight.view(-1, 1, 1) + model[1].bias.view(-1, 1, 1)


def test_finishing_twice_or_with_another_optimizer_is_refused():
    model, optimizer = trained()
    other, _ = trained()
    with pytest.raises(ConfigError, match=r"`optimizer` moves other weights than those of the model's low-bit layers"):
        finish(other, optimizer)
    for wrong, kind in ((optimizer.base, "SGD"), ([optimizer], "list"), (None, "NoneType")):
        with pytest.raises(ConfigError, match=rf"^`optimizer` is a {kind}: give the ProxOptimizer"):
            finish(model, wrong)
    finish(model, optimizer)
    with pytest.raises(ConfigError, match="finished already"):
        finish(model, optimizer)


def test_a_subclass_of_the_optimizer_is_one():
    class Mine(ProxOptimizer):
        pass

    model = network()
    prepare(model)
    finish(model, Mine(torch.optim.SGD(model.parameters(), lr=0.05), model, "bc", steps=1))
    assert distance(model) < 1e-6


def test_what_accelerate_wraps_is_finished_as_it_is():
    model = network()
    prepare(model)
    optimizer = ProxOptimizer(torch.optim.SGD(model.parameters(), lr=0.05), model, steps=STEPS)
    accelerator = Accelerator(cpu=True)
    wrapped, wrapped_optimizer = accelerator.prepare(model, optimizer)
    for x, y in batches():
        wrapped_optimizer.zero_grad()
        accelerator.backward(nn.functional.cross_entropy(wrapped(x), y))
        wrapped_optimizer.step()
    finish(wrapped, wrapped_optimizer)
    assert distance(model) < 1e-6
    assert optimizer.step_count == STEPS


@pytest.mark.parametrize("activations", [1, 2, 4, 8, 32])
@pytest.mark.parametrize("weights", ["binary", "ternary", "quaternary"])
def test_a_finished_network_is_exported_and_computes_the_same_in_the_runtime(tmp_path, weights, activations):
    """A hidden fully connected layer too: packed, it is a convolution of one pixel on codes."""
    model, optimizer = trained("bc", weights=weights, activations=activations)
    finish(model, optimizer)
    model.eval()
    images = torch.cat([x for x, _ in batches(4)])
    report = bitplane.to_onnx(model, images, tmp_path / "m.onnx", quantization=Quantization(edges=32))
    low_bit = {"binary": "BinaryConv", "ternary": "TernaryConv", "quaternary": "QuaternaryConv"}[weights]
    assert {layer.name: layer.operator for layer in report.layers} == {"0": "Conv", "3": low_bit, "9": low_bit, "11": "Gemm"}
    session = bitplane.InferenceSession(tmp_path / "m.onnx")
    (logits,) = session.run(None, {"input": images.numpy()})
    with torch.no_grad():
        expected = model(images).numpy()
    if activations == 32:  # export calibrates 8 bits
        assert np.abs(logits - expected).max() < 0.05 * np.abs(expected).max()
    else:
        close = np.isclose(logits, expected, rtol=1e-4, atol=1e-4).all(1)
        assert close.mean() >= 0.95  # a code at a boundary may be the neighboring one


class Vgg(nn.Sequential):
    """A pool that leaves 4x4 pixels as they are, and fully connected layers over all of them, as VGG and AlexNet have them."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        super().__init__(
            nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.AdaptiveAvgPool2d((4, 4)), nn.Flatten(),
            nn.Linear(128, 24), nn.ReLU(), nn.Dropout(), nn.Linear(24, 16), nn.ReLU(), nn.Linear(16, 4),
        )  # fmt: skip


@pytest.mark.parametrize("activations", [1, 4])
def test_fully_connected_layers_over_pixels_are_low_bit_all_the_way(tmp_path, activations):
    model = Vgg()
    prepare(model, "ternary", activations)
    optimizer = ProxOptimizer(torch.optim.SGD(model.parameters(), lr=0.05), model, "bc", steps=STEPS)
    for x, y in batches():
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    finish(model, optimizer)
    model.eval()
    images = torch.cat([x for x, _ in batches(4)])
    report = bitplane.to_onnx(model, images, tmp_path / "m.onnx", quantization=Quantization(edges=32))
    operators = {layer.name: layer.operator for layer in report.layers}
    assert operators == {"0": "Conv", "5": "TernaryConv", "8": "TernaryConv", "10": "Gemm"}
    (logits,) = bitplane.InferenceSession(tmp_path / "m.onnx").run(None, {"input": images.numpy()})
    with torch.no_grad():
        close = np.isclose(logits, model(images).numpy(), rtol=1e-4, atol=1e-4).all(1)
    assert close.mean() >= 0.95


def test_an_unfinished_network_is_refused_with_what_to_call(tmp_path):
    model, _ = trained(steps=100)
    with pytest.raises(
        bitplane.BitplaneError, match=r"3: \d+ of 864 weights of this layer are not in the ternary .* `bitplane\.finish"
    ):
        bitplane.to_onnx(model.eval(), batches(1)[0][0], tmp_path / "m.onnx")
    assert not (tmp_path / "m.onnx").exists()


@pytest.mark.parametrize(
    "options",
    [
        {"weights": "ternary", "activations": 2},
        {"weights": "binary", "activations": 1, "one_bit": "reactnet", "method": "bc"},
        {"weights": "quaternary", "activations": 4, "stem": "int8", "method": "rpc"},
        {"weights": "ternary", "activations": 4, "method": "pc", "base": "adam", "scale_fit": "learned", "average_from": 0.5},
    ],
)
def test_a_plain_loop_gives_the_weights_of_a_run_bit_for_bit(pictures, tmp_path, options):
    config = from_options({"epochs": 2, "batch_size": 8, "lr": 0.02, "data": str(pictures), **options})
    train(config, tmp_path / "run", progress=False)
    data = load_data(config.data)
    config = with_data(config, data)

    torch.manual_seed(config.seed)
    form = {"activations": 1, "one_bit": config.model.one_bit} if config.model.is_one_bit else {"activations": 32}
    model = build_model(
        ModelConfig(weights="float", **form, classes=2, zero_point=data.zero_point, pixel_scale=data.pixel_scale)
    )
    if config.model.is_one_bit:
        bitplane.restore(model)
    bits = "learned-sign" if config.model.is_one_bit else config.model.activations
    weights = {"layer*": config.model.weights, **({"conv1": "int8"} if config.model.stem == "int8" else {})}
    bitplane.prepare(model, weights, bits, keep=["fc"])
    model = model.to(memory_format=torch.channels_last)
    loader = BatchLoader(data, config.batch_size, torch.device("cpu"), config.seed)
    o, steps = config.optimizer, config.epochs * len(loader)
    groups = [
        {"params": [p for p in model.parameters() if p.dim() > 1], "weight_decay": o.weight_decay},
        {"params": [p for p in model.parameters() if p.dim() <= 1], "weight_decay": 0.0},
    ]
    kind = torch.optim.Adam(groups, lr=o.lr) if o.base == "adam" else torch.optim.SGD(groups, o.lr, 0.9, nesterov=True)
    optimizer = bitplane.ProxOptimizer(
        kind, model, o.method, steps=steps, scale_fit=o.scale_fit, average_from=o.average_from, seed=config.seed
    )
    model.train()
    for epoch in range(config.epochs):
        for images, labels in loader.epoch(epoch):
            for group in optimizer.param_groups:
                group["lr"] = warmup_cosine(optimizer.step_count, steps, o.lr, round(o.warmup * steps))
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images), labels).backward()
            optimizer.step()
    needs = o.method == "rpc" or o.average_from < 1
    bitplane.finish(model, optimizer, [x for i, (x, _) in zip(range(50), loader.epoch(0), strict=False)] if needs else None)

    from safetensors.torch import load_file

    expected = load_file(tmp_path / "run" / "final" / "model.safetensors")
    got = model.state_dict()
    assert expected.keys() == got.keys()
    assert [k for k, v in expected.items() if not torch.equal(v, got[k])] == []
