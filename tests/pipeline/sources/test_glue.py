"""GLUE from archives, the hub and a mirror: the same examples, on a server of this machine."""

import hashlib
import io
import os
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import pytest
from datasets import ClassLabel, Dataset, Features, Value

from pipeline.data.glue import GLUE, read_glue
from pipeline.errors import ChecksumError, DownloadError
from pipeline.sources import glue, http, hub
from pipeline.sources.glue import REPOSITORY, GlueSource, glue_source
from pipeline.sources.superglue import superglue_source
from tests.hub import Hub, asking_here
from tests.server import Server

REAL_MIRROR = Path(__file__).parents[4] / "shared" / "mirror"
NAME, COMMIT = REPOSITORY.split("@")

_MNLI = "index\tgenre\tsentence1_parse\tsentence1\tsentence2\tlabel1\t"
# Task -> train and dev file, as upstream.
FILES: dict[str, tuple[str, str]] = {
    "cola": ("gj04\t1\t\tThey drank.\ngj04\t0\t*\tThem drank.\n", "gj04\t1\t\tAnn \"saw\" it."),
    "glue_rte": (
        "index\tsentence1\tsentence2\tlabel\n0\tA.\tB.\tentailment\n1\tC.\tD.\tnot_entailment\n",
        "index\tsentence1\tsentence2\tlabel\n0\tE.\tF.\tnot_entailment\n",
    ),
    "mnli": (
        f"{_MNLI}gold_label\n0\tg\t(A)\tA.\tB.\tx\tneutral\n1\tg\t(C)\tC.\tD.\tx\tcontradiction\n",
        f"{_MNLI}label2\tgold_label\n0\tg\t(E)\tE.\tF.\tx\ty\tentailment\n",
    ),
    "mrpc": (
        '\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\n1\t1\t2\tA " .\tB .\n'
        "0\t5\t6\tZoë .\tD\n",
        "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\n1\t3\t4\tE .\tF .\n",
    ),
    "qnli": (
        "index\tquestion\tsentence\tlabel\n0\tA?\tB.\tentailment\n1\tC?\tD.\tnot_entailment\n",
        "index\tquestion\tsentence\tlabel\n0\tE?\tF.\tentailment\n",
    ),
    "sst2": ("sentence\tlabel\na film \t1\nno film \t0\n", "sentence\tlabel\nfine \t1\n"),
}  # fmt: skip
# Label in the files -> position among the hub's names of it.
HUB_LABELS: dict[str, tuple[list[str], dict[str, int]]] = {
    "cola": (["unacceptable", "acceptable"], {"0": 0, "1": 1}),
    "glue_rte": (["entailment", "not_entailment"], {"entailment": 0, "not_entailment": 1}),
    "mnli": (
        ["entailment", "neutral", "contradiction"],
        {"entailment": 0, "neutral": 1, "contradiction": 2},
    ),
    "mrpc": (["not_equivalent", "equivalent"], {"0": 0, "1": 1}),
    "qnli": (["entailment", "not_entailment"], {"entailment": 0, "not_entailment": 1}),
    "sst2": (["negative", "positive"], {"0": 0, "1": 1}),
}
TASKS = list(GLUE)
# Microsoft's file: a dev pair between two of train.
MSR = (
    '\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\r\n1\t1\t2\tA " .\tB .\r\n'
    "1\t3\t4\tE .\tF .\r\n0\t5\t6\tZoë .\tD\r\n"
)
DEV_IDS = "3\t4\n7\t8\n"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for name in list(os.environ):
        if name.upper().endswith("_PROXY"):
            monkeypatch.delenv(name)
    for key, value in {"ATTEMPTS": 2, "BACKOFF_SECONDS": 0.001}.items():
        monkeypatch.setattr(http, key, value)
    with asking_here(monkeypatch, hub) as server:
        yield server


def small(task: str) -> GlueSource:
    """The source of a task whose files have two and one rows."""
    source = glue_source(task, "archive")
    return replace(source, layout=replace(source.layout, rows=(2, 1)))


def zipped(task: str, files: tuple[str, str]) -> bytes:
    packed = io.BytesIO()
    folder = GLUE[task].folder
    with zipfile.ZipFile(packed, "w") as archive:
        for name, content in zip(GLUE[task].files, files, strict=True):
            archive.writestr(f"{folder}/{name}", content)
            archive.writestr(f"__MACOSX/{folder}/._{name}", "?")
        archive.writestr(f"{folder}/test.tsv", "index\tsentence\n0\tno label\n")
    return packed.getvalue()


