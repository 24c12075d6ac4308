"""What torch, its schedulers, scalers and checkpoints expect of an optimizer, of the wrapped one and of ours in turn."""

import copy
import pickle
import warnings

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict

from bitplane.format.levels import LEVEL_SETS
from bitplane.train.errors import ConfigError, TrainingError
from bitplane.train.methods import METHODS
from bitplane.train.optimizer import ProxOptimizer
from bitplane.train.prepare import prepare

STEPS = 12
BASES = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, foreach=False),
    "sgd foreach": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, foreach=True),
    "sgd fused": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, fused=True),
    "adamw fused": lambda p: torch.optim.AdamW(p, lr=0.01, fused=True),
    "adam foreach": lambda p: torch.optim.Adam(p, lr=0.01, foreach=True),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01),
}


class Lars(torch.optim.Optimizer):
    """An optimizer from outside: rates scaled by norms of the parameter and the gradient (You et al., 2017)."""

    def __init__(self, params, lr=0.1):
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in (p for p in group["params"] if p.grad is not None):
                state = self.state[p]
                state["steps"] = state.get("steps", 0) + 1
                p.sub_(p.grad, alpha=group["lr"] * float(p.norm() / p.grad.norm().clamp(min=1e-9)))


BASES["lars"] = Lars


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 12, 3, padding=1), nn.BatchNorm2d(12),
        nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 4),
    )  # fmt: skip
    prepare(model, {"3": "ternary", "8": "binary"}, 4)
    return model


def made(base: str = "sgd", method: str = "pc", weights: int = 0, **options) -> tuple[nn.Module, ProxOptimizer]:
    model = network(weights)
    return model, ProxOptimizer(BASES[base](model.parameters()), model, method, steps=STEPS, **options)


def gradients(model: nn.Module, step: int) -> Tensor:
    generator = torch.Generator().manual_seed(step)
    x, y = torch.rand(6, 3, 8, 8, generator=generator), torch.randint(0, 4, (6,), generator=generator)
    loss = nn.functional.cross_entropy(model(x), y)
    model.zero_grad()
    loss.backward()
    return loss


def advance(model: nn.Module, optimizer: torch.optim.Optimizer, first: int, last: int) -> None:
    for step in range(first, last):
        gradients(model, step)
        optimizer.step()


def tensors(model: nn.Module, optimizer: ProxOptimizer) -> dict[str, Tensor]:
    latent = {f"latent {i}": v for i, v in enumerate(optimizer.latent.values())}
    return {**model.state_dict(), **latent, **{f"average {i}": v for i, v in enumerate(optimizer.average.values())}}


def assert_same(one: tuple[nn.Module, ProxOptimizer], other: tuple[nn.Module, ProxOptimizer]) -> None:
    expected, got = tensors(*one), tensors(*other)
    assert expected.keys() == got.keys()
    assert [k for k, v in expected.items() if not torch.equal(v, got[k])] == []
    assert one[1].step_count == other[1].step_count


RESTORED = {
    "pc": {"average_from": 0.4},
    "pc learned": {"scale_fit": "learned"},
    "rpc": {},
    "pq": {},
    "pc-random": {"seed": 5},
    "parq": {},
}


@pytest.mark.parametrize("model_first", [True, False])
@pytest.mark.parametrize("base", ["sgd", "adamw fused", "lars"])
@pytest.mark.parametrize("name", RESTORED)
def test_a_restored_pair_goes_on_bit_for_bit_in_either_order(name, base, model_first, tmp_path):
    whole = made(base, name.split()[0], **RESTORED[name])
    advance(*whole, 0, 7)
    torch.save({"model": whole[0].state_dict(), "optimizer": whole[1].state_dict()}, tmp_path / "state.pt")
    advance(*whole, 7, STEPS)
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    other = made(base, name.split()[0], weights=9, **RESTORED[name])
    for part in ("model", "optimizer") if model_first else ("optimizer", "model"):
        (other[0] if part == "model" else other[1]).load_state_dict(state[part])
    advance(*other, 7, STEPS)
    assert_same(whole, other)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))], ids=["deepcopy", "pickle"])
@pytest.mark.parametrize("name", RESTORED)
def test_a_copy_goes_on_bit_for_bit_and_alone(name, copied):
    whole = made("sgd", name.split()[0], **RESTORED[name])
    advance(*whole, 0, 7)
    other = copied(whole)
    for p, latent in other[1].latent.items():
        assert any(p is q for q in other[0].parameters())
        assert (
            latent.untyped_storage().data_ptr() == other[1].groups[0].latent.untyped_storage().data_ptr()
            or len(other[1].groups) > 1
        )
    advance(*whole, 7, STEPS)
    advance(*other, 7, STEPS)
    assert_same(whole, other)


