"""Our rows beside those of the paper."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import get_args

from pipeline.config.schema import LamaMethod
from pipeline.report.paper import (
    DOUBTS,
    FACTS,
    MODELS,
    RELATIONS,
    SETTING,
    TABLE_3,
    paper_name,
    published_cell,
    published_columns,
    published_models,
)
from pipeline.report.tables import escaped, markdown_table, percent_or_empty

METHODS: tuple[str, ...] = get_args(LamaMethod)


@dataclass(frozen=True)
class Ours:
    """A row of ours beside the paper's.

    Attributes:
        name: how the row is called.
        model: name of the language model.
        relations: how many were asked.
        facts: how many test facts were asked.
        p_at_1: method -> mean over the relations.
    """

    name: str
    model: str
    relations: int
    facts: int
    p_at_1: Mapping[str, float]


def beside_paper(subset: str, ours: Sequence[Ours]) -> str:
    """Return our rows above those of the same subset of the paper's Table 3."""
    published = {column.method for column in TABLE_3[subset]}
    methods = [
        method for method in METHODS if method in published or any(method in o.p_at_1 for o in ours)
    ]
    rows = [
        [
            f"ours: {escaped(own.name)}",
            f"{own.relations} of {RELATIONS}",
            str(own.facts),
            *(percent_or_empty(own.p_at_1.get(method)) for method in methods),
        ]
        for own in ours
    ] + paper_rows(subset, published_models(subset), methods)
    return markdown_table(["model", "relations", "facts", *methods], rows)


def paper_rows(subset: str, models: Sequence[str], methods: Sequence[str]) -> list[list[str]]:
    """Return the paper's rows of some models: model, relations, facts, then the methods."""
    return [
        [
            " ".join(filter(None, (model, MODELS[model].size))),
            str(RELATIONS),
            FACTS[subset],
            *(published_cell(subset, model, method) for method in methods),
        ]
        for model in models
    ]


def paper_differences(subset: str, ours: Sequence[Ours]) -> str:
    """Return, as Markdown, a list of `difference_lines`."""
    lines = difference_lines(subset, ours, named=escaped)
    return "".join(f"- {line}\n" for line in lines)


def difference_lines(
    subset: str, ours: Sequence[Ours], *, named: Callable[[str], str] = str
) -> list[str]:
    """Return what differs between our rows and the paper's, and what is doubtful.

    Args:
        subset: a key of `TABLE_3`.
        ours: our rows.
        named: how the name of a model is written.
    """
    models = dict.fromkeys(own.model for own in ours)
    fewer = any(own.relations != RELATIONS for own in ours)
    return [
        *(_model_difference(model, named(model)) for model in models),
        *(["Fewer relations than the paper's 41 give another mean."] if fewer else []),
        "An object must be one token of the model here; other facts are left out.",
        SETTING,
        f"The paper's columns: {published_columns(subset)}.",
        *DOUBTS[subset],
    ]


def _model_difference(model: str, written: str) -> str:
    name = paper_name(model)
    if name is None:
        return f"{written} is no model of the paper: compare methods, not numbers."
    return f"{written} is the paper's {name}."
