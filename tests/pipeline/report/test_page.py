import csv
import hashlib
import json
import os
import re
import subprocess
import sys
from collections import defaultdict
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import pytest

from pipeline.errors import printable
from pipeline.files import write_csv, write_jsonl
from pipeline.report.scores import read_nearest
from pipeline.report.significance import compare_methods, read_correct, score_interval
from tests.hostile import NAMES, rendered, text_of
from tests.pipeline.report.conftest import SPLITS, everything, write

PROJECT = Path(__file__).parents[3]
FORTY_ONE = [f"P{number}" for number in range(41)]
CONTROLS = ["majority class", "best constant answer", "naive Bayes"]
AWKWARD = [
    "AC|DC",
    "M*A*S*H",
    "_Lyon_",
    "`Lyon`",
    "[Lyon](Paris)",
    "C:\\*",
    "Q&amp;A",
    "<b>Lyon</b>",
    *NAMES,
]


class Page(HTMLParser):
    """An HTML page, read again.

    Attributes:
        elements: (name, attributes) of all of them.
        tables: the texts of the cells, by table and row.
        headings: the texts of the headings.
        title: of the page.
    """

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.tables: list[list[list[str]]] = []
        self.headings: list[str] = []
        self.texts: list[str] = []
        self.title = ""
        self._open: list[str] | None = None
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("th", "td", "h1", "h2", "h3", "title"):
            self._open = []

    def handle_endtag(self, tag: str) -> None:
        if tag in ("th", "td") and self._open is not None:
            self.tables[-1][-1].append("".join(self._open))
        elif tag in ("h1", "h2", "h3") and self._open is not None:
            self.headings.append("".join(self._open))
        elif tag == "title" and self._open is not None:
            self.title = "".join(self._open)
        else:
            return
        self._open = None

    def handle_data(self, data: str) -> None:
        self.texts.append(data)
        if self._open is not None:
            self._open.append(data)


def _markdown_tables(text: str) -> list[list[list[str]]]:
    tables: list[list[list[str]]] = []
    before = ""
    for line in text.splitlines():
        if line.startswith("| "):
            if not before.startswith("| "):
                tables.append([])
            tables[-1].append([cell.strip() for cell in line[1:-1].split("|")])
        before = line
    return [[rows[0], *rows[2:]] for rows in tables]


def _page(folder: Path) -> Page:
    return Page((folder / "index.html").read_text(encoding="utf-8"))


def test_the_tables_are_in_the_order_of_the_headings(full):
    text = (full / "report.md").read_text()
    first = [table[0][:2] for table in _markdown_tables(text)]
    assert first == [
        ["method", "test P@1"],
        ["relation", "test facts"],
        ["relation", "subject"],
        ["method", "relations"],
        ["relation", "number"],
        ["task", "method"],
        ["task", "method"],
        ["task", "method"],
    ]
    assert re.findall("^#+ (.*)$", text, re.MULTILINE) == [
        "Title",
        "Knowledge probing: `geonames`, 3 relations",
        "Some answers",
        "Stability over templates: `geonames`",
        "Language understanding: `geonames`",
        "At the level of chance",
        "Settings that were tried",
        "By training",
    ]
    assert "\n\n\n" not in text


def test_the_tables_hold_the_numbers_of_the_files(full_files, full):
    methods, relations, answers, *_ = _markdown_tables((full / "report.md").read_text())
    metrics = json.loads((full_files.metrics / "lama/manual.json").read_text())
    share = f"{100 * metrics['test/p_at_1']:.1f}"
    assert methods[1][:2] == ["manual", share]
    assert [row[0] for row in methods[3:]] == CONTROLS
    with (full_files.evaluation / "lama" / "p-tuning" / "relations.csv").open() as file:
        scores = [f"{100 * float(line['p_at_1']):.1f}" for line in csv.DictReader(file)]
    assert sorted(row[-1] for row in relations[1:]) == sorted(scores)
    assert len(answers) == 5


def test_relations_are_in_the_order_of_the_figure(files, report):
    files.add_lama(relations=FORTY_ONE)
    folder = report(lama=files.lama())
    _, relations = _page(folder).tables
    best = [max(map(float, row[-2:])) for row in relations[1:]]
    assert best == sorted(best, reverse=True)
    labels = re.findall(r"<!-- (P\d+) label", (folder / "figures/lama_relations.svg").read_text())
    assert labels[::-1] == [row[0].split()[0] for row in relations[1:]]


