"""Pictures: any name can be drawn, and each group has a file of its own."""

import matplotlib as mpl
import pytest

from bitplane.benchmarks.report import picture_names
from bitplane.benchmarks.report.plot import draw, has_plot
from bitplane.benchmarks.results import Conditions, Estimate, Group, Machine, Row, Stream


def group(name, engine="bitplane", network="resnet20 ternary/2", top1=0.9):
    stream = Stream(Estimate(0.1, 0.1, 0.1), 0.1, 0.1, 1, 1)
    row = Row(network, engine, 1, "ternary", 2, "m.onnx", 1000, stream=stream, top1=top1)
    machine = Machine("cpu", [], 1, 1.0, "", "", "")
    return Group(name, "2026-01-01", "d", "", machine, Conditions(True, 0, None, None, []), {}, [row])


@pytest.mark.filterwarnings("ignore:Glyph:UserWarning")
@pytest.mark.parametrize("name", ["plain", r"$\frac{1}{0$", "$", "_hidden", "\x1b[2J‮", "a" * 5000, ""])
def test_any_name_can_be_drawn(name):
    image = draw(group(name, engine=name or "other", network=f"resnet20 {name}"))
    assert image.startswith(b"\x89PNG")
    assert mpl.get_backend().lower() == "agg"


def test_an_engine_that_is_no_row_of_the_table_is_drawn():
    assert draw(group("g", engine="an engine of last year")).startswith(b"\x89PNG")


def test_a_group_without_accuracies_has_no_picture():
    assert has_plot(group("g"))
    assert not has_plot(group("g", top1=None))


def test_every_group_has_a_picture_of_its_own():
    names = ["A group", "a-group", "ä", "!", "../../etc/passwd", "x" * 500]
    found = picture_names(names)
    assert list(found) == names
    assert len(set(found.values())) == len(names)
    assert found["A group"] == "a-group.png"
    assert all("/" not in name and name.endswith(".png") and 5 <= len(name) < 100 for name in found.values())
