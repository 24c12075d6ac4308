"""The command line: `bitplane COMMAND`. Each command is a module of its name with `Options` and `run`, which prints."""

import difflib
import importlib
import os
import sys

from bitplane.cli.arguments import parse, remembered
from bitplane.cli.output import UsageError, complain, say
from bitplane.errors import BitplaneError

COMMANDS = (
    "demo", "train", "experiments", "export", "eval", "predict", "inspect", "verify", "bench", "study", "report", "recommend",
    "warmup",
)  # fmt: skip
"""In the order in which `bitplane --help` lists them."""

BENCH = {"matplotlib", "bokeh", "jinja2", "msgspec", "scipy"}
"""Packages of the extra `bench`; all others that can be missing are of `train`."""


def main(argv: list[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: arguments; default: the process's.

    Returns:
        Exit code: 0; 2 after a user's mistake, which is one line on standard error (words that are no options: what the parser
        says, with the option's help); 130 after an interrupt; 141 if nobody reads
        the output.
    """
    arguments = sys.argv[1:] if argv is None else argv
    debug = arguments[:1] == ["--debug"]
    try:
        code = _command(arguments[debug:])
        sys.stdout.flush()
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `bitplane ... | head` has read enough; nothing is left to be flushed at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except (BitplaneError, ModuleNotFoundError, OSError, RecursionError, MemoryError, UnicodeError) as e:
        if debug:
            raise
        complain(_problem(e))
        return 2
    return code


def _command(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        for line in _overview():
            say(line)
        return 0 if arguments else 2
    name, *rest = arguments
    if name == "--version":
        import bitplane

        say(f"bitplane {bitplane.__version__}")
        return 0
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, 1) or [", ".join(COMMANDS)]
        raise UsageError(f"no command is called '{name}'; did you mean {near[0]}? `bitplane --help` lists them")
    module = importlib.import_module(f"bitplane.cli.{name}")
    try:
        options = parse(module.Options, f"bitplane {name}", rest)
    except SystemExit as e:  # after --help, or an argument that is not one
        return int(e.code or 0)
    with remembered(rest):
        module.run(options)
    return 0


def _overview() -> list[str]:
    """What `bitplane --help` says: the first sentence of every command."""
    lines = ["usage: bitplane [--version] [--debug] COMMAND [OPTIONS]", ""]
    lines += ["Low-bit convolutional networks, from training to the CPU."]
    lines += ["", *(f"  {name:12} {_summary(name)}" for name in COMMANDS), ""]
    return [*lines, "`bitplane COMMAND --help` lists its options; --debug shows the trace of an error."]


def _summary(name: str) -> str:
    text = importlib.import_module(f"bitplane.cli.{name}").Options.__doc__ or ""
    return text.partition("\n\n")[0].replace("\n", " ")


def _problem(e: Exception) -> str:
    """One line for an exception that ended a command."""
    if isinstance(e, BitplaneError):
        return str(e)
    if isinstance(e, ModuleNotFoundError):
        package = (e.name or "").partition(".")[0]
        extra = "bench" if package in BENCH else "train"
        return f"this command needs `{package}`: pip install 'bitplane[{extra}]'"
    if isinstance(e, OSError):
        return f"{f'{e.filename}: ' if e.filename is not None else ''}{e.strerror or e}"
    what = {RecursionError: "an argument or a file is nested too deeply", MemoryError: "not enough memory"}
    return what.get(type(e), f"text that cannot be read or shown ({e})")
