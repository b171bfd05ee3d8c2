import functools
import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants

from pipeline.errors import ChecksumError, DataError, DownloadError, ModelError
from pipeline.models.language_model import PromptedModel
from pipeline.models.loading import load_model
from pipeline.sources import models as catalog
from pipeline.sources.hub import fetch_from_hub
from pipeline.sources.models import PACKAGED_MODELS, ModelSource, check_model_name
from pipeline.sources.packages import PackageSource
from tests.hub import COMMIT, OLDER, Hub, asking_here
from tests.tiny_gguf import save_tiny_gguf

PROJECT = Path(__file__).parents[3]


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_a_folder_becomes_an_equal_model_folder(
    tiny_folders: dict[str, Path], tmp_path: Path, target: Path, family: str
) -> None:
    source = Path(shutil.copytree(tiny_folders[family], tmp_path / "source"))
    (source / "notes.md").write_text("not part of the model")
    (source / "checkpoint-10").mkdir()

    ModelSource(str(source)).fetch(target, cache=tmp_path / "cache", mirror=None)

    assert {p.name: p.read_bytes() for p in target.iterdir()} == {
        p.name: p.read_bytes() for p in tiny_folders[family].iterdir()
    }
    load_model(target, device="cpu")


def test_a_linked_weights_file_is_copied_as_a_file(
    tiny_folders: dict[str, Path], tmp_path: Path, target: Path
) -> None:
    """As in the cache of the Hugging Face hub, whose model folders are links."""
    source = tmp_path / "snapshot"
    source.mkdir()
    for file in tiny_folders["gpt2"].iterdir():
        (source / file.name).symlink_to(file)

    ModelSource(str(source)).fetch(target, cache=tmp_path / "cache", mirror=None)

    assert not any(file.is_symlink() for file in target.iterdir())
    # What DVC does to its copy must not reach the user's file.
    assert not any(file.samefile(source / file.name) for file in target.iterdir())
    load_model(target, device="cpu")


def test_an_unknown_name_is_an_error_that_lists_the_catalog() -> None:
    with pytest.raises(
        ModelError, match=r"'smolm' is neither .*smollm2-135m-instruct.*nor a folder"
    ):
        check_model_name("smolm")


