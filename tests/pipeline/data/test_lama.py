import json
from pathlib import Path

import pytest

from pipeline.data.lama import (
    PAPER_PROMPTS,
    Fact,
    LamaSplits,
    Relation,
    read_facts,
    read_lama,
    read_prompts,
    read_relations,
    read_removed_overlaps,
    read_vocabulary,
    write_lama,
)
from pipeline.errors import DataError
from pipeline.files import read_jsonl, write_json, write_jsonl
from pipeline.prompts.template import Text
from pipeline.tasks.lama import manual_template


@pytest.fixture
def splits() -> LamaSplits:
    return LamaSplits(
        relations={
            "P47": Relation("P47", "[X] shares border with [Y] .", "shares border with"),
            "P17": Relation("P17", "[X] is located in [Y] .", "country"),
        },
        facts={
            "P47": {
                "train": [Fact("P47", "Chad", "Niger"), Fact("P47", "Niger", "Chad")],
                "dev": [Fact("P47", "Peru", "Chile")],
                "test": [],
            },
            "P17": {
                "train": [Fact("P17", "Zürich", "Switzerland", "Q72", "Q39", "u-1")],
                "dev": [],
                "test": [Fact("P17", "L'Hay-les-Roses", "France")],
            },
        },
        vocabulary=["Chad", "Chile", "France", "Niger", "Switzerland", "Österreich"],
        prompts={"mine": {"P47": ["[X], [Y]", "[Y] é [X]"], "P17": []}, "none": {}},
    )


def test_splits_come_back_as_they_were_written(tmp_path, splits):
    write_lama(tmp_path, splits)
    again = read_lama(tmp_path)
    assert again == splits
    assert list(again.relations) == ["P47", "P17"]


def test_files_have_the_names_and_keys_of_lama(tmp_path, splits):
    write_lama(tmp_path, splits)
    lines = (tmp_path / "P17" / "train.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [
        {
            "predicate_id": "P17",
            "sub_label": "Zürich",
            "obj_label": "Switzerland",
            "sub_uri": "Q72",
            "obj_uri": "Q39",
            "uuid": "u-1",
        }
    ]
    assert json.loads((tmp_path / "P17" / "test.jsonl").read_text()) == {
        "predicate_id": "P17",
        "sub_label": "L'Hay-les-Roses",
        "obj_label": "France",
    }
    assert json.loads((tmp_path / "relations.jsonl").read_text().splitlines()[0]) == {
        "relation": "P47",
        "template": "[X] shares border with [Y] .",
        "label": "shares border with",
    }


def test_a_split_that_is_not_asked_for_is_not_read(tmp_path, splits):
    write_lama(tmp_path, splits)
    for relation in splits.relations:
        (tmp_path / relation / "test.jsonl").write_text("not for training")
    read = read_lama(tmp_path, ["train", "dev"])
    assert read.facts["P47"] == {s: splits.facts["P47"][s] for s in ("train", "dev")}
    with pytest.raises(DataError):
        read_lama(tmp_path)


@pytest.mark.parametrize(
    "lost", ["relations.jsonl", "vocabulary.txt", "prompts.json", "P17/dev.jsonl"]
)
def test_a_lost_file_is_named(tmp_path, splits, lost):
    write_lama(tmp_path, splits)
    (tmp_path / lost).unlink()
    with pytest.raises(DataError, match="no such file") as caught:
        read_lama(tmp_path)
    assert str(tmp_path / lost) in str(caught.value)


def test_a_vocabulary_without_a_word_is_named(tmp_path: Path, splits: LamaSplits) -> None:
    write_lama(tmp_path, splits)
    (tmp_path / "vocabulary.txt").write_text("\n")
    with pytest.raises(DataError, match=r"vocabulary.txt: has no word; delete .* `dvc repro`"):
        read_lama(tmp_path)


