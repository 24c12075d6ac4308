"""Descriptions of experiments: what they plan, train once and report; committed pages follow from committed results."""

import json
from pathlib import Path

import pytest
from filelock import FileLock

from bitplane.cli import main
from bitplane.train import experiments as e
from bitplane.train.checkpoint import write_config
from bitplane.train.data import load_data
from bitplane.train.data.dataset import with_data
from bitplane.train.errors import CheckpointError, ConfigError
from bitplane.train.experiments import results, runner

DOCS = Path(__file__).resolve().parents[2] / "docs" / "experiments"

DESCRIPTION = """
title = "Tiny"
about = "Two weeks of work."
[common]
data = "{data}"
batch_size = 16
epochs = 2
activations = 32
[[group]]
name = "float"
columns = "model"
options = {{ weights = "float" }}
axes = {{ seed = [0], model = ["resnet20"] }}
[[group]]
name = "fine tuned"
init = "float"
columns = "method"
axes = {{ seed = [0, 1], model = ["resnet20"], weights = ["binary"], method = ["pc", "pq"] }}
[[group.override]]
when = {{ method = "pq" }}
options = {{ rho_0 = 0.5 }}
[[reference]]
group = "fine tuned"
when = {{ method = "pc" }}
top1 = 12.5
"""


@pytest.fixture
def description(pictures, tmp_path) -> Path:
    path = tmp_path / "tiny.toml"
    path.write_text(DESCRIPTION.format(data=pictures))
    return path


def test_a_description_plans_its_runs_in_order(description, tmp_path):
    planned = e.plan(e.read_experiment(description), tmp_path / "runs", {"epochs": 1})
    assert [str(p.folder.relative_to(tmp_path / "runs")) for p in planned] == [
        "float/s0-resnet20-e1",
        "fine-tuned/s0-resnet20-binary-pc-e1",
        "fine-tuned/s0-resnet20-binary-pq-e1",
        "fine-tuned/s1-resnet20-binary-pc-e1",
        "fine-tuned/s1-resnet20-binary-pq-e1",
    ]
    assert [p.config.optimizer.rho_0 for p in planned] == [None, None, 0.5, None, 0.5]
    assert planned[3].config.seed == 1


def test_variants_are_names_that_overrides_give_a_meaning(description, tmp_path):
    more = """
[[group]]
name = "ablation"
columns = "weights"
axes = { weights = ["binary"], variant = ["plain", "quite smooth"] }
[[group.override]]
when = { variant = "quite smooth" }
options = { label_smoothing = 0.1 }
[[group]]
name = "taught"
init = "float"
columns = "weights"
axes = { weights = ["binary"], variant = ["plain", "alone"] }
[[group.override]]
when = { variant = "alone" }
teacher = "float"
init = false
[[group]]
name = "second stage"
init = "fine tuned"
teacher = "float"
columns = "method"
axes = { seed = [1, 7], weights = ["binary"], method = ["pq"] }
"""
    description.write_text(description.read_text() + more)
    planned = e.plan(e.read_experiment(description), tmp_path, {})
    again, taught, planned = planned[-2:], planned[-4:-2], planned[-6:-4]
    float_run = tmp_path / "float" / "s0-resnet20-e2"
    assert [(p.start, p.config.recipe.teacher) for p in taught] == [(float_run, ""), (None, str(float_run))]
    assert [p.config.recipe.label_smoothing for p in planned] == [0.0, 0.1]
    assert planned[1].folder.name == "binary-quite-smooth-e2"
    assert [p.start.name for p in again if p.start] == ["s1-resnet20-binary-pq-e2", "s0-resnet20-binary-pq-e2"]
    assert [p.config.recipe.teacher for p in again] == [str(float_run)] * 2
    given = e.plan(e.read_experiment(description), tmp_path, {}, tmp_path / "mine")[-1]
    assert (given.start, given.config.recipe.teacher) == (tmp_path / "mine", str(float_run))


