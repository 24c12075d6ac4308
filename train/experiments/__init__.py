"""Experiments as files: a description names runs, one command trains those that are missing and collects all results.

A description (TOML) has options common to all runs, groups of runs, and published figures to set beside them:

    title = "..."
    about = "..."                    # optional: what the page of results begins with
    [common]                         # options of `bitplane train`, by their names there
    [[group]]
    name = "end to end"
    init = "float"                   # optional: start from the finished run of that group with the same axes, where it has them
    teacher = "float"                # optional: learn from the logits of that group's run too
    columns = "method"               # axis that the table shows as columns
    options = { scale = "none" }
    axes = { seed = [0, 1, 2], weights = ["binary", "ternary"], method = ["bc", "pc"] }     # the first varies slowest
    [[group.override]]               # where axes have these values
    when = { method = "pq" }
    options = { rho_0 = 1e-4 }
    init = false                     # optional: start at random; `teacher = "float"`: as for a group
    [[reference]]
    group = "end to end"
    when = { weights = "binary", method = "bc" }
    top1 = 87.51                     # percent, as it was published

An axis named `variant` is no option: overrides say what its names mean, as in an ablation.

On disk: OUTPUT/<group>/<axis values>-e<epochs>/ is an ordinary run, and only one process at a time works on a run, so that
several processes can share one description: each takes the next run that is neither finished nor taken.
"""

from bitplane.train.experiments.description import Experiment, Group, Override, Reference, read_experiment
from bitplane.train.experiments.planning import Planned, plan
from bitplane.train.experiments.runner import run_missing

__all__ = ["Experiment", "Group", "Override", "Planned", "Reference", "plan", "read_experiment", "run_missing"]
