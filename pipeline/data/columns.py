"""Which columns of a person's file are texts, and which is the label: a guess for a new task."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from pipeline.data.build_own import as_text
from pipeline.data.tables import Record
from pipeline.errors import DataError

# Names that columns of labels have in public data sets, the likeliest first.
_LABEL_NAMES = (
    "label", "labels", "class", "category", "target", "sentiment", "rating", "stars", "polarity",
    "intent", "topic", "answer", "gold_label",
)  # fmt: skip

# A column with more values than this is no column of labels.
MAX_LABELS = 50


@dataclass(frozen=True)
class Columns:
    """The columns of a task.

    Attributes:
        fields: field of the templates -> column.
        label: column of the labels.
    """

    fields: dict[str, str]
    label: str


def cells_of_columns(rows: Sequence[Record]) -> dict[str, list[str]]:
    """Column -> its cells as text, stripped; an empty one where a row lacks it.

    Columns without a name, or with lists, objects or other values that are no text, are left out.
    """
    cells = {}
    for name in dict.fromkeys(name for row in rows for name in row if name):
        values = [row.get(name) for row in rows]
        with suppress(DataError):
            cells[name] = ["" if v is None else as_text(v, name).strip() for v in values]
    return cells


def guess_columns(
    cells: Mapping[str, Sequence[str]],
    label: str | None,
    texts: Sequence[str],
    *,
    reserved: Sequence[str],
) -> Columns:
    """Guess what is not given of the columns of a task.

    The label has a usual name and few values; or else the fewest values of all columns, of several
    such the last. Texts are the other columns that are neither numbers nor identifiers.

    Args:
        cells: see `cells_of_columns`.
        label: column of the labels; None guesses it.
        texts: columns of texts; empty guesses them.
        reserved: names that no field may have.

    Raises:
        DataError: a column is missing or named twice, or no column can be a label or a text.
    """
    missing = [name for name in (label, *texts) if name is not None and name not in cells]
    if missing:
        raise DataError(
            f"no column {', '.join(missing)} of texts or numbers; it has {', '.join(cells)}"
        )
    named = [name for name in (label, *texts) if name is not None]
    if twice := [name for name, count in Counter(named).items() if count > 1]:
        raise DataError(f"column {', '.join(twice)} is named twice; a text cannot be the label")
    label = label or _guess_label({k: v for k, v in cells.items() if k not in texts})
    chosen = texts or [name for name in cells if name != label and _is_text(name, cells[name])]
    if not chosen:
        raise DataError(
            f"no column of texts beside the label '{label}' among {', '.join(cells)}; name the "
            "columns with --text"
        )
    fields: dict[str, str] = {}
    for column in chosen:
        name = re.sub(r"\W+", "_", column.lower(), flags=re.ASCII).strip("_")
        if not re.match("[a-z]", name) or name in reserved:
            name = f"text_{name}".rstrip("_")
        while name in fields:
            name += "_2"
        fields[name] = column
    return Columns(fields, label)


def _guess_label(values: Mapping[str, Sequence[str]]) -> str:
    counts = {name: len(set(of) - {""}) for name, of in values.items()}
    total = max(map(len, values.values()), default=0)
    for usual in _LABEL_NAMES:
        for name, count in counts.items():
            if name.lower() == usual and 1 < count <= MAX_LABELS:
                return name
    few = [name for name in values if 1 < counts[name] <= min(MAX_LABELS, total // 2)]
    if not few:
        shown = ", ".join(f"{name}: {count}" for name, count in counts.items())
        raise DataError(
            f"no column can be the label (numbers of values: {shown}); a label has from 2 to "
            f"{MAX_LABELS} values: name its column with --label"
        )
    return min(reversed(few), key=counts.__getitem__)


def _is_text(name: str, values: Sequence[str]) -> bool:
    """Whether a column has words: no numbers, and no identifiers, which are single words."""
    if re.search(r"(?i)(^|_|\b)(id|idx|index|uuid)$", name):
        return False
    words = [len(value.split()) for value in values]
    numbers = [re.fullmatch(r"[-+\d.,:/ ]*", value) is not None for value in values]
    return not all(numbers) and sum(words) > 1.2 * len(values)


def count_labels(labels: Sequence[str]) -> dict[str, int]:
    """Label -> number of rows, the labels in alphabetic order; numbers by their value.

    Empty labels are left out.

    Raises:
        DataError: there is one label only, or too many.
    """
    counts = Counter(filter(None, labels))
    if not 1 < len(counts) <= MAX_LABELS:
        shown = ", ".join(sorted(counts)[:5]) or "all empty"
        raise DataError(
            f"{len(counts)} different label{'' if len(counts) == 1 else 's'} ({shown}"
            f"{', ...' if len(counts) > 5 else ''}); a task has from 2 to {MAX_LABELS}: choose "
            "another column with --label"
        )
    integers = all(re.fullmatch(r"-?\d+", label) for label in counts)
    order = sorted(counts, key=int if integers else None)
    return {label: counts[label] for label in order}
