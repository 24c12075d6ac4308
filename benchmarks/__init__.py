"""Benchmarks: latency against accuracy of packed files and their peers, interleaved in one run."""
