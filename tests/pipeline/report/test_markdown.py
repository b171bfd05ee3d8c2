"""Text of users in Markdown, read again by a reader of Markdown."""

from html import unescape

import pytest

from pipeline.errors import printable
from pipeline.report.markdown import code_block, code_span, escaped
from tests.hostile import NAMES, rendered, text_of

each_name = pytest.mark.parametrize("name", NAMES)


@each_name
def test_text_is_shown_as_it_is(name: str) -> None:
    line = printable(" ".join(name.split()))
    assert text_of(rendered(f"# {escaped(name)}")) == f"{line}\n"
    assert text_of(rendered(f"| a |\n|---|\n| {escaped(name)} |")).split("\n")[-5:-4] == [line]


@each_name
def test_code_is_shown_as_it_is(name: str) -> None:
    line = printable(" ".join(name.split()))
    assert text_of(rendered(f"Model: {code_span(name)}.")) == f"Model: {line}.\n"
    table = rendered(f"| a |\n|---|\n| {code_span(name, cell=True)} |")
    assert f"<code>{line}</code>" in unescape(table)
    assert line in text_of(table)


@each_name
def test_a_block_of_code_ends_where_it_should(name: str) -> None:
    page = text_of(rendered(f"{code_block(f'a: {name}', 'text')}\n\nafter"))
    assert page == f"a: {printable(name)}\n\nafter\n"


def test_plain_code_has_one_mark() -> None:
    assert code_span("a b") == "`a b`"
    assert code_span("") == ""
    assert code_block("a\nb", "python") == "```python\na\nb\n```"
