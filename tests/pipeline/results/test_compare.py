from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest

from pipeline.history.results import Result, latest
from pipeline.report.significance import Answers
from pipeline.report.tables import Table
from pipeline.results.compare import paper_figures, record_of, result_tables

DAY = datetime(2026, 11, 25, 12, tzinfo=UTC)


def make(method: str = "manual", value: float | None = 0.25, **changes: Any) -> Result:
    benchmark = changes.get("benchmark", "lama")
    key = "score" if benchmark == "superglue" else "p_at_1"
    metrics = {"test/facts": 9.0, "test/p_at_1/P17": 0.5}
    if benchmark != "lama":
        metrics = {}
    if value is not None:
        metrics |= {f"test/{key}": value, f"dev/{key}": value}
    fields: dict[str, Any] = {
        "run_id": f"{method}-{len(changes)}-{value}",
        "ended": DAY,
        "model": "small",
        "benchmark": benchmark,
        "task": "",
        "method": method,
        "source": "lama",
        "params": {"lama.subset": "29k"},
        "contents": {"splits": "1111111111", "model": "2222222222"},
        "seconds": {},
        "tags": {},
        "current": False,
        **changes,
    }
    fields["metrics"] = {**metrics, **changes.get("metrics", {})}
    return Result(**fields)


def cells(table: Table) -> list[list[str]]:
    return [list(row.values()) for row in table.rows]


def test_results_on_other_splits_or_another_model_of_the_name_have_separate_rows() -> None:
    contents = {"splits": "3333333333", "model": "2222222222"}
    retrained = {"splits": "1111111111", "model": "4444444444"}
    results = [
        make("manual"),
        make("p-tuning", 0.5),
        make("discrete", 0.3, contents=contents),
        make("fine-tuning", 0.4, contents=retrained),
    ]
    (table,) = result_tables(results, "test")
    assert table.title == "small on lama 29k"
    assert list(table.rows[0]) == [
        "task", "test n", "date", "manual", "fine-tuning", "p-tuning", "discrete",
    ]  # fmt: skip
    day = "2026-11-25"
    assert cells(table) == [
        ["lama (splits 1111111, model 2222222)", "9", day, "25.0", "", "50.0", ""],
        ["lama (splits 3333333, model 2222222)", "9", day, "", "", "", "30.0"],
        ["lama (splits 1111111, model 4444444)", "9", day, "", "40.0", "", ""],
    ]


def test_sizes_steps_and_paired_tests_are_shown_where_they_are_known() -> None:
    sizes = {"train/facts": 120.0, "dev/facts": 40.0, "train/steps": 118.6}
    results = [make("p-tuning", 0.5, metrics=sizes), make("manual"), make("discrete", 0.3)]
    examples = [("a", "b"), ("c", "d"), ("e", "f"), ("g", "h")]

    def answers_of(result: Result) -> Answers | None:
        right = {"manual": [False] * 4, "p-tuning": [True, True, True, False]}.get(result.method)
        if right is None:
            return None
        return Answers([(1, 34)], {"P17": examples}, {"P17": np.array([right])})

    (table,) = result_tables(results, "test", answers_of=answers_of)
    assert table.rows[0]["train/dev/test"] == "120/40/9, 9"
    assert "Steps of a training, lama: p-tuning 119." in table.notes
    # McNemar: three examples are right with p-tuning alone, none with manual alone: 2 / 2^3.
    (note,) = (note for note in table.notes if "minus" in note)
    assert note.startswith("lama, p-tuning minus manual: +75.0 points of P@1 (95 % interval +")
    assert note.endswith("), p = 0.250, McNemar.")
    assert "lama: no paired test; no stored predictions of discrete." in table.notes
    (by_run,) = result_tables(results, "run")
    assert [row["steps"] for row in by_run.rows] == ["119", "", ""]
    assert not any("minus" in note for note in by_run.notes)


def test_runs_outside_dvc_share_no_row() -> None:
    results = [
        make("manual", source=None, params={}, contents={"run": "aaaaaaaaaa"}),
        make("p-tuning", source=None, params={}, contents={"run": "bbbbbbbbbb"}),
    ]
    (table,) = result_tables(results, "test")
    assert table.title == "small on unknown data"
    assert [row["task"] for row in table.rows] == ["lama (run aaaaaaa)", "lama (run bbbbbbb)"]
    assert "outside DVC" in table.notes[-1]


@pytest.mark.parametrize(
    ("changes", "data"),
    [
        ({}, "lama 29k"),
        ({"params": {}}, "lama (subset unknown)"),
        ({"source": "geonames"}, "geonames"),
        ({"benchmark": "superglue", "source": "superglue", "params": {"superglue.protocol": "x"}},
         "superglue x"),
        ({"benchmark": "superglue", "source": "geonames",
          "params": {"superglue.protocol": "few-shot-32"}}, "geonames"),
        ({"benchmark": "superglue", "source": "geonames",
          "params": {"superglue.protocol": "multi-split"}}, "geonames multi-split"),
        ({"benchmark": "stability"}, "lama 29k"),
    ],
)  # fmt: skip
def test_data_are_named_by_source_subset_and_protocol(changes: dict[str, Any], data: str) -> None:
    assert make(**changes).data == data


