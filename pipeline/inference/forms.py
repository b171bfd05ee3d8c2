"""What a person gives to ask a task a question of their own, and the official record of it.

A label is no part of a question: the record gets one that its task knows, as no score hangs on it.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.errors import DataError
from pipeline.tasks import Example, Task
from pipeline.tasks.base import Record, items, number, section, text


@dataclass(frozen=True)
class FormField:
    """One thing that a person gives.

    Attributes:
        name: as in the official record.
        about: what it is, for help.
        example: of a value, for help.
        kind: of the value.
        needed: whether it can be worked out where it is not given.
    """

    name: str
    about: str
    example: str = ""
    kind: type[str] | type[int] = str
    needed: bool = True


@dataclass(frozen=True)
class Form:
    """How a task is asked.

    Attributes:
        asks: the question that the task puts.
        fields: what is given.
        record: makes the official record of given fields and `idx`.
        nested: the key that only a record in the official, nested form has as an object; empty
            where the official record is flat.
        relabeled: takes the labels of a nested record out of account.
        says: label -> what it says, where that is not plain.
    """

    asks: str
    fields: tuple[FormField, ...]
    record: Callable[[Record], Record]
    nested: str = ""
    relabeled: Callable[[Record], Record] = dict
    says: Mapping[str, str] | None = None

    @property
    def needed(self) -> list[str]:
        """Names of the fields that cannot be left out."""
        return [field.name for field in self.fields if field.needed]


def read_question(task: Task, given: Mapping[str, Any], *, idx: int) -> list[Example]:
    """Return what a person asks of a task, as its examples.

    Args:
        task: with a form in `INPUT_SCHEMAS`.
        given: the form's fields, or an official record, with or without labels; what else it
            holds is left out of account, and so is a field that is None.
        idx: names the example where `given` has no idx.

    Returns:
        One example; of an official record of MultiRC one for each answer.

    Raises:
        DataError: a field is missing, empty or of another kind.
    """
    form = INPUT_SCHEMAS[task.name]
    if form.nested and isinstance(given.get(form.nested), dict):
        record = form.relabeled({"idx": idx, **given})
    else:
        present = {key: value for key, value in given.items() if value is not None}
        check_needed(present, form.needed)
        record = form.record({"idx": idx, **present})
    examples = list(task.examples(record))
    for example in examples:
        for name, value in example.values.items():
            check_writing(name, value)
    return examples


def check_needed(given: Mapping[str, Any], needed: Sequence[str]) -> None:
    """Check that nothing is missing or blank.

    Raises:
        DataError: it names all that is.
    """
    missing = [name for name in needed if name not in given]
    if missing:
        found = f" (found {', '.join(map(str, given))})" if given else ""
        raise DataError(f"no {' and no '.join(missing)}{found}")
    blank = [name for name in needed if isinstance(given[name], str) and not given[name].strip()]
    if blank:
        raise DataError(f"{' and '.join(blank)} {'is' if len(blank) == 1 else 'are'} empty")


def check_writing(name: str, value: str) -> None:
    """Check that a text can be written in UTF-8; half a character, cut off, cannot.

    Raises:
        DataError: it holds such a half.
    """
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"{name} has half a character at place {error.start + 1}; write it in UTF-8"
        ) from None


def _labeled(label: Any) -> Callable[[Record], Record]:
    return lambda given: {**given, "label": label}


def _wic(given: Record) -> Record:
    # Where the word stands, no template shows; and it may be inflected there.
    ends = {f"end{which}": len(text(given, f"sentence{which}")) for which in ("1", "2")}
    return {**given, **ends, "start1": 0, "start2": 0, "label": True}


def _multirc(given: Record) -> Record:
    answers = [{"idx": 0, "text": given["answer"], "label": 1}]
    questions = [{"idx": 0, "question": given["question"], "answers": answers}]
    return {"idx": given["idx"], "passage": {"text": given["passage"], "questions": questions}}


def _multirc_relabeled(record: Record) -> Record:
    passage = section(record, "passage")
    questions = [
        {**question, "answers": [{**answer, "label": 1} for answer in items(question, "answers")]}
        for question in items(passage, "questions")
    ]
    return {**record, "passage": {**passage, "questions": questions}}


def _wsc(given: Record) -> Record:
    words, pronoun = text(given, "text").split(), text(given, "span2_text")
    target = {
        "span1_text": given["span1_text"],
        "span1_index": 0,  # no template shows it
        "span2_text": pronoun,
        "span2_index": _pronoun_place(words, pronoun, given),
    }
    return {"idx": given["idx"], "text": given["text"], "target": target, "label": True}


def _pronoun_place(words: Sequence[str], pronoun: str, given: Record) -> int:
    """Return which word of the text the pronoun is: as given, or else the only such word.

    Raises:
        DataError: it is not there, or more than once and not given.
    """
    wanted = [_bare(word) for word in pronoun.split()]
    starts = range(len(words) - len(wanted) + 1)
    places = [
        at for at in starts if [_bare(word) for word in words[at : at + len(wanted)]] == wanted
    ]
    shown = ", ".join(map(str, places))
    if "span2_index" in given:
        at = number(given, "span2_index")
        if at not in places:
            where = f"it stands at {shown}" if places else "it stands nowhere"
            raise DataError(
                f"span2_index {at} is not where {pronoun!r} stands in the text: {where}, counted "
                "in words from 0"
            )
        return at
    if not places:
        raise DataError(f"span2_text {pronoun!r} does not stand in the text")
    if len(places) > 1:
        raise DataError(
            f"span2_text {pronoun!r} stands in the text at {shown}, counted in words from 0; "
            "span2_index says which is meant"
        )
    return places[0]


def _bare(word: str) -> str:
    return re.sub(r"^\W+|\W+$", "", word).lower()


def _entailment(label: str) -> Form:
    return Form(
        asks="Does the premise entail the hypothesis?",
        fields=(
            FormField("premise", "What is given.", "Lyon is a city in France."),
            FormField("hypothesis", "What may follow from it.", "Lyon is in Europe."),
        ),
        record=_labeled(label),
    )


INPUT_SCHEMAS: dict[str, Form] = {
    "boolq": Form(
        asks="Is the answer to a question about a passage yes?",
        fields=(
            FormField("passage", "What is read.", "Oslo is the capital of Norway."),
            FormField("question", "What is asked about it.", "is oslo in norway"),
        ),
        record=_labeled(True),
    ),
    "cb": _entailment("neutral"),
    "copa": Form(
        asks="Which of two sentences is the cause, or the effect, of the premise?",
        fields=(
            FormField("premise", "What happened.", "The lamp went out."),
            FormField("choice1", "One sentence.", "It was dark."),
            FormField("choice2", "The other sentence.", "It was warm."),
            FormField("question", "`cause` or `effect`: which is sought.", "effect"),
        ),
        record=_labeled(0),
        says={"0": "choice1", "1": "choice2"},
    ),
    "multirc": Form(
        asks="Is an answer to a question about a passage right?",
        fields=(
            FormField("passage", "What is read.", "Lyon is a city in France."),
            FormField("question", "What is asked about it.", "Where is Lyon?"),
            FormField("answer", "What may be right.", "In France"),
        ),
        record=_multirc,
        nested="passage",
        relabeled=_multirc_relabeled,
        says={"1": "right", "0": "wrong"},
    ),
    "rte": _entailment("entailment"),
    "wic": Form(
        asks="Has a word the same meaning in two sentences?",
        fields=(
            FormField("word", "The word.", "place"),
            FormField("sentence1", "One sentence with it.", "Oslo is a place."),
            FormField("sentence2", "The other sentence.", "They place it there."),
        ),
        record=_wic,
    ),
    "wsc": Form(
        asks="Does a pronoun refer to a given noun phrase of the text?",
        fields=(
            FormField("text", "What is read.", "Ann told Eve that she had won."),
            FormField("span1_text", "The noun phrase.", "Ann"),
            FormField("span2_text", "The pronoun.", "she"),
            FormField(
                "span2_index",
                "Which word of the text the pronoun is, counted from 0; needed where the text has "
                "it more than once.",
                kind=int,
                needed=False,
            ),
        ),
        record=_wsc,
        nested="target",
        relabeled=_labeled(True),
    ),
}
