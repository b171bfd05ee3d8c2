import hashlib
import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from dvc.repo import Repo
from typer.testing import CliRunner, Result

from pipeline.cli.app import app
from pipeline.doctor import machine
from pipeline.sources import lama, superglue
from pipeline.sources.geonames import GEONAMES
from pipeline.sources.lama import LAMA
from pipeline.sources.models import PACKAGED_MODELS
from pipeline.sources.superglue import SUPERGLUE
from tests.pipeline.params_text import write_params
from tests.project import ROOT
from tests.server import serving

WHEEL = b"a wheel of places"


@pytest.fixture
def checkout(
    own_folder: Path, tiny_folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A project in which all is well: a model in a folder, the data in a mirror."""
    source = replace(GEONAMES, sha256=hashlib.sha256(WHEEL).hexdigest())
    monkeypatch.setattr(lama, "GEONAMES", source)
    monkeypatch.setattr(superglue, "GEONAMES", source)
    packages = own_folder / "mirror" / "packages"
    packages.mkdir(parents=True)
    (packages / source.wheel).write_bytes(WHEEL)
    shutil.copyfile(ROOT / "dvc.yaml", own_folder / "dvc.yaml")
    shutil.copyfile(ROOT / ".gitignore", own_folder / ".gitignore")
    (own_folder / "requirements.lock").write_text("")
    edit(
        own_folder, **{"model.name": str(tiny_folders["gpt2"]), "data.mirror": str(packages.parent)}
    )
    git(own_folder, "init", "-q")
    Repo.init(str(own_folder)).close()
    git(own_folder, "add", "-A")
    git(own_folder, "commit", "-qm", "start")
    monkeypatch.setattr(machine, "_DISK_GIGABYTES", 0)
    monkeypatch.setattr(machine, "_FULL_GIGABYTES", 0)
    return own_folder


def edit(folder: Path, **changes: object) -> None:
    write_params(folder / "params.yaml", {**changes, "lama.stability.methods": []})


def git(folder: Path, *arguments: str) -> None:
    subprocess.run(["git", *arguments], cwd=folder, check=True)


def invoke(*arguments: str, width: int = 100) -> Result:
    command = ["doctor", "--seconds", "0.5", *arguments]
    return CliRunner(env={"COLUMNS": str(width)}).invoke(app, command)


def checks_of(result: Result) -> dict[str, dict[str, str]]:
    return {check["name"]: check for check in json.loads(result.stdout)["checks"]}


def test_where_all_is_well_every_line_says_so(checkout: Path) -> None:
    result = invoke()
    assert result.exit_code == 0, result.output
    lines = [line.split() for line in result.stdout.splitlines() if line[:1].strip()]
    assert [line[1] for line in lines] == [
        "python", "torch", "gpu", "packages", "memory", "disk", "git", "dvc", "params", "history",
        "model", "data",
    ]  # fmt: skip
    assert {line[0] for line in lines} == {"✓"}
    assert "clean" in result.stdout
    assert "its schema is current" in result.stdout


def test_json_has_the_same(checkout: Path) -> None:
    result = invoke("--json")
    assert json.loads(result.stdout)["works"] is True
    assert checks_of(result)["data geonames"] == {
        "name": "data geonames",
        "state": "ok",
        "message": f"in the mirror, {checkout / 'mirror'}",
        "advice": "",
    }


def test_changed_files_are_a_warning_alone(checkout: Path) -> None:
    (checkout / "dvc.yaml").write_text(f"{(checkout / 'dvc.yaml').read_text()}\n")
    result = invoke("--json")
    assert result.exit_code == 0
    assert checks_of(result)["git"]["state"] == "warning"
    assert "with 1 uncommitted file" in checks_of(result)["git"]["message"]


def test_params_that_are_wrong_fail_and_what_depends_on_them_is_skipped(checkout: Path) -> None:
    (checkout / "params.yaml").write_text("sede: 1\n")
    result = invoke("--json")
    assert result.exit_code == 1
    found = checks_of(result)
    assert "sede: unknown key; did you mean 'seed'?" in found["params"]["message"]
    assert found["model"]["state"] == found["data"]["state"] == "skipped"
    assert found["python"]["state"] == "ok"


def test_a_name_that_only_validation_knows_to_be_wrong_fails(checkout: Path) -> None:
    edit(checkout, **{"model.name": "no model of this name"})
    result = invoke("--json")
    assert result.exit_code == 1
    assert "params.yaml: model.name: " in checks_of(result)["params"]["message"]


def test_a_missing_mirror_file_and_a_missing_device_fail_together(
    checkout: Path, tiny_folders: dict[str, Path]
) -> None:
    edit(
        checkout,
        **{
            "model.name": str(tiny_folders["gpt2"]),
            "data.mirror": str(checkout / "mirror"),
            "runtime.device": "cuda:7",
            "lama.source": "lama",
        },
    )
    found = checks_of(invoke("--json"))
    assert found["model"]["state"] == "ok"
    assert "cuda:7 is not on this machine" in found["gpu"]["message"]
    assert "not in the mirror" in found["data lama"]["message"]


def test_a_history_that_is_away_fails_without_its_password(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@127.0.0.1:9")
    result = invoke()
    assert result.exit_code == 1
    assert "✗  history" in result.stdout
    assert "http://***@127.0.0.1:9: cannot be reached" in result.stdout
    assert "secret" not in result.output


def test_hosts_of_several_sources_have_one_advice(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    edit(checkout, **{"lama.source": "lama", "superglue.source": "superglue"})
    with serving() as server:
        urls = dict.fromkeys(LAMA.urls, f"{server.url}/gone")
        monkeypatch.setattr(lama, "LAMA", replace(LAMA, urls=urls))
        urls = dict.fromkeys(SUPERGLUE["rte"].urls, f"{server.url}/gone")
        monkeypatch.setitem(SUPERGLUE, "rte", replace(SUPERGLUE["rte"], urls=urls))
        name = "smollm2-135m-instruct"
        package = replace(PACKAGED_MODELS[name], sha256=hashlib.sha256(WHEEL).hexdigest())
        monkeypatch.setitem(PACKAGED_MODELS, name, package)
        kept = checkout / ".work" / "downloads" / package.sha256 / package.wheel
        kept.parent.mkdir(parents=True)
        kept.write_bytes(WHEEL)
        result = invoke()
    assert result.exit_code == 1
    text = " ".join(result.stdout.split())
    assert "smollm2-135m-instruct, kept from an earlier download" in text
    assert text.count("answers 404") == 2
    assert text.count("Check the network and its proxy settings") == 1


def test_what_a_folder_without_a_project_lacks_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    result = invoke("--json")
    assert result.exit_code == 1
    found = checks_of(result)
    states = {name: found[name]["state"] for name in ("packages", "git", "dvc", "params")}
    assert states == {"packages": "skipped", "git": "warning", "dvc": "skipped", "params": "failed"}
    assert "the first stage will create it" in found["history"]["message"]
    assert list(tmp_path.iterdir()) == []


def test_a_check_that_breaks_is_a_finding(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise KeyError("odd")

    monkeypatch.setattr(machine, "check_memory", broken)
    result = invoke("--json")
    assert result.exit_code == 1
    assert checks_of(result)["memory"]["message"] == "the check crashed: KeyError: 'odd'"
    assert "Traceback" not in result.output


@pytest.mark.parametrize("width", [50, 80])
def test_lines_fit_a_narrow_terminal(checkout: Path, width: int) -> None:
    assert all(len(line) <= width for line in invoke(width=width).stdout.splitlines())
