"""GLUE's files and LM-BFF's splits of them, against a slow reading and LM-BFF's own checksums."""

import hashlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pipeline.data.build_superglue import build_superglue
from pipeline.data.glue import GLUE, GlueFiles, read_glue
from pipeline.data.splits import few_shot_splits
from pipeline.errors import DataError
from pipeline.tasks import get_task, task_names

MIRROR = Path(__file__).parents[4] / "shared" / "mirror" / "glue"
SEEDS = (13, 21, 42, 87, 100)
needs_mirror = pytest.mark.skipif(not MIRROR.is_dir(), reason="no mirror at ../shared/mirror")

# Task -> train and dev file, and the records that they represent.
MNLI_TRAIN = (
    "index\tpromptID\tpairID\tgenre\tsentence1_binary_parse\tsentence2_binary_parse\t"
    "sentence1_parse\tsentence2_parse\tsentence1\tsentence2\tlabel1\tgold_label\n"
    "0\t31\t31n\tfiction\t( a )\t( b )\t(A a)\t(B b)\tIt rains.\tIt is wet.\tneutral\tentailment\n"
)
MNLI_DEV = (
    "index\tpromptID\tpairID\tgenre\tsentence1_binary_parse\tsentence2_binary_parse\t"
    "sentence1_parse\tsentence2_parse\tsentence1\tsentence2\tlabel1\tlabel2\tlabel3\tlabel4\t"
    "label5\tgold_label\n"
    "0\t31\t31n\tfiction\t( a )\t( b )\t(A a)\t(B b)\tIt rains.\tIt is wet.\tneutral\tneutral\t"
    "neutral\tneutral\tneutral\tcontradiction\n"
)


def read(folder: Path, content: str | bytes, layout: GlueFiles) -> list[dict[str, Any]]:
    path = folder / "file.tsv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_glue(path, layout)


def test_every_task_has_a_layout_with_the_texts_that_it_reads() -> None:
    assert set(GLUE) <= set(task_names())
    for name, layout in GLUE.items():
        texts = [field for field in layout.columns if field != "label"]
        assert set(texts) <= set(get_task(name).fields)
        record = {**dict.fromkeys(texts, "Some text."), "idx": 0, "label": get_task(name).labels[0]}
        (example,) = get_task(name).examples(record)
        assert set(example.values) == set(get_task(name).fields)


def test_quotes_are_literal_and_a_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    content = (
        "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\n"
        '1\t1\t2\t" A , B said .\tThe " witness " .\n'
        '0\t3\t4\t"Open\tand never closed\n'
    )
    assert read(tmp_path, content, GLUE["mrpc"]) == [
        {"idx": 0, "sentence1": '" A , B said .', "sentence2": 'The " witness " .', "label": "1"},
        {"idx": 1, "sentence1": '"Open', "sentence2": "and never closed", "label": "0"},
    ]


def test_cola_has_no_header_and_its_label_in_the_second_column(tmp_path: Path) -> None:
    content = "gj04\t1\t\tThey drank.\ngj04\t0\t*\tThem drank."
    assert read(tmp_path, content, GLUE["cola"]) == [
        {"idx": 0, "sentence": "They drank.", "label": "1"},
        {"idx": 1, "sentence": "Them drank.", "label": "0"},
    ]


@pytest.mark.parametrize(
    ("content", "label"), [(MNLI_TRAIN, "entailment"), (MNLI_DEV, "contradiction")]
)
def test_the_label_of_mnli_is_the_gold_one_in_files_with_one_or_five_others(
    tmp_path: Path, content: str, label: str
) -> None:
    (record,) = read(tmp_path, content, GLUE["mnli"])
    assert record == {
        "idx": 0, "premise": "It rains.", "hypothesis": "It is wet.", "label": label,
    }  # fmt: skip


