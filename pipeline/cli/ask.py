"""What `ptune predict` does: find what was trained, read the questions, ask.

Apart from the commands themselves, as torch takes seconds to import.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar, get_args

from tqdm import tqdm

from pipeline.cli.answers import (
    Answered,
    give_rows,
    label_rows,
    show_labels,
    show_trainings,
    show_words,
    word_rows,
)
from pipeline.config.schema import LamaMethod, Params, SuperGlueMethod, load_params
from pipeline.data.lama import read_lama
from pipeline.errors import DataError
from pipeline.inference.batch import read_questions
from pipeline.inference.forms import INPUT_SCHEMAS, check_needed, check_writing, read_question
from pipeline.inference.predictor import (
    Answers,
    ModelCache,
    QuestionError,
    Trained,
    answer_examples,
    answer_subjects,
    best_training,
    choose_methods,
    load_trained,
)
from pipeline.models.loading import load_model
from pipeline.tasks import Example, get_task, task_names

# As dvc.yaml has them.
PARAMS = Path("params.yaml")
MODEL = Path("data/model")
LAMA_SPLITS = Path("data/splits/lama")
LAMA_TRAINED = Path("models/lama")
TASKS_TRAINED = Path("models/superglue")

EncodedExample = TypeVar("EncodedExample", str, Example)
OnRows = Callable[[int], object]


@dataclass(frozen=True)
class Wishes:
    """What the options say that all commands share.

    Attributes:
        methods: those to ask; none stands for all.
        file: with questions; None where one is typed.
        out: where the answers to a file go; None prints them.
        as_json: whether JSON is printed.
    """

    methods: Sequence[str]
    file: Path | None
    out: Path | None
    as_json: bool

    @property
    def read_by_people(self) -> bool:
        """Whether the answers are laid out for the eye."""
        return self.file is None and not self.as_json

    def check(self, typed: Sequence[str]) -> None:
        """Check that the options go together.

        Args:
            typed: what was typed of a question, to name it.

        Raises:
            DataError: they do not.
        """
        if self.file is not None and typed:
            raise DataError(f"--file holds the questions, so leave out {', '.join(typed)}")
        if self.out is None:
            return
        if self.file is None:
            raise DataError("--out belongs to --file; answers to what is typed are printed")
        if self.as_json:
            raise DataError("--json is for what is printed; name --out something.jsonl instead")
        if self.out.suffix.lower() not in (".csv", ".jsonl"):
            raise DataError(f"--out {self.out}: answers are .csv or .jsonl; name the file so")


@dataclass(frozen=True)
class Question(Generic[EncodedExample]):
    """One question.

    Attributes:
        line: of the file; None where it was typed.
        about: what the answers show of it.
        asked: the subject, or the example.
    """

    line: int | None
    about: Mapping[str, str]
    asked: EncodedExample


def ask_lama(relation: str | None, subjects: Sequence[str], top: int, wishes: Wishes) -> None:
    """Ask relations about subjects, and show the likeliest words of each method.

    Raises:
        PipelineError: something is missing, unknown or malformed.
    """
    wishes.check(subjects)
    params = load_params(PARAMS)
    methods = choose_methods(LAMA_TRAINED, get_args(LamaMethod), wishes.methods)
    trained = {method: load_trained(LAMA_TRAINED / method) for method in methods}
    relations = list(dict.fromkeys(name for own in trained.values() for name in own))
    questions = _subjects(relation, subjects, relations, wishes.file)
    splits = read_lama(_made(LAMA_SPLITS), [])
    networks = _networks(params)

    def ask(one: Trained, asked: Sequence[str], on_rows: OnRows) -> list[Answers]:
        return answer_subjects(
            networks,
            one,
            asked,
            splits.vocabulary,
            top=top,
            max_rows_per_forward=params.runtime.max_rows_per_forward,
            on_rows=on_rows,
        )

    of_relation: dict[str, list[int]] = {}
    for position, question in enumerate(questions):
        of_relation.setdefault(question.about["relation"], []).append(position)
    groups = [
        (own[name], positions)
        for own in trained.values()
        for name, positions in of_relation.items()
        if name in own
    ]
    answers = _answer(questions, groups, ask, wishes.file)
    if wishes.read_by_people:
        show_words(splits.relations, answers)
    else:
        give_rows(word_rows(answers), wishes.out, as_json=wishes.as_json)


def ask_task(task: str, given: Mapping[str, Any], wishes: Wishes) -> None:
    """Ask a task's examples, and show each label's probability by each method.

    Args:
        task: its name.
        given: the fields of its form; None where one was not typed.
        wishes: the shared options.

    Raises:
        PipelineError: something is missing, unknown or malformed.
    """
    typed = {name: value for name, value in given.items() if value is not None}
    wishes.check([_option(name) for name in typed])
    params = load_params(PARAMS)
    folder = _task_folder(task)
    methods = choose_methods(folder, get_args(SuperGlueMethod), wishes.methods)
    trainings = {method: list(load_trained(folder / method).values()) for method in methods}
    best = [best_training(own) for own in trainings.values()]
    questions = _examples(task, typed, wishes.file)
    networks = _networks(params)

    def ask(one: Trained, asked: Sequence[Example], on_rows: OnRows) -> list[Answers]:
        return answer_examples(
            networks,
            one,
            get_task(task),
            asked,
            max_rows_per_forward=params.runtime.max_rows_per_forward,
            on_rows=on_rows,
        )

    groups = [(one, range(len(questions))) for one in best]
    answers = _answer(questions, groups, ask, wishes.file)
    if wishes.read_by_people:
        show_labels(answers, INPUT_SCHEMAS[task].says)
        show_trainings(best, {method: len(own) for method, own in trainings.items()})
    else:
        give_rows(label_rows(answers), wishes.out, as_json=wishes.as_json)


def _answer(
    questions: Sequence[Question[EncodedExample]],
    groups: Sequence[tuple[Trained, Sequence[int]]],
    ask: Callable[[Trained, Sequence[EncodedExample], OnRows], list[Answers]],
    file: Path | None,
) -> list[Answered]:
    """Ask each prompt its questions, given by their positions; answers come by question."""
    found: list[list[Answered]] = [[] for _ in questions]
    total = sum(len(positions) for _, positions in groups)
    # None: nothing is drawn where nobody looks.
    hidden = True if file is None else None
    with tqdm(total=total, unit=" answers", disable=hidden, leave=False) as bar:
        for trained, positions in groups:
            bar.set_description(trained.method)
            own = [questions[position] for position in positions]
            with _lines_named(file, own):
                answers = ask(trained, [question.asked for question in own], bar.update)
            for position, question, one in zip(positions, own, answers, strict=True):
                found[position].append(Answered(question.line, question.about, trained, one))
    return [one for own in found for one in own]


@contextlib.contextmanager
def _lines_named(file: Path | None, questions: Sequence[Question[Any]]) -> Iterator[None]:
    """Say of a question that does not fit in which line it stands."""
    try:
        yield
    except QuestionError as error:
        if file is None:
            raise
        raise DataError(f"{file}: line {questions[error.position].line}: {error}") from None


def _subjects(
    relation: str | None, subjects: Sequence[str], relations: Sequence[str], file: Path | None
) -> list[Question[str]]:
    """Return what is asked, as typed or out of a file; a relation in a line goes first."""
    if relation is not None:
        _check_relation(relation, relations)

    def read(record: Mapping[str, Any], line: int | None) -> list[Question[str]]:
        given = {key: value for key, value in record.items() if value is not None}
        if relation is not None and not given.get("relation"):
            given["relation"] = relation
        check_needed(given, ["relation", "subject"])
        _check_relation(given["relation"], relations)
        subject = given["subject"]
        if not isinstance(subject, str):
            raise DataError(f"subject is {subject!r}, not text")
        check_writing("subject", subject)
        about = {"relation": given["relation"], "subject": subject}
        return [Question(line, about, subject)]

    if file is not None:
        needed = ["subject"] if relation is not None else ["relation", "subject"]
        return read_questions(file, needed, read)
    if relation is None or not subjects:
        raise DataError(
            f"lama: give a relation and a subject, such as {relation or relations[0]} Lyon; or "
            "--file with a column subject"
        )
    once = dict.fromkeys(subjects)
    return [question for subject in once for question in read({"subject": subject}, None)]


def _check_relation(relation: Any, relations: Sequence[str]) -> None:
    if relation not in relations:
        raise DataError(
            f"relation {relation} was not trained; trained are {', '.join(relations)} "
            "(lama.relations in params.yaml, then `dvc repro`, trains others)"
        )


def _examples(task: str, typed: Mapping[str, Any], file: Path | None) -> list[Question[Example]]:
    """Return what is asked, as typed or out of a file."""
    form = INPUT_SCHEMAS[task]

    def read(record: Mapping[str, Any], line: int | None) -> list[Question[Example]]:
        return [
            Question(line, {**({} if line is None else {"example": one.name}), **one.values}, one)
            for one in read_question(get_task(task), record, idx=line or 0)
        ]

    if file is not None:
        return read_questions(file, form.needed, read)
    missing = [_option(name) for name in form.needed if name not in typed]
    if missing:
        raise DataError(f"{task}: no {' and no '.join(missing)}; give that, or --file")
    try:
        return read(typed, None)
    except DataError as error:
        raise DataError(f"{task}: {error}") from None


def _task_folder(task: str) -> Path:
    """Return where a task's methods are.

    Raises:
        DataError: it was not trained.
    """
    trained = [name for name in task_names() if (TASKS_TRAINED / name).is_dir()]
    if trained and task not in trained:
        raise DataError(
            f"{task} was not trained; trained are {', '.join(trained)} (superglue.tasks in "
            "params.yaml, then `dvc repro`, trains others)"
        )
    return TASKS_TRAINED / task


def _networks(params: Params) -> ModelCache:
    """Return the project's language model, loaded as the stages load it."""
    return ModelCache(
        partial(
            load_model,
            _made(MODEL),
            device=params.runtime.device,
            dtype=params.model.dtype,
            threads=params.runtime.threads,
        )
    )


def _made(folder: Path) -> Path:
    if not folder.is_dir():
        raise DataError(
            f"{folder}: not there; run `dvc repro`, or `dvc checkout` or `dvc pull` for what was "
            "made before"
        )
    return folder


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"
