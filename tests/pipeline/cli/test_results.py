import contextlib
import csv
import io
import json
import re
import shutil
import sqlite3
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from pipeline.cli.app import app
from pipeline.errors import DataError, printable
from pipeline.history.context import hardware_name
from pipeline.history.run import stage_run
from pipeline.workflow.command import StageInfo
from tests.history import MODEL, TODAY, log_lama, log_splits, log_task, log_training
from tests.hostile import NAMES, controls_in, rendered, text_of


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Iterator[Path]:
    """A folder with a history: two models, data of three kinds, an older run, a failed one."""
    folder = tmp_path_factory.mktemp("history")
    shutil.copyfile(empty_store, folder / "mlflow.db")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.chdir(folder)
        log_splits("lama", "1a1a1a1a", {"lama": {"source": "lama", "subset": "34k"}})
        log_splits(
            "superglue/rte", "2b2b2b2b",
            {"superglue": {"source": "superglue", "protocol": "few-shot-32"}},
        )  # fmt: skip
        log_lama("p-tuning", 0.4, days_ago=9)
        log_training("p-tuning", "dddddddd", 600.0)
        log_lama("p-tuning", 0.505, trained="dddddddd", seconds=90.0)
        log_lama("manual", 0.303, days_ago=2)
        log_lama("manual", 0.311, source="lama", splits="1a1a1a1a", model="bert-base-cased")
        log_task("rte", "p-tuning", 0.65)
        log_task(
            "rte", "p-tuning", 0.49, std=0.023, source="superglue", splits="2b2b2b2b",
            quick="yes",
        )  # fmt: skip
        tags = {"stage": "evaluate", "benchmark": "lama", "method": "p-tuning", "model": MODEL}
        with (
            contextlib.suppress(DataError),
            stage_run(None, StageInfo("evaluate", "lama", method="failed")),
        ):
            raise DataError("cut")
        with (
            stage_run(None, StageInfo("evaluate")) as run,
            run.child("unit", tags=tags, params={}) as child,
        ):
            child.log_metrics({"test/p_at_1": 0.99})
            run.set_tags({"stage": "another"})
        yield folder


