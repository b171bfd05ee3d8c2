"""LAMA's data: from a mirror, and from archives laid out as upstream, on this machine."""

import hashlib
import io
import json
import os
import re
import tarfile
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.data.lama import (
    PROMPT_COLLECTIONS,
    TEST_FACTS,
    Fact,
    Relation,
    read_facts,
    read_relations,
)
from pipeline.errors import ChecksumError, DataError, DownloadError
from pipeline.files import read_jsonl
from pipeline.sources import http
from pipeline.sources.geonames import GEONAMES
from pipeline.sources.lama import LAMA, PROMPT_FILES, URLS, LamaSource, lama_source
from tests.server import Server, serving

REAL_MIRROR = Path(__file__).parents[4] / "shared" / "mirror"
HASTY = {"ATTEMPTS": 2, "BACKOFF_SECONDS": 0.001, "READ_TIMEOUT_SECONDS": 600}
RELATIONS = {"P19": 3, "P36": 2, "P31": 1}

Files = dict[str, bytes]


def _lines(records: Iterable[Mapping[str, Any]]) -> bytes:
    return "".join(json.dumps(record) + "\n" for record in records).encode()


def _fact(relation: str, subject: str, object_: str, **more: Any) -> dict[str, Any]:
    """A fact as upstream writes it: with the sentences, keys in another order, escaped."""
    return {
        **more,
        "obj_uri": f"Q-{object_}",
        "obj_label": object_,
        "sub_uri": f"Q-{subject}",
        "sub_label": subject,
        "predicate_id": relation,
        "evidences": [{"masked_sentence": f"{subject} ... [MASK]."}],
    }


def _upstream() -> dict[str, Files]:
    """Part -> files of its archive, with folders around them as upstream or unlike it."""
    facts: dict[str, dict[str, list[dict[str, Any]]]] = {
        relation: {
            "test": [_fact(relation, f"Tést{n}", "Oslo", uuid=f"{relation}-{n}") for n in range(n)],
            "train": [_fact(relation, f"Train{n}", "Rome") for n in range(4)],
            "dev": [_fact(relation, f"Dev{n}", "Bern") for n in range(2)],
        }
        for relation, n in RELATIONS.items()
    }
    # One of train is in test too, one in dev; one of dev is in test, and in train.
    facts["P36"]["train"][1:3] = [_fact("P36", "Tést0", "Oslo"), _fact("P36", "Dev0", "Bern")]
    facts["P36"]["dev"].append(_fact("P36", "Tést0", "Oslo"))
    relations = [
        '{"relation": "P19", "template": "[X] was born in [Y] .", "label": "b",  "type": "N-1"}',
        '{"relation": "P999", "template": "[X] has no data [Y] .", "label": "n"}',
        '{"relation": "P36", "template": "The capital of [X] is [Y] .", "label": "capital"}',
        '{"relation": "P31", "template": "[X] is a [Y] .", "label": "instance of"}',
    ]
    lama = {"data/relations.jsonl": "\n".join(relations).encode(), "data/ConceptNet/x": b"?"}
    release = {"LAMA/29k-vocab.json": b'{"bert-base-cased": ["Oslo", "Rome"]}', "LAMA/34k": b"?"}
    lpaqa = {"LPAQA-3204221/README.md": b"?"}
    pararel = {"pararel-cb55546/data/pattern_data/graphs/P19.graph": b"?"}
    for relation, splits in facts.items():
        lama[f"data/TREx/{relation}.jsonl"] = _lines(splits["test"])
        for split, found in splits.items():
            folder = "LAMA/fact-retrieval/original"
            release[f"{folder}/{relation}/{split}.jsonl"] = _lines(found)
        weighted = _lines([{"template": f"[X] {relation} [Y] .", "weight": 0.25}])
        lpaqa[f"LPAQA-3204221/prompt/mine/{relation}.jsonl"] = weighted
        lpaqa[f"LPAQA-3204221/prompt/paraphrase/{relation}.jsonl"] = weighted * 2
        lpaqa[f"LPAQA-3204221/prompt/manual_paraphrase/{relation}.txt"] = b"[X] a [Y]\n[Y] b [X].\n"
        if relation != "P31":
            pattern = [{"pattern": "[X] is [Y].", "lemma": "be", "tense": "present"}]
            name = f"pararel-cb55546/data/pattern_data/graphs_json/{relation}.jsonl"
            pararel[name] = _lines(pattern)
    found = _lines({"relation": r, "template": f"[X]vik {r} [Y]."} for r in (*RELATIONS, "P999"))
    prompts = {
        f"autoprompt-d637675/prompts/{kind}_{model}_prompts.jsonl": found
        for kind in ("fact_retrieval", "relation_extraction")
        for model in ("bert", "roberta")
    }
    return {
        "lama": lama,
        "p-tuning": release,
        "lpaqa": lpaqa,
        "autoprompt": prompts,
        "optiprompt": {"OptiPrompt-9450bc9/relation_metainfo/LPAQA_relations.jsonl": found},
        "pararel": pararel,
    }


