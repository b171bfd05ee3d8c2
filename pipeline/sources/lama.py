"""LAMA's data as one folder, the same from a mirror and from the projects that published it.

- LAMA (Petroni et al. 2019): test facts, manual templates, common vocabulary.
- The release of P-tuning's authors: AutoPrompt's train and dev facts, the vocabulary of all models.
- LPAQA, AutoPrompt, OptiPrompt, ParaRel: published prompts.
"""

import operator
import shutil
import tempfile
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.data.lama import PROMPT_COLLECTIONS, SPLITS, TEST_FACTS, read_facts
from pipeline.errors import ChecksumError, DataError
from pipeline.files import read_json, read_jsonl, write_jsonl, write_text
from pipeline.sources.archives import extract_members
from pipeline.sources.base import SET_MIRROR, Source
from pipeline.sources.facts import OwnFacts
from pipeline.sources.geonames import GEONAMES
from pipeline.sources.http import download_to_cache, probe_hosts
from pipeline.sources.mirror import copy_from_mirror, probe_mirror

_GITHUB = "https://codeload.github.com"

# Digests are not pinned, as they are not published. The files are checked by their length, the
# checksums inside the archives, and `_check_lama`.
URLS: dict[str, str] = {
    "lama": "https://dl.fbaipublicfiles.com/LAMA/data.zip",
    "vocabulary": "https://dl.fbaipublicfiles.com/LAMA/common_vocab_cased.txt",
    "p-tuning": "https://zenodo.org/record/5578210/files/P-tune_LAMA.tar.gz",
    "lpaqa": f"{_GITHUB}/jzbjyb/LPAQA/tar.gz/3204221b47e66caa9bc3aebbcc4b2c2600dbaa1b",
    "autoprompt": f"{_GITHUB}/ucinlp/autoprompt/tar.gz/d637675999ad",
    "optiprompt": (
        f"{_GITHUB}/princeton-nlp/OptiPrompt/tar.gz/4e15a9df613022052021f78e661ade5e3d42aba0"
    ),
    "pararel": f"{_GITHUB}/yanaiela/pararel/tar.gz/cb5554678457beb5ac163d888f1ce8cf174b3f0b",
}

# Collection of prompts -> part, and its file there: one for all relations, or one for each.
PROMPT_FILES: dict[str, tuple[str, str]] = {
    "lpaqa_mine": ("lpaqa", "prompt/mine/{relation}.jsonl"),
    "lpaqa_paraphrase": ("lpaqa", "prompt/paraphrase/{relation}.jsonl"),
    "lpaqa_manual_paraphrase": ("lpaqa", "prompt/manual_paraphrase/{relation}.txt"),
    "lpaqa_top1": ("optiprompt", "relation_metainfo/LPAQA_relations.jsonl"),
    "autoprompt_bert": ("autoprompt", "prompts/fact_retrieval_bert_prompts.jsonl"),
    "autoprompt_roberta": ("autoprompt", "prompts/fact_retrieval_roberta_prompts.jsonl"),
    "autoprompt_relext_bert": ("autoprompt", "prompts/relation_extraction_bert_prompts.jsonl"),
    "autoprompt_relext_roberta": (
        "autoprompt", "prompts/relation_extraction_roberta_prompts.jsonl",
    ),
    "pararel_patterns": ("pararel", "data/pattern_data/graphs_json/{relation}.jsonl"),
}  # fmt: skip

# ParaRel has patterns for 39 of the relations.
_INCOMPLETE = ("pararel",)

_SINGLE_FILES = (
    "relations.jsonl", "common_vocab_cased.txt", "29k-vocab.json", "removed_overlaps.jsonl",
)  # fmt: skip
_LAYOUT = f"{', '.join(_SINGLE_FILES)}, <relation>/{{train,dev,test}}.jsonl and prompts/*.jsonl"

_RELATIONS = "data/relations.jsonl"
_SHARED = "29k-vocab.json"
_TEST = "TREx/{relation}.jsonl"
_SPLIT = "fact-retrieval/original/{relation}/{split}.jsonl"
_FACT_KEYS = ("uuid", "sub_uri", "obj_uri", "sub_label", "obj_label", "predicate_id")

Record = dict[str, Any]