def test_keys_that_only_lama_itself_uses_are_ignored(tmp_path):
    record = {"predicate_id": "P17", "sub_label": "Lyon", "obj_label": "France", "sub_aliases": []}
    (tmp_path / "train.jsonl").write_text(json.dumps(record) + "\n")
    assert read_facts(tmp_path / "train.jsonl") == [Fact("P17", "Lyon", "France")]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"predicate_id": "P17", "sub_label": "Lyon"}', ":2: no obj_label"),
        ('{"predicate_id": "P17", "sub_label": "Lyon", "obj_', ":2: not JSON"),
        ('{"predicate_id": "P17", "sub_label": "", "obj_label": "x"}', "fact 2: sub_label is ''"),
        ('{"predicate_id": "P17", "sub_label": "x", "obj_label": " "}', "fact 2: obj_label is ' '"),
        ('{"predicate_id": "P17", "sub_label": 3, "obj_label": "x"}', "fact 2: sub_label is 3"),
        (
            '{"predicate_id": "P17", "sub_label": "x", "obj_label": null}',
            "fact 2: obj_label is None",
        ),
    ],
)
def test_a_bad_fact_is_named_with_its_place(tmp_path, line, said):
    good = '{"predicate_id": "P17", "sub_label": "Lyon", "obj_label": "France"}\n'
    path = tmp_path / "train.jsonl"
    path.write_text(good + line + "\n" + good)
    with pytest.raises(DataError) as caught:
        read_facts(path)
    assert str(caught.value).startswith(str(path))
    assert said in str(caught.value)


def test_relations_come_in_the_order_of_their_file(tmp_path):
    path = tmp_path / "relations.jsonl"
    records = [
        {"relation": "P9", "template": "[X] [Y]", "label": "nine", "type": "N-1"},
        {"relation": "P1", "template": "[Y] [X]", "label": "one", "description": "d"},
    ]
    write_jsonl(path, records)
    relations = read_relations(path)
    assert list(relations) == ["P9", "P1"]
    assert relations["P1"] == Relation("P1", "[Y] [X]", "one")


def test_the_papers_own_prompts_are_manual_templates():
    (texts,) = [texts for own in PAPER_PROMPTS.values() for texts in own.values()]
    assert len(texts) == 4
    assert len({manual_template(text).source for text in texts}) == 4


# LAMA's raw folder


def test_each_subset_has_its_own_vocabulary(tmp_path):
    (tmp_path / "common_vocab_cased.txt").write_text("Oslo\nÖsterreich\nParis\n", encoding="utf-8")
    models = {"gpt": ["Paris</w>"], "bert-base-cased": ["Paris", "Oslo"], "gpt2": ["ĠParis"]}
    write_json(tmp_path / "29k-vocab.json", models)
    assert read_vocabulary(tmp_path, "34k") == ["Oslo", "Österreich", "Paris"]
    assert read_vocabulary(tmp_path, "29k") == ["Paris", "Oslo"]


@pytest.mark.parametrize(
    ("subset", "name"), [("34k", "common_vocab_cased.txt"), ("29k", "29k-vocab.json")]
)
def test_a_lost_vocabulary_is_named(tmp_path, subset, name):
    with pytest.raises(DataError, match="no such file") as caught:
        read_vocabulary(tmp_path, subset)
    assert str(tmp_path / name) in str(caught.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{}", "no list of words under bert-base-cased"),
        ('{"bert-base-cased": []}', "no list of words under bert-base-cased"),
        ('{"bert-base-cased": "Paris"}', "no list of words under bert-base-cased"),
        ('{"bert-base-uncased": ["paris"]}', "no list of words under bert-base-cased"),
        ('["Paris"]', "no list of words under bert-base-cased"),
        ('{"bert-base-cased": ["Par', "not JSON"),
    ],
)
def test_a_vocabulary_of_another_form_is_refused(tmp_path, content, said):
    (tmp_path / "29k-vocab.json").write_text(content)
    with pytest.raises(DataError, match=said) as caught:
        read_vocabulary(tmp_path, "29k")
    assert str(tmp_path / "29k-vocab.json") in str(caught.value)


def test_facts_that_were_taken_out_before_are_counted(tmp_path):
    assert not read_removed_overlaps(tmp_path)
    records = [
        {"split": split, "line": 0, "record": {"predicate_id": relation, "sub_label": "a"}}
        for split, relation in (("train", "P17"), ("dev", "P17"), ("train", "P17"), ("dev", "P3"))
    ]
    write_jsonl(tmp_path / "removed_overlaps.jsonl", records)
    removed = read_removed_overlaps(tmp_path)
    assert removed == {("P17", "train"): 2, ("P17", "dev"): 1, ("P3", "dev"): 1}
    assert removed["P3", "train"] == 0


def write_prompts(raw: Path, name: str, *templates: tuple[str, str]) -> None:
    records = [{"relation": r, "template": t, "weight": 0.5} for r, t in templates]
    write_jsonl(raw / "prompts" / f"{name}.jsonl", records)


