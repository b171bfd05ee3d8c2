import re
from dataclasses import replace
from html import unescape

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from pipeline.errors import printable
from pipeline.report.page import render
from pipeline.report.scores import MethodResult
from pipeline.report.tables import (
    Table,
    at_chance,
    escaped,
    lama_paper,
    markdown,
    markdown_table,
    methods_table,
    pivot,
    tasks_paper,
)
from tests.pipeline.report.conftest import SPLITS, TABLE_1


def lama(method, metrics, **more):
    values = {"test/majority": 0.1, "test/naive_bayes": 0.25, "test/facts": 509, **metrics}
    return MethodResult("lama", "", method, values, **more)


MANUAL = lama("manual", {"test/p_at_1": 0.2929, "dev/p_at_1": 0.26357})
TUNED = lama("p-tuning", {"test/p_at_1": 1.0, "dev/p_at_1": 0.0, "test/facts": 508})
RELATIONS = [
    {"relation": "P17", "label": "country", "facts": 198, "left_out": 2, "majority": 1 / 9,
     "naive_bayes": 1 / 8, "p_at_1": 0.5},
    {"relation": "P30", "label": "continent", "facts": 75, "left_out": 0, "majority": 0.0,
     "naive_bayes": 1.0, "p_at_1": 0.00049},
]  # fmt: skip


def glue(task, method, score, metrics, trainings=1, **more):
    values = {
        "test/score": score, "dev/score": 0.25,
        **{f"test/{metric}": value for metric, value in metrics.items()},
        "test/majority": 0.5,
        **{f"test/majority_{metric}": 0.5 for metric in metrics},
        "test/examples": 277, "test/trainings": trainings, **more,
    }  # fmt: skip
    return MethodResult("superglue", task, method, values)


@pytest.fixture
def macro(tmp_path):
    """Return what a macro of tables.md.j2 writes."""

    def written(name, *arguments):
        template = '{% from "tables.md.j2" import ' + name + " with context %}"
        (tmp_path / "macro.md.j2").write_text(template + "{{ " + name + "(*arguments) }}")
        return render("macro.md.j2", tmp_path, arguments=arguments)

    return written


def cells(text):
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()]


def test_a_table_worked_out_by_hand():
    rows = [{"a": 1, "b": "2.5", "c": "3"}, {"a": "x", "b": None, "c": "-z"}, {"a": 2}]
    assert markdown_table(rows) == (
        "| a | b | c |\n| --- | ---: | --- |\n| 1 | 2.5 | 3 |\n| x |  | -z |\n| 2 |  |  |\n"
    )
    assert markdown_table([]) == ""


def test_a_pivot_joins_the_numbers_of_a_cell():
    cells = [("x", "a", 1), ("x", "b", 2), ("y", "b", "3"), ("x", "a", 4)]
    assert pivot(cells) == {"x": {"a": "1, 4", "b": "2"}, "y": {"b": "3"}}


def test_titles_cells_and_notes_are_escaped():
    table = Table("a_b", [{"x": "1|2", "y": "3"}], ["*note*"])
    assert markdown([table]) == (
        "### a\\_b\n\n| x | y |\n| --- | ---: |\n| 1\\|2 | 3 |\n\n- \\*note\\*\n"
    )


def test_methods_are_followed_by_both_controls():
    assert methods_table([MANUAL, TUNED]).splitlines() == [
        "| method | test P@1 | dev P@1 | test facts |",
        "| --- | ---: | ---: | ---: |",
        "| manual | 29.3 | 26.4 | 509 |",
        "| p-tuning | 100.0 | 0.0 | 508 |",
        "| majority class | 10.0 |  | 509 |",
        "| naive Bayes | 25.0 |  | 509 |",
    ]


def test_the_best_constant_answer_follows_the_majority_class():
    result = glue("cb", "manual", 0.4, {"accuracy": 0.5, "f1": 0.3}, **{
        "test/constant": 0.36, "test/constant_accuracy": 0.5, "test/constant_f1": 0.22,
    })  # fmt: skip
    assert methods_table([result]).splitlines()[-2:] == [
        "| cb | majority class | 50.0 |  | accuracy 50.0, macro F1 50.0 |  | 277 |",
        "| cb | best constant answer | 36.0 |  | accuracy 50.0, macro F1 22.0 |  | 277 |",
    ]


