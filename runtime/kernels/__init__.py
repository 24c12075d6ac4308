"""Compiled kernels: addresses and numbers in, bytes out. Nothing here checks its arguments; `bitplane.runtime.plan` does."""
