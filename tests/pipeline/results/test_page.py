"""The pages, from records with made-up numbers; expectations are worked out by hand."""

import re

import pytest
from markdown_it import MarkdownIt

from pipeline.errors import DataError, printable
from pipeline.evaluation.summary import spread_over_templates
from pipeline.results.page import insert_between, results_page
from pipeline.tasks import task_names
from tests.hostile import NAMES, rendered, text_of
from tests.pipeline.report.conftest import TABLE_1

SIX = ["manual", "fine-tuning", "manual-fine-tuning", "p-tuning", "prompt-tuning", "discrete"]
NONE = {"train_facts": None, "dev_facts": None, "test_facts": None}
NOTHING = {"tune": [], "epochs": 0, "batch": 1, "search": None}
PROMPT = {"tune": ["prompt"], "epochs": 4, "batch": 8, "search": None,
          "prompt": {"learning_rate": 0.001}}  # fmt: skip


def make_record(
    name="one", scores=None, *, source="lama", subset="34k", model="small", seed=34, splits=NONE,
    note="", gpu=None, facts=100, stability=(), seconds=3660.0, dirty=False,
):  # fmt: skip
    """Make a record; `scores` is method -> relation -> P@1."""
    if scores is None:
        scores = {"manual": {"P17": 0.25}, "p-tuning": {"P17": 0.5}}
    methods = {}
    for method, own in scores.items():
        rows = [
            {
                "relation": relation, "label": f"of {relation}", "facts": facts + i,
                "left_out": i, "majority": 0.1 * (i + 1), "naive_bayes": 0.2 * (i + 1),
                "p_at_1": score,
            }
            for i, (relation, score) in enumerate(own.items())
        ]  # fmt: skip
        metrics = {
            "test/p_at_1": sum(own.values()) / len(own), "dev/p_at_1": 0.75,
            "test/majority": 0.11, "test/naive_bayes": 0.22,
            "test/facts": sum(row["facts"] for row in rows),
            "test/left_out": sum(row["left_out"] for row in rows),
        }  # fmt: skip
        times = {"train": seconds, "evaluate": seconds and 2 * seconds}
        methods[method] = {"metrics": metrics, "seconds": times, "relations": rows}
    listed = dict.fromkeys([*scores, *stability])
    return {
        "name": name,
        "note": note,
        "date": "2026-01-02",
        "git": {"commit": "0123456789abcdef", "dirty": dirty},
        "hardware": {"processor": "Abacus", "cores": 2, "gpu": gpu},
        "params": {
            "seed": seed,
            "model": {"name": model, "dtype": "auto"},
            "lama": {
                "source": source,
                "subset": subset,
                "splits": splits,
                "prompts": dict.fromkeys(listed, "[P*3] {subject} {mask}"),
                "training": {m: NOTHING if m == "manual" else PROMPT for m in listed},
            },
        },
        "splits": {"relations": 1},
        "methods": methods,
        "stability": {method: make_stability(i) for i, method in enumerate(stability)},
    }


def make_stability(number):
    rows = [
        {"relation": "P17", "number": i + 1, "template": template, "facts": 9,
         "p_at_1": (1 + i + number) / 10}
        for i, template in enumerate(TABLE_1)
    ]  # fmt: skip
    seconds = {"train": None, "evaluate": 30.0}
    return {"metrics": spread_over_templates(rows), "seconds": seconds, "templates": rows}


def section(page, heading):
    """Return the text below a heading, up to the next one of its depth."""
    depth = heading.split()[0]
    after = page.split(f"{heading}\n", 1)[1]
    return re.split(rf"^#{{1,{len(depth)}}} ", after, maxsplit=1, flags=re.MULTILINE)[0]


