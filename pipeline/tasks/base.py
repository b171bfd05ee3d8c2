"""What a task is: how it reads records, and what its prompts, answers and inputs look like."""

from __future__ import annotations

import random
import string
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from pipeline.errors import DataError, TemplateError
from pipeline.prompts.template import Template, parse_template

if TYPE_CHECKING:
    from pipeline.data.geonames.places import Places

Record = dict[str, Any]
Value = TypeVar("Value")

# The longest field of SuperGLUE has about 12,000 characters; in a damaged file, one field may hold
# everything.
MAX_CHARACTERS = 100_000


@dataclass(frozen=True)
class Example:
    """One example of a task, with the fields that templates use.

    Attributes:
        name: unique within the task, such as `5`, or `6/27/334` for passage, question and answer.
        values: the text of each field.
        label: the correct one of the task's labels.
        choices: candidate answers that may have several tokens and replace the mask; empty if the
            answer is a label's word. The first choice belongs to the task's first label, the
            best-scored other choice to its second.
        question: examples with an equal question are scored together (MultiRC); empty otherwise.
    """

    name: str
    values: dict[str, str]
    label: str
    choices: tuple[str, ...] = ()
    question: str = ""


@dataclass(frozen=True)
class InputField:
    """One field of an input to `ptune predict`.

    Attributes:
        name: as in the official record.
        description: for the help.
        example: a value, for the help.
        value_type: type of the value.
        required: False if it can be derived from the other fields.
    """

    name: str
    description: str
    example: str = ""
    value_type: type[str] | type[int] = str
    required: bool = True


@dataclass(frozen=True)
class InputSchema:
    """The input of `ptune predict`: flat fields, or an official record.

    Attributes:
        description: the question that the task answers.
        fields: the input fields.
        record: builds the official record from the fields and `idx`. A record needs a label, which
            does not affect the prediction: it may be any label of the task.
        nested_key: the key that holds an object in an official, nested record; empty if the
            official record is flat.
        replace_labels: replaces the labels of a nested record, which may be missing or unknown.
        label_names: label -> meaning, for labels that do not explain themselves.
    """

    description: str
    fields: tuple[InputField, ...]
    record: Callable[[Record], Record]
    nested_key: str = ""
    replace_labels: Callable[[Record], Record] = dict
    label_names: Mapping[str, str] = field(default_factory=dict)

    @property
    def required(self) -> list[str]:
        """Names of the required fields."""
        return [field.name for field in self.fields if field.required]


@dataclass(frozen=True)
class Task:
    """A task whose records have the official JSONL schema.

    Attributes:
        name: as in `params.yaml`; also the name of the task's file.
        fields: text fields of an example that a template may use.
        labels: the labels, in the order of the scores.
        metrics: names in `pipeline.evaluation.metrics.TASK_METRICS`; the score is their mean.
        examples: reads the examples of a record. Raises `DataError` if the record does not follow
            the schema.
        group: records with an equal group stay in one split.
        patterns: name -> template, so that `params.yaml` can refer to one by name.
        schema: the input of `ptune predict`.
        verbalizers: name -> label -> word; empty if each example has its own candidate answers.
        from_geonames: generates records from GeoNames for the source `geonames`; None if the task
            has no generated records.
        vocabulary: the words that may be answered, if these are not labels (relations of LAMA).
        objects: of a relation, the candidate answers of one or more tokens that compete in place
            of the vocabulary; empty if only words of one token are answered.
        positive: the label whose F1 the metric `f1_positive` is.
        naive_bayes: whether naive Bayes over the words of the fields is a control.
    """

    name: str
    fields: tuple[str, ...]
    labels: tuple[str, ...]
    metrics: tuple[str, ...]
    examples: Callable[[Record], Iterator[Example]]
    group: Callable[[Record], Hashable]
    patterns: Mapping[str, str]
    schema: InputSchema
    verbalizers: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    from_geonames: Callable[[Places, random.Random], Iterator[Record]] | None = None
    vocabulary: tuple[str, ...] | None = None
    objects: tuple[str, ...] = ()
    positive: str | None = None
    naive_bayes: bool = False

    @property
    def has_choices(self) -> bool:
        """Whether answers are written out: each example's own candidates, or the objects."""
        return bool(self.objects) or (not self.verbalizers and self.vocabulary is None)