def test_one_command_trains_what_is_missing_and_collects(description, tmp_path, capsys, monkeypatch):
    argv = ["experiments", str(description), "-o", str(tmp_path / "runs"), "--epochs", "1"]
    argv += ["--json", str(tmp_path / "r.json"), "--page", str(tmp_path / "r.md")]
    assert main([*argv, "--only", "float/s0"]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"bitplane: --only float/s0 matches none of the 5 runs of {description}, such as float/s0-")
    assert err.count(", ") <= 3  # the nearest, not all
    assert main([*argv, "--only", "float/*", "*s0*-pc-*"]) == 0
    first = json.loads((tmp_path / "r.json").read_text())["runs"]
    assert [r["group"] for r in first] == ["float", "fine tuned"]
    assert first[1]["init"] == {"top1": first[0]["top1"], "epochs": 1}
    assert main(argv) == 0
    records = results.read_records(tmp_path / "r.json")
    assert len(records) == 5
    page = (tmp_path / "r.md").read_text()
    assert page == results.page(e.read_experiment(description), records)
    mean = 50 * sum(r.top1 for r in records if r.axes.get("method") == "pc")
    assert f"| resnet20 | binary | {mean:.2f} ± " in page
    assert "(2, published 12.50)" in page

    def fail(*_: object) -> None:
        raise AssertionError("everything was trained")

    monkeypatch.setattr("bitplane.train.data.load_data", fail)
    assert main(argv) == 0
    assert "Two weeks of work." in capsys.readouterr().out


def test_a_run_killed_in_its_first_epoch_or_after_it_goes_on(description, tmp_path, monkeypatch):
    experiment = e.read_experiment(description)
    planned = e.plan(experiment, tmp_path / "runs", {"epochs": 2})
    data = load_data(planned[0].config.data)
    from bitplane.train.optimizer import ProxOptimizer

    step = ProxOptimizer.step

    def interrupted(at: int):
        def run(self, closure=None):
            if self.step_count == at:
                raise KeyboardInterrupt
            return step(self, closure)

        return run

    for at, epoch in ((1, "epoch-0000"), (3, "epoch-0001")):
        monkeypatch.setattr(ProxOptimizer, "step", interrupted(at))
        with pytest.raises(KeyboardInterrupt):
            e.run_missing(planned[:1], lambda _: data, progress=False)
        assert [p.name for p in (planned[0].folder / "checkpoints").iterdir()] == [epoch]
    monkeypatch.setattr(ProxOptimizer, "step", step)
    assert e.run_missing(planned[:1], lambda _: data, progress=False) == []
    assert [json.loads(line)["epoch"] for line in (planned[0].folder / "log.jsonl").read_text().splitlines()] == [1, 2]


def test_a_run_without_any_checkpoint_starts_again(description, tmp_path):
    """As version 0.1 left it if it was killed in the first epoch."""
    planned = e.plan(e.read_experiment(description), tmp_path / "runs", {"epochs": 1})[:1]
    data = load_data(planned[0].config.data)
    write_config(planned[0].folder, with_data(planned[0].config, data))
    assert e.run_missing(planned, lambda _: data, progress=False) == []
    assert (planned[0].folder / "final" / "result.json").exists()


def test_a_run_that_another_process_has_taken_is_left_to_it(description, tmp_path):
    planned = e.plan(e.read_experiment(description), tmp_path / "runs", {"epochs": 1})[:1]
    planned[0].folder.parent.mkdir(parents=True)
    with FileLock(planned[0].folder.with_name(f".{planned[0].folder.name}.lock")):
        assert e.run_missing(planned, lambda _: pytest.fail("loads data"), progress=False) == []  # type: ignore[arg-type]
    assert not planned[0].folder.exists()


def test_a_run_by_another_description_is_refused(description, tmp_path):
    output = tmp_path / "runs"
    planned = e.plan(e.read_experiment(description), output, {"epochs": 1})
    data = load_data(planned[0].config.data)
    assert e.run_missing(planned[:1], lambda _: data, progress=False) == []
    (planned[0].folder / "final" / "result.json").unlink()
    changed = e.plan(e.read_experiment(description), output, {"epochs": 1, "lr": 0.3})
    (failure,) = e.run_missing(changed[:1], lambda _: data, progress=False)
    assert "was trained with lr 0.1, the description now asks for 0.3" in failure
    same = e.plan(e.read_experiment(description), output, {"epochs": 1, "save_every": 7, "keep": 1, "eval_every": 3})
    assert runner._prepare(same[0], data)


