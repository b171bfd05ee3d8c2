from pipeline.report.results import LamaResults, TaskResults
from pipeline.report.tables import (
    lama_answers,
    lama_methods,
    lama_relations,
    markdown_table,
    task_methods,
)

RESULTS = LamaResults(
    methods={
        "manual": {
            "test/p_at_1": 0.2929,
            "dev/p_at_1": 0.26357,
            "test/facts": 509,
            "test/majority": 0.1,
        },
        "p-tuning": {
            "test/p_at_1": 1.0,
            "dev/p_at_1": 0.0,
            "test/facts": 508,
            "test/majority": 0.1,
        },
    },
    relations=[
        {"relation": "P17", "label": "country", "facts": 198, "left_out": 2, "majority": 1 / 9,
         "manual": 0.5, "p-tuning": 2 / 3},
        {"relation": "P30", "label": "continent", "facts": 75, "left_out": 0, "majority": 0.0,
         "manual": 0.00049, "p-tuning": 0.9995},
    ],
    curves=[],
    answers=[
        {"relation": "P17", "subject": "Lyon", "object": "France", "manual": "Italy",
         "p-tuning": "France"},
        {"relation": "P17", "subject": "Oslo", "object": "Norway", "p-tuning": "Norwa"},
    ],
)  # fmt: skip


def test_a_table_worked_out_by_hand():
    assert markdown_table(["a", "b", "c"], [["1", "2.5", "3"], ["x", "", "-z"]]) == (
        "| a | b | c |\n| --- | ---: | --- |\n| 1 | 2.5 | 3 |\n| x |  | -z |\n"
    )


def test_methods_stand_beside_the_majority_class():
    assert lama_methods(RESULTS).splitlines() == [
        "| method | test P@1 | dev P@1 | test facts |",
        "| --- | ---: | ---: | ---: |",
        "| manual | 29.3 | 26.4 | 509 |",
        "| p-tuning | 100.0 | 0.0 | 508 |",
        "| majority class | 10.0 |  | 509 |",
    ]


def test_relations_have_a_row_each_and_methods_a_column():
    assert lama_relations(RESULTS).splitlines() == [
        "| relation | facts | left out | majority class | manual | p-tuning |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
        "| P17 country | 198 | 2 | 11.1 | 50.0 | 66.7 |",
        "| P30 continent | 75 | 0 | 0.0 | 0.0 | 100.0 |",
    ]


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
                    "test/accuracy": accuracy,
                    "dev/accuracy": 0.25,
                    "test/majority": 0.5,
                    "test/examples": 277,
                }
            },
            [],
        )
        for task, accuracy in (("rte", 0.675), ("cb", 0.1))
    ]
    assert task_methods(tasks).splitlines()[2:] == [
        "| rte | manual | 67.5 | 25.0 | 277 |",
        "| rte | majority class | 50.0 |  | 277 |",
        "| cb | manual | 10.0 | 25.0 | 277 |",
        "| cb | majority class | 50.0 |  | 277 |",
    ]
