"""How `ptune predict` gives its answers: laid out for the eye, or as rows of CSV or JSON."""

import csv
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import typer

from pipeline.data.lama import Relation
from pipeline.files import write_csv, write_jsonl
from pipeline.inference.predictor import Answers, TrainedPrompt

Row = dict[str, Any]

# Decimal places of a probability in rows.
_PLACES = 6


@dataclass(frozen=True)
class Answered:
    """What one method answers to one question.

    Attributes:
        line: of the question's file; None where it was typed.
        about: the question.
        trained: who answers.
        answers: with their probabilities.
    """

    line: int | None
    about: Mapping[str, str]
    trained: TrainedPrompt
    answers: Answers

    @property
    def place(self) -> Row:
        """The columns that say what is answered, and by whom."""
        line = {} if self.line is None else {"line": self.line}
        return {**line, **self.about, "method": self.trained.method}


def word_rows(answered: Iterable[Answered]) -> list[Row]:
    """Return a row for each word."""
    return [
        {**one.place, "rank": rank, "answer": word, "probability": round(probability, _PLACES)}
        for one in answered
        for rank, (word, probability) in enumerate(one.answers.items(), 1)
    ]


def label_rows(answered: Iterable[Answered]) -> list[Row]:
    """Return a row for each example and method."""
    return [
        {
            **one.place,
            "training": one.trained.name,
            "label": _best(one.answers),
            **{f"p_{label}": round(value, _PLACES) for label, value in one.answers.items()},
        }
        for one in answered
    ]


def give_rows(rows: Sequence[Row], out: Path | None, *, as_json: bool) -> None:
    """Write rows to a file of the kind that its name says, or print them as CSV or JSON lines."""
    columns = list(rows[0])
    if out is not None:
        if out.suffix.lower() == ".jsonl":
            write_jsonl(out, rows)
        else:
            write_csv(out, columns, rows)
        typer.echo(f"{out}: {len(rows)} rows", err=True)
    elif as_json:
        for row in rows:
            typer.echo(json.dumps(row, ensure_ascii=False))
    else:
        writer = csv.DictWriter(sys.stdout, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def show_words(relations: Mapping[str, Relation], answered: Sequence[Answered]) -> None:
    """Print the words of each subject, the methods side by side, and what asked for them."""
    for (relation, subject), own in groupby(answered, lambda one: tuple(one.about.values())):
        typer.echo(f"{subject}  ({relation}, {relations[relation].label})")
        columns: list[list[str]] = []
        for one in own:
            columns.append([one.trained.method, *one.answers])
            columns.append(["", *map(_percent, one.answers.values())])
        _table(zip(*columns, strict=True), right=range(1, len(columns), 2))
        typer.echo()
    prompts = {one.trained.method: one.trained.prompt for one in answered}
    _table(
        [
            [method, prompt.template, f"dev P@1 {100 * prompt.dev_score:.1f}"]
            for method, prompt in prompts.items()
        ]
    )


def show_labels(answered: Sequence[Answered], says: Mapping[str, str] | None) -> None:
    """Print each method's answer and the probability of each label."""
    shown = {label: label for label in answered[0].answers}
    shown |= {label: f"{label} ({meaning})" for label, meaning in (says or {}).items()}
    _table(
        [
            ["method", "answer", *shown.values()],
            *(
                [
                    one.trained.method,
                    shown[_best(one.answers)],
                    *map(_percent, one.answers.values()),
                ]
                for one in answered
            ),
        ],
        right=range(2, 2 + len(shown)),
    )
    typer.echo()


def show_trainings(best: Iterable[TrainedPrompt], counts: Mapping[str, int]) -> None:
    """Print which training each method's answers come from.

    Args:
        best: the trainings.
        counts: method -> how many it was chosen from.
    """
    rows = []
    for one in best:
        count = counts[one.method]
        chosen = f", the best of {count} trainings" if count > 1 else ""
        rows.append([one.method, one.name, f"dev {100 * one.prompt.dev_score:.1f}{chosen}"])
    _table(rows)


def _table(rows: Iterable[Sequence[str]], *, right: Iterable[int] = ()) -> None:
    """Print rows in columns; those of `right` stand at the right of their columns."""
    rows = list(rows)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [
            cell.rjust(width) if number in right else cell.ljust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        typer.echo("  ".join(cells).rstrip())


def _best(answers: Answers) -> str:
    """Return the likeliest answer; of equals the first, as evaluation does."""
    return max(answers, key=lambda answer: answers[answer])


def _percent(probability: float) -> str:
    return f"{100 * probability:.1f}%"