def serve(server: Server, task: str, files: tuple[str, str]) -> GlueSource:
    """Serve a task as upstream does; return the source that knows the digests of what is served."""
    contents = [MSR.encode(), DEV_IDS.encode()] if task == "mrpc" else [zipped(task, files)]
    digests = {}
    for path, content in zip(small(task).archives, contents, strict=True):
        server.put(f"/{path}", content)
        digests[path] = hashlib.sha256(content).hexdigest()
    return replace(small(task), archives=digests, url=server.url)


def mirrored(folder: Path, task: str, files: tuple[str, str]) -> Path:
    for name, content in zip(GLUE[task].files, files, strict=True):
        path = folder / "glue" / GLUE[task].folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8", newline="")
    return folder


def records(target: Path, task: str) -> list[list[dict[str, Any]]]:
    return [read_glue(target / name, GLUE[task]) for name in GLUE[task].files]


@pytest.mark.parametrize("task", TASKS)
def test_the_archives_give_the_official_files(server, target, cache, task):
    serve(server, task, FILES[task]).fetch(target, cache=cache, mirror=None)
    found = {path.name: path.read_text("utf-8") for path in target.iterdir()}
    assert found == dict(zip(GLUE[task].files, FILES[task], strict=True))


@pytest.mark.parametrize("task", TASKS)
def test_the_hub_gives_the_same_records(server, target, cache, tmp_path, task):
    names, positions = HUB_LABELS[task]
    texts = [field for field in GLUE[task].columns if field != "label"]
    features = Features(
        {**dict.fromkeys(texts, Value("string")), "label": ClassLabel(names=names),
         "idx": Value("int32")}
    )  # fmt: skip
    datasets.disable_progress_bars()
    official = mirrored(tmp_path / "official", task, FILES[task]) / "glue" / GLUE[task].folder
    expected = records(official, task)
    splits = ["train", "validation_matched" if task == "mnli" else "validation"]
    tables = {}
    for split, rows in zip(splits, expected, strict=True):
        table = [{**row, "label": positions[row["label"]]} for row in rows]
        Dataset.from_list(table, features=features).to_parquet(tmp_path / "table")
        path = f"{task.removeprefix('glue_')}/{split}-00000-of-00001.parquet"
        tables[path] = (tmp_path / "table").read_bytes()
    Hub(server, NAME, tables, kind="dataset", commit=COMMIT)
    replace(small(task), from_hub=True).fetch(target, cache=cache, mirror=None)
    assert records(target, task) == expected


def test_hidden_labels_of_the_hub_are_refused(server, target, cache, tmp_path):
    features = Features({"sentence": Value("string"), "label": ClassLabel(names=["a", "b"])})
    Dataset.from_list([{"sentence": "x", "label": -1}], features=features).to_parquet(
        tmp_path / "table"
    )
    table = (tmp_path / "table").read_bytes()
    tables = {f"sst2/{s}-00000-of-00001.parquet": table for s in ("train", "validation")}
    Hub(server, NAME, tables, kind="dataset", commit=COMMIT)
    with pytest.raises(ChecksumError, match="is not a table of examples of sst2") as caught:
        replace(small("sst2"), from_hub=True).fetch(target, cache=cache, mirror=None)
    assert "data.superglue_from to archive" in str(caught.value)


@pytest.mark.parametrize("task", TASKS)
def test_a_mirror_is_taken_as_it_is_without_any_request(server, target, cache, tmp_path, task):
    mirror = mirrored(tmp_path / "mirror", task, FILES[task])
    replace(small(task), url=server.url).fetch(target, cache=cache, mirror=mirror)
    for name in GLUE[task].files:
        copied = mirror / "glue" / GLUE[task].folder / name
        assert (target / name).read_bytes() == copied.read_bytes()
    assert server.asked == []
    (copied).unlink()
    with pytest.raises(DownloadError, match="not in the mirror"):
        small(task).fetch(target, cache=cache, mirror=mirror)


@pytest.mark.parametrize(("how", "kind"), [(404, DownloadError), ("altered", ChecksumError)])
@pytest.mark.parametrize("task", ["sst2", "mrpc"])
def test_what_does_not_come_as_published_is_named(server, target, cache, task, how, kind):
    source = serve(server, task, FILES[task])
    for path in source.archives:
        server.files[f"/{path}"].plan = [how, ...]
        with pytest.raises(kind) as caught:
            source.fetch(target, cache=cache, mirror=None)
        assert path in str(caught.value)
        server.files[f"/{path}"].plan = []
    source.fetch(target, cache=cache, mirror=None)
    assert len(records(target, task)[0]) == 2


