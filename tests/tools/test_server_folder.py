"""A server's folder, and messages where no server can run.

Running servers: tests/test_server.py.
"""

import os
import shutil
import socket
import stat
import sys
from dataclasses import astuple
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from tools.server import daemons, objects, postgres
from tools.server.__main__ import app
from tools.server.daemons import Daemon
from tools.server.folder import Folder, ServerError, as_lines, from_lines, write_private
from tools.server.objects import Objects
from tools.server.postgres import Postgres


def test_ports_differ_and_secrets_are_the_owners_alone(folder: Folder) -> None:
    ports = astuple(folder.ports)
    assert len(set(ports)) == len(ports)
    assert stat.S_IMODE((folder.root / "secrets.json").stat().st_mode) == 0o600


def test_preparing_again_changes_nothing(folder: Folder) -> None:
    before = folder.ports, folder.secrets
    folder.prepare(port=1, objects_port=2)
    assert (folder.ports, folder.secrets) == before


def test_two_folders_share_no_secret(folder: Folder, tmp_path: Path) -> None:
    other = Folder(tmp_path / "other")
    with other.lock():
        other.prepare(port=0, objects_port=0)
    values = [repr(value) for f in (folder, other) for value in vars(f.secrets).values()]
    assert len(set(values)) == len(values)


def test_a_port_in_use_is_named_before_anything_is_started(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        number = taken.getsockname()[1]
        folder = Folder(tmp_path / "server")
        with folder.lock(), pytest.raises(ServerError, match=f"port {number}.*--port"):
            folder.prepare(port=number, objects_port=0)
    assert not folder.exists


def test_two_programs_get_no_port_in_common(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        number = taken.getsockname()[1]
    folder = Folder(tmp_path / "server")
    with folder.lock(), pytest.raises(ServerError, match=f"port {number} .*in use.*--port"):
        folder.prepare(port=number, objects_port=number)
    assert not folder.exists


@pytest.mark.parametrize("option", ["--port=99999", "--objects-port=-1"])
def test_a_port_that_is_none_is_refused(tmp_path: Path, option: str) -> None:
    data = tmp_path / "server"
    done = CliRunner().invoke(app, ["up", "--data", str(data), option])
    assert done.exit_code == 2
    assert not data.exists()


def test_a_private_file_replaces_what_others_could_read(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_text("old")
    path.chmod(0o644)
    write_private(path, "new")
    assert (path.read_text(), stat.S_IMODE(path.stat().st_mode)) == ("new", 0o600)


def test_an_environment_is_read_as_it_was_written() -> None:
    environment = {"A": "x=y", "B": "-_"}
    assert from_lines(as_lines(environment)) == environment


@pytest.mark.parametrize("name", ["admin", "Ada", "a b", "../x", "", "-a"])
def test_a_name_that_is_none_is_refused(tmp_path: Path, name: str) -> None:
    data = tmp_path / "server"
    done = CliRunner().invoke(app, ["up", "--data", str(data), f"--member={name}"])
    assert done.exit_code == 1
    assert f"--member {name}: " in done.output
    assert not data.exists()


@pytest.mark.parametrize("command", ["down", "status"])
def test_where_no_server_is_it_is_said(tmp_path: Path, command: str) -> None:
    done = CliRunner().invoke(app, [command, "--data", str(tmp_path)])
    assert done.exit_code == 1
    assert "no server in" in done.output
    assert not list(tmp_path.iterdir())


def test_a_missing_program_is_named_with_what_installs_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with pytest.raises(ServerError, match="make server"):
        objects._program()
    with pytest.raises(ServerError, match="apt-get install postgresql"):
        postgres._program("no-such-program")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs PostgreSQL as another user")
def test_a_folder_that_postgresqls_user_cannot_get_to_is_named(
    folder: Folder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(postgres, "_account", lambda: postgres.pwd.getpwuid(0))
    tmp_path.chmod(0o700)
    with pytest.raises(ServerError, match=f"{tmp_path} denies it; choose another --data"):
        Postgres(folder).start()


def test_a_disk_that_is_nearly_full_is_reported_before_objects_are_lost(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    nearly_full = SimpleNamespace(free=300 * 2**20)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: nearly_full)
    with pytest.raises(ServerError, match="300 MB free, the object store needs 512"):
        Objects(folder).start()
    assert not Objects(folder).is_running()


def test_a_program_that_ends_at_once_is_reported_with_its_last_words(tmp_path: Path) -> None:
    daemon = Daemon("the clock", tmp_path)
    daemon.launch([sys.executable, "-c", "raise SystemExit('no spring')"], dict(os.environ))
    with pytest.raises(ServerError, match=r"(?s)the clock ended.*no spring"):
        daemon.wait_until(lambda: False, seconds=30)


def test_a_program_is_ended_with_all_that_it_has_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(daemons, "_GRACE_SECONDS", 0.5)
    daemon = Daemon("the clock", tmp_path)
    daemon.launch(["bash", "-c", "sleep 300 & sleep 300; true"], dict(os.environ))
    process = daemon.process()
    assert process is not None
    daemon.wait_until(lambda: len(process.children()) == 2, seconds=10)
    children = process.children()
    assert daemon.stop()
    assert not any(child.is_running() for child in children)
    assert daemon.process() is None
    assert not daemon.stop()
