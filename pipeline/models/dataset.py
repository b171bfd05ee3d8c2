"""From the examples of a task to model inputs, allowed answers, and the right one among them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.errors import TemplateError
from pipeline.models.encoding import EncodedExample, MultipleChoice, Row, build_row
from pipeline.models.language_model import PromptedModel
from pipeline.models.tokenizer import PieceTokenizer
from pipeline.prompts.store import StoredPrompt
from pipeline.prompts.template import Field, Mask, Template
from pipeline.tasks import Example, Task, task_template


@dataclass(frozen=True)
class PromptFormat:
    """How the examples of a task are put into words.

    Attributes:
        task: of the examples.
        template: as parsed.
        verbalizer: label -> word; None for an open vocabulary, for a classifier, and where each
            example has its own answers.
        max_length: maximum number of positions of a row; None: the model's.
        classifier: whether a classification head reads the rows.
    """

    task: Task
    template: Template
    verbalizer: Mapping[str, str] | None = None
    max_length: int | None = None
    classifier: bool = False

    @classmethod
    def from_prompt(
        cls, task: Task, prompt: StoredPrompt, *, classifier: bool = False
    ) -> "PromptFormat":
        """The format of a trained prompt.

        Raises:
            TemplateError: its template does not suit the task.
        """
        template = task_template(task, prompt.template, classifier=classifier)
        return cls(task, template, prompt.verbalizer, prompt.max_length, classifier)

    @property
    def classifier_outputs(self) -> int | None:
        """Number of scores a classifier gives each row: one, where a row is one answer."""
        if not self.classifier:
            return None
        return 1 if Mask() in self.template.parts else len(self.task.labels)


@dataclass(frozen=True)
class AllowedAnswers:
    """The answers that compete, and the tokens that are scored for them.

    Attributes:
        answers: the words of an open vocabulary or the relation's objects, else the task's labels.
        ids: (answers,) int64, a token each; for written-out answers and classifiers, their
            positions.
        positions: answer -> position. Words that are the same token share one.
    """

    answers: list[str]
    ids: Tensor
    positions: Mapping[str, int]


@dataclass(frozen=True)
class PromptDataset:
    """Encoded examples with their allowed answers.

    Attributes:
        rows: one for each example that is kept; `MultipleChoice` where each has its own answers.
        targets: (rows,) int64, the right answer's position in `answers`.
        answers: as in `AllowedAnswers`.
        word_ids: (answers,) int64, as in `AllowedAnswers`.
        kept_indices: for each row, its example's position in the input. Examples whose answer is
            not one token of the model are skipped, unless answers are written out.
    """

    rows: Sequence[EncodedExample]
    targets: Tensor
    answers: list[str]
    word_ids: Tensor
    kept_indices: list[int]


def build_dataset(
    model: PromptedModel,
    prompt: PromptFormat,
    examples: Sequence[Example],
    *,
    max_choices: int | None = None,
) -> PromptDataset:
    """Encode the examples of a task, whatever form its answers have.

    An answer is a word of the task's vocabulary; a label's word; an object of the relation or one
    of the example's own answers, written out; or, for a classifier, a label of a row that is read
    as a whole.

    Args:
        model: the language model.
        prompt: how the examples are put into words.
        examples: with the right answer as label.
        max_choices: of each example's own answers, the first and a selection of the others, spread
            evenly; None: all.

    Raises:
        TemplateError: template or verbalizer do not fit the model, or a row cannot be built.
    """
    allowed = allowed_answers(model, prompt)
    kept = [i for i, example in enumerate(examples) if example.label in allowed.positions]
    return PromptDataset(
        rows=encode_examples(model, prompt, [examples[i] for i in kept], max_choices=max_choices),
        targets=torch.tensor(
            [allowed.positions[examples[i].label] for i in kept], dtype=torch.int64
        ),
        answers=allowed.answers,
        word_ids=allowed.ids,
        kept_indices=kept,
    )


def written_out(
    model: PromptedModel, prompt: PromptFormat, examples: Sequence[Example]
) -> PromptDataset:
    """Encode the train examples of a relation with objects of several tokens.

    Each row has its own object written out, whose tokens compete with the whole vocabulary, as
    those of one token do. Their mean log-probability is the only score of the row, its target 0.

    Raises:
        TemplateError: as in `build_dataset`.
    """
    return PromptDataset(
        rows=[_encode(model, prompt, example, example.label) for example in examples],
        targets=torch.zeros(len(examples), dtype=torch.int64),
        answers=[""],
        word_ids=torch.zeros(1, dtype=torch.int64),
        kept_indices=list(range(len(examples))),
    )


def allowed_answers(model: PromptedModel, prompt: PromptFormat) -> AllowedAnswers:
    """Look up the tokens of the answers.

    Words of an open vocabulary that are not one token of the model are skipped, and of words that
    are the same token all but the first.

    Raises:
        TemplateError: a label's word is several tokens, or two labels have the same token.
    """
    task, space = prompt.task, prompt.template.space_before_mask
    if task.objects:
        named = {answer: position for position, answer in enumerate(task.objects)}
        return AllowedAnswers(list(task.objects), torch.arange(len(named)), named)
    if task.vocabulary is not None:
        position_of_token: dict[int, int] = {}
        words: list[str] = []
        positions: dict[str, int] = {}
        for word in task.vocabulary:
            token = model.codec.single_token_id(word, space_before=space)
            if token is None:
                continue
            if token not in position_of_token:
                position_of_token[token] = len(words)
                words.append(word)
            positions[word] = position_of_token[token]
        ids = torch.tensor(list(position_of_token), dtype=torch.int64)
        return AllowedAnswers(words, ids, positions)
    labels = {label: position for position, label in enumerate(task.labels)}
    ids = torch.arange(len(labels))
    if prompt.verbalizer is not None and not prompt.classifier:
        tokens = check_verbalizer(model.codec, prompt.template, prompt.verbalizer)
        ids = torch.tensor([tokens[label] for label in task.labels], dtype=torch.int64)
    return AllowedAnswers(list(task.labels), ids, labels)


def encode_examples(
    model: PromptedModel,
    prompt: PromptFormat,
    examples: Sequence[Example],
    *,
    max_choices: int | None = None,
) -> list[EncodedExample]:
    """Put examples into the template; their labels are not used.

    Args:
        model: the language model.
        prompt: how the examples are put into words.
        examples: of the task.
        max_choices: as in `build_dataset`.

    Raises:
        TemplateError: a causal model never sees a field, or a row cannot be built (`build_row`).
    """
    if not model.masked and not prompt.classifier and prompt.task.vocabulary is None:
        _check_fields_before_mask(prompt.template)
    if not prompt.task.has_choices:
        return [_encode(model, prompt, example, None) for example in examples]
    objects = prompt.task.objects
    return [
        MultipleChoice(
            tuple(
                _encode(model, prompt, example, answer)
                for answer in objects or _sample(example.choices, max_choices)
            )
        )
        for example in examples
    ]


def _encode(
    model: PromptedModel, prompt: PromptFormat, example: Example, answer: str | None
) -> Row:
    return build_row(
        prompt.template,
        example.values,
        model.codec,
        masked=model.masked,
        max_length=min(prompt.max_length or model.max_length, model.max_length),
        answer=answer,
        whole=prompt.classifier,
    )


def _sample(choices: Sequence[str], count: int | None) -> list[str]:
    first, *others = choices
    if count is None or len(others) < count:
        return [first, *others]
    return [first, *(others[i * len(others) // (count - 1)] for i in range(count - 1))]


def _check_fields_before_mask(template: Template) -> None:
    """Check that a causal model sees every field: what follows the mask is cut."""
    after_mask = template.parts[template.parts.index(Mask()) :]
    unseen = [part.name for part in after_mask if isinstance(part, Field)]
    if unseen:
        raise TemplateError(
            f"template {template.source!r}: {{{unseen[0]}}} follows {{mask}}, where a causal "
            "model never sees it; use another template or a masked model"
        )


def check_verbalizer(
    codec: PieceTokenizer, template: Template, verbalizer: Mapping[str, str]
) -> dict[str, int]:
    """Look up label -> token; each label needs a word of one token that no other label has.

    Raises:
        TemplateError: a word is several tokens, or two labels share a token.
    """
    tokens: dict[str, int] = {}
    for label, word in verbalizer.items():
        token = codec.single_token_id(word, space_before=template.space_before_mask)
        if token is None:
            count = codec.count_tokens(word, space_before=template.space_before_mask)
            state = "unknown to this model" if count == 1 else f"{count} tokens of this model"
            raise TemplateError(
                f"verbalizer: the word {word!r} of label '{label}' is {state}; choose a word that "
                "is one token"
            )
        for other, other_token in tokens.items():
            if token == other_token:
                raise TemplateError(
                    f"verbalizer: labels '{other}' and '{label}' have the same word {word!r} "
                    "for this model; choose two words"
                )
        tokens[label] = token
    return tokens