@pytest.mark.parametrize("base", BASES)
def test_every_base_moves_the_latents_as_it_moves_parameters(base):
    """One step from w's gradient: the base alone, over a parameter that holds w*, is the oracle."""
    model, optimizer = made(base, "pc", clamp=1e9)
    gradients(model, 0)
    expected = {}
    for p, latent in optimizer.latent.items():
        q = nn.Parameter(latent.clone())
        q.grad = p.grad.clone()
        alone = BASES[base]([q])
        alone.step()
        expected[p] = q.detach()
    optimizer.step()
    for p, latent in optimizer.latent.items():
        torch.testing.assert_close(latent, expected[p], rtol=0, atol=0)


def test_hooks_run_around_the_step_and_the_state():
    model, optimizer = made()
    calls: list[str] = []
    assert isinstance(optimizer, torch.optim.Optimizer)
    handles = [
        optimizer.register_step_pre_hook(lambda *_: calls.append("before")),
        optimizer.register_step_post_hook(lambda *_: calls.append(f"after {optimizer.step_count}")),
        optimizer.register_state_dict_pre_hook(lambda _: calls.append("state")),
        optimizer.register_state_dict_post_hook(lambda _, state: {**state, "more": 1}),
        optimizer.register_load_state_dict_pre_hook(lambda _, state: {k: v for k, v in state.items() if k != "more"}),
        optimizer.register_load_state_dict_post_hook(lambda _: calls.append("loaded")),
        optimizer.base.register_step_pre_hook(lambda *_: calls.append("base")),
    ]
    advance(model, optimizer, 0, 1)
    state = optimizer.state_dict()
    assert state["more"] == 1
    optimizer.load_state_dict(state)
    assert calls == ["before", "base", "after 1", "state", "loaded"]
    for handle in handles:
        handle.remove()
    advance(model, optimizer, 1, 2)
    assert len(calls) == 5


def test_the_state_is_not_touched_by_saving_or_loading_it():
    model, optimizer = made("adamw fused")
    advance(model, optimizer, 0, 3)
    keys = {k for s in optimizer.state.values() for k in s}
    state = optimizer.state_dict()
    before = copy.deepcopy(state)
    optimizer.load_state_dict(state)
    assert {k for s in optimizer.state.values() for k in s} == keys == {"step", "exp_avg", "exp_avg_sq"}
    assert state["param_groups"] == before["param_groups"]
    assert "prox_step" not in optimizer.param_groups[0]
    for key, inner in state["state"].items():
        assert inner.keys() == before["state"][key].keys()


def test_the_state_of_a_method_without_latents_is_refused_and_changes_nothing():
    model, optimizer = made()
    advance(model, optimizer, 0, 2)
    before = copy.deepcopy(tensors(model, optimizer))
    with pytest.raises(ConfigError, match=r"no latents of 2 of 2 low-bit weights: it is of another method; make ProxOptimizer"):
        optimizer.load_state_dict(made(method="pq")[1].state_dict())
    assert all(torch.equal(v, before[k]) for k, v in tensors(model, optimizer).items())
    assert optimizer.step_count == 2


@pytest.mark.parametrize("base", ["sgd", "adamw fused"])
@pytest.mark.parametrize("name", ["pc", "rpc", "pq"])
def test_a_distributed_checkpoint_names_the_latents_by_their_parameters(name, base):
    whole = made(base, name)
    advance(*whole, 0, 7)
    state = copy.deepcopy((whole[0].state_dict(), get_optimizer_state_dict(*whole)))
    latents = {"3.weight", "8.weight"} if name == "pc" else set()
    assert {k for k, v in state[1]["state"].items() if "prox_latent" in v} == latents
    advance(*whole, 7, STEPS)
    other = made(base, name, weights=3)
    other[0].load_state_dict(state[0])
    set_optimizer_state_dict(*other, state[1])
    advance(*other, 7, STEPS)
    assert_same(whole, other)