def test_lines_end_at_line_feeds_only(tmp_path: Path) -> None:
    content = "sentence\tlabel\r\na\u2028b\x85c\x0bd\t1\r\ne\rf \t0\r\n"
    assert read(tmp_path, content, GLUE["sst2"]) == [
        {"idx": 0, "sentence": "a\u2028b\x85c\x0bd", "label": "1"},
        {"idx": 1, "sentence": "e\rf ", "label": "0"},
    ]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("index\tsentence\n0\ta\n", "no column 'label', but index, sentence; it has to be an off"),
        ("sentence\tlabel\na\t1\nb\n", ":3: 1 columns instead of 2; fetch the file again"),
        ("sentence\tlabel\na\t1\n\nb\t1\n", ":3: 1 columns instead of 2"),
        ("sentence\tlabel\na\tb\t1\n", ":2: 3 columns instead of 2"),
        (b"sentence\tlabel\n\xff\t1\n", "not UTF-8 text"),
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, content: str | bytes, said: str) -> None:
    with pytest.raises(DataError) as caught:
        read(tmp_path, content, GLUE["sst2"])
    assert str(tmp_path / "file.tsv") in str(caught.value)
    assert said in str(caught.value)


def splits_of(
    raw: Path, task: str, *, per_class: int = 16, seeds: tuple[int, ...] = SEEDS, **more: Any
) -> dict[str, list[dict[str, Any]]]:
    limits = {"train_examples": None, "dev_examples": None, "test_examples": None}
    sizes = SimpleNamespace(per_class=per_class, seeds=seeds, held_out=0.1, **{**limits, **more})
    params = SimpleNamespace(source="glue", protocol="lm-bff", splits=sizes)
    return build_superglue(raw, get_task(task), params, seed=0)  # type: ignore[arg-type]


@pytest.mark.parametrize("line", ["b\t-1", "b\tpositive"])
def test_a_label_that_the_task_does_not_know_is_named_with_its_line(
    tmp_path: Path, line: str
) -> None:
    (tmp_path / "train.tsv").write_text(f"sentence\tlabel\na\t1\n{line}\n")
    with pytest.raises(DataError, match=r"train\.tsv:3: label '.*' is not one of '0', '1'"):
        splits_of(tmp_path, "sst2")


def test_a_label_with_too_few_examples_is_named(tmp_path: Path) -> None:
    rows = [f"{n}\t{int(n < 5)}" for n in range(20)]
    for name in ("train", "dev"):
        (tmp_path / f"{name}.tsv").write_text("\n".join(["sentence\tlabel", *rows]))
    with pytest.raises(DataError, match=r"per_class is 3, .* only 5 examples have the label 1"):
        splits_of(tmp_path, "sst2", per_class=3)
    found = splits_of(tmp_path, "sst2", per_class=2, seeds=(5,), test_examples=7)
    assert {name: len(records) for name, records in found.items()} == {
        "test": 7, "5/train": 4, "5/dev": 4,
    }  # fmt: skip


def lines_by_lm_bff(lines: list[str], label: Any, header: bool) -> dict[str, list[str]]:
    """The lines of each file, drawn one after the other as the script does, one seed at a time."""
    drawn = {}
    kept = lines
    for seed in (100, 13, 21, 42, 87):
        np.random.seed(seed)  # noqa: NPY002
        top, rows = (lines[:1], lines[1:]) if header else ([], kept)
        np.random.shuffle(rows)  # noqa: NPY002
        for name, start in (("train", 0), ("dev", 16)):
            seen: dict[str, int] = {}
            order: dict[str, list[str]] = {}
            for row in rows:
                seen[label(row)] = seen.get(label(row), 0) + 1
                if start < seen[label(row)] <= start + 16:
                    order.setdefault(label(row), []).append(row)
                else:
                    order.setdefault(label(row), [])
            drawn[f"{seed}/{name}"] = top + [row for own in order.values() for row in own]
    return drawn


