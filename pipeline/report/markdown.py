"""Text of users in Markdown, shown as it is whatever it has: no markup, no links, no images."""

import re

from pipeline.errors import printable


def escaped(text: str) -> str:
    """Return text that Markdown shows as it is, in one line."""
    return re.sub(r"([\\|*_`~$\[\]<>&])", r"\\\1", _line(text))


def code_span(text: str, *, cell: bool = False) -> str:
    """Return text as code in a line, or in a cell of a table; '' for blank text."""
    line = _line(text)
    if not line:
        return ""
    marks = _longer_than_in(line, 0)
    inner = f" {line} " if "`" in (line[0], line[-1]) else line
    span = f"{marks}{inner}{marks}"
    return span.replace("|", "\\|") if cell else span


def code_block(text: str, language: str = "") -> str:
    """Return lines of text as a block of code."""
    marks = _longer_than_in(text, 2)
    return f"{marks}{language}\n{printable(text)}\n{marks}"


def _line(text: str) -> str:
    return printable(" ".join(text.split()))


def _longer_than_in(text: str, least: int) -> str:
    """Return more backticks than follow each other in a text, and more than `least`."""
    return "`" * (1 + max([least, *map(len, re.findall("`+", text))]))
