from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import DataError
from pipeline.inference.inputs import read_example, read_file
from pipeline.tasks import Example, get_task, task_names
from tests.pipeline.tasks.test_superglue import RECORDS


def read(record: dict[str, Any], line: int) -> list[tuple[int, dict[str, Any]]]:
    if record.get("subject") == "wrong":
        raise DataError("this is wrong")
    return [(line, record)]


def read_text(folder: Path, name: str, text: str | bytes) -> list[tuple[int, dict[str, Any]]]:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_file(path, ["subject"], read)


def test_lines_of_csv_are_numbered_as_an_editor_numbers_them(tmp_path: Path) -> None:
    text = '\ufeffsubject, note\r\nLyon,a\r\n"New\nYork",b\n\nOslo,"c, ""d"""\n'
    assert read_text(tmp_path, "rows.csv", text) == [
        (2, {"subject": "Lyon", "note": "a"}),
        (3, {"subject": "New\nYork", "note": "b"}),
        (6, {"subject": "Oslo", "note": 'c, "d"'}),
    ]


def test_numbers_of_csv_are_numbers_where_they_are_known_to_be(tmp_path: Path) -> None:
    text = "subject,idx,span2_index\n5,7, 12 \n6,,x\n"
    assert read_text(tmp_path, "rows.CSV", text) == [
        (2, {"subject": "5", "idx": 7, "span2_index": 12}),
        (3, {"subject": "6", "idx": None, "span2_index": "x"}),
    ]


def test_columns_of_the_users_own_file_are_fields(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("Subject,note\nLyon,a\n")
    (tmp_path / "rows.jsonl").write_text('{"Subject": "Lyon", "subject": "Oslo"}\n{"note": "b"}\n')
    found = [
        read_file(tmp_path / name, ["subject"], read, {"subject": "Subject"})
        for name in ("rows.csv", "rows.jsonl")
    ]
    assert [[record.get("subject") for _, record in rows] for rows in found] == [
        ["Lyon"], ["Oslo", None],
    ]  # fmt: skip


def test_lines_of_json_are_numbered_with_the_empty_ones(tmp_path: Path) -> None:
    text = '{"subject": "Lyon"}\n\n{"subject": "a\u2028b", "idx": 3}'
    assert read_text(tmp_path, "rows.jsonl", text) == [
        (1, {"subject": "Lyon"}),
        (3, {"subject": "a\u2028b", "idx": 3}),
    ]


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("rows.txt", "subject", "not a .csv, .tsv, .jsonl or .parquet file; convert or rename it"),
        ("rows.csv", "", "no rows; write one per line"),
        ("rows.csv", "subject\n", "no rows; write one per line"),
        ("rows.csv", "subjekt;note\na;b\n", "no column subject; the first line names the columns,"
         " and has subjekt, note"),
        ("rows.csv", "subject\nwrong\n", "1 invalid line; nothing was read; correct the file\n"
         "  line 2: this is wrong"),
        ("rows.csv", "subject\nLyon\na,b\nwrong\n", "2 invalid lines; nothing was read; "
         "correct the file\n  line 3: 2 cells, but the header has 1\n  line 4: this is wrong"),
        ("rows.csv", 'subject\nLyon\n"never closed\n', "\n  line 3: not CSV (unexpected end of"),
        ("rows.csv", "subject,relation,subject\n,,\n", "rows.csv: column subject appears twice;"),
        ("rows.jsonl", '{"subject": "a", "subject": "b"}', "\n  line 1: key subject appears"),
        ("rows.jsonl", '3\n{"a": {"b": 1, "b": 1}}', "\n  line 2: key b appears twice;"),
        ("rows.csv", b"subject\nLyon\n\xff\n", "line 3: not UTF-8 text; save the file as UTF-8"),
        ("rows.jsonl", '{"subject": "a"}\n{"subject"\n3\n', "\n  line 2: not JSON (Expecting ':'"),
        ("rows.jsonl", '\n3\n', "\n  line 2: a JSON int, not an object"),
        ("rows.jsonl", '{"idx": ' + "9" * 5000 + "}", "\n  line 1: not JSON (Exceeds the limit"),
        ("rows.jsonl", "[" * 100_000, "\n  line 1: not JSON ("),
        ("rows.jsonl", "3\n" * 14, "\n  line 10: a JSON int, not an object\n  and 4 more"),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_asked_says_where_and_why(
    tmp_path: Path, name: str, text: str | bytes, said: str
) -> None:
    with pytest.raises(DataError) as caught:
        read_text(tmp_path, name, text)
    assert str(caught.value).startswith(f"{tmp_path / name}: ")
    assert said in str(caught.value)


def test_a_file_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"rows.csv: no such file$"):
        read_file(tmp_path / "rows.csv", [], read)


WSC = {"text": 'Ann told Eve that "she" had won .', "span1_text": "Ann", "span2_text": "she"}


