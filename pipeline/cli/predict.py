"""Predict with trained prompts: the object of a fact, or the answer to an example of a task."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer
from tqdm import tqdm
from typer.core import TyperGroup

from pipeline.cli.console import (
    echo,
    print_columns,
    print_csv,
    print_json,
    print_warning,
    shown_cells,
)
from pipeline.data.lama import Relation, read_lama
from pipeline.errors import DataError
from pipeline.files import write_csv, write_jsonl
from pipeline.inference.inputs import check_encoding, check_required, read_example, read_file
from pipeline.tasks import Example, Task, get_task, task_names
from pipeline.tasks.lama import lama_task, subject_example
from pipeline.tasks.own import own_splits, read_definition

if TYPE_CHECKING:  # torch takes seconds to import
    from pipeline.config.schema import LamaParams, Params, SuperGlueParams
    from pipeline.inference.predictor import TrainedPrompt

# As in dvc.yaml.
MODEL = Path("data/model")
LAMA_SPLITS = Path("data/splits/lama")
LAMA_TRAINED = Path("models/lama")
TASKS_TRAINED = Path("models/superglue")
OWN_SPLITS = Path("data/splits/tasks")
OWN_TRAINED = Path("models/tasks")

# Decimal places of a probability in rows.
_PLACES = 6

Row = dict[str, Any]


class _TaskCommands(TyperGroup):
    """The commands of built-in tasks, and one for each task of the user that has splits."""

    def list_commands(self, ctx: Any) -> list[str]:
        return [*super().list_commands(ctx), *own_splits(OWN_SPLITS)]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        known = super().get_command(ctx, cmd_name)
        folder = own_splits(OWN_SPLITS).get(cmd_name)
        if known is None and folder is None:
            _check_not_new(cmd_name)
        if known is not None or folder is None:
            return known
        commands = typer.Typer()
        _add_command(commands, read_definition(folder).task, OWN_TRAINED)
        return typer.main.get_command(commands)


def _check_not_new(name: str) -> None:
    """Check that an unknown name is not that of a task that was added to params.yaml.

    Raises:
        DataError: it is.
    """
    from pipeline.config.schema import load_params

    params_file = Path("params.yaml")
    if params_file.is_file() and name in load_params(params_file).tasks:
        raise DataError(f"{name} was not trained; `dvc repro` trains the tasks of {params_file}")


app = typer.Typer(cls=_TaskCommands, help=__doc__, no_args_is_help=True)

Methods = Annotated[
    list[str] | None,
    typer.Option("--method", help="Method to use; may be repeated. Default: all methods."),
]
InputFile = Annotated[
    Path | None,
    typer.Option(
        "--file", help="Inputs, a row each: .csv or .tsv with a header, .jsonl, .parquet."
    ),
]
Out = Annotated[
    Path | None,
    typer.Option(help="With --file: the new .csv or .jsonl file to write. Default: the screen."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, one object per line.")]

_SHARED_OPTIONS: dict[str, tuple[Any, Any]] = {
    "methods": (Methods, None),
    "file": (InputFile, None),
    "out": (Out, None),
    "as_json": (AsJson, False),
}

_LAMA_EXAMPLES = """Examples:
  ptune predict lama P17 Lyon
  ptune predict lama P17 "New York" Oslo --method p-tuning --top 3
  ptune predict lama P17 --file rows.csv --out answers.csv

