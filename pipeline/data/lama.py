"""LAMA's format: facts of relations, one JSON object per line.

Source: facebookresearch/LAMA (`relations.jsonl`, `TREx/<relation>.jsonl`) and the split of
AutoPrompt that P-tuning uses (`<relation>/{train,dev,test}.jsonl`).

All readers raise `DataError` if a file is missing, damaged, or lacks a key.
"""

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from pipeline.errors import DataError
from pipeline.files import (
    read_json,
    read_jsonl,
    read_lines,
    read_object,
    write_json,
    write_jsonl,
    write_text,
)

SPLITS = ("train", "dev", "test")

# The 41 relations of LAMA's T-REx, in the order of its relations.jsonl, and the number of their
# test facts, 34,039 in all, as in the paper. The other 5 lines of relations.jsonl have no data.
TEST_FACTS: dict[str, int] = {
    "P19": 944, "P20": 953, "P279": 964, "P37": 966, "P413": 952, "P449": 881, "P47": 922,
    "P138": 645, "P364": 856, "P463": 225, "P101": 696, "P106": 958, "P527": 976, "P530": 996,
    "P176": 982, "P27": 966, "P407": 877, "P30": 975, "P178": 592, "P1376": 234, "P131": 881,
    "P1412": 969, "P108": 383, "P136": 931, "P17": 930, "P39": 892, "P264": 429, "P276": 959,
    "P937": 954, "P140": 473, "P1303": 949, "P127": 687, "P103": 977, "P190": 995, "P1001": 701,
    "P31": 922, "P495": 909, "P159": 967, "P36": 703, "P740": 936, "P361": 932,
}  # fmt: skip

# The collections of published templates that come with LAMA: files of its folder prompts/.
PROMPT_COLLECTIONS = (
    "lpaqa_mine", "lpaqa_paraphrase", "lpaqa_manual_paraphrase", "lpaqa_top1", "autoprompt_bert",
    "autoprompt_roberta", "autoprompt_relext_bert", "autoprompt_relext_roberta",
    "pararel_patterns",
)  # fmt: skip

# Collection -> relation -> manual templates; these are in the paper itself (Table 1).
PAPER_PROMPTS = {
    "table-1": {
        "P17": [
            "[X] is located in [Y].",
            "[X] is located in which country or state? [Y].",
            "[X] is located in which country? [Y].",
            "[X] is located in which country? In [Y].",
        ]
    }
}

# The value of `search.prompts` that is not a collection.
GRADIENT = "gradient"

# The value of `relations` that is not a list; and of `objects`, if those of several tokens stay in.
ALL = "all"

# The file of `LamaSplits.objects`, and that of a relation's facts before they are split.
OBJECTS = "objects.json"
FACTS = "facts.jsonl"


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
    """The facts of the chosen relations, and the allowed answers.

    Attributes:
        relations: relation id -> relation, in the order of `params.yaml`.
        facts: relation id -> split name -> facts.
        vocabulary: the allowed answers of every relation, without duplicates.
        prompts: collection of published templates -> relation id -> templates.
        objects: with `lama.objects: all`, relation id -> all its objects in the data, which compete
            in place of the vocabulary; else empty.
    """

    relations: dict[str, Relation]
    facts: dict[str, dict[str, list[Fact]]]
    vocabulary: list[str]
    prompts: dict[str, dict[str, list[str]]]
    objects: dict[str, list[str]] = field(default_factory=dict)


def write_lama(folder: Path, splits: LamaSplits) -> None:
    """Write `relations.jsonl`, `vocabulary.txt`, `prompts.json` and the facts of each split.

    `objects.json` is written if there are objects.
    """
    write_jsonl(folder / "relations.jsonl", map(asdict, splits.relations.values()))
    write_text(folder / "vocabulary.txt", "".join(word + "\n" for word in splits.vocabulary))
    write_json(folder / "prompts.json", splits.prompts)
    if splits.objects:
        write_json(folder / OBJECTS, splits.objects)
    for relation, facts in splits.facts.items():
        for split in SPLITS:
            records = map(asdict, facts[split])
            present = ({key: v for key, v in r.items() if v is not None} for r in records)
            write_jsonl(folder / relation / f"{split}.jsonl", present)


