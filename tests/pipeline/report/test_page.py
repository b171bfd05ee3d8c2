import csv
import hashlib
import json
import os
import re
import subprocess
import sys
from collections import defaultdict
from html.parser import HTMLParser
from pathlib import Path

import pytest

from pipeline.files import write_csv, write_jsonl

PROJECT = Path(__file__).parents[3]
FORTY_ONE = [f"P{number}" for number in range(41)]
AWKWARD = [
    "AC|DC",
    "M*A*S*H",
    "_Lyon_",
    "`Lyon`",
    "[Lyon](Paris)",
    "C:\\*",
    "Q&amp;A",
    "<b>Lyon</b>",
    "<script>alert(1)</script>",
]


class Page(HTMLParser):
    """An HTML page, read again.

    Attributes:
        elements: (name, attributes) of all of them.
        tables: the texts of the cells, by table and row.
        headings: the texts of the headings.
        defined: id -> the elements that have it, each with all that is within.
    """

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.tables: list[list[list[str]]] = []
        self.headings: list[str] = []
        self.texts: list[str] = []
        self._open: list[str] | None = None
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("th", "td", "h1", "h2", "h3"):
            self._open = []

    def handle_endtag(self, tag: str) -> None:
        if tag in ("th", "td") and self._open is not None:
            self.tables[-1][-1].append("".join(self._open))
        elif tag in ("h1", "h2", "h3") and self._open is not None:
            self.headings.append("".join(self._open))
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


def test_the_tables_hold_the_numbers_of_the_files(full_files, full):
    found = _markdown_tables((full / "report.md").read_text())
    methods, relations, answers, *_, tasks, settings, trainings = found

    for row, method in zip(methods[1:], ("manual", "p-tuning"), strict=False):
        metrics = json.loads((full_files.metrics / "lama" / f"{method}.json").read_text())
        assert row == [method, f"{100 * metrics['test/p_at_1']:.1f}",
                       f"{100 * metrics['dev/p_at_1']:.1f}", "1234"]  # fmt: skip
        with (full_files.evaluation / "lama" / method / "relations.csv").open() as file:
            scores = {line["relation"]: line for line in csv.DictReader(file)}
        with (full_files.evaluation / "lama" / method / "controls.csv").open() as file:
            controls = {line["relation"]: line for line in csv.DictReader(file)}
        assert len(relations) - 1 == len(scores)
        for line in (dict(zip(relations[0], cells, strict=True)) for cells in relations[1:]):
            name, _, label = line["relation"].partition(" ")
            score, control = scores[name], controls[name]
            assert label == control["label"]
            assert line[method] == f"{100 * float(score['p_at_1']):.1f}"
            assert line["facts"] == score["facts"]
            assert line["left out"] == control["left_out"]
            assert line["majority class"] == f"{100 * float(control['majority']):.1f}"
            assert line["naive Bayes"] == f"{100 * float(control['naive_bayes']):.1f}"
        metrics = json.loads((full_files.metrics / "superglue/rte" / f"{method}.json").read_text())
        spread = "" if method == "manual" else " ± 0.7"
        assert ["rte", method, f"{100 * metrics['test/score']:.1f}{spread}",
                f"{100 * metrics['dev/score']:.1f}",
                f"accuracy {100 * metrics['test/accuracy']:.1f}{spread}",
                str(metrics["test/trainings"]), "277"] in tasks  # fmt: skip
    assert methods[3:] == [
        ["majority class", "9.9", "", "1234"],
        ["naive Bayes", "16.5", "", "1234"],
    ]
    assert tasks[3] == ["rte", "majority class", "50.5", "", "accuracy 50.5", "", "277"]
    template = r"{premise} \[P\] {mask}"
    first, second = (f"model.learning\\_rate={number}e-05" for number in (1, 2))
    assert settings[1:] == [
        ["rte", "p-tuning", "1", first, template, "2", "51.0 ± 1.0", "53.0", "yes"],
        ["rte", "p-tuning", "2", second, template, "2", "41.0 ± 1.0", "", ""],
    ]
    assert [row[1:] for row in trainings[1:]] == [
        ["p-tuning", "1", "1", "1", "2", "62.0", "65.3"],
        ["p-tuning", "1", "1", "2", "2", "64.0", "66.3"],
    ]
    assert len(answers) == 5


