"""JSON and TOML of strangers: a value of the type that was asked for, or one line that names the file and the place in it."""

import json
import math
import os
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitplane.documents import MAX_DOCUMENT, Kind, read_json, read_toml
from bitplane.errors import BitplaneError


class OddError(BitplaneError):
    pass


@dataclass
class Part:
    name: str
    values: list[float] = field(default_factory=list)


@dataclass
class Whole:
    part: Part
    count: int = 0


KIND = Kind("a test", "write another", OddError)


@pytest.fixture
def refusal(tmp_path):
    def run(text, form=Whole, read=read_json):
        path = tmp_path / "file"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        with pytest.raises(OddError) as error:
            read(path, form, KIND)
        assert str(error.value).startswith(f"{path}: ")
        assert str(error.value).endswith("; write another")
        assert "\n" not in str(error.value)
        return str(error.value)

    return run


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[" * 100_000, "nested too deeply"),
        ('{"a":' * 100_000, "nested too deeply"),
        ('{"part": {"name": "x", "name": "y"}}', "`name` is there twice"),
        ('{"part": {"name": "x", "values": [NaN]}}', r"nan is no finite number - at `$.part.values[0]`"),
        ('{"part": {"name": "x", "values": [1e999]}}', r"inf is no finite number - at `$.part.values[0]`"),
        ('{"part": {"name": "x"}, "count": 1' + "0" * 5000 + "}", "limit"),
        ('{"part": {"name": "x"}, "count": 1.5}', "expected `int`, got `float` - at `$.count`"),
        ('{"part": {"name": "x"}, "count": true}', "expected `int`, got `bool` - at `$.count`"),
        ('{"part": {"name": "\\ud800"}}', "surrogates not allowed"),
        ('{"part": []}', "expected `object`, got `array` - at `$.part`"),
        ("{}", "missing required field `part`"),
        ("null", "expected `object`, got `null`"),
        ("", "expecting value"),
        (b"\xff\xfe", "utf-8"),
        (b"\xef\xbb\xbf{}", "BOM"),
    ],
    ids=lambda v: str(v)[:30],
)
def test_json_that_is_not_of_its_type_is_refused_where_it_is(refusal, text, words):
    assert words in refusal(text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a=" + "[" * 50_000, "nested too deeply"),
        ('count = 1\ncount = 2\n[part]\nname = "x"', "overwrite"),
        ('count = nan\n[part]\nname = "x"', "nan is no finite number - at `$.count`"),
        ('[part]\nname = "x"\nvalues = [1, -inf]', "-inf is no finite number - at `$.part.values[1]`"),
        ("part = 1979-05-27", "got `date`"),
        ('[part]\nname = "\\ud800"', "unicode scalar"),
    ],
    ids=lambda v: str(v)[:30],
)
def test_toml_that_is_not_of_its_type_is_refused_where_it_is(refusal, text, words):
    assert words.lower() in refusal(text, read=read_toml).lower()


def test_what_is_no_file_of_a_document_is_refused(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("nowhere")
    (tmp_path / "large").touch()
    os.truncate(tmp_path / "large", MAX_DOCUMENT + 1)
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")  # nobody writes: opening it must not wait
    for path in [*tmp_path.iterdir(), tmp_path / "absent", tmp_path / "nul\0"]:
        with pytest.raises(OddError, match=r"cannot be read|regular file|at most 67108864 are read"):
            read_json(path, Whole, KIND)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(value=JSON)
def test_any_json_value_is_read_as_python_reads_it(value, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "value.json"
    path.write_text(json.dumps(value))
    assert read_json(path, object, KIND) == json.loads(path.read_text())


@given(value=JSON)
def test_any_json_value_is_of_the_type_or_refused(value, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "typed.json"
    path.write_text(json.dumps(value))
    try:
        found = read_json(path, dict[str, float], KIND)
    except OddError:
        assert not (isinstance(value, dict) and all(type(v) is float for v in value.values()))
    else:
        assert found == value
        assert all(isinstance(v, float) and math.isfinite(v) for v in found.values())
