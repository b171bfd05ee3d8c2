"""The page, from records whose numbers were made up; expectations are worked out by hand."""

import re

import pytest
from markdown_it import MarkdownIt
from pipeline.evaluation.stability import spread_over_templates

from pipeline.report.results_page import results_page
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
    """Return what stands under a heading, up to the next one of its depth."""
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
    page = results_page([make_record("wide", EIGHT), make_record("deep", TWO)])
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
    text = section(results_page([make_record("one", few)]), SHARED)
    assert [row[0] for row in table(text)[1:]] == ["p-tuning", "majority class", "naive Bayes"]
    assert "On P17, P19." in text


def test_runs_that_share_no_relation_are_not_compared():
    runs = [
        make_record("a", {"p-tuning": {"P17": 0.5}}),
        make_record("b", {"discrete": {"P19": 1}}),
    ]
    text = section(results_page(runs), SHARED)
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
    page = results_page([make_record("a"), make_record("b", **other)])
    for heading in (SHARED, "## By relation"):
        titles = re.findall("^### (.*)$", section(page, heading), re.MULTILINE)
        assert len(titles) == 2
        assert len(set(titles)) == 2


def test_under_a_cap_another_seed_means_other_facts_and_without_one_the_same():
    capped = NONE | {"test_facts": 50}
    for splits, groups in ((NONE, 1), (capped, 2)):
        runs = [make_record(str(seed), seed=seed, splits=splits) for seed in (1, 2)]
        assert results_page(runs).count("\nOn P17.\n") == groups


def test_scores_always_say_on_how_many_relations_and_facts():
    page = results_page([make_record("wide", EIGHT), make_record("deep", TWO, seconds=None)])
    rows = table(section(page, "### Scores"))
    assert rows[0][:6] == ["run", "method", "relations", "test facts", "left out", "test P@1"]
    assert rows[2] == ["`wide`", "p-tuning", "3", "303", "3", "66.7", "75.0", "61.0", "122.0"]
    assert rows[3] == ["`wide`", "majority class", "3", "303", "3", "11.0", "", "", ""]
    assert rows[4] == ["`wide`", "naive Bayes", "3", "303", "3", "22.0", "", "", ""]
    assert rows[5][1:3] == ["fine-tuning", "3"]
    assert rows[5][6:] == ["75.0", "unknown", "unknown"]


def test_a_run_is_told_with_all_that_it_takes_to_judge_it():
    page = results_page([make_record("one", seed=7, note="slow", gpu="H200", dirty=True)])
    assert table(section(page, "## What was run"))[1] == [
        "`one`", "small", "`lama` 34k", "1 of 41 relations", "7",
        "2 cores of Abacus, H200", "2026-01-02", "0123456789 with changes", "slow",
    ]  # fmt: skip
    assert table(section(page, "### Settings"))[1:] == [
        ["`one`", "manual", r"\[P\*3\] {subject} {mask}", "none"],
        ["`one`", "p-tuning", r"\[P\*3\] {subject} {mask}",
         "prompt at 0.001, at most 4 epochs, batch 8"],
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("prompts", "told"),
    [("gradient", "search, 60 iterations"), ("lpaqa_mine", r"best of lpaqa\_mine")],
)
def test_a_search_is_told_as_one(prompts, told):
    record = make_record("one", {"discrete": {"P17": 0.5}})
    record["params"]["lama"]["training"]["discrete"] = NOTHING | {
        "search": {"prompts": prompts, "iterations": 60}
    }
    assert table(section(results_page([record]), "### Settings"))[1][3] == told


def test_relations_stand_beside_each_other_with_empty_cells_where_one_was_not_asked():
    runs = [make_record("a", {"p-tuning": {"P17": 0.5, "P19": 0.25}}),
            make_record("b", {"p-tuning": {"P19": 0.75}, "discrete": {"P19": 1.0}})]  # fmt: skip
    rows = table(section(results_page(runs), "## By relation"))
    assert rows[0][5:] == ["p-tuning, `a`", "p-tuning, `b`", "discrete"]
    assert [row[0] for row in rows[1:]] == ["P17 of P17", "P19 of P19"]
    assert [row[5:] for row in rows[1:]] == [["50.0", "", ""], ["25.0", "75.0", "100.0"]]


