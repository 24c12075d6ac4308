"""Each rule against its equation written out; each method through a small run."""

import math
from typing import get_args

import pytest
import torch
from accelerate import Accelerator

from bitplane.format.levels import LEVEL_SETS
from bitplane.train.config import MethodName, ModelConfig, OptimizerConfig, from_options
from bitplane.train.errors import ConfigError, TrainingError
from bitplane.train.latents import Target
from bitplane.train.methods import METHODS, Method, Point, method_of
from bitplane.train.models import build_model
from bitplane.train.optimizer import ProxOptimizer
from bitplane.train.quantizers import nearest_scale, piecewise_linear, projector
from bitplane.train.quantizers.scale import mean_above, ternary_threshold
from bitplane.train.schedules import Sharpness
from bitplane.train.setup import make_optimizer

BINARY, TERNARY = LEVEL_SETS["binary"], LEVEL_SETS["ternary"]
RULES = ["bc", "pc", "pq", "rpc", "ptq"]
GROWING = Sharpness("linear", 0.1, math.inf, 10, 10**9)


def hard(step: int) -> float:
    return math.inf


def make(method, values, lr=0.1, schedule=GROWING, levels=BINARY, dtype=torch.float64, **options):
    p = torch.nn.Parameter(torch.tensor(values, dtype=dtype))
    target = Target(p, levels, torch.ones([1] * p.dim(), dtype=dtype))
    schedule = hard if METHODS[method].form == "hard" else schedule
    return p, ProxOptimizer.of_targets(torch.optim.SGD([p], lr=lr), [target], METHODS[method], schedule, **options)


@pytest.mark.parametrize("name", RULES)
def test_each_rule_follows_its_equation(name):
    start, lr = torch.tensor([0.5, -0.2, 0.05, -0.9], dtype=torch.float64), 0.1
    goal = torch.tensor([0.3, 0.4, -0.6, -0.1], dtype=torch.float64)
    p, optimizer = make(name, start.tolist(), lr)
    rule = METHODS[name].rule
    latent = start.clone()
    for t in range(6):
        rho = math.inf if name == "bc" else GROWING(t)
        quantized = piecewise_linear(latent, BINARY, rho, rho)
        if name == "ptq":
            quantized = latent
        at = quantized if rule.gradient_at is Point.QUANTIZED else latent
        base = quantized if rule.starts_from is Point.QUANTIZED else latent
        if name == "pq":
            base = at = quantized
        latent = (base - lr * 2 * (at - goal)).clamp(-1, 1)
        optimizer.zero_grad()
        ((p - goal) ** 2).sum().backward()
        optimizer.step()
    rho = math.inf if name == "bc" else GROWING(6)
    expected = piecewise_linear(latent, BINARY, rho, rho) if rule.gradient_at is Point.QUANTIZED else latent
    torch.testing.assert_close(p.detach(), expected)


@pytest.mark.parametrize("name", sorted(METHODS))
def test_projected_weights_are_levels_and_come_back(name):
    levels = LEVEL_SETS[(METHODS[name].levels or ("binary",))[0]]
    method = METHODS[name]
    schedule = Sharpness(method.form, method.first or 0.1, method.last, 10, 10**9)
    p, optimizer = make(name, [0.3, -0.7], levels=levels, schedule=schedule)
    before = p.detach().clone()
    with optimizer.projected():
        assert set(p.tolist()) <= set(levels.values)
    assert torch.equal(p.detach(), before)


def run_on_half_square(name, schedule=GROWING, steps=400):
    # minimize w^2 / 2 over {-1, 1}: the gradient at w = +-1 is +-1, so a fixed quantizer sends w* back and forth for ever
    p, optimizer = make(name, [0.05], 0.1, schedule)
    seen = []
    for _ in range(steps):
        optimizer.zero_grad()
        (p**2 / 2).sum().backward()
        optimizer.step()
        seen.append(p.item())
    return seen


def test_a_fixed_quantizer_oscillates_for_ever():
    assert set(run_on_half_square("bc")[-100:]) == {-1.0, 1.0}


def test_a_growing_quantizer_converges_under_proxquant():
    tail = run_on_half_square("pq", Sharpness("linear", 0.01, math.inf, 1, 10**9))[-100:]
    assert len(set(tail)) == 1
    assert abs(tail[0]) == 1.0


