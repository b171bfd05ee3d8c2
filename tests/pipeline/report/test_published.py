"""Published numbers, checked against each other where the paper gives a second number."""

import statistics
from typing import get_args

import pytest
from ruamel.yaml import YAML

from pipeline.config.schema import LamaMethod, SuperGlueMethod
from pipeline.report.published import (
    PROTOCOLS,
    SUBSETS,
    for_model,
    has_table,
    lama_differences,
    lama_rows,
    lama_scores,
    paper_name,
    setting_scores,
    table_1_metrics,
    task_differences,
    task_rows,
)
from pipeline.tasks import get_task, task_names
from tests.project import ROOT

FACTS = ROOT.parent / "shared" / "paper" / "paper.yaml"


def column(method):
    rows = lama_rows("29k")
    return {row.model: row.score.mean for row in rows if row.score.method == method}


def test_the_gains_of_p_tuning_are_those_that_the_paper_prints():
    manual, tuned = column("manual"), column("p-tuning")
    assert list(manual) == list(tuned)
    gains = [round(100 * (tuned[model] - manual[model]), 1) for model in manual]
    assert gains == [20.6, 21.1, 30.9, 31.4, 26.2, 31.6, 41.1]


def test_the_spread_of_table_1_is_that_of_its_four_rows():
    spread = table_1_metrics()
    # (31.3 + 19.8 + 31.4 + 51.1) / 4; squared deviations 4.41, 184.96, 4.00, 313.29.
    assert spread["manual"] == pytest.approx(
        {
            "test/relations": 1,
            "test/templates": 4,
            "test/p_at_1": 0.334,
            "test/p_at_1_worst": 0.198,
            "test/p_at_1_best": 0.511,
            "test/p_at_1_std": (506.66 / 3) ** 0.5 / 100,
        }
    )
    assert spread["p-tuning"]["test/p_at_1_std"] == pytest.approx(0.0017, abs=1e-4)


# Averages as printed, in the order of the tables.
@pytest.mark.parametrize(
    ("protocol", "averages", "tolerance"),
    [
        ("full-paper", [66.2, 67.1, 68.4, 63.0, 70.2, 70.4, 72.5, 73.1, 74.6, 63.1, 74.9, 75.6],
         0.0601),
        ("multi-split", [58.56, 70.74, 71.81], 0.0051),
    ],
)  # fmt: skip
def test_the_mean_over_tasks_is_the_average_that_the_paper_prints(protocol, averages, tolerance):
    rows = {}
    for row in task_rows(protocol):
        rows.setdefault((row.model, row.score.method), {})[row.score.task] = row.score.mean
    assert len(rows) == len(averages)
    for scores, average in zip(rows.values(), averages, strict=True):
        assert set(scores) <= set(task_names())
        assert 100 * statistics.mean(scores.values()) == pytest.approx(average, abs=tolerance)


def test_recalled_figures_of_lm_bff_are_marked_and_those_of_paper_yaml():
    rows = task_rows("lm-bff")
    assert {row.status for row in rows} == {"recalled"}
    assert all(str(row.score).endswith("(recalled)") for row in rows)
    found = {(row.called, row.score.task): (row.score.mean, row.score.std) for row in rows}
    assert ("P-tuning", "qnli") not in found
    assert "recalled from memory" in "".join(task_differences("lm-bff", "small"))
    if not FACTS.is_file():
        pytest.skip("no ../shared/paper/paper.yaml")
    facts = YAML(typ="safe").load(FACTS)
    names = {"SST-2": "sst2", "MNLI": "mnli", "QNLI": "qnli", "RTE": "glue_rte", "MRPC_f1": "mrpc"}
    expected = {}
    for key, called in (
        ("fine_tuning", "fine-tuning"), ("prompt_manual", "LM-BFF, manual"),
        ("prompt_auto", "LM-BFF, automatic"),
    ):  # fmt: skip
        cells = facts["lm_bff"]["results_mean_std"][key]
        for name, task in names.items():
            mean, std = cells[name]
            expected[called, task] = (pytest.approx(mean / 100), pytest.approx(std / 100))
    table = facts["v2_tables"]["table9_comparison_with_LM-BFF_auto"]
    for name, cells in table["values_recalled"].items():
        for key, called in (
            ("LM-BFF_auto", "LM-BFF, automatic, by this paper"), ("P-tuning", "P-tuning"),
        ):  # fmt: skip
            expected[called, name.replace("-", "").lower()] = (
                pytest.approx(cells[key] / 100),
                None,
            )
    assert found == expected