def test_chance_is_what_one_answer_reaches_on_the_test_set():
    constant = {"test/constant": 0.5, "test/constant_accuracy": 0.6}
    results = [
        # 0.6 + 1.96 * 0.5 / sqrt(277) = 0.6589; the accuracy counts, not the score.
        glue("cb", "manual", 0.9, {"accuracy": 0.65}, **constant),
        glue("cb", "p-tuning", 0.1, {"accuracy": 0.66}, **constant),
        glue("multirc", "manual", 0.3, {"f1a": 0.6}, **{"test/constant": 0.3}),
        glue("multirc", "p-tuning", 0.31, {"f1a": 0.5}, **{"test/constant": 0.3}),
        glue("rte", "manual", 0.3, {"accuracy": 0.3}),
    ]
    cb, multirc = at_chance(results)
    assert (cb["methods"], cb["guess"]) == (["manual"], 0.6)
    assert cb["margin"] == pytest.approx(0.0589, abs=1e-4)
    assert (multirc["methods"], multirc["metric"], multirc["margin"]) == (["manual"], "score", 0)


def test_several_seeds_of_lama_are_shown_as_those_of_tasks():
    several = {"test/p_at_1_std": 0.0123, "dev/p_at_1_std": 0.1, "test/trainings": 3}
    tuned = lama("p-tuning", {"test/p_at_1": 0.5, "dev/p_at_1": 0.25, **several})
    assert methods_table([MANUAL, tuned]).splitlines()[::3] == [
        "| method | test P@1 | dev P@1 | trainings | test facts |",
        "| p-tuning | 50.0 ± 1.2 | 25.0 ± 10.0 | 3 | 509 |",
    ]


def test_sizes_steps_and_hard_facts_have_columns_where_they_are_known():
    sizes = {"train/facts": 380, "dev/facts": 126, "test/facts": 416, "test/hard_facts": 300}
    manual = lama("manual", MANUAL.metrics | sizes | {"train/steps": 0, "test/p_at_1_hard": 0.25})
    hard = {"test/p_at_1_hard": 0.5, "test/p_at_1_hard_std": 0.01, "test/p_at_1_std": 0.02}
    tuned = lama("p-tuning", TUNED.metrics | sizes | hard | {"train/steps": 94.6})
    assert methods_table([manual, tuned]).splitlines() == [
        "| method | test P@1 | hard | dev P@1 | trainings | steps | train/dev/test facts |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
        "| manual | 29.3 | 25.0 | 26.4 |  | 0 | 380/126/416 |",
        "| p-tuning | 100.0 ± 2.0 | 50.0 ± 1.0 | 0.0 |  | 95 | 380/126/416 |",
        "| majority class | 10.0 |  |  |  |  | 380/126/416 |",
        "| naive Bayes | 25.0 |  |  |  |  | 380/126/416 |",
    ]
    task = {"train/examples": 32, "dev/examples": 30, "train/steps": 252}
    result = glue("rte", "p-tuning", 0.5, {"accuracy": 0.5}, **task)
    head, _, first, control = methods_table([result]).splitlines()
    assert head.endswith("| trainings | steps | train/dev/test examples |")
    assert first.endswith("| 1 | 252 | 32/30/277 |")
    assert control.endswith("|  |  | 32/30/277 |")


def test_a_relation_has_its_sizes_and_a_training_its_steps(files, macro):
    rows = [{**row, "train_facts": 100, "dev_facts": 40, "steps": 7} for row in RELATIONS]
    head, _, first, _ = macro("relations", {"manual": rows}).splitlines()
    assert head.startswith("| relation | train/dev/test facts | left out |")
    assert first.startswith("| P17 country | 100/40/198 |")
    files.add_task("rte")
    result = files.task("rte")[1]
    trainings = [{**row, "steps": 12 * row["seed"]} for row in result.trainings]
    _, table = macro("trials", [replace(result, settings=[], trainings=trainings)]).split("\n\n")
    rows = cells(table)
    assert rows[0] == [
        "task", "method", "setting", "split", "seed", "steps", "best epoch", "dev score",
        "test score",
    ]  # fmt: skip
    assert [row[4:6] for row in rows[2:]] == [["1", "12"], ["2", "24"]]


