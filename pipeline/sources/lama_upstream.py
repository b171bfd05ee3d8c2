"""LAMA's data out of the archives that its parts were published in.

- LAMA (Petroni et al. 2019): test facts, manual templates, common vocabulary.
- The release of P-tuning's authors: AutoPrompt's train and dev facts, the vocabulary of all models.
- LPAQA, AutoPrompt, OptiPrompt, ParaRel: prompts that others found.
"""

import shutil
import tempfile
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from pipeline.errors import ChecksumError
from pipeline.files import read_jsonl, write_jsonl, write_text
from pipeline.sources.archives import extract_members

_GITHUB = "https://codeload.github.com"

# Their digests are not pinned: nobody here has seen these files as the addresses serve them.
# What vouches for them is their length, the checksums inside the archives, and `check_lama`.
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

# Name in prompts/ -> part, and its file there: one for all relations, or one for each.
PROMPTS: dict[str, tuple[str, str]] = {
    "lpaqa_mine": ("lpaqa", "prompt/mine/{relation}.jsonl"),
    "lpaqa_paraphrase": ("lpaqa", "prompt/paraphrase/{relation}.jsonl"),
    "lpaqa_manual_paraphrase": ("lpaqa", "prompt/manual_paraphrase/{relation}.txt"),
    "lpaqa_top1": ("optiprompt", "relation_metainfo/LPAQA_relations.jsonl"),
    "autoprompt_bert": ("autoprompt", "prompts/fact_retrieval_bert_prompts.jsonl"),
    "autoprompt_roberta": ("autoprompt", "prompts/fact_retrieval_roberta_prompts.jsonl"),
    "autoprompt_relext_bert": ("autoprompt", "prompts/relation_extraction_bert_prompts.jsonl"),
    "autoprompt_relext_roberta": (
        "autoprompt",
        "prompts/relation_extraction_roberta_prompts.jsonl",
    ),
    "pararel_patterns": ("pararel", "data/pattern_data/graphs_json/{relation}.jsonl"),
}

# ParaRel has patterns for 39 of the relations.
_INCOMPLETE = ("pararel",)

_RELATIONS = "data/relations.jsonl"
_SHARED = "29k-vocab.json"
_TEST = "TREx/{relation}.jsonl"
_SPLIT = "fact-retrieval/original/{relation}/{split}.jsonl"
_FACT_KEYS = ("uuid", "sub_uri", "obj_uri", "sub_label", "obj_label", "predicate_id")

Record = dict[str, Any]


def assemble_lama(fetched: Mapping[str, Path], target: Path, relations: Collection[str]) -> None:
    """Write the folder that `lama_sources.LAYOUT` describes.

    Args:
        fetched: part -> the file that was behind its address in `URLS`.
        target: an existing folder.
        relations: the relations to take, in the order in which their prompts are written.

    Raises:
        ChecksumError: an archive is damaged or lacks a file.
        DataError: a line is cut, or lacks a key.
    """
    with tempfile.TemporaryDirectory(dir=target, prefix=".unpacked-") as folder:
        unpacked = Path(folder)
        for part, wanted in _used_files(relations).items():
            (unpacked / part).mkdir()
            _unpack(part, fetched[part], unpacked / part, wanted)
        _write_relations(unpacked / "lama" / _RELATIONS, target, relations)
        shutil.copyfile(fetched["vocabulary"], target / "common_vocab_cased.txt")
        shutil.copyfile(unpacked / "p-tuning" / _SHARED, target / "29k-vocab.json")
        removed: list[Record] = []
        for relation in sorted(relations):
            removed += _write_facts(relation, unpacked, target)
        write_jsonl(target / "removed_overlaps.jsonl", removed)
        for name, (part, path) in PROMPTS.items():
            prompts = _read_prompts(unpacked / part, path, relations)
            write_jsonl(target / "prompts" / f"{name}.jsonl", prompts)


def _unpack(part: str, archive: Path, folder: Path, wanted: set[str]) -> None:
    found = extract_members(archive, folder, _by_ending(wanted))
    missing = sorted(wanted - set(found))
    if not found or (missing and part not in _INCOMPLETE):
        raise ChecksumError(f"{archive}: no {missing[0]} in this archive of {part}")