@pytest.mark.parametrize(
    ("source", "protocol", "has"),
    [
        ("superglue", "few-shot-32", True),
        ("glue", "lm-bff", True),
        ("glue", "full-paper", False),
        ("superglue", "lm-bff", False),
        ("geonames", "lm-bff", False),
        ("geonames", "multi-split", False),
    ],
)
def test_the_paper_has_tables_of_some_sources_and_protocols(source, protocol, has):
    assert has_table(source, protocol) == has


def test_methods_are_those_of_the_pipeline():
    lama = {row.score.method for subset in SUBSETS for row in lama_rows(subset)}
    assert lama <= set(get_args(LamaMethod))
    glue = {row.score.method for protocol in PROTOCOLS for row in task_rows(protocol)}
    assert glue <= set(get_args(SuperGlueMethod))


def test_a_deviation_is_that_of_the_score():
    stds = {(r.score.method, r.score.task): r.score.std for r in task_rows("multi-split")}
    assert stds["manual-fine-tuning", "rte"] == pytest.approx(0.0130)
    assert stds["manual-fine-tuning", "cb"] is None  # the mean of two metrics
    assert {row.score.std for row in task_rows("full-paper")} == {None}


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
    rows = lama_rows("29k")
    same = {row.model for row in for_model(rows, name)}
    assert same == ({paper} if paper else {row.model for row in rows})


@pytest.mark.parametrize(
    ("subset", "model", "method", "cells"),
    [
        ("34k", "BERT-base", "manual", ["31.1"]),
        ("34k", "BERT-base", "discrete", ["34.1 (LPAQA)", "43.3 (AutoPrompt)"]),
        ("34k", "BERT-base", "fine-tuning", []),
        ("29k", "BERT-base", "fine-tuning", ["51.6 (recalled)"]),
        ("29k", "MegatronLM", "manual-fine-tuning", ["out of memory (recalled)"]),
        ("29k", "RoBERTa-base", "discrete", ["40.0 (AutoPrompt)"]),
    ],
)
def test_a_number_has_a_note_unless_it_was_read_in_the_table(subset, model, method, cells):
    rows = lama_rows(subset)
    assert [str(r.score) for r in rows if (r.model, r.score.method) == (model, method)] == cells


def test_differences_are_those_that_apply():
    other = lama_differences("29k", ["small"], fewer=True)
    assert "small is not a model of the paper: compare methods, not numbers." in other
    assert any(line.startswith("Fewer relations") for line in other)
    assert "`fine-tuning`: FT (v1, Table 2, recalled)" in "".join(other)
    same = "".join(lama_differences("34k", ["roberta-base"], fewer=False))
    assert "roberta-base is the paper's RoBERTa-base." in same
    assert "Fewer relations" not in same
    assert "recalled" not in same
    assert "64 labeled examples" in "".join(task_differences("few-shot-32", "small"))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_model_of_the_paper_is_called_so(protocol):
    row = task_rows(protocol)[0]
    assert task_differences(protocol, row.hub)[0] == f"{row.hub} is the paper's {row.model}."
    assert "not a model of this table" in task_differences(protocol, "small")[0]


def test_the_scores_of_a_model_are_those_of_its_row_in_table_3() -> None:
    assert lama_scores("34k", "bert-large-cased") == {
        "manual": pytest.approx(0.323), "discrete": pytest.approx(0.394),
        "p-tuning": pytest.approx(0.506),
    }  # fmt: skip
    assert lama_scores("34k", "gpt2-xl") == {}
    assert lama_scores("34k", "smollm2-135m-instruct") == {}


def test_the_settings_of_tables_7_and_8_are_those_of_their_presets() -> None:
    scores = setting_scores()
    assert scores["cb", get_task("cb").patterns["table-7-7"]] == pytest.approx(0.86765)
    names = [f"table-7-{n}" for n in (1, 2, 4, 5, 6, 7, 8)]
    templates = {get_task("cb").patterns[name] for name in (*names, "p-tuning")}
    encoders = {f"prompt.encoder={name}" for name in ("lstm", "mlp", "embedding")}
    assert {name for task, name in scores if task == "cb"} == templates | encoders
    assert {name for task, name in scores if task != "cb"} == encoders