def test_the_page_has_the_same_tables_as_the_markdown(full):
    text = (full / "report.md").read_text().replace("**", "")
    markdown = _markdown_tables(re.sub(r"\\([\[\]_])", r"\1", text))
    assert _page(full).tables == markdown


def test_the_summary_has_the_tables_of_methods(full):
    everything = _markdown_tables((full / "report.md").read_text())
    summary = _markdown_tables((full / "summary.md").read_text())
    assert summary == [everything[0], everything[-3]]


def test_the_page_loads_nothing(full):
    page = _page(full)
    for tag, attributes in page.elements:
        assert tag not in ("script", "link", "iframe", "img", "image", "object", "embed", "base")
        for name, value in attributes.items():
            if name == "src" or name.endswith("href"):
                assert value.startswith("#"), (tag, name, value)
            assert not name.startswith("on")
            assert all(link.startswith("#") for link in re.findall(r"url\((.*?)\)", value or ""))
    assert "@import" not in "".join(page.texts)
    assert all(link.startswith("#") for link in re.findall(r"url\((.*?)\)", "".join(page.texts)))


@pytest.mark.parametrize("file", ["index.html", "figures/lama_relations.svg"])
def test_no_address_stands_in_the_page_but_the_names_of_xml(full, file):
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
        places.append(html.index(svg[svg.index("<svg") :]))
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
from tests.pipeline.report.conftest import Files, write
files = Files(Path(sys.argv[1]))
write(Path(sys.argv[2]), files.lama(), [files.task("rte")], stability=files.stability())
"""


def test_the_same_results_give_the_same_bytes_in_another_process(full_files, full, tmp_path):
    command = [sys.executable, "-c", _WRITE, str(full_files.root), str(tmp_path / "again")]
    environment = {**os.environ, "PYTHONHASHSEED": "7", "TZ": "Asia/Tokyo", "LC_ALL": "C"}
    subprocess.run(command, cwd=PROJECT, env=environment, check=True, timeout=120)

    def digests(folder: Path) -> dict[str, str]:
        return {
            path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in folder.rglob("*.*")
        }

    assert digests(tmp_path / "again") == digests(full)
    assert len(digests(full)) == 8


@pytest.mark.parametrize("method", ["manual", "p-tuning"])
def test_one_method_by_itself_can_be_reported(files, report, method):
    files.add_lama([method])
    files.add_task("rte", [method])
    folder = report(files.lama([method]), [files.task("rte", [method])])
    methods, relations, _, tasks, *_ = _page(folder).tables
    assert [row[0] for row in methods[1:]] == [method, "majority class", "naive Bayes"]
    assert relations[0][-1] == method
    assert [row[1] for row in tasks[1:]] == [method, "majority class"]


def test_without_lama_there_is_nothing_about_it(files, report):
    files.add_task("rte")
    files.add_task("cb")
    folder = report(None, [files.task("rte"), files.task("cb")])
    page = _page(folder)
    assert page.headings == [
        "Title",
        "Language understanding: geonames",
        "Settings that were tried",
        "By training",
    ]
    assert [row[0] for row in page.tables[0][1:]] == ["rte"] * 3 + ["cb"] * 3
    figures = sorted(path.name for path in folder.glob("figures/*"))
    assert figures == ["superglue.svg", "superglue_curves.svg"]


def test_without_superglue_there_is_nothing_about_it(files, report):
    files.add_lama()
    folder = report(files.lama())
    page = _page(folder)
    assert page.headings == ["Title", "Knowledge probing: geonames, 3 relations", "Some answers"]
    assert "superglue" not in (folder / "summary.md").read_text()


def test_stability_alone_can_be_reported(files, report):
    files.add_stability()
    folder = report(None, stability=files.stability())
    page = _page(folder)
    assert page.headings == ["Title", "Stability over templates: geonames"]
    assert len(page.tables) == 2
    assert [path.name for path in folder.glob("figures/*")] == ["lama_stability.svg"]


def test_facts_of_lama_stand_beside_the_paper_and_others_do_not(files, report):
    files.add_lama(relations=["P17"])
    lama = files.lama(answers=0)
    beside = "### Beside the paper"
    assert beside not in (report(lama) / "report.md").read_text()
    text = (report(lama, source="lama", subset="29k") / "report.md").read_text()
    assert "## Knowledge probing: `lama` 29k, 1 of 41 relations" in text
    assert "| ours: tiny | 1 of 41 | 1234 | 12.3 |" in text.split(beside)[1]
    assert "MegatronLM 11B" in text
    text = (report(lama, source="lama", subset="34k") / "report.md").read_text()
    assert "E-BERT" in text
    assert "MegatronLM" not in text


def test_left_out_and_removed_facts_are_counted_in_the_report(files, report):
    files.add_lama()
    text = (report(files.lama(), source="lama") / "report.md").read_text()
    assert "Of 1290 test facts, 56 were left out" in text
    assert "101 train and 32 dev" in text


def test_without_any_benchmark_the_report_says_so(report):
    folder = report(None)
    assert "No benchmark was run" in (folder / "report.md").read_text()
    assert _page(folder).tables == []
    assert (folder / "summary.md").read_text() == ""


def test_answers_may_be_left_out(files, report):
    files.add_lama()
    assert "Some answers" not in _page(report(files.lama(answers=0))).headings


def test_made_examples_are_called_so(full):
    assert "they are not SuperGLUE" in (full / "report.md").read_text()


def test_41_relations_fit(files, report):
    files.add_lama(relations=FORTY_ONE)
    folder = report(files.lama(answers=50))
    _, relations, answers = _page(folder).tables
    assert [row[0].split()[0] for row in relations[1:]] == FORTY_ONE
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
    lama = files.lama(["manual"], answers=99)
    page = _page(report(lama, stability=files.stability(["manual"])))
    _, labels, answers, _, templates = page.tables
    assert [row[0].split(" ", 1)[1] for row in labels[1:]] == AWKWARD
    assert [row[1:] for row in answers[1:]] == [[name, "France", name] for name in AWKWARD]
    assert [row[2] for row in templates[1:]] == AWKWARD
    assert "script" not in {tag for tag, _ in page.elements}


@pytest.mark.parametrize("title", ["R&D: a < b", "<b>Lyon</b>", "<script>alert(1)</script>"])
def test_the_title_is_shown_as_it_is_written(report, title):
    page = _page(report(None, title=title))
    assert page.headings[0] == title
    assert "script" not in {tag for tag, _ in page.elements}


def test_the_numbers_are_traced_to_the_files_that_they_are_from(files, report):
    origins = {
        "metrics/lama/manual.json": "ab" * 16,
        "metrics/superglue/rte/p-tuning.json": "1" * 32,
    }
    files.add_lama()
    folder = report(files.lama(answers=1), origins=origins)
    text = (folder / "report.md").read_text()
    for path, digest in origins.items():
        assert f"| `{path}` | `{digest}` |" in text
    assert "`ptune lineage metrics/lama/manual.json`" in text
    assert "Where the numbers are from" in (folder / "index.html").read_text()
    assert "Where the numbers" not in (folder / "summary.md").read_text()


def test_what_was_trained_is_counted(files, report):
    files.add_lama()
    work = {
        "lama/p-tuning": {"trainings": 4, "epochs": 93},
        "superglue/rte/p-tuning": {"trainings": 16, "epochs": 48},
    }
    text = (report(files.lama(answers=1), work=work) / "report.md").read_text()
    assert "| lama | p-tuning | 4 | 93 |\n| superglue/rte | p-tuning | 16 | 48 |" in text
    assert "`ptune results --cost`" in text


def test_superglue_stands_beside_the_paper_and_made_examples_do_not(files, report):
    files.add_task("rte")
    tasks = [files.task("rte")]
    text = (report(None, tasks) / "report.md").read_text()
    assert "Beside the paper" not in text
    text = (report(None, tasks, tasks_source="superglue") / "report.md").read_text()
    assert "### Beside the paper" in text
    assert "| ALBERT-xxlarge-v2 | p-tuning (P-tuning) | 63.3 ± 3.6 |" in text
    assert "| ours: tiny | p-tuning |" in text
    text = (
        report(None, tasks, tasks_source="superglue", tasks_protocol="full-paper") / "report.md"
    ).read_text()
    assert "| BERT-base 109M | classifier (CLS-FT) | 68.4 |" in text