VOCABULARY = b"Bern\nOslo\nRome\n"


def _zip(files: Files) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return packed.getvalue()


def _tar(files: Files) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz", compresslevel=1) as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return packed.getvalue()


def _serve(server: Server, upstream: dict[str, Files], vocabulary: bytes = VOCABULARY) -> None:
    for part, url in _urls(server).items():
        if part == "vocabulary":
            content = vocabulary
        else:
            content = (_zip if part == "lama" else _tar)(upstream[part])
        server.put(url.removeprefix(server.url), content)


def _urls(server: Server) -> dict[str, str]:
    return {part: re.sub("^https://", f"{server.url}/", url) for part, url in URLS.items()}


@pytest.fixture(autouse=True)
def _hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in HASTY.items():
        monkeypatch.setattr(http, name, value)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """Serve everything well."""
    for name in list(os.environ):
        if name.upper().endswith("_PROXY"):
            monkeypatch.delenv(name)
    with serving() as server:
        _serve(server, _upstream())
        yield server


@pytest.fixture
def source(server: Server) -> LamaSource:
    return LamaSource(_urls(server), RELATIONS, license="none")


def _content(folder: Path) -> Files:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def _labels(path: Path) -> list[tuple[str, str]]:
    return [(record["sub_label"], record["obj_label"]) for record in read_jsonl(path)]


@pytest.fixture
def mirror(server: Server, tmp_path: Path, source: LamaSource) -> Path:
    """A mirror as the pipeline itself would write it."""
    folder = tmp_path / "mirror" / "lama"
    folder.mkdir(parents=True)
    source.fetch(folder, cache=tmp_path / "mirror-cache", mirror=None)
    sums = "".join(
        f"{hashlib.sha256(content).hexdigest()}  lama/{name}\n"
        for name, content in _content(folder).items()
    )
    (tmp_path / "mirror" / "SHA256SUMS").write_text(sums)
    server.asked.clear()
    return tmp_path / "mirror"


# From upstream


def test_the_folder_has_exactly_the_files_of_the_mirrors_layout(server, target, cache, source):
    source.fetch(target, cache=cache, mirror=None)
    assert set(_content(target)) == {
        "relations.jsonl",
        "common_vocab_cased.txt",
        "29k-vocab.json",
        "removed_overlaps.jsonl",
        *(f"{r}/{split}.jsonl" for r in RELATIONS for split in ("train", "dev", "test")),
        "prompts/lpaqa_mine.jsonl",
        "prompts/lpaqa_paraphrase.jsonl",
        "prompts/lpaqa_manual_paraphrase.jsonl",
        "prompts/lpaqa_top1.jsonl",
        "prompts/autoprompt_bert.jsonl",
        "prompts/autoprompt_roberta.jsonl",
        "prompts/autoprompt_relext_bert.jsonl",
        "prompts/autoprompt_relext_roberta.jsonl",
        "prompts/pararel_patterns.jsonl",
    }
    assert {path.name for path in target.iterdir()} - set(RELATIONS) == {
        "relations.jsonl",
        "common_vocab_cased.txt",
        "29k-vocab.json",
        "removed_overlaps.jsonl",
        "prompts",
    }
    assert (target / "common_vocab_cased.txt").read_bytes() == VOCABULARY
    assert json.loads((target / "29k-vocab.json").read_text()) == {
        "bert-base-cased": ["Oslo", "Rome"]
    }