A file has a column subject, and may have a column relation."""


@dataclass(frozen=True)
class PredictOptions:
    """The options that all commands share, without a `file` for a typed input."""

    methods: Sequence[str]
    file: Path | None
    out: Path | None
    as_json: bool

    @property
    def as_table(self) -> bool:
        """Whether the predictions are printed as tables for people to read."""
        return self.file is None and not self.as_json

    def check(self, typed: Sequence[str]) -> None:
        """Check that the options go together with the typed parts of an input.

        Raises:
            DataError: they do not.
        """
        if self.file is not None and typed:
            raise DataError(f"--file holds the inputs, so leave out {', '.join(typed)}")
        if self.out is None:
            return
        if self.file is None:
            raise DataError("--out needs --file; predictions for a typed input are printed")
        if self.as_json:
            raise DataError("--json is for printing; name the file --out something.jsonl instead")
        if self.out.suffix.lower() not in (".csv", ".jsonl"):
            raise DataError(f"--out {self.out}: name a file that ends in .csv or .jsonl")
        if self.out.exists():
            raise DataError(f"--out {self.out}: exists; name another file, or delete this one")


@dataclass(frozen=True)
class Question:
    """One input.

    Attributes:
        task: a task or relation.
        line: of the file; None where it was typed.
        columns: that identify it in the output.
    """

    task: str
    example: Example
    line: int | None
    columns: Mapping[str, str]


@dataclass(frozen=True)
class Prediction:
    """The answers of one trained prompt to one question, with their probabilities."""

    question: Question
    trained: "TrainedPrompt"
    answers: dict[str, float]

    @property
    def columns(self) -> Row:
        """The columns that identify the question and the method."""
        line = {} if self.question.line is None else {"line": self.question.line}
        return {**line, **self.question.columns, "method": self.trained.method}

    @property
    def best(self) -> str:
        """The likeliest answer; of equals the first, as in evaluation."""
        return max(self.answers, key=lambda answer: self.answers[answer])


@app.command(epilog=_LAMA_EXAMPLES)
def lama(
    relation: Annotated[str | None, typer.Argument(help="A trained relation, such as P17.")] = None,
    subjects: Annotated[list[str] | None, typer.Argument(help="The subjects of the facts.")] = None,
    top: Annotated[int, typer.Option(min=1, help="Number of answers of each method.")] = 5,
    methods: Methods = None,
    file: InputFile = None,
    out: Out = None,
    as_json: AsJson = False,
) -> None:
    """Predict the object of a fact: the likeliest of the allowed words, by each method."""
    options = PredictOptions(methods or [], file, out, as_json)
    predict_facts(relation, subjects or [], top, options)


def _add_command(commands: typer.Typer, task: Task, trained: Path) -> None:
    """Add the command of a task whose prompts are in a folder of this one."""
    register = commands.command(
        task.name, help=task.schema.description, epilog=_task_examples(task)
    )
    register(_task_command(task, trained))


def _task_command(task: Task, trained: Path) -> Callable[..., None]:
    """Build a task's command: an option for each field of its schema, and the shared ones."""

    def command(
        methods: list[str] | None, file: Path | None, out: Path | None, as_json: bool, **fields: Any
    ) -> None:
        typed = {name: value for name, value in fields.items() if value is not None}
        options = PredictOptions(methods or [], file, out, as_json)
        predict_examples(task, trained, typed, options)

    options: dict[str, tuple[Any, Any]] = {}
    for field in task.schema.fields:
        option = typer.Option(help=field.description, show_default=False)
        options[field.name] = Annotated[field.value_type | None, option], None
    # Typer derives the options from a function's signature.
    vars(command)["__signature__"] = inspect.Signature(
        [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=type_, default=value)
            for name, (type_, value) in (options | _SHARED_OPTIONS).items()
        ]
    )
    return command


def _option_name(field: str) -> str:
    return f"--{field.replace('_', '-')}"


def _task_examples(task: Task) -> str:
    name, schema = task.name, task.schema
    typed = "".join(
        f' \\\n    {_option_name(field.name)} "{field.example}"'
        for field in schema.fields
        if field.required
    )
    return (
        f"Examples:\n  ptune predict {name}{typed}\n"
        f"  ptune predict {name} --file rows.csv --out answers.csv\n\n"
        f"A file has columns {', '.join(schema.required)}"
        f"{'; or it is a .jsonl file of SuperGLUE' if name in task_names() else ''}."
    )


for _name in task_names():
    _add_command(app, get_task(_name), TASKS_TRAINED)


def predict_facts(
    relation: str | None, subjects: Sequence[str], top: int, options: PredictOptions
) -> None:
    """Predict the objects of facts, and print or write the likeliest words of each method.

    Raises:
        PipelineError: something is missing, unknown or malformed.
    """
    from pipeline.config.schema import LamaMethod, load_params
    from pipeline.inference.predictor import best_by_task, load_methods

    options.check(subjects)
    params, known = load_params(Path("params.yaml")), get_args(LamaMethod)
    trainings = load_methods(LAMA_TRAINED, known, options.methods, _tuned(params.lama))
    best = {method: best_by_task(prompts) for method, prompts in trainings.items()}
    relations = list(dict.fromkeys(name for prompts in best.values() for name in prompts))
    questions = _read_facts(relation, subjects, relations, options.file)
    splits = read_lama(_existing(LAMA_SPLITS), [])
    tasks = {
        name: lama_task(name, splits.vocabulary, splits.objects.get(name, ())) for name in relations
    }
    _warn_of_missing(LAMA_TRAINED, params.lama.methods, trainings, options)
    predictions = _predict(params, tasks, questions, best, options, top)
    if options.as_table:
        print_top_k(splits.relations, predictions)
    else:
        rows = [
            {**one.columns, "rank": rank, "answer": word, "probability": round(value, _PLACES)}
            for one in predictions
            for rank, (word, value) in enumerate(one.answers.items(), 1)
        ]
        write_rows(rows, options)


