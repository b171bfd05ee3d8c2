import contextlib
import os
import shutil
import socket
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy.exc import OperationalError

from pipeline.errors import TrackingError
from pipeline.history.journal import send_all
from pipeline.history.results import read_results
from pipeline.history.run import stage_run
from pipeline.history.store import (
    check_store,
    connect,
    first_line,
    store_identity,
    without_password,
)
from pipeline.workflow.command import StageInfo
from tests.server import serving


def test_a_current_store_is_fine_and_left_alone(own_folder: Path) -> None:
    before = (own_folder / "mlflow.db").read_bytes()
    assert check_store(1)
    assert (own_folder / "mlflow.db").read_bytes() == before


@pytest.mark.parametrize("address", [None, "sqlite:///mine.db"])
def test_a_store_that_is_not_there_is_not_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str | None
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    if address is not None:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    monkeypatch.chdir(tmp_path)
    assert not check_store(1)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["a%20b", "a?b", "a#b", "it's"])
def test_a_checkout_may_have_any_name(
    tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    folder = tmp_path / name
    folder.mkdir()
    shutil.copyfile(empty_store, folder / "mlflow.db")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(folder)
    with stage_run(None, StageInfo("evaluate", "lama", method="manual")) as run:
        (folder / "file.txt").touch()
        run.log_file(folder / "file.txt")
    assert check_store(1)
    assert store_identity() == "mlflow.db"
    (artifact,) = folder.glob(f"mlartifacts/*/{run.run_id}/artifacts/file.txt")
    assert artifact.is_file()


def test_every_experiment_of_a_process_keeps_its_artifacts_in_the_checkout(
    own_folder: Path,
) -> None:
    """MLflow puts the address of the first into the environment."""
    for name in ("p-tuning-data", "p-tuning-train"):
        found = connect(name).get_experiment_by_name(name)
        assert found.artifact_location == (own_folder / "mlartifacts" / name).as_uri()
    assert "MLFLOW_TRACKING_URI" not in os.environ


def test_an_address_of_the_user_is_kept(own_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address := f"sqlite:///{own_folder}/mine.db")
    assert connect("p-tuning-data").get_tracking_uri() == address
    assert os.environ["MLFLOW_TRACKING_URI"] == address


@pytest.mark.parametrize(
    ("statement", "lack"),
    [
        ("DELETE FROM alembic_version", "the version of its schema"),
        ("DROP TABLE runs", "the table runs"),
        ("DROP TABLE experiments", "the table experiments"),
    ],
)
def test_a_store_that_lacks_a_table_or_its_version_is_named(
    own_folder: Path, statement: str, lack: str
) -> None:
    with contextlib.closing(sqlite3.connect(own_folder / "mlflow.db")) as store:
        store.execute(statement)
        store.commit()
    with pytest.raises(TrackingError, match=f"mlflow.db: is damaged: it lacks {lack}. Restore"):
        check_store(1)


def test_a_database_of_others_without_a_history_is_fine(
    own_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with contextlib.closing(sqlite3.connect(own_folder / "mine.db")) as store:
        store.execute("CREATE TABLE users (name TEXT)")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{own_folder}/mine.db")
    assert not check_store(1)


def test_an_older_schema_is_named_and_not_altered(own_folder: Path) -> None:
    with contextlib.closing(sqlite3.connect(own_folder / "mlflow.db")) as store:
        store.execute("UPDATE alembic_version SET version_num = 'older'")
        store.commit()
    before = (own_folder / "mlflow.db").read_bytes()
    with pytest.raises(TrackingError, match="schema older is not"):
        check_store(1)
    assert (own_folder / "mlflow.db").read_bytes() == before


@pytest.mark.parametrize("check", [lambda: connect("p-tuning-data"), lambda: check_store(1)])
def test_a_deleted_experiment_is_named_with_the_command_that_restores_it(
    own_folder: Path, check: Callable[[], object]
) -> None:
    mlflow = connect("p-tuning-data")
    number = mlflow.get_experiment_by_name("p-tuning-data").experiment_id
    mlflow.delete_experiment(number)
    with pytest.raises(TrackingError) as caught:
        check()
    store = f"sqlite:///{own_folder}/mlflow.db"
    assert str(caught.value) == (
        f"{store}: the experiment p-tuning-data was deleted. Restore it: "
        f"MLFLOW_TRACKING_URI={store} mlflow experiments restore -x {number}"
    )


def test_a_stage_names_the_command_for_an_older_schema(own_folder: Path) -> None:
    store = own_folder / "mlflow.db"
    with contextlib.closing(sqlite3.connect(store)) as database:
        database.execute("UPDATE alembic_version SET version_num = 'cc1f77228345'")
        database.commit()
    with pytest.raises(TrackingError, match=r"schema cc1f77228345 is not .*`mlflow db upgrade`"):
        connect("p-tuning-data")


def test_a_file_that_is_no_database_is_named(own_folder: Path) -> None:
    (own_folder / "mlflow.db").write_text("no database")
    with pytest.raises(TrackingError, match=r"mlflow.db: .*is not a database\nRestore a copy"):
        check_store(1)


def test_a_cut_database_is_named(own_folder: Path) -> None:
    """Its first page is there, so only MLflow's own queries fail."""
    store = own_folder / "mlflow.db"
    store.write_bytes(store.read_bytes()[: store.stat().st_size // 2])
    for use in (connect, lambda: connect("p-tuning-data"), lambda: check_store(1)):
        with pytest.raises(TrackingError, match=r"malformed[\s\S]*[Rr]estore a copy of mlflow.db"):
            use()


def test_a_dangling_link_in_place_of_the_history_is_named(own_folder: Path) -> None:
    store = own_folder / "mlflow.db"
    store.unlink()
    store.symlink_to("nowhere/x.db")
    for use in (connect, lambda: check_store(1), read_results, lambda: list(send_all())):
        with pytest.raises(TrackingError, match=r"mlflow\.db: a link to nowhere/x\.db, which is"):
            use()
    assert store.is_symlink()


def test_a_folder_of_an_address_is_not_made(
    own_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{own_folder}/no/x.db?timeout=9")
    with pytest.raises(TrackingError, match="/no: no such folder; start the server, or fix"):
        connect("p-tuning-data")
    assert not (own_folder / "no").exists()


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("http://me:secret@host/x", "http://***@host/x"),
        ("postgresql://host/x?user=me&password=secret", "postgresql://host/x?user=me&password=***"),
        ("https://host/?Access_Token=secret&a=1", "https://host/?Access_Token=***&a=1"),
        ("sqlite:////a/b.db?timeout=9", "sqlite:////a/b.db?timeout=9"),
    ],
)
def test_no_address_is_printed_with_its_secret(address: str, shown: str) -> None:
    assert without_password(f"at {address} now") == f"at {shown} now"


def test_a_server_that_is_not_there_is_named_without_the_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@127.0.0.1:9")
    with pytest.raises(TrackingError, match="cannot be reached") as raised:
        check_store(1)
    assert str(raised.value).startswith("http://***@127.0.0.1:9: ")


def test_a_silent_server_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
        with pytest.raises(TrackingError, match=r"no answer within 0\.2 seconds"):
            check_store(0.2)


def test_a_server_is_asked_for_its_experiments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with serving() as server:
        server.put("/", b"MLflow")
        monkeypatch.setenv("MLFLOW_TRACKING_URI", server.url)
        with pytest.raises(TrackingError, match="/experiments/search failed") as raised:
            check_store(1)
    assert str(raised.value).startswith(f"{server.url}: ")


@pytest.mark.parametrize(("experiment", "denied"), [(None, os.R_OK), ("p-tuning-data", os.W_OK)])
def test_a_history_without_permission_is_one_message(
    own_folder: Path, monkeypatch: pytest.MonkeyPatch, experiment: str | None, denied: int
) -> None:
    """As root, who runs tests in containers, may read and write everything, access is imitated."""
    access = os.access

    def refused(path: Path, mode: int) -> bool:
        return access(path, mode) and not (Path(path).name == "mlflow.db" and mode == denied)

    monkeypatch.setattr(os, "access", refused)
    with pytest.raises(TrackingError) as caught:
        connect(experiment)
    verb = "write" if experiment else "read"
    assert str(caught.value).startswith(f"{own_folder}/mlflow.db: no permission to {verb}; ")


def test_nothing_is_said_to_be_sent_if_the_history_cannot_be_read(
    own_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(TrackingError, match="no permission to read"):
        list(send_all())


def test_a_folder_in_place_of_the_history_is_named(own_folder: Path) -> None:
    (own_folder / "mlflow.db").unlink()
    (own_folder / "mlflow.db").mkdir()
    with pytest.raises(TrackingError, match=r"mlflow\.db: not a file"):
        connect()


def test_an_error_of_the_database_is_its_own_words() -> None:
    original = sqlite3.OperationalError("database or disk is full")
    error = RuntimeError("(raised as a result of Query-invoked autoflush)")
    error.__cause__ = OperationalError("insert", {}, original)
    assert first_line(error) == "database or disk is full"


def test_an_address_of_another_file_is_refused_at_once(
    own_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (own_folder / "params.yaml").write_text("seed: 34\n" * 100)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///params.yaml")
    with pytest.raises(TrackingError, match=r"sqlite:///params\.yaml: .* is not a database"):
        connect()
