"""Read one input of `ptune predict`: flat fields or an official record, as examples of a task."""

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.errors import DataError
from pipeline.tasks import Example, Task


def read_question(task: Task, given: Mapping[str, Any], *, idx: int) -> list[Example]:
    """Read the examples of one input.

    Args:
        task: defines the input (`Task.schema`).
        given: the fields of the schema, or an official record, with or without labels. Other keys
            and fields that are None are ignored.
        idx: names the example if `given` has no idx.

    Returns:
        One example; for an official record of MultiRC, one per answer.

    Raises:
        DataError: a field is missing, empty or of another type.
    """
    schema = task.schema
    if schema.nested_key and isinstance(given.get(schema.nested_key), dict):
        record = schema.replace_labels({"idx": idx, **given})
    else:
        fields = {key: value for key, value in given.items() if value is not None}
        check_needed(fields, schema.required)
        record = schema.record({"idx": idx, **fields})
    examples = list(task.examples(record))
    for example in examples:
        for name, value in example.values.items():
            check_writing(name, value)
    return examples


def check_needed(given: Mapping[str, Any], needed: Sequence[str]) -> None:
    """Check that no required field is missing or blank.

    Raises:
        DataError: names all fields that are.
    """
    missing = [name for name in needed if name not in given]
    if missing:
        found = f" (found {', '.join(map(str, given))})" if given else ""
        raise DataError(f"no {' and no '.join(missing)}{found}")
    blank = [name for name in needed if isinstance(given[name], str) and not given[name].strip()]
    if blank:
        raise DataError(f"{' and '.join(blank)} {'is' if len(blank) == 1 else 'are'} empty")


def check_writing(name: str, value: str) -> None:
    """Check that a text can be encoded as UTF-8; an unpaired surrogate cannot.

    Raises:
        DataError: it has an unpaired surrogate.
    """
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise DataError(
            f"{name} has half a character at position {error.start + 1}; write it in UTF-8"
        ) from None