def test_each_subset_stands_beside_its_own_half_of_the_paper_s_table():
    runs = [make_record("a", subset="34k"), make_record("b", subset="29k", model="gpt2-medium"),
            make_record("c", source="geonames")]  # fmt: skip
    page = results_page(runs)
    left = section(page, "## Beside the paper: LAMA 34k")
    right = section(page, "## Beside the paper: LAMA 29k")
    assert [row[0] for row in table(left)[1:3]] == ["ours: small (a)", "BERT-base 109M"]
    assert [row[0] for row in table(right)[1:3]] == ["ours: gpt2-medium (b)", "BERT-base 109M"]
    assert "gpt2-medium is the paper's GPT2-medium" in right
    assert "(c)" not in left + right


def test_stability_is_told_for_each_run_with_its_minutes():
    page = results_page([make_record("one", stability=["manual", "p-tuning"])])
    text = section(page, "### `one`: small, `lama` 34k")
    # 0.1 to 0.4, and 0.2 to 0.5; the deviation of both is sqrt(0.05 / 3).
    assert "| manual | 1 | 4 | 25.0 | 10.0 | 40.0 | 12.91 |" in text
    assert "| p-tuning | 1 | 4 | 35.0 | 20.0 | 50.0 | 12.91 |" in text
    assert "| manual (paper) |" in text
    assert "manual unknown and 0.5; p-tuning unknown and 0.5." in text


def test_stability_alone_makes_a_page():
    page = results_page([make_record("one", {}, stability=["manual"])])
    assert table(section(page, "## What was run"))[1][3] == "stability alone"
    for heading in ("Scores", "On the relations", "By relation", "Beside the paper: LAMA"):
        assert f"# {heading}" not in page
    gaps = section(page, GAPS)
    assert f"Methods not run: {', '.join(SIX)}." in gaps
    assert "Methods in stability over templates not run: fine-tuning, " in gaps


def test_what_was_not_run_is_said():
    gaps = section(results_page([make_record("wide", EIGHT, model="bert-base-cased")]), GAPS)
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
        "- One seed alone (34), so no spread over seeds is known, with bert-base-cased on `lama` "
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
    lines = section(results_page(runs), GAPS).strip().splitlines()
    assert "- Methods not run: none." in lines
    assert "- Methods in stability over templates not run: none." in lines
    assert "- A GPU was used: H200 in `1`, H200 in `2`." in lines
    assert "- Facts in `1`: at most 5 train of a relation." in lines
    assert not any(line.startswith(("- Relations", "- One seed")) for line in lines)


def test_the_page_names_the_commands_that_write_it():
    page = results_page([make_record()])
    assert "python -m stages.report collect --name NAME --out docs/results/lama\n" in page
    assert "results --results docs/results/lama --out docs/results/lama.md\n" in page


@pytest.mark.parametrize("odd", ["a|b", "*a*", "`a`", "[a](b)", "<b>a</b>", "a\nb", "$a$", "~~a~~"])
def test_odd_names_are_shown_as_they_are(odd):
    record = make_record("one", note=odd, model=odd, gpu=odd, stability=["manual"])
    for own in record["methods"].values():
        own["relations"][0]["label"] = odd
    for row in record["stability"]["manual"]["templates"]:
        row["template"] = odd
    tokens = (
        MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(results_page([record]))
    )
    inline = [token.children for token in tokens if token.type == "inline"]
    cells = ["".join(child.content for child in children) for children in inline]
    shown = odd.replace("\n", " ")
    for cell in (shown, f"P17 of {shown}"[:4] + shown, f"2 cores of Abacus, {shown}"):
        assert cell in cells, cell
    assert sum(cell == shown for cell in cells) == 2 + len(TABLE_1)
    kinds = {child.type for children in inline for child in children}
    assert kinds <= {"text", "text_special", "code_inline", "link_open", "link_close", "softbreak"}