@dataclass(frozen=True)
class LamaSource:
    """LAMA's T-REx facts with AutoPrompt's split, vocabularies, and prompts; see `Source`.

    Attributes:
        urls: part -> address; the keys of `URLS`.
        test_facts: relation -> number of its test facts.
    """

    urls: Mapping[str, str]
    test_facts: Mapping[str, int]
    license: str
    name: str = "lama"

    def fetch(self, target: Path, *, cache: Path, mirror: Path | None) -> None:
        """Write the folder that `_LAYOUT` describes."""
        fetched: dict[str, Path] = {}
        if mirror is not None:
            files = [
                *_SINGLE_FILES,
                *(f"{relation}/{split}.jsonl" for relation in self.test_facts for split in SPLITS),
                *(f"prompts/{name}.jsonl" for name in PROMPT_COLLECTIONS),
            ]
            copy_from_mirror(mirror, "lama", files, target, layout=_LAYOUT)
            advice = f"It comes from {mirror / 'lama'}: copy it there again"
        else:
            for part, url in self.urls.items():
                fetched[part] = download_to_cache(url, cache / "lama" / part)
            advice = (
                "The downloads are deleted. Run again, and if it repeats, "
                f"{SET_MIRROR}, lama/: {_LAYOUT}"
            )
        try:
            if fetched:
                _assemble(fetched, target, self.test_facts)
            _check_lama(target, self.test_facts)
        except DataError as error:
            # It may not be known which of them is wrong, and a wrong one would be kept forever.
            for path in fetched.values():
                path.unlink(missing_ok=True)
            raise type(error)(f"{error}\n{advice}") from error

    def probe(self, *, cache: Path, mirror: Path | None, seconds: float) -> str:  # noqa: ARG002
        """Check the mirror, or ask each host."""
        return probe_mirror(self, mirror) if mirror else probe_hosts(self.urls.values(), seconds)


LAMA = LamaSource(
    urls=URLS,
    test_facts=TEST_FACTS,
    license=(
        "CC BY-NC 4.0, LAMA; prompts: MIT, OptiPrompt and ParaRel, Apache-2.0, AutoPrompt, "
        "none stated, LPAQA"
    ),
)


def lama_source(name: str, facts: str) -> Source:
    """The raw data of `lama.source` in params.yaml: `lama`, `geonames`, or those at `facts`."""
    sources: dict[str, Source] = {"lama": LAMA, "geonames": GEONAMES}
    return sources.get(name) or OwnFacts(Path(facts))


def _assemble(fetched: Mapping[str, Path], target: Path, relations: Collection[str]) -> None:
    with tempfile.TemporaryDirectory(dir=target, prefix=".unpacked-") as folder:
        unpacked = Path(folder)
        for part, paths in _used_files(relations).items():
            extract_members(fetched[part], unpacked / part, paths, incomplete=part in _INCOMPLETE)
        listed = unpacked / "lama" / _RELATIONS
        lines = zip(_read_lines(listed), read_jsonl(listed, ["relation"]), strict=True)
        chosen = [f"{line}\n" for line, record in lines if record["relation"] in relations]
        write_text(target / "relations.jsonl", "".join(chosen))
        shutil.copyfile(fetched["vocabulary"], target / "common_vocab_cased.txt")
        shutil.copyfile(unpacked / "p-tuning" / _SHARED, target / "29k-vocab.json")
        removed: list[Record] = []
        for relation in sorted(relations):
            removed += _write_facts(relation, unpacked, target)
        write_jsonl(target / "removed_overlaps.jsonl", removed)
        for name, (part, path) in PROMPT_FILES.items():
            prompts = _read_prompts(unpacked / part, path, relations)
            write_jsonl(target / "prompts" / f"{name}.jsonl", prompts)


def _used_files(relations: Iterable[str]) -> dict[str, set[str]]:
    """Part -> paths used from its archive, without the folders around them."""
    used = {"lama": {_RELATIONS}, "p-tuning": {_SHARED}}
    for relation in relations:
        used["lama"].add(_TEST.format(relation=relation))
        for split in ("train", "dev"):
            used["p-tuning"].add(_SPLIT.format(relation=relation, split=split))
        for part, path in PROMPT_FILES.values():
            used.setdefault(part, set()).add(path.format(relation=relation))
    return used


