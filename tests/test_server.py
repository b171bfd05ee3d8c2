"""A shared server for real: MLflow on PostgreSQL, an object store, accounts, and docs/server.md."""

import json
import os
import re
import shutil
import stat
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipeline.workflow.lock import read_lock
from tests.project import ROOT, run
from tests.team import STAGE, Server, differences, make_prepared, send, train
from tools.server.folder import Folder, ServerError
from tools.server.history import History
from tools.server.objects import Objects
from tools.server.postgres import Postgres


def missing() -> str:
    """What this machine lacks for a server; empty if nothing."""
    folder = Folder(Path("unused"))
    try:
        for service in (Postgres(folder), Objects(folder), History(folder)):
            service.check()
    except ServerError as error:
        return str(error)
    return ""


pytestmark = [
    pytest.mark.slow,
    # Where tests gate a change, nothing may go untested unseen.
    pytest.mark.skipif(bool(missing()) and not os.environ.get("CI"), reason=missing()),
]

GUIDE = (ROOT / "docs" / "server.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```\n(.*?)^```$", GUIDE, re.MULTILINE | re.DOTALL)
WRITERS, POINTS = 6, 50


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """A server of two members."""
    with tempfile.TemporaryDirectory(prefix="ptune-server-") as folder:
        Path(folder).chmod(0o711)  # PostgreSQL may run as another user
        server = Server(Path(folder) / "server")
        try:
            server.up("ada")
            yield server
        finally:
            server.command("down")


@pytest.fixture(scope="module")
def project(
    server: Server, tmp_path_factory: pytest.TempPathFactory, tiny_folders: dict[str, Path]
) -> Path:
    """Ada's project, in which all that comes before the training has run."""
    folder = tmp_path_factory.mktemp("shared")
    return make_prepared(folder, tiny_folders["gpt2"], server.member("ada"))


def block(start: str, server: Server, **instead: str) -> str:
    """The block of the guide that begins so, with what is this server's put in."""
    (found,) = [text for text in BLOCKS if text.startswith(start)]
    ports = server.folder.ports
    for shown, own in {
        "/srv/p-tuning": str(server.root),
        "http://127.0.0.1:8333": f"http://127.0.0.1:{ports.objects}",
        "-p 5433": f"-p {ports.postgres}",
        **instead,
    }.items():
        found = found.replace(shown, own)
    return found


def shell(folder: Path, script: str, **environment: str) -> str:
    done = run(folder, "bash", "-euo", "pipefail", "-c", script, **environment)
    return done.stdout + done.stderr


def count_runs(server: Server) -> int:
    ((count,),) = server.rows("SELECT count(*) FROM runs")
    return int(count)


def test_the_guides_setting_up_adds_what_is_not_there(server: Server) -> None:
    before = server.member("ada"), server.folder.ports, server.folder.secrets
    printed = shell(ROOT, block("export PTUNE_SERVER_DATA", server))
    assert (server.member("ada"), server.folder.ports, server.folder.secrets) == before
    assert server.member("ada")["MLFLOW_TRACKING_PASSWORD"] not in printed
    assert printed.count(server.member("bob")["MLFLOW_TRACKING_PASSWORD"]) == 1
    assert printed.count(" running ") == 6
    secret = [server.root / name for name in ("secrets.json", "pgpass", "members/ada.env")]
    assert {stat.S_IMODE(path.stat().st_mode) for path in secret} == {0o600}


CHANGE = """
import sys
from mlflow.server import get_app_client
address, first, own = sys.argv[1:]
client = get_app_client("basic-auth", tracking_uri=address)
client.update_user_password("eve", own, current_password=first)
"""
ASK = "import mlflow; print(bool(mlflow.search_experiments()))"


