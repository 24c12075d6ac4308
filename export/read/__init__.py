"""Readers: what a user brings to a checked `Network`.

`source` reads a network in memory and compares the reading with it; `files` and `runs` open what lies on disk; `torch` and
`onnx` are the readers, with `qonnx` for its quantizers. An operator is known to a reader by a row of its table.
"""
