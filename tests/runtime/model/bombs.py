"""Files that grow in memory as far as the reader lets them: how much memory loading takes, as a multiple of the file.

    python tests/runtime/model/bombs.py --json bombs.json

A bomb is half a constant of zeros, which the reader takes for a real file's weights, and half entries of one repeated field, of
the fewest bytes each, as many as the scan (`runtime/model/scan.py`) just accepts, or ten times as many. The fields are those of
every message up to six levels deep. The scan's allowance is switched off, as it would hide the multiple; each file is parsed in
a process of its own, whose largest resident memory is measured.
"""

import argparse
import json
import os
import resource
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx

from bitplane.runtime.errors import ModelError
from bitplane.runtime.model import scan
from bitplane.runtime.model.parse import parse

FILLER = 8 << 20
DEPTH = 6
ADDRESS_SPACE = 4 << 30
MOST_ENTRIES = 8 << 20


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def nested(content: bytes, *numbers: int) -> bytes:
    """`content` inside of length-delimited fields, the outermost first."""
    for number in reversed(numbers):
        content = varint(number << 3 | 2) + varint(len(content)) + content
    return content


def repeated(descriptor: Any = onnx.ModelProto.DESCRIPTOR, path: tuple[int, ...] = (), names: tuple[str, ...] = ()) -> Iterator:
    """(path of field numbers, field) of every repeated field; a message lies in one of its kind once at the most."""
    if len(path) >= DEPTH or names.count(descriptor.full_name) > 1:
        return
    for field in descriptor.fields:
        if field.is_repeated:
            yield (*path, field.number), field
        if field.message_type is not None:
            yield from repeated(field.message_type, (*path, field.number), (*names, descriptor.full_name))


def kinds() -> dict[tuple[int, ...], Any]:
    """The shallowest and the deepest place of each repeated field, and up to four between them."""
    places: dict[str, list[tuple[tuple[int, ...], Any]]] = {}
    for path, field in repeated():
        places.setdefault(field.full_name, []).append((path, field))
    found = {}
    for all_ in places.values():
        all_.sort(key=lambda p: (len(p[0]), p[0]))
        found |= {all_[i * (len(all_) - 1) // 5][0]: all_[0][1] for i in range(6)}
    return found


def bomb(path: tuple[int, ...], field: Any, entries: int) -> bytes:
    """A constant of zeros and `entries` of a field."""
    *outer, number = path
    if field.message_type is None and field.cpp_type != field.CPPTYPE_STRING:
        content = nested(bytes(entries), number)  # packed numbers; a byte each, where they are integers
    else:
        content = (varint(number << 3 | 2) + b"\0") * entries
    return nested(bytes(FILLER), 7, 5, 9) + nested(content, *outer)


def most_entries(path: tuple[int, ...], field: Any) -> int:
    """As many entries as the scan accepts without its allowance."""
    low, high = 0, MOST_ENTRIES
    if accepted(bomb(path, field, high)):
        return high
    few = 10_000
    empty, some = (scan.grown(bomb(path, field, n)) for n in (0, few))
    each = (some - empty) / few
    size = (len(bomb(path, field, few)) - len(bomb(path, field, 0))) / few
    low = int((scan.GROWTH * len(bomb(path, field, 0)) - empty) / (each - scan.GROWTH * size)) - 8
    return low if accepted(bomb(path, field, low)) else 0


def accepted(data: bytes) -> bool:
    try:
        scan.grown(data, bound=scan.GROWTH * len(data))
    except MemoryError:
        return False
    return True


def peak(file: Path) -> tuple[int, str]:
    """Bytes by which a process grew while it parsed a file, and what it said."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
        before = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
        try:
            parse(file)
            said = "accepted"
        except ModelError as error:
            said = str(error).partition(": ")[2]
        except BaseException as error:
            said = f"fault: {type(error).__name__}"
        after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
        os.write(write, json.dumps([after - before, said[:200]]).encode())
        os._exit(0)
    os.close(write)
    with open(read) as answer:
        text = answer.read()
    _, status = os.waitpid(child, 0)
    return tuple(json.loads(text)) if text else (0, f"fault: the process ended with {status}")


def measure(every: int = 1) -> Iterator[dict[str, Any]]:
    """Each bomb, or each `every`th: its kind, size, multiple and outcome."""
    scan.ALLOWANCE = 0
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "bomb.onnx"
        for path, field in list(kinds().items())[::every]:
            most = most_entries(path, field)
            for entries in (most, min(10 * most, MOST_ENTRIES)):
                file.write_bytes(bomb(path, field, entries))
                grew, said = peak(file)
                size = file.stat().st_size
                row = {"field": field.full_name, "path": list(path), "entries": entries, "bytes": size}
                yield row | {"multiple": round(grew / size, 2), "said": said}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--every", type=int, default=1, help="measure each N-th kind only")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    rows = sorted(measure(args.every), key=lambda r: -r["multiple"])
    summary = {"bombs": len(rows), "worst": rows[0]["multiple"], "faults": [r for r in rows if "fault" in r["said"]]}
    for row in rows[:8]:
        sys.stdout.write(json.dumps(row) + "\n")
    sys.stdout.write(json.dumps(summary) + "\n")
    if args.json:
        args.json.write_text(json.dumps({**summary, "rows": rows}, indent=1))
    return 1 if summary["faults"] else 0


if __name__ == "__main__":
    sys.exit(main())
