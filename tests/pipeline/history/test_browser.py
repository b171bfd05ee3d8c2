import json
import socket
import subprocess
import time
from pathlib import Path

import mlflow
import pytest
from typer.testing import CliRunner

from pipeline.cli.app import app
from pipeline.history import browser
from pipeline.history.browser import APP, create_app, results_page
from pipeline.history.store import connect
from pipeline.history.views import experiment_tags
from pipeline.workflow.command import EXPERIMENTS
from tests.outage import free_port


def view(name: str) -> dict[str, object]:
    tags = mlflow.get_experiment_by_name(name).tags
    return dict(json.loads(tags["mlflow.sharedViewState.results"]))


def test_an_experiment_is_created_with_a_description_and_its_columns(own_folder: Path) -> None:
    connect("p-tuning-evaluate")
    assert "test/score" in str(view("p-tuning-evaluate")["selectedColumns"])
    note = mlflow.get_experiment_by_name("p-tuning-evaluate").tags["mlflow.note.content"]
    assert note.startswith("Scores of each task and method")
    assert all(experiment_tags(name)["mlflow.note.content"] for name in EXPERIMENTS.values())


def test_the_page_of_an_older_history_gets_its_columns(own_folder: Path) -> None:
    connect()
    number = mlflow.create_experiment("p-tuning-evaluate")
    mine = mlflow.create_experiment("mine")
    assert results_page("http://127.0.0.1:5000/") == (
        f"http://127.0.0.1:5000/#/experiments/{number}/runs"
        "?viewStateShareKey=results&workflowType=machine_learning"
    )
    assert view("p-tuning-evaluate")["orderByKey"] == "attributes.start_time"
    assert "mlflow.note.content" not in mlflow.get_experiment(mine).tags


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:starlette")
def test_mlflow_finds_the_app_and_its_page_chooses_for_a_new_browser(
    own_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import server

    assert server._find_app(APP) == f"{create_app.__module__}:{create_app.__name__}"
    monkeypatch.setitem(server.app.view_functions, "serve", server.app.view_functions["serve"])
    create_app()
    page = server.app.test_client().get("/").text
    assert page.index("mlflow.workflowType_v1") < page.index("<script defer")


@pytest.mark.slow
def test_the_server_ends_with_its_command(own_folder: Path) -> None:
    connect("p-tuning-evaluate")
    port = free_port()
    with subprocess.Popen(["ptune", "ui", "--port", str(port)], stderr=subprocess.DEVNULL) as ui:
        while not is_open(port):
            assert ui.poll() is None
            time.sleep(0.1)
        ui.terminate()
    assert not is_open(port)


def is_open(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def test_a_server_of_a_team_is_named_and_no_server_started(
    own_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://me:secret@mlflow.example.org")
    monkeypatch.setattr(browser, "results_page", lambda server: f"{server}/#/table")
    done = CliRunner().invoke(app, ["ui"])
    assert done.stdout == "https://mlflow.example.org/#/table\n"


def test_without_a_history_there_is_nothing_to_show(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["ui"])
    assert done.exit_code == 1
    assert "no history yet" in done.stderr
