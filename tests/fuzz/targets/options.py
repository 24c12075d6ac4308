"""Words of a command line: options in their ranges, or a refusal with exit code 2; nothing is run."""

import contextlib
import importlib
import io

from scratch import one_line

from bitplane.cli import COMMANDS
from bitplane.cli.arguments import parse
from bitplane.errors import BitplaneError

OPTIONS = {name: importlib.import_module(f"bitplane.cli.{name}").Options for name in COMMANDS}


def check(data: bytes) -> None:
    """The command, then its words, one a line."""
    name, *words = data.decode(errors="surrogateescape").split("\n")
    if name not in OPTIONS or any(w.replace("_", "-").startswith("--tyro") for w in words):
        return  # --tyro-write-completion writes
    said = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(said):
        code = None
        try:
            assert isinstance(parse(OPTIONS[name], name, words), OPTIONS[name])
        except BitplaneError as error:
            one_line(error)
        except SystemExit as end:
            code = end.code
    assert code in (None, 0, 2)
    assert (code == 2) == bool(said.getvalue())
    assert all(line.isprintable() for line in said.getvalue().splitlines())