def test_tasks_follow_each_other_each_with_its_control():
    results = [
        glue("rte", "manual", 0.675, {"accuracy": 0.675}),
        glue("cb", "manual", 0.1, {"f1": 0.05, "accuracy": 0.15}, 3, **{"test/score_std": 0.0123}),
    ]
    assert methods_table(results).splitlines() == [
        "| task | method | test score | dev score | metrics | trainings | test examples |",
        "| --- | --- | ---: | ---: | --- | ---: | ---: |",
        "| rte | manual | 67.5 | 25.0 | accuracy 67.5 | 1 | 277 |",
        "| rte | majority class | 50.0 |  | accuracy 50.0 |  | 277 |",
        "| cb | manual | 10.0 ± 1.2 | 25.0 | accuracy 15.0, macro F1 5.0 | 3 | 277 |",
        "| cb | majority class | 50.0 |  | accuracy 50.0, macro F1 50.0 |  | 277 |",
    ]


def test_a_relation_has_a_column_for_each_control_that_is_known(macro):
    rows = [{**row, "constant": 0.3} for row in RELATIONS]
    head, _, first, _ = macro("relations", {"manual": rows}).splitlines()
    assert "| majority class | best constant answer | naive Bayes | manual |" in head
    assert "| 11.1 | 30.0 | 12.5 | 50.0 |" in first


def test_a_method_without_a_relation_has_an_empty_cell(macro):
    table = macro("relations", {"manual": RELATIONS, "discrete": RELATIONS[1:]})
    assert table.splitlines() == [
        "| relation | test facts | left out | majority class | naive Bayes | manual | discrete |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
        "| P17 country | 198 | 2 | 11.1 | 12.5 | 50.0 |  |",
        "| P30 continent | 75 | 0 | 0.0 | 100.0 | 0.0 | 0.0 |",
    ]


def test_correct_answers_are_bold_and_missing_ones_empty(macro):
    answers = [
        {"relation": "P17", "subject": "Lyon", "object": "France", "a": "Italy", "b": "France"},
        {"relation": "P17", "subject": "Oslo", "object": "Norway", "b": "Norwa"},
    ]
    assert macro("answers", ["a", "b"], answers).splitlines()[2:] == [
        "| P17 | Lyon | France | Italy | **France** |",
        "| P17 | Oslo | Norway |  | Norwa |",
    ]


def test_settings_and_trainings_are_those_of_tasks_that_have_several(files, macro):
    files.add_lama(relations=["P17", "P30"], seeds=(1, 2))
    files.add_task("rte")
    first, second = (f"model.learning\\_rate={number}e-05" for number in (1, 2))
    template = r"{premise} \[P\] {mask}"
    title, table, title_2, table_2 = macro("trials", files.task("rte"), ": x").split("\n\n")
    assert (title, title_2) == ("### Settings that were tried: x", "### By training: x")
    rows = cells(table)
    assert rows[0][:2] == ["task", "method"]
    assert rows[2:] == [
        ["rte", "p-tuning", "1", first, template, "2", "51.0 ± 1.0", "53.0", "yes"],
        ["rte", "p-tuning", "2", second, template, "2", "41.0 ± 1.0", "", ""],
    ]
    assert [row[1:] for row in cells(table_2)[2:]] == [
        ["p-tuning", "1", "1", "1", "2", "62.0", "65.3"],
        ["p-tuning", "1", "1", "2", "2", "64.0", "66.3"],
    ]
    _, table, _, table_2 = macro("trials", files.lama()).split("\n\n")
    rows = cells(table)
    assert rows[0][0] == "relation"
    assert rows[0][-3:] == ["dev P@1", "test P@1", "chosen"]
    assert [row[:3] for row in rows[2:]] == [
        [relation, "p-tuning", setting] for relation in ("P17", "P30") for setting in "12"
    ]
    assert len(cells(table_2)) == 2 + 2 * 2 * 2
    files.add_lama()
    assert macro("trials", files.lama()).strip() == ""


