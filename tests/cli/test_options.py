"""Every number on the command line has a range, and what makes no sense is refused before a command begins."""

import importlib.util
import re
from pathlib import Path

import pytest

from bitplane.cli import COMMANDS, main

GRAMMAR = Path(__file__).parents[1] / "fuzz" / "grammar.py"


def load_grammar():
    """`tests/fuzz/grammar.py`: the options as the parser's classes say them."""
    spec = importlib.util.spec_from_file_location("grammar", GRAMMAR)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


grammar = load_grammar()
NUMBERS = [(name, option) for name in COMMANDS for option in grammar.options(name) if option.numeric]
REQUIRED = {"train": ["--output", "x"], "export": ["s", "-o", "x"], "study": ["d", "-o", "x"], "experiments": ["d", "-o", "x"]}
REQUIRED |= {"eval": ["m"], "bench": ["m"]}
SENSELESS = {int: ["-1", "-7", str(-(10**30)), str(10**30)], float: ["nan", "inf", "-inf", "-1", "-0.5"]}


@pytest.mark.parametrize("name", COMMANDS)
def test_the_options_that_are_tried_are_those_of_the_help(name, capsys):
    assert main([name, "--help"]) == 0
    lines = [line.strip("│ ") for line in capsys.readouterr().out.splitlines()]
    shown = {
        flag for line in lines if line.startswith("-") for flag in re.findall(r"--[a-z][a-z0-9-]+", line.partition("  ")[0])
    }
    ours = {o.flag for o in grammar.options(name) if o.flag}
    assert ours == {flag for flag in shown if not flag.startswith("--no-")} - {"--help"}


def test_there_are_numbers_to_try():
    assert len(NUMBERS) >= 39
    assert {name for name, _ in NUMBERS} == {"demo", "train", "experiments", "export", "eval", "bench", "study", "recommend"}


@pytest.mark.parametrize(("name", "option"), NUMBERS, ids=lambda v: v if isinstance(v, str) else v.flag)
def test_a_number_that_makes_no_sense_is_refused_by_name(name, option, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for value in SENSELESS[option.numeric]:
        assert main([name, *REQUIRED.get(name, []), f"{option.flag}", value]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        field = option.flag.removeprefix("--").replace("-", "_")
        assert line.startswith((f"bitplane: {option.flag} ", f"bitplane: `{field}` (=")), line
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    "argv",
    [
        ["bench", "m", "--threads", "2", "0"],
        ["bench", "m", "--batch-size", "0"],
        ["study", "d", "-o", "x", "--rounds", "0"],
        ["experiments", "d", "-o", "x", "--epochs", "0"],
        ["demo", "--epochs", "0"],
        ["export", "s", "-o", "x", "--samples", "0"],
        ["export", "s", "-o", "x", "--size", "32", "0"],
        ["export", "s", "-o", "x", "--mean", "256", "--std", "1"],
        ["export", "s", "-o", "x", "--mean", "1", "--std", "0"],
        ["recommend", "--threads", "0"],
        ["recommend", "--size", "0"],
        ["recommend", "--accuracy", "100.5"],
        ["train", "--output", "x", "--seed", str(2**32)],
        ["train", "--output", "x", "--momentum", "1.5"],
        ["eval", "m", "--size", "16385"],
    ],
    ids=" ".join,
)
def test_the_first_number_outside_of_a_range_is_refused(argv, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(argv) == 2
    assert "must be" in capsys.readouterr().err
    assert not any(tmp_path.iterdir())


def test_what_the_parser_quotes_is_printable(capsys):
    assert main(["demo", "--epochs", "\x1b[2J\u202e"]) == 2
    assert main(["inspect", "m", "--no\x1b[2J"]) == 2
    assert main(["inspect", "--tyro-print-completion", "\x1b[2J"]) == 2
    assert all(line.isprintable() for line in capsys.readouterr().err.splitlines())
