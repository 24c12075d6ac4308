"""Networks of torchvision, timm and Python files in the package's own loop: trained, resumed, started from, refused."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import torch
import torchvision
from safetensors.torch import load_file, save_file
from torch import nn

from bitplane import prepare
from bitplane.train.checkpoint import read_config
from bitplane.train.config import ModelConfig, TrainConfig, from_options
from bitplane.train.errors import CheckpointError, ConfigError
from bitplane.train.layers import Int8Conv2d, low_bit_layers
from bitplane.train.loop import train
from bitplane.train.models import PixelNetwork, build_model
from bitplane.train.models.python_file import read_python
from bitplane.train.optimizer import ProxOptimizer
from bitplane.train.weights import load_final, load_weights

SMALL = {"epochs": 2, "batch_size": 16, "activations": 4, "lr": 0.01, "eval_every": 10, "size": 32}
SOURCE = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.quant1 = nn.Sequential(nn.Conv2d(3, 8, 3, 2, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.step = nn.Conv2d(8, 8, 3)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(8, classes)

    def forward(self, x):
        x = torch.relu(self.step(self.quant1(x)))
        return self.head(self.drop(x.mean((2, 3))))


def build(classes):
    return Net(classes)


def fixed():
    return Net(5)
"""


@pytest.fixture
def file(tmp_path) -> Path:
    """A network of names that quantizers have, or had, and with dropout."""
    path = tmp_path / "mynet.py"
    path.write_text(SOURCE)
    return path


@pytest.fixture
def config(pictures, file) -> TrainConfig:
    return from_options({**SMALL, "data": str(pictures), "model": f"{file}:build"})


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "final" / "model.safetensors")


def test_a_network_of_torchvision_is_what_prepare_makes_of_it():
    config = ModelConfig(model="torchvision:mnasnet0_5", weights="binary", activations=4, classes=7)
    torch.manual_seed(3)
    model = build_model(config)
    torch.manual_seed(3)
    source = torchvision.models.mnasnet0_5(num_classes=7)
    table = prepare(source, "binary", 4)
    assert isinstance(model, PixelNetwork)
    assert model.preparation == table
    own, theirs = model.network.state_dict(), source.state_dict()
    assert own.keys() == theirs.keys()
    assert all(torch.equal(own[k], theirs[k]) for k in own)
    assert low_bit_layers(model).keys() == {f"network.{n}" for n in low_bit_layers(source)}


def test_the_pixels_that_the_data_call_0_and_1_are_so_for_the_network():
    seen = []

    class Probe(nn.Module):
        def forward(self, x):
            seen.append(x)
            return x

    pixels = torch.tensor([100, 150, 50], dtype=torch.uint8).view(1, 3, 1, 1)
    PixelNetwork(ModelConfig(zero_point=100, pixel_scale=50.0), Probe())(pixels)
    assert seen[0].flatten().tolist() == [0, 1, -1]


def test_options_by_pattern_reach_layers_of_any_name():
    config = ModelConfig(
        model="torchvision:squeezenet1_1",
        classes=4,
        layer_weights=("features.4.*=binary", "features.6.*=float", "features.0=int8"),
        layer_activations=("features.4.expand*=8", "features.3.squeeze=1"),
        keep_layers=("classifier.*",),
    )
    became = {p.name: (p.weights, p.activations) for p in build_model(config).preparation.layers}
    assert became["features.0"] == ("int8", 32)
    assert became["features.3.squeeze"] == ("ternary", 1)
    assert became["features.3.expand3x3"] == ("ternary", 2)
    assert became["features.4.squeeze"] == ("binary", 2)
    assert became["features.4.expand1x1"] == ("binary", 8)
    assert became["features.6.squeeze"] == ("float", 32)
    assert became["classifier.1"] == ("float", 32)


def test_the_last_pattern_that_matches_counts_also_if_it_matches_all():
    model = "torchvision:squeezenet1_1"
    with pytest.raises(ConfigError, match=r"`layer_weights` \(=features.4.\*=binary\) has no effect: later patterns"):
        build_model(ModelConfig(model=model, layer_weights=("features.4.*=binary", "*=quaternary")))
    mixed = build_model(ModelConfig(model=model, layer_weights=("*=quaternary", "features.4.*=binary")))
    assert {m.levels.name for m in low_bit_layers(mixed).values()} == {"quaternary", "binary"}


