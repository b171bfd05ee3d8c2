"""Published numbers, checked against each other where the paper gives a second number."""

import pytest

from pipeline.report.beside import METHODS, Ours, beside_paper, paper_differences
from pipeline.report.paper import (
    MODELS,
    TABLE_3,
    paper_name,
    published_cell,
    published_models,
    table_1_spread,
)


def _column(subset, method):
    (column,) = [c.p_at_1 for c in TABLE_3[subset] if c.method == method]
    return column


def test_the_gains_of_p_tuning_are_those_that_the_paper_prints():
    manual, tuned = (_column("29k", method) for method in ("manual", "p-tuning"))
    assert list(manual) == list(tuned)
    gains = [round(tuned[model] - manual[model], 1) for model in manual]
    assert gains == [20.6, 21.1, 30.9, 31.4, 26.2, 31.6, 41.1]


def test_the_spread_of_table_1_is_that_of_its_four_rows():
    spread = table_1_spread()
    # (31.3 + 19.8 + 31.4 + 51.1) / 4; squared deviations 4.41, 184.96, 4.00, 313.29.
    assert spread["manual"] == pytest.approx(
        {
            "test/p_at_1": 0.334,
            "test/p_at_1_worst": 0.198,
            "test/p_at_1_best": 0.511,
            "test/p_at_1_std": (506.66 / 3) ** 0.5 / 100,
        }
    )
    assert spread["p-tuning"]["test/p_at_1_std"] == pytest.approx(0.0017, abs=1e-4)


def test_methods_and_models_of_the_tables_are_known():
    for columns in TABLE_3.values():
        assert {column.method for column in columns} <= set(METHODS)
        assert {model for column in columns for model in column.p_at_1} <= set(MODELS)


@pytest.mark.parametrize(
    ("name", "paper"),
    [
        ("bert-base-cased", "BERT-base"),
        ("google-bert/bert-large-cased", "BERT-large"),
        ("openai-community/gpt2-xl@main", "GPT2-xl"),
        ("bert-base-uncased", None),
        ("smollm2-135m-instruct", None),
    ],
)
def test_a_model_of_the_hub_is_known_by_the_paper_s_name(name, paper):
    assert paper_name(name) == paper


@pytest.mark.parametrize(
    ("subset", "model", "method", "cell"),
    [
        ("34k", "BERT-base", "manual", "31.1"),
        ("34k", "BERT-base", "discrete", "34.1 (LPAQA), 43.3 (AutoPrompt)"),
        ("34k", "BERT-base", "fine-tuning", ""),
        ("29k", "BERT-base", "fine-tuning", "51.6 (recalled)"),
        ("29k", "MegatronLM", "manual-fine-tuning", "out of memory (recalled)"),
        ("29k", "RoBERTa-base", "discrete", "40.0 (AutoPrompt)"),
    ],
)
def test_a_cell_says_what_it_is_unless_it_was_read_in_the_table(subset, model, method, cell):
    assert published_cell(subset, model, method) == cell


def test_our_rows_stand_above_the_paper_s_of_the_same_subset():
    ours = [Ours("small|er", "smaller", 11, 10188, {"manual": 0.1234, "prompt-tuning": 0.5})]
    assert beside_paper("34k", ours).splitlines() == [
        "| model | relations | facts | manual | p-tuning | prompt-tuning | discrete |",
        "| --- | --- | --- | ---: | ---: | ---: | --- |",
        "| ours: small\\|er | 11 of 41 | 10188 | 12.3 |  | 50.0 |  |",
        "| BERT-base 109M | 41 | 34,039 | 31.1 | 48.3 |  | 34.1 (LPAQA), 43.3 (AutoPrompt) |",
        "| BERT-large 335M | 41 | 34,039 | 32.3 | 50.6 |  | 39.4 (LPAQA) |",
        "| E-BERT | 41 | 34,039 | 36.2 |  |  |  |",
    ]
    assert published_models("29k") == [model for model in MODELS if model != "E-BERT"]


def test_what_differs_is_said_of_the_rows_it_is_true_of():
    other = paper_differences("29k", [Ours("a", "small", 11, 9, {})])
    assert "small is no model of the paper" in other
    assert "Fewer relations" in other
    assert "`fine-tuning`: FT (v1, Table 2, recalled)" in other
    same = paper_differences("34k", [Ours("a", "roberta-base", 41, 9, {})])
    assert "roberta-base is the paper's RoBERTa-base." in same
    assert "Fewer relations" not in same
    assert "recalled" not in same