def test_another_number_of_rows_is_refused(server, target, cache, tmp_path):
    short = ("sentence\tlabel\na film \t1\n", FILES["sst2"][1])
    for source, mirror, said in (
        (serve(server, "sst2", short), None, "data.mirror in params.yaml"),
        (small("sst2"), mirrored(tmp_path / "mirror", "sst2", short), "Copy the official file"),
    ):
        with pytest.raises(ChecksumError, match=r"SST-2/train\.tsv: 1 rows, expected 2") as caught:
            source.fetch(target, cache=cache, mirror=mirror)
        assert said in str(caught.value)


def test_of_a_mirror_only_the_known_copy_of_mrpc_may_lack_a_row(
    server, target, cache, tmp_path, monkeypatch
):
    monkeypatch.setattr(glue, "_KNOWN_LOSSES", {"mrpc": (1,)})
    train, dev = FILES["mrpc"]
    short = (train.rpartition("0\t5")[0], dev)
    small("mrpc").fetch(target, cache=cache, mirror=mirrored(tmp_path / "a", "mrpc", short))
    assert len(records(target, "mrpc")[0]) == 1
    for files in (("\n".join(train.split("\n")[:1]), dev), (train, dev.rpartition("1\t3")[0])):
        mirror = mirrored(tmp_path / "b", "mrpc", files)
        with pytest.raises(ChecksumError, match="0 rows, expected"):
            small("mrpc").fetch(target, cache=cache, mirror=mirror)
    source = serve(server, "mrpc", FILES["mrpc"])
    source = replace(source, layout=replace(source.layout, rows=(3, 1)))
    monkeypatch.setattr(glue, "_KNOWN_LOSSES", {"mrpc": (2,)})
    with pytest.raises(ChecksumError, match="2 rows, expected 3"):
        source.fetch(target, cache=cache, mirror=None)


@pytest.mark.parametrize("where", ["archive", "hub"])
@pytest.mark.parametrize("task", TASKS)
def test_params_choose_the_source(task, where):
    source = superglue_source(task, "glue", where)
    assert source == glue_source(task, where)
    folder = GLUE[task].folder.lower()
    assert source.name == {"archive": f"glue/{folder}", "hub": f"glue-hub/{folder}"}[where]


def test_a_probe_asks_the_host_of_each_file(server, cache, tmp_path):
    source = serve(server, "mrpc", FILES["mrpc"])
    assert source.probe(cache=cache, mirror=None, seconds=5)
    server.files["/glue/data/mrpc_dev_ids.tsv"].plan = [404, ...]
    mirror = mirrored(tmp_path / "mirror", "mrpc", FILES["mrpc"])
    assert "complete in the mirror" in small("mrpc").probe(cache=cache, mirror=mirror, seconds=5)


needs_mirror = pytest.mark.skipif(
    not (REAL_MIRROR / "glue").is_dir(), reason="no mirror at ../shared/mirror"
)


@needs_mirror
@pytest.mark.parametrize("task", ["cola", "glue_rte", "mrpc", "sst2"])
def test_the_real_mirror_is_taken(target, cache, task):
    glue_source(task, "archive").fetch(target, cache=cache, mirror=REAL_MIRROR)
    for name in GLUE[task].files:
        real = REAL_MIRROR / "glue" / GLUE[task].folder / name
        assert (target / name).read_bytes() == real.read_bytes()


@needs_mirror
def test_mrpc_in_microsofts_layout_becomes_the_real_files(server, target, cache):
    real = {
        name: (REAL_MIRROR / "glue" / "MRPC" / f"{name}.tsv").read_text("utf-8")
        for name in ("train", "dev")
    }
    header, *train = real["train"].removesuffix("\n").split("\n")
    _, *dev = real["dev"].removesuffix("\n").split("\n")
    mixed = [*train[:100], *(row for pair in zip(dev, train[100:], strict=False) for row in pair)]
    mixed += train[100 + len(dev) :]
    contents = [
        "".join(f"{row}\r\n" for row in (header, *mixed)).encode(),
        "".join("\t".join(row.split("\t")[1:3]) + "\n" for row in dev).encode(),
    ]
    source = glue_source("mrpc", "archive")
    digests = {}
    for path, content in zip(source.archives, contents, strict=True):
        server.put(f"/{path}", content)
        digests[path] = hashlib.sha256(content).hexdigest()
    layout = replace(source.layout, rows=(len(train), len(dev)))
    source = replace(source, layout=layout, archives=digests, url=server.url)
    source.fetch(target, cache=cache, mirror=None)
    for name, content in real.items():
        assert (target / f"{name}.tsv").read_text("utf-8") == content