def test_our_resnets_take_the_same_options():
    config = ModelConfig(layer_weights=("layer1.*=int8",), layer_activations=("layer3.2.conv2=8",), keep_layers=())
    model = build_model(config)
    assert isinstance(model.get_submodule("layer1.0.conv1"), Int8Conv2d)
    assert model.get_submodule("layer3.2.conv2").quantizer.bits == 8
    assert not isinstance(model.get_submodule("conv1"), Int8Conv2d)  # no pattern names it


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"layer_weights": ("fc=ternary",)}, r"`layer_weights` \(=fc=ternary\) has no effect on fc \(kept"),
        ({"layer_activations": ("fc=4",)}, r"`layer_activations` \(=fc=4\) has no effect on fc \(kept"),
        ({"layer_weights": ("nothing.*=binary",)}, r"`layer_weights` \(=nothing.\*=binary\) matches none of conv1, layer1"),
        ({"keep_layers": ("nothing",)}, r"`keep_layers` \(=nothing\) matches none of conv1"),
        ({"stem": "int8", "keep_layers": ("conv1",)}, r"`stem` \(=conv1=int8\) has no effect on conv1 \(kept"),
    ],
)
def test_an_option_without_effect_is_refused(options, complaint):
    with pytest.raises(ConfigError, match=complaint):
        build_model(ModelConfig(**options))


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (
            {"model": "resnet21"},
            r"model 'resnet21' is unknown; choose one of resnet20, .*, torchvision:NAME, timm:NAME or",
        ),
        ({"model": "torchvision:"}, "is unknown; choose one of"),
        ({"model": "mynet.py"}, r"give the function of the file that returns the network, as FILE\.py:FUNCTION"),
        ({"model": "mynet.py:a b"}, "give the function of the file"),
        ({"model": "torchvision:vgg11", "one_bit": "prelu", "activations": 1}, r"`one_bit` \(=prelu\) is of the package's own"),
        ({"model": "torchvision:vgg11", "shortcut": "A"}, r"`shortcut` \(=A\) is of the package's own ResNets"),
        ({"model": "a.py:f", "stem": "int8"}, r"`stem` \(=int8\) is of .*, not of a\.py:f; --layer-weights NAME=int8"),
        ({"layer_activations": ("*=5",)}, r"`layer_activations` \(=\*=5\) must read PATTERN=BITS, of 32, 8, 4, 2, 1, learned"),
        ({"layer_activations": ("4",)}, "must read PATTERN=BITS"),
    ],
)
def test_a_configuration_that_cannot_be_is_refused_without_loading_anything(options, complaint):
    with pytest.raises(ConfigError, match=complaint):
        ModelConfig(**options)


def test_a_network_that_a_package_does_not_have_is_refused_with_near_names():
    with pytest.raises(ConfigError, match=r"torchvision has no network for classification .*; near are .*mobilenet_v2"):
        build_model(ModelConfig(model="torchvision:mobilenetv2"))
    with pytest.raises(ConfigError, match="no network for classification"):
        build_model(ModelConfig(model="torchvision:fasterrcnn_resnet50_fpn"))


def test_a_network_of_timm_is_trained(pictures, tmp_path):
    pytest.importorskip("timm")
    config = from_options({**SMALL, "epochs": 1, "data": str(pictures), "model": "timm:test_resnet"})
    train(config, tmp_path / "run", progress=False)
    model, _, _ = load_final(tmp_path / "run")
    assert "network.layer4.0.conv2" in low_bit_layers(model)
    with pytest.raises(ConfigError, match=r"timm has no network .*; near are resnet18"):
        build_model(ModelConfig(model="timm:resnet18x"))


def test_a_package_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "timm", None)
    with pytest.raises(ConfigError, match="needs the package timm: pip install timm"):
        build_model(ModelConfig(model="timm:resnet18"))


def test_an_interrupted_run_of_a_network_with_dropout_ends_with_the_same_weights(config, tmp_path, monkeypatch):
    train(config, tmp_path / "whole", progress=False)
    step = ProxOptimizer.step

    def killed(self, closure=None):
        if self.step_count == 3:  # in the second epoch of two steps
            raise KeyboardInterrupt
        return step(self, closure)

    monkeypatch.setattr(ProxOptimizer, "step", killed)
    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path / "killed", progress=False)
    monkeypatch.setattr(ProxOptimizer, "step", step)
    torch.manual_seed(99)  # whatever was drawn in between
    train(config, tmp_path / "killed", resume=True, progress=False)
    whole, killed_run = weights(tmp_path / "whole"), weights(tmp_path / "killed")
    assert whole.keys() == killed_run.keys()
    assert "network.quant1.0.weight" in whole
    assert all(torch.equal(whole[k], killed_run[k]) for k in whole)


