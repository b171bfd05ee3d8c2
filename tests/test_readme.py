"""The README against the project: its commands, its paths, its numbers."""

import re
from pathlib import Path
from typing import Literal

import pytest
from ruamel.yaml import YAML

from pipeline.cli.report import BEGIN, END, insert_record
from pipeline.config.schema import load_params
from pipeline.files import read_json
from pipeline.report.scores import MethodResult
from pipeline.report.tables import methods_table
from pipeline.results.page import results_page
from pipeline.tasks.own import Definition
from tests.project import ROOT
from tests.test_guides import parsed

README = (ROOT / "README.md").read_text()
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]

# Keys that only the changelog names.
RENAMED = {"runtime.rows_per_pass"}


def test_the_tables_are_those_of_the_metrics_files_in_git() -> None:
    params = load_params(ROOT / "params.yaml")
    shown = README.partition(BEGIN)[2].partition(END)[0]

    def read(benchmark: str, method: str, task: str = "") -> MethodResult:
        path = ROOT.joinpath("metrics", benchmark, task, f"{method}.json")
        return MethodResult(benchmark, task, method, read_json(path))

    lama, glue = params.lama, params.superglue
    assert methods_table([read("lama", method) for method in lama.methods]).strip() in shown
    tasks = [read("superglue", method, task) for task in glue.tasks for method in glue.methods]
    assert methods_table(tasks).strip() in shown
    assert f"{len(lama.relations)} relations" in shown


def test_the_table_of_a_record_is_that_of_the_record_in_git(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(ROOT)
    assert "<!-- record: " in README
    assert insert_record(README) == README


@pytest.mark.parametrize("benchmark", ["lama", "superglue"])
def test_the_page_of_results_is_that_of_the_records_in_git(
    benchmark: Literal["lama", "superglue"],
) -> None:
    folder = ROOT / "docs" / "results"
    records = [read_json(path) for path in sorted((folder / benchmark).glob("*.json"))]
    assert records
    assert (folder / f"{benchmark}.md").read_text() == results_page(benchmark, records)


def test_every_make_target_that_is_named_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    texts = [document.read_text() for document in DOCUMENTS]
    found = [re.findall(r"(?:^|`)make ([a-z-]+)", text, re.MULTILINE) for text in texts]
    assert any(found)
    assert {name for own in found for name in own} <= targets


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_link_leads_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", document.read_text()):
        if not target.startswith("http"):
            assert (document.parent / target).exists(), target


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_ptune_command_exists(document: Path, tmp_path: Path) -> None:
    for name, field in (("reviews", "text"), ("characters", "name")):  # tasks of the examples
        splits = tmp_path / "data" / "splits" / "tasks" / name
        Definition(name, [field], ["a", "b"], ["accuracy"]).write(splits)
    lines = re.findall(r"^(?:.*&& )?(ptune [^#\n]*)", document.read_text(), re.MULTILINE)
    for command in lines:
        parsed(tmp_path, command.replace("<run id>", "1f0c6a"))


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_path_in_backticks_exists(document: Path) -> None:
    folders = "pipeline|stages|presets|docs|tests|benchmarks|tools"
    for path in re.findall(rf"`((?:{folders})/[\w./-]*)`", document.read_text()):
        assert (ROOT / path).exists(), path


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_key_of_the_parameters_exists(document: Path) -> None:
    params = YAML(typ="safe").load(ROOT / "params.yaml")
    keys = re.findall(rf"`((?:{'|'.join(params)})\.[\w.-]+)[`:]", document.read_text())
    for key in keys:
        section = params
        for name in key.split("."):
            if section == {} or name not in section:
                assert key in RENAMED or section == {}, key
                break
            section = section[name]


def test_every_path_of_the_tree_exists() -> None:
    tree = README.split("## Project layout")[1].split("```")[1]
    made = {"report/"}
    for line in tree.strip().splitlines():
        depth = len(line) - len(line.lstrip())
        names = re.findall(r"[\w./]+/|[\w/]+\.\w+", line)[: None if depth == 0 else 1]
        for name in names:
            places = [ROOT / name, ROOT / "pipeline" / name]
            assert name in made or any(place.exists() for place in places), name


def test_the_readme_is_short_up_to_its_map_and_starts_with_a_picture() -> None:
    start = re.sub("<!--.*?-->", "", README.partition("## Project layout")[0])
    assert len(re.findall(r"\S*\w\S*", start)) <= 1000
    assert "![" in "\n".join(README.splitlines()[:20])