def test_a_start_that_is_not_finished_is_named(description, tmp_path):
    planned = e.plan(e.read_experiment(description), tmp_path / "runs", {"epochs": 1})
    (failure,) = e.run_missing(planned[1:2], load_data, progress=False)
    assert "float/s0-resnet20-e1, which is not finished yet" in failure


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (("title", "titel"), r"unknown field `titel`; help\(bitplane"),
        (('init = "float"', 'init = "floats"'), "starts from 'floats', which is no group before it"),
        (('init = "float"', 'teacher = "floats"'), "learns from 'floats', which is no group before it"),
        (('columns = "method"', 'columns = "depth"'), "has no axis 'depth'"),
        (
            ('name = "fine tuned"\n', 'name = "fine tuned"\ncolums = "method"\n'),
            r"unknown field `colums` - at `\$.group\[1\]`",
        ),
        (("seed = [0, 1]", "seed = 0"), r"expected `array`, got `int` - at `\$.group\[1\].axes\[...\]`"),
        (('columns = "method"', "columns = 3"), r"expected `str`, got `int` - at `\$.group\[1\].columns`"),
        (
            ("options = { rho_0 = 0.5 }", "option = { rho_0 = 0.5 }"),
            r"unknown field `option` - at `\$.group\[1\].over",
        ),
        (('when = { method = "pq" }', ""), r"missing required field `when` - at `\$.group\[1\].override\[0\]`"),
        (('when = { method = "pq" }', 'when = { methd = "pq" }'), "asks for 'methd', which is no axis of group 'fine tuned'"),
        (('name = "fine tuned"', 'name = "float"'), "group 'float' is there twice"),
        (('group = "fine tuned"', 'group = "tuned"'), "reference 1: there is no group 'tuned'"),
        (("top1 = 12.5", "top = 12.5"), r"unknown field `top` - at `\$.reference\[0\]`"),
        (("top1 = 12.5", "top1 = true"), r"expected `float`, got `bool` - at `\$.reference\[0\].top1`"),
        (('title = "Tiny"', ""), "missing required field `title`"),
        (("seed = [0, 1]", "seed = [0, 1, 0]"), "group 'fine tuned': axis `seed` has 0 twice"),
        (("[common]", "[commons]"), "unknown field `commons`"),
        (('name = "float"', 'nome = "float"'), r"unknown field `nome` - at `\$.group\[0\]`"),
        (("[common]", "[common"), "not an experiment description"),
    ],
)
def test_a_description_that_cannot_be_used_is_refused(description, change, complaint):
    description.write_text(description.read_text().replace(*change))
    with pytest.raises(ConfigError, match=complaint) as error:
        e.read_experiment(description)
    assert str(description) in str(error.value)


@pytest.mark.parametrize("name", ["../up", "a/../../up", "/up"])
def test_a_run_outside_of_the_output_folder_is_refused(description, tmp_path, name):
    description.write_text(
        description.read_text().replace('name = "fine tuned"', f'name = "{name}"').replace('"fine tuned"', f'"{name}"')
    )
    with pytest.raises(ConfigError, match=r"would leave the output"):
        e.plan(e.read_experiment(description), tmp_path / "out", {})


def test_more_runs_than_anyone_can_train_are_refused_before_they_are_planned(description, tmp_path):
    text = description.read_text().replace("seed = [0, 1]", f"seed = {list(range(999))}, epochs = {list(range(1, 999))}")
    description.write_text(text)
    with pytest.raises(ConfigError, match=r"asks for 1994005 runs, at most 2000 are planned"):
        e.plan(e.read_experiment(description), tmp_path, {})


def test_an_option_that_no_run_has_is_named_with_its_file_and_group(description, tmp_path):
    description.write_text(description.read_text().replace("rho_0", "rho"))
    with pytest.raises(ConfigError) as error:
        e.plan(e.read_experiment(description), tmp_path, {})
    assert str(error.value).startswith(f"{description}: group 'fine tuned': `rho` is not an option of a run; they are model, ")


def test_results_of_another_kind_are_refused(tmp_path):
    (tmp_path / "r.json").write_text('{"runs": [{"top1": 3}]}')
    with pytest.raises(CheckpointError, match="not a results file"):
        results.read_records(tmp_path / "r.json")


@pytest.mark.parametrize("path", sorted(DOCS.glob("*.toml")), ids=lambda p: p.stem)
def test_committed_descriptions_are_valid_and_their_pages_follow_from_their_results(path, tmp_path):
    experiment = e.read_experiment(path)
    assert e.plan(experiment, tmp_path, {})
    records = results.read_records(path.with_suffix(".json"))
    if records:
        assert path.with_suffix(".md").read_text() == results.page(experiment, records)
