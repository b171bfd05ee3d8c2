"""Stability over templates, told in Markdown."""

from collections.abc import Mapping

from pipeline.report.paper import TABLE_1, TABLE_1_SOURCE, table_1_spread
from pipeline.report.results import Row, StabilityResults
from pipeline.report.tables import escaped, markdown_table, percent, percent_or_empty


def stability_parts(source: str, results: StabilityResults) -> list[str]:
    """Return what is told about stability, but for the figure: Markdown, a block each.

    Args:
        source: where the facts are from.
        results: of the methods.
    """
    paper = _is_table_1(source, results)
    return [
        "Each relation is asked, and trained, under each of several manual templates. Mean, worst, "
        "best and standard deviation (of a sample) are over its templates, then averaged over "
        "relations.\n",
        _methods(results.methods, table_1_spread() if paper else {}),
        _templates(results, paper=paper),
        *([f"{TABLE_1_SOURCE}\n"] if paper else []),
    ]


def _methods(methods: Mapping[str, Row], paper: Mapping[str, Row]) -> str:
    """Return each method's spread over templates: mean, worst, best, standard deviation.

    Args:
        methods: method -> its metrics file.
        paper: the same of the paper's Table 1; empty where it is about other templates.
    """
    counts = ("test/relations", "test/templates")
    rows = [
        [name, *(str(row[count]) for count in counts), *_spread(row)]
        for name, row in methods.items()
    ] + [[f"{name} (paper)", "1", str(len(TABLE_1)), *_spread(row)] for name, row in paper.items()]
    columns = ["method", "relations", "templates", "mean", "worst", "best", "std"]
    return markdown_table(columns, rows)


def _templates(results: StabilityResults, *, paper: bool) -> str:
    """Return P@1 under each template, a column a method.

    Args:
        results: of the methods.
        paper: whether the paper's Table 1 stands beside them.
    """
    methods = list(results.methods)
    rows = [
        [
            row["relation"],
            str(row["number"]),
            escaped(row["template"]),
            str(row["facts"]),
            *(percent_or_empty(row.get(method)) for method in methods),
            *(f"{value:.1f}" for value in (TABLE_1[_lama_form(row)] if paper else ())),
        ]
        for row in results.templates
    ]
    columns = ["relation", "number", "template", "facts", *methods]
    return markdown_table(columns + [f"{name} (paper)" for name in table_1_spread() if paper], rows)


def _is_table_1(source: str, results: StabilityResults) -> bool:
    """Return whether these are LAMA's facts under the templates of the paper's Table 1."""
    return source == "lama" and {
        (row["relation"], _lama_form(row)) for row in results.templates
    } == {("P17", template) for template in TABLE_1}


def _spread(metrics: Row) -> list[str]:
    shares = [metrics[f"test/p_at_1{suffix}"] for suffix in ("", "_worst", "_best")]
    return [*map(percent, shares), f"{100 * metrics['test/p_at_1_std']:.2f}"]


def _lama_form(row: Row) -> str:
    text: str = row["template"]
    return text.replace("{subject}", "[X]").replace("{mask}", "[Y]")
