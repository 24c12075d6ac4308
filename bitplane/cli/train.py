"""`bitplane train`."""

import re
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, get_args

from tyro.conf import Fixed, Suppress
from tyro.constructors import PrimitiveConstructorSpec

from bitplane.cli.arguments import given
from bitplane.cli.options import JsonFile
from bitplane.cli.output import UsageError, say, write_json
from bitplane.train.config import Activations, MethodName, ModelConfig, OptimizerConfig, TrainConfig, Weights, to_options


def _open_choice(choices: Any) -> PrimitiveConstructorSpec[Any]:
    """An option that shows its own choices and takes other words too: the configuration knows those of installed packages."""
    own = get_args(choices)
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar=f"{{{','.join(map(str, own))},...}}",
        instance_from_str=lambda words: int(words[0]) if re.fullmatch("[0-9]{1,4}", words[0]) else words[0],
        is_instance=lambda value: isinstance(value, str | int),
        str_from_instance=lambda value: [str(value)],
    )


@dataclass(frozen=True)
class ModelOptions(ModelConfig):
    """The network."""

    weights: Annotated[Weights, _open_choice(Weights)] = "ternary"
    activations: Annotated[Activations, _open_choice(Activations)] = 2

    # A run takes these from its data: they are no options.
    classes: Suppress[Fixed[int]] = 10
    channels: Suppress[Fixed[int]] = 3
    zero_point: Suppress[Fixed[int]] = 121
    pixel_scale: Suppress[Fixed[float]] = 64.0
    model_sha256: Suppress[Fixed[str]] = ""


@dataclass(frozen=True)
class OptimizerOptions(OptimizerConfig):
    """How weights move."""

    method: Annotated[MethodName, _open_choice(MethodName)] = "pc"


@dataclass(frozen=True)
class RunOptions(TrainConfig):
    """The run."""

    model: ModelOptions = field(default_factory=ModelOptions)
    optimizer: OptimizerOptions = field(default_factory=OptimizerOptions)

    def config(self) -> TrainConfig:
        """The run's configuration."""
        model = ModelConfig(**{f.name: getattr(self.model, f.name) for f in fields(ModelConfig)})
        optimizer = OptimizerConfig(**{f.name: getattr(self.optimizer, f.name) for f in fields(OptimizerConfig)})
        others = {f.name: getattr(self, f.name) for f in fields(TrainConfig) if f.name not in ("model", "optimizer")}
        return TrainConfig(model=model, optimizer=optimizer, **others)


@dataclass(frozen=True)
class Options:
    """Train a network into the folder OUTPUT.

    Under `accelerate launch -m bitplane.cli train ...` several processes share the work.

    Attributes:
        output: folder of the run.
        config: the run.
        init: start from the weights of this finished run, or of a state_dict of the same names (.safetensors); one of other
            classes will do: then the last layer starts at random. Of our ResNets a shallower one will do: the blocks it lacks
            start as the identity.
        resume: go on with OUTPUT from its newest checkpoint, by its stored configuration; a network of a Python file needs
            --model again, as a folder alone never has a file run.
        json: write the result to this file.
    """

    output: Path
    config: RunOptions = field(default_factory=RunOptions)
    init: Path | None = None
    resume: bool = False
    json: JsonFile = None


def run(options: Options) -> None:
    """Train, or go on with a run."""
    from bitplane.train.loop import train

    config = options.config.config()
    if options.resume:
        _refuse_other_options(config, options.output)
    write_json(options.json, train(config, options.output, resume=options.resume, init=options.init, say=say))


def _refuse_other_options(config: TrainConfig, folder: Path) -> None:
    # A run is resumed by its stored configuration: an option that says otherwise would be ignored silently.
    from bitplane.train.checkpoint import read_config

    run = read_config(folder)
    stored, default = to_options(run), to_options(TrainConfig())
    for key, value in to_options(config).items():
        if key == "model" and config.model.source.kind == run.model.source.kind == "file":
            continue  # its path may be another now: training compares the file itself
        if value != stored[key] and (key in given() or value != default[key]):
            raise UsageError(
                f"{folder}: was trained with {key} {stored[key]}, not {value}; leave the option out, or use a new --output"
            )
