"""`ProxOptimizer`: any torch optimizer, whose low-bit weights move by a method of the ProxConnect family.

    optimizer = ProxOptimizer(torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), model, method="pc", steps=total)

What a step does to low-bit weights is `bitplane.train.update`; here is what torch, its schedulers and its trainers expect of an
optimizer around it.
"""

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from bitplane.train import methods
from bitplane.train.config import OptimizerConfig, ScaleFitOption
from bitplane.train.errors import ConfigError, TrainingError
from bitplane.train.latents import LatentGroup, Target
from bitplane.train.layers import LowBitLayer, low_bit_layers
from bitplane.train.methods import METHODS, Method, Point, check_method
from bitplane.train.schedules import Sharpness
from bitplane.train.update import Update, UpdateOptions

STEP, WEIGHT = "prox_step", "prox_average_weight"
"""Keys of the first parameter group in a state dictionary: steps taken, and the weight of the averaged iterates."""
LATENT, AVERAGE = "prox_latent", "prox_average"
"""Keys of a low-bit parameter's state there."""


class ProxOptimizer(torch.optim.Optimizer):
    """Wrap any optimizer so that a prepared network's low-bit weights move by a method; other parameters move as before.

    `param_groups`, `state` and `defaults` are the wrapped optimizer's own: learning-rate schedulers, GradScaler and Accelerate
    see one optimizer. Of weights that are loaded into the model later, the next step starts.

    Args:
        base: the wrapped optimizer; holds all the model's low-bit weights.
        model: a network that `prepare` made low-bit, also inside DistributedDataParallel or `torch.compile`.
        method: a row of `bitplane.train.methods` by its name, or one of your own.
        steps: gradient steps of the whole training: the sharpness of the quantizer grows over them.
        rho_0: sharpness at the first step, for pc, pq and rpc in units of the level set; default: the method's own.
        growth: how many times `rho_0` the sharpness of pc, pq and rpc has grown by at the end.
        soft: share of the steps before the quantizer becomes the projector.
        clamp: latent weights stay within this multiple of the top level; without a scale always within 1.
        scale_fit: how scales move: "fixed", "least-squares", "learned" (by the wrapped optimizer, which gets them as a group of
            its own), or "method", the method's own way or else least squares.
        scale_every: gradient steps between two least-squares estimates of the scales.
        average_from: share of the steps from which the iterates are averaged; 1 keeps the last one.
        seed: of random quantizers; with the step it determines what they draw, on any device and in any process.

    Raises:
        ConfigError: the model has no low-bit layer, `base` lacks a low-bit weight, the parameters are shards (FSDP2), or
            method, levels, scales and steps do not go together.
    """

    def __init__(
        self,
        base: torch.optim.Optimizer,
        model: nn.Module,
        method: str | Method = "pc",
        *,
        steps: int,
        rho_0: float | None = None,
        growth: float = 200.0,
        soft: float = 0.75,
        clamp: float = 3.0,
        scale_fit: ScaleFitOption = "method",
        scale_every: int = 10,
        average_from: float = 1.0,
        seed: int = 0,
    ) -> None:
        OptimizerConfig(  # checks the values
            method=method if isinstance(method, str) else "pc",  # type: ignore[arg-type]
            rho_0=rho_0,
            growth=growth,
            soft=soft,
            clamp=clamp,
            scale_fit=scale_fit,
            average_from=average_from,
        )
        row = METHODS[method] if isinstance(method, str) else method
        layers = low_bit_layers(model)
        _check(base, layers, steps, scale_every)
        check_method(
            method if isinstance(method, str) else "your own",
            row,
            {m.levels.name for m in layers.values()},
            {m.scale_option for m in layers.values()},
            soft,
        )
        for m in layers.values():
            m.follow_weights()
        schedule = Sharpness(
            form=row.form,
            first=row.first if rho_0 is None else rho_0,
            last=row.last,
            period=steps / max(growth, 1e-9),
            hard_from=max(1, round(soft * steps)),
        )
        start = round(average_from * steps) if average_from < 1 else None
        options = UpdateOptions(row, schedule, clamp, scale_every, start, seed)
        self._wrap(base, [_target(m, row, scale_fit) for m in layers.values()], options)

    @classmethod
    def of_targets(
        cls,
        base: torch.optim.Optimizer,
        targets: Sequence[Target],
        method: Method,
        schedule: Callable[[int], float],
        **options: Any,
    ) -> "ProxOptimizer":
        """An optimizer of parameters that belong to no prepared layer.

        Args:
            base: the wrapped optimizer; holds the targets' parameters.
            targets: the low-bit parameters.
            method: the row.
            schedule: sharpness as a function of the gradient step.
            options: further fields of `UpdateOptions`.
        """
        self = cls.__new__(cls)
        self._wrap(base, targets, UpdateOptions(method, schedule, **options))
        return self

    def _wrap(self, base: torch.optim.Optimizer, targets: Sequence[Target], options: UpdateOptions) -> None:
        # Deliberately no Optimizer.__init__: groups, state and defaults are the base's own. What else it makes, hooks and the
        # patch that calls them, is made where an optimizer is unpickled too.
        self.base = base
        self.finished = False
        held = {id(p) for group in base.param_groups for p in group["params"]}
        scales = [t.scale for t in targets if t.learned and id(t.scale) not in held]
        if scales:
            base.add_param_group({"params": scales, **({"weight_decay": 0.0} if "weight_decay" in base.defaults else {})})
        self.update = Update(targets, options)
        closure = inspect.signature(base.step).parameters.get("closure")
        self._needs_closure = closure is not None and closure.default is inspect.Parameter.empty
        super().__setstate__({})

    @property
    def param_groups(self) -> list[dict[str, Any]]:  # type: ignore[override]
        """The wrapped optimizer's groups."""
        return self.base.param_groups

    @property
    def state(self) -> Any:  # type: ignore[override]
        """The wrapped optimizer's state; the latent weights are in `latent`."""
        return self.base.state

    @property
    def defaults(self) -> dict[str, Any]:  # type: ignore[override]
        """The wrapped optimizer's defaults."""
        return self.base.defaults

    @property
    def targets(self) -> list[Target]:
        """The low-bit parameters."""
        return self.update.targets

    @property
    def method(self) -> Method:
        """The method by which they move."""
        return self.update.method

    @property
    def groups(self) -> list[LatentGroup]:
        """Their latents by level set."""
        return self.update.groups

    @property
    def latent(self) -> dict[Tensor, Tensor]:
        """The latent weights of each target, where they are kept; views that may be written."""
        return self.update.latent

    @property
    def average(self) -> dict[Tensor, Tensor]:
        """The mean of the iterates of each target, where it is kept; views that may be written."""
        return self.update.average

    @property
    def step_count(self) -> int:
        """Gradient steps taken."""
        return self.update.step_count

    @property
    def average_weight(self) -> float:
        """Sum of the learning rates of the averaged iterates."""
        return self.update.average_weight

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters to the wrapped optimizer."""
        self.base.add_param_group(param_group)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear the gradients of all parameters."""
        self.base.zero_grad(set_to_none)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        """One update: the gradient at the rule's point, then the wrapped optimizer's step from the rule's start, then w anew.

        `step(closure)` is the closure followed by `step()`, bit for bit.

        Args:
            closure: clears the gradients, computes the loss and its gradients, and returns the loss. It runs before anything
                moves. A wrapped optimizer that needs it (L-BFGS) may evaluate it again, each time at the rule's gradient point
                of the latents that it has reached.

        Returns:
            What the closure returned at first; without a closure, what the wrapped optimizer's step returned.

        Raises:
            TrainingError: the weights are final (`finish`), or the wrapped optimizer needs a closure and there is none; nothing
                has moved.
        """
        if self.finished:
            raise TrainingError("the weights are final since `bitplane.finish`; make a new ProxOptimizer to train on")
        if closure is None and self._needs_closure:
            raise TrainingError(f"{type(self.base).__name__} evaluates the loss several times a step: call `step(closure)`")
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        # torch.distributed.checkpoint takes a step of rate 0 to have the state made: it is to move nothing.
        moves = any(not _is_zero(group.get("lr")) for group in self.param_groups)
        sharpness = self.update.before() if moves else 0.0
        if closure is None:
            loss = self.base.step()
        elif self._needs_closure and moves:
            self.base.step(self._evaluation(closure, loss, sharpness))
        elif not self._needs_closure:
            self.base.step()
        if moves:
            self.update.after(lambda: float(self.param_groups[0]["lr"]))
        else:
            self.update.pass_over()
        return loss

    def _evaluation(self, closure: Callable[[], Any], loss: Any, sharpness: float) -> Callable[[], Any]:
        """The closure for a base that evaluates it where it likes: its parameters are latents, the gradient is taken at w.

        Args:
            closure: as given to `step`.
            loss: its value at the present gradients, which are those of the base's first evaluation.
            sharpness: of the quantizer in this step.
        """
        update = self.update
        everything = [p for group in self.param_groups for p in group["params"]]
        start: list[Tensor] | None = [p.detach().clone() for p in everything]

        def evaluate() -> Any:
            nonlocal start
            first, start = start, None
            if first is not None and all(map(torch.equal, first, everything)):
                return loss
            with torch.no_grad():
                learned = [(t.scale, t.scale.clone()) for t in update.targets if t.learned]
                for i, g in enumerate(update.groups):
                    g.pull()
                    update.move_scales(g, least_squares=False)
                    if update.method.rule.gradient_at is Point.QUANTIZED:
                        g.push(update.quantized(g, sharpness, i))
            with torch.enable_grad():
                value = closure()
            with torch.no_grad():
                for g in update.groups:
                    update.map_gradients(g, sharpness)
                    g.push(g.latent)
                for scale, before in learned:
                    scale.copy_(before)
            return value

        return evaluate

    @contextmanager
    def projected(self) -> Iterator[None]:
        """Within the block the targets are exactly in their level sets; afterwards they are as before."""
        before = [t.parameter.detach().clone() for t in self.targets]
        self.project()
        try:
            yield
        finally:
            with torch.no_grad():
                for t, w in zip(self.targets, before, strict=True):
                    t.parameter.copy_(w)

    def project(self) -> None:
        """Every target's parameter exactly in its level set (times its scale)."""
        self.update.project()

    def refresh(self) -> None:
        """Put the parameters where restored latents and scales say, without waiting for the next step."""
        self.update.refresh()

    def state_dict(self) -> dict[str, Any]:
        """The wrapped optimizer's state, and in it what the low-bit weights need: latents, averages, and counters.

        Latents and averages are fields of their parameter's state and the counters of the first group, so that what maps
        parameters to names (torch.distributed.checkpoint) maps them too.
        """
        for hook in self._optimizer_state_dict_pre_hooks.values():
            hook(self)
        state = self.base.state_dict()
        groups = [dict(g) for g in state["param_groups"]]
        if groups:
            groups[0] |= {STEP: self.step_count, WEIGHT: self.average_weight}
        inner = {k: dict(v) for k, v in state["state"].items()}
        number = self._numbers()
        for key, tensors in ((LATENT, self.latent), (AVERAGE, self.average)):
            for p, value in tensors.items():
                inner.setdefault(number[p], {})[key] = value
        state = {**state, "state": inner, "param_groups": groups}
        for hook in self._optimizer_state_dict_post_hooks.values():
            state = state if (changed := hook(self, state)) is None else changed
        return state

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what `state_dict` returned; before or after the model's own state dictionary.

        Raises:
            ConfigError: it is of a ProxOptimizer whose method keeps no latents, and this one's does; nothing has changed.
        """
        given = dict(state_dict)
        for hook in self._optimizer_load_state_dict_pre_hooks.values():
            given = given if (changed := hook(self, given)) is None else changed
        groups = [dict(g) for g in given["param_groups"]]
        counters = [(g.pop(STEP, None), g.pop(WEIGHT, None)) for g in groups]
        inner = {k: dict(v) for k, v in given["state"].items()}
        # As torch does: the n-th parameter's state is that of the n-th name in the groups, whatever the names are.
        names = [n for g in groups for n in g["params"]]
        number = self._numbers()
        without = [p for p in self.latent if number[p] < len(names) and LATENT not in inner.get(names[number[p]], {})]
        if without and counters[0][0] is not None:
            raise ConfigError(
                f"the state has no latents of {len(without)} of {len(self.latent)} low-bit weights: it is of another method;"
                " make ProxOptimizer with the method that wrote it"
            )
        for key, tensors in ((LATENT, self.latent), (AVERAGE, self.average)):
            for p, kept in tensors.items():
                value = inner.get(names[number[p]], {}).pop(key, None) if number[p] < len(names) else None
                if value is not None:
                    kept.copy_(value)
        # Adam takes a state that is not empty for one that it has filled.
        self.base.load_state_dict({**given, "state": {k: v for k, v in inner.items() if v}, "param_groups": groups})
        steps, weight = counters[0] if counters else (None, None)
        if steps is not None:
            self.update.restore(int(steps), float(weight or 0.0))
            self.update.show_latents()
        for hook in self._optimizer_load_state_dict_post_hooks.values():
            hook(self)

    def _numbers(self) -> dict[Tensor, int]:
        """Parameters to their numbers in a state dictionary."""
        return {p: i for i, p in enumerate(p for group in self.param_groups for p in group["params"])}

    def __getstate__(self) -> dict[str, Any]:
        """For pickle and copy: without hooks, and without what a scheduler puts around `step`."""
        return {k: v for k, v in vars(self).items() if k in ("base", "finished", "update", "_needs_closure")}

    def __repr__(self) -> str:
        """Name the targets and the wrapped optimizer."""
        return f"ProxOptimizer({len(self.targets)} targets, {self.base!r})"


def _is_zero(rate: Any) -> bool:
    """Whether a learning rate is 0; of one on a device, nobody looks."""
    return bool(rate == 0) if not isinstance(rate, Tensor) or rate.device.type == "cpu" else False


def _check(base: torch.optim.Optimizer, layers: dict[str, LowBitLayer], steps: int, scale_every: int) -> None:
    if not layers:
        raise ConfigError("the model has no low-bit layer: call `bitplane.prepare(model, ...)` before ProxOptimizer")
    for name, value, what in (
        ("steps", steps, "the number of gradient steps of the whole training"),
        ("scale_every", scale_every, "a number of gradient steps"),
    ):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ConfigError(f"`{name}` (={value}) must be {what}, at least 1")
    held = {id(p) for group in base.param_groups for p in group["params"]}
    for name, m in layers.items():
        if hasattr(m.weight, "to_local"):
            raise ConfigError(
                f"{name}.weight is a shard (DTensor, of FSDP2 or tensor parallelism), and a level set needs the whole weight:"
                " train with DistributedDataParallel instead"
            )
        if id(m.weight) not in held:
            raise ConfigError(
                f"the base optimizer lacks {name}.weight: give {type(base).__name__} all of model.parameters(), after"
                " `prepare` and after the model is on its device"
            )


def _target(m: LowBitLayer, method: Method, option: ScaleFitOption) -> Target:
    fit = methods.scale_fit(method, option, m.scale_option)
    return Target(m.weight, m.levels, m.level_scale, m.scale_option, fit, 1.0 if m.scale_option == "none" else None)
