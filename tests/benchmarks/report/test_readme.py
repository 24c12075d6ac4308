"""Every figure of the README and of the examples' page comes from the committed study."""

import re
from pathlib import Path

import pytest

from bitplane.benchmarks.errors import StudyError
from bitplane.benchmarks.report.markdown import markdown
from bitplane.benchmarks.report.readme import refresh
from bitplane.benchmarks.results import read_study

ROOT = Path(__file__).resolve().parents[3]
STUDY = ROOT / "docs" / "study" / "study.json"


@pytest.mark.parametrize("page", ["README.md", "examples/README.md"])
def test_the_tables_of_a_page_are_those_of_the_study(page):
    text = (ROOT / page).read_text()
    assert "<!-- end -->" in text
    assert refresh(text, read_study(STUDY)) == text


def test_the_readme_has_no_figure_beside_them():
    text = re.sub(
        r"<!-- (study|front|layers|networks): .+? -->.*?<!-- end -->", "", (ROOT / "README.md").read_text(), flags=re.DOTALL
    )
    text = re.sub(r"^ {4}.*$", "", text, flags=re.MULTILINE)  # commands
    assert re.findall(r"\d[\d.,]*\s*(?:%|ms\b|us\b|MB\b|x faster|times)", text) == []


def test_the_studys_page_is_generated_from_its_json():
    study, page = read_study(STUDY), (STUDY.parent / "study.md").read_text()
    pictures = re.findall(r"!\[(.+?)\]\((.+?)\)", page)
    assert pictures
    assert all((STUDY.parent / file).is_file() for _, file in pictures)
    assert markdown(study, dict(pictures)) == page


def test_every_example_is_in_the_study_with_its_size_and_accuracy():
    (g,) = [g for g in read_study(STUDY).groups if g.name == "ResNet-20 on CIFAR-10"]
    known = {r.file: r for r in g.rows if r.engine == "bitplane" and r.threads == 1}
    files = sorted((ROOT / "examples").glob("*[1248].onnx"))
    assert [f.name for f in files] == sorted(known)
    for f in files:
        assert f.stat().st_size == known[f.name].bytes
        assert known[f.name].images == 10_000


def test_a_group_that_is_not_in_the_study_is_refused():
    with pytest.raises(StudyError, match="no group of the study is called 'x'; there are "):
        refresh("<!-- study: x -->\n<!-- end -->", read_study(STUDY))
