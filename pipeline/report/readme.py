"""Put the results of a run into a text file between two marks, so that nobody types a figure."""

from pipeline.errors import DataError

BEGIN = "<!-- results: written by `make readme` -->"
END = "<!-- end of results -->"


def insert_results(text: str, results: str) -> str:
    """Return the text with what stands between the marks replaced.

    Raises:
        DataError: the marks are not there, once each and in order.
    """
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise DataError(f"the file needs the lines {BEGIN!r} and {END!r} once each, in order")
    head, _, rest = text.partition(BEGIN)
    tail = rest.partition(END)[2]
    return f"{head}{BEGIN}\n{results.strip()}\n{END}{tail}"


def results_between_marks(text: str) -> str:
    """Return what stands between the marks."""
    return text.partition(BEGIN)[2].partition(END)[0].strip()
