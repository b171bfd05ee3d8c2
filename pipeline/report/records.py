"""The records that `collect` makes, as the page of results reads them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from pipeline.report.results import Row
from pipeline.report.tables import data_name, escaped, relation_count


@dataclass(frozen=True)
class Run:
    """One record; see `gather`."""

    record: Row

    @property
    def name(self) -> str:
        """The record's name, as Markdown."""
        return f"`{self.record['name']}`"

    @property
    def seed(self) -> int:
        """The seed of `params.yaml`."""
        return int(self.record["params"]["seed"])

    @property
    def model(self) -> str:
        """Name of the language model."""
        return str(self.record["params"]["model"]["name"])

    @property
    def lama(self) -> Row:
        """The section `lama` of `params.yaml`."""
        section: Row = self.record["params"]["lama"]
        return section

    @property
    def source(self) -> str:
        """Where the facts are from."""
        return str(self.lama["source"])

    @property
    def data(self) -> str:
        """Which facts these are, as Markdown."""
        return data_name(self.source, self.lama["subset"])

    @property
    def splits(self) -> Row:
        """The metrics file of the splits."""
        splits: Row = self.record["splits"]
        return splits

    @property
    def methods(self) -> dict[str, Row]:
        """Method -> `metrics`, `seconds`, `relations`."""
        methods: dict[str, Row] = self.record["methods"]
        return methods

    @property
    def stability(self) -> dict[str, Row]:
        """Method -> `metrics`, `seconds`, `templates`."""
        methods: dict[str, Row] = self.record["stability"]
        return methods

    @property
    def first(self) -> Row:
        """What the record has of its first method; facts and controls are the same for all."""
        return next(iter(self.methods.values()))

    @property
    def relations(self) -> str:
        """How many relations were asked, in words."""
        if not self.methods:
            return "stability alone"
        return relation_count(self.source, len(self.first["relations"]))


@dataclass(frozen=True)
class EncodedExample:
    """One method of one run.

    Attributes:
        run: which.
        method: its name.
        rows: relation -> its row.
    """

    run: Run
    method: str
    rows: Mapping[str, Row]


def machine_name(hardware: Row) -> str:
    """Return a record's hardware, as Markdown."""
    processor = f"{hardware['cores']} cores of {hardware['processor']}"
    return escaped(f"{processor}, {hardware['gpu'] or 'no GPU'}")


def minutes(seconds: Row) -> list[str]:
    """Return how many minutes training and evaluation took, as cells."""
    taken = [seconds["train"], seconds["evaluate"]]
    return ["unknown" if own is None else f"{own / 60:.1f}" for own in taken]


def commit_name(git: Row) -> str:
    """Return the commit of a record, and whether code or parameters differed from it."""
    if git["commit"] is None:
        return "unknown"
    return f"{git['commit'][:10]}{' with changes' if git['dirty'] else ''}"


def same_facts(runs: Sequence[Run]) -> list[tuple[str, list[EncodedExample]]]:
    """Gather the methods that one model was asked the same facts with, under a title."""

    def key(run: Run) -> tuple[str, str, int, int]:
        cap = run.lama["splits"]["test_facts"] or 0
        # Under a cap the seed decides which facts are asked.
        return run.model, run.data, cap, run.seed if cap else 0

    def title(model: str, data: str, cap: int, seed: int) -> str:
        limit = f", at most {cap} test facts a relation (seed {seed})" if cap else ""
        return f"{escaped(model)}, {data}{limit}"

    return [
        (title(*values), [asked for run in own for asked in _asked(run)])
        for values, own in groupby(sorted(runs, key=key), key)
    ]


def _asked(run: Run) -> list[EncodedExample]:
    return [
        EncodedExample(run, method, {row["relation"]: row for row in own["relations"]})
        for method, own in run.methods.items()
    ]
