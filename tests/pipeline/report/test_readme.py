import pytest

from pipeline.errors import DataError
from pipeline.report.readme import BEGIN, END, insert_results, results_between_marks

TEXT = f"# Title\n\n{BEGIN}\nold\n{END}\n\n## More\n"


def test_only_what_stands_between_the_marks_is_replaced():
    assert insert_results(TEXT, "\n| a |\n\n") == f"# Title\n\n{BEGIN}\n| a |\n{END}\n\n## More\n"


def test_results_are_found_again_where_they_were_put():
    assert results_between_marks(insert_results(TEXT, "| a |\n| b |")) == "| a |\n| b |"


def test_inserting_twice_changes_nothing_more():
    once = insert_results(TEXT, "new")
    assert insert_results(once, "new") == once


@pytest.mark.parametrize(
    "text", ["", BEGIN, END, f"{END}\n{BEGIN}", f"{BEGIN}{BEGIN}{END}", f"{BEGIN}{END}{END}"]
)
def test_a_text_without_both_marks_in_order_is_refused(text):
    with pytest.raises(DataError, match="once each, in order"):
        insert_results(text, "new")