LABELS = {
    "sst2": lambda line: line.strip().split("\t")[-1],
    "glue_rte": lambda line: line.strip().split("\t")[-1],
    "mrpc": lambda line: line.strip().split("\t")[0],
    "cola": lambda line: line.strip().split("\t")[1],
}
# MD5 of LM-BFF's files (princeton-nlp/LM-BFF, data/k-shot/checksum). Those of SST-2 are of other
# train files, those of MRPC of the file with all rows.
CHECKSUMS = {
    "cola": {
        "13/train": "8b3b16bdc7ccdf7c5e0397caf1ce61c1",
        "13/dev": "2a3b6875b91447043e5fc7366d6d6c59",
        "21/train": "9af338ce1d82a300b1d09e06da913454",
        "21/dev": "ad4bd1c5d1bbc9cb149cc10648ade05f",
        "42/train": "35870db90cf9b4044159d49cf4c4a620",
        "42/dev": "6f2b371c0fa209c253d49e20941d44c5",
        "87/train": "f0260a425124e254cef6c41e78c3b990",
        "87/dev": "30975efe3642c02d2afaf6fa6849b5b1",
        "100/train": "c02bce246a4481b2733522d82200d81e",
        "100/dev": "fda65a964d3ebeec632f8c45fac8209e",
        "test": "c5475ccefc9e7ca0917294b8bbda783c",
    },
    "glue_rte": {
        "13/train": "0aaae3483435626089adbc4ae851b75d",
        "13/dev": "8fc45ab58e72e16cf90547710f3b5d15",
        "21/train": "79490f931a776fad7f3b2ba31f9142d1",
        "21/dev": "96ac052f30101901e6bc04adb4875edb",
        "42/train": "4d45391333d2f56d16633d7b85d3e051",
        "42/dev": "a64069d0ca424995d35e05e67c03ceb9",
        "87/train": "46af88a12bc44c12a40ea2cb79e94837",
        "87/dev": "19ee5593b53d1b290737eb9de2ca4869",
        "100/train": "548d8775d98ca0638615b9e0bfbe5c32",
        "100/dev": "bc66584b1fa19f9620051e8db7bcc1dc",
        "test": "973cb4178d4534cf745a01c309d4a66c",
    },
    "mrpc": {"test": "185958e46ba556b38c6a7cc63f3a2135"},
    "sst2": {},
}


@needs_mirror
@pytest.mark.parametrize("task", LABELS)
def test_splits_of_the_real_files_are_those_of_lm_bff(task: str) -> None:
    layout = GLUE[task]
    text = (MIRROR / layout.folder / "train.tsv").read_text("utf-8")
    lines = [f"{line}\n" for line in text.removesuffix("\n").split("\n")]
    head = [] if layout.header else lines[:1]
    found = splits_of(MIRROR / layout.folder, task)
    own = {
        name: [*head, *(lines[len(head) + record["idx"]] for record in records)]
        for name, records in found.items()
        if name != "test"
    }
    for name, digest in CHECKSUMS[task].items():
        if name != "test":
            assert hashlib.md5("".join(own[name]).encode()).hexdigest() == digest, name
    assert own == lines_by_lm_bff(lines, LABELS[task], header=bool(head))
    dev = MIRROR / layout.folder / "dev.tsv"
    if "test" in CHECKSUMS[task]:
        assert hashlib.md5(dev.read_bytes()).hexdigest() == CHECKSUMS[task]["test"]
    assert found["test"] == read_glue(dev, layout)
    assert len(found["test"]) == layout.rows[1]
    for records in found.values():
        for record in records:
            (example,) = get_task(task).examples(record)
            assert example.label == record["label"]


def test_the_splits_of_a_seed_do_not_depend_on_the_other_seeds() -> None:
    items = list(range(40))
    for in_place in (False, True):
        together = few_shot_splits(
            items, label=lambda n: n % 2, per_class=3, seeds=[7, *SEEDS], in_place=in_place
        )
        for seed, split in together.items():
            alone = few_shot_splits(
                items, label=lambda n: n % 2, per_class=3, seeds=[seed], in_place=in_place
            )
            assert alone == {seed: split}
            assert not set(split["train"]) & set(split["dev"])