@pytest.mark.parametrize("name", sorted(METHODS))
@pytest.mark.parametrize("levels", sorted(LEVEL_SETS))
def test_every_method_ends_in_its_level_set(name, levels):
    """With two level sets in one optimizer, on a least-squares problem whose loss falls."""
    method = METHODS[name]
    if method.levels and levels not in method.levels:
        pytest.skip(f"{name} is defined for {method.levels} only")
    torch.manual_seed(0)
    x, goal = torch.randn(64, 20), torch.randn(20, 6)
    a, b = torch.nn.Parameter(torch.randn(8, 20) * 0.3), torch.nn.Parameter(torch.randn(6, 8) * 0.3)
    fit = method.fit or "least-squares"
    option = "two-sided" if fit == "ttq" else "layer"
    sets = [LEVEL_SETS[levels], TERNARY if "ternary" in (method.levels or ["ternary"]) else BINARY]
    targets = [
        Target(w, q, torch.ones(2, 1) if fit == "ttq" else nearest_scale(w, q, False), option, fit)
        for w, q in zip((a, b), sets, strict=True)
    ]
    scales = [t.scale for t in targets if t.learned]
    schedule = Sharpness(method.form, method.first or 0.01, method.last, 5, 150)
    optimizer = ProxOptimizer.of_targets(torch.optim.SGD([a, b, *scales], lr=2e-3), targets, method, schedule, clamp=3.0)
    losses = []
    for _ in range(200):
        optimizer.zero_grad()
        loss = ((torch.relu(x @ a.T) @ b.T - x @ goal) ** 2).mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    optimizer.project()
    for w, t in zip((a, b), targets, strict=True):
        units = w.detach() / torch.where(w < 0, t.scale[-1:], t.scale[:1])
        distance = (units[..., None] - torch.tensor(t.levels.values)).abs().min(-1).values
        assert distance.max() < 1e-6
    assert min(losses) < losses[0]
    assert math.isfinite(losses[-1])


BASES = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.02, momentum=0.9),
    "nesterov": lambda p: torch.optim.SGD(p, lr=0.02, momentum=0.9, nesterov=True, weight_decay=1e-2),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01),
}


def regression(name, base, **options):
    """A network of a layer in a level set and a float one, soft for five steps; its optimizer, and a closure of its loss."""
    method = METHODS[name]
    levels = LEVEL_SETS[(method.levels or ("quaternary",))[-1]]
    generator = torch.Generator().manual_seed(1)
    x, goal = torch.randn(32, 9, generator=generator), torch.randn(32, 2, generator=generator)
    w = torch.nn.Parameter(torch.randn(5, 9, generator=generator) * 0.4)
    v = torch.nn.Parameter(torch.randn(2, 5, generator=generator) * 0.4)
    fit = method.fit or "learned"
    scale = torch.ones(2, 1) if fit == "ttq" else nearest_scale(w, levels, False)
    target = Target(w, levels, scale, "two-sided" if fit == "ttq" else "layer", fit)
    schedule = Sharpness(method.form, method.first or 0.05, method.last, 2, 5)
    parameters = [w, v, *([scale] if target.learned else [])]
    optimizer = ProxOptimizer.of_targets(base(parameters), [target], method, schedule, scale_every=2, **options)

    def closure():
        optimizer.zero_grad()
        loss = ((torch.relu(x @ w.T) @ v.T - goal) ** 2).mean()
        loss.backward()
        return loss

    return [w, v, scale], optimizer, closure


def everything(tensors, optimizer):
    """All that a step may change."""
    inner = [v for p in tensors for _, v in sorted(optimizer.state.get(p, {}).items()) if isinstance(v, torch.Tensor)]
    return [*tensors, *optimizer.latent.values(), *optimizer.average.values(), *inner]


@pytest.mark.parametrize("wrapped", [False, True], ids=["plain", "accelerate"])
@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("name", sorted(METHODS))
def test_a_step_with_a_closure_is_the_backward_pass_and_then_a_step(name, base, wrapped):
    runs = [regression(name, BASES[base], average_from=3, seed=4) for _ in range(2)]
    start = runs[0][0][0].detach().clone()
    step = runs[1][1].step
    if wrapped:
        step = Accelerator(cpu=True).prepare_optimizer(runs[1][1]).step
    for _ in range(9):
        loss = runs[0][2]()
        runs[0][1].step()
        returned = step(runs[1][2])
        if not wrapped:  # accelerate's wrapper returns nothing, whatever it wraps
            assert torch.equal(returned, loss)
        for expected, got in zip(everything(*runs[0][:2]), everything(*runs[1][:2]), strict=True):
            assert torch.equal(got, expected)
    assert not torch.equal(runs[1][0][0], start)