@pytest.mark.parametrize(
    ("source", "subset", "objects", "relations", "title"),
    [
        ("geonames", "34k", "one-token", 4, "Knowledge probing: `geonames`, 4 relations"),
        ("geonames", "34k", "one-token", 1, "Knowledge probing: `geonames`, 1 relation"),
        ("lama", "34k", "one-token", 11, "Knowledge probing: `lama` 34k, 11 of 41 relations"),
        ("lama", "29k", "one-token", 41, "Knowledge probing: `lama` 29k, 41 relations"),
        (
            "lama",
            "34k",
            "all",
            41,
            "Knowledge probing: `lama` 34k, objects of several tokens too, 41 relations",
        ),
    ],
)
def test_a_title_says_whether_relations_are_missing(
    macro, source, subset, objects, relations, title
):
    assert macro("lama_title", source, subset, objects, relations) == f"{title}\n"


def test_left_out_facts_are_counted_and_those_that_lama_loses_before_training(macro):
    metrics = {"test/facts": 509, "test/left_out": 12}
    text = "Of 521 test facts, 12 were left out: their object is not one token of this model."
    assert macro("lama_counts", metrics, {"relations": 4, "test/facts": 521}) == f"{text}\n"
    assert macro("lama_counts", metrics, SPLITS) == text + (
        " Removed before: 101 train and 32 dev facts whose subject and object are in a later "
        "split too, and those whose object is outside the allowed vocabulary (7 train, 8 dev, 9 "
        "test).\n"
    )


@pytest.mark.parametrize(
    ("training", "text"),
    [
        ({"tune": []}, "none"),
        ({"search": {"prompts": "gradient", "iterations": 60}}, "search, 60 iterations"),
        ({"search": {"prompts": "lpaqa_mine", "iterations": 60}}, r"best of lpaqa\_mine"),
        *(
            ({"tune": ["prompt"], "epochs": 4, key: 8, "prompt": {"learning_rate": 0.001}},
             "prompt at 0.001, at most 4 epochs, batch 8")
            for key in ("batch", "batch_size")
        ),
    ],
)  # fmt: skip
def test_a_training_is_summed_up_in_words(macro, training, text):
    assert macro("training_summary", training) == f"{text}\n"


MARKUP = st.text(st.sampled_from("\\|*_`~$[](){}<>&;!#a \n"))


@settings(max_examples=200, deadline=None)
@given(st.lists(MARKUP | st.text(), min_size=1, max_size=3))
@example(["~~a~~", "a|b", "\\|"])
def test_any_text_is_shown_as_it_is_in_one_cell(texts):
    table = markdown_table([{f"x{n}": escaped(text) for n, text in enumerate(texts)}])
    html = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).render(table)
    shown = [unescape(cell) for cell in re.findall("<td.*?>(.*?)</td>", html)]
    assert shown == [printable(" ".join(text.split())) for text in texts]


def test_a_dollar_opens_no_formula():
    assert escaped("$a$") == r"\$a\$"


def test_our_rows_are_above_the_paper_s_of_the_same_subset():
    values = {"test/facts": 10188}
    ours = [
        lama("manual", {"test/p_at_1": 0.1234, **values}, relations=RELATIONS),
        lama("prompt-tuning", {"test/p_at_1": 0.5, "test/p_at_1_std": 0.01}),
    ]
    table, differences = lama_paper("34k", {"small|er": ours}, ["smaller"]).split("\n\n")
    assert table.splitlines() == [
        "| model | relations | facts | manual | p-tuning | prompt-tuning | discrete |",
        "| --- | --- | --- | ---: | ---: | ---: | --- |",
        "| ours: small\\|er | 2 of 41 | 10188 | 12.3 |  | 50.0 ± 1.0 |  |",
        "| BERT-base 109M | 41 | 34,039 | 31.1 | 48.3 |  | 34.1 (LPAQA), 43.3 (AutoPrompt) |",
        "| BERT-large 335M | 41 | 34,039 | 32.3 | 50.6 |  | 39.4 (LPAQA) |",
        "| E-BERT | 41 | 34,039 | 36.2 |  |  |  |",
    ]
    assert "- smaller is not a model of the paper" in differences
    assert "Fewer relations" in differences