def test_a_run_holds_its_file_and_what_became_of_its_layers(config, file, tmp_path):
    said = []
    train(config, tmp_path / "run", progress=False, say=said.append)
    assert (tmp_path / "run" / "model.py").read_text() == SOURCE
    assert read_config(tmp_path / "run").model.model_sha256 == hashlib.sha256(SOURCE.encode()).hexdigest()
    layers = json.loads((tmp_path / "run" / "prepared.json").read_text())["layers"]
    assert [(p["name"], p["weights"], p["activations"]) for p in layers] == [
        ("quant1.0", "float", 32),
        ("step", "ternary", 4),
        ("head", "float", 32),
    ]
    assert [line.split()[0] for line in said] == ["layer", "quant1.0", "step", "head"]


def test_a_folder_alone_never_has_a_file_run(config, file, tmp_path):
    train(config, tmp_path / "run", progress=False)
    file.write_text("raise SystemExit('it was run')\n")
    shutil.copy(file, tmp_path / "run" / "model.py")
    with pytest.raises(ConfigError, match=r"made by a Python file, which runs only if you name it: add --model .*\.py:build"):
        load_final(tmp_path / "run")
    with pytest.raises(ConfigError, match="runs only if you name it"):
        train(TrainConfig(), tmp_path / "run", resume=True, progress=False)
    with pytest.raises(ConfigError, match="a Python file runs only if you name it"):
        build_model(config.model)
    taught = from_options({"teacher": str(tmp_path / "run"), "model": "resnet20"}, config)
    with pytest.raises(ConfigError, match="runs only if you name it"):
        train(taught, tmp_path / "taught", progress=False)


def test_a_run_goes_on_with_the_very_file_that_it_was_trained_with(config, file, tmp_path):
    train(config, tmp_path / "run", progress=False)
    file.write_text(SOURCE + "\n")
    with pytest.raises(ConfigError, match=r"mynet\.py: is not the file that .*run was trained with .*; its copy is .*l\.py"):
        train(config, tmp_path / "run", resume=True, progress=False)
    copied = from_options({"model": f"{tmp_path / 'run' / 'model.py'}:build"}, config)
    train(copied, tmp_path / "run", resume=True, progress=False)
    other = from_options({"model": f"{tmp_path / 'run' / 'model.py'}:fixed"}, config)
    with pytest.raises(ConfigError, match="made by function build, not fixed"):
        train(other, tmp_path / "run", resume=True, progress=False)


def test_a_teacher_may_be_a_run_of_the_same_file(config, tmp_path):
    train(config, tmp_path / "run", progress=False)
    taught = from_options({"teacher": str(tmp_path / "run"), "epochs": 1}, config)
    assert train(taught, tmp_path / "taught", progress=False)["epochs"] == 1


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        ("def build(:\n", r"mynet\.py: line 1: invalid syntax"),
        ("1 / 0\n", r"mynet\.py: cannot be run \(ZeroDivisionError: division by zero\)"),
        ("raise SystemExit(3)\n", r"mynet\.py: cannot be run \(SystemExit: 3\)"),
        ("import no_such_thing\n", r"cannot be run \(No module named 'no_such_thing'\); install it, or name its folder"),
        ("def other(): pass\n", r"mynet\.py: has no function build; its functions are other"),
        ("build = 3\n", "has no function build; its functions are none"),
        ("def build(): return [1]\n", r"build returns a list; it must return an nn\.Module"),
        ("def build(classes, depth): pass\n", r"build cannot be called \(TypeError: .*'depth'"),
        ("def build(): raise ValueError('two\\nlines')\n", r"build cannot be called \(ValueError: two lines\)"),
        ("from torch import nn\ndef build(): return nn.ReLU()\n", "ReLU has neither convolutions nor"),
        ("from torch import nn\ndef build(): return nn.LazyConv2d(8, 3)\n", "`weight` has no shape yet"),
        (
            "from torch import nn\ndef build(): return nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3))\n",
            r"returns \[2, 8, 28, 28\] in training for 2 images; the data have 2 classes, so it must be \[2, 2\]",
        ),
        (
            "from torch import nn\nclass N(nn.Conv2d):\n  def forward(self, x): return x, x\ndef build(): return N(3, 3, 1)\n",
            "returns a tuple in training; it must return logits alone",
        ),
        (
            "from torch import nn\ndef build(): return nn.Sequential(nn.Conv2d(3, 8, 99), nn.Conv2d(8, 8, 3))\n",
            r"does not take images of 3x32x32 \(RuntimeError: ",
        ),
    ],
)
def test_a_file_that_makes_no_such_network_is_refused_in_one_line(config, file, tmp_path, source, complaint):
    file.write_text(source)
    with pytest.raises(ConfigError, match=complaint) as error:
        train(config, tmp_path / "run", progress=False)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_a_missing_file_is_refused_before_the_data_are_looked_at(tmp_path):
    config = from_options({"model": f"{tmp_path / 'none.py'}:build", "data": str(tmp_path / "nowhere")})
    with pytest.raises(ConfigError, match=r"none\.py cannot be read"):
        train(config, tmp_path / "run", progress=False)