@pytest.mark.parametrize("name", sorted(METHODS))
def test_a_closure_that_fails_leaves_the_optimizer_as_it_was(name):
    tensors, optimizer, closure = regression(name, BASES["nesterov"])
    optimizer.step(closure)
    before = [t.clone() for t in everything(tensors, optimizer)]

    def fail():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        optimizer.step(fail)
    assert all(map(torch.equal, before, everything(tensors, optimizer)))


SEARCHES = {"fixed steps": None, "line search": "strong_wolfe"}


@pytest.mark.parametrize("search", SEARCHES.values(), ids=SEARCHES)
@pytest.mark.parametrize("name", sorted(n for n, m in METHODS.items() if not m.random and m.fit is None))
def test_lbfgs_takes_every_gradient_at_the_point_of_the_rule(name, search):
    """The reference is torch's L-BFGS over the latents x, whose closure takes the gradient at P(x) itself."""
    method, levels = METHODS[name], TERNARY
    schedule = Sharpness(method.form, method.first or 0.05, method.last, 1, 4)
    matrix = torch.randn(12, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    goal = torch.linspace(-2, 2, 12, dtype=torch.float64)
    values = torch.tensor([0.4, -0.7, 0.1, 0.9, -0.2, 0.6], dtype=torch.float64)

    def loss_at(w):
        return ((matrix @ w - goal) ** 2).sum() + torch.cos(3 * w).sum()

    def base(p):
        return torch.optim.LBFGS([p], lr=0.05, max_iter=3, line_search_fn=search)

    def quantize(x, rho):
        return projector(x, levels) if rho == math.inf else method.quantizer(x, levels, rho)

    p = torch.nn.Parameter(values.clone())
    optimizer = ProxOptimizer.of_targets(
        base(p), [Target(p, levels, torch.ones(1, dtype=torch.float64))], method, schedule, clamp=1.5
    )
    x = torch.nn.Parameter(values.clone())
    reference = base(x)
    at_w, from_w = method.rule.gradient_at is Point.QUANTIZED, method.rule.starts_from is Point.QUANTIZED
    latent = quantize(values, schedule(0)) if at_w and from_w else values.clone()
    for t in range(7):
        rho, count, points = schedule(t), 0, []
        point = quantize(latent, rho) if at_w and not from_w else latent

        def closure():
            optimizer.zero_grad()
            points.append(p.detach().clone())  # noqa: B023
            loss = loss_at(p)
            loss.backward()
            return loss

        def reference_closure():
            nonlocal count
            w = (point if count == 0 else quantize(x.detach(), rho) if at_w else x.detach()).clone().requires_grad_()  # noqa: B023
            count += 1
            loss = loss_at(w)
            (x.grad,) = torch.autograd.grad(loss, w)
            if method.backward is not None:
                x.grad *= method.backward(latent if count == 1 else x.detach(), levels, rho)  # noqa: B023
            return loss

        assert torch.equal(p, point)
        returned = optimizer.step(closure)
        with torch.no_grad():
            x.copy_(quantize(latent, rho) if from_w and not at_w else latent)
        assert torch.equal(reference.step(reference_closure), returned)
        assert len(points) == count
        latent = x.detach().clamp(-1.5, 1.5) if method.clamped else x.detach().clone()
        if at_w and from_w:
            latent = quantize(latent, schedule(t + 1))
        elif at_w:
            assert torch.equal(optimizer.latent[p], latent)
        assert count > 1 or t > 3
    assert torch.equal(p, quantize(latent, schedule(7)) if at_w else latent)
    assert not torch.equal(latent, values)


@pytest.mark.parametrize("name", sorted(n for n, m in METHODS.items() if m.rule.gradient_at is Point.QUANTIZED))
def test_lbfgs_evaluates_a_hard_network_in_its_level_set(name):
    tensors, optimizer, closure = regression(name, lambda p: torch.optim.LBFGS(p, lr=0.05, max_iter=4))
    (target,) = optimizer.targets
    levels = torch.tensor(target.levels.values)

    def checked():
        w = tensors[0].detach()
        units = w / torch.where(w < 0, target.scale[-1:], target.scale[:1])
        seen.append((units[..., None] - levels).abs().min(-1).values.max().item())
        return closure()

    for t in range(8):
        seen = []
        optimizer.step(checked)
        assert t < 5 or max(seen) < 1e-6
        assert len(seen) > 1


def test_lbfgs_without_a_closure_is_refused_before_anything_moves():
    tensors, optimizer, closure = regression("pc", lambda p: torch.optim.LBFGS(p))
    closure()
    before = [t.clone() for t in everything(tensors, optimizer)]
    with pytest.raises(TrainingError, match=r"LBFGS evaluates the loss several times a step: call `step\(closure\)`"):
        optimizer.step()
    assert all(map(torch.equal, before, everything(tensors, optimizer)))


def test_a_learned_scale_moves_along_the_gradient_of_the_loss():
    w = torch.nn.Parameter(torch.tensor([[0.4, -0.9, 0.1, 0.8]], dtype=torch.float64))
    scale = torch.full((1, 1), 0.5, dtype=torch.float64)
    target = Target(w, TERNARY, scale, "layer", "learned")
    optimizer = ProxOptimizer.of_targets(torch.optim.SGD([w, scale], lr=0.1), [target], METHODS["bc"], hard)
    codes = torch.tensor([[1.0, -1.0, 0.0, 1.0]], dtype=torch.float64)
    torch.testing.assert_close(w.detach(), codes * 0.5)
    free = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    (codes * free).pow(2).mul(torch.arange(1.0, 5)).sum().backward()
    w.pow(2).mul(torch.arange(1.0, 5)).sum().backward()
    optimizer.step()
    torch.testing.assert_close(scale.item(), 0.5 - 0.1 * free.grad.item() / math.sqrt(4))


def test_twn_and_ttq_decide_by_their_thresholds():
    w = torch.nn.Parameter(torch.tensor([[0.05, -0.3, 0.6, 1.0]]))
    for fit, method, option in (("twn", "twn", "layer"), ("ttq", "ttq", "two-sided")):
        scale = torch.full((2 if fit == "ttq" else 1, 1), 0.7)
        start = w.detach().clone()
        p = torch.nn.Parameter(start.clone())
        ProxOptimizer.of_targets(torch.optim.SGD([p], lr=0.1), [Target(p, TERNARY, scale, option, fit)], METHODS[method], hard)
        threshold = 0.7 * start.abs().mean() if fit == "twn" else 0.05 * start.abs().max()
        torch.testing.assert_close(p.detach(), 0.7 * start.sign() * (start.abs() >= threshold))
    assert ternary_threshold(w, False, "twn").item() == pytest.approx(0.7 * 0.4875)
    assert mean_above(w, ternary_threshold(w, False, "twn")).item() == pytest.approx(0.8)
    assert mean_above(w, torch.tensor([[0.1]]), -1).item() == pytest.approx(0.3)


def test_the_backward_map_multiplies_the_gradient():
    p, optimizer = make("bnn", [0.5, -0.5], lr=0.1, clamp=3.0)
    optimizer.groups[0].latent.copy_(torch.tensor([2.0, -0.5]))
    p.grad = torch.tensor([1.0, 1.0], dtype=torch.float64)
    optimizer.step()
    torch.testing.assert_close(optimizer.latent[p], torch.tensor([2.0, -0.6], dtype=torch.float64))


def test_averaged_iterates_are_weighted_by_the_learning_rate():
    p, optimizer = make("pc", [0.9, -0.2], lr=0.1, average_from=2)
    total, weight = torch.zeros(2, dtype=torch.float64), 0.0
    for t in range(6):
        optimizer.param_groups[0]["lr"] = lr = 0.1 + 0.05 * t
        p.grad = torch.cos(p.detach() * (t + 1))
        optimizer.step()
        if t >= 2:
            total, weight = total + lr * p.detach(), weight + lr
    torch.testing.assert_close(optimizer.average[p], total / weight)
    expected = projector(total / weight, BINARY)
    optimizer.project()
    assert torch.equal(p.detach(), expected)


def test_random_quantizers_draw_by_seed_and_step():
    def run(seed: int) -> list[list[float]]:
        p, optimizer = make("bc-stochastic", [0.1] * 40, schedule=Sharpness("constant", 0, 0, 1, 10**9), seed=seed)
        seen = []
        for _ in range(3):
            p.grad = torch.zeros_like(p)
            optimizer.step()
            seen.append(p.tolist())
        return seen

    assert run(1) == run(1)
    assert run(1) != run(2)
    assert run(1)[0] != run(1)[1]


@pytest.mark.parametrize("method", ["pc", "pq", "rpc", "twn"])
@pytest.mark.parametrize("base", [torch.optim.SGD, torch.optim.Adam])
def test_a_restored_optimizer_goes_on_as_the_first_would_have(base: type[torch.optim.Optimizer], method: str) -> None:
    start = torch.tensor([[0.4, -0.2, 0.7]])

    def make(values: torch.Tensor) -> tuple[torch.nn.Parameter, ProxOptimizer]:
        w = torch.nn.Parameter(values.clone())
        fit = METHODS[method].fit or "fixed"
        target = Target(w, LEVEL_SETS["ternary"], torch.ones(1, 1), "layer", fit)
        return w, ProxOptimizer.of_targets(
            base([w], lr=0.5), [target], METHODS[method], lambda step: 0.1 * (step + 1), average_from=1
        )

    w, optimizer = make(start)
    for _ in range(3):
        w.grad = torch.cos(w.detach())
        optimizer.step()
    v, restored = make(torch.zeros_like(start))
    restored.load_state_dict(optimizer.state_dict())
    restored.targets[0].scale.copy_(optimizer.targets[0].scale)
    with torch.no_grad():
        v.copy_(w)
    restored.refresh()
    assert torch.equal(v, w)
    for parameter, o in ((w, optimizer), (v, restored)):
        for _ in range(3):
            parameter.grad = torch.cos(parameter.detach())
            o.step()
        o.project()
    assert torch.equal(v, w)


def test_channels_last_parameters_keep_their_values():
    torch.manual_seed(0)
    w = torch.randn(4, 3, 3, 3)
    scale = nearest_scale(w, TERNARY, True)
    out = []
    for layout in (torch.contiguous_format, torch.channels_last):
        p = torch.nn.Parameter(w.clone(memory_format=layout))
        target = Target(p, TERNARY, scale.clone(), "channel", "least-squares")
        o = ProxOptimizer.of_targets(torch.optim.SGD([p], lr=0.1), [target], METHODS["pc"], lambda t: 0.1, scale_every=1)
        for _ in range(3):
            p.grad = torch.sin(7 * p.detach()).contiguous(memory_format=layout)
            o.step()
        out.append(p.detach().contiguous())
    torch.testing.assert_close(*out)


@pytest.mark.parametrize("method", ["pc", "rpc", "ttq"])
def test_an_optimizer_keeps_no_graph_of_its_parameters(method):
    # It would keep their gradient accumulators, which CUDA graphs then find on the wrong stream.
    config = from_options({"method": method, "scale": "two-sided" if method == "ttq" else "channel"})
    model = build_model(config.model)
    optimizer = make_optimizer(model, config, 100)
    model(torch.zeros(2, 3, 32, 32, dtype=torch.uint8)).sum().backward()
    optimizer.step()
    kept = [t for g in optimizer.groups for t in (g.latent, g.scale, g.decision, *g.latents)] + list(model.buffers())
    assert not any(t.requires_grad for t in kept)


def test_the_table_of_methods_is_the_one_that_the_command_line_offers():
    assert set(get_args(MethodName)) == set(METHODS)
    assert all(isinstance(m, Method) for m in METHODS.values())


@pytest.mark.parametrize(
    ("optimizer", "model", "complaint"),
    [
        ({"method": "twn"}, {"weights": "binary"}, "defined for ternary weights, not binary"),
        ({"method": "ttq"}, {}, "needs `scale` two-sided"),
        ({}, {"scale": "two-sided"}, "goes with `method` ttq"),
        ({"method": "parq"}, {"scale": "none"}, "estimates scales"),
        ({"soft": 1.0}, {}, "no step for the hard projection"),
    ],
)
def test_what_does_not_go_together_is_refused(optimizer, model, complaint):
    with pytest.raises(ConfigError, match=complaint):
        method_of(OptimizerConfig(**optimizer), ModelConfig(**model))
