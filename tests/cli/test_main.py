"""What all commands have in common: help, options, exit codes, and what they load."""

import importlib
import subprocess
import sys
from dataclasses import fields
from importlib.metadata import version

import pytest

from bitplane.cli import COMMANDS, main
from bitplane.cli.bench import MODES


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_writes_json_and_has_help(name, capsys):
    module = importlib.import_module(f"bitplane.cli.{name}")
    assert "json" in {f.name for f in fields(module.Options)}
    assert main([name, "--help"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"usage: bitplane {name} ")
    assert "--json FILE" in out


@pytest.mark.parametrize("argv", [["--help"], ["--version"], *([name, "--help"] for name in COMMANDS)], ids=" ".join)
def test_help_loads_neither_numpy_nor_what_a_command_runs(argv):
    code = f"import sys\nfrom bitplane.cli import main\nprint(main({argv}))\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.splitlines()[-1].split())
    assert loaded.isdisjoint({"torch", "numba", "numpy", "onnx", "PIL", "msgspec", "bitplane.runtime", "bitplane.export"})
    assert not any(name.startswith("bitplane.benchmarks") for name in loaded)


def test_the_overview_names_every_command(capsys):
    assert main(["--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines if line.startswith("  ")] == list(COMMANDS)
    assert main([]) == 2


def test_the_version_is_that_of_the_package(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"bitplane {version('bitplane')}\n"


def test_an_unknown_command_is_refused_with_the_nearest(capsys):
    assert main(["exprot"]) == 2
    assert capsys.readouterr().err == (
        "bitplane: no command is called 'exprot'; did you mean export? `bitplane --help` lists them\n"
    )


def test_an_unknown_option_ends_with_2(capsys):
    assert main(["inspect", "m.onnx", "--no-such-option"]) == 2
    assert "--no-such-option" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--classes", "--channels", "--zero-point", "--pixel-scale"])
def test_what_a_run_takes_from_its_data_is_no_option(option, tmp_path, capsys):
    assert main(["train", "--output", str(tmp_path / "run"), option, "3"]) == 2
    assert option in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


MODE_OPTIONS = {
    "kernels": ["--kernels"],
    "training": ["--training"],
    "instructions": ["--instructions"],
    "profile": ["--profile", "t"],
}


@pytest.mark.parametrize("first", MODE_OPTIONS)
@pytest.mark.parametrize("second", MODE_OPTIONS)
def test_two_measurements_refuse_each_other(first, second, capsys):
    if first == second:
        pytest.skip("one measurement")
    assert set(MODE_OPTIONS) == set(MODES) - {""}
    assert main(["bench", *MODE_OPTIONS[first], *MODE_OPTIONS[second]]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"--{first}" in line
    assert f"--{second}" in line


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--kernels", "m.onnx"], "--kernels does not use packed files"),
        (["--training", "--plot", "p.png"], "--training does not use --plot"),
        (["--instructions", "m.onnx", "--data", "digits"], "--instructions does not use --data"),
        (["--kernels", "--batch-size", "4"], "--kernels does not use --batch-size"),
        (["--profile", "t.json"], "--profile takes one packed file, 0 were given"),
        ([], "bench needs at least one packed file"),
        (["--instructions"], "bench needs at least one packed file"),
    ],
)
def test_a_measurement_refuses_what_it_would_ignore(argv, words, capsys):
    assert main(["bench", *argv]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line


@pytest.mark.parametrize(
    ("argv", "words"),
    [(["--threads", "-1"], "--threads -1: must be at least 1"), (["--batch-size", "0"], "--batch-size 0: must be at least 1")],
)
def test_a_number_that_cannot_be_used_is_refused(argv, words, tmp_path, capsys):
    model = tmp_path / "m.onnx"
    model.write_bytes(b"")
    assert main(["bench", str(model), *argv]) == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(28, "No space left on device", "out"), "out: No space left on device"),
        (RecursionError("deep"), "nested too deeply"),
        (MemoryError(), "not enough memory"),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"), "invalid start byte"),
        (ModuleNotFoundError("No module named 'scipy'", name="scipy.stats"), "pip install 'bitplane[bench]'"),
        (ModuleNotFoundError("No module named 'torch'", name="torch"), "pip install 'bitplane[train]'"),
    ],
)
def test_what_no_command_foresaw_is_one_line_too_and_a_trace_on_demand(error, words, capsys, monkeypatch):
    def fail(options):
        raise error

    monkeypatch.setattr("bitplane.cli.warmup.run", fail)
    assert main(["warmup"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("bitplane: ")
    assert words in line
    with pytest.raises(type(error)):
        main(["--debug", "warmup"])
