"""Text from outside: whatever it holds, a terminal and a page show characters and obey none."""

import re
import unicodedata
from html import unescape

from hypothesis import example, given
from hypothesis import strategies as st

from bitplane.format.text import MAX_SHOWN, markdown, plain

NASTY = "\x1b]0;PWNED\x07\x1b[2J\nFAKE LINE\r\u202egnirts\u2066\u200b\u2028\u2029\x85\x9b31m\ud800\ue000\u00ad\ufeff"
OBEYED = {"Cc", "Cf", "Zl", "Zp", "Co", "Cs", "Cn"}
"""Unicode categories of characters that do something, or nothing visible."""

anything = st.text(max_size=60) | st.text("\x1b\n\r\u202e<>|`*_[]()!#\\&~$-+= ab1", max_size=60)


@given(anything)
@example(NASTY)
def test_shown_text_is_one_line_without_anything_to_obey(text):
    shown = plain(text)
    assert not {unicodedata.category(c) for c in shown} & OBEYED
    assert len(shown.splitlines()) <= 1


@given(st.text(st.characters(categories=("L", "N", "P", "S")), max_size=60))
def test_printable_text_is_shown_as_it_is(text):
    assert plain(text) == text


@given(st.text(min_size=MAX_SHOWN + 1, max_size=MAX_SHOWN + 50))
def test_long_text_is_cut_in_the_middle(text):
    limit = 100
    assert len(plain(text, limit)) <= 10 * (limit + 5)  # one character is spelled by ten at most
    ascii_text = "a" * len(text) + "b"
    assert plain(ascii_text, limit) == "a" * 50 + " ... " + "a" * 49 + "b"


def unescaped(shown: str) -> str:
    """What a Markdown reader shows of text without active markup (CommonMark 2.4, 2.5)."""
    return unescape(re.sub(r"\\([!-/:-@\[-`{-~])", r"\1", shown))


@given(anything)
@example("<script>alert(1)</script> | **bold** _it_ `code` [a](b) &amp; snake_case ~~no~~ $x$")
@example("# heading")
@example("- list")
def test_markdown_shows_the_same_characters(text):
    assert unescaped(markdown(text)) == plain(text.strip())


@given(anything)
def test_markdown_has_no_active_character(text):
    active = re.sub(r"\\.", "x", markdown(text))
    assert not re.search(r"[<>|`*\[\]~$]", active)
    assert not re.search(r"&(?!amp;)", active)
    assert not re.match(r"[#=+-]", active)
    assert not re.search(r"(?<!\w)_|_(?!\w)", active)
