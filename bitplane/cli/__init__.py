"""The command line: `bitplane COMMAND`; the table below lists the commands."""

import os
import sys

import tyro

from bitplane.cli import commands, machine, study, training
from bitplane.cli.arguments import remembered
from bitplane.errors import BitplaneError

BENCH = {"matplotlib", "bokeh", "jinja2", "msgspec", "scipy"}


def main(argv: list[str] | None = None) -> int:
    """Run one command; a user's mistake is one line on standard error and exit code 2."""
    table = {
        "demo": commands.demo,
        "train": training.train,
        "experiments": training.experiments,
        "export": commands.export,
        "eval": commands.evaluate,
        "predict": commands.predict,
        "bench": commands.bench,
        "inspect": commands.inspect,
        "warmup": machine.warmup,
        "study": study.study,
        "report": study.report,
        "recommend": study.recommend,
    }
    try:
        with remembered(sys.argv[1:] if argv is None else argv):
            tyro.extras.subcommand_cli_from_dict(table, prog="bitplane", args=argv, description="Low-bit ResNets on the CPU.")
        sys.stdout.flush()
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `bitplane ... | head` has read enough; nothing is left to be flushed at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except BitplaneError as e:
        print(f"bitplane: {' '.join(str(e).split())}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as e:
        extra = "bench" if (e.name or "").partition(".")[0] in BENCH else "train"
        print(f"bitplane: this command needs `{e.name}`: pip install 'bitplane[{extra}]'", file=sys.stderr)
        return 2
    return 0
