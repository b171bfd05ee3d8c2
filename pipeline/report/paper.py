"""Published numbers to hold results against, each with where it stands and how far it was checked.

The paper is "GPT Understands, Too", arXiv:2103.10385. All numbers are P@1 in percent, as printed.
`verified`: read in the table. `recalled`: from memory, the table could not be checked.
"""

import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

# All of LAMA's T-REx.
RELATIONS = 41
FACTS = {"34k": "34,039", "29k": "29,521"}


@dataclass(frozen=True)
class Model:
    """A model of the paper's Table 3.

    Attributes:
        size: number of parameters, as the paper has it; empty where it has none.
        name: on the Hugging Face hub; None where it is in no format that is read here.
    """

    size: str
    name: str | None


MODELS = {
    "BERT-base": Model("109M", "bert-base-cased"),
    "BERT-large": Model("335M", "bert-large-cased"),
    "E-BERT": Model("", None),
    "RoBERTa-base": Model("125M", "roberta-base"),
    "RoBERTa-large": Model("355M", "roberta-large"),
    "GPT2-medium": Model("345M", "gpt2-medium"),
    "GPT2-xl": Model("1.5B", "gpt2-xl"),
    "MegatronLM": Model("11B", None),
}


@dataclass(frozen=True)
class Published:
    """A column of a published table.

    Attributes:
        method: the method of this pipeline that it is about.
        called: what the paper calls it.
        table: where it stands.
        status: how far it was checked.
        p_at_1: model -> percent; None: out of memory.
    """

    method: str
    called: str
    table: str
    status: Literal["verified", "recalled"]
    p_at_1: Mapping[str, float | None]


# Subset -> columns.
TABLE_3 = {
    "34k": (
        Published(
            "manual", "MP", "v2, Table 3, left", "verified",
            {"BERT-base": 31.1, "BERT-large": 32.3, "E-BERT": 36.2},
        ),
        Published(
            "discrete", "LPAQA", "v2, Table 3, left", "verified",
            {"BERT-base": 34.1, "BERT-large": 39.4},
        ),
        Published(
            "discrete", "AutoPrompt", "v2, Table 3, left", "verified", {"BERT-base": 43.3}
        ),
        Published(
            "p-tuning", "P-tuning", "v2, Table 3, left", "verified",
            {"BERT-base": 48.3, "BERT-large": 50.6},
        ),
    ),
    "29k": (
        Published(
            "manual", "MP", "v2, Table 3, right", "verified",
            {"BERT-base": 31.7, "BERT-large": 33.5, "RoBERTa-base": 18.4, "RoBERTa-large": 22.1,
             "GPT2-medium": 20.3, "GPT2-xl": 22.8, "MegatronLM": 23.1},
        ),
        Published(
            "fine-tuning", "FT", "v1, Table 2", "recalled",
            {"BERT-base": 51.6, "BERT-large": 54.0, "RoBERTa-base": 49.2, "RoBERTa-large": 52.3,
             "GPT2-medium": 41.9, "GPT2-xl": 44.9, "MegatronLM": None},
        ),
        Published(
            "manual-fine-tuning", "MP+FT", "v1, Table 2", "recalled",
            {"BERT-base": 52.1, "BERT-large": 55.0, "RoBERTa-base": 50.0, "RoBERTa-large": 52.4,
             "GPT2-medium": 38.2, "GPT2-xl": 46.5, "MegatronLM": None},
        ),
        Published(
            "discrete", "AutoPrompt", "v2, Table 3, right", "verified",
            {"BERT-base": 45.2, "RoBERTa-base": 40.0},
        ),
        Published(
            "p-tuning", "P-tuning", "v2, Table 3, right", "verified",
            {"BERT-base": 52.3, "BERT-large": 54.6, "RoBERTa-base": 49.3, "RoBERTa-large": 53.5,
             "GPT2-medium": 46.5, "GPT2-xl": 54.4, "MegatronLM": 64.2},
        ),
    ),
}  # fmt: skip

# What is known against the published numbers.
DOUBTS = {
    "34k": (
        "AutoPrompt on BERT-base is 43.3 in its own paper and 42.2 in OptiPrompt's re-run.",
        "Without any language model, on all 34,039 facts, a majority class reaches 17.3 and naive "
        "Bayes 24.6 (OptiPrompt).",
    ),
    "29k": (
        "AutoPrompt's 45.2 and 40.0 equal its own paper's 45.23 and 40.01, which are on another "
        "subset, and its script uses RoBERTa-large: not the same test.",
        "A re-run of the released code by others (FactLM; pooled over facts and templates, seeds "
        "34 to 36) gave BERT-base 48.8 to 51.2, BERT-large 49.8 to 53.3, RoBERTa-large 27.4 to "
        "47.1.",
        "FT and MP+FT stand in version 1 alone; they are recalled from memory and unchecked.",
        "The paper gives no number of facts: 29,521 is derived, counted with the vocabulary of its "
        "released code.",
    ),
}
SETTING = (
    "The paper: 3 + 3 + 3 prompt tokens (3 + 3 for GPT) around the manual template, learning rate "
    "1e-5, up to 100 epochs, one seed, no standard deviation. It does not say how it averages over "
    "relations."
)

# Template -> P@1 without and with P-tuning; P17, BERT-base-cased.
TABLE_1 = {
    "[X] is located in [Y].": (31.3, 57.8),
    "[X] is located in which country or state? [Y].": (19.8, 57.8),
    "[X] is located in which country? [Y].": (31.4, 58.1),
    "[X] is located in which country? In [Y].": (51.1, 58.1),
}
TABLE_1_SOURCE = (
    "The paper's rows: v2, Table 1 (verified), BERT-base-cased; their spread is derived from the "
    "four rows. The text's standard deviations, 10.1 and 0.46, do not follow from them; it does "
    "not name the prompts behind those."
)


def paper_name(model: str) -> str | None:
    """Return what the paper calls a model of the hub; None if Table 3 does not have it."""
    name = model.partition("@")[0].rpartition("/")[2]
    return next((paper for paper, known in MODELS.items() if known.name == name), None)


def published_models(subset: str) -> list[str]:
    """Return the models of a subset's half of Table 3, in its order."""
    return [model for model in MODELS if any(model in column.p_at_1 for column in TABLE_3[subset])]


def published_columns(subset: str) -> str:
    """Return a line on what stands where in a subset's half of Table 3."""
    return "; ".join(
        f"`{column.method}`: {column.called} ({column.table}, {column.status})"
        for column in TABLE_3[subset]
    )


def published_cell(subset: str, model: str, method: str) -> str:
    """Return what is published of a model and method, as a table shows it; empty if nothing is."""
    shown = []
    for column in TABLE_3[subset]:
        if column.method == method and model in column.p_at_1:
            value = column.p_at_1[model]
            notes = [column.called] if method == "discrete" else []
            notes += [column.status] if column.status != "verified" else []
            text = "out of memory" if value is None else f"{value:.1f}"
            shown.append(f"{text} ({', '.join(notes)})" if notes else text)
    return ", ".join(shown)


def table_1_spread() -> dict[str, dict[str, float]]:
    """Return the spread of Table 1's columns as shares, under the names of a metrics file."""
    return {
        called: {
            "test/p_at_1": statistics.mean(column) / 100,
            "test/p_at_1_worst": min(column) / 100,
            "test/p_at_1_best": max(column) / 100,
            "test/p_at_1_std": statistics.stdev(column) / 100,
        }
        for called, column in zip(
            ("manual", "p-tuning"), zip(*TABLE_1.values(), strict=True), strict=True
        )
    }