def predict_examples(
    task: Task, trained: Path, typed: Mapping[str, Any], options: PredictOptions
) -> None:
    """Predict the labels of a task's examples, and print or write their probabilities.

    The folder `trained` has a folder for each task.

    Raises:
        PipelineError: something is missing, unknown or malformed.
    """
    from pipeline.config.schema import SuperGlueMethod, load_params
    from pipeline.inference.predictor import best_by_task, load_methods

    options.check([_option_name(name) for name in typed])
    available = sorted(path.name for path in trained.glob("*/") if path.name[0] != ".")
    if available and task.name not in available:
        raise DataError(
            f"{task.name} was not trained; trained are {', '.join(available)} (superglue.tasks in "
            "params.yaml, then `dvc repro`, trains others)"
        )
    params, known = load_params(Path("params.yaml")), get_args(SuperGlueMethod)
    folder = trained / task.name
    trainings = load_methods(folder, known, options.methods, _tuned(params.superglue))
    best = {method: best_by_task(prompts) for method, prompts in trainings.items()}
    own = params.tasks.get(task.name)
    columns = {} if own is None else own.data.fields
    questions = _read_examples(task, typed, options.file, columns)
    _warn_of_missing(folder, params.superglue.methods, trainings, options)
    predictions = _predict(params, {task.name: task}, questions, best, options, None)
    if options.as_table:
        print_labels(predictions, task.schema.label_names)
        rows = []
        for method, prompts in trainings.items():
            chosen = best[method][task.name]
            of = f", the best of {len(prompts)} trainings" if len(prompts) > 1 else ""
            rows.append([method, chosen.name, f"dev {100 * chosen.prompt.dev_score:.1f}{of}"])
        print_columns(rows)
    else:
        write_rows(
            [
                {
                    **one.columns,
                    "training": one.trained.name,
                    "label": one.best,
                    **{f"p_{label}": round(value, _PLACES) for label, value in one.answers.items()},
                }
                for one in predictions
            ],
            options,
        )


def _tuned(section: "LamaParams | SuperGlueParams") -> list[str]:
    """The methods that tune the language model."""
    return [method for method, config in section.training.items() if config.model is not None]


def _warn_of_missing(
    folder: Path, methods: Sequence[str], found: Mapping[str, Any], options: PredictOptions
) -> None:
    """Warn of the methods of `params.yaml` that have no trained prompts in a folder."""
    for method in methods:
        if method not in found and not options.methods:
            print_warning(
                f"warning: {folder / method}: no trained prompts, so {method} does not answer; run "
                "`dvc repro`, or `dvc checkout` or `dvc pull` to restore earlier results",
                color="yellow",
            )


def _predict(
    params: "Params",
    tasks: Mapping[str, Task],
    questions: Sequence[Question],
    best: Mapping[str, Mapping[str, "TrainedPrompt"]],
    options: PredictOptions,
    top: int | None,
) -> list[Prediction]:
    """Predict by each method's best prompt of each task; the result is ordered by question."""
    from pipeline.inference.predictor import QuestionError, predict_all
    from pipeline.models.loading import ModelCache, model_loader

    models = ModelCache(model_loader(_existing(MODEL), params))
    predictions: list[list[Prediction]] = [[] for _ in questions]
    total = sum(question.task in prompts for prompts in best.values() for question in questions)
    # None: hidden if standard error is not a terminal.
    hidden = True if options.file is None else None
    with tqdm(total=total, unit=" answers", disable=hidden, leave=False) as bar:
        for method, prompts in best.items():
            bar.set_description(method)
            try:
                answers = predict_all(
                    models,
                    prompts,
                    tasks,
                    [(question.task, question.example) for question in questions],
                    top=top,
                    max_tokens_per_forward=params.runtime.max_tokens_per_forward,
                    on_rows=bar.update,
                )
            except QuestionError as error:
                if options.file is None:
                    raise
                line = questions[error.position].line
                raise DataError(f"{options.file}: line {line}: {error}") from None
            for question, of_question, answer in zip(questions, predictions, answers, strict=True):
                if answer:
                    of_question.append(Prediction(question, prompts[question.task], answer))
    return [prediction for group in predictions for prediction in group]


