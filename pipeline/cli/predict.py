"""Ask what was trained: about a fact, or an example of a task."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from pipeline.cli.console import report_errors
from pipeline.tasks import get_task, task_names
from pipeline.tasks.base import InputField, InputSchema

app = typer.Typer(help=__doc__, no_args_is_help=True)

Methods = Annotated[
    list[str] | None,
    typer.Option("--method", help="Ask this one; may be repeated. Without it, all are asked."),
]
Questions = Annotated[
    Path | None,
    typer.Option("--file", help="Questions, one a line: .csv with a header, .jsonl."),
]
Out = Annotated[
    Path | None,
    typer.Option(help="With --file: where the answers go, as .csv or .jsonl; else to the screen."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, one object a line.")]
Top = Annotated[int, typer.Option(min=1, help="So many answers of each method.")]
Relation = Annotated[str | None, typer.Argument(help="One that was trained, such as P17.")]
Subjects = Annotated[list[str] | None, typer.Argument(help="What is asked about.")]

# The options that every command here has.
_SHARED: dict[str, tuple[Any, Any]] = {
    "methods": (Methods, None),
    "file": (Questions, None),
    "out": (Out, None),
    "as_json": (AsJson, False),
}


_LAMA_EXAMPLES = """Examples:
  ptune predict lama P17 Lyon
  ptune predict lama P17 "New York" Oslo --method p-tuning --top 3
  ptune predict lama P17 --file rows.csv --out answers.csv

A file has a column subject, and may have a column relation."""


@app.command(epilog=_LAMA_EXAMPLES)
def lama(
    relation: Relation = None,
    subjects: Subjects = None,
    top: Top = 5,
    methods: Methods = None,
    file: Questions = None,
    out: Out = None,
    as_json: AsJson = False,
) -> None:
    """Which object completes a fact? The likeliest of the allowed words, by each method."""
    with report_errors():
        from pipeline.cli.ask import Wishes, ask_lama  # torch takes seconds to import

        ask_lama(relation, subjects or [], top, Wishes(methods or [], file, out, as_json))


def _task_command(task: str, schema: InputSchema) -> Callable[..., None]:
    """Return the command of a task: an option for each field of its form, and the shared ones."""

    def command(
        methods: list[str] | None, file: Path | None, out: Path | None, as_json: bool, **given: Any
    ) -> None:
        with report_errors():
            from pipeline.cli.ask import Wishes, ask_task  # torch takes seconds to import

            ask_task(task, given, Wishes(methods or [], file, out, as_json))

    options = {field.name: (_option(field), None) for field in schema.fields} | _SHARED
    # Typer makes options of a function's signature.
    vars(command)["__signature__"] = inspect.Signature(
        [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=kind, default=value)
            for name, (kind, value) in options.items()
        ]
    )
    return command


def _option(field: InputField) -> Any:
    return Annotated[
        field.value_type | None, typer.Option(help=field.description, show_default=False)
    ]


def _examples(task: str, schema: InputSchema) -> str:
    """Return what stands below a task's help."""
    typed = "".join(
        f' \\\n    --{field.name.replace("_", "-")} "{field.example}"'
        for field in schema.fields
        if field.required
    )
    return (
        f"Examples:\n  ptune predict {task}{typed}\n"
        f"  ptune predict {task} --file rows.csv --out answers.csv\n\n"
        f"A file has columns {', '.join(schema.required)}; or it is one of SuperGLUE's own, .jsonl."
    )


for _name in task_names():
    _schema = get_task(_name).schema
    app.command(_name, help=_schema.description, epilog=_examples(_name, _schema))(
        _task_command(_name, _schema)
    )
