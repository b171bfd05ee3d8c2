"""What `ptune predict` does: find what was trained, read the questions, ask.

Apart from the commands themselves, as torch takes seconds to import.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, get_args

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
from pipeline.inference.forms import check_needed, check_writing, read_question
from pipeline.inference.predictor import (
    ModelCache,
    QuestionError,
    TrainedPrompt,
    best_by_task,
    choose_methods,
    load_trained,
    predict,
)
from pipeline.models.loading import load_model
from pipeline.tasks import Example, Task, get_task, task_names
from pipeline.tasks.lama import lama_task, subject_example

# As dvc.yaml has them.
PARAMS = Path("params.yaml")
MODEL = Path("data/model")
LAMA_SPLITS = Path("data/splits/lama")
LAMA_TRAINED = Path("models/lama")
TASKS_TRAINED = Path("models/superglue")


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
class Question:
    """One question.

    Attributes:
        line: of the file; None where it was typed.
        about: what the answers show of it.
        task: its name; a relation is one.
        example: as the task reads it.
    """

    line: int | None
    about: Mapping[str, str]
    task: str
    example: Example


def ask_lama(relation: str | None, subjects: Sequence[str], top: int, wishes: Wishes) -> None:
    """Ask relations about subjects, and show the likeliest words of each method.

    Raises:
        PipelineError: something is missing, unknown or malformed.
    """
    wishes.check(subjects)
    params = load_params(PARAMS)
    methods = choose_methods(LAMA_TRAINED, get_args(LamaMethod), wishes.methods)
    best = {
        method: best_by_task(load_trained(LAMA_TRAINED / method).values()) for method in methods
    }
    relations = list(dict.fromkeys(name for prompts in best.values() for name in prompts))
    questions = _subjects(relation, subjects, relations, wishes.file)
    splits = read_lama(_made(LAMA_SPLITS), [])
    tasks = {name: lama_task(name, splits.vocabulary) for name in relations}
    answers = _answer(params, tasks, questions, best, wishes.file, top)
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
    best = {method: best_by_task(prompts) for method, prompts in trainings.items()}
    questions = _examples(task, typed, wishes.file)
    answers = _answer(params, {task: get_task(task)}, questions, best, wishes.file, None)
    if wishes.read_by_people:
        show_labels(answers, get_task(task).schema.label_names)
        counts = {method: len(prompts) for method, prompts in trainings.items()}
        show_trainings([prompts[task] for prompts in best.values()], counts)
    else:
        give_rows(label_rows(answers), wishes.out, as_json=wishes.as_json)


def _answer(
    params: Params,
    tasks: Mapping[str, Task],
    questions: Sequence[Question],
    best: Mapping[str, Mapping[str, TrainedPrompt]],
    file: Path | None,
    top: int | None,
) -> list[Answered]:
    """Predict by each method's best prompt of each task; the result is ordered by question."""
    models = _networks(params)
    positions: dict[str, list[int]] = {}
    for position, question in enumerate(questions):
        positions.setdefault(question.task, []).append(position)
    groups = [
        (prompts[task], places)
        for prompts in best.values()
        for task, places in positions.items()
        if task in prompts
    ]
    answered: list[list[Answered]] = [[] for _ in questions]
    total = sum(len(places) for _, places in groups)
    # None: nothing is drawn where nobody looks.
    hidden = True if file is None else None
    with tqdm(total=total, unit=" answers", disable=hidden, leave=False) as bar:
        for trained, places in groups:
            bar.set_description(trained.method)
            chosen = [questions[place] for place in places]
            with _lines_named(file, chosen):
                answers = predict(
                    models,
                    trained,
                    tasks[trained.task],
                    [question.example for question in chosen],
                    top=top,
                    max_rows_per_forward=params.runtime.max_rows_per_forward,
                    on_rows=bar.update,
                )
            for place, question, answer in zip(places, chosen, answers, strict=True):
                answered[place].append(Answered(question.line, question.about, trained, answer))
    return [one for own in answered for one in own]


@contextlib.contextmanager
def _lines_named(file: Path | None, questions: Sequence[Question]) -> Iterator[None]:
    """Say of a question that does not fit in which line it stands."""
    try:
        yield
    except QuestionError as error:
        if file is None:
            raise
        raise DataError(f"{file}: line {questions[error.position].line}: {error}") from None


def _subjects(
    relation: str | None, subjects: Sequence[str], relations: Sequence[str], file: Path | None
) -> list[Question]:
    """Return what is asked, as typed or out of a file; a relation in a line goes first."""
    if relation is not None:
        _check_relation(relation, relations)

    def read(record: Mapping[str, Any], line: int | None) -> list[Question]:
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
        return [Question(line, about, given["relation"], subject_example(subject))]

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


def _examples(task: str, typed: Mapping[str, Any], file: Path | None) -> list[Question]:
    """Return what is asked, as typed or out of a file."""
    schema = get_task(task).schema

    def read(record: Mapping[str, Any], line: int | None) -> list[Question]:
        return [
            Question(
                line, {**({} if line is None else {"example": one.name}), **one.values}, task, one
            )
            for one in read_question(get_task(task), record, idx=line or 0)
        ]

    if file is not None:
        return read_questions(file, schema.required, read)
    missing = [_option(name) for name in schema.required if name not in typed]
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