def _read_facts(
    relation: str | None, subjects: Sequence[str], relations: Sequence[str], file: Path | None
) -> list[Question]:
    """Read typed subjects or a file; a relation in a line of the file takes precedence."""

    def check_relation(name: Any) -> None:
        if name not in relations:
            raise DataError(
                f"relation {name} was not trained; trained are {', '.join(relations)} "
                "(lama.relations in params.yaml, then `dvc repro`, trains others)"
            )

    def read(record: Mapping[str, Any], line: int | None) -> list[Question]:
        fields = {key: value for key, value in record.items() if value is not None}
        if relation is not None and not fields.get("relation"):
            fields["relation"] = relation
        check_required(fields, ["relation", "subject"])
        check_relation(fields["relation"])
        subject = fields["subject"]
        if not isinstance(subject, str):
            raise DataError(f"subject is {subject!r}, not text")
        check_encoding("subject", subject)
        columns = {"relation": fields["relation"], "subject": subject}
        return [Question(fields["relation"], subject_example(subject), line, columns)]

    if relation is not None:
        check_relation(relation)
    if file is not None:
        required = ["subject"] if relation is not None else ["relation", "subject"]
        return read_file(file, required, read)
    if relation is None or not subjects:
        raise DataError(
            f"lama: give a relation and a subject, such as {relation or relations[0]} Lyon; or "
            "--file with a column subject"
        )
    unique = dict.fromkeys(subjects)
    return [question for subject in unique for question in read({"subject": subject}, None)]


def _read_examples(
    task: Task, typed: Mapping[str, Any], file: Path | None, columns: Mapping[str, str]
) -> list[Question]:
    required = task.schema.required

    def read(record: Mapping[str, Any], line: int | None) -> list[Question]:
        examples = read_example(task, record, idx=line or 0)
        names = [{} if line is None else {"example": example.name} for example in examples]
        return [
            Question(task.name, example, line, {**name, **example.values})
            for name, example in zip(names, examples, strict=True)
        ]

    if file is not None:
        return read_file(file, required, read, columns)
    missing = [_option_name(name) for name in required if name not in typed]
    if missing:
        raise DataError(f"{task.name}: no {' and no '.join(missing)}; give that, or --file")
    try:
        return read(typed, None)
    except DataError as error:
        raise DataError(f"{task.name}: {error}") from None


def _existing(folder: Path) -> Path:
    if not folder.is_dir():
        raise DataError(
            f"{folder}: not there; run `dvc repro`, or `dvc checkout` or `dvc pull` to restore "
            "earlier results"
        )
    return folder


def write_rows(rows: Sequence[Row], options: PredictOptions) -> None:
    """Write rows to a file in the format of its suffix, or print them as CSV or JSON lines."""
    if options.out is not None:
        if options.out.suffix.lower() == ".jsonl":
            write_jsonl(options.out, rows)
        else:
            shown = list(map(shown_cells, rows))
            write_csv(options.out, list(shown[0]), shown)
        echo(f"{options.out}: {len(rows)} rows", err=True)
    elif options.as_json:
        for row in rows:
            print_json(row)
    else:
        print_csv(rows)


def print_top_k(relations: Mapping[str, Relation], predictions: Sequence[Prediction]) -> None:
    """Print the likeliest words of each subject, the methods side by side, and the prompts."""
    for (relation, subject), group in groupby(
        predictions, lambda one: tuple(one.question.columns.values())
    ):
        echo(f"{subject}  ({relation}, {relations[relation].label})")
        columns: list[list[str]] = []
        for one in group:
            columns.append([one.trained.method, *one.answers])
            columns.append(["", *map(_percent, one.answers.values())])
        print_columns(zip(*columns, strict=True), right=range(1, len(columns), 2))
        echo()
    prompts = {one.trained.method: one.trained.prompt for one in predictions}
    print_columns(
        [method, prompt.template, f"dev P@1 {100 * prompt.dev_score:.1f}"]
        for method, prompt in prompts.items()
    )


def print_labels(predictions: Sequence[Prediction], label_names: Mapping[str, str]) -> None:
    """Print each method's answer and the probability of each label."""
    shown = {label: label for label in predictions[0].answers}
    shown |= {label: f"{label} ({meaning})" for label, meaning in label_names.items()}
    rows = [
        [one.trained.method, shown[one.best], *map(_percent, one.answers.values())]
        for one in predictions
    ]
    print_columns([["method", "answer", *shown.values()], *rows], right=range(2, 2 + len(shown)))
    echo()


def _percent(probability: float) -> str:
    return f"{100 * probability:.1f}%"