def test_it_begins_with_the_comparisons_the_scores_and_a_prompt(full_files, tmp_path):
    parts = everything(full_files)
    answers = read_correct([*parts["lama"], *parts["tasks"]], full_files.evaluation)
    of = {
        "lama": compare_methods(parts["lama"], answers),
        "superglue": compare_methods(parts["tasks"], answers),
    }
    intervals = {name: score_interval(own, name) for name, own in answers.items()}
    folder = write(tmp_path, **parts, comparisons=of, intervals=intervals)
    head = (folder / "report.md").read_text().partition("## ")[0]
    lines = re.findall("^- (.*)$", head, re.MULTILINE)
    assert len(lines) == 2
    assert lines[0].startswith("p-tuning 26.6, manual 12.3: ")
    assert " points of P@1 (95 % interval " in lines[0]
    assert " points of accuracy on rte (95 % interval " in lines[1]
    assert "P-tuning's prompt of P17: `{premise} [P] {mask}` (`[P]` is a trained vector" in head
    html = (folder / "index.html").read_text()
    (label,) = re.findall('<figure class="overview"><svg role="img" aria-label="([^"]*)"', html)
    assert unescape(label) == " ".join(lines).replace("\\<", "<")
    assert "".join(re.findall("aria-label=.*>", html)).count("aria-label") == len(
        list(folder.glob("figures/*"))
    )


def test_seeds_and_settings_of_lama_have_tables_and_a_figure(files, report):
    files.add_lama(seeds=(1, 2))
    folder = report(lama=files.lama())
    page = _page(folder)
    assert page.headings[2:] == ["Settings that were tried", "By training"]
    assert page.tables[0][2] == ["p-tuning", "26.6 ± 1.2", "56.7 ± 2.3", "2", "1234"]
    assert "mean ± standard deviation (n - 1)" in "".join(page.texts)
    names = {path.stem for path in folder.glob("figures/*")}
    assert names == {"lama_relations", "lama_trainings", "lama_curves"}


def test_the_page_has_the_same_tables_as_the_markdown(full):
    text = (full / "report.md").read_text().replace("**", "")
    markdown = _markdown_tables(re.sub(r"\\([\[\]_])", r"\1", text))
    assert _page(full).tables == markdown


def test_the_summary_has_the_tables_of_methods(full):
    tables = _markdown_tables((full / "report.md").read_text())
    summary = _markdown_tables((full / "summary.md").read_text())
    assert summary == [tables[0], tables[-3]]


def test_the_page_loads_nothing(full):
    page = _page(full)
    for tag, attributes in page.elements:
        assert tag != "script" or not attributes  # it is in the page itself
        assert tag not in ("link", "iframe", "img", "image", "object", "embed", "base")
        for name, value in attributes.items():
            if name == "src" or name.endswith("href"):
                assert value.startswith("#"), (tag, name, value)
            assert not name.startswith("on")
            assert all(link.startswith("#") for link in re.findall(r"url\((.*?)\)", value or ""))
    assert "@import" not in "".join(page.texts)
    assert all(link.startswith("#") for link in re.findall(r"url\((.*?)\)", "".join(page.texts)))


@pytest.mark.parametrize("file", ["index.html", "figures/lama_relations.svg"])
def test_the_page_has_no_address_but_the_names_of_xml(full, file):
    text = (full / file).read_text()
    names = re.compile(r"""xmlns(:\w+)?="[^"]*"|<!DOCTYPE svg[^>]*>""")
    assert re.findall(r"""https?://[^\s"'<]*""", names.sub("", text)) == []


def test_every_figure_is_in_the_page_where_the_markdown_shows_it(full):
    shown = re.findall(r"!\[.*?\]\((.*?)\)", (full / "report.md").read_text())
    drawn = sorted(path.relative_to(full).as_posix() for path in full.glob("figures/*"))
    assert sorted(shown) == drawn
    html = (full / "index.html").read_text()
    places = []
    for name in shown:
        svg = (full / name).read_text()
        places.append(html.index(svg[svg.index("<svg") + len("<svg") :]))
    assert places == sorted(places)
    assert len(set(places)) == 5