def test_relations_without_data_are_left_out_and_the_others_stand_as_they_were(
    server, target, cache, source
):
    source.fetch(target, cache=cache, mirror=None)
    lines = (target / "relations.jsonl").read_text().splitlines()
    assert lines[0].endswith('"label": "b",  "type": "N-1"}')  # two spaces, as upstream
    assert [json.loads(line)["relation"] for line in lines] == ["P19", "P36", "P31"]


def test_facts_keep_lamas_keys_and_lose_the_sentences(server, target, cache, source):
    source.fetch(target, cache=cache, mirror=None)
    assert (target / "P19" / "test.jsonl").read_text().splitlines()[0] == (
        '{"uuid": "P19-0", "sub_uri": "Q-Tést0", "obj_uri": "Q-Oslo", "sub_label": "Tést0", '
        '"obj_label": "Oslo", "predicate_id": "P19"}'
    )
    (fact, *_) = read_jsonl(target / "P19" / "train.jsonl")
    assert list(fact) == ["sub_uri", "obj_uri", "sub_label", "obj_label", "predicate_id"]
    assert len(read_facts(target / "P36" / "test.jsonl")) == 2


def test_train_and_dev_share_no_pair_with_test_nor_with_each_other(server, target, cache, source):
    source.fetch(target, cache=cache, mirror=None)
    assert _labels(target / "P36" / "train.jsonl") == [("Train0", "Rome"), ("Train3", "Rome")]
    assert _labels(target / "P36" / "dev.jsonl") == [("Dev0", "Bern"), ("Dev1", "Bern")]
    assert _labels(target / "P36" / "test.jsonl") == [("Tést0", "Oslo"), ("Tést1", "Oslo")]
    removed = read_jsonl(target / "removed_overlaps.jsonl")
    assert [(r["split"], r["line"], r["reason"], r["record"]["sub_label"]) for r in removed] == [
        ("train", 1, "in test", "Tést0"),
        ("train", 2, "in dev", "Dev0"),
        ("dev", 2, "in test", "Tést0"),
    ]
    assert _labels(target / "P19" / "train.jsonl") == [(f"Train{n}", "Rome") for n in range(4)]


def test_prompts_of_all_projects_have_one_form(server, target, cache, source):
    source.fetch(target, cache=cache, mirror=None)
    prompts = {name: read_jsonl(target / "prompts" / f"{name}.jsonl") for name in PROMPT_FILES}
    assert prompts["lpaqa_mine"][1] == {
        "relation": "P36",
        "template": "[X] P36 [Y] .",
        "weight": 0.25,
    }
    assert [p["relation"] for p in prompts["lpaqa_paraphrase"]] == [
        relation for relation in RELATIONS for _ in range(2)
    ]
    assert prompts["lpaqa_manual_paraphrase"][:2] == [
        {"relation": "P19", "template": "[X] a [Y]"},
        {"relation": "P19", "template": "[Y] b [X]."},
    ]
    assert prompts["pararel_patterns"] == [
        {"relation": r, "template": "[X] is [Y].", "lemma": "be", "tense": "present"}
        for r in ("P19", "P36")
    ]
    for name in ("lpaqa_top1", "autoprompt_bert", "autoprompt_relext_roberta"):
        assert prompts[name] == [{"relation": r, "template": f"[X]vik {r} [Y]."} for r in RELATIONS]


def test_each_part_is_fetched_once_and_kept(server, target, cache, tmp_path, source):
    source.fetch(target, cache=cache, mirror=None)
    assert len(server.asked) == len(set(server.asked)) == 7
    (tmp_path / "again").mkdir()
    source.fetch(tmp_path / "again", cache=cache, mirror=None)
    assert len(server.asked) == 7
    assert _content(tmp_path / "again") == _content(target)


def test_a_cut_and_a_busy_server_are_overcome(server, target, cache, source):
    paths = list(server.files)
    server.files[paths[0]].plan = ["cut"]
    server.files[paths[2]].plan = [503]
    source.fetch(target, cache=cache, mirror=None)
    assert len(server.asked) == 9


