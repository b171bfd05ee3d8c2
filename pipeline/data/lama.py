"""LAMA's own format: facts of relations, one JSON object a line.

Source: facebookresearch/LAMA (`relations.jsonl`, `TREx/<relation>.jsonl`) and the split of
AutoPrompt that P-tuning uses (`<relation>/{train,dev,test}.jsonl`).
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import DataError
from pipeline.files import read_jsonl, write_jsonl, write_text

SPLITS = ("train", "dev", "test")


@dataclass(frozen=True)
class Fact:
    """A subject and the object that completes the relation; names as in LAMA's files."""

    predicate_id: str
    sub_label: str
    obj_label: str
    sub_uri: str | None = None
    obj_uri: str | None = None
    uuid: str | None = None


@dataclass(frozen=True)
class Relation:
    """A relation with its manual template, in which [X] is the subject and [Y] the object."""

    relation: str
    template: str
    label: str


@dataclass(frozen=True)
class LamaSplits:
    """The facts of the chosen relations, and the words that may be answered.

    Attributes:
        relations: relation id -> relation, in the order of `params.yaml`.
        facts: relation id -> split name -> facts.
        vocabulary: the allowed answers of every relation, sorted, without repeats.
    """

    relations: dict[str, Relation]
    facts: dict[str, dict[str, list[Fact]]]
    vocabulary: list[str]


def write_lama(folder: Path, splits: LamaSplits) -> None:
    """Write `relations.jsonl`, `vocabulary.txt` and `<relation>/{train,dev,test}.jsonl`."""
    write_jsonl(folder / "relations.jsonl", map(asdict, splits.relations.values()))
    write_text(folder / "vocabulary.txt", "".join(word + "\n" for word in splits.vocabulary))
    for relation, facts in splits.facts.items():
        for split in SPLITS:
            write_jsonl(folder / relation / f"{split}.jsonl", map(_as_record, facts[split]))


def read_lama(folder: Path, split_names: Sequence[str] = SPLITS) -> LamaSplits:
    """Read what `write_lama` wrote; only the splits that are named.

    Raises:
        DataError: a file is missing, cut, or lacks a key.
    """
    relations = {
        record["relation"]: Relation(record["relation"], record["template"], record["label"])
        for record in read_jsonl(folder / "relations.jsonl", ["relation", "template", "label"])
    }
    try:
        vocabulary = (folder / "vocabulary.txt").read_text(encoding="utf-8").splitlines()
    except FileNotFoundError as error:
        raise DataError(f"{folder}/vocabulary.txt: no such file; `dvc repro` makes it") from error
    facts = {
        relation: {split: read_facts(folder / relation / f"{split}.jsonl") for split in split_names}
        for relation in relations
    }
    return LamaSplits(relations, facts, vocabulary)


def read_facts(path: Path) -> list[Fact]:
    """Read facts; keys beyond LAMA's labels and uris are ignored.

    Raises:
        DataError: the file is missing, a line is cut, or a label is missing or empty.
    """
    known = Fact.__dataclass_fields__
    facts = []
    records = read_jsonl(path, ["predicate_id", "sub_label", "obj_label"])
    for number, record in enumerate(records, 1):
        for key in ("sub_label", "obj_label"):
            if not isinstance(record[key], str) or not record[key].strip():
                raise DataError(f"{path}: fact {number}: {key} is {record[key]!r}, not a name")
        facts.append(Fact(**{key: value for key, value in record.items() if key in known}))
    return facts


def _as_record(fact: Fact) -> dict[str, Any]:
    return {key: value for key, value in asdict(fact).items() if value is not None}