def test_published_templates_keep_their_order(tmp_path):
    write_prompts(
        tmp_path, "mine", ("P30", "[X] b [Y]"), ("P17", "[Y] c [X]"), ("P30", "[X] a [Y]"),
    )  # fmt: skip
    write_prompts(tmp_path, "auto", ("P17", " [X]¢List[Y] ."))
    prompts = read_prompts(tmp_path, ["P17", "P30"])
    assert prompts == {
        "auto": {"P17": [" [X]¢List[Y] ."]},
        "mine": {"P30": ["[X] b [Y]", "[X] a [Y]"], "P17": ["[Y] c [X]"]},
    }
    assert list(prompts) == ["auto", "mine"]


def test_templates_of_relations_that_are_not_asked_are_left_out(tmp_path):
    write_prompts(tmp_path, "mine", ("P30", "[X] b [Y]"), ("P17", "[X] a [Y]"))
    write_prompts(tmp_path, "auto", ("P30", "[X] b [Y]"))
    assert read_prompts(tmp_path, ["P17"]) == {"auto": {}, "mine": {"P17": ["[X] a [Y]"]}}


def test_templates_of_no_use_are_left_out_and_so_are_repeats(tmp_path):
    bad = ["[X] is", "is [Y]", "[X] and [X] in [Y]", "[X] in [Y] and [Y]", "", "[x] in [y]"]
    write_prompts(
        tmp_path, "mine", *(("P17", text) for text in ["[X] 1 [Y]", *bad, "[X] 2 [Y]", "[X] 1 [Y]"])
    )
    assert read_prompts(tmp_path, ["P17"]) == {"mine": {"P17": ["[X] 1 [Y]", "[X] 2 [Y]"]}}


def test_braces_of_published_templates_are_words(tmp_path):
    """AutoPrompt found `[X] "{">phys town bordering [Y] .`."""
    write_prompts(tmp_path, "auto", ("P17", '[X] "{">phys } [Y]'), ("P17", "{mask} [X] [Y]"))
    (texts,) = read_prompts(tmp_path, ["P17"])["auto"].values()
    assert [
        [part.text for part in manual_template(text).parts if isinstance(part, Text)]
        for text in texts
    ] == [[' "{">phys } '], ["{mask} ", " "]]


def test_without_published_templates_there_are_none(tmp_path):
    assert read_prompts(tmp_path, ["P17"]) == {}


@pytest.mark.parametrize("line", ['{"relation": "P17"}', '{"template": "[X] [Y]"}', "{"])
def test_a_bad_line_of_published_templates_is_named(tmp_path, line):
    write_prompts(tmp_path, "mine", ("P17", "[X] [Y]"))
    with (tmp_path / "prompts/mine.jsonl").open("a") as file:
        file.write(line)
    with pytest.raises(DataError, match=r"mine\.jsonl:2: "):
        read_prompts(tmp_path, ["P17"])


MIRROR = Path(__file__).parents[4] / "shared" / "mirror" / "lama"
needs_mirror = pytest.mark.skipif(
    not MIRROR.is_dir(), reason="no copy of LAMA in ../shared/mirror beside the repository"
)


@needs_mirror
def test_the_shared_vocabulary_is_the_same_for_all_four_models():
    lists = json.loads((MIRROR / "29k-vocab.json").read_text(encoding="utf-8"))
    assert len(lists) == 4
    words = read_vocabulary(MIRROR, "29k")
    assert len(words) == len(set(words)) == 18_154
    for own in lists.values():
        assert sorted(word.removeprefix("Ġ") for word in own) == sorted(words)


@needs_mirror
def test_the_common_vocabulary_is_lamas_and_no_word_occurs_twice():
    words = read_vocabulary(MIRROR, "34k")
    assert len(words) == len(set(words)) == 21_018


@needs_mirror
def test_published_templates_of_all_relations_are_read():
    relations = list(read_relations(MIRROR / "relations.jsonl"))
    assert len(relations) == 41
    prompts = read_prompts(MIRROR, relations)
    found = {name: sum(map(len, own.values())) for name, own in prompts.items()}
    # As the projects published them, but for repeats.
    assert found == {
        path.stem: len({(r["relation"], r["template"]) for r in read_jsonl(path)})
        for path in (MIRROR / "prompts").glob("*.jsonl")
    }
    assert {name: len(own) for name, own in prompts.items()} == {
        "autoprompt_bert": 41, "autoprompt_relext_bert": 39, "autoprompt_relext_roberta": 39,
        "autoprompt_roberta": 41, "lpaqa_manual_paraphrase": 41, "lpaqa_mine": 41,
        "lpaqa_paraphrase": 41, "lpaqa_top1": 41, "pararel_patterns": 39,
    }  # fmt: skip
