"""Text from outside, made safe to show: names in files, metadata, paths, messages of other programs.

Whatever is shown to people goes through here: a terminal obeys escape sequences, bidirectional marks reorder a line, a line
break forges a line, and Markdown and HTML obey tags.
"""

import re

MAX_SHOWN = 400
"""Characters of one value from outside in a message; names in a file may be longer."""

_MARKUP = re.compile(r"[\\`*\[\]<>|~$]|(?<![^\W_])_|_(?![^\W_])|^[#=+-]")
"""What Markdown may obey: an underscore only at the edge of a word, signs of headings and lists only at the start of a line."""


def plain(text: str, limit: int = MAX_SHOWN) -> str:
    r"""Text as one printable line of at most about `limit` characters; what is not printable is spelled, as \x1b.

    Control characters, bidirectional and invisible format marks (Unicode Cc, Cf), separators of lines (Zl, Zp), private and
    unpaired code points are not printable (`str.isprintable`).
    """
    half = limit // 2
    short = text if len(text) <= limit else f"{text[:half]} ... {text[len(text) - half :]}"
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in short)


def markdown(text: str, limit: int = MAX_SHOWN) -> str:
    """Text as one line of Markdown that shows exactly these characters: no tag, link, emphasis or table cell."""
    return _MARKUP.sub(r"\\\g<0>", plain(text.strip(), limit)).replace("&", "&amp;")