def task_template(task: Task, pattern: str, *, classifier: bool) -> Template:
    """Parse a key of `Task.patterns`, or text in the template language.

    If a classification head reads the text, it has a mask only if the examples have candidate
    answers.

    Raises:
        TemplateError: unknown pattern, or the text does not fit the task.
    """
    if pattern not in task.patterns and "{" not in pattern:
        raise TemplateError(
            f"unknown pattern '{pattern}' of {task.name}; available: {', '.join(task.patterns)}; "
            "or write a template"
        )
    masks = (0,) if classifier and not task.has_choices else (1,)
    return parse_template(task.patterns.get(pattern, pattern), task.fields, masks=masks)


def task_verbalizer(
    task: Task, verbalizer: str | Mapping[str, str] | None
) -> dict[str, str] | None:
    """Resolve a verbalizer, by name or as written.

    Returns:
        Label -> word; None for a task whose examples have candidate answers.

    Raises:
        TemplateError: unknown name, the labels are not those of the task, a label or word is not
            text, or two labels have one word.
    """
    if task.has_choices:
        if verbalizer is not None:
            raise TemplateError(f"examples of {task.name} have candidate answers; write null")
        return None
    if not isinstance(verbalizer, Mapping):
        named = task.verbalizers.get(verbalizer or "")
        if named is None:
            raise TemplateError(
                f"unknown verbalizer '{verbalizer}' of {task.name}; available: "
                f"{', '.join(task.verbalizers)}; or write {{label: word}}"
            )
        return dict(named)
    for part in (*verbalizer, *verbalizer.values()):
        if not isinstance(part, str) or not part.strip():
            raise TemplateError(
                f"verbalizer {dict(verbalizer)}: {part!r} is not text; put labels and words in "
                'quotes, such as "true"'
            )
    if set(verbalizer) != set(task.labels):
        raise TemplateError(
            f"labels are {', '.join(verbalizer)}; the task's are {', '.join(task.labels)}, and "
            "each needs a word"
        )
    words = Counter(word.strip() for word in verbalizer.values())
    if shared := [word for word, count in words.items() if count > 1]:
        raise TemplateError(
            f"verbalizer {dict(verbalizer)}: two labels have the word {', '.join(shared)!r}; each "
            "needs its own"
        )
    return dict(verbalizer)


def text(record: Record, key: str) -> str:
    """A field that must hold text.

    Raises:
        DataError: it is missing, not text, or far longer than any real value.
    """
    value = _field(record, key, str, "text")
    if len(value) > MAX_CHARACTERS:
        raise DataError(
            f"{key} has {len(value):,} characters, more than {MAX_CHARACTERS:,}; is the file "
            "damaged?"
        )
    return value


def number(record: Record, key: str) -> int:
    """A field that must hold an integer; otherwise a DataError."""
    return _field(record, key, int, "an integer")


def section(record: Record, key: str) -> Record:
    """A field that must hold an object; otherwise a DataError."""
    return _field(record, key, dict, "an object")


def items(record: Record, key: str) -> list[Record]:
    """A field that must hold a list of one or more objects; otherwise a DataError."""
    value: list[Record] = _field(record, key, list, "a list of objects")
    if not value or not all(isinstance(item, dict) for item in value):
        raise DataError(f"{key} is {_shown(value)}, not a list of objects")
    return value


def label(record: Record, labels: Mapping[Any, str]) -> str:
    """The task's label of a record.

    `labels` are value in the file -> the task's label; true and 1 are different values.

    Raises:
        DataError: the value is missing or unknown.
    """
    if "label" not in record:
        raise DataError("no label")
    value = record["label"]
    for known, name in labels.items():
        if type(value) is type(known) and value == known:
            return name
    choices = ", ".join(map(_shown, labels))
    raise DataError(f"label {_shown(value)} is not one of {choices}")


BOOLEAN = {True: "true", False: "false"}


def labeled(value: Any) -> Callable[[Record], Record]:
    """A function that sets the label of a record."""
    return lambda record: {**record, "label": value}


def _field(record: Record, key: str, value_type: type[Value], what: str) -> Value:
    if key not in record:
        raise DataError(f"no {key}")
    value = record[key]
    # Not isinstance: true is not a number.
    if type(value) is not value_type:
        raise DataError(f"{key} is {_shown(value)}, not {what}")
    return value


def _shown(value: Any) -> str:
    """A value in JSON's spelling, shortened if long."""
    spelled = str(value).lower() if isinstance(value, bool) else repr(value)
    return spelled if len(spelled) <= 80 else f"{spelled[:77]}..."


