"""Encode examples as rows of token ids with slots for prompt vectors."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import cycle, islice

from pipeline.errors import TemplateError
from pipeline.models.tokenizer import PieceTokenizer
from pipeline.prompts.template import Field, Mask, PromptTokens, Template, Text

NO_SLOT = -1


@dataclass(frozen=True)
class Row:
    """One example in the model's terms.

    Attributes:
        token_ids: one for each position; at a prompt token, the padding id.
        slots: for each position the index of its prompt token, or -1.
        answer_position: where the answer is read, or its first token.
        answer_ids: tokens of an answer that is written out; those after the first are read at the
            positions that follow. Empty if several words are scored at one position.
    """

    token_ids: tuple[int, ...]
    slots: tuple[int, ...]
    answer_position: int
    answer_ids: tuple[int, ...] = ()

    @property
    def rows(self) -> "tuple[Row, ...]":
        """The row itself, as for an example of several."""
        return (self,)


@dataclass(frozen=True)
class MultipleChoice:
    """One example whose answers are written out, with one row for each answer.

    Attributes:
        rows: one or more.
    """

    rows: tuple[Row, ...]


# One example as a model reads it.
EncodedExample = Row | MultipleChoice


def nearest_words(template: Template, codec: PieceTokenizer) -> list[int]:
    """Tokens of the template's own text, one for each of its prompt tokens.

    Prompt tokens in one place get the text with a letter or digit that is fewest parts of the
    template away; of two, the text that follows. If they are more than its tokens, these repeat.

    Raises:
        TemplateError: the template has prompt tokens, but no such text.
    """
    texts = {
        place: [
            token
            for piece in codec.split_special(part.text)
            if isinstance(piece, str)
            for token in codec.encode_segment(piece, start=False)
        ]
        for place, part in enumerate(template.parts)
        if isinstance(part, Text) and any(map(str.isalnum, part.text))
    }
    words: list[int] = []
    for place, part in enumerate(template.parts):
        if not isinstance(part, PromptTokens):
            continue
        if not texts:
            raise TemplateError(
                f"template {template.source!r}: no words for prompt.start: manual; write some next "
                "to [P], or choose start: words"
            )
        text = texts[min(texts, key=lambda other: (abs(other - place), other < place))]
        words += islice(cycle(text), part.count)
    return words


def build_row(
    template: Template,
    values: Mapping[str, str],
    codec: PieceTokenizer,
    *,
    masked: bool,
    max_length: int,
    answer: str | None = None,
    whole: bool = False,
) -> Row:
    """Put an example into a template.

    A masked model reads the answer at the mask. A causal model reads it at the position before
    the mask; the part of the template after the mask is omitted.

    Args:
        template: a parsed template.
        values: the text of each field; white space around it is dropped.
        codec: the model's tokenizer.
        masked: whether the model is a masked one.
        max_length: maximum length, special tokens and prompt tokens included. Fields that the
            template marks are truncated at the end, the longest field first.
        answer: an answer of one or more tokens that is written out: a masked model gets one mask
            for each token, a causal one the answer itself. None scores words at one position.
        whole: whether a classifier reads the row as a whole. An answer then replaces the mask as
            text, and the classifier reads the first position of a masked model, or the last
            position of a causal one.

    Raises:
        TemplateError: the row is too long and nothing may be cut, or a causal model has nothing
            in front of the mask.
    """
    if masked and not whole and codec.mask_id is None:
        raise TemplateError("the tokenizer of this masked model has no mask token")
    used = [part.name for part in template.parts if isinstance(part, Field)]
    values = {name: values[name].strip() for name in used}

    def build() -> Row:
        return _build(template, values, codec, masked=masked, answer=answer, whole=whole)

    row = build()
    while len(row.token_ids) > max_length:
        _shorten(template, values, codec, len(row.token_ids) - max_length, max_length)
        row = build()
    return row


def _build(
    template: Template,
    values: Mapping[str, str],
    codec: PieceTokenizer,
    *,
    masked: bool,
    answer: str | None,
    whole: bool,
) -> Row:
    ids = list(codec.prefix)
    slots = [NO_SLOT] * len(ids)
    start = len(ids)
    text = ""
    at = -1
    answer_ids: list[int] = []
    next_slot = 0

    def flush() -> None:
        nonlocal text
        segment = codec.encode_segment(text, start=len(ids) == start)
        ids.extend(segment)
        slots.extend([NO_SLOT] * len(segment))
        text = ""

    for part in template.parts:
        match part:
            case Text():
                for piece in codec.split_special(part.text):
                    if isinstance(piece, str):
                        text += piece
                    else:
                        flush()
                        ids.append(piece)
                        slots.append(NO_SLOT)
            case Field():
                text += values[part.name]
            case PromptTokens():
                flush()
                ids.extend([codec.pad_id] * part.count)
                slots.extend(range(next_slot, next_slot + part.count))
                next_slot += part.count
            case Mask() if whole:
                text += answer or ""
            case Mask():
                space = text.endswith(" ")
                flush()
                if answer is not None:
                    spaced = f" {answer.strip()}" if space else answer.strip()
                    answer_ids = codec.encode_segment(spaced, start=len(ids) == start)
                    if not answer_ids:
                        raise TemplateError(
                            f"the answer {answer!r} has no token of this model; change it"
                        )
                if not masked:
                    at = len(ids) - 1
                    ids.extend(answer_ids[:-1])
                    slots.extend([NO_SLOT] * len(answer_ids[:-1]))
                    break
                at = len(ids)
                count = 1 if answer is None else len(answer_ids)
                ids.extend([codec.mask_id or 0] * count)
                slots.extend([NO_SLOT] * count)
    if masked or whole:
        text = text.rstrip()
        flush()
    if masked:
        ids.extend(codec.suffix)
        slots.extend([NO_SLOT] * len(codec.suffix))
    if whole:
        at = 0 if masked else len(ids) - 1
    if at < 0:
        raise TemplateError(
            f"template {template.source!r}: nothing precedes {{mask}}, where a causal "
            "model reads the answer; put words or [P] there"
        )
    return Row(tuple(ids), tuple(slots), at, tuple(answer_ids))


def _shorten(
    template: Template, values: dict[str, str], codec: PieceTokenizer, excess: int, max_length: int
) -> None:
    """Remove `excess` tokens, or one word if that is more, from the end of the longest field."""
    lengths = {
        part.name: len(codec.encode_segment(values[part.name], start=True))
        for part in template.parts
        if isinstance(part, Field) and part.shorten
    }
    longest = max(lengths, key=lambda name: lengths[name], default=None)
    if longest is None or lengths[longest] == 0:
        raise TemplateError(
            f"template {template.source!r}: {excess} tokens more than {max_length} and nothing to "
            "cut; mark a field with {name:shorten}, or raise max_length"
        )
    text = values[longest]
    shorter = codec.truncate(text, max(0, lengths[longest] - excess))
    values[longest] = shorter if len(shorter) < len(text) else text[:-1].rstrip()