def given(task: str) -> dict[str, Any]:
    """What the help of a task gives as an example."""
    return {field.name: field.example for field in get_task(task).schema.fields if field.required}


def values(example: Example) -> tuple[Any, ...]:
    """All of an example that decides its answer."""
    return example.values, example.choices


def test_every_task_has_a_form_with_an_example_that_can_be_asked() -> None:
    for task in task_names():
        (example,) = read_example(get_task(task), given(task), idx=7)
        assert set(example.values) == set(get_task(task).fields)
        assert example.name == ("7/0/0" if task == "multirc" else "7")


@pytest.mark.parametrize("task", RECORDS)
def test_an_official_record_is_read_as_the_task_reads_it_whatever_its_label(task: str) -> None:
    record = RECORDS[task]
    official = list(get_task(task).examples(record))
    unlabeled = {key: value for key, value in record.items() if key != "label"}
    for asked in (record, unlabeled, {**record, "label": "nonsense"}):
        found = read_example(get_task(task), asked, idx=99)
        assert [values(one) for one in found] == [values(one) for one in official]
        assert [one.name for one in found] == [one.name for one in official]


def test_an_official_record_of_multirc_needs_no_labels() -> None:
    passage = RECORDS["multirc"]["passage"]
    questions = [
        {**q, "answers": [{k: v for k, v in a.items() if k != "label"} for a in q["answers"]]}
        for q in passage["questions"]
    ]
    record = {"idx": 6, "passage": {**passage, "questions": questions}}
    found = read_example(get_task("multirc"), record, idx=1)
    assert [one.name for one in found] == ["6/27/333", "6/27/334", "6/28/335"]
    assert found[1].values == {
        "passage": "Lyon is in France.",
        "question": "Where is Lyon?",
        "answer": "Peru",
    }


def test_what_is_given_by_field_is_asked_as_the_official_record_of_it() -> None:
    official = RECORDS["wsc"]
    target = official["target"]
    fields = {"text": official["text"], "span1_text": target["span1_text"], "span2_text": "himself"}
    (by_field,) = read_example(get_task("wsc"), fields, idx=0)
    (by_record,) = get_task("wsc").examples(official)
    assert values(by_field) == values(by_record)
    wic = {key: RECORDS["wic"][key] for key in ("word", "sentence1", "sentence2")}
    assert values(*read_example(get_task("wic"), wic, idx=0)) == values(
        *get_task("wic").examples(RECORDS["wic"])
    )


def test_a_pronoun_is_found_behind_punctuation_and_in_any_case() -> None:
    (example,) = read_example(get_task("wsc"), WSC | {"span2_text": "SHE"}, idx=0)
    assert example.values["text"] == 'Ann told Eve that *"she"* had won .'


def test_a_pronoun_that_occurs_twice_is_found_by_its_index() -> None:
    twice = WSC | {"text": "she told Eve that she had won"}
    with pytest.raises(DataError, match=r"'she' occurs at 0, 4, counted in words"):
        read_example(get_task("wsc"), twice, idx=0)
    (example,) = read_example(get_task("wsc"), twice | {"span2_index": 4}, idx=0)
    assert example.values["text"] == "she told Eve that *she* had won"


@pytest.mark.parametrize(
    ("task", "change", "said"),
    [
        ("rte", {"premise": None}, "no premise (found hypothesis)"),
        ("rte", {"premise": None, "hypothesis": None}, "no premise and no hypothesis"),
        ("rte", {"premise": " ", "hypothesis": ""}, "premise and hypothesis are empty"),
        ("rte", {"hypothesis": 3}, "hypothesis is 3, not text"),
        ("cb", {"premise": "half \ud800"}, "premise has half a character at position 6"),
        ("boolq", {"idx": "a"}, "idx is 'a', not an integer"),
        ("copa", {"question": "why"}, "question 'why' is not one of cause, effect"),
        ("wic", {"sentence1": 3}, "sentence1 is 3, not text"),
        ("multirc", {"answer": ""}, "answer is empty"),
        ("multirc", {"passage": {"text": "a"}}, "no questions"),
        ("multirc", {"passage": {"text": "a", "questions": [{}]}}, "no answers"),
        ("wsc", {"span2_text": "he"}, "span2_text 'he' is not in the text"),
        ("wsc", {"span2_text": 1}, "span2_text is 1, not text"),
        ("wsc", {"span2_index": 1}, "span2_index is 1, but 'she' is at 4 of the text"),
        ("wsc", {"span2_index": "x"}, "span2_index is 'x', not an integer"),
        ("wsc", {"target": {}}, "no span1_text"),
    ],
)
def test_what_cannot_be_asked_is_said(task: str, change: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError) as caught:
        read_example(get_task(task), given(task) | change, idx=0)
    assert str(caught.value).startswith(said)
