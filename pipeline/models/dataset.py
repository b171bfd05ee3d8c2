"""From examples to what a model is asked: rows, allowed words, and which of them is right."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.errors import TemplateError
from pipeline.models.encoding import EncodedExample, MultipleChoice, Row, build_row
from pipeline.models.language_model import PromptedModel
from pipeline.models.tokenizer import PieceTokenizer
from pipeline.prompts.template import Field, Mask, Template
from pipeline.tasks import Example, Task


@dataclass(frozen=True)
class PromptDataset:
    """Examples with their allowed answers.

    Attributes:
        rows: one for each example that is asked; `MultipleChoice` where each has its own answers.
        targets: (rows,) int64, the right answer's position in `words`.
        words: the allowed words, or the labels where words are not what is asked for.
        word_ids: (words,) int64, their tokens; for labels, their positions.
        asked: for each row, its example's position in the input: examples whose answer is not
            one token of the model are left out.
    """

    rows: Sequence[EncodedExample]
    targets: Tensor
    words: list[str]
    word_ids: Tensor
    asked: list[int]


def build_dataset(
    model: PromptedModel,
    template: Template,
    examples: Sequence[tuple[Mapping[str, str], str]],
    words: Sequence[str],
    *,
    max_length: int | None = None,
) -> PromptDataset:
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
    return PromptDataset(
        rows=[
            build_row(template, examples[i][0], model.codec, masked=model.masked, max_length=limit)
            for i in asked
        ],
        targets=torch.tensor([position[examples[i][1]] for i in asked], dtype=torch.int64),
        words=allowed,
        word_ids=torch.tensor(list(index), dtype=torch.int64),
        asked=asked,
    )


def build_task_dataset(
    model: PromptedModel,
    task: Task,
    template: Template,
    examples: Sequence[Example],
    *,
    verbalizer: Mapping[str, str] | None,
    max_length: int,
    classifier: bool,
    most_choices: int | None = None,
) -> PromptDataset:
    """Put the examples of a task into a template.

    The answer is a label's word; or one of the example's own answers, written out; or, for a
    classifier, a label of a row that is read as a whole.

    Args:
        model: who is asked.
        task: of the examples.
        template: as parsed.
        examples: one or more.
        verbalizer: label -> word; None where no words are asked for.
        max_length: most positions of a row.
        classifier: whether the model has one.
        most_choices: of each example's own answers, ask the first and so many less one of the
            others, spread over them: training needs not all of them. None: all.

    Raises:
        TemplateError: template or verbalizer do not fit the model, or a row cannot be built.
    """
    if not model.masked and not classifier:
        _check_all_seen(template)
    if verbalizer is not None and not classifier:
        check_verbalizer(model.codec, template, verbalizer)
        return build_dataset(
            model,
            template,
            [(example.values, verbalizer[example.label]) for example in examples],
            [verbalizer[label] for label in task.labels],
            max_length=max_length,
        )

    def row(example: Example, answer: str | None) -> Row:
        return build_row(
            template,
            example.values,
            model.codec,
            masked=model.masked,
            max_length=min(max_length, model.max_length),
            answer=answer,
            whole=classifier,
        )

    by_choice = Mask() in template.parts
    rows = [
        MultipleChoice(
            tuple(row(example, answer) for answer in _some(example.choices, most_choices))
        )
        if by_choice
        else row(example, None)
        for example in examples
    ]
    return PromptDataset(
        rows=rows,
        targets=torch.tensor([task.labels.index(example.label) for example in examples]),
        words=list(task.labels),
        word_ids=torch.arange(len(task.labels)),
        asked=list(range(len(examples))),
    )


def classifier_labels(task: Task, template: Template) -> int:
    """Return how many scores a classifier gives of each row: one, where a row is one answer."""
    return 1 if Mask() in template.parts else len(task.labels)


def _some(choices: Sequence[str], most: int | None) -> list[str]:
    first, *others = choices
    if most is None or len(others) < most:
        return [first, *others]
    return [first, *(others[i * len(others) // (most - 1)] for i in range(most - 1))]


def _check_all_seen(template: Template) -> None:
    """Check that a causal model sees every field: what stands behind the mask is cut."""
    behind = template.parts[template.parts.index(Mask()) :]
    lost = [part.name for part in behind if isinstance(part, Field)]
    if lost:
        raise TemplateError(
            f"template {template.source!r}: {{{lost[0]}}} stands behind {{mask}}, where a causal "
            "model never sees it; take another template or a masked model"
        )


def check_verbalizer(
    codec: PieceTokenizer, template: Template, verbalizer: Mapping[str, str]
) -> None:
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
