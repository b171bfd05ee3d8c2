"""What a task of SuperGLUE is."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Task:
    """A task in the official JSONL schema.

    Attributes:
        name: as in `params.yaml`.
        fields: text fields of an example that a template may use.
        labels: the labels, in the order in which scores are given.
        group: the field whose examples must stay in one split.
    """

    name: str
    fields: tuple[str, ...]
    labels: tuple[str, ...]
    group: str
