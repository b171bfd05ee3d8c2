import pytest

from pipeline.data.columns import cells_of_columns, count_labels, guess_columns
from pipeline.errors import DataError

RESERVED = ("label", "mask")
ROWS = [
    {
        "ID": f"row {n}",
        "Review (Text)": f"some words {n}",
        "label text": f"more words {n}",
        "Stars": str(n % 3),
        "Year": "2020",
        "Code": f"x{n}",
    }
    for n in range(12)
]
CELLS = cells_of_columns(ROWS)


def test_cells_are_text_whichever_rows_have_them() -> None:
    rows = [
        {"text": " a b", "label": True, "meta": {"by": 1}, "": "0", "raw": b"x"},
        {"text": "c", "stars": 2.0, "label": None, "meta": None},
    ]
    assert cells_of_columns(rows) == {
        "text": ["a b", "c"], "label": ["true", ""], "stars": ["", "2"],
    }  # fmt: skip
    assert count_labels(["a", "", "b", "a"]) == {"a": 2, "b": 1}


def test_texts_and_label_are_guessed() -> None:
    columns = guess_columns(CELLS, None, [], reserved=RESERVED)
    assert columns.label == "Stars"
    assert columns.fields == {"review_text": "Review (Text)", "label_text": "label text"}


def test_what_is_given_is_not_guessed() -> None:
    columns = guess_columns(CELLS, "Code", ["Stars", "ID"], reserved=RESERVED)
    assert (columns.label, columns.fields) == ("Code", {"stars": "Stars", "id": "ID"})


def test_a_usual_name_decides_before_the_number_of_values() -> None:
    rows = [{"yes": str(n % 2), "Sentiment": str(n % 5), "text": f"a b {n}"} for n in range(20)]
    assert guess_columns(cells_of_columns(rows), None, [], reserved=RESERVED).label == "Sentiment"


@pytest.mark.parametrize(
    ("columns", "names"),
    [
        (["a b", "A-B", "a.b"], ["a_b", "a_b_2", "a_b_2_2"]),
        (["label", "1st", "日本"], ["text_label", "text_1st", "text"]),
    ],
)
def test_fields_get_names_that_templates_can_have(columns: list[str], names: list[str]) -> None:
    rows = [{**dict.fromkeys(columns, f"a b {n}"), "y": str(n % 2)} for n in range(6)]
    assert (
        list(guess_columns(cells_of_columns(rows), "y", columns, reserved=RESERVED).fields) == names
    )


@pytest.mark.parametrize(
    ("rows", "label", "texts", "said"),
    [
        (ROWS, "Rating", [], "no column Rating of texts or numbers; it has ID, "),
        (ROWS, None, ["Title"], "no column Title of texts or numbers; it has ID, "),
        (ROWS, "Stars", ["Stars"], "column Stars is named twice; a text cannot be the label"),
        (ROWS, None, ["ID", "ID"], "column ID is named twice"),
        ([{"a": f"b c {n}"} for n in range(6)], None, [], "no column can be the label"),
        ([{"a": str(n), "b": str(n % 2)} for n in range(6)], None, [], "no column of texts beside"),
    ],
)
def test_what_cannot_be_guessed_is_asked_for(
    rows: list[dict[str, str]], label: str | None, texts: list[str], said: str
) -> None:
    with pytest.raises(DataError) as error:
        guess_columns(cells_of_columns(rows), label, texts, reserved=RESERVED)
    assert said in str(error.value)


def test_labels_are_in_the_order_of_their_numbers_or_letters() -> None:
    assert list(count_labels(["10", "9", "9"]).items()) == [("9", 2), ("10", 1)]
    assert list(count_labels(["b", "a", "10"])) == ["10", "a", "b"]


@pytest.mark.parametrize("labels", [["a"] * 3, [str(n) for n in range(60)]])
def test_one_label_or_very_many_are_none(labels: list[str]) -> None:
    with pytest.raises(DataError, match="a task has from 2 to 50"):
        count_labels(labels)


def test_labels_that_are_all_empty_are_named_so() -> None:
    with pytest.raises(DataError, match=r"^0 different labels \(all empty\); a task has from 2"):
        count_labels(["", ""])
