from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import DataError
from pipeline.inference.batch import read_questions


def read(record: dict[str, Any], line: int) -> list[tuple[int, dict[str, Any]]]:
    if record.get("subject") == "wrong":
        raise DataError("this is wrong")
    return [(line, record)]


def read_text(folder: Path, name: str, text: str | bytes) -> list[tuple[int, dict[str, Any]]]:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_questions(path, ["subject"], read)


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


def test_lines_of_json_are_numbered_with_the_empty_ones(tmp_path: Path) -> None:
    text = '{"subject": "Lyon"}\n\n{"subject": "a\u2028b", "idx": 3}'
    assert read_text(tmp_path, "rows.jsonl", text) == [
        (1, {"subject": "Lyon"}),
        (3, {"subject": "a\u2028b", "idx": 3}),
    ]


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("rows.txt", "subject", "a file of questions is .csv or .jsonl"),
        ("rows.csv", "", "no questions; write one a line"),
        ("rows.csv", "subject\n", "no questions; write one a line"),
        ("rows.csv", "subjekt;note\na;b\n", "no column subject; the first line names the columns,"
         " and has subjekt;note"),
        ("rows.csv", "subject\nwrong\n", "1 line cannot be asked, so nothing was; mend the file\n"
         "  line 2: this is wrong"),
        ("rows.csv", "subject\nLyon\na,b\nwrong\n", "2 lines cannot be asked, so nothing was; mend "
         "the file\n  line 3: 2 cells, but the header has 1\n  line 4: this is wrong"),
        ("rows.csv", 'subject\nLyon\n"never closed\n', "\n  line 3: not CSV (unexpected end of"),
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
        read_questions(tmp_path / "rows.csv", [], read)