def read_lama(folder: Path, split_names: Sequence[str] = SPLITS) -> LamaSplits:
    """Read the files of `write_lama`, with the named splits only.

    Raises:
        DataError: a file is missing or damaged, or the vocabulary has no word.
    """
    relations = read_relations(folder / "relations.jsonl")
    words = folder / "vocabulary.txt"
    vocabulary = [line for line in read_lines(words) if line]
    if not vocabulary:
        raise DataError(f"{words}: has no word; delete {folder} and run `dvc repro`")
    facts = {
        relation: {split: read_facts(folder / relation / f"{split}.jsonl") for split in split_names}
        for relation in relations
    }
    prompts = read_object(folder / "prompts.json")
    objects = read_object(folder / OBJECTS) if (folder / OBJECTS).exists() else {}
    return LamaSplits(relations, facts, vocabulary, prompts, objects)


def read_vocabulary(raw: Path, subset: str) -> list[str]:
    """The allowed answers in LAMA's raw folder.

    Args:
        raw: folder of the source `lama`.
        subset: `34k`: LAMA's common vocabulary, 21,018 words; `29k`: the P-tuning release's, 18,154
            words that are one token of BERT, RoBERTa and GPT-2.
    """
    if subset == "34k":
        return [line for line in read_lines(raw / "common_vocab_cased.txt") if line]
    path = raw / "29k-vocab.json"
    lists = read_json(path)
    words = lists.get("bert-base-cased") if isinstance(lists, dict) else None
    if not isinstance(words, list) or not words:
        raise DataError(f"{path}: no list of words under bert-base-cased; fetch the file again")
    return words


def read_removed_overlaps(raw: Path) -> Counter[tuple[str, str]]:
    """(relation, split) -> number of facts that the source removed because splits overlapped."""
    path = raw / "removed_overlaps.jsonl"
    if not path.exists():
        return Counter()
    records = read_jsonl(path, ["split", "record"])
    return Counter((record["record"]["predicate_id"], record["split"]) for record in records)


def read_prompts(raw: Path, relations: Collection[str]) -> dict[str, dict[str, list[str]]]:
    """Published templates of some relations: collection -> relation -> templates.

    Templates without subject or object and duplicates are skipped. Braces, which some searched
    prompts contain, are doubled, as the template language requires.
    """
    prompts: dict[str, dict[str, list[str]]] = {}
    for path in sorted((raw / "prompts").glob("*.jsonl")):
        collection = prompts.setdefault(path.stem, {})
        for record in read_jsonl(path, ["relation", "template"]):
            relation = record["relation"]
            template = record["template"].replace("{", "{{").replace("}", "}}")
            complete = template.count("[X]") == 1 and template.count("[Y]") == 1
            if relation in relations:
                templates = collection.setdefault(relation, [])
                if complete and template not in templates:
                    templates.append(template)
    return prompts


def read_relations(path: Path) -> dict[str, Relation]:
    """Read relations with their manual templates, by id, in the order of the file."""
    return {
        record["relation"]: Relation(record["relation"], record["template"], record["label"])
        for record in read_jsonl(path, ["relation", "template", "label"])
    }


def read_facts(path: Path) -> list[Fact]:
    """Read facts; keys other than those of `Fact` are ignored."""
    keys = Fact.__dataclass_fields__
    facts = []
    records = read_jsonl(path, ["predicate_id", "sub_label", "obj_label"])
    for number, record in enumerate(records, 1):
        for key in ("sub_label", "obj_label"):
            if not isinstance(record[key], str) or not record[key].strip():
                raise DataError(f"{path}: fact {number}: {key} is {record[key]!r}, not a name")
        facts.append(Fact(**{key: value for key, value in record.items() if key in keys}))
    return facts
