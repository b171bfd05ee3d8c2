"""Tables 4 and 5, checked by the averages that the paper prints."""

import statistics

import pytest

from pipeline.report.paper_tasks import (
    TABLE_4,
    TABLE_5,
    TABLES,
    beside_paper_tasks,
    published_of,
    task_differences,
)
from pipeline.tasks import task_names

# As printed, in the order of the tables.
AVERAGES_4 = [66.2, 67.1, 68.4, 63.0, 70.2, 70.4, 72.5, 73.1, 74.6, 63.1, 74.9, 75.6]
AVERAGES_5 = [58.56, 70.74, 71.81]


@pytest.mark.parametrize(
    ("rows", "averages", "tolerance"),
    [(TABLE_4, AVERAGES_4, 0.0601), (TABLE_5, AVERAGES_5, 0.0051)],
)
def test_the_mean_over_tasks_is_the_average_that_the_paper_prints(rows, averages, tolerance):
    assert len(rows) == len(averages)
    for row, average in zip(rows, averages, strict=True):
        assert set(row.columns) == set(task_names())
        assert sorted(n for cells in row.columns.values() for n in cells) == list(range(9))
        own = statistics.mean(100 * row.score(task) for task in task_names())
        assert own == pytest.approx(average, abs=tolerance), (row.model, row.method)


def test_a_deviation_stands_where_the_paper_has_one_for_the_score():
    pet = TABLE_5[1]
    assert pet.std("rte") == pytest.approx(0.0130)
    assert pet.std("cb") is None
    assert TABLE_4[0].std("rte") is None


def test_of_a_model_that_the_paper_has_only_its_rows_stand_there():
    assert {
        row.model for row in published_of("full-paper", "google-bert/bert-base-cased@main")
    } == {"BERT-base 109M"}
    assert len(published_of("full-held-out", "smollm2-135m-instruct")) == len(TABLE_4)
    assert published_of("multi-split", "albert-xxlarge-v2") == TABLE_5


def test_ours_stand_above_the_papers_with_what_differs():
    scores = {
        "p-tuning": {"cb": (0.561, 0.053), "rte": (0.49, None)},
        "manual": {"cb": (0.427, None)},
    }
    text = beside_paper_tasks("few-shot-32", "smol_lm", scores)
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()]
    assert "Table 5, few-shot" in text
    assert ["model", "method", "cb", "rte"] in lines
    assert ["ours: smol\\_lm", "p-tuning", "56.1 ± 5.3", "49.0"] in lines
    assert ["ours: smol\\_lm", "manual", "42.7", ""] in lines
    # (88.39 + 84.24) / 2
    row = ["ALBERT-xxlarge-v2", "p-tuning (P-tuning)", "86.3", "63.3 ± 3.6"]
    assert row in lines
    assert "no model of this table: compare methods" in text
    assert "64 labeled examples" in text


@pytest.mark.parametrize("protocol", TABLES)
def test_a_model_of_the_paper_is_called_so(protocol):
    row = TABLES[protocol][1][0]
    assert task_differences(protocol, row.hub)[0] == f"{row.hub} is the paper's {row.model}."
