"""Tasks of your own: add one to params.yaml from a file of examples."""

import re
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline.cli.console import echo, print_columns
from pipeline.data.build_own import read_records
from pipeline.data.columns import cells_of_columns, count_labels, guess_columns
from pipeline.data.tables import read_table, split_files
from pipeline.errors import DataError, ParamsError
from pipeline.tasks import Example, Task, task_template
from pipeline.tasks.own import RESERVED_FIELDS, Definition

if TYPE_CHECKING:  # torch takes seconds to import
    from pipeline.config.schema import OwnData, Params
    from pipeline.models.tokenizer import PieceTokenizer

# As in dvc.yaml.
MODEL = Path("data/model")

# Of a new task, in tokens.
_LENGTHS = (64, 128, 256, 512)
_DEFAULT_LENGTH = 128

# Label words where a label's own words are no single token, in the order of the labels.
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

app = typer.Typer(help=__doc__, no_args_is_help=True)


@app.callback()
def _with_subcommand() -> None:
    """Keep `new` a subcommand."""


@app.command(
    epilog="Examples:\n  ptune task new reviews --from reviews.csv\n"
    "  ptune task new reviews --from reviews.csv --label Stars --text Title --text Review"
)
def new(
    name: Annotated[str, typer.Argument(help="Name of the task, for commands and results.")],
    source: Annotated[
        str,
        typer.Option(
            "--from", help="File of examples (.csv, .tsv, .jsonl, .parquet), or folder of splits."
        ),
    ],
    label: Annotated[
        str | None, typer.Option(help="Column of the labels. Default: a guess.")
    ] = None,
    texts: Annotated[
        list[str] | None,
        typer.Option("--text", help="Column of texts; repeatable. Default: a guess."),
    ] = None,
    params_file: Annotated[Path, typer.Option("--params", help="Parameters file to edit.")] = Path(
        "params.yaml"
    ),
) -> None:
    """Add a task to params.yaml: its columns, labels, label words and templates.

    What is guessed can be edited there.
    """
    from pipeline.config.presets import apply_values
    from pipeline.config.schema import OwnData, OwnSplits, load_params

    params = load_params(params_file)
    if name in params.tasks:
        raise ParamsError(f"{params_file}: there is a task '{name}' already; edit or remove it")
    files = split_files(Path(source))
    rows = [row for path in files.values() for row in read_table(path, [], lambda row, _: [row])]
    cells = cells_of_columns(rows)
    try:
        columns = guess_columns(cells, label, texts or [], reserved=RESERVED_FIELDS)
        counts = count_labels(cells[columns.label])
    except DataError as error:
        raise DataError(f"{source}: {error}") from None
    shares = {"train": None, "dev": 0.15, "test": 0.2}
    data = OwnData(
        file=source,
        fields=columns.fields,
        label=columns.label,
        labels=list(counts),
        choices=None,
        group=None,
        splits=OwnSplits.model_validate(shares | dict.fromkeys(files)),
    )
    task = Definition(name, list(columns.fields), list(counts), ["accuracy"]).task
    records = [record for path in files.values() for record in read_records(path, task, data)]
    examples = [example for record in records for example in task.examples(record)]
    codec, masked = _load_codec(params) or (None, False)
    lengths = _lengths(task, examples, codec, masked=masked) if codec else []
    fitting = [size for size in _LENGTHS if sum(n <= size for n in lengths) >= 0.99 * len(lengths)]
    max_length = (fitting or _LENGTHS[-1:])[0] if lengths else _DEFAULT_LENGTH
    verbalizer = choose_words(list(counts), codec)
    apply_values(params_file, [(("tasks", name), _section(data, task, verbalizer, max_length))])

    methods = ", ".join(params.superglue.methods)
    echo(f"{source}: {len(records)} rows in {', '.join(map(str, files.values()))}")
    print_columns(
        [
            ["column", "as"],
            *([column, f"{{{field}}} in templates"] for field, column in columns.fields.items()),
            [columns.label, "label"],
        ]
    )
    echo()
    print_columns(
        [
            ["label", "rows", "word"],
            *([label, str(count), verbalizer[label]] for label, count in counts.items()),
        ],
        right=[1],
    )
    echo()
    echo(_describe_lengths(lengths, max_length))
    echo(f"Written to {params_file}: tasks.{name}. Edit its templates and label words there.")
    echo(f"Train and evaluate {methods} (superglue.methods): dvc repro")


def _section(
    data: "OwnData", task: Task, verbalizer: Mapping[str, str], max_length: int
) -> dict[str, Any]:
    """The task's section of params.yaml, with a key on each line."""
    from pipeline.config.yaml_edit import Block

    prompts = {"max_length": max_length, "verbalizer": dict(verbalizer)}
    return Block(
        data=Block(data.model_dump()),
        metrics=list(task.metrics),
        positive=None,
        prompts=Block(prompts, templates=Block(task.patterns)),
        seeds=[34],
        selection="dev",
        overrides={},
    )


def _load_codec(params: "Params") -> "tuple[PieceTokenizer, bool] | None":
    """The tokenizer of `model.name`, if it is a folder, or of the download; and if it is masked."""
    from pipeline.models.loading import is_masked, load_codec

    folders = (Path(params.model.name).expanduser(), MODEL)
    folder = next((folder for folder in folders if folder.is_dir()), None)
    if folder is None:
        return None
    masked = is_masked(folder)
    return load_codec(folder, masked=masked, start=params.model.start), masked


def _lengths(
    task: Task, examples: Sequence[Example], codec: "PieceTokenizer", *, masked: bool
) -> list[int]:
    """Tokens of each example in the manual pattern, and the prompt tokens of the longest one."""
    from pipeline.models.encoding import build_row

    templates = [task_template(task, n, classifier=n == "classifier") for n in task.patterns]
    prompt_tokens = max(template.prompt_tokens for template in templates)
    manual = task_template(task, "manual", classifier=False)
    rows = [
        build_row(manual, example.values, codec, masked=masked, max_length=10**9)
        for example in examples
    ]
    return [prompt_tokens + len(row.token_ids) for row in rows]


def choose_words(labels: Sequence[str], codec: "PieceTokenizer | None") -> dict[str, str]:
    """Choose a word for each label: its own, where that is one token, or else a letter.

    Without a tokenizer, or where no letter is one token, a label is its own word.
    """
    if codec is None:
        return {label: label for label in labels}
    words: dict[str, str] = {}
    for label in labels:
        parts = re.split(r"[\W_]+", label)[::-1]  # the last word is often the noun
        lower = [part.lower() for part in parts]
        candidates = [label, label.lower(), *parts, *lower, *_LETTERS]
        for word in filter(None, candidates):
            token = codec.single_token_id(word, space_before=True)
            if token is not None and word not in words.values():
                words[label] = word
                break
        else:
            words[label] = label
    return words


def _describe_lengths(lengths: Sequence[int], max_length: int) -> str:
    if not lengths:
        return (
            f"max_length {max_length} and the words are not checked against the model, which is "
            "not there yet: run `dvc repro download-model` first"
        )
    cut = sum(length > max_length for length in lengths)
    return (
        f"tokens of a row, prompt included: median {statistics.median(lengths):.0f}, longest "
        f"{max(lengths)}; max_length {max_length} cuts {cut} of {len(lengths)} rows"
    )