def test_a_function_that_takes_no_classes_must_have_those_of_the_data(config, file, tmp_path):
    wrong = from_options({"model": f"{file}:fixed"}, config)
    with pytest.raises(ConfigError, match=r"fixed': returns \[2, 5\] in training for 2 images; the data have 2 classes"):
        train(wrong, tmp_path / "run", progress=False)


def test_a_weight_that_two_layers_share_is_saved_with_both(pictures, file, tmp_path):
    file.write_text(
        "from torch import nn\n"
        "def build():\n"
        "  a, b = nn.Linear(8, 8), nn.Linear(8, 8)\n"
        "  b.weight = a.weight\n"
        "  pool = nn.AdaptiveAvgPool2d(1)\n"
        "  return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), pool, nn.Flatten(), a, b, nn.Linear(8, 2))\n"
    )
    options = {**SMALL, "epochs": 1, "data": str(pictures), "model": f"{file}:build", "keep_layers": ("0", "5", "6", "7")}
    train(from_options(options), tmp_path / "run", progress=False)
    stored = weights(tmp_path / "run")
    assert torch.equal(stored["network.5.weight"], stored["network.6.weight"])


def test_bits_that_differ_between_layers_stay_so(config, tmp_path):
    options = {"layer_weights": ("head=ternary",), "keep_layers": ("quant1.*",), "layer_activations": ("head=2",)}
    mixed = from_options(options, config)
    train(mixed, tmp_path / "run", progress=False)
    model, _, _ = load_final(tmp_path / "run", read_python(mixed.model))
    assert [m.quantizer.bits for m in low_bit_layers(model).values()] == [4, 2]
    with pytest.raises(ConfigError, match=r"`earlier_bits` \(=\(8,\)\) is for all layers alike"):
        train(from_options({"earlier_bits": (8,)}, mixed), tmp_path / "other", progress=False)


def test_a_run_starts_from_a_state_dictionary_of_the_network_itself(tmp_path):
    source = torchvision.models.squeezenet1_1(num_classes=3)
    save_file(source.state_dict(), tmp_path / "squeezenet.safetensors")
    model = build_model(ModelConfig(model="torchvision:squeezenet1_1", classes=3))
    missing = load_weights(model, tmp_path / "squeezenet.safetensors", lenient=True)
    assert all(k.endswith((".level_scale", ".quantizer.step")) or k.startswith("input.") for k in missing)
    assert torch.equal(model.network.features[3].squeeze.weight, source.features[3].squeeze.weight)


def test_a_start_of_other_classes_lacks_the_last_layer_and_nothing_else(config, file, pictures, tmp_path):
    torch.manual_seed(1)
    exec(SOURCE, scope := {})
    source = scope["Net"](9)
    save_file(source.state_dict(), tmp_path / "nine.safetensors")
    said = []
    options = {"weights": "float", "activations": 32, "lr": 0.0, "epochs": 1, "warmup": 0.0}
    train(from_options(options, config), tmp_path / "run", init=tmp_path / "nine.safetensors", progress=False, say=said.append)
    assert said[-1].endswith("nine.safetensors: network.head makes logits of other classes there; it starts at random here")
    assert torch.equal(weights(tmp_path / "run")["network.step.weight"], source.step.weight)
    wider = {k: torch.zeros(9, 16) if k == "head.weight" else v for k, v in source.state_dict().items()}
    save_file(wider, tmp_path / "wider.safetensors")
    with pytest.raises(CheckpointError, match=r"another model: `network\.head\.weight` is \[9, 16\] there and \[2, 8\]"):
        train(config, tmp_path / "other", init=tmp_path / "wider.safetensors", progress=False)


def test_several_processes_refuse_a_batch_norm_that_they_cannot_share():
    from bitplane.train.distributed import synchronize_batch_norm

    class Activated(nn.BatchNorm2d):
        pass

    for kind, device in ((Activated, "cpu"), (nn.BatchNorm1d, "cpu"), (Activated, "cuda")):
        with pytest.raises(ConfigError, match=r"^1: a .* has no statistics over several processes; train with one process"):
            synchronize_batch_norm(nn.Sequential(nn.BatchNorm2d(2), kind(2)), torch.device(device))
