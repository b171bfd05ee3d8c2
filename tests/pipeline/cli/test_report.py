import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipeline.cli import report
from pipeline.cli.app import app
from pipeline.files import read_json, write_json
from pipeline.results.page import results_page
from tests.pipeline.results.conftest import project  # noqa: F401
from tests.project import edit_params

SECONDS = {("train", "lama", "p-tuning"): 90.0}
TABLE = "## Results\n\n| method | test P@1 |\n| --- | ---: |\n| manual | 30.3 |\n"


@pytest.fixture
def here(project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:  # noqa: F811
    monkeypatch.chdir(project)
    monkeypatch.setattr(report, "stage_seconds", lambda _, *about: SECONDS.get(about))
    edit_params(project, runtime__device="cpu")
    return project


def invoke(*arguments):
    return CliRunner().invoke(app, ["report", *map(str, arguments)])


@pytest.mark.parametrize("benchmark", ["lama", "superglue"])
def test_a_record_is_kept_and_the_page_written_from_all(here: Path, benchmark: str) -> None:
    done = invoke("collect", benchmark, "--name", "one", "--note", "a note")
    assert done.exit_code == 0, done.output
    folder = Path("docs/results") / benchmark
    record = read_json(folder / "one.json")
    assert record["note"] == "a note"
    assert record["hardware"]["gpu"] is None
    assert record["hardware"]["cores"] > 0
    if benchmark == "lama":
        assert record["methods"]["p-tuning"]["seconds"] == {"train": 90.0, "evaluate": None}
    another = record | {"name": "another"}
    write_json(folder / "another.json", another)
    assert invoke("page", benchmark).exit_code == 0
    text = Path(f"docs/results/{benchmark}.md").read_text()
    assert text == results_page(benchmark, [another, record])
    shutil.move(folder, "records")
    assert invoke("page", benchmark, "--records", "records", "--out", "again.md").exit_code == 0
    assert Path("again.md").read_text() == text


@pytest.mark.parametrize("name", ["", "a/b", "../a", ".hidden", "a b", "ä"])
def test_a_name_that_is_not_a_file_name_is_refused(here: Path, name: str) -> None:
    done = invoke("collect", "lama", "--name", name, "--out", "out")
    assert done.exit_code == 1
    assert "error: --name" in done.output
    assert not Path("out").exists()


def test_a_folder_without_records_is_named(tmp_path: Path) -> None:
    done = invoke("page", "lama", "--records", tmp_path, "--out", tmp_path / "page.md")
    assert done.exit_code == 1
    assert "no records" in done.output
    assert not (tmp_path / "page.md").exists()


def test_the_last_report_is_shown_and_written_into_the_readme(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NO_COLOR", "1")
    for command in ("show", "readme"):
        Path("README.md").write_text(f"# Title\n{report.BEGIN}\n{report.END}\nMore\n")
        done = invoke(command)
        assert done.exit_code == 1
        assert "report/summary.md: no such file; run `dvc repro` first" in done.output
    Path("report/figures").mkdir(parents=True)
    Path("report/summary.md").write_text(TABLE)
    Path("report/figures/a.svg").write_text("<svg/>")
    done = invoke("show")
    assert done.exit_code == 0
    assert "30.3" in done.stdout
    assert "report/index.html" in done.stdout
    assert "\x1b[3" not in done.stdout
    assert invoke("readme").exit_code == 0
    text = Path("README.md").read_text()
    assert text.startswith(f"# Title\n{report.BEGIN}\nFrom `make repro`")
    assert f"{TABLE}{report.END}\nMore\n" in text
    assert Path("docs/figures/a.svg").read_text() == "<svg/>"
