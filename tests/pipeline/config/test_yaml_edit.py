import io
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from pipeline.config.yaml_edit import assign, one_line, parse, write


def load(text: str) -> Any:
    return YAML(typ="safe", pure=True).load(text)


def edited(text: str, path: str, new: str) -> str:
    """The text with one value set; setting it once more must change nothing."""
    document = parse(text)
    assign(document, tuple(path.split(".")), parse(f"value: {new}")["value"])
    result = write(document)
    again = parse(result)
    assign(again, tuple(path.split(".")), parse(f"value: {new}")["value"])
    assert write(again) == result
    return result


@pytest.mark.parametrize(
    ("before", "new", "after"),
    [
        # An end comment keeps its column while there is room.
        ("a: 10   # why\n", "2", "a: 2    # why\n"),
        ("a: 10   # why\n", "200", "a: 200  # why\n"),
        ("a: 10   # why\n", "20000", "a: 20000 # why\n"),
        ("a: 10   # why\n", "[x, y]", "a: [x, y] # why\n"),
        ("a:      # why\n", "2", "a: 2    # why\n"),
        ("a: 1    # why\n", "null", "a: null # why\n"),
        # Lists and mappings, of one line or several.
        ("a: [1, 2]  # why\n\n# of b\nb: 1\n", "[]", "a: []      # why\n\n# of b\nb: 1\n"),
        ("a: [1, 2]  # why\n\n# of b\nb: 1\n", "z", "a: z       # why\n\n# of b\nb: 1\n"),
        ("a:\n- 1\n- 2\n\n# of b\nb: 1\n", "[3]", "a: [3]\n\n# of b\nb: 1\n"),
        ("a:  # why\n  c: 1\n  d: 2  # no more\n\nb: 1\n", "null", "a: null # why\n\nb: 1\n"),
        ("a: {c: 1}  # why\n", "{d: 2}", "a: {d: 2}  # why\n"),
        ("a: {}  # why\n\n# of b\nb: 1\n", "{d: 2}", "a: {d: 2} # why\n\n# of b\nb: 1\n"),
        # A mapping is changed in place: its comments stay, and those after it.
        (
            "a:\n  c: 1  # one\n  d: 2  # two\n\n# of b\nb: 1\n",
            "{c: 3}",
            "a:\n  c: 3  # one\n\n# of b\nb: 1\n",
        ),
        (
            "a:\n  c: 1  # one\n\n# of b\nb: 1\n",
            "{c: 1, d: [2]}",
            "a:\n  c: 1  # one\n  d: [2]\n\n# of b\nb: 1\n",
        ),
        # A new key comes last.
        ("b: 1\n\n# end\n", "2", "b: 1\na: 2\n\n# end\n"),
        ("b: 1  # why\n", "2", "b: 1  # why\na: 2\n"),
        ("{b: 1}\n", "2", "{b: 1, a: 2}\n"),
    ],
)
def test_only_the_value_changes(before: str, new: str, after: str) -> None:
    assert edited(before, "a", new) == after


def test_missing_sections_are_added() -> None:
    assert edited("m:\n  n:\n    a: 1\nd: 2\n", "m.n.b", "3") == (
        "m:\n  n:\n    a: 1\n    b: 3\nd: 2\n"
    )
    assert edited("d: 2\n", "m.n.b", "3") == "d: 2\nm: {n: {b: 3}}\n"
    assert edited("m: null  # why\n", "m.b", "3") == "m: {b: 3} # why\n"


@pytest.mark.parametrize("text", ["1.0e-4", "1e-4", "0.0001"])
def test_an_equal_value_keeps_its_spelling(text: str) -> None:
    assert edited(f"a: {text}\n", "a", "1.00e-4") == f"a: {text}\n"


@pytest.mark.parametrize(("old", "new"), [("1", "true"), ("1", "1.0"), ("[1]", "[true]")])
def test_what_python_calls_equal_is_different(old: str, new: str) -> None:
    assert edited(f"a: {old}\n", "a", new) == f"a: {new}\n"


def test_what_does_not_change_keeps_its_style() -> None:
    text = "a: 1\nb: 'x'  # b\nc: \"y # z\"\nd: null\ne: {f: [1,  2]}\ng: 1.00e-5\n\n# end\n"
    assert edited(text, "a", "2") == text.replace("a: 1", "a: 2").replace("1,  2", "1, 2")


@pytest.mark.parametrize("text", ["[a, b]", "{c: [1, null]}", "'3'", "1.0e-5", '"a, b"'])
def test_a_value_is_shown_in_one_line_in_its_own_style(text: str) -> None:
    assert one_line(parse(f"value: {text}")["value"]) == text


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-9, 9)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]) | st.just(" ")),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abcd"), inner),
    max_leaves=6,
)


@given(
    st.dictionaries(st.sampled_from("abcdm"), VALUES, min_size=1),
    st.dictionaries(st.sampled_from("abcde"), VALUES),
    st.sampled_from([None, True, False]),
)
@settings(max_examples=40, deadline=None, derandomize=True)
def test_a_document_in_any_style_comes_to_hold_the_new_values(
    values: dict[str, Any], changes: dict[str, Any], flow: bool | None
) -> None:
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = flow
    stream = io.StringIO()
    yaml.dump(values, stream)
    document = parse(stream.getvalue())
    for name, new in changes.items():
        assign(document, (name,), parse(f"value: {json.dumps(new, ensure_ascii=False)}")["value"])
    expected = {**values, **changes}
    found = json.dumps(load(write(document)), sort_keys=True)
    assert found == json.dumps(expected, sort_keys=True)