@pytest.mark.parametrize("part", URLS)
def test_a_part_that_is_gone_is_named_and_the_others_are_kept(server, target, cache, part, source):
    url = _urls(server)[part]
    file = server.files[url.removeprefix(server.url)]
    file.plan = [404]
    with pytest.raises(DownloadError, match="404") as caught:
        source.fetch(target, cache=cache, mirror=None)
    assert url in str(caught.value)
    assert "data.mirror in params.yaml" in str(caught.value)
    assert list(target.iterdir()) == []
    source.fetch(target, cache=cache, mirror=None)
    assert len(server.asked) == 8


def _change(server: Server, part: str, upstream: dict[str, Files] | None = None) -> None:
    """Serve another content of a part."""
    path = _urls(server)[part].removeprefix(server.url)
    if upstream is None:
        server.files[path].content = b"<!DOCTYPE html>\n<title>Log in to this network</title>\n"
    else:
        server.files[path].content = (_zip if part == "lama" else _tar)(upstream[part])


@pytest.mark.parametrize("part", URLS)
def test_a_page_in_place_of_a_file_is_noticed_and_not_kept(server, target, cache, part, source):
    _change(server, part)
    with pytest.raises(ChecksumError, match="The downloads are deleted") as caught:
        source.fetch(target, cache=cache, mirror=None)
    assert "data.mirror in params.yaml" in str(caught.value)
    _serve(server, _upstream())
    source.fetch(target, cache=cache, mirror=None)
    assert (target / "P31" / "test.jsonl").is_file()


@pytest.mark.parametrize(
    ("part", "name", "missed"),
    [
        ("lama", "data/relations.jsonl", "data/relations.jsonl"),
        ("lama", "data/TREx/P36.jsonl", "TREx/P36.jsonl"),
        ("p-tuning", "LAMA/29k-vocab.json", "29k-vocab.json"),
        ("p-tuning", "LAMA/fact-retrieval/original/P31/dev.jsonl", "original/P31/dev.jsonl"),
        ("lpaqa", "LPAQA-3204221/prompt/mine/P19.jsonl", "prompt/mine/P19.jsonl"),
        (
            "autoprompt",
            "autoprompt-d637675/prompts/fact_retrieval_bert_prompts.jsonl",
            "prompts/fact_retrieval_bert_prompts.jsonl",
        ),
    ],
)
def test_a_file_that_an_archive_lacks_is_named(server, target, cache, part, name, missed, source):
    upstream = _upstream()
    upstream[part]["other/place/" + missed.rpartition("/")[2] + ".bak"] = upstream[part].pop(name)
    _change(server, part, upstream)
    with pytest.raises(ChecksumError, match=re.escape(missed)):
        source.fetch(target, cache=cache, mirror=None)


def test_a_project_without_a_single_file_of_those_wanted_is_refused(server, target, cache, source):
    upstream = _upstream()
    upstream["pararel"] = {"pararel/README.md": b"?"}
    _change(server, "pararel", upstream)
    with pytest.raises(ChecksumError, match="pararel"):
        source.fetch(target, cache=cache, mirror=None)


@pytest.mark.parametrize("lines", [1, 3])
def test_another_number_of_test_facts_is_reported(server, target, cache, lines, source):
    upstream = _upstream()
    name = "data/TREx/P36.jsonl"
    upstream["lama"][name] = (upstream["lama"][name] * 2).splitlines(keepends=True)[0] * lines
    _change(server, "lama", upstream)
    with pytest.raises(ChecksumError, match=f"P36 has {lines} test facts, expected 2"):
        source.fetch(target, cache=cache, mirror=None)


def _edit(files: Files, name: str, old: bytes, new: bytes) -> None:
    assert old in files[name]
    files[name] = files[name].replace(old, new)


