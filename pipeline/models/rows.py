"""From examples to rows of token ids with places for prompt vectors, and to padded batches."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.errors import TemplateError
from pipeline.models.codec import Codec
from pipeline.prompts.template import Field, Mask, PromptTokens, Template, Text

NO_SLOT = -1


@dataclass(frozen=True)
class Row:
    """One example in the model's terms.

    Attributes:
        token_ids: one for each position; at a prompt token, the padding id.
        slots: for each position the prompt token that stands there, counted from 0, or -1.
        answer_position: where the answer is read.
    """

    token_ids: tuple[int, ...]
    slots: tuple[int, ...]
    answer_position: int


@dataclass(frozen=True)
class Batch:
    """Rows of one pass, filled on the right.

    Attributes:
        token_ids: (rows, length) int64.
        slots: (rows, length) int64, as in `Row`.
        attention_mask: (rows, length) int64, 1 at the row's own positions.
        answer_positions: (rows,) int64.
        prompts: (rows,) int64, which prompt of the bank's output a row uses.
    """

    token_ids: Tensor
    slots: Tensor
    attention_mask: Tensor
    answer_positions: Tensor
    prompts: Tensor


def build_row(
    template: Template,
    values: Mapping[str, str],
    codec: Codec,
    *,
    masked: bool,
    max_length: int,
) -> Row:
    """Put an example into a template.

    A masked model reads the answer at the mask. A causal model reads it at the position before
    the mask; what the template has behind the mask is left out.

    Args:
        template: a parsed template.
        values: the text of each field; white space around it is dropped.
        codec: the model's tokenizer.
        masked: whether the model is a masked one.
        max_length: most positions of a row, special tokens and prompt tokens included. Fields
            that the template marks are cut from their end, the longest first.

    Raises:
        TemplateError: the row is too long and nothing may be cut, or a causal model has nothing
            in front of the mask.
    """
    if masked and codec.mask_id is None:
        raise TemplateError("the tokenizer of this masked model has no mask token")
    used = [part.name for part in template.parts if isinstance(part, Field)]
    values = {name: values[name].strip() for name in used}
    row = _build(template, values, codec, masked=masked)
    while len(row.token_ids) > max_length:
        _shorten(template, values, codec, len(row.token_ids) - max_length, max_length)
        row = _build(template, values, codec, masked=masked)
    return row


def collate(
    rows: Sequence[Row], prompts: Sequence[int], *, pad_id: int, device: torch.device
) -> Batch:
    """Fill rows to the longest and move them to the device.

    Args:
        rows: one or more.
        prompts: for each row, its prompt's position in the bank's output.
        pad_id: fills token ids.
        device: of the result.
    """
    length = max(len(row.token_ids) for row in rows)

    def filled(values: Sequence[Sequence[int]], filling: int) -> Tensor:
        table = [[*value, *[filling] * (length - len(value))] for value in values]
        return torch.tensor(table, dtype=torch.int64).to(device)

    return Batch(
        token_ids=filled([row.token_ids for row in rows], pad_id),
        slots=filled([row.slots for row in rows], NO_SLOT),
        attention_mask=filled([[1] * len(row.token_ids) for row in rows], 0),
        answer_positions=torch.tensor([row.answer_position for row in rows]).to(device),
        prompts=torch.tensor(prompts).to(device),
    )


def _build(template: Template, values: Mapping[str, str], codec: Codec, *, masked: bool) -> Row:
    ids = list(codec.prefix)
    slots = [NO_SLOT] * len(ids)
    start = len(ids)
    text = ""
    answer = -1
    next_slot = 0

    def flush() -> None:
        nonlocal text
        segment = codec.segment(text, start=len(ids) == start)
        ids.extend(segment)
        slots.extend([NO_SLOT] * len(segment))
        text = ""

    for part in template.parts:
        match part:
            case Text():
                text += part.text
            case Field():
                text += values[part.name]
            case PromptTokens():
                flush()
                ids.extend([codec.pad_id] * part.count)
                slots.extend(range(next_slot, next_slot + part.count))
                next_slot += part.count
            case Mask():
                flush()
                if not masked:
                    answer = len(ids) - 1
                    break
                answer = len(ids)
                ids.append(codec.mask_id or 0)
                slots.append(NO_SLOT)
    if answer < 0:
        raise TemplateError(
            f"template {template.source!r}: nothing stands in front of {{mask}}, where a causal "
            "model reads the answer; put words or [P] there"
        )
    if masked:
        flush()
        ids.extend(codec.suffix)
        slots.extend([NO_SLOT] * len(codec.suffix))
    return Row(tuple(ids), tuple(slots), answer)


def _shorten(
    template: Template, values: dict[str, str], codec: Codec, excess: int, max_length: int
) -> None:
    """Cut so many tokens, or a word if it is more, from the end of the longest such field."""
    lengths = {
        part.name: len(codec.segment(values[part.name], start=True))
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
    shorter = codec.cut(text, max(0, lengths[longest] - excess))
    values[longest] = shorter if len(shorter) < len(text) else text[:-1].rstrip()