def test_our_tasks_are_above_the_paper_s_with_the_differences():
    results = [
        glue("cb", "p-tuning", 0.561, {}, 3, **{"test/score_std": 0.053}),
        glue("cb", "manual", 0.427, {}),
        glue("rte", "p-tuning", 0.49, {}),
    ]
    text = tasks_paper("few-shot-32", "smol_lm", results)
    assert text.startswith("The paper's rows: Table 5, few-shot.\n")
    rows = cells(text)
    assert ["model", "method", "cb", "rte"] in rows
    assert ["ours: smol\\_lm", "p-tuning", "56.1 ± 5.3", "49.0"] in rows
    assert ["ours: smol\\_lm", "manual", "42.7", ""] in rows
    # (88.39 + 84.24) / 2
    assert ["ALBERT-xxlarge-v2", "p-tuning (P-tuning)", "86.3", "63.3 ± 3.6"] in rows
    assert "not a model of this table: compare methods" in text
    assert "64 labeled examples" in text


def test_the_spread_over_templates_worked_out_by_hand(files, macro):
    files.add_stability(templates={"P17": ["a {mask}", "b {mask}"], "P19": ["c", "d", "e"]})
    path = files.evaluation / "stability/p-tuning/templates.csv"
    head, *lines = path.read_text().splitlines()
    path.write_text("\n".join([head, *reversed(lines)]) + "\n")
    results = files.stability(["p-tuning", "manual"])
    _, methods, templates = macro("stability", "geonames", results).split("\n\n")
    # manual: 0.1, 0.2 and 0.1, 0.2, 0.3: means 0.15, 0.2; deviations sqrt(0.005), 0.1.
    # p-tuning: the same times 10 / 9.
    assert methods.splitlines() == [
        "| method | relations | templates | mean | worst | best | std |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
        "| p-tuning | 2 | 5 | 19.4 | 11.1 | 27.8 | 9.48 |",
        "| manual | 2 | 5 | 17.5 | 10.0 | 25.0 | 8.54 |",
    ]
    # The manual method's text is the readable one, in any order of the methods.
    assert templates.splitlines()[:4] == [
        "| relation | number | template | test facts | p-tuning | manual |",
        "| --- | ---: | --- | ---: | ---: | ---: |",
        "| P17 | 1 | a {mask} | 930 | 11.1 | 10.0 |",
        "| P17 | 2 | b {mask} | 930 | 22.2 | 20.0 |",
    ]


def test_a_template_that_a_method_lacks_has_an_empty_cell(files, macro):
    files.add_stability()
    manual, tuned = files.stability()
    del tuned.templates[0]
    templates = macro("stability", "geonames", [manual, tuned]).split("\n\n")[2]
    assert templates.splitlines()[2].endswith("|  |")


def test_table_1_is_shown_with_the_same_templates_of_lama(files, macro):
    files.add_stability()
    _, methods, templates, remark = macro("stability", "lama", files.stability()).split("\n\n")
    assert methods.splitlines()[4:] == [
        "| manual (paper) | 1 | 4 | 33.4 | 19.8 | 51.1 | 13.00 |",
        "| p-tuning (paper) | 1 | 4 | 58.0 | 57.8 | 58.1 | 0.17 |",
    ]
    assert templates.splitlines()[5] == (
        "| P17 | 4 | {subject} is located in which country? In {mask}. | 930 | 40.0 | 44.4 | 51.1 "
        "| 58.1 |"
    )
    assert "Table 1 (verified)" in remark


@pytest.mark.parametrize(
    ("source", "templates"),
    [
        ("geonames", {"P17": TABLE_1}),
        ("lama", {"P17": TABLE_1[:2]}),
        ("lama", {"P19": TABLE_1}),
        ("lama", {"P17": TABLE_1, "P19": TABLE_1}),
    ],
)
def test_table_1_is_shown_with_no_other_templates(files, macro, source, templates):
    files.add_stability(templates=templates)
    assert "paper" not in macro("stability", source, files.stability())
