"""Networks of one's own, made low-bit and ordinary again."""

import copy
import pickle

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from bitplane.train.activations import LearnedStep, Sign
from bitplane.train.errors import ConfigError, TrainingError
from bitplane.train.layers import Int8Conv2d, LowBitConv2d, LowBitLinear, low_bit_layers
from bitplane.train.prepare import prepare, restore


class Net(nn.Module):
    """All that `prepare` meets: bias, groups, a depthwise layer, dilation, a shared input, a linear bottleneck, other kinds."""

    def __init__(self, traceable: bool = True) -> None:
        super().__init__()
        self.traceable = traceable
        self.stem = nn.Conv2d(3, 16, 3, 2, 1)
        self.bn = nn.BatchNorm2d(16)
        self.left = nn.Conv2d(16, 24, 3, padding="same", dilation=2)
        self.right = nn.Conv2d(16, 24, 1)
        self.depthwise = nn.Conv2d(24, 24, 3, 1, 1, groups=24, bias=False)
        self.bottleneck = nn.Conv2d(24, 8, 1, bias=False)
        self.expand = nn.Conv2d(8, 24, 3, (1, 2), (1, 0), groups=4)
        self.mirror = nn.Conv2d(24, 24, 3, 1, 1, padding_mode="reflect")
        self.up = nn.ConvTranspose2d(24, 8, 2)
        self.hidden = nn.Linear(8, 20)
        self.head = nn.Linear(20, 5)

    def forward(self, x: Tensor) -> Tensor:
        if not self.traceable and x.mean() > 1e9:
            return x
        x = torch.relu(self.bn(self.stem(x)))
        x = functional.relu6(self.left(x) + self.right(x))
        x = self.bottleneck(torch.relu(self.depthwise(x)))
        x = self.up(torch.relu(self.mirror(torch.relu(self.expand(x)))))
        return self.head(torch.relu(self.hidden(torch.relu(x).mean((2, 3)))))


@pytest.fixture
def net() -> Net:
    torch.manual_seed(0)
    return Net()


IMAGES = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def rows(table) -> dict[str, tuple[str, int | str, str]]:
    return {p.name: (p.weights, p.activations, p.note) for p in table.layers}


def test_the_table_says_what_became_what_and_why_the_rest_stayed(net):
    table = prepare(net)
    assert rows(table) == {
        "stem": ("float", 32, "kept: the first or last layer"),
        "left": ("ternary", 4, ""),
        "right": ("ternary", 4, "reads what left reads"),
        "depthwise": ("int8", 32, "depthwise"),
        "bottleneck": ("ternary", 4, ""),
        "expand": ("ternary", 32, "reads values that may be negative: codes have no sign"),
        "mirror": ("float", 32, "padding mode reflect"),
        "up": ("float", 32, "a ConvTranspose2d has no ternary form"),
        "hidden": ("ternary", 4, ""),
        "head": ("float", 32, "kept: the first or last layer"),
    }
    assert str(table).splitlines()[3].split() == ["right", "Conv2d", "ternary", "4", "reads", "what", "left", "reads"]
    assert {n: type(m).__name__ for n, m in net.named_children() if n != "bn"} == {
        "stem": "Conv2d", "left": "LowBitConv2d", "right": "LowBitConv2d", "depthwise": "Int8Conv2d",
        "bottleneck": "LowBitConv2d", "expand": "LowBitConv2d", "mirror": "Conv2d", "up": "ConvTranspose2d",
        "hidden": "LowBitLinear", "head": "Linear",
    }  # fmt: skip
    assert net.right.input_quantizer is net.left.quantizer


def test_a_float_network_whose_layers_only_changed_their_class_computes_the_same(net):
    expected = net.eval()(IMAGES)
    prepare(net, activations=32, weights={"*": "ternary", "depthwise": "ternary"})
    assert torch.equal(net(IMAGES), expected)