@pytest.mark.parametrize(
    "schedule",
    [
        lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, STEPS),
        lambda o: torch.optim.lr_scheduler.OneCycleLR(o, 0.1, STEPS),
        lambda o: torch.optim.lr_scheduler.SequentialLR(
            o, [torch.optim.lr_scheduler.LinearLR(o), torch.optim.lr_scheduler.StepLR(o, 2)], [3]
        ),
    ],
)
def test_schedulers_set_its_rates_and_their_state_resumes(schedule):
    rates = []
    for pair in (made(), made()):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            scheduler = schedule(pair[1])
            seen = []
            for step in range(STEPS - 1):
                gradients(pair[0], step)
                pair[1].step()
                scheduler.step()
                seen.append(pair[1].param_groups[0]["lr"])
                if step == 5 and rates:
                    kept = pair[1].state_dict(), scheduler.state_dict(), pair[0].state_dict()
                    pair[0].load_state_dict(kept[2])
                    pair[1].load_state_dict(kept[0])
                    scheduler.load_state_dict(kept[1])
        rates.append(seen)
    assert rates[0] == rates[1]
    assert len(set(rates[0])) > 1


def test_a_grad_scaler_unscales_and_skips_a_step_that_overflowed():
    model, optimizer = made("adamw fused")
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=2)
    for step in range(3):
        loss = gradients(model, step) if step == 1 else None
        generator = torch.Generator().manual_seed(step)
        x, y = torch.rand(6, 3, 8, 8, generator=generator), torch.randint(0, 4, (6,), generator=generator)
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y) * (float("inf") if step == 1 else 1.0)
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(model.parameters(), 1e9)
        scaler.step(optimizer)
        scaler.update()
    assert optimizer.step_count == 2
    assert all(p.isfinite().all() for p in model.parameters())


def test_a_group_may_be_added_later_and_frozen_layers_stay():
    model, optimizer = made()
    extra = nn.Parameter(torch.ones(3))
    optimizer.add_param_group({"params": [extra], "lr": 0.5})
    model[3].weight.requires_grad_(False)
    latent = optimizer.latent[model[3].weight].clone()
    gradients(model, 0)
    extra.grad = torch.ones(3)
    optimizer.step()
    assert torch.equal(extra.detach(), torch.full((3,), 0.5))
    assert optimizer.base.param_groups[1] is optimizer.param_groups[1]
    assert torch.equal(optimizer.latent[model[3].weight], latent)


def test_learned_scales_are_a_group_of_their_own_without_decay():
    model = network()
    base = torch.optim.SGD(model.parameters(), lr=0.1, weight_decay=1e-2)
    optimizer = ProxOptimizer(base, model, "pc", steps=STEPS, scale_fit="learned")
    group = optimizer.param_groups[-1]
    assert [p is m.level_scale for p, m in zip(group["params"], (model[3], model[8]), strict=True)] == [True, True]
    assert group["weight_decay"] == 0
    before = model[3].level_scale.clone()
    advance(model, optimizer, 0, 2)
    assert not torch.equal(model[3].level_scale, before)


def test_weights_that_are_loaded_later_are_what_the_next_step_starts_from():
    source = network(seed=7)
    reference = network(seed=7)
    expected = ProxOptimizer(BASES["sgd"](reference.parameters()), reference, "pc", steps=STEPS)
    model, optimizer = made(weights=1)
    advance(model, optimizer, 0, 1)
    model.load_state_dict(source.state_dict())
    assert not any(torch.equal(v, w) for v, w in zip(optimizer.latent.values(), expected.latent.values(), strict=True))
    model.zero_grad()
    optimizer.param_groups[0]["lr"] = 1e-12
    advance(model, optimizer, 1, 2)
    for name in ("3", "8"):
        weight = source.get_submodule(name).weight
        limit = 3 * source.get_submodule(name).level_scale
        torch.testing.assert_close(optimizer.latent[model.get_submodule(name).weight], weight.clamp(-limit, limit))


def test_float_weights_that_are_loaded_before_give_the_scale():
    pretrained = network(seed=7)
    model = network(seed=1)
    state = {k: v for k, v in pretrained.state_dict().items() if not k.endswith(("level_scale", "step"))}
    model.load_state_dict(state, strict=False)
    ProxOptimizer(BASES["sgd"](model.parameters()), model, "pc", steps=STEPS)
    assert torch.equal(model[3].level_scale, pretrained[3].level_scale)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_latents_have_the_dtype_of_their_parameters(dtype):
    model = network().to(dtype)
    optimizer = ProxOptimizer(torch.optim.SGD(model.parameters(), lr=0.05), model, "pc", steps=4)
    for step in range(4):
        x = torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(step)).to(dtype)
        model.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()
    assert {v.dtype for v in optimizer.latent.values()} == {dtype}
    units = (model[3].weight / model[3].level_scale).detach().double()
    assert (units[..., None] - torch.tensor([-1.0, 0.0, 1.0])).abs().min(-1).values.max() < 1e-2


