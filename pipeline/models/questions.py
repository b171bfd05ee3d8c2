"""From examples to what a model is asked: rows, allowed words, and which of them is right."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.errors import TemplateError
from pipeline.models.answers import AnswerModel
from pipeline.models.codec import Codec
from pipeline.models.rows import Row, build_row
from pipeline.prompts.template import Template


@dataclass(frozen=True)
class Questions:
    """Rows with their allowed answers.

    Attributes:
        rows: one for each example that is asked.
        targets: (rows,) int64, the right answer's position in `words`.
        words: the allowed words.
        word_ids: (words,) int64, their tokens.
        asked: for each row, its example's position in the input: examples whose answer is not
            one token of the model are left out.
    """

    rows: list[Row]
    targets: Tensor
    words: list[str]
    word_ids: Tensor
    asked: list[int]


def build_questions(
    model: AnswerModel,
    template: Template,
    examples: Sequence[tuple[Mapping[str, str], str]],
    words: Sequence[str],
    *,
    max_length: int | None = None,
) -> Questions:
    """Put examples into a template and look up the allowed words.

    Args:
        model: who is asked.
        template: as parsed.
        examples: the fields and the right word of each.
        words: the allowed words; those that are not one token of the model are left out, and of
            words that are the same token all but the first.
        max_length: most positions of a row; None: what the model has.

    Raises:
        TemplateError: a row cannot be built (see `build_row`).
    """
    index: dict[int, int] = {}
    allowed: list[str] = []
    position: dict[str, int] = {}
    for word in words:
        token = model.codec.word(word, space_before=template.space_before_mask)
        if token is None:
            continue
        if token not in index:
            index[token] = len(allowed)
            allowed.append(word)
        position[word] = index[token]
    asked = [i for i, (_, word) in enumerate(examples) if word in position]
    limit = model.max_length if max_length is None else min(max_length, model.max_length)
    return Questions(
        rows=[
            build_row(template, examples[i][0], model.codec, masked=model.masked, max_length=limit)
            for i in asked
        ],
        targets=torch.tensor([position[examples[i][1]] for i in asked], dtype=torch.int64),
        words=allowed,
        word_ids=torch.tensor(list(index), dtype=torch.int64),
        asked=asked,
    )


def check_verbalizer(codec: Codec, template: Template, verbalizer: Mapping[str, str]) -> None:
    """Check that each label has a word of one token of its own.

    Raises:
        TemplateError: a word is several tokens, or two labels share a token.
    """
    labels: dict[int, str] = {}
    for label, word in verbalizer.items():
        token = codec.word(word, space_before=template.space_before_mask)
        if token is None:
            count = codec.word_tokens(word, space_before=template.space_before_mask)
            state = "unknown to this model" if count == 1 else f"{count} tokens of this model"
            raise TemplateError(
                f"verbalizer: the word {word!r} of label '{label}' is {state}; choose a word that "
                "is one token"
            )
        if token in labels:
            raise TemplateError(
                f"verbalizer: labels '{labels[token]}' and '{label}' have the same word {word!r} "
                "for this model; choose two words"
            )
        labels[token] = label