def test_weights_hooks_names_mode_dtype_and_memory_format_stay(net):
    net = net.to(torch.float64, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    before = {n: (p, p.clone(), p.stride()) for n, p in net.named_parameters()}
    calls = []
    handle = net.left.register_forward_hook(lambda *_: calls.append(1))
    prepare(net)
    after = dict(net.named_parameters())
    for name, (p, value, stride) in before.items():
        assert after[name] is p
        assert torch.equal(p, value)
        assert p.stride() == stride
    assert set(after) - set(before) == {f"{n}.quantizer.step" for n in ("left", "bottleneck", "hidden")}
    assert not net.left.training
    assert not net.left.quantizer.training
    assert net.left.level_scale.dtype == torch.float64
    assert net(IMAGES.double()).dtype == torch.float64
    handle.remove()
    net(IMAGES.double())
    assert calls == [1]


def test_a_restored_network_is_the_one_before(net):
    expected, keys = net.eval()(IMAGES), list(net.state_dict())
    kinds = [type(m) for m in net.modules()]
    prepare(net)
    restore(net)
    assert torch.equal(net(IMAGES), expected)
    assert list(net.state_dict()) == keys
    assert [type(m) for m in net.modules()] == kinds
    assert set(vars(net.left)) == set(vars(nn.Conv2d(1, 1, 1)))
    prepare(net, "binary", 2)
    assert {m.levels.name for m in low_bit_layers(net).values()} == {"binary"}
    with pytest.raises(ConfigError, match="no layer that `prepare` made"):
        restore(Net())


def test_the_last_pattern_that_matches_counts_and_unnamed_layers_stay(net):
    table = prepare(
        net,
        {"*": "ternary", "le*": "binary", "left": "quaternary", "mirror": "float", "depthwise": "binary", "head": "ternary"},
        {"left": 2, "right": 8, "expand": 4, "stem": 1},
        keep=["bottleneck"],
        scale="layer",
    )
    assert rows(table) == {
        "stem": ("ternary", 1, ""),
        "left": ("quaternary", 2, ""),
        "right": ("ternary", 8, ""),
        "depthwise": ("binary", 32, ""),
        "bottleneck": ("float", 32, "kept"),
        "expand": ("ternary", 4, ""),
        "mirror": ("float", 32, ""),
        "up": ("float", 32, "a ConvTranspose2d has no ternary form"),
        "hidden": ("ternary", 32, ""),
        "head": ("ternary", 32, ""),
    }
    assert isinstance(net.stem.quantizer, Sign)
    assert net.stem.pad_value == -1
    assert net.left.level_scale.shape == (1, 1, 1, 1)
    assert net.head.level_scale.shape == (1, 1)


def test_a_layer_of_float_weights_can_read_codes(net):
    table = prepare(net, "float", {"*": 4, "left": 2})
    assert rows(table)["left"] == ("float", 2, "")
    assert rows(table)["right"] == ("float", 32, "")
    net.train()(IMAGES)
    assert low_bit_layers(net) == {}
    assert torch.unique(net.left.quantizer(torch.rand(1000) * 9)).numel() == 4


def test_preparing_twice_changes_nothing_and_in_another_way_is_refused(net):
    table = prepare(net)
    net.train()(IMAGES)
    state = copy.deepcopy(net.state_dict())
    assert prepare(net) == table
    assert all(torch.equal(v, state[k]) for k, v in net.state_dict().items())
    for options, layer in (
        ({"weights": "binary"}, "left: is prepared already, with ternary weights of scale channel"),
        ({"scale": "layer"}, "left: is prepared already"),
        ({"activations": 2}, "left: is prepared already"),
        ({"activations": "learned-sign"}, "left: is prepared already"),
        ({"keep": ["depthwise", "stem", "head"]}, "depthwise: is prepared already, with int8 weights"),
        ({"keep": ["stem"]}, "head: is prepared already, with float weights"),
    ):
        with pytest.raises(ConfigError, match=layer):
            prepare(net, **options)
    assert all(torch.equal(v, state[k]) for k, v in net.state_dict().items())


def test_the_state_goes_into_another_prepared_network_of_the_same_form(net, tmp_path):
    prepare(net)
    net.train()(IMAGES)
    save_file(net.state_dict(), tmp_path / "model.safetensors")
    other = Net()
    prepare(other)
    other.load_state_dict(load_file(tmp_path / "model.safetensors"))
    assert torch.equal(other.eval()(IMAGES), net.eval()(IMAGES))
    with pytest.raises(RuntimeError, match="level_scale"):
        Net().load_state_dict(net.state_dict())


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["deepcopy", "pickle"])
def test_a_copy_shares_quantizers_within_itself_only(net, copied):
    prepare(net)
    net.train()(IMAGES)
    other = copied(net)
    assert torch.equal(other.eval()(IMAGES), net.eval()(IMAGES))
    assert other.right.input_quantizer is other.left.quantizer
    assert other.left.quantizer is not net.left.quantizer


def test_a_first_batch_sets_the_steps_and_later_ones_do_not(net):
    prepare(net)
    before = net.eval()(IMAGES)
    assert net.left.quantizer.step.item() == 0
    net.train()(IMAGES)
    steps = {n: p.clone() for n, p in net.named_parameters() if n.endswith("step")}
    assert all(v > 0 for v in steps.values())
    net(IMAGES * 2)
    assert all(torch.equal(p, steps[n]) for n, p in net.named_parameters() if n in steps)
    assert before.isfinite().all()