@pytest.mark.parametrize(
    ("part", "name", "old", "new", "said"),
    [
        ("lama", "data/relations.jsonl", b"P31", b"P32", "relations of LAMA"),
        ("lama", "data/relations.jsonl", b'"P31"', b"P31", "not JSON"),
        ("lama", "data/TREx/P31.jsonl", b"P31", b"P32", "not only facts of P31"),
        ("lama", "data/TREx/P31.jsonl", b"sub_label", b"label", "no sub_label"),
        ("lama", "data/TREx/P31.jsonl", b'"Oslo"', b'""', "obj_label"),
        ("p-tuning", "LAMA/29k-vocab.json", b'["Oslo", "Rome"]', b"[]", "29k-vocab"),
        ("p-tuning", "LAMA/29k-vocab.json", b"{", b"", "not JSON"),
        ("lpaqa", "LPAQA-3204221/prompt/mine/P19.jsonl", b"[X]", b"X", "no \\[X\\]"),
        ("lpaqa", "LPAQA-3204221/prompt/mine/P19.jsonl", b"template", b"t", "no \\[X\\]"),
        ("lpaqa", "LPAQA-3204221/prompt/manual_paraphrase/P19.txt", b" a ", b"\xff", "UTF-8"),
    ],
)
def test_content_of_another_kind_is_refused(
    server, target, cache, part, name, old, new, said, source
):
    upstream = _upstream()
    _edit(upstream[part], name, old, new)
    _change(server, part, upstream)
    with pytest.raises(DataError, match=said):
        source.fetch(target, cache=cache, mirror=None)


def test_an_empty_split_is_refused(server, target, cache, source):
    upstream = _upstream()
    upstream["p-tuning"]["LAMA/fact-retrieval/original/P31/dev.jsonl"] = b""
    _change(server, "p-tuning", upstream)
    with pytest.raises(ChecksumError, match=r"P31/dev\.jsonl"):
        source.fetch(target, cache=cache, mirror=None)


@pytest.mark.parametrize("vocabulary", [b"", b"two words\n", b"\xff\n"])
def test_a_vocabulary_that_is_none_is_refused(server, target, cache, vocabulary, source):
    _serve(server, _upstream(), vocabulary)
    with pytest.raises(ChecksumError, match=r"vocab"):
        source.fetch(target, cache=cache, mirror=None)


# From a mirror


def test_a_mirror_gives_the_same_bytes_without_any_request(server, target, cache, mirror, source):
    (mirror / "lama" / "notes.txt").write_text("not part of it")
    source.fetch(target, cache=cache, mirror=mirror)
    expected = _content(mirror / "lama")
    del expected["notes.txt"]
    assert _content(target) == expected
    assert server.asked == []
    assert not cache.exists()


def test_a_missing_file_of_the_mirror_is_named_with_the_layout(
    server, target, cache, mirror, source
):
    (mirror / "lama" / "P36" / "dev.jsonl").unlink()
    with pytest.raises(DownloadError, match="not in the mirror") as caught:
        source.fetch(target, cache=cache, mirror=mirror)
    assert str(mirror / "lama" / "P36" / "dev.jsonl") in str(caught.value)
    assert "<relation>/{train,dev,test}.jsonl" in str(caught.value)
    assert "data.mirror to null" in str(caught.value)
    assert server.asked == []
    assert list(target.iterdir()) == []


def test_a_file_with_another_digest_than_listed_is_named(server, target, cache, mirror, source):
    path = mirror / "lama" / "P36" / "dev.jsonl"
    path.write_bytes(path.read_bytes().replace(b"Bern", b"Berg"))
    with pytest.raises(ChecksumError, match="SHA256SUMS") as caught:
        source.fetch(target, cache=cache, mirror=mirror)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("listed", ["none", "others"])
def test_files_that_are_not_listed_are_still_counted(server, target, cache, mirror, listed, source):
    sums = mirror / "SHA256SUMS"
    if listed == "none":
        sums.unlink()
    else:
        lines = sums.read_text().splitlines(keepends=True)
        sums.write_text("".join(line for line in lines if "P36" not in line))
    path = mirror / "lama" / "P36" / "test.jsonl"
    path.write_text(path.read_text().splitlines(keepends=True)[0])
    with pytest.raises(ChecksumError, match="P36 has 1 test facts, expected 2") as caught:
        source.fetch(target, cache=cache, mirror=mirror)
    assert str(mirror / "lama") in str(caught.value)
    assert path.is_file()


@pytest.mark.parametrize("line", ["P19", "0123  lama/P19/dev.jsonl", "<html>"])
def test_a_list_of_digests_that_is_none_is_refused(server, target, cache, mirror, line, source):
    with (mirror / "SHA256SUMS").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(ChecksumError, match=r"SHA256SUMS:\d+: not a line"):
        source.fetch(target, cache=cache, mirror=mirror)


# The real data


