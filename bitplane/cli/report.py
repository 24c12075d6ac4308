"""`bitplane report`."""

from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from bitplane.cli.options import JsonFile, OutputPath
from bitplane.cli.output import UsageError, make_folder, say, write_bytes, write_json, write_text

MAX_PAGE = 1 << 26
"""Bytes of the largest Markdown file read."""


@dataclass(frozen=True)
class Options:
    """Write the report of a study's results again: OUTPUT/study.md, study.html and pictures.

    Attributes:
        study: a results file of `bitplane study` (study.json).
        output: folder to write to.
        refresh: Markdown files whose tables between `<!-- study: GROUP -->` and `<!-- end -->` are generated anew.
        json: write the names of the files that were written to this file.
    """

    study: Positional[Path]
    output: OutputPath
    refresh: tuple[Path, ...] = ()
    json: JsonFile = None


def run(options: Options) -> None:
    """Write all pages from the results."""
    from bitplane.benchmarks.report import report_files
    from bitplane.benchmarks.report.readme import refresh
    from bitplane.benchmarks.results import read_study

    found = read_study(options.study)
    pages = {page: refresh(_read(page), found) for page in options.refresh}
    make_folder(options.output)
    files = {options.output / name: data for name, data in report_files(found).items()}
    for path, data in files.items():
        write_bytes(path, data)
    for page, text in pages.items():
        write_text(page, text)
    say(f"{options.output / 'study.md'} and {options.output / 'study.html'} hold the report")
    write_json(options.json, {"written": [str(p) for p in [*files, *pages]]})


def _read(page: Path) -> str:
    from bitplane.format.errors import FileError
    from bitplane.format.files import read_file

    try:
        return read_file(page, MAX_PAGE).decode()
    except FileError as e:
        raise UsageError(f"--refresh {page}: {e}; give a Markdown file") from None
    except UnicodeDecodeError as e:
        raise UsageError(f"--refresh {page}: not a readable Markdown file ({e})") from e