@pytest.fixture(autouse=True)
def _here(logged: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(logged)


def invoke(*arguments: str, width: int = 120) -> Result:
    return CliRunner(env={"COLUMNS": str(width)}).invoke(app, ["results", *arguments])


def rows_of(*arguments: str) -> list[dict[str, str]]:
    result = invoke("--csv", *arguments)
    assert result.exit_code == 0, result.output
    return list(csv.DictReader(io.StringIO(result.stdout)))


def scores_of(*arguments: str) -> list[float]:
    return sorted(float(row["test_score"]) for row in rows_of(*arguments))


def test_all_is_what_a_plain_reading_of_the_store_finds(logged: Path) -> None:
    with contextlib.closing(sqlite3.connect(logged / "mlflow.db")) as store:
        runs = store.execute(
            "SELECT runs.run_uuid FROM runs JOIN tags ON tags.run_uuid = runs.run_uuid "
            "WHERE tags.key = 'stage' AND tags.value = 'evaluate' AND runs.status = 'FINISHED' "
            "AND NOT EXISTS (SELECT 1 FROM tags AS own WHERE own.run_uuid = runs.run_uuid "
            "AND own.key = 'mlflow.parentRunId') ORDER BY runs.end_time DESC"
        ).fetchall()
        metrics = {
            (run, key): value
            for run, key, value in store.execute("SELECT run_uuid, key, value FROM latest_metrics")
        }
    found = rows_of("--all")
    assert [row["run"] for row in found] == [run for (run,) in runs]
    assert len(found) == 6
    for row in found:
        key = "test/score" if row["benchmark"] == "superglue" else "test/p_at_1"
        assert float(row["test_score"]) == metrics[row["run"], key]


def test_the_newest_of_each_model_data_task_and_method_is_shown() -> None:
    assert scores_of() == [0.303, 0.311, 0.49, 0.505, 0.65]


@pytest.mark.parametrize(
    ("options", "scores"),
    [
        (["--model", "bert-base-cased"], [0.311]),
        (["--task", "lama"], [0.303, 0.311, 0.505]),
        (["--task", "rte"], [0.49, 0.65]),
        (["--method", "manual"], [0.303, 0.311]),
        (["--method", "manual", "--method", "p-tuning", "--task", "rte"], [0.49, 0.65]),
        (["--since", str(TODAY - timedelta(3))], [0.303, 0.311, 0.49, 0.505, 0.65]),
        (["--until", str(TODAY - timedelta(3))], [0.4]),
        (["--since", str(TODAY - timedelta(3)), "--until", str(TODAY - timedelta(1))], [0.303]),
        (["--since", str(TODAY), "--until", str(TODAY), "--task", "rte"], [0.49, 0.65]),
        (["--tag", "quick=yes"], [0.49]),
        (["--tag", "quick=yes", "--tag", "method=manual"], []),
        (["--all", "--task", "lama", "--model", MODEL], [0.303, 0.4, 0.505]),
    ],
)
def test_filters(options: list[str], scores: list[float]) -> None:
    assert scores_of(*options) == scores


def test_methods_are_columns_under_model_and_data() -> None:
    shown = invoke().stdout
    (start,) = (n for n, line in enumerate(shown.splitlines()) if "on geonames" in line)
    table = [" ".join(line.split()) for line in shown.splitlines()[start : start + 6]]
    assert table[0] == f"{MODEL} on geonames"
    assert table[1] == "task test n date manual p-tuning"
    assert table[3] == f"lama 416 {TODAY - timedelta(2)} to {TODAY} 30.3 50.5"
    assert table[4] == f"rte 277 {TODAY} 65.0"
    assert f"rte 277 {TODAY} 49.0 ± 2.3" in " ".join(shown.split())
    assert f"{MODEL} on superglue few-shot-32" in shown
    assert "bert-base-cased on lama 34k" in shown
    assert "40.0" not in shown
    assert "99.0" not in shown


def test_cost_is_the_minutes_of_the_training_and_the_evaluation_behind_a_score() -> None:
    shown = " ".join(invoke("--cost", "--task", "lama", "--model", MODEL).stdout.split())
    assert f"lama 416 {TODAY - timedelta(2)} to {TODAY} 11.5" in shown
    assert f"on {hardware_name(None)}. - Unknown for 1 of 2." in shown
    assert "50.5" not in shown
    rows = {row["method"]: row for row in rows_of("--task", "lama", "--model", MODEL)}
    tuned, manual = rows["p-tuning"], rows["manual"]
    assert (tuned["train_seconds"], tuned["evaluate_seconds"]) == ("600.0", "90.0")
    assert (manual["train_seconds"], manual["evaluate_seconds"]) == ("", "")
    assert tuned["hardware"] == hardware_name(None)
    every = invoke("--all", "--task", "lama", "--model", MODEL, "--markdown").stdout
    assert "| 50.5 | 51.5 | 416 | 11.5 |" in every


@pytest.mark.parametrize("width", [30, 60, 80, 200])
def test_no_number_is_cut_and_no_line_too_long(width: int) -> None:
    shown = invoke(width=width).stdout
    assert all(len(line) <= width for line in shown.splitlines())
    for score in ("30.3", "50.5", "49.0 ± 2.3", "65.0", "31.1"):
        assert score in shown


def by_title(shown: str) -> dict[str, str]:
    """Title of a table -> the text below it, with single spaces."""
    parts: dict[str, str] = {}
    for line in shown.splitlines():
        if " on " in line and line[0] not in "- ":
            title = line
            parts[title] = ""
        else:
            parts[title] += f"{line} "
    return {title: " ".join(text.split()) for title, text in parts.items()}


def test_the_paper_s_row_is_below_its_model_and_not_below_other_data() -> None:
    parts = by_title(invoke("--against", "paper").stdout)
    bert = parts["bert-base-cased on lama 34k"]
    assert "paper: BERT-base 109M 34,039 31.1 48.3 34.1 (LPAQA)" in bert
    assert "BERT-large" not in bert
    assert "bert-base-cased is the paper's BERT-base." in bert
    assert "AutoPrompt on BERT-base is 43.3 in its own paper" in bert
    made = parts[f"{MODEL} on geonames"]
    assert "neither LAMA nor SuperGLUE" in made
    assert "BERT" not in made
    few = parts[f"{MODEL} on superglue few-shot-32"]
    assert "paper: rte, ALBERT-xxlarge-v2" in few
    assert "63.3 ± 3.6" in few
    assert "not of FewGLUE's 32" in few
    apart = parts["The paper's Table 3, on LAMA 34k: other facts, other models"]
    assert "paper: BERT-large 335M 34,039 32.3 50.6" in apart


def test_markdown_has_the_same_cells() -> None:
    text = invoke("--markdown", "--against", "paper", "--model", "bert-base-cased").stdout
    assert "### bert-base-cased on lama 34k\n" in text
    assert f"| lama | 416 | {TODAY} | 31.1 |  |  |" in text
    assert "| paper: BERT-base 109M | 34,039 |  | 31.1 | 48.3 | 34.1 (LPAQA)," in text


def test_json_has_shares_and_the_figures_of_the_paper() -> None:
    content = json.loads(invoke("--json", "--against", "paper", "--task", "rte").stdout)
    assert [r["test_score"] for r in content["results"]] == [0.49, 0.65]
    official = content["results"][0]
    assert official["test_score_std"] == 0.023
    assert official["source"] == "superglue"
    assert official["data"] == "superglue few-shot-32"
    assert official["splits"] == "2b2b2b2b"
    assert official["trainings"] == 3
    published = {row["method"]: row for row in content["paper"]}
    assert set(published) == {"prompt-tuning", "manual-fine-tuning", "p-tuning"}
    assert published["p-tuning"]["test_score"] == 0.6327
    assert published["p-tuning"]["table"] == "v2, Table 5"
    assert any("not of FewGLUE's 32" in doubt for doubt in content["doubts"])
    lama = json.loads(invoke("--json", "--against", "paper", "--task", "lama").stdout)
    assert {row["data"] for row in lama["paper"]} == {"lama 34k"}
    assert "paper" not in json.loads(invoke("--json").stdout)


def test_csv_names_the_origin_of_a_row_and_writes_doubts_to_stderr() -> None:
    result = invoke("--csv", "--against", "paper", "--model", "bert-base-cased")
    rows = list(csv.DictReader(io.StringIO(result.stdout)))
    assert [row["of"] for row in rows].count("ours") == 1
    (bert,) = (r for r in rows if r["called"] == "P-tuning" and r["model"] == "BERT-base")
    assert float(bert["test_score"]) == 0.483
    assert "compare" not in result.stdout
    assert "is the paper's BERT-base" in result.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--csv", "--json"], "--csv, --json, --markdown: give only one of them"),
        (["--tag", "quick"], "--tag quick: write KEY=VALUE"),
        (["--cost", "--all"], "--cost cannot be combined with --all"),
        (["--cost", "--against", "paper"], "or --against"),
    ],
)
def test_wrong_options_end_in_their_message(options: list[str], message: str) -> None:
    result = invoke(*options)
    assert result.exit_code == 1
    assert result.stderr.startswith("error: ")
    assert message in result.stderr
    assert result.stdout == ""