def _used_files(relations: Iterable[str]) -> dict[str, set[str]]:
    """Return part -> paths that are used of its archive, without the folders around them."""
    used: dict[str, set[str]] = {
        "lama": {_RELATIONS},
        "p-tuning": {_SHARED},
    }
    for relation in relations:
        used["lama"].add(_TEST.format(relation=relation))
        for split in ("train", "dev"):
            used["p-tuning"].add(_SPLIT.format(relation=relation, split=split))
        for part, path in PROMPTS.values():
            used.setdefault(part, set()).add(path.format(relation=relation))
    return used


def _by_ending(wanted: set[str]) -> Callable[[str], str | None]:
    """Return what tells which of the paths a member's name ends with, if any."""

    def choose(name: str) -> str | None:
        parts = name.split("/")
        endings = ("/".join(parts[start:]) for start in range(len(parts)))
        return next((ending for ending in endings if ending in wanted), None)

    return choose


def _write_relations(path: Path, target: Path, relations: Collection[str]) -> None:
    """Write the lines of the chosen relations as they are."""
    records = read_jsonl(path, ["relation"])
    chosen = [
        f"{line}\n"
        for line, record in zip(read_lines(path), records, strict=True)
        if record["relation"] in relations
    ]
    write_text(target / "relations.jsonl", "".join(chosen))


def _write_facts(relation: str, unpacked: Path, target: Path) -> list[Record]:
    """Write a relation's three splits, disjoint by their pairs of labels.

    Returns:
        What was left out of train and dev, each with its split, its line in AutoPrompt's file
        counted from 0, and the reason.
    """
    facts = {"test": _read_facts(unpacked / "lama" / _TEST.format(relation=relation), relation)}
    for split in ("dev", "train"):
        path = unpacked / "p-tuning" / _SPLIT.format(relation=relation, split=split)
        facts[split] = _read_facts(path, relation)
    pairs = {split: set(map(_pair, records)) for split, records in facts.items()}
    removed: list[Record] = []
    for split, others in (("train", ("test", "dev")), ("dev", ("test",)), ("test", ())):
        kept = []
        for line, fact in enumerate(facts[split]):
            other = next((other for other in others if _pair(fact) in pairs[other]), None)
            if other is None:
                kept.append(fact)
            else:
                reason = f"in {other}"
                removed.append({"split": split, "line": line, "reason": reason, "record": fact})
        write_jsonl(target / relation / f"{split}.jsonl", kept)
    return removed


def _pair(fact: Record) -> tuple[str, str]:
    return fact["sub_label"], fact["obj_label"]


def _read_facts(path: Path, relation: str) -> list[Record]:
    """Read facts without the sentences that they were found in."""
    records = read_jsonl(path, ["sub_label", "obj_label"])
    for record in records:
        record.setdefault("predicate_id", relation)
    return [{key: r[key] for key in _FACT_KEYS if r.get(key) is not None} for r in records]


def _read_prompts(folder: Path, path: str, relations: Collection[str]) -> list[Record]:
    """Read a project's prompts as relation, template and what else it tells of them."""
    if "{relation}" not in path:
        records = read_jsonl(folder / path, ["relation", "template"])
        return [record for record in records if record["relation"] in relations]
    prompts: list[Record] = []
    for relation in relations:
        file = folder / path.format(relation=relation)
        if file.suffix == ".txt":
            prompts += [{"relation": relation, "template": line} for line in read_lines(file)]
        elif file.is_file():
            for record in read_jsonl(file):
                template = record.pop("pattern", None) or record.pop("template", None)
                prompts.append({"relation": relation, "template": template, **record})
    return prompts


def read_lines(path: Path) -> list[str]:
    """Read the lines of a text that are not blank.

    Raises:
        ChecksumError: it is no text.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise ChecksumError(f"{path.name}: not UTF-8 text ({error})") from error
    return [line for line in lines if line.strip()]
