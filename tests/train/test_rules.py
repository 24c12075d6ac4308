import math

import pytest
import torch

from bitplane.train.levels import LEVEL_SETS
from bitplane.train.quantizers import piecewise_linear
from bitplane.train.rules import RULES, Point, ProxOptimizer, RhoSchedule, Target

BINARY = LEVEL_SETS["binary"]


def make(rule, values, lr=0.1, schedule=None):
    p = torch.nn.Parameter(torch.tensor(values, dtype=torch.float64))
    target = Target(p, BINARY, torch.ones(1, dtype=torch.float64), False)
    return p, ProxOptimizer(torch.optim.SGD([p], lr=lr), [target], RULES[rule], schedule or RhoSchedule(0.1, 10, 10**9))


@pytest.mark.parametrize("rule", sorted(RULES))
def test_each_rule_follows_its_equation(rule):
    start, lr, schedule = torch.tensor([0.5, -0.2, 0.05, -0.9], dtype=torch.float64), 0.1, RhoSchedule(0.1, 10, 10**9)
    goal = torch.tensor([0.3, 0.4, -0.6, -0.1], dtype=torch.float64)
    p, optimizer = make(rule, start.tolist(), lr, schedule)
    latent = start.clone()
    for t in range(6):
        rho = math.inf if rule == "bc" else schedule(t)
        quantized = piecewise_linear(latent, BINARY, rho, rho)
        at = quantized if RULES[rule].gradient_at is Point.QUANTIZED else latent
        base = quantized if RULES[rule].starts_from is Point.QUANTIZED else latent
        if rule == "pq" and t == 0:
            latent = quantized
            base = at = latent
        elif rule == "pq":
            base = at = piecewise_linear(latent, BINARY, rho, rho)
        latent = (base - lr * 2 * (at - goal)).clamp(-1, 1)
        optimizer.zero_grad()
        ((p - goal) ** 2).sum().backward()
        optimizer.step()
    rho = math.inf if rule == "bc" else schedule(6)
    expected = piecewise_linear(latent, BINARY, rho, rho) if RULES[rule].gradient_at is Point.QUANTIZED else latent
    torch.testing.assert_close(p.detach(), expected)


@pytest.mark.parametrize("rule", sorted(RULES))
def test_projected_weights_are_levels_and_come_back(rule):
    p, optimizer = make(rule, [0.3, -0.7])
    before = p.detach().clone()
    with optimizer.projected():
        assert set(p.tolist()) <= {-1.0, 1.0}
    assert torch.equal(p.detach(), before)


def run_on_half_square(rule, schedule, steps=400):
    # minimize w^2 / 2 over {-1, 1}: the gradient at w = +-1 is +-1, so a fixed quantizer sends w* back and forth for ever
    p, optimizer = make(rule, [0.05], 0.1, schedule)
    seen = []
    for _ in range(steps):
        optimizer.zero_grad()
        (p**2 / 2).sum().backward()
        optimizer.step()
        seen.append(p.item())
    return seen


def test_a_fixed_quantiser_oscillates_for_ever():
    tail = run_on_half_square("bc", RhoSchedule(0.1, 10, 10**9))[-100:]
    assert {-1.0, 1.0} == set(tail)


def test_a_growing_quantiser_converges_under_proxquant():
    tail = run_on_half_square("pq", RhoSchedule(0.01, 1, 10**9))[-100:]
    assert len(set(tail)) == 1
    assert abs(tail[0]) == 1.0


def test_the_schedule_grows_linearly_and_then_is_hard():
    s = RhoSchedule(0.01, 5, 20)
    assert [s(0), s(5), s(10)] == pytest.approx([0.01, 0.02, 0.03])
    assert s(20) == math.inf


@pytest.mark.parametrize("base", [torch.optim.SGD, torch.optim.Adam])
def test_a_restored_optimizer_goes_on_as_the_first_would_have(base: type[torch.optim.Optimizer]) -> None:
    def make(values: torch.Tensor) -> tuple[torch.nn.Parameter, ProxOptimizer]:
        w = torch.nn.Parameter(values.clone())
        target = Target(w, LEVEL_SETS["ternary"], torch.ones(1), False)
        return w, ProxOptimizer(base([w], lr=0.05), [target], RULES["pc"], lambda step: 0.1 * step)

    start = torch.tensor([[0.4, -0.2, 0.7]])
    w, optimizer = make(start)
    for _ in range(3):
        w.grad = torch.cos(w.detach())
        optimizer.step()
    v, restored = make(torch.zeros_like(start))
    restored.load_state_dict(optimizer.state_dict())
    with torch.no_grad():
        v.copy_(w)
    for parameter, o in ((w, optimizer), (v, restored)):
        for _ in range(3):
            parameter.grad = torch.cos(parameter.detach())
            o.step()
    assert torch.equal(v, w)
