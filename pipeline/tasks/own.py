"""A task of the user: what `tasks` in params.yaml says of it, without code."""

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import DataError
from pipeline.files import read_json, write_json
from pipeline.tasks import base
from pipeline.tasks.base import Example, InputField, InputSchema, Record, Task

if TYPE_CHECKING:
    from pipeline.config.schema import OwnTaskParams

# File in the folder of the task's splits.
DEFINITION = "task.json"

# Names that no field may have: keys of a record, slots of a template, options of `ptune predict`.
RESERVED_FIELDS = (
    "mask", "idx", "label", "group", "method", "methods", "file", "out", "json", "as_json", "help",
)  # fmt: skip


@dataclass(frozen=True)
class Definition:
    """What a task of the user is, apart from its data and prompts.

    Attributes:
        name: as in `params.yaml`.
        fields: of its templates.
        labels: in the order of the scores.
        metrics: as in `Task`.
        positive: as in `Task`.
        choices: the two fields whose texts are the answers of the two labels; None if the answer
            is a label's word.
    """

    name: str
    fields: Sequence[str]
    labels: Sequence[str]
    metrics: Sequence[str]
    positive: str | None = None
    choices: Sequence[str] | None = None

    @classmethod
    def from_params(cls, name: str, params: "OwnTaskParams") -> "Definition":
        """What `params.yaml` says of the task."""
        data = params.data
        return cls(
            name, list(data.fields), data.labels, params.metrics, params.positive, data.choices
        )

    def write(self, splits: Path) -> None:
        """Write it into the folder of the task's splits, for all that reads these."""
        write_json(splits / DEFINITION, asdict(self))

    @property
    def task(self) -> Task:
        """The task; its records have `idx`, `label`, the fields and, if it is known, `group`."""
        words = {label: label for label in self.labels}
        return Task(
            name=self.name,
            fields=tuple(self.fields),
            labels=tuple(self.labels),
            metrics=tuple(self.metrics),
            examples=self._examples,
            group=self._group,
            patterns=self._patterns(),
            schema=InputSchema(
                description=f"The task {self.name} of params.yaml.",
                fields=tuple(InputField(field, "A text.", "Some text.") for field in self.fields),
                record=base.labeled(self.labels[0]),
                label_names=dict(zip(self.labels, self.choices or (), strict=False)),
            ),
            verbalizers={} if self.choices else {"labels": words},
            positive=self.positive,
            naive_bayes=not self.choices,
        )

    def _examples(self, record: Record) -> Iterator[Example]:
        values = {field: base.text(record, field) for field in self.fields}
        blank = [field for field, value in values.items() if not value.strip()]
        if blank:
            raise DataError(f"{' and '.join(blank)} {'is' if len(blank) == 1 else 'are'} empty")
        yield Example(
            str(base.number(record, "idx")),
            values,
            base.label(record, {label: label for label in self.labels}),
            tuple(values[field] for field in self.choices or ()),
            str(record.get("group", "")),
        )

    def _group(self, record: Record) -> Hashable:
        """The record's group; without one, records of the same text stay together."""
        return record.get("group") or tuple(record[field] for field in self.fields)

    def _patterns(self) -> dict[str, str]:
        """Name of a method -> a template that uses all fields, or those that are no choices."""
        shown = [field for field in self.fields if field not in (self.choices or ())]
        slots = " ".join(f"{{{field}:shorten}}" for field in shown or self.fields)
        return {
            "manual": f"{slots} Answer: {{mask}}.",
            "classifier": f"{slots} {{mask}}" if self.choices else slots,
            "manual-fine-tuning": f"{slots} Answer: {{mask}}.",
            "p-tuning": f"{slots} [P*3] Answer: {{mask}}.",
            "prompt-tuning": f"[P*20] {slots} {{mask}}",
        }


def own_splits(folder: Path) -> Mapping[str, Path]:
    """Name -> folder of the splits of each task of the user that has some."""
    return {path.parent.name: path.parent for path in sorted(folder.glob(f"*/{DEFINITION}"))}


def read_definition(splits: Path) -> Definition:
    """Read what `Definition.write` wrote.

    Raises:
        DataError: the file is missing or damaged.
    """
    return Definition(**read_json(splits / DEFINITION))
