"""The root of every error that a user's mistake can raise.

Each message is one line: what is wrong, where (file, node, field, value), and what to do. Every room defines its own
subclasses in its own `errors.py`; the command line prints the message and exits with 2.
"""


class BitplaneError(Exception):
    """Base of every error that bitplane raises on purpose."""