def test_where_nothing_matches_it_lists_what_there_is() -> None:
    result = invoke("--task", "boolq")
    assert result.exit_code == 0
    assert "None of 6 evaluations" in result.stderr
    assert "tasks: lama, rte" in result.stderr
    assert result.stdout == ""


def test_an_empty_history_is_reported_and_not_created(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = invoke("--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout) == {"results": []}
    assert f"No finished evaluation in the history, sqlite:///{tmp_path}/mlflow.db" in result.stderr
    assert "dvc repro" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_store_that_cannot_be_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mlflow.db").write_text("no database")
    result = invoke()
    assert result.exit_code == 1
    assert f"error: sqlite:///{tmp_path}/mlflow.db: cannot be read: " in result.stderr
    assert "ptune doctor" in result.stderr


KEY = "dvc.run_key"


def test_settings_that_differ_and_what_dvc_lock_has_are_shown(
    tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An encoder is tried and put back: the cache restores the older run, which is not newest."""
    shutil.copyfile(empty_store, tmp_path / "mlflow.db")
    monkeypatch.chdir(tmp_path)
    training = {"lama": {"training": {"p-tuning": {"prompt": {"encoder": "lstm"}}}}}
    log_training("p-tuning", "aaaaaaaa", 60.0, params=training)
    log_lama("p-tuning", 0.566, trained="aaaaaaaa", days_ago=1, **{KEY: "a" * 64})
    training["lama"]["training"]["p-tuning"]["prompt"]["encoder"] = "mlp"
    log_training("p-tuning", "bbbbbbbb", 60.0, params=training)
    log_lama("p-tuning", 0.597, trained="bbbbbbbb", **{KEY: "b" * 64})
    monkeypatch.setattr("pipeline.history.results._locked_keys", lambda: {"a" * 64})
    assert scores_of() == [0.566]
    shown = invoke("--all").stdout
    assert re.search(r"lama +p-tuning +encoder=mlp +59\.7", shown)
    assert re.search(r"lama +p-tuning +\* +encoder=lstm +56\.6", shown)
    assert "- *: what `dvc.lock` has now." in shown
    monkeypatch.setattr("pipeline.history.results._locked_keys", set)
    assert scores_of() == [0.597]
    assert "now" not in invoke("--all").stdout


def test_names_of_other_members_are_text(
    tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copyfile(empty_store, tmp_path / "mlflow.db")
    monkeypatch.chdir(tmp_path)
    for names in (NAMES[:9], NAMES[9:18], NAMES[18:]):
        log_lama("p-tuning", 0.5, model=" ".join(names), hardware=names[0])
    for options in (["--all"], ["--csv"], ["--json"], ["--markdown"]):
        done = CliRunner(env={"COLUMNS": "200"}).invoke(app, ["results", *options])
        assert (done.exit_code, controls_in(done.output)) == (0, [])
        if options == ["--csv"]:
            cells = [cell for row in csv.reader(io.StringIO(done.stdout)) for cell in row]
            assert not [cell for cell in cells if cell[:1] in tuple("=+-@\t\r\n")]
        if options == ["--markdown"]:
            text = text_of(rendered(done.stdout))
            assert not [n for n in NAMES if printable(" ".join(n.split())) not in text]


def test_two_runs_are_compared() -> None:
    old, new = (row["run"] for row in rows_of("--all", "--task", "lama")[:2])
    done = CliRunner(env={"COLUMNS": "100"}).invoke(app, ["compare", old, new])
    assert done.exit_code == 0, done.output
    assert "Test P@1 by relation" in done.stdout
    data = json.loads(CliRunner().invoke(app, ["compare", old, new, "--json"]).stdout)
    assert (data[0]["first"]["run"], data[0]["second"]["run"]) == (old, new)
    failed = CliRunner().invoke(app, ["compare", "nothing", new])
    assert (failed.exit_code, "Traceback" in failed.stderr) == (1, False)