@pytest.mark.parametrize("missing", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_folder_that_lacks_a_file_is_an_error_that_names_it(
    tiny_folders: dict[str, Path], tmp_path: Path, target: Path, missing: str
) -> None:
    source = Path(shutil.copytree(tiny_folders["bert"], tmp_path / "source"))
    (source / missing).unlink()
    named = missing.replace("model.", r"\*\.")
    with pytest.raises(ModelError, match=f"folder {source} has no {named};"):
        ModelSource(str(source)).fetch(target, cache=tmp_path / "cache", mirror=None)
    assert list(target.iterdir()) == []


def test_a_model_of_the_catalog_is_fetched_and_converted(
    tiny_models: dict[str, PromptedModel],
    tmp_path: Path,
    target: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    weights = {}

    def fetch(package: PackageSource, folder: Path, *, cache: Path, mirror: Path | None) -> None:
        assert package is PACKAGED_MODELS["smollm2-135m-instruct"]
        assert (cache, mirror) == (tmp_path / "cache", tmp_path)
        tokenizer = tiny_models["gpt2"].codec.tokenizer
        weights.update(save_tiny_gguf(folder / "model.gguf", tokenizer, quantised=True))

    monkeypatch.setattr(PackageSource, "fetch", fetch)
    ModelSource("smollm2-135m-instruct").fetch(target, cache=tmp_path / "cache", mirror=tmp_path)

    model = load_model(target, device="cpu")
    assert torch.equal(model.input_embeddings.weight, weights["model.embed_tokens.weight"])
    assert not list(tmp_path.glob(".gguf-*"))
    assert not list(target.glob("*.gguf"))


# Names


@pytest.mark.parametrize(
    "name",
    [
        "google-bert/bert-base-cased",
        "HuggingFaceTB/SmolLM2-135M",
        "org/name@v1.0",
        f"org/name@{COMMIT}",
        "org/name@refs/pr/1",
        "bert-base-cased",
        "gpt2-medium@main",
    ],
)
def test_a_name_of_the_hubs_form_is_taken(name: str) -> None:
    check_model_name(name)


@pytest.mark.parametrize(
    "name",
    [
        "bert-base-casde",
        "org/na me",
        "org/name@",
        "org/name@a@b",
        "org/name@../x",
        "org/",
        "/name",
        "-org/name",
        "org/name.git",
        "org/a--b",
        "models/mine/last",
        "./org/name",
        "../name",
        "~/name",
        "/org/name",
        "org\\name",
        "@main",
    ],
)
def test_the_error_for_a_name_of_another_form_lists_the_valid_forms(name: str) -> None:
    with pytest.raises(ModelError, match="is neither a model of the catalog") as caught:
        check_model_name(name)
    assert repr(name) in str(caught.value)
    assert "organization/name" in str(caught.value)


def test_a_folder_comes_before_a_model_of_the_hub(
    tiny_folders: dict[str, Path],
    tmp_path: Path,
    target: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny_folders["bert"], "org/name")
    ModelSource("org/name").fetch(target, cache=tmp_path / "cache", mirror=None)
    assert (target / "model.safetensors").is_file()
    (tmp_path / "org" / "name" / "tokenizer.json").unlink()
    with pytest.raises(ModelError, match=r"folder org/name has no tokenizer\.json"):
        check_model_name("org/name")


def test_a_folder_in_the_home_folder_is_a_folder(
    tiny_folders: dict[str, Path], tmp_path: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    shutil.copytree(tiny_folders["bert"], tmp_path / "model")
    ModelSource("~/model").fetch(target, cache=tmp_path / "cache", mirror=None)
    assert (target / "model.safetensors").is_file()


def test_checking_a_name_loads_neither_torch_nor_the_hubs_client() -> None:
    code = (
        "import sys; from pipeline.sources.models import check_model_name; "
        "check_model_name('org/name'); "
        "sys.exit({'torch', 'transformers', 'huggingface_hub'} & set(sys.modules) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


# From the hub


UNUSED = {
    "README.md": b"about",
    "pytorch_model.bin": b"pickle",
    "tf_model.h5": b"other",
    "modeling_mine.py": b"raise SystemExit('ran code of the hub')",
    "onnx/model.onnx": b"other",
    "onnx/config.json": b"{}",
    "consolidated.safetensors": b"twice",
}


@pytest.fixture
def hub(tiny_folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """Serve the tiny BERT as `org/name`."""
    files = {path.name: path.read_bytes() for path in tiny_folders["bert"].iterdir()}
    with asking_here(monkeypatch, catalog) as server:
        yield Hub(server, "org/name", files | UNUSED)


def _model_of(hub: Hub) -> dict[str, bytes]:
    return {name: content for name, content in hub.files.items() if name not in UNUSED}


def _content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def _fetch(name: str, target: Path, mirror: Path | None = None) -> None:
    ModelSource(name).fetch(target, cache=target.parent / "cache", mirror=mirror)


def test_a_model_of_the_hub_becomes_a_model_folder(hub: Hub, target: Path) -> None:
    _fetch("org/name", target)
    assert _content(target) == _model_of(hub)
    load_model(target, device="cpu")


def test_nothing_else_of_it_is_fetched(hub: Hub, target: Path) -> None:
    _fetch("org/name", target)
    asked = " ".join(hub.server.asked)
    assert "model.safetensors" in asked
    assert not [name for name in UNUSED if f"/{name}" in asked]


def test_the_files_are_the_targets_own(hub: Hub, target: Path, tmp_path: Path) -> None:
    """DVC makes its files read-only, and all that share their bytes."""
    _fetch("org/name", target)
    kept = [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    for file in target.iterdir():
        assert not file.is_symlink()
        assert not any(file.samefile(other) for other in kept)


def test_a_revision_is_the_one_that_is_named(hub: Hub, target: Path) -> None:
    newer = hub["config.json"].content
    older = newer.replace(b"{", b'{"older": true,', 1)
    hub.server.files[f"/org/name/resolve/{OLDER}/config.json"].content = older
    hub.server.files[f"/org/name/resolve/{OLDER}/config.json"].headers["ETag"] = '"older"'
    entries = json.loads(hub.server.files[f"/api/models/org/name/tree/{OLDER}"].content)
    for entry in entries:
        if entry["path"] == "config.json":
            entry.update(size=len(older), oid="1" * 40)
    hub.server.files[f"/api/models/org/name/tree/{OLDER}"].content = json.dumps(entries).encode()
    _fetch("org/name@v1", target)
    assert (target / "config.json").read_bytes() == older
    _fetch(f"org/name@{COMMIT}", target)
    assert (target / "config.json").read_bytes() == newer


def test_a_legacy_name_is_one_of_the_hub(
    tiny_folders: dict[str, Path], hub: Hub, target: Path
) -> None:
    legacy = Hub(hub.server, "bert-base-cased", hub.files)
    _fetch("bert-base-cased", target)
    assert _content(target) == _model_of(legacy)


def test_what_was_fetched_is_kept_and_serves_without_a_network(
    hub: Hub, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _fetch("org/name", target)
    (target / "config.json").unlink()
    hub.server.asked.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    _fetch("org/name", target)
    assert _content(target) == _model_of(hub)
    assert hub.server.asked == []


@pytest.mark.parametrize("how", ["cut", "silent", 429])
def test_a_cut_is_mended(hub: Hub, target: Path, how: object) -> None:
    # First the client asks for the size.
    hub["model.safetensors"].plan = ["well", how]
    _fetch("org/name", target)
    assert _content(target) == _model_of(hub)


def test_a_file_that_stays_cut_is_reported_and_nothing_of_it_is_taken(
    hub: Hub, target: Path
) -> None:
    hub["model.safetensors"].plan = ["well", "cut", ...]
    with pytest.raises(DownloadError) as caught:
        _fetch("org/name", target)
    assert "org/name: " in str(caught.value)
    assert "Run again: what was downloaded is kept" in str(caught.value)
    assert _content(target) == {}


def test_after_an_error_of_the_hub_the_next_run_resumes(hub: Hub, target: Path) -> None:
    hub["model.safetensors"].plan = ["well", 503, 503]
    with pytest.raises(DownloadError, match="503") as caught:
        _fetch("org/name", target)
    assert "Run again: what was downloaded is kept" in str(caught.value)
    assert _content(target) == {}
    hub["model.safetensors"].plan = []
    _fetch("org/name", target)
    assert _content(target) == _model_of(hub)


def test_altered_weights_are_noticed_and_not_kept(hub: Hub, target: Path) -> None:
    hub["model.safetensors"].plan = ["altered", ...]
    with pytest.raises(ChecksumError, match=r"model\.safetensors has another sha256") as caught:
        _fetch("org/name", target)
    assert "org/name" in str(caught.value)
    assert _content(target) == {}
    hub["model.safetensors"].plan = []
    _fetch("org/name", target)
    assert _content(target) == _model_of(hub)


@pytest.mark.parametrize(
    ("status", "code", "said"),
    [
        (404, "RepoNotFound", "no model 'org/name'"),
        (401, "RepoNotFound", "HF_TOKEN"),
        (401, None, "HF_TOKEN"),
        (401, "GatedRepo", "accept its terms"),
        (403, "GatedRepo", "accept its terms"),
        (404, "RevisionNotFound", "no revision"),
        (403, None, "403"),
        (500, None, "500"),
    ],
)
def test_what_the_hub_refuses_is_reported_with_the_next_step(
    hub: Hub, target: Path, status: int, code: str | None, said: str
) -> None:
    hub.refuse(status, code)
    with pytest.raises(DownloadError, match=said) as caught:
        _fetch("org/name", target)
    assert "org/name" in str(caught.value)
    assert len(str(caught.value)) < 500
    assert _content(target) == {}


def test_weights_that_are_gated_are_reported_too(hub: Hub, target: Path) -> None:
    hub["model.safetensors"].plan = [403, ...]
    hub["model.safetensors"].headers = {"X-Error-Code": "GatedRepo"}
    with pytest.raises(DownloadError, match="accept its terms"):
        _fetch("org/name", target)


def test_offline_is_reported_with_the_next_step(
    hub: Hub, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(DownloadError, match="HF_HUB_OFFLINE") as caught:
        _fetch("org/name", target)
    assert "org/name: the hub cannot be reached" in str(caught.value)
    assert "models/org/name" in str(caught.value)
    assert hub.server.asked == []


def test_a_hub_that_is_not_there_is_reported_with_the_next_step(
    hub: Hub, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as taken:  # bound, but nobody listens
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        nowhere = functools.partial(fetch_from_hub, endpoint=url)
        monkeypatch.setattr(catalog, "fetch_from_hub", nowhere)
        with pytest.raises(DownloadError, match="cannot be reached") as caught:
            _fetch("org/name", target)
    assert "Check the network" in str(caught.value)


@pytest.mark.parametrize(
    ("missing", "named"),
    [
        ("model.safetensors", r"\*\.safetensors"),
        ("tokenizer.json", r"tokenizer\.json"),
        ("config.json", r"config\.json"),
    ],
)
def test_what_a_model_of_another_kind_lacks_is_reported(
    hub: Hub, target: Path, missing: str, named: str
) -> None:
    files = {name: content for name, content in hub.files.items() if name != missing}
    Hub(hub.server, "org/other", files)
    with pytest.raises(ModelError, match=f"org/other has no {named} ") as caught:
        _fetch("org/other", target)
    assert "save_pretrained" in str(caught.value)
    assert _content(target) == {}


# From the user's own cache of the hub


@pytest.fixture
def user_cache(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache of a user who has `org/name` in two revisions."""
    home = tmp_path / "hugging-face"
    repository = home / "hub" / "models--org--name"
    (repository / "blobs").mkdir(parents=True)
    (repository / "refs").mkdir()
    for revision, commit in (("main", COMMIT), ("v1", OLDER)):
        (repository / "refs" / revision).write_text(commit)
        snapshot = repository / "snapshots" / commit
        snapshot.mkdir(parents=True)
        for name, content in hub.files.items():
            if "/" not in name:
                blob = repository / "blobs" / hashlib.sha256(content).hexdigest()
                blob.write_bytes(content)
                (snapshot / name).symlink_to(blob)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(home / "hub"))
    return home


def test_a_model_of_the_users_cache_is_taken_without_any_request(
    hub: Hub, user_cache: Path, target: Path
) -> None:
    _fetch("org/name", target)
    assert _content(target) == _model_of(hub)
    assert hub.server.asked == []
    found = ModelSource("org/name").probe(cache=target.parent / "cache", mirror=None, seconds=1)
    assert found.startswith(f"in the cache of the Hugging Face hub, {user_cache}")


def test_the_users_cache_is_found_by_the_environment_without_a_network(
    hub: Hub, user_cache: Path, target: Path
) -> None:
    code = (
        "import sys; from pathlib import Path; from pipeline.sources.models import ModelSource; "
        "target = Path(sys.argv[1]); "
        "ModelSource('org/name').fetch(target, cache=target.parent / 'cache', mirror=None)"
    )
    environment = {**os.environ, "HF_HOME": str(user_cache), "HF_HUB_OFFLINE": "1"}
    del environment["HF_HUB_CACHE"]
    subprocess.run([sys.executable, "-c", code, str(target)], env=environment, check=True)
    assert _content(target) == _model_of(hub)


def test_the_users_cache_has_a_revision_or_the_hub_is_asked(
    hub: Hub, user_cache: Path, target: Path
) -> None:
    folder = user_cache / "hub" / "models--org--name"
    (folder / "snapshots" / OLDER / "config.json").unlink()
    (folder / "snapshots" / OLDER / "config.json").write_bytes(hub.files["config.json"] + b" ")
    _fetch("org/name@v1", target)
    assert hub.server.asked == []
    assert _content(target)["config.json"] == hub.files["config.json"] + b" "

    (folder / "refs" / "v1").unlink()
    shutil.rmtree(target)
    target.mkdir()
    _fetch("org/name@v1", target)
    assert hub.server.asked != []
    assert _content(target) == _model_of(hub)


@pytest.mark.parametrize("part", ["config.json", "model.safetensors"])
def test_an_incomplete_model_of_the_users_cache_is_fetched(
    hub: Hub, user_cache: Path, target: Path, part: str
) -> None:
    next(user_cache.glob(f"hub/*/snapshots/{COMMIT}/{part}")).unlink()
    # A file that no model folder gets; it is no replacement.
    next(user_cache.glob(f"hub/*/snapshots/{COMMIT}/consolidated.safetensors")).unlink()
    _fetch("org/name", target)
    assert _content(target) == _model_of(hub)
    assert hub.server.asked != []


def test_an_altered_model_of_the_users_cache_is_an_error_and_is_left_there(
    hub: Hub, user_cache: Path, target: Path
) -> None:
    weights = next(user_cache.glob(f"hub/*/snapshots/{COMMIT}/model.safetensors"))
    weights.write_bytes(b"altered")
    with pytest.raises(ChecksumError, match="delete it from the cache of the Hugging Face hub"):
        _fetch("org/name", target)
    assert weights.read_bytes() == b"altered"


def test_a_folder_that_lacks_a_part_of_its_weights_is_refused(
    tiny_folders: dict[str, Path], tmp_path: Path, target: Path
) -> None:
    folder = Path(shutil.copytree(tiny_folders["bert"], tmp_path / "parts"))
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    index = {
        "weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002.safetensors"}
    }
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match=r"has no model-00002\.safetensors"):
        _fetch(str(folder), target)


# From a mirror


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("org/name", "models/org/name"),
        ("org/name", "models/name"),
        ("org/name@v1", "models/org/name@v1"),
        ("gpt2", "models/gpt2"),
    ],
)
def test_a_model_of_the_mirror_is_taken_without_any_request(
    tiny_folders: dict[str, Path],
    hub: Hub,
    tmp_path: Path,
    target: Path,
    name: str,
    folder: str,
) -> None:
    mirror = tmp_path / "mirror"
    shutil.copytree(tiny_folders["gpt2"], mirror / folder)
    (mirror / folder / "README.md").write_text("not part of the model")
    _fetch(name, target, mirror)
    assert _content(target) == _content(tiny_folders["gpt2"])
    assert hub.server.asked == []


def test_a_model_that_the_mirror_lacks_is_named_and_not_fetched(
    hub: Hub, tmp_path: Path, target: Path
) -> None:
    (tmp_path / "mirror" / "models" / "org").mkdir(parents=True)
    with pytest.raises(DownloadError, match="not in the mirror") as caught:
        _fetch("org/name", target, tmp_path / "mirror")
    assert str(tmp_path / "mirror" / "models" / "org" / "name") in str(caught.value)
    assert "data.mirror to null" in str(caught.value)
    assert hub.server.asked == []


def test_a_model_of_the_mirror_is_held_against_its_digests(
    tiny_folders: dict[str, Path], tmp_path: Path, target: Path
) -> None:
    mirror = tmp_path / "mirror"
    shutil.copytree(tiny_folders["gpt2"], mirror / "models" / "org" / "name")
    digest = hashlib.sha256(b"another").hexdigest()
    (mirror / "SHA256SUMS").write_text(f"{digest}  models/org/name/model.safetensors\n")
    with pytest.raises(ChecksumError, match=r"name/model\.safetensors"):
        _fetch("org/name", target, mirror)


def test_a_damaged_list_of_digests_is_named(
    tiny_folders: dict[str, Path], tmp_path: Path, target: Path
) -> None:
    mirror = tmp_path / "mirror"
    shutil.copytree(tiny_folders["gpt2"], mirror / "models" / "org" / "name")
    for content in (b"\xff\xfe\n", b"hello\n"):
        (mirror / "SHA256SUMS").write_bytes(content)
        with pytest.raises(DataError, match="SHA256SUMS:"):
            _fetch("org/name", target, mirror)


def test_a_model_of_the_mirror_without_weights_is_reported(
    tiny_folders: dict[str, Path], tmp_path: Path, target: Path
) -> None:
    folder = tmp_path / "mirror" / "models" / "org" / "name"
    shutil.copytree(tiny_folders["gpt2"], folder)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"has no \*\.safetensors"):
        _fetch("org/name", target, tmp_path / "mirror")