def table(text):
    """Return the cells of the first table, its rule left out."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line[1:-1].split("|")] for line in lines]
    return [cells[0], *cells[2:]]


SHARED = "## On the relations that all trained methods share"
GAPS = "## What was not run"

EIGHT = {"manual": {"P17": 0.25, "P19": 0.5, "P30": 1.0}, "p-tuning": {"P17": 0.5, "P19": 0.6,
         "P30": 0.9}}  # fmt: skip
TWO = {"fine-tuning": {"P19": 0.125, "P17": 0.375, "P36": 0.0}}


def test_means_over_the_shared_relations_worked_out_by_hand():
    page = results_page("lama", [make_record("wide", EIGHT), make_record("deep", TWO)])
    text = section(page, SHARED)
    # Trained are p-tuning (P17, P19, P30) and fine-tuning (P19, P17, P36): P17 and P19 are shared.
    assert "On P17, P19." in text
    assert table(text) == [
        ["method", "run", "relations", "test facts", "test P@1"],
        ["manual", "`wide`", "2", "201", "37.5"],
        ["p-tuning", "`wide`", "2", "201", "55.0"],
        ["fine-tuning", "`deep`", "2", "201", "25.0"],
        ["majority class", "`wide`", "2", "201", "15.0"],
        ["naive Bayes", "`wide`", "2", "201", "30.0"],
    ]


def test_a_manual_run_on_fewer_relations_does_not_narrow_the_comparison():
    few = {"manual": {"P17": 0.25}, "p-tuning": {"P17": 0.5, "P19": 0.25}}
    text = section(results_page("lama", [make_record("one", few)]), SHARED)
    assert [row[0] for row in table(text)[1:]] == ["p-tuning", "majority class", "naive Bayes"]
    assert "On P17, P19." in text


def test_runs_that_share_no_relation_are_not_compared():
    runs = [
        make_record("a", {"p-tuning": {"P17": 0.5}}),
        make_record("b", {"discrete": {"P19": 1}}),
    ]
    text = section(results_page("lama", runs), SHARED)
    assert "No relation was run with all trained methods." in text
    assert "|" not in text


@pytest.mark.parametrize(
    "other",
    [
        {"model": "large"},
        {"subset": "29k"},
        {"source": "geonames"},
        {"splits": NONE | {"test_facts": 50}},
    ],
)
def test_only_runs_on_the_same_facts_of_one_model_are_compared(other):
    page = results_page("lama", [make_record("a"), make_record("b", **other)])
    for heading in (SHARED, "## By relation"):
        titles = re.findall("^### (.*)$", section(page, heading), re.MULTILINE)
        assert len(titles) == 2
        assert len(set(titles)) == 2


def test_under_a_cap_another_seed_means_other_facts_and_without_one_the_same():
    capped = NONE | {"test_facts": 50}
    for splits, groups in ((NONE, 1), (capped, 2)):
        runs = [make_record(str(seed), seed=seed, splits=splits) for seed in (1, 2)]
        assert results_page("lama", runs).count("\nOn P17.\n") == groups


def test_scores_have_the_numbers_of_relations_and_facts():
    page = results_page(
        "lama", [make_record("wide", EIGHT), make_record("deep", TWO, seconds=None)]
    )
    rows = table(section(page, "### Scores"))
    assert rows[0][:6] == ["run", "method", "relations", "test facts", "left out", "test P@1"]
    assert rows[2] == ["`wide`", "p-tuning", "3", "303", "3", "66.7", "75.0", "61.0", "122.0"]
    assert rows[3] == ["`wide`", "majority class", "3", "303", "3", "11.0", "", "", ""]
    assert rows[4] == ["`wide`", "naive Bayes", "3", "303", "3", "22.0", "", "", ""]
    assert rows[5][1:3] == ["fine-tuning", "3"]
    assert rows[5][6:] == ["75.0", "unknown", "unknown"]


def test_a_run_is_listed_with_all_that_it_takes_to_judge_it():
    page = results_page("lama", [make_record("one", seed=7, note="slow", gpu="H200", dirty=True)])
    assert table(section(page, "## What was run"))[1] == [
        "`one`", "small", "`lama` 34k", "1 of 41 relations", "7",
        "2 cores of Abacus, H200", "2026-01-02", "0123456789 with changes", "slow",
    ]  # fmt: skip
    assert table(section(page, "### Settings"))[1:] == [
        ["`one`", "manual", r"\[P\*3\] {subject} {mask}", "none"],
        ["`one`", "p-tuning", r"\[P\*3\] {subject} {mask}",
         "prompt at 0.001, at most 4 epochs, batch 8"],
    ]  # fmt: skip


def test_methods_are_columns_with_empty_cells_where_a_relation_is_missing():
    runs = [make_record("a", {"p-tuning": {"P17": 0.5, "P19": 0.25}}),
            make_record("b", {"p-tuning": {"P19": 0.75}, "discrete": {"P19": 1.0}})]  # fmt: skip
    rows = table(section(results_page("lama", runs), "## By relation"))
    assert rows[0][5:] == ["p-tuning, `a`", "p-tuning, `b`", "discrete"]
    assert [row[0] for row in rows[1:]] == ["P17 of P17", "P19 of P19"]
    assert [row[5:] for row in rows[1:]] == [["50.0", "", ""], ["25.0", "75.0", "100.0"]]


def test_each_subset_is_compared_with_its_half_of_the_paper_s_table():
    runs = [make_record("a", subset="34k"), make_record("b", subset="29k", model="gpt2-medium"),
            make_record("c", source="geonames")]  # fmt: skip
    page = results_page("lama", runs)
    left = section(page, "## Comparison with the paper: LAMA 34k")
    right = section(page, "## Comparison with the paper: LAMA 29k")
    assert [row[0] for row in table(left)[1:3]] == ["ours: small (a)", "BERT-base 109M"]
    assert [row[0] for row in table(right)[1:3]] == ["ours: gpt2-medium (b)", "BERT-base 109M"]
    assert "gpt2-medium is the paper's GPT2-medium" in right
    assert "(c)" not in left + right


def test_stability_is_shown_for_each_run_with_its_minutes():
    page = results_page("lama", [make_record("one", stability=["manual", "p-tuning"])])
    text = section(page, "### `one`: small, `lama` 34k")
    # 0.1 to 0.4, and 0.2 to 0.5; the deviation of both is sqrt(0.05 / 3).
    assert "| manual | 1 | 4 | 25.0 | 10.0 | 40.0 | 12.91 |" in text
    assert "| p-tuning | 1 | 4 | 35.0 | 20.0 | 50.0 | 12.91 |" in text
    assert "| manual (paper) |" in text
    assert "manual unknown and 0.5; p-tuning unknown and 0.5." in text


def test_stability_alone_makes_a_page():
    page = results_page("lama", [make_record("one", {}, stability=["manual"])])
    assert table(section(page, "## What was run"))[1][3] == "stability only"
    for heading in ("Scores", "On the relations", "By relation", "Comparison with the paper: LAMA"):
        assert f"# {heading}" not in page
    gaps = section(page, GAPS)
    assert f"Methods not run: {', '.join(SIX)}." in gaps
    assert "Methods in stability over templates not run: fine-tuning, " in gaps


def test_what_was_not_run_is_listed():
    gaps = section(
        results_page("lama", [make_record("wide", EIGHT, model="bert-base-cased")]), GAPS
    )
    lines = gaps.strip().splitlines()
    assert "- Methods not run: fine-tuning, manual-fine-tuning, prompt-tuning, discrete." in lines
    relations = next(line for line in lines if line.startswith("- Relations"))
    assert "with bert-base-cased, manual, p-tuning: 38 of 41 (P20, P279, " in relations
    assert not re.search(r"\bP(17|19|30)\b", relations)
    assert "- Subsets of LAMA not run: 29k." in lines
    assert "- Models of the paper's Table 3 on 34k not run: BERT-large, E-BERT." in lines
    assert any("Table 3 on 29k not run: BERT-base, BERT-large, RoB" in line for line in lines)
    assert "- No GPU was used in any run." in lines
    assert (
        "- Only one seed (34), so the spread over seeds is unknown, with bert-base-cased on `lama` "
        "34k: p-tuning." in lines
    )
    assert not any(line.startswith("- Facts") for line in lines)


def test_what_was_run_is_not_among_what_was_not():
    everything = {method: dict.fromkeys(("P17", "P30", "P36", "P47", "P131", "P1376"), 0.5)
                  for method in SIX}  # fmt: skip
    runs = [
        make_record(str(seed), everything, source="geonames", seed=seed, gpu="H200",
                    stability=SIX, splits=NONE | {"train_facts": 5})
        for seed in (1, 2)
    ]  # fmt: skip
    lines = section(results_page("lama", runs), GAPS).strip().splitlines()
    assert "- Methods not run: none." in lines
    assert "- Methods in stability over templates not run: none." in lines
    assert "- A GPU was used: H200 in `1`, H200 in `2`." in lines
    assert "- Facts in `1`: at most 5 train of a relation." in lines
    assert not any(line.startswith(("- Relations", "- Only one seed")) for line in lines)


def test_the_page_names_the_commands_that_write_it():
    page = results_page("lama", [make_record()])
    assert "ptune report collect lama --name NAME\nptune report page lama\n" in page


@pytest.mark.parametrize("odd", ["*a*", "`a`", "<b>a</b>", "a\nb", "$a$", "~~a~~", *NAMES])
def test_odd_names_are_shown_as_they_are(odd):
    record = make_record("one", note=odd, model=odd, gpu=odd, stability=["manual"])
    for own in record["methods"].values():
        own["relations"][0]["label"] = odd
    for row in record["stability"]["manual"]["templates"]:
        row["template"] = odd
    tokens = (
        MarkdownIt("commonmark")
        .enable(["table", "strikethrough"])
        .parse(results_page("lama", [record]))
    )
    inline = [token.children for token in tokens if token.type == "inline"]
    cells = ["".join(child.content for child in children) for children in inline]
    text_of(rendered(results_page("lama", [record])))
    shown = printable(" ".join(odd.split()))
    for cell in (shown, f"P17 of {shown}"[:4] + shown, f"2 cores of Abacus, {shown}"):
        assert cell in cells, cell
    assert sum(cell == shown for cell in cells) == 2 + len(TABLE_1)
    kinds = {child.type for children in inline for child in children}
    assert kinds <= {"text", "text_special", "code_inline", "link_open", "link_close", "softbreak"}


def test_several_seeds_are_shown_with_their_spread():
    record = make_record("one", {"p-tuning": {"P17": 0.5}})
    metrics = record["methods"]["p-tuning"]["metrics"]
    metrics |= {"test/p_at_1_std": 0.02, "test/trainings": 3}
    record["params"]["lama"]["seeds"] = [1, 2, 3]
    record["methods"]["p-tuning"]["trainings"] = [
        {"task": "P17", "setting": 1, "split": 1, "seed": seed, "best_epoch": 2, "dev_score": 0.5,
         "test_score": 0.25 * seed}
        for seed in (1, 2, 3)
    ]  # fmt: skip
    page = results_page("lama", [record])
    assert table(section(page, "## What was run"))[1][4] == "1, 2, 3"
    rows = table(section(page, "### Scores"))
    assert rows[0][5:8] == ["test P@1", "dev P@1", "trainings"]
    assert rows[1][5:8] == ["50.0 ± 2.0", "75.0", "3"]
    rows = table(section(page, "### By training: `one`"))
    assert [row[-1] for row in rows[1:]] == ["25.0", "50.0", "75.0"]
    assert "Only one seed" not in page


GLUE = {
    "source": "superglue", "protocol": "few-shot-32", "tasks": ["rte"], "seeds": [1, 2],
    "methods": ["manual", "p-tuning"], "prompts": {"rte": {"max_length": 128}},
    "training": {"manual": NOTHING, "p-tuning": PROMPT},
    "overrides": {"rte": {"p-tuning": {"batch": 4, "template": "x"}}},
}  # fmt: skip


def make_task_record(examples=5):
    """Make a record; the name `batch` and rows without a task are those of older records."""
    methods = {}
    for number, method in enumerate(("manual", "p-tuning")):
        score = 0.51 + number / 7
        metrics = {"test/score": score, "dev/score": 0.6, "test/accuracy": score,
                   "test/majority": 0.4, "test/majority_accuracy": 0.4, "test/examples": examples,
                   "test/trainings": 1 + number, "test/settings": 1}  # fmt: skip
        if number:
            metrics |= {"test/score_std": 0.0071}
        trainings = [
            {"training": f"setting-1/split-1/seed-{seed}", "setting": 1, "split": 1, "seed": seed,
             "best_epoch": 2, "dev_score": 0.6 + seed / 50, "test_score": score + seed / 100}
            for seed in range(1, 2 + number)
        ]  # fmt: skip
        settings = [
            {"setting": n, "tried": f"a={n}", "template": "{premise}", "trainings": 2,
             "chosen": n == 1, "dev_score": 0.5, "dev_score_std": None, "test_score": None,
             "test_score_std": None}
            for n in range(1, 2 + number)
        ]  # fmt: skip
        methods[method] = {"metrics": metrics, "seconds": {"train": 90.0, "evaluate": None},
                           "trainings": trainings, "settings": settings}  # fmt: skip
    counts = {"1/train/examples": 4, "1/dev/examples": 2, "test/examples": examples}
    majority = {"label": "not_entailment", "score": 0.4, "accuracy": 0.4}
    record = make_record("few", {})
    record["params"] = {"seed": 34, "model": {"name": "small"}, "superglue": GLUE}
    record["tasks"] = {"rte": {"counts": counts, "majority": majority, "methods": methods}}
    return record


def test_the_page_shows_splits_that_are_named_by_their_seeds_and_figures_that_are_recalled():
    record = make_task_record()
    (content,) = record["tasks"].values()
    content["counts"] = {"13/train/examples": 32, "13/dev/examples": 31, "test/examples": 5}
    content["majority"]["label"] = "0"
    glue = {**GLUE, "source": "glue", "protocol": "lm-bff", "tasks": ["sst2"]}
    glue |= {key: {"sst2": GLUE[key]["rte"]} for key in ("prompts", "overrides")}
    record["params"]["superglue"] = glue
    page = results_page("superglue", [{**record, "tasks": {"sst2": content}}])
    assert table(section(page, "### Examples and constant answers"))[1][:4] == [
        "sst2", "32", "31", "5",
    ]  # fmt: skip
    assert "The paper's rows: the comparison with LM-BFF, recalled from memory" in page
    assert "| RoBERTa-large | p-tuning (P-tuning) | 92.8 (recalled) |" in page
    assert "Protocols not run: few-shot-32, multi-split, full-held-out, full-paper." in page


def test_the_page_of_superglue_shows_the_numbers_of_the_record():
    page = results_page("superglue", [make_task_record()])
    assert table(section(page, "### Scores"))[2][:3] == ["rte", "p-tuning", "65.3 ± 0.7"]
    assert [row[4:] for row in table(section(page, "### By training"))[1:]] == [
        ["1", "2", "62.0", "66.3"],
        ["2", "2", "64.0", "67.3"],
    ]
    assert len(table(section(page, "### Settings that were tried"))) == 3
    assert table(section(page, "### Training and prompts"))[2][4:] == [
        "prompt at 0.001, at most 4 epochs, batch 8", "batch: 4", "1.5", "unknown",
    ]  # fmt: skip
    assert table(section(page, "### Examples and constant answers"))[1:] == [
        ["rte", "4", "2", "5", r"not\_entailment", "40.0", "accuracy 40.0", "", ""]
    ]
    assert "| ALBERT-xxlarge-v2 | p-tuning (P-tuning) |" in page
    assert "ptune report collect superglue --name NAME\nptune report page superglue\n" in page


def test_what_guessing_explains_is_listed_as_chance():
    # Of 5 examples, 50 % and 43.8 % more is what guessing may reach.
    chance = section(results_page("superglue", [make_task_record()]), "### At the level of chance")
    assert "- rte: manual, p-tuning (" in chance
    # Of 400 it is 54.9 %, below the 65.3 % of p-tuning.
    page = results_page("superglue", [make_task_record(400)])
    assert "- rte: manual (accuracy of at most 50.0 by guessing, plus 4.9 " in page


def test_the_best_constant_answer_of_a_record_is_shown_and_is_chance():
    record = make_task_record(400)
    record["tasks"]["rte"]["constant"] = {"score": 0.62, "accuracy": 0.62}
    page = results_page("superglue", [record])
    assert "- rte: manual, p-tuning (accuracy of at most 62.0 by guessing, plus 4.9 " in page
    scores = table(section(page, "### Scores"))
    assert scores[-1][:3] == ["rte", "best constant answer", "62.0"]
    assert table(section(page, "### Examples and constant answers"))[1][-2:] == [
        "62.0", "accuracy 62.0",
    ]  # fmt: skip


def test_the_page_of_superglue_lists_what_was_not_run():
    gaps = section(results_page("superglue", [make_task_record()]), GAPS)
    other = [name for name in task_names() if name != "rte"]
    assert f"- Tasks not run: {', '.join(other)}.\n" in gaps
    assert "- Methods not run: classifier, manual-fine-tuning, prompt-tuning.\n" in gaps
    assert "- Protocols not run: multi-split, full-held-out, full-paper, lm-bff.\n" in gaps
    assert "No setting was searched" not in gaps


def test_only_the_text_between_the_marks_is_replaced():
    text = "# Title\n\n<a>\nold\n<b>\n\n## More\n"
    once = insert_between(text, "<a>", "<b>", "\n| a |\n\n")
    assert once == "# Title\n\n<a>\n| a |\n<b>\n\n## More\n"
    assert insert_between(once, "<a>", "<b>", "| a |") == once


@pytest.mark.parametrize("text", ["", "<a>", "<b>", "<b>\n<a>", "<a><a><b>", "<a><b><b>"])
def test_a_text_without_both_marks_in_order_is_refused(text):
    with pytest.raises(DataError, match="once each, in order"):
        insert_between(text, "<a>", "<b>", "new")