def _write_facts(relation: str, unpacked: Path, target: Path) -> list[Record]:
    """Write a relation's three splits, disjoint by their pairs of labels.

    Returns the facts left out of train and dev, each with its split, its line in AutoPrompt's file
    counted from 0, and the reason.
    """
    facts = {"test": _read_facts(unpacked / "lama" / _TEST.format(relation=relation), relation)}
    for split in ("dev", "train"):
        path = unpacked / "p-tuning" / _SPLIT.format(relation=relation, split=split)
        facts[split] = _read_facts(path, relation)
    pair = operator.itemgetter("sub_label", "obj_label")
    pairs = {split: set(map(pair, records)) for split, records in facts.items()}
    removed: list[Record] = []
    for split, others in (("train", ("test", "dev")), ("dev", ("test",)), ("test", ())):
        disjoint = []
        for line, fact in enumerate(facts[split]):
            other = next((other for other in others if pair(fact) in pairs[other]), None)
            if other is None:
                disjoint.append(fact)
            else:
                reason = f"in {other}"
                removed.append({"split": split, "line": line, "reason": reason, "record": fact})
        write_jsonl(target / relation / f"{split}.jsonl", disjoint)
    return removed


def _read_facts(path: Path, relation: str) -> list[Record]:
    """Read facts without the sentences that they come from."""
    records = read_jsonl(path, ["sub_label", "obj_label"])
    for record in records:
        record.setdefault("predicate_id", relation)
    return [{key: r[key] for key in _FACT_KEYS if r.get(key) is not None} for r in records]


def _read_prompts(folder: Path, path: str, relations: Collection[str]) -> list[Record]:
    """Read a project's prompts as relation, template and the project's other fields."""
    if "{relation}" not in path:
        records = read_jsonl(folder / path, ["relation", "template"])
        return [record for record in records if record["relation"] in relations]
    prompts: list[Record] = []
    for relation in relations:
        file = folder / path.format(relation=relation)
        if file.suffix == ".txt":
            prompts += [{"relation": relation, "template": line} for line in _read_lines(file)]
        elif file.is_file():
            for record in read_jsonl(file):
                template = record.pop("pattern", None) or record.pop("template", None)
                prompts.append({"relation": relation, "template": template, **record})
    return prompts


def _read_lines(path: Path) -> list[str]:
    """Read the lines of a text file that are not blank."""
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise ChecksumError(f"{path.name}: not UTF-8 text ({error})") from error
    return [line for line in lines if line.strip()]


def _check_lama(folder: Path, test_facts: Mapping[str, int]) -> None:
    """Check the content of a folder of `_LAYOUT`, from a mirror or from the network."""
    records = read_jsonl(folder / "relations.jsonl", ["relation", "template", "label"])
    if sorted(record["relation"] for record in records) != sorted(test_facts):
        raise ChecksumError(f"relations.jsonl: not the {len(test_facts)} relations of LAMA")
    for relation, expected in test_facts.items():
        for split in SPLITS:
            name = f"{relation}/{split}.jsonl"
            facts = read_facts(folder / name)
            if split == "test" and len(facts) != expected:
                raise ChecksumError(
                    f"{name}: {relation} has {len(facts)} test facts, expected {expected}"
                )
            if not facts or any(fact.predicate_id != relation for fact in facts):
                raise ChecksumError(f"{name}: not only facts of {relation}")
    for collection in PROMPT_COLLECTIONS:
        name = f"prompts/{collection}.jsonl"
        for record in read_jsonl(folder / name, ["relation", "template"]):
            if not all(slot in str(record["template"]) for slot in ("[X]", "[Y]")):
                raise ChecksumError(f"{name}: template {record['template']!r} has no [X] or [Y]")
    words = _read_lines(folder / "common_vocab_cased.txt")
    # An error page of a server has lines with spaces.
    if not words or any(word.split() != [word] for word in words):
        raise ChecksumError("common_vocab_cased.txt: not a list of words, one a line")
    vocabularies = read_json(folder / "29k-vocab.json")
    if not isinstance(vocabularies, dict) or not all(
        isinstance(words, list) and words for words in vocabularies.values()
    ):
        raise ChecksumError("29k-vocab.json: not a list of words for each model")