def test_a_password_that_a_member_has_changed_outlasts_up(server: Server) -> None:
    server.up("eve")
    eve = server.member("eve")
    address, first = eve["MLFLOW_TRACKING_URI"], eve["MLFLOW_TRACKING_PASSWORD"]
    own = "a-password-of-her-own"
    run(ROOT, "python", "-c", CHANGE, address, first, own, **eve)
    assert "eve: the environment is in" in server.up("eve")
    asked = run(ROOT, "python", "-c", ASK, **{**eve, "MLFLOW_TRACKING_PASSWORD": own})
    assert asked.stdout == "True\n"


def test_a_wrong_password_is_told_once_and_nothing_runs(
    server: Server, project: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(project, tmp_path / "project", symlinks=True)
    before = count_runs(server)
    done = run(
        copy, "dvc", "repro", "--single-item", STAGE, check=False,
        **{**server.member("ada"), "MLFLOW_TRACKING_PASSWORD": "not-the-password"},
    )  # fmt: skip
    printed = done.stdout + done.stderr
    assert done.returncode != 0
    assert printed.count("error: ") == 1
    assert "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD" in printed
    assert "Traceback" not in printed
    assert "not-the-password" not in printed
    assert "epoch" not in printed
    assert count_runs(server) == before


def test_many_who_log_at_once_lose_nothing(server: Server, project: Path) -> None:
    # An experiment that none of them finds: they race to create it, too.
    script = (
        "import sys; from pipeline.history.run import stage_run\n"
        "from pipeline.workflow.command import StageInfo\n"
        "with stage_run(None, StageInfo('promote', sys.argv[1])) as run:\n"
        f"    for step in range({POINTS}): run.log_metrics({{'loss': step / 7}}, step)\n"
    )
    with ThreadPoolExecutor(WRITERS) as pool:
        writers = [
            pool.submit(
                run, project, "python", "-c", script, f"writer-{number}",
                **server.member(("ada", "bob")[number % 2]),
            )
            for number in range(WRITERS)
        ]  # fmt: skip
    assert {writer.result().stdout + writer.result().stderr for writer in writers} == {""}
    logged = server.rows(
        "SELECT name, status, count(*), count(DISTINCT step), sum(metrics.value) FROM runs "
        "JOIN metrics USING (run_uuid) WHERE key = 'loss' AND name LIKE 'promote/writer-%' "
        "GROUP BY name, status"
    )
    total = pytest.approx(sum(step / 7 for step in range(POINTS)))
    assert sorted(logged) == [
        (f"promote/writer-{number}", "FINISHED", POINTS, POINTS, total) for number in range(WRITERS)
    ]


def test_no_bucket_takes_the_others_room(server: Server) -> None:
    # By itself SeaweedFS shares out what is free now, and gives a bucket seven files at once.
    address = f"http://127.0.0.1:{server.folder.ports.master}/dir/status"
    with urllib.request.urlopen(address) as said:
        room = json.load(said)["Topology"]
    assert room["Max"] == 10_000
    assert room["Max"] - room["Free"] <= 2


def test_a_server_that_is_killed_in_mid_run_costs_no_history(server: Server, project: Path) -> None:
    ada = server.member("ada")
    undisturbed, printed = train(project, server, ada)
    assert "ptune send" in printed
    assert ada["MLFLOW_TRACKING_PASSWORD"] not in printed
    before = count_runs(server)
    # As after an upgrade. `make server` is what made this environment.
    upgrade = block("python -m tools.server down", server, **{"make server": ""})
    started = shell(ROOT, upgrade, PTUNE_SERVER_DATA=str(server.root))
    assert "mlflow  was not running" in started
    assert started.count(" running ") == 3
    assert count_runs(server) == before
    assert "events sent" in shell(project, block("ptune send", server), **ada)
    checks = dict(differences(undisturbed, server, ada))
    assert len(checks) == 6
    assert not {what: wrong for what, wrong in checks.items() if wrong}
    assert "nothing to send" in send(project, ada)


def test_a_clone_has_the_results_and_its_member_goes_on(
    server: Server, project: Path, tmp_path: Path
) -> None:
    shell(ROOT, block("pip install", server).replace("pip", f"{sys.executable} -m pip", 1))
    shutil.copyfile(server.folder.member_file("ada"), project / ".env")
    own = {"PYTHONPATH": str(ROOT)}
    shell(project, block("set -a", server, **{"dvc repro": f"dvc repro {STAGE}"}), **own)
    assert ".env" not in run(project, "git", "status", "--porcelain").stdout
    run(project, "git", "add", "-A")
    run(project, "git", "commit", "-qm", "results")

    bob = server.member("bob")
    clone = tmp_path / "clone"
    run(tmp_path, "git", "clone", "-q", str(project), str(clone))
    # Of what is not trained yet there is nothing to pull.
    pulling = {"dvc pull": "dvc pull --allow-missing"}
    before = count_runs(server)
    printed = shell(clone, block("dvc pull", server, **pulling), **bob)
    assert f"0 of {len(read_lock(clone / 'dvc.lock'))} entries" in printed
    assert count_runs(server) == before
    for path in ("models/lama/p-tuning", "data/splits/lama"):
        names = sorted(file.name for file in (project / path).iterdir())
        assert names
        for name in names:
            if (project / path / name).is_file():
                assert (clone / path / name).read_bytes() == (project / path / name).read_bytes()

    # Bob logs into what Ada has made, and goes on where she left a run half restored.
    run(clone, "dvc", "repro", "--force", "--single-item", "splits-lama", **bob)
    ((key,),) = server.rows(
        "SELECT DISTINCT value FROM tags WHERE key = 'dvc.run_key' AND run_uuid IN "
        "(SELECT run_uuid FROM tags WHERE key = 'dvc.stage' AND value = 'download-lama')"
    )
    run(project, "python", "-c", LEAVE_HALF_RESTORED, key, **server.member("ada"))
    assert "download-lama  run " in shell(clone, "ptune sync", **bob)
    ended = server.rows(
        "SELECT status FROM runs JOIN tags USING (run_uuid) WHERE lifecycle_stage = 'active' "
        f"AND key = 'dvc.run_key' AND tags.value = '{key}' ORDER BY start_time"
    )
    assert ended == [("KILLED",), ("FINISHED",)]


LEAVE_HALF_RESTORED = """
import sys
from pipeline.history.store import connect
client = connect().MlflowClient()
experiment = client.get_experiment_by_name("p-tuning-data").experiment_id
for run in client.search_runs([experiment], f"tags.`dvc.run_key` = '{sys.argv[1]}'"):
    client.delete_run(run.info.run_id)
client.create_run(experiment, tags={"dvc.run_key": sys.argv[1], "dvc.restored": "true"})
"""


def test_no_password_is_in_what_is_kept(server: Server, project: Path) -> None:
    secrets = server.folder.secrets
    passwords = [
        *(server.member(name)["MLFLOW_TRACKING_PASSWORD"] for name in ("ada", "bob")),
        secrets.admin, secrets.session, secrets.postgres,
        secrets.objects_admin.secret, secrets.objects_mlflow.secret, secrets.objects_team.secret,
    ]  # fmt: skip
    private = {"secrets.json", "pgpass", "identities.json", "ada.env", "bob.env", "eve.env", ".env"}
    looked_at = 0
    for root in (server.root, project):
        for path in root.rglob("*"):
            if path.is_file() and path.name not in private:
                content = path.read_bytes()
                looked_at += 1
                assert not [word for word in passwords if word.encode() in content], path
    assert looked_at > 100


def test_the_guides_backup_has_runs_and_accounts(server: Server, tmp_path: Path) -> None:
    shell(tmp_path, block("PGPASSFILE", server), PTUNE_SERVER_DATA=str(server.root))
    assert "COPY public.metrics" in (tmp_path / "mlflow.sql").read_text()
    assert "ada" in (tmp_path / "accounts.sql").read_text()


def test_each_block_of_the_guide_is_run_here() -> None:
    starts = re.findall(r'block\("(.*?)"', Path(__file__).read_text(encoding="utf-8"))
    assert len(BLOCKS) == len(starts)
    assert all(any(text.startswith(start) for start in starts) for text in BLOCKS)