def test_steps_that_were_not_known_when_a_state_was_saved_are_found_after_it_is_loaded(net):
    prepare(net)
    other = Net()
    prepare(other)
    other.train()(IMAGES)
    other.load_state_dict(net.state_dict())
    other.train()(IMAGES)
    assert other.left.quantizer.step.item() > 0


def test_a_network_that_cannot_be_traced_is_prepared_and_its_first_batch_tells_of_negative_values():
    torch.manual_seed(0)
    net = Net(traceable=False)
    table = rows(prepare(net))
    assert table["right"] == ("ternary", 4, "")
    assert table["expand"] == ("ternary", 4, "")
    with pytest.raises(TrainingError, match=r"^expand: `activations` \(=4\) are codes from 0, and it reads values down to -"):
        net(IMAGES)
    restore(net)
    prepare(net, activations={"*": 4, "expand": 32})
    assert net(IMAGES).isfinite().all()
    assert isinstance(net.right.quantizer, LearnedStep)


def test_an_int8_layer_rounds_its_weights_and_passes_their_gradient(net):
    prepare(net)
    assert isinstance(net.depthwise, Int8Conv2d)
    x = torch.rand(1, 24, 5, 5)
    step = net.depthwise.weight.detach().abs().amax((1, 2, 3), keepdim=True) / 64
    rounded = (net.depthwise.weight.detach() / step).round() * step
    torch.testing.assert_close(net.depthwise(x), functional.conv2d(x, rounded, None, 1, 1, groups=24))
    net.depthwise(x).sum().backward()
    free = rounded.clone().requires_grad_()
    functional.conv2d(x, free, None, 1, 1, groups=24).sum().backward()
    torch.testing.assert_close(net.depthwise.weight.grad, free.grad)


def test_one_bit_codes_pad_with_minus_one(net):
    prepare(net, "binary", {"left": 1, "right": 1})
    x = torch.randn(2, 16, 6, 7)
    padded = functional.pad(torch.where(x >= 0, 1.0, -1.0), (2, 2, 2, 2), value=-1.0)
    expected = functional.conv2d(padded, net.left.weight, net.left.bias, dilation=2)
    torch.testing.assert_close(net.left(x), expected)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"weights": {"*": "ternary", "layer9*": "binary"}}, r"`weights` \(='layer9\*'\) names no layer; layers are stem,"),
        ({"activations": {"*": 4, "nothing": 2}}, r"`activations` \(='nothing'\) names no layer"),
        ({"keep": ["classifier"]}, r"`keep` \(='classifier'\) names no layer"),
        ({"weights": "trinary"}, r"`weights` \(='trinary'\) must be one of binary, ternary, quaternary,.* int8, float"),
        ({"activations": 3}, r"`activations` \(=3\) must be one of 32, 8, 4, 2, 1, learned-sign"),
        ({"scale": "tensor"}, r"`scale` \(='tensor'\) must be one of none, layer, channel, two-sided"),
        ({"weights": {"depthwise": "quaternary", "bad": "ternary"}}, r"bad: `scale` \(=channel\): a layer of weights"),
    ],
)
def test_what_cannot_be_prepared_is_refused_in_one_line_and_nothing_changes(net, options, complaint):
    net.bad = nn.Conv2d(2, 2, 1, groups=2)
    kinds, keys = [type(m) for m in net.modules()], list(net.state_dict())
    with pytest.raises(ConfigError, match=f"^{complaint}") as error:
        prepare(net, **options)
    assert "\n" not in str(error.value)
    assert [type(m) for m in net.modules()] == kinds
    assert list(net.state_dict()) == keys


def test_a_shared_weight_is_refused_unless_both_layers_are_kept(net):
    net.hidden.weight = nn.Parameter(torch.randn(20, 20))
    net.tied = nn.Linear(20, 20)
    net.tied.weight = net.hidden.weight
    with pytest.raises(ConfigError, match=r"^hidden: shares its weight with `tied\.weight`; keep it \(`keep`\)"):
        prepare(net)
    prepare(net, keep=["hidden", "tied", "stem"])
    assert type(net.tied) is nn.Linear


def test_a_network_without_layers_is_refused():
    with pytest.raises(ConfigError, match="ReLU has neither convolutions nor fully connected layers"):
        prepare(nn.ReLU())


def test_a_subclass_with_a_forward_of_its_own_stays(net):
    class Standardized(nn.Conv2d):
        pass

    net.right = Standardized(16, 24, 1)
    assert rows(prepare(net))["right"] == ("float", 32, "a Standardized has no ternary form")


def test_layers_by_hand_are_of_the_same_classes(net):
    prepare(net)
    assert type(net.left) is LowBitConv2d
    assert type(net.hidden) is LowBitLinear