# RTE and CB share a premise and a hypothesis. A statement is the hypothesis without its final
# punctuation, for patterns with text after it.
ENTAILMENT_FIELDS = ("premise", "hypothesis", "statement")

ENTAILMENT_PATTERNS = {
    # Schick and Schuetze's (timoschick/pet, pvp.py), two texts with a separator; they need a masked
    # model. Their fifth differs between the tasks.
    "pet-0": '"{statement}"?[SEP] {mask}, "{premise:shorten}"',
    "pet-1": "{statement}?[SEP] {mask}, {premise:shorten}",
    "pet-2": '"{statement}"?[SEP] {mask}. "{premise:shorten}"',
    "pet-3": "{statement}?[SEP] {mask}. {premise:shorten}",
    # FewNLU's sixth (THUDM/FewNLU).
    "fewnlu-5": "{premise:shorten} Question: {statement}? Answer: {mask}.",
    # FewNLU, one prompt token; the P-tuning release has it for RTE too.
    "p-tuning": "{premise:shorten} Question: {statement}? [P] Answer: {mask}.",
    "prompt-tuning": "[P*20] {premise:shorten} {hypothesis} {mask}",
    "classifier": "{premise:shorten}[SEP] {hypothesis}",
}


def entailment_examples(labels: Sequence[str]) -> Callable[[Record], Iterator[Example]]:
    """The reader of records with a premise, a hypothesis and one of these labels."""
    known = {name: name for name in labels}

    def examples(record: Record) -> Iterator[Example]:
        hypothesis = text(record, "hypothesis")
        yield Example(
            str(number(record, "idx")),
            {
                "premise": text(record, "premise"),
                "hypothesis": hypothesis,
                "statement": hypothesis.rstrip(f"{string.punctuation} "),
            },
            label(record, known),
        )

    return examples


def entailment_schema(any_label: str) -> InputSchema:
    """The input of an entailment task."""
    return InputSchema(
        description="Does the premise entail the hypothesis?",
        fields=(
            InputField("premise", "The premise.", "Lyon is a city in France."),
            InputField("hypothesis", "A claim that may follow.", "Lyon is in Europe."),
        ),
        record=labeled(any_label),
    )


# GLUE's tasks: a text or two, and a label as in the official files. LM-BFF's templates
# (princeton-nlp/LM-BFF, run_experiment.sh) take two of a pair's texts apart from their own names:
# the first without its last character, and the second with a small first letter.
PAIR_FIELDS = ("opening", "continuation")


def glue_examples(
    texts: Sequence[str], labels: Sequence[str]
) -> Callable[[Record], Iterator[Example]]:
    """The reader of records with one text or a pair of texts, and one of these labels.

    White space at the ends of a text is removed: SST-2's texts end with a space.
    """
    known = {name: name for name in labels}

    def examples(record: Record) -> Iterator[Example]:
        values = {name: text(record, name).strip() for name in texts}
        if len(texts) > 1:
            first, second = values.values()
            values |= {"opening": first[:-1], "continuation": second[:1].lower() + second[1:]}
        yield Example(str(number(record, "idx")), values, label(record, known))

    return examples


def glue_patterns(
    texts: Sequence[str], lm_bff: Mapping[str, str], question: str = ""
) -> dict[str, str]:
    """The patterns of a task of GLUE.

    Each has a copy for P-tuning with a prompt token in front of the mask; the paper does not say
    where its tokens are.

    Args:
        texts: the task's texts, as in a slot: `sentence:shorten`.
        lm_bff: the patterns of LM-BFF, the manual one under `lm-bff`.
        question: a pattern that ends with the mask, for causal models, if `lm-bff` does not.
    """
    own = {**lm_bff, **({"question": question} if question else {})}
    tuned = {name: pattern.replace("{mask}", "[P] {mask}") for name, pattern in own.items()}
    slots = [f"{{{text}}}" for text in texts]
    return {
        **own,
        "p-tuning": tuned.pop("question" if question else "lm-bff"),
        **{f"p-tuning-{name}": pattern for name, pattern in tuned.items()},
        "prompt-tuning": f"[P*20] {' '.join(slots)} {{mask}}",
        "classifier": "[SEP] ".join(slots),
    }


def automatic(patterns: Mapping[int, str]) -> dict[str, str]:
    """Name -> template that LM-BFF's search found on a split; `patterns` is seed -> template."""
    return {f"lm-bff-auto-{seed}": pattern for seed, pattern in patterns.items()}
