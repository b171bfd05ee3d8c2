from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from pipeline.data.lama import Fact, Relation
from pipeline.data.own_facts import read_own_facts
from pipeline.errors import DataError

HEADER = "subject,object,template\n"
ROW = "Lyon,France,[X] is in [Y] .\n"


def written(folder: Path, content: str | bytes, name: str = "lies-in.csv") -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_a_file_is_a_relation_with_its_name(tmp_path: Path) -> None:
    path = written(tmp_path, f"{HEADER}{ROW}Oslo ,  Norway,\n")
    assert list(read_own_facts(path)) == ["lies-in"]
    own = read_own_facts(path)["lies-in"]
    assert own.relation == Relation("lies-in", "[X] is in [Y] .", "lies-in")
    assert own.facts == [Fact("lies-in", "Lyon", "France"), Fact("lies-in", "Oslo", "Norway")]


def test_a_column_names_the_relations_of_a_file(tmp_path: Path) -> None:
    rows = "P36,Norway,Oslo,,\nP17,Oslo,Norway,[X] is in [Y] .,\nP36,Japan,Tokyo,[X]: [Y] .,capital"
    path = written(tmp_path, f"relation,subject,object,template,label\n{rows}\n")
    relations = read_own_facts(path)
    assert [own.relation for own in relations.values()] == [
        Relation("P36", "[X]: [Y] .", "capital"), Relation("P17", "[X] is in [Y] .", "P17"),
    ]  # fmt: skip
    assert [len(own.facts) for own in relations.values()] == [2, 1]


def test_a_folder_has_files_of_any_format(tmp_path: Path) -> None:
    written(tmp_path, "not a table", "README.md")
    written(tmp_path, (HEADER + ROW).encode("utf-16"), "a.csv")
    written(tmp_path, (HEADER + ROW).replace(",", "\t"), "b.tsv")
    line = '{"subject": "Lyon", "object": "France", "template": "[X] is in [Y] ."}\n'
    written(tmp_path, line, "c.jsonl")
    columns = {"subject": ["Lyon"], "object": ["France"], "template": ["[X] is in [Y] ."]}
    parquet.write_table(pa.table(columns), tmp_path / "d.parquet")
    relations = read_own_facts(tmp_path)
    assert list(relations) == ["a", "b", "c", "d"]
    for name, own in relations.items():
        assert own.facts == [Fact(name, "Lyon", "France")]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "no rows"),
        (HEADER, "no rows"),
        ("subject,object\nLyon,France\n", "no column template"),
        ("subject,subject,object,template\na,b,c,d\n", "column subject appears twice"),
        (f"{HEADER}Lyon,France\n", "line 2: 2 cells, but the header has 3"),
        (f"{HEADER}{ROW}Oslo, ,\n,Norway,\n", "line 3: no object\n  line 4: no subject"),
        (f"{HEADER}Lyon,France,\n", "lies-in: no template"),
        (f"{HEADER}{ROW}Oslo,Norway,[X] in [Y]\n", "line 3: template '[X] in [Y]', but"),
        (f"{HEADER}{ROW}{'x' * 100_000},Norway,\n", "line 3: subject has 100,000 characters"),
        ('subject,object,template\n"Lyon,France\n', "is a quotation mark unbalanced"),
        (f"{HEADER}Lyon,Köln,[X] [Y]\n".encode("latin-1"), "not UTF-8 text"),
        (f"{HEADER}Lyon,Fr\0ance,[X] [Y]\n", "NUL character"),
        ("relation,subject,object,template\n../up,a,b,[X] [Y]\n", "relation '../up' is not an id"),
        ("relation,subject,object,template\n,a,b,[X] [Y]\n", "line 2: no relation"),
        ("relation,subject,object,template\nP1,a,b,[X] [Y]\np1,a,b,\n", "is in .* too, as P1"),
    ],
)
def test_a_file_that_is_no_table_of_facts_gives_one_message(
    tmp_path: Path, content: str | bytes, said: str
) -> None:
    path = written(tmp_path, content)
    with pytest.raises(DataError, match=said.replace("[", r"\[")) as caught:
        read_own_facts(path)
    assert str(path) in str(caught.value)
    assert len(str(caught.value)) < 500


def test_a_value_that_is_no_text_is_named(tmp_path: Path) -> None:
    path = written(tmp_path, '{"subject": 7, "object": "a", "template": "[X] [Y]"}\n', "a.jsonl")
    with pytest.raises(DataError, match="line 1: subject is 7, not text"):
        read_own_facts(path)


def test_a_relation_in_two_files_a_lost_path_and_an_empty_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"{tmp_path}: no .csv.* file; put tables"):
        read_own_facts(tmp_path)
    with pytest.raises(DataError, match=r"lost\.csv: no such file or folder"):
        read_own_facts(tmp_path / "lost.csv")
    written(tmp_path, HEADER + ROW)
    written(tmp_path, (HEADER + ROW).replace(",", "\t"), "lies-in.tsv")
    with pytest.raises(DataError, match=r"relation lies-in is in .*lies-in.csv too"):
        read_own_facts(tmp_path)
