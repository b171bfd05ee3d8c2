"""dvc.lock, read without dvc, against what dvc itself has; and git's content in dvc's way."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import DataError
from pipeline.workflow.git import Commits
from pipeline.workflow.lock import (
    Execution,
    file_hash,
    folder_hash,
    parse_lock,
    read_lock,
)
from pipeline.workflow.project import folder_listing, workspace_hashes
from tests.project import run
from tests.server import serving

DVC_YAML = """
stages:
  make:
    cmd: mkdir -p out/deep && cp in.txt out/a.txt && cp in.txt out/deep/ü.txt && cp in.txt one.txt
    deps: [in.txt, code]
    params: [rate, nested]
    outs: [out]
    metrics: [one.txt: {cache: false}]
  alone:
    cmd: echo 1 > alone.txt
    outs: [alone.txt]
  use:
    cmd: cp out/a.txt used.txt
    deps: [out]
    outs: [used.txt]
"""
PARAMS = "rate: 1.0e-05\nnested: {b: [1, 2.5, null], a: {x: true}}\n"


@pytest.fixture(scope="module")
def repo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small project after `dvc repro`, with its code in git."""
    root = tmp_path_factory.mktemp("lock") / "repo"
    (root / "code" / "deep").mkdir(parents=True)
    (root / "code" / "a.py").write_text("a = 1\n")
    (root / "code" / "deep" / "b.py").write_bytes(b"b = 1\r\n")
    (root / "in.txt").write_text("text\n")
    (root / "dvc.yaml").write_text(DVC_YAML)
    (root / "params.yaml").write_text(PARAMS)
    for command in ("git init -q", "dvc init -q", "dvc repro", "git add -A", "git commit -qm one"):
        run(root, *command.split())
    return root


def test_run_keys_are_those_of_dvcs_run_cache(repo: Path) -> None:
    keys = {name: e.run_key for name, e in read_lock(repo / "dvc.lock").items()}
    cached = {path.name for path in (repo / ".dvc/cache/runs").glob("*/*")}
    assert {keys["make"], keys["use"]} == cached
    assert keys["alone"] is None  # without dependencies, dvc caches no run


def test_an_execution_is_what_the_entry_says(repo: Path) -> None:
    make = read_lock(repo / "dvc.lock")["make"]
    assert make.command.startswith("mkdir -p out/deep")
    assert make.params == {"rate": 1e-05, "nested": {"b": [1, 2.5, None], "a": {"x": True}}}
    assert set(make.inputs) == {"in.txt", "code"}
    assert make.inputs["in.txt"] == file_hash(b"text\n")
    assert make.outputs["one.txt"] == file_hash(b"text\n")
    digest = file_hash(b"text\n")
    assert make.outputs["out"] == folder_hash([("deep/ü.txt", digest), ("a.txt", digest)])


def test_a_folder_in_git_has_the_hash_that_dvc_gave_it(repo: Path) -> None:
    make = read_lock(repo / "dvc.lock")["make"]
    commits = Commits(repo)
    for path, digest in make.inputs.items():
        assert commits.hash_at("HEAD", path) == digest
    assert commits.hash_at("HEAD", "code/deep") != make.inputs["code"]
    assert commits.hash_at("HEAD", "nothing") is None
    assert commits.hash_at("0" * 40, "code") is None
    assert Commits(repo.parent).hash_at("HEAD", "code") is None


def test_a_file_is_distinguished_from_a_folder_of_one_file(repo: Path) -> None:
    deep = Commits(repo).hash_at("HEAD", "code/deep")
    assert deep == folder_hash([("b.py", file_hash(b"b = 1\r\n"))])
    assert Commits(repo).hash_at("HEAD", "code/deep/b.py") == file_hash(b"b = 1\r\n")


def test_the_listing_of_a_folder_is_in_the_cache(
    repo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(repo)
    digest = read_lock(repo / "dvc.lock")["make"].outputs["out"]
    files = folder_listing(digest)
    assert files is not None
    assert folder_hash(files) == digest
    assert folder_listing("0" * 32 + ".dir") is None


def test_the_hash_in_the_workspace_is_of_what_is_there(
    repo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(repo)
    locked = read_lock(Path("dvc.lock"))
    assert workspace_hashes(["out", "gone"]) == {"out": locked["make"].outputs["out"]}
    used = Path("used.txt")
    before = used.read_bytes()
    try:
        used.unlink()
        used.write_text("edited\n")
        assert workspace_hashes(["used.txt"]) == {"used.txt": file_hash(b"edited\n")}
        used.unlink()
        assert workspace_hashes(["used.txt"]) == {"used.txt": None}
    finally:
        used.write_bytes(before)


def test_without_a_lock_there_are_no_executions(tmp_path: Path) -> None:
    assert read_lock(tmp_path / "dvc.lock") == {}


def test_a_users_own_stage_may_read_from_the_web_and_run_several_commands(tmp_path: Path) -> None:
    with serving() as server:
        address = server.put("/a.txt", b"text\n")
        (tmp_path / "dvc.yaml").write_text(
            f"stages: {{own: {{cmd: [echo 1 > a, echo 2 > b], deps: ['{address}'], outs: [a, b]}}}}"
        )
        run(tmp_path, "dvc", "init", "-q", "--no-scm")
        run(tmp_path, "dvc", "repro")
    own = read_lock(tmp_path / "dvc.lock")["own"]
    assert own.command == "echo 1 > a\necho 2 > b"
    assert own.inputs[address]
    assert own.outputs == {"a": file_hash(b"1\n"), "b": file_hash(b"2\n")}
    assert own.run_key is None
    assert not (tmp_path / ".dvc/cache/runs").exists()


def test_what_lies_elsewhere_is_identified_by_what_its_server_says() -> None:
    content = b"""
    stages:
      own:
        cmd: x
        deps: [{path: 'http://host/a', hash: md5, checksum: '12'}, {path: 's3://b/c', etag: e1}]
    """
    assert parse_lock(content, "dvc.lock") == {
        "own": Execution("own", "x", inputs={"http://host/a": "12", "s3://b/c": "e1"})
    }


@given(
    text=st.one_of(
        st.text(max_size=40),
        st.sampled_from(["[]", "stages: 1", "stages: {a: 1}", "stages: {a: {}}", "a: b: c",
                         "stages: {a: {cmd: x, outs: [{path: y}]}}", "schema: '2.0'"]),
    )
)  # fmt: skip
def test_what_is_no_lock_is_a_clear_error(
    tmp_path_factory: pytest.TempPathFactory, text: str
) -> None:
    path = tmp_path_factory.mktemp("text") / "dvc.lock"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=r"cannot be parsed as a dvc\.lock"):
        read_lock(path)
