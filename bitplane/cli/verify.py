"""`bitplane verify`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from bitplane.cli.options import JsonFile, Model
from bitplane.cli.output import say, write_json


@dataclass(frozen=True)
class Options:
    """Check that a file that export wrote is whole, and with a key that its owner signed it.

    Attributes:
        model: a file of any form.
        key: public EC key (PEM) of the signer; the signature is MODEL.sig.
        json: write the result to this file.
    """

    model: Model
    key: Annotated[Path | None, arg(metavar="KEY")] = None
    json: JsonFile = None


def run(options: Options) -> None:
    """Check, and say what was checked; a file that does not pass is an error."""
    from bitplane.format import names as fmt
    from bitplane.runtime.model.file import read_file
    from bitplane.runtime.model.parse import parse

    file = read_file(options.model, options.key)
    if file.digest is not None:
        say(f"{options.model}: the whole file matches its checksum {file.digest}")
    else:
        metadata = parse(file).metadata
        what = "weights" if fmt.META_WEIGHTS_SHA256 in metadata else "planes of weights"
        version = metadata[fmt.META_FORMAT_VERSION]
        say(f"{options.model}: the {what} match their checksum; format {version} has none of the rest")
    say(f"  signed by the owner of {options.key}" if options.key is not None else "  no signature was asked for (--key)")
    key = None if options.key is None else str(options.key)
    write_json(options.json, {"file": str(options.model), "file_sha256": file.digest, "key": key})