def test_a_model_in_a_wrapper_is_its_model():
    model, _ = made()
    compiled = torch.compile(model, backend="eager")
    optimizer = ProxOptimizer(BASES["sgd"](compiled.parameters()), compiled, "pc", steps=STEPS)
    assert [t.parameter is m.weight for t, m in zip(optimizer.targets, (model[3], model[8]), strict=True)] == [True, True]


def test_a_compiled_network_is_one_graph_from_the_first_batch_and_trains_to_the_same_bits():
    """Compiled twice, as the first batch also sets the steps of the activations: no graph breaks, nothing is compiled again."""
    torch._dynamo.reset()
    backend = CompileCounterWithBackend("aot_eager")
    plain, (model, optimizer) = made(), made()
    compiled = torch.compile(model, backend=backend, fullgraph=True)
    counts = []
    for step in range(5):
        gradients(compiled, step)
        optimizer.step()
        counts.append(backend.frame_count)
    assert counts == [1, 2, 2, 2, 2]
    advance(*plain, 0, 5)
    assert_same(plain, (model, optimizer))

    other = torch.compile(network(9), backend=backend, fullgraph=True)
    other.load_state_dict(compiled.state_dict())
    gradients(other, 5)
    gradients(other, 6)
    assert backend.frame_count == 2  # its steps are known, so what is compiled serves it too


REFUSED = {
    "a network that is not prepared": (
        lambda m: (nn.Sequential(nn.Conv2d(3, 8, 1)), {}),
        "has no low-bit layer: call `bitplane",
    ),
    "no steps": (lambda m: (m, {"steps": 0}), r"`steps` \(=0\) must be the number of gradient steps"),
    "half a step": (lambda m: (m, {"steps": 2.5}), r"`steps` \(=2\.5\) must be"),
    "a method of other levels": (
        lambda m: (m, {"method": "twn"}),
        r"`method` \(=twn\) is defined for ternary weights, not binary",
    ),
    "an unknown method": (lambda m: (m, {"method": "pcc"}), r"`method` \(='pcc'\) must be one of bc, "),
    "a scale of its own": (lambda m: (m, {"method": "ttq"}), r"`method` \(=ttq\)"),
    "never hard": (lambda m: (m, {"soft": 1.0}), r"`soft` \(=1\) leaves no step"),
    "a share that is none": (lambda m: (m, {"soft": -0.5}), r"`soft` \(=-0\.5\) must be"),
    "a negative sharpness": (lambda m: (m, {"rho_0": -1.0}), r"`rho_0` \(=-1\.0\) must be"),
    "a clamp below the top": (lambda m: (m, {"clamp": 0.5}), r"`clamp` \(=0\.5\) must be"),
    "a fit of another name": (lambda m: (m, {"scale_fit": "best"}), r"`scale_fit` \(='best'\) must be one of"),
    "scales never": (lambda m: (m, {"scale_every": 0}), r"`scale_every` \(=0\) must be"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_is_refused_in_one_line(case):
    make, complaint = REFUSED[case]
    model, options = make(network())
    with pytest.raises(ConfigError, match=complaint) as error:
        ProxOptimizer(torch.optim.SGD(model.parameters(), lr=0.1), model, **{"steps": 10, **options})
    assert "\n" not in str(error.value)


def test_a_base_without_a_low_bit_weight_is_refused_by_the_name_of_the_layer():
    model = network()
    with pytest.raises(ConfigError, match=r"the base optimizer lacks 8\.weight: give SGD all of model\.parameters\(\)"):
        ProxOptimizer(torch.optim.SGD(model[:8].parameters(), lr=0.1), model, steps=10)


@pytest.mark.parametrize("name", sorted(n for n, m in METHODS.items() if not m.levels and n != "ttq"))
def test_the_layers_end_in_their_level_sets(name):
    model, optimizer = made("sgd", name)
    advance(model, optimizer, 0, STEPS)
    optimizer.project()
    for m, levels in ((model[3], LEVEL_SETS["ternary"]), (model[8], LEVEL_SETS["binary"])):
        units = m.weight.detach() / m.level_scale
        assert (units[..., None] - torch.tensor(levels.values)).abs().min(-1).values.max() < 1e-5


def test_a_finished_optimizer_takes_no_step():
    model, optimizer = made()
    optimizer.finished = True
    gradients(model, 0)
    with pytest.raises(TrainingError, match=r"final since `bitplane\.finish`; make a new ProxOptimizer"):
        optimizer.step()
