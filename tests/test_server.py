"""A shared server for real: MLflow on PostgreSQL, an object store, accounts, and docs/server.md."""

import contextlib
import json
import os
import re
import shutil
import socket
import ssl
import stat
import sys
import tempfile
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import requests
from requests import Response

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


def test_a_wrong_password_is_reported_once_and_nothing_runs(
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
    address = f"https://127.0.0.1:{server.folder.ports.master}/dir/status"
    inside = ssl.create_default_context(cafile=server.root / "objects" / "certificate.pem")
    inside.load_cert_chain(*(server.root / "objects" / f"{n}.pem" for n in ("certificate", "key")))
    with urllib.request.urlopen(address, context=inside) as said:
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


def test_a_clone_has_the_results_and_its_member_continues(
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

    # Bob logs into what Ada has made, and continues where she left a run half restored.
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


def test_nothing_of_the_folder_is_open_to_other_users(server: Server) -> None:
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in server.root.iterdir()}
    assert {modes[name] for name in ("objects", "mlflow", "members")} == {0o700}
    assert {modes[name] for name in ("ports.json", "secrets.json")} == {0o600}


def test_the_inner_ports_of_the_store_answer_nobody_from_outside(server: Server) -> None:
    ports = asdict(server.folder.ports)
    inner = [ports[name] for name in ports if name not in ("mlflow", "objects", "postgres")]
    assert len(inner) == 7
    assert [port for port in inner if b" 200 " in answer(port)] == []
    assert [port for port in inner if answer(port, ssl._create_unverified_context())] == []


def answer(port: int, tls: ssl.SSLContext | None = None) -> bytes:
    """How a port answers a request without a certificate; empty if it does not."""
    with (
        contextlib.suppress(OSError),
        socket.create_connection(("127.0.0.1", port)) as plain,
        tls.wrap_socket(plain) if tls is not None else plain as inside,
    ):
        inside.sendall(b"GET /dir/assign HTTP/1.0\r\n\r\n")
        return inside.recv(100)
    return b""


def s3_client(server: Server, member: str) -> Any:
    import boto3
    from botocore.config import Config

    keys = server.folder.members()[member]
    return boto3.client(
        "s3", endpoint_url=Objects(server.folder).address, region_name="us-east-1",
        aws_access_key_id=keys.access, aws_secret_access_key=keys.secret,
        config=Config(retries={"total_max_attempts": 1}),
    )  # fmt: skip


def refusal(call: Callable[..., Any], **arguments: Any) -> str:
    """The code of the store's refusal; empty if it did what was asked."""
    from botocore.exceptions import ClientError

    try:
        call(**arguments)
    except ClientError as error:
        return str(error.response["Error"]["Code"])
    return ""


EXPIRE_ALL = {
    "Rules": [{"ID": "x", "Status": "Enabled", "Filter": {"Prefix": ""}, "Expiration": {"Days": 1}}]
}
ALLOW_ALL = json.dumps({"Statement": [{"Effect": "Allow", "Principal": "*", "Action": "s3:*"}]})
S3_ATTACKS: dict[str, dict[str, Any]] = {
    "put_bucket_lifecycle_configuration": {"LifecycleConfiguration": EXPIRE_ALL},
    "put_bucket_policy": {"Policy": ALLOW_ALL},
    "put_bucket_acl": {"ACL": "public-read-write"},
    "put_bucket_versioning": {"VersioningConfiguration": {"Status": "Suspended"}},
    "delete_bucket": {},
    "put_object": {"Key": "elsewhere/x", "Body": b"x"},
    "copy_object": {"Key": "files/x", "CopySource": "mlflow/artifacts/1"},
}


def test_a_members_key_is_for_the_objects_of_the_dvc_bucket_alone(server: Server) -> None:
    ada = s3_client(server, "ada")
    ada.put_object(Bucket="dvc", Key="files/md5/00/1", Body=b"one")
    assert s3_client(server, "bob").get_object(Bucket="dvc", Key="files/md5/00/1")["Body"].read()
    for name, arguments in S3_ATTACKS.items():
        assert refusal(getattr(ada, name), Bucket="dvc", **arguments) == "AccessDenied", name
    for name, arguments in {"list_objects_v2": {}, "get_object": {"Key": "artifacts/1"}}.items():
        assert refusal(getattr(ada, name), Bucket="mlflow", **arguments) == "AccessDenied", name
    assert refusal(ada.create_bucket, Bucket="adas") == "AccessDenied"


def request(server: Server, method: str, path: str, member: str = "", **rest: Any) -> Response:
    own = server.member(member) if member else {}
    login = [own[f"MLFLOW_TRACKING_{name}"] for name in ("USERNAME", "PASSWORD")] if own else None
    with requests.Session() as session:
        session.trust_env = False
        return session.request(
            method, History(server.folder).address + path,
            auth=tuple(login) if login else None, timeout=60, allow_redirects=False, **rest,
        )  # fmt: skip


CREATE = "/2.0/mlflow/experiments/create"


@pytest.mark.parametrize("location", ["file", "s3", "proxy"])
@pytest.mark.parametrize("way", ["plain", "camel", "twice", "page"])
def test_a_member_cannot_choose_where_artifacts_are_stored(
    server: Server, location: str, way: str
) -> None:
    address = {
        "file": f"file://{server.root}/mlflow",
        "s3": "s3://mlflow/artifacts/1",
        "proxy": "mlflow-artifacts:/1",
    }[location]
    name = f"{location}-{way}"
    body: Any = {"name": name, "artifact_location": address}
    if way == "camel":
        body = {"name": name, "artifactLocation": address}
    answer = request(
        server, "POST", ("/ajax-api" if way == "page" else "/api") + CREATE, "ada",
        json=json.dumps(body) if way == "twice" else body,
    )  # fmt: skip
    assert answer.status_code == 400, answer.text
    assert server.rows(f"SELECT * FROM experiments WHERE name = '{name}'") == []


LIST_ROUTES = """
import json
from mlflow.server import app
from mlflow.server.fastapi_app import app as fast
found = [(m, r.rule) for r in app.url_map.iter_rules() for m in r.methods]
found += [(m.upper(), path) for path, ways in fast.openapi()["paths"].items() for m in ways]
print(json.dumps(sorted(set(found))))
"""
# These answer without data: that there is a server, and the scripts of its page.
OPEN = {
    "/health",
    "/version",
    "/static-files/1",
    "/api/3.0/mlflow/server-info",
    "/ajax-api/3.0/mlflow/server-info",
}


def test_no_route_answers_without_an_account(server: Server) -> None:
    listed = json.loads(run(ROOT, "python", "-W", "ignore", "-c", LIST_ROUTES).stdout)
    routes = [
        (method, re.sub(r"<(\w+:)?\w+>|{\w+(:\w+)?}", "1", path))
        for method, path in listed
        if method not in ("OPTIONS", "HEAD")
    ]
    assert len(routes) > 400
    with ThreadPoolExecutor(4) as pool:
        answers = pool.map(lambda route: request(server, *route, json={}).status_code, routes)
    answered = {
        f"{method} {path}: {status}"
        for (method, path), status in zip(routes, answers, strict=True)
        if status != 401 and path not in OPEN
    }
    assert not answered


def test_a_removed_member_has_no_access(server: Server) -> None:
    server.up("fay")  # who has not asked before: MLflow remembers passwords for a minute
    fay, fays_store = server.member("fay"), s3_client(server, "fay")
    fays_store.list_objects_v2(Bucket="dvc")
    shell(
        ROOT,
        block("python -m tools.server remove", server, bob="fay"),
        PTUNE_SERVER_DATA=str(server.root),
    )
    login = fay["MLFLOW_TRACKING_USERNAME"], fay["MLFLOW_TRACKING_PASSWORD"]
    address = fay["MLFLOW_TRACKING_URI"] + "/api/2.0/mlflow/users/get?username=fay"
    assert requests.get(address, auth=login, timeout=60).status_code == 401
    assert refusal(fays_store.list_objects_v2, Bucket="dvc") == "InvalidAccessKeyId"
    s3_client(server, "bob").list_objects_v2(Bucket="dvc")
    assert "fay" not in server.folder.members()


def test_no_password_is_in_what_is_kept(server: Server, project: Path) -> None:
    secrets = server.folder.secrets
    passwords = [
        *(server.member(name)["MLFLOW_TRACKING_PASSWORD"] for name in ("ada", "bob")),
        secrets.admin, secrets.session, secrets.postgres,
        secrets.objects_admin.secret, secrets.objects_mlflow.secret,
        *(keys.secret for keys in server.folder.members().values()),
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
    # Containers need Docker; tests/tools/test_deploy.py compares their settings with these.
    here = [text for text in BLOCKS if "docker compose" not in text]
    assert len(here) == len(starts)
    assert all(any(text.startswith(start) for start in starts) for text in here)
