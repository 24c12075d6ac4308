"""Links and paths of the documentation: every tracked Markdown file points only to what the repository has."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FILES = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")[:-1]
PAGES = [f for f in FILES if f.endswith(".md")]
KNOWN = {*FILES, *(str(p) for f in FILES for p in Path(f).parents)}
ROOMS = {f.partition("/")[0] for f in FILES if "/" in f}
FENCE = re.compile(r"^```.*?^```|^ {4}.*?$", re.MULTILINE | re.DOTALL)


def anchors(text: str) -> set[str]:
    """The anchors that GitHub gives the headings of a page."""
    heads = re.findall(r"^#+ +(.+?) *$", FENCE.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", re.sub(r"\]\(.*?\)", "", h).lower()).replace(" ", "-") for h in heads}


def broken_links(page: str, text: str) -> list[str]:
    """Relative links that lead to no tracked file or folder, or to no heading of a page."""
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`]*`", "", FENCE.sub("", text))):
        file, _, anchor = target.partition("#")
        if re.match(r"[a-z]+:", target):
            continue
        path = (ROOT / page).parent.joinpath(file).resolve() if file else ROOT / page
        name = str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else target
        if name not in KNOWN or (anchor and anchor not in anchors(path.read_text() if file else text)):
            broken.append(target)
    return broken


def missing_paths(text: str) -> list[str]:
    """Code that looks like a path of the repository, from its root or (in a span) the end of one, and is none."""
    spans = [s for s in re.findall(r"`([^`\n]+)`", FENCE.sub("", text)) if re.fullmatch(r"[\w.-]+(/[\w.-]+)+/?", s)]
    paths = [s for s in spans if s.partition("/")[0] in ROOMS or s.endswith((".py", ".md", ".toml"))]
    words = " ".join(FENCE.findall(text)).split()
    paths += [w for w in words if w.partition("/")[0] in ROOMS and re.fullmatch(r"[\w/-]+\.(py|md|toml|png|onnx)", w)]
    return [p for p in paths if not any(f"/{known}".endswith("/" + p.rstrip("/")) for known in KNOWN)]


@pytest.mark.parametrize("page", PAGES)
def test_every_link_and_path_of_a_page_exists(page):
    text = (ROOT / page).read_text()
    assert {"links": broken_links(page, text), "paths": missing_paths(text)} == {"links": [], "paths": []}


def test_what_does_not_exist_is_found():
    text = "# A b, `c`\n[](#a-b-c) [](#z) [](docs/safety.md#found) [](docs/safety.md#lost) [](no.md)"
    text += "\n`runtime/no.py` `docs/safety.md`\n\n    python tests/none.py docs/safety.md\n"
    assert broken_links("README.md", text) == ["#z", "docs/safety.md#lost", "no.md"]
    assert missing_paths(text) == ["runtime/no.py", "tests/none.py"]