def test_shapes_that_figures_share_by_name_are_the_same(full):
    html = (full / "index.html").read_text()
    used = set(re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', html))
    defined = defaultdict(set)
    for name, shape in re.findall(r'<(?:path|clipPath) id="([^"]+)"(.*?)(?:/>|</clipPath>)', html,
                                  re.DOTALL):  # fmt: skip
        defined[name].add(re.sub(r"\s+", " ", shape))
    assert used
    for name in {one or other for one, other in used}:
        assert len(defined[name]) == 1, name


_WRITE = """
import sys
from pathlib import Path
from tests.pipeline.report.conftest import Files, everything, write
write(Path(sys.argv[2]), **everything(Files(Path(sys.argv[1]))))
"""


def test_the_same_results_give_the_same_bytes_in_another_process(full_files, full, tmp_path):
    command = [sys.executable, "-c", _WRITE, str(full_files.root), str(tmp_path / "again")]
    environment = {**os.environ, "PYTHONHASHSEED": "7", "TZ": "Asia/Tokyo", "LC_ALL": "C"}
    subprocess.run(command, cwd=PROJECT, env=environment, check=True, timeout=600)

    def digests(folder: Path) -> dict[str, str]:
        return {
            path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in folder.rglob("*.*")
        }

    assert digests(tmp_path / "again" / "report") == digests(full)
    assert len(digests(full)) == 8


@pytest.mark.parametrize("method", ["manual", "p-tuning"])
def test_one_method_by_itself_can_be_reported(files, report, method):
    files.add_lama([method])
    files.add_task("rte", [method])
    folder = report(lama=files.lama([method]), tasks=files.task("rte", [method]))
    methods, relations, tasks, *_ = _page(folder).tables
    assert [row[0] for row in methods[1:]] == [method, *CONTROLS]
    assert relations[0][-1] == method
    assert [row[1] for row in tasks[1:]] == [method, *CONTROLS[:2]]


def test_without_lama_there_is_nothing_about_it(files, report):
    files.add_task("rte")
    files.add_task("cb")
    folder = report(tasks=[*files.task("rte"), *files.task("cb")])
    page = _page(folder)
    assert page.headings == [
        "Title",
        "Language understanding: geonames",
        "At the level of chance",
        "Settings that were tried",
        "By training",
    ]
    assert [row[0] for row in page.tables[0][1:]] == ["rte"] * 4 + ["cb"] * 4
    figures = sorted(path.name for path in folder.glob("figures/*"))
    assert figures == ["superglue.svg", "superglue_curves.svg"]


def test_settings_that_were_all_evaluated_have_a_figure_with_the_papers_marks(files, report):
    files.add_task("cb")
    results = files.task("cb")
    template = "{premise:shorten} [P] Question: {statement}? Answer: {mask}."
    common = {**results[1].settings[0], "tried": "", "test_score_std": 0.02, "chosen": False}
    settings = [
        {**common, "template": template, "test_score": 0.7},
        {**common, "template": "{premise} [P] {mask}", "test_score": 0.6},
    ]
    ablation = [results[0], replace(results[1], settings=settings)]
    official = {"superglue__source": "superglue", "superglue__protocol": "multi-split"}
    folder = report(official, tasks=ablation)
    figure = (folder / "figures" / "superglue_settings.svg").read_text()
    assert "<!-- paper -->" in figure
    assert figure.count("<!-- cb {premise") == 2
    assert "Open circles: Tables 7 and 8" in (folder / "report.md").read_text()
    figure = report(tasks=ablation) / "figures" / "superglue_settings.svg"
    assert "<!-- paper -->" not in figure.read_text()
    # Where dev chose one, or each split its own, there is nothing to compare.
    by_split = [{**row, "chosen": True} for row in settings]
    for chosen in (results, [results[0], replace(results[1], settings=by_split)]):
        folder = report(official, tasks=chosen)
        assert "superglue_settings" not in (folder / "report.md").read_text()


def test_without_superglue_there_is_nothing_about_it(files, report):
    files.add_lama()
    folder = report(lama=files.lama(), answers=files.answers(4))
    page = _page(folder)
    assert page.headings == ["Title", "Knowledge probing: geonames, 3 relations", "Some answers"]
    assert "superglue" not in (folder / "summary.md").read_text()


def test_stability_alone_can_be_reported(files, report):
    files.add_stability()
    folder = report(stability=files.stability())
    page = _page(folder)
    assert page.headings == ["Title", "Stability over templates: geonames"]
    assert len(page.tables) == 2
    assert [path.name for path in folder.glob("figures/*")] == ["lama_stability.svg"]


def test_facts_of_lama_are_compared_with_the_paper_and_others_are_not(files, report):
    files.add_lama(relations=["P17"])
    lama = files.lama()
    heading = "### Comparison with the paper"
    assert heading not in (report(lama=lama) / "report.md").read_text()
    official = {"lama__source": "lama", "lama__subset": "29k"}
    text = (report(official, lama=lama) / "report.md").read_text()
    assert "## Knowledge probing: `lama` 29k, 1 of 41 relations" in text
    assert "| ours: tiny | 1 of 41 | 1234 | 12.3 |" in text.split(heading)[1]
    assert "MegatronLM 11B" in text
    assert "- MegatronLM is not reproduced: its weights of 11 billion parameters" in text
    text = (report({**official, "lama__subset": "34k"}, lama=lama) / "report.md").read_text()
    assert "- E-BERT is not reproduced: it replaces the subject's tokens by entity vectors" in text
    assert "MegatronLM" not in text


def test_objects_of_several_tokens_have_their_own_table_and_no_paper(files, report):
    files.add_lama(relations=["P17"])
    lama = files.lama()
    assert "### Objects of one token" not in (report(lama=lama) / "report.md").read_text()
    for result in lama:
        result.metrics.update({"test/p_at_1_one_token": 0.3211, "test/one_token_facts": 98})
    official = {"lama__source": "lama", "lama__objects": "all"}
    text = (report(official, lama=lama) / "report.md").read_text()
    assert "## Knowledge probing: `lama` 34k, objects of several tokens too, 1 of 41" in text
    assert "among all objects of the relation" in text
    assert "All 1234 test facts were used." in text
    one_token = text.partition("### Objects of one token")[2].partition("###")[0]
    assert "| manual | 32.1 | 98 |\n| p-tuning | 32.1 | 98 |" in one_token
    assert "### Comparison with the paper" not in text


def test_words_nearest_to_trained_vectors_are_shown_as_they_are(files, report):
    files.add_lama(relations=["P17"])
    nearest = read_nearest(files.evaluation, files.lama())
    page = _page(report(lama=files.lama(), nearest=nearest))
    assert "What the vectors resemble" in page.headings
    assert page.tables[-1] == [
        ["task", "method", "nearest words of each vector"],
        ["P17", "p-tuning", "1: in34 a|b; 2: the of"],
    ]
    assert "What the vectors resemble" not in _page(report(lama=files.lama())).headings


def test_left_out_and_removed_facts_are_counted_in_the_report(files, report):
    files.add_lama()
    text = (report(lama=files.lama(), splits=SPLITS) / "report.md").read_text()
    assert "Of 1290 test facts, 56 were left out" in text
    assert "101 train and 32 dev" in text


def test_a_report_without_any_benchmark_is_noted(report):
    folder = report()
    assert "No benchmark was run" in (folder / "report.md").read_text()
    assert _page(folder).tables == []
    assert (folder / "summary.md").read_text().strip() == ""


def test_answers_may_be_left_out(files, report):
    files.add_lama()
    assert "Some answers" not in _page(report(lama=files.lama())).headings


def test_generated_examples_are_called_so(full):
    assert "they are not SuperGLUE" in (full / "report.md").read_text()


def test_41_relations_fit(files, report):
    files.add_lama(relations=FORTY_ONE)
    folder = report(lama=files.lama(), answers=files.answers(50))
    _, relations, answers = _page(folder).tables
    assert sorted(row[0].split()[0] for row in relations[1:]) == sorted(FORTY_ONE)
    assert len(answers) == 51
    curves = (folder / "figures/lama_curves.svg").read_text()
    panels = re.findall(r"<!-- (P\d+) -->", curves)
    assert panels == FORTY_ONE
    # In points: they still fit a page.
    size = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', curves)
    assert max(map(float, size.groups())) < 800


def test_names_are_shown_as_they_are(files, report):
    relations = [f"P{number}" for number, _ in enumerate(AWKWARD)]
    files.add_lama(["manual"], relations)
    folder = files.evaluation / "lama" / "manual"
    write_jsonl(
        folder / "predictions" / "predictions.jsonl",
        [
            {"relation": relation, "subject": name, "object": "France", "answer": name}
            for relation, name in zip(relations, AWKWARD, strict=True)
        ],
    )
    controls = [
        {"relation": relation, "label": name, "left_out": 0, "majority": 0, "naive_bayes": 0}
        for relation, name in zip(relations, AWKWARD, strict=True)
    ]
    write_csv(folder / "controls.csv", list(controls[0]), controls)
    files.add_stability(["manual"], {"P17": AWKWARD})
    folder = report(
        lama=files.lama(["manual"]),
        answers=files.answers(99, ["manual"]),
        stability=files.stability(["manual"]),
    )
    page = _page(folder)
    _, labels, answers, _, templates = page.tables
    shown = [printable(" ".join(name.split())) for name in AWKWARD]
    assert sorted(row[0].split(" ", 1)[1] for row in labels[1:]) == sorted(shown)
    assert [row[1:] for row in answers[1:]] == [[name, "France", name] for name in shown]
    assert [row[2] for row in templates[1:]] == shown
    text_of((folder / "index.html").read_text())
    text_of(rendered((folder / "report.md").read_text()))


@pytest.mark.parametrize("title", ["R&D: a < b", " ".join(AWKWARD[:-3]), *NAMES[-3:]])
def test_title_and_model_are_shown_as_they_are_written(report, title):
    folder = report({"report__title": title, "model__name": title})
    page = _page(folder)
    shown = printable(" ".join(title.split()))
    assert page.headings[0] == shown
    assert " ".join(page.title.split()) == shown
    html, markdown = ((folder / name).read_text() for name in ("index.html", "report.md"))
    assert f"Language model: {shown}." in text_of(html)
    assert f"Language model: {shown}." in text_of(rendered(markdown))


def test_the_numbers_are_traced_to_the_files_that_they_are_from(files, report):
    origins = {
        "metrics/lama/manual.json": "ab" * 16,
        "metrics/superglue/rte/p-tuning.json": "1" * 32,
    }
    files.add_lama()
    folder = report(lama=files.lama(), origins=origins)
    text = (folder / "report.md").read_text()
    for path, digest in origins.items():
        assert f"| `{path}` | `{digest}` |" in text
    assert "`ptune lineage metrics/lama/manual.json`" in text
    assert "Where the numbers are from" in (folder / "index.html").read_text()
    assert "Where the numbers" not in (folder / "summary.md").read_text()


def test_trainings_and_epochs_are_listed(files, report):
    files.add_lama()
    work = {
        "lama/p-tuning": {"trainings": 4, "epochs": 93},
        "superglue/rte/p-tuning": {"trainings": 16, "epochs": 48},
    }
    text = (report(lama=files.lama(), budgets=work) / "report.md").read_text()
    assert "| lama | p-tuning | 4 | 93 |\n| superglue/rte | p-tuning | 16 | 48 |" in text
    assert "`ptune results --cost`" in text


def test_superglue_is_compared_with_the_paper_and_generated_examples_are_not(files, report):
    files.add_task("rte")
    tasks = files.task("rte")
    few = {"superglue__protocol": "few-shot-32"}
    text = (report(few, tasks=tasks) / "report.md").read_text()
    assert "Comparison with the paper" not in text
    text = (
        report({"superglue__source": "superglue", **few}, tasks=tasks) / "report.md"
    ).read_text()
    assert "### Comparison with the paper" in text
    assert "| ALBERT-xxlarge-v2 | p-tuning (P-tuning) | 63.3 ± 3.6 |" in text
    assert "| ours: tiny | p-tuning |" in text
    limits = dict.fromkeys(("train_examples", "dev_examples", "test_examples"))
    full = {
        "superglue__source": "superglue",
        "superglue__protocol": "full-paper",
        **{f"superglue__splits__{name}": limit for name, limit in limits.items()},
    }
    text = (report(full, tasks=tasks) / "report.md").read_text()
    assert "| BERT-base 109M | classifier (CLS-FT) | 68.4 |" in text