def test_latest_keeps_one_of_each_model_data_task_and_method() -> None:
    results = [
        make("manual", 0.1),
        make("manual", 0.2),
        make("manual", 0.3, model="other"),
        make("manual", 0.4, source="geonames"),
        make("manual", 0.5, benchmark="superglue", task="rte"),
        make("p-tuning", 0.6),
    ]
    assert latest(results) == [results[0], *results[2:]]


def test_a_spread_is_shown_and_explained() -> None:
    metrics = {"test/score_std": 0.02, "test/trainings": 3.0, "test/examples": 277.0}
    several = make(benchmark="superglue", task="rte", metrics=metrics)
    stable = {"test/p_at_1_std": 0.1, "test/relations": 1.0, "test/templates": 4.0}
    spread = make(benchmark="stability", metrics=stable)
    (glue,) = result_tables([several], "test")
    assert cells(glue) == [["rte", "277", "2026-11-25", "25.0 ± 2.0"]]
    assert "over 3 trainings" in glue.notes[0]
    (stability,) = result_tables([spread], "test")
    assert cells(stability) == [["stability", "", "2026-11-25", "25.0 ± 10.0"]]
    assert "over templates (4 of 1 relation)" in stability.notes[0]


def test_a_run_without_a_score_and_names_of_a_later_version_are_shown() -> None:
    odd = make("new-method", None, benchmark="new", task="new-task")
    (table,) = result_tables([make(), odd], "test")
    assert [row["task"] for row in table.rows] == ["lama", "new-task"]
    assert list(table.rows[0])[-1] == "new-method"
    assert record_of(odd)["test_score"] is None


def test_a_restored_run_is_noted() -> None:
    (table,) = result_tables([make(tags={"dvc.restored": "true"}), make("p-tuning")], "test")
    assert "restored by `ptune sync`" in table.notes[-1]
    assert record_of(make())["restored"] is False
    assert record_of(make(tags={"dvc.restored": "true"}))["restored"] is True


def test_every_run_has_a_line_in_the_order_given() -> None:
    results = [make("p-tuning", 0.5), make("manual", 0.1), make("p-tuning", 0.4)]
    (table,) = result_tables(results, "run")
    assert [row[2:4] for row in cells(table)] == [
        ["p-tuning", "50.0"], ["manual", "10.0"], ["p-tuning", "40.0"],
    ]  # fmt: skip


def test_all_models_of_the_paper_follow_a_model_that_it_lacks() -> None:
    (table,) = result_tables([make()], "test", paper=True)
    assert [row["task"] for row in table.rows][:3] == [
        "lama", "paper: BERT-base 109M", "paper: BERT-large 335M",
    ]  # fmt: skip
    assert cells(table)[1] == ["paper: BERT-base 109M", "29,521", "", "31.7", "51.6 (recalled)",
                             "52.1 (recalled)", "52.3", "45.2 (AutoPrompt)"]  # fmt: skip
    (by_run,) = result_tables([make()], "run", paper=True)
    assert [row[1:4] for row in cells(by_run)][:2] == [
        ["lama", "manual", "25.0"], ["paper: BERT-base 109M", "manual", "31.7"],
    ]  # fmt: skip
    assert "small is not a model of the paper: compare methods, not numbers." in table.notes
    assert "Fewer relations than the paper's 41 give another mean." in table.notes


@pytest.mark.parametrize("changes", [{"params": {}}, {"source": None, "contents": {"run": "a"}}])
def test_unknown_facts_are_compared_with_no_row(changes: dict[str, Any]) -> None:
    table = result_tables([make(**changes)], "test", paper=True)[0]
    assert [row["task"] for row in table.rows] == ["lama"]
    assert "The facts are unknown" in table.notes[-1]


def test_table_1_is_shown_only_with_its_templates() -> None:
    params = {
        "lama.subset": "34k",
        "lama.stability.templates": "table-1",
        "lama.stability.relations": "['P17']",
    }
    stable = {"test/p_at_1_std": 0.1, "test/relations": 1.0, "test/templates": 4.0}
    own = make(benchmark="stability", params=params, metrics=stable)
    (table,) = result_tables([own], "test", paper=True)
    assert cells(table)[1:] == [
        ["paper: BERT-base, Table 1 (stability)", "", "", "33.4 ± 13.0", "58.0 ± 0.2"],
    ]  # fmt: skip
    assert [row["table"] for row in paper_figures([own])[0]] == ["v2, Table 1"] * 2
    for other in (
        make(benchmark="stability", params=params, metrics=stable, source="geonames"),
        make(benchmark="stability", params={"lama.subset": "34k"}, metrics=stable),
        make(benchmark="stability", params=params, metrics={**stable, "test/templates": 2.0}),
    ):
        (table,) = result_tables([other], "test", paper=True)
        assert len(table.rows) == 1


def test_doubts_are_listed_once() -> None:
    results = [make("manual"), make("manual", model="other")]
    _, doubts = paper_figures(results)
    assert len(doubts) == len(set(doubts))
    assert any("other is not a model" in doubt for doubt in doubts)
