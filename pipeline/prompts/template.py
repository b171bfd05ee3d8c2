"""The template language: text with slots, for every benchmark and method.

    {subject} is located in [P*3] {mask} .
    {premise:shorten} Question: {hypothesis}? [P] Answer: {mask}.

`{name}` is a field, `{name:shorten}` one that may be cut to fit the length, `{mask}` the place of
the answer, `[P]` or `[P*3]` prompt tokens; `{{` and `}}` are braces. `[SEP]` is the separator of a
masked model, whatever its name (`</s>` of RoBERTa), and nothing for a causal model.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass

from pipeline.errors import TemplateError

# Of one `[P*n]`; the paper has 3 to 12 in a template.
_MOST_PROMPT_TOKENS = 10_000

_TOKEN = re.compile(
    r"(?P<brace>\{\{|\}\})"
    r"|\{(?P<field>[A-Za-z_]\w*)(?P<shorten>:shorten)?\}"
    r"|\[P(?:\*(?P<count>\d+))?\]"
    r"|(?P<stray>[{}]|\[P\b|\[[XY]\])"
)


@dataclass(frozen=True)
class Text:
    """Text that every example has."""

    text: str


@dataclass(frozen=True)
class Field:
    """A place for a field of the example."""

    name: str
    shorten: bool


@dataclass(frozen=True)
class PromptTokens:
    """A number of trained vectors."""

    count: int


@dataclass(frozen=True)
class Mask:
    """The place of the answer."""


Part = Text | Field | PromptTokens | Mask


@dataclass(frozen=True)
class Template:
    """A parsed template.

    Attributes:
        source: the text that was parsed.
        parts: in reading order; neighbouring texts are joined.
    """

    source: str
    parts: tuple[Part, ...]

    @property
    def prompt_tokens(self) -> int:
        """Number of prompt tokens."""
        return sum(part.count for part in self.parts if isinstance(part, PromptTokens))

    @property
    def space_before_mask(self) -> bool:
        """Whether the text before the mask ends with a space: the answer is then a new word."""
        if Mask() not in self.parts:
            return False
        before = self.parts[self.parts.index(Mask()) - 1] if self.parts[0] != Mask() else None
        return isinstance(before, Text) and before.text.endswith(" ")


def parse_template(
    source: str, fields: Collection[str], *, masks: Collection[int] = (1,)
) -> Template:
    """Parse a template.

    Args:
        source: text in the template language.
        fields: names of the fields that an example has.
        masks: how many masks there may be; a classifier needs none.

    Raises:
        TemplateError: another number of masks, an unknown field, no or too many prompt tokens in
            `[P*n]`, a brace without its partner, or LAMA's `[X]` and `[Y]`.
    """
    parts: list[Part] = []
    text = ""
    end = 0
    for match in _TOKEN.finditer(source):
        text += source[end : match.start()]
        end = match.end()
        if match["brace"]:
            text += match["brace"][0]
            continue
        if match["stray"]:
            if match["stray"] in ("[X]", "[Y]"):
                raise TemplateError(
                    f"template {source!r}: {match['stray']} is LAMA's notation; write {{subject}} "
                    "for [X], {mask} for [Y]"
                )
            raise TemplateError(
                f"template {source!r}: '{match['stray']}' at character {match.start() + 1} opens "
                "or closes nothing; write {field}, {field:shorten}, {mask}, [P] or [P*3], and {{ "
                "or }} for a brace itself"
            )
        if text:
            parts.append(Text(text))
            text = ""
        parts.append(_slot(match, source, fields))
    text += source[end:]
    if text:
        parts.append(Text(text))
    count = parts.count(Mask())
    if count not in masks:
        wanted = "write {mask} once, for the answer" if 1 in masks else "remove {mask}"
        raise TemplateError(f"template {source!r}: {count} masks; {wanted}")
    return Template(source, tuple(parts))


def _slot(match: re.Match[str], source: str, fields: Collection[str]) -> Part:
    name = match["field"]
    if name is None:
        digits = match["count"] or "1"
        count = int(digits[:9])
        if count == 0:
            raise TemplateError(f"template {source!r}: {match[0]} has no prompt tokens; write [P]")
        if count > _MOST_PROMPT_TOKENS:
            raise TemplateError(
                f"template {source[:200]!r}: {match[0][:40]} are more than {_MOST_PROMPT_TOKENS} "
                "prompt tokens; write fewer"
            )
        return PromptTokens(count)
    if name == "mask" and not match["shorten"]:
        return Mask()
    if name not in fields:
        raise TemplateError(
            f"template {source!r}: unknown field {match[0]}; this task has "
            + ", ".join(f"{{{field}}}" for field in fields)
        )
    return Field(name, shorten=bool(match["shorten"]))
