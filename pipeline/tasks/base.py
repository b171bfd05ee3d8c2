"""What a task of SuperGLUE is, and how its records are read."""

from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from pipeline.errors import DataError, TemplateError
from pipeline.prompts.template import Template, parse_template

Record = dict[str, Any]

# The longest field of SuperGLUE has about 12,000 characters; a file that was spoilt may have
# everything in one.
MOST_CHARACTERS = 100_000


@dataclass(frozen=True)
class Example:
    """One question of a task, in the terms of templates.

    Attributes:
        name: tells it apart within its task, such as `5`, or `6/27/334` for passage, question and
            answer.
        values: the text of each field.
        label: the right one of the task's labels.
        choices: where an answer may be several tokens, the answers themselves, written out where
            the mask stands; empty where the answer is a label's word. The first choice stands for
            the task's first label, the best of the others for its second.
        question: examples of one question are scored together (MultiRC); the name elsewhere.
    """

    name: str
    values: dict[str, str]
    label: str
    choices: tuple[str, ...] = ()
    question: str = ""


@dataclass(frozen=True)
class Task:
    """A task in the official JSONL schema.

    Attributes:
        name: as in `params.yaml`.
        fields: text fields of an example that a template may use.
        labels: the labels, in the order in which scores are given.
        metrics: names of `pipeline.evaluation.metrics.TASK_METRICS`; their mean is the score.
        examples: the questions of one record. It raises `DataError` where the record is not of the
            schema.
        group: records with an equal group stay in one split.
        patterns: name -> template, so that `params.yaml` may name one.
        verbalizers: name -> label -> word; empty where the answers are an example's own.
        vocabulary: the words that may be answered, where that is not a label (LAMA's relations).
    """

    name: str
    fields: tuple[str, ...]
    labels: tuple[str, ...]
    metrics: tuple[str, ...]
    examples: Callable[[Record], Iterator[Example]]
    group: Callable[[Record], Hashable]
    patterns: Mapping[str, str]
    verbalizers: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    vocabulary: tuple[str, ...] | None = None

    @property
    def has_choices(self) -> bool:
        """Whether each example brings its own answers."""
        return not self.verbalizers and self.vocabulary is None


def task_template(task: Task, wanted: str, *, classifier: bool) -> Template:
    """Return a task's template by the name of a pattern, or from text in the template language.

    Args:
        task: whose fields it may use.
        wanted: a key of `Task.patterns`, or a template.
        classifier: whether a classifier reads it: it then has a mask only where each example has
            answers of its own.

    Raises:
        TemplateError: no such pattern, or the text does not fit the task.
    """
    if wanted not in task.patterns and "{" not in wanted:
        raise TemplateError(
            f"{task.name} has no pattern '{wanted}'; choose from {', '.join(task.patterns)}, or "
            "write a template"
        )
    masks = (0,) if classifier and not task.has_choices else (1,)
    return parse_template(task.patterns.get(wanted, wanted), task.fields, masks=masks)


def task_verbalizer(task: Task, wanted: str | Mapping[str, str] | None) -> dict[str, str] | None:
    """Return label -> word, by name or as written; None for a task with answers of its own.

    Raises:
        TemplateError: no such verbalizer, its labels are not the task's, or a label or word of it
            is no text.
    """
    if task.has_choices:
        if wanted is not None:
            raise TemplateError(f"{task.name} has answers of its own; write null")
        return None
    if wanted is None or isinstance(wanted, str):
        if wanted is None or wanted not in task.verbalizers:
            choices = ", ".join(task.verbalizers)
            raise TemplateError(
                f"{task.name} has no verbalizer '{wanted}'; choose from {choices}, or write "
                "{label: word}"
            )
        return dict(task.verbalizers[wanted])
    for part in (*wanted, *wanted.values()):
        if not isinstance(part, str) or not part.strip():
            raise TemplateError(
                f"verbalizer {dict(wanted)}: {part!r} is no text; put labels and words in quotes, "
                'such as "true"'
            )
    if set(wanted) != set(task.labels):
        raise TemplateError(
            f"labels are {', '.join(wanted)}; the task's are {', '.join(task.labels)}, and each "
            "needs a word"
        )
    return dict(wanted)


def text(record: Record, key: str) -> str:
    """Return a field that must hold text.

    Raises:
        DataError: it is missing, no text, or far longer than any real one.
    """
    value = _present(record, key)
    if not isinstance(value, str):
        raise DataError(f"{key} is {_shown(value)}, not text")
    if len(value) > MOST_CHARACTERS:
        raise DataError(
            f"{key} has {len(value):,} characters, more than {MOST_CHARACTERS:,}; is this file "
            "what it should be?"
        )
    return value


def number(record: Record, key: str) -> int:
    """Return a field that must hold a whole number.

    Raises:
        DataError: it is missing, or something else.
    """
    value = _present(record, key)
    if not isinstance(value, int) or isinstance(value, bool):
        raise DataError(f"{key} is {_shown(value)}, not a whole number")
    return value


def items(record: Record, key: str) -> list[Record]:
    """Return a field that must hold a list of one or more objects.

    Raises:
        DataError: it is missing, empty, or something else.
    """
    value = _present(record, key)
    if not isinstance(value, list) or not value or not all(isinstance(v, dict) for v in value):
        raise DataError(f"{key} is {_shown(value)}, not a list of objects")
    return value


def section(record: Record, key: str) -> Record:
    """Return a field that must hold an object.

    Raises:
        DataError: it is missing, or something else.
    """
    value = _present(record, key)
    if not isinstance(value, dict):
        raise DataError(f"{key} is {_shown(value)}, not an object")
    return value


def label(record: Record, labels: Mapping[Any, str]) -> str:
    """Return the task's name of a record's label.

    Args:
        record: with a key `label`.
        labels: what the file may hold -> the task's name of it. true and 1 are told apart.

    Raises:
        DataError: it is missing, or none of these.
    """
    value = _present(record, "label")
    for known, name in labels.items():
        if type(value) is type(known) and value == known:
            return name
    choices = ", ".join(map(_shown, labels))
    raise DataError(f"label {_shown(value)} is not one of {choices}")


BOOLEAN = {True: "true", False: "false"}


def _present(record: Record, key: str) -> Any:
    if key not in record:
        raise DataError(f"no {key}")
    return record[key]


def _shown(value: Any) -> str:
    """Return a value as JSON spells the frequent kinds, cut where it is long."""
    spelled = str(value).lower() if isinstance(value, bool) else repr(value)
    return spelled if len(spelled) <= 80 else f"{spelled[:77]}..."
