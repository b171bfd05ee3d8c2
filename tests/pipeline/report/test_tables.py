import re
from html import unescape

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from pipeline.report.results import LamaResults, TaskResults
from pipeline.report.tables import (
    escaped,
    lama_answers,
    lama_counts,
    lama_methods,
    lama_relations,
    lama_title,
    markdown_table,
    task_methods,
)
from tests.pipeline.report.conftest import SPLITS

RESULTS = LamaResults(
    methods={
        "manual": {
            "test/p_at_1": 0.2929,
            "dev/p_at_1": 0.26357,
            "test/facts": 509,
            "test/majority": 0.1,
            "test/naive_bayes": 0.25,
        },
        "p-tuning": {
            "test/p_at_1": 1.0,
            "dev/p_at_1": 0.0,
            "test/facts": 508,
            "test/majority": 0.1,
            "test/naive_bayes": 0.25,
        },
    },
    relations=[
        {"relation": "P17", "label": "country", "facts": 198, "left_out": 2, "majority": 1 / 9,
         "naive_bayes": 1 / 8,
         "manual": 0.5, "p-tuning": 2 / 3},
        {"relation": "P30", "label": "continent", "facts": 75, "left_out": 0, "majority": 0.0,
         "naive_bayes": 1.0,
         "manual": 0.00049, "p-tuning": 0.9995},
    ],
    curves=[],
    answers=[
        {"relation": "P17", "subject": "Lyon", "object": "France", "manual": "Italy",
         "p-tuning": "France"},
        {"relation": "P17", "subject": "Oslo", "object": "Norway", "p-tuning": "Norwa"},
    ],
    splits={},
)  # fmt: skip


def test_a_table_worked_out_by_hand():
    assert markdown_table(["a", "b", "c"], [["1", "2.5", "3"], ["x", "", "-z"]]) == (
        "| a | b | c |\n| --- | ---: | --- |\n| 1 | 2.5 | 3 |\n| x |  | -z |\n"
    )


def test_methods_stand_above_both_controls():
    assert lama_methods(RESULTS).splitlines() == [
        "| method | test P@1 | dev P@1 | test facts |",
        "| --- | ---: | ---: | ---: |",
        "| manual | 29.3 | 26.4 | 509 |",
        "| p-tuning | 100.0 | 0.0 | 508 |",
        "| majority class | 10.0 |  | 509 |",
        "| naive Bayes | 25.0 |  | 509 |",
    ]


def test_relations_have_a_row_each_and_methods_a_column():
    assert lama_relations(["manual", "p-tuning"], RESULTS.relations).splitlines() == [
        "| relation | facts | left out | majority class | naive Bayes | manual | p-tuning |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
        "| P17 country | 198 | 2 | 11.1 | 12.5 | 50.0 | 66.7 |",
        "| P30 continent | 75 | 0 | 0.0 | 100.0 | 0.0 | 100.0 |",
    ]


def test_a_method_that_was_not_asked_a_relation_has_an_empty_cell():
    table = lama_relations(["discrete", "manual"], RESULTS.relations[:1])
    assert table.splitlines()[2] == "| P17 country | 198 | 2 | 11.1 | 12.5 |  | 50.0 |"


@pytest.mark.parametrize(
    ("source", "subset", "relations", "title"),
    [
        ("geonames", "34k", 4, "Knowledge probing: `geonames`, 4 relations"),
        ("geonames", "34k", 1, "Knowledge probing: `geonames`, 1 relation"),
        ("lama", "34k", 11, "Knowledge probing: `lama` 34k, 11 of 41 relations"),
        ("lama", "29k", 41, "Knowledge probing: `lama` 29k, 41 relations"),
    ],
)
def test_a_title_says_what_was_asked_and_whether_that_is_all(source, subset, relations, title):
    assert lama_title(source, subset, relations) == title


def test_left_out_facts_are_counted_in_a_sentence():
    metrics = {"test/facts": 509, "test/left_out": 12}
    assert lama_counts(metrics, {"relations": 4, "test/facts": 521}) == (
        "Of 521 test facts, 12 were left out: their object is not one token of this model."
    )


def test_what_lama_loses_before_training_is_counted_too():
    metrics = {"test/facts": 509, "test/left_out": 12}
    assert lama_counts(metrics, SPLITS).endswith(
        "Removed before: 101 train and 32 dev facts whose subject and object stand in a later "
        "split too, and those whose object is outside the allowed vocabulary (7 train, 8 dev, 9 "
        "test)."
    )


MARKUP = st.text(st.sampled_from("\\|*_`~$[](){}<>&;!#a \n"))


@settings(max_examples=200, deadline=None)
@given(st.lists(MARKUP | st.text(), min_size=1, max_size=3))
@example(["~~a~~", "a|b", "\\|"])
def test_any_text_is_shown_as_it_is_in_one_cell(texts):
    table = markdown_table(["x"] * len(texts), [[escaped(text) for text in texts]])
    html = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).render(table)
    cells = [unescape(cell) for cell in re.findall("<td.*?>(.*?)</td>", html)]
    # Markdown has no NUL of its own.
    assert cells == [" ".join(text.replace("\0", "\ufffd").split()) for text in texts]


def test_a_dollar_opens_no_formula():
    assert escaped("$a$") == r"\$a\$"


def test_right_answers_are_bold_and_missing_ones_empty():
    assert lama_answers(RESULTS).splitlines()[2:] == [
        "| P17 | Lyon | France | Italy | **France** |",
        "| P17 | Oslo | Norway |  | Norwa |",
    ]


def test_tasks_follow_each_other_each_with_its_control():
    tasks = [
        TaskResults(
            task,
            {
                "manual": {
                    "test/score": score,
                    "dev/score": 0.25,
                    **{f"test/{metric}": value for metric, value in metrics.items()},
                    "test/majority": 0.5,
                    **{f"test/majority_{metric}": 0.5 for metric in metrics},
                    "test/examples": 277,
                    "test/trainings": trainings,
                    **spread,
                }
            },
            trainings={},
            settings={},
            curves=[],
        )
        for task, score, metrics, trainings, spread in (
            ("rte", 0.675, {"accuracy": 0.675}, 1, {}),
            ("cb", 0.1, {"accuracy": 0.15, "f1": 0.05}, 3, {"test/score_std": 0.0123}),
        )
    ]
    assert task_methods(tasks).splitlines()[2:] == [
        "| rte | manual | 67.5 | 25.0 | accuracy 67.5 | 1 | 277 |",
        "| rte | majority class | 50.0 |  | accuracy 50.0 |  | 277 |",
        "| cb | manual | 10.0 ± 1.2 | 25.0 | accuracy 15.0, macro F1 5.0 | 3 | 277 |",
        "| cb | majority class | 50.0 |  | accuracy 50.0, macro F1 50.0 |  | 277 |",
    ]
