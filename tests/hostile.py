"""Names that a browser, a Markdown reader, a spreadsheet or a terminal would act on."""

import unicodedata
from collections.abc import Collection
from html.parser import HTMLParser

from markdown_it import MarkdownIt

NAMES = [
    "<img src=x onerror=alert(1)>",
    "<script>alert(1)</script>",
    "</script></style></title><img src=x onerror=alert(1)>",
    '" onmouseover="alert(1)',
    "' onmouseover='alert(1)",
    "![x](http://evil.example/x.png)",
    "[a](javascript:alert(1))",
    "<http://evil.example/>",
    "`<b>` ![x](http://evil.example/x.png)",
    "``` ![x](http://evil.example/x.png)",
    "a\n```\n<img src=http://evil.example/x.png>",
    "a\n\n# b\n\n| c |\n|---|\n| ![x](http://evil.example/x.png) |",
    "a|b`|`![x](http://evil.example/x.png)",
    "\\",
    "\\`<img src=x onerror=alert(1)>",
    "&lt;script&gt;",
    "$\\frac{a}$",
    "{{ 7 * 7 }}{% raw %}",
    "=cmd|'/C calc'!A0",
    "+1+cmd|'/C calc'!A0",
    "-1+cmd|'/C calc'!A0",
    "@SUM(1+1)",
    "'=1+1",
    "\x1b]0;owned\x07name",
    "\x1b[2J\x9b31mname",
    "\u202egnp.exe",
]


_ADDRESSES = {"src", "srcset", "href", "xlink:href", "data", "poster", "action", "background"}


def rendered(markdown: str) -> str:
    """Return Markdown as HTML, by a reader that lets HTML through."""
    reader = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
    return str(reader.render(markdown))


def text_of(html: str, links: Collection[str] = ()) -> str:
    """Return the text of a page, after a check that it does nothing and loads nothing.

    A page may have the script and the links within itself that a harmless one has, and links
    to the addresses in `links`.
    """
    page = _read(html)
    assert page.tags.count("script") <= 1
    assert not {"iframe", "object", "embed", "form", "base", "link"} & set(page.tags)
    for name, value in page.attributes:
        assert not name.startswith("on"), (name, value)
        if name == "href" and value in links:
            continue
        elsewhere = ":" in value or value.startswith("//")
        assert name not in _ADDRESSES or value.startswith("#") or not elsewhere, (name, value)
    assert not controls_in(page.text)
    return page.text


def tags_of(html: str) -> list[str]:
    """Return the tags of a page, in order."""
    return _read(html).tags


def controls_in(text: str) -> list[str]:
    """Return the characters that a terminal obeys, or that turn the direction of text."""
    turns = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
    return [
        character
        for character in text
        if (unicodedata.category(character) == "Cc" and character not in "\n\t")
        or unicodedata.bidirectional(character) in turns
    ]


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        self.text += data


def _read(html: str) -> _Page:
    page = _Page()
    page.feed(html)
    page.close()
    return page
