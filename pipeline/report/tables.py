"""Tables as Markdown."""

import re
from collections.abc import Sequence

from pipeline.report.results import LamaResults, Row, TaskResults


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table; columns of numbers are aligned to the right."""
    rule = ["---:" if all(map(_is_number, cells)) else "---" for cells in zip(*rows, strict=True)]
    return "\n".join("| " + " | ".join(line) + " |" for line in (columns, rule, *rows)) + "\n"


def lama_methods(results: LamaResults) -> str:
    """Return the methods with their mean P@1, and the majority class beside them."""
    rows = [
        [
            method,
            _percent(metrics["test/p_at_1"]),
            _percent(metrics["dev/p_at_1"]),
            str(metrics["test/facts"]),
        ]
        for method, metrics in results.methods.items()
    ]
    rows += _majority_row(results.methods, "test/facts")
    return markdown_table(["method", "test P@1", "dev P@1", "test facts"], rows)


def lama_relations(results: LamaResults) -> str:
    """Return P@1 of each relation and method."""
    methods = list(results.methods)
    rows = [
        [
            f"{row['relation']} {row['label']}",
            str(row["facts"]),
            str(row["left_out"]),
            _percent(row["majority"]),
            *(_percent(row[method]) for method in methods),
        ]
        for row in results.relations
    ]
    return markdown_table(["relation", "facts", "left out", "majority class", *methods], rows)


def lama_answers(results: LamaResults) -> str:
    """Return some facts with each method's answer; right answers are bold."""
    methods = list(results.methods)
    rows = [
        [
            row["relation"],
            escaped(row["subject"]),
            escaped(row["object"]),
            *(_marked(row.get(method, ""), row["object"]) for method in methods),
        ]
        for row in results.answers
    ]
    return markdown_table(["relation", "subject", "object", *methods], rows)


def task_methods(results: Sequence[TaskResults]) -> str:
    """Return the methods of each task with their accuracy, and the majority class beside them."""
    rows = []
    for result in results:
        own = [
            [
                method,
                _percent(metrics["test/accuracy"]),
                _percent(metrics["dev/accuracy"]),
                str(metrics["test/examples"]),
            ]
            for method, metrics in result.methods.items()
        ]
        rows += [
            [result.task, *row] for row in own + _majority_row(result.methods, "test/examples")
        ]
    return markdown_table(
        ["task", "method", "test accuracy", "dev accuracy", "test examples"], rows
    )


def _majority_row(methods: dict[str, Row], count: str) -> list[list[str]]:
    first = next(iter(methods.values()))
    return [["majority class", _percent(first["test/majority"]), "", str(first[count])]]


def _is_number(cell: str) -> bool:
    return not cell or cell.replace(".", "", 1).isdigit()


def _marked(answer: str, right: str) -> str:
    return f"**{escaped(answer)}**" if answer == right else escaped(answer)


def escaped(text: str) -> str:
    """Return text that Markdown shows as it is."""
    return re.sub(r"([\\|*_`\[\]<>&])", r"\\\1", text)


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"