@pytest.mark.parametrize(("name", "source"), [("lama", LAMA), ("geonames", GEONAMES)])
def test_a_name_in_params_chooses_the_source(name, source):
    assert lama_source(name, "facts") is source


def test_own_facts_are_written_in_lamas_format(tmp_path):
    path = tmp_path / "made.csv"
    path.write_text("subject,object,template\nLyon,New France,[X] is in [Y] .\n")
    source = lama_source("facts", str(path))
    target = tmp_path / "raw"
    target.mkdir()
    source.fetch(target, cache=tmp_path, mirror=None)
    assert read_relations(target / "relations.jsonl") == {
        "made": Relation("made", "[X] is in [Y] .", "made")
    }
    assert read_facts(target / "made" / "facts.jsonl") == [Fact("made", "Lyon", "New France")]
    found = source.probe(cache=tmp_path, mirror=None, seconds=1)
    assert found == f"{path}: 1 relations, 1 facts"


def test_the_table_has_lamas_41_relations_and_34039_facts():
    assert len(TEST_FACTS) == 41
    assert sum(TEST_FACTS.values()) == 34_039
    assert (LAMA.test_facts, LAMA.urls) == (TEST_FACTS, URLS)
    assert tuple(PROMPT_FILES) == PROMPT_COLLECTIONS
    assert all(url.startswith("https://") for url in URLS.values())


needs_mirror = pytest.mark.skipif(
    not (REAL_MIRROR / "lama").is_dir(), reason="no mirror at ../shared/mirror"
)


@needs_mirror
def test_the_real_mirror_is_taken_as_it_is(target, cache):
    LAMA.fetch(target, cache=cache, mirror=REAL_MIRROR)
    assert _content(target) == _content(REAL_MIRROR / "lama")
    relations = [record["relation"] for record in read_jsonl(target / "relations.jsonl")]
    assert relations == list(TEST_FACTS)
    facts = {relation: len(read_facts(target / relation / "test.jsonl")) for relation in relations}
    assert facts == TEST_FACTS
    assert sum(facts.values()) == 34_039


@needs_mirror
def test_the_real_data_in_upstreams_layout_becomes_the_same_folder(server, target, cache, source):
    """All of it, put back into the archives that it came from, its removed facts included."""
    real = _content(REAL_MIRROR / "lama")
    _serve(server, _laid_out_as_upstream(real), real["common_vocab_cased.txt"])
    source = replace(source, test_facts=TEST_FACTS)
    source.fetch(target, cache=cache, mirror=None)
    found = _content(target)
    assert set(found) == set(real)
    assert [name for name in real if found[name] != real[name]] == []


def _laid_out_as_upstream(real: Files) -> dict[str, Files]:
    def records(name: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in real[name].decode().split("\n") if line]

    upstream: dict[str, Files] = {part: {} for part in URLS if part != "vocabulary"}
    upstream["lama"]["data/relations.jsonl"] = real["relations.jsonl"]
    upstream["p-tuning"]["LAMA/29k-vocab.json"] = real["29k-vocab.json"]
    removed = records("removed_overlaps.jsonl")
    for relation in TEST_FACTS:
        upstream["lama"][f"data/TREx/{relation}.jsonl"] = real[f"{relation}/test.jsonl"]
        for split in ("train", "dev"):
            facts = records(f"{relation}/{split}.jsonl")
            for entry in removed:  # in the order of their lines
                record = entry["record"]
                if (entry["split"], record["predicate_id"]) == (split, relation):
                    facts.insert(entry["line"], record)
            name = f"LAMA/fact-retrieval/original/{relation}/{split}.jsonl"
            upstream["p-tuning"][name] = _lines(facts)
    for prompts, (part, path) in PROMPT_FILES.items():
        if "{relation}" not in path:
            upstream[part][f"top/{path}"] = real[f"prompts/{prompts}.jsonl"]
            continue
        for relation in TEST_FACTS:
            own = [r for r in records(f"prompts/{prompts}.jsonl") if r.pop("relation") == relation]
            if part == "pararel":
                own = [{"pattern": record.pop("template"), **record} for record in own]
            content = _lines(own)
            if path.endswith(".txt"):
                content = "".join(record["template"] + "\n" for record in own).encode()
            if own:
                upstream[part]["top/" + path.format(relation=relation)] = content
    return upstream
