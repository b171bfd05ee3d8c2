"""The long table of scores: a row for each number of any table, and the files it is read from."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pipeline.errors import DataError
from pipeline.files import read_csv, read_jsonl, read_object

Row = dict[str, Any]

# Benchmark -> the metric that a method is judged by, and its name in tables.
HEADLINE = {"lama": "p_at_1", "stability": "p_at_1", "superglue": "score", "tasks": "score"}
LABELS = {
    "p_at_1": "P@1", "p_at_1_hard": "P@1 on hard facts",
    "p_at_1_one_token": "P@1 on objects of one token", "score": "score", "accuracy": "accuracy",
    "f1": "macro F1", "f1a": "F1a",
    "f1_positive": "F1", "matthews": "Matthews", "em": "EM",
}  # fmt: skip
# Key in a metrics file and in a relation's row -> method of the same table.
CONTROLS = {
    "majority": "majority class", "constant": "best constant answer", "naive_bayes": "naive Bayes",
}  # fmt: skip
COUNTS = {"lama": "facts", "superglue": "examples", "tasks": "examples"}

# Columns of a file of learning curves that identify a training.
_TRAINING = ("relation", "setting", "split", "seed")
# Columns of text in the tables of an evaluation; the others hold numbers.
_TEXTS = ("relation", "label", "template", "task", "training", "tried")


@dataclass(frozen=True)
class Score:
    """One number of any table.

    Attributes:
        benchmark: `lama`, `stability`, `superglue` or `tasks`.
        task: of SuperGLUE or of the user; empty for the mean over relations.
        method: name of a method or control.
        split: `dev` or `test`.
        metric: key of `LABELS`.
        mean: share of 1; None if the source says that it ran out of memory.
        std: sample standard deviation over trainings, if there are several.
        n: number of examples.
        trainings: number of trainings.
        origin: model or run, where a table has several.
        note: shown in parentheses after the number.
    """

    benchmark: str
    task: str
    method: str
    split: str
    metric: str
    mean: float | None
    std: float | None = None
    n: int | None = None
    trainings: int | None = None
    origin: str = ""
    note: str = ""

    def __str__(self) -> str:
        """Return the number in percent, with its deviation and note."""
        number = "out of memory" if self.mean is None else percent(self.mean, self.std)
        return f"{number} ({self.note})" if self.note else number


def percent(share: float | None, std: float | None = None) -> str:
    """Return a share in percent, with its standard deviation if there is one; None gives ''."""
    if share is None:
        return ""
    return f"{100 * share:.1f}" + ("" if std is None else f" ± {100 * std:.1f}")


def scores_of(
    values: Mapping[str, Any], benchmark: str, task: str, method: str, *, origin: str = ""
) -> list[Score]:
    """Return the scores of a metrics file, or of a run in MLflow, and of its controls.

    `values` is `split/metric` -> number; for the rest, see `Score`.
    """
    n = _whole(values.get(f"test/{COUNTS.get(benchmark)}"))
    trainings = _whole(values.get("test/trainings"))
    scores = []
    for key, value in values.items():
        split, _, metric = key.partition("/")
        control = next((name for name in CONTROLS if metric.startswith(name)), None)
        std, of, number = values.get(f"{key}_std"), method, trainings
        if control is not None:
            metric = metric.removeprefix(control).removeprefix("_") or HEADLINE[benchmark]
            std, of, number = None, CONTROLS[control], None
        # MLflow has the headline of each benchmark under `score` too.
        if metric in LABELS and (metric != "score" or HEADLINE[benchmark] == "score"):
            scores.append(Score(benchmark, task, of, split, metric, value, std, n, number, origin))
    return scores


def sizes_of(values: Mapping[str, Any], unit: str) -> str:
    """Return the numbers of train, dev and test examples, `120/40/149`.

    Files and runs of earlier versions have only the last.

    Args:
        values: of a metrics file.
        unit: one of `COUNTS`.
    """
    sizes = [values.get(f"{split}/{unit}") for split in ("train", "dev", "test")]
    return "/".join(str(int(size)) for size in sizes if size is not None)


def relation_sizes(row: Row) -> str:
    """Return the same of a row of a relation or template."""
    sizes = [row.get(key) for key in ("train_facts", "dev_facts", "facts")]
    return "/".join(str(size) for size in sizes if size is not None)


def source_name(source: str) -> str:
    """Return a data source as it is called today; records and runs have its earlier name."""
    return "geonames" if source == "gazetteer" else source


def _whole(value: float | None) -> int | None:
    return None if value is None else int(value)


@dataclass(frozen=True)
class MethodResult:
    """All that evaluation wrote about one method, from files or from a record.

    Attributes:
        benchmark: `lama`, `stability`, `superglue` or `tasks`.
        task: of SuperGLUE or of the user, or empty.
        metrics: the metrics file.
        relations: for LAMA, one row each: `relation`, `label`, `facts`, `left_out`, those of
            `CONTROLS` that it has, `p_at_1`; of later versions also `train_facts`, `dev_facts`,
            `steps`, `hard_facts`, `p_at_1_hard`; of relations whose objects compete also
            `one_token_facts`, `p_at_1_one_token`.
        templates: for stability, one row each: `relation`, `number`, `template`, `facts`, `p_at_1`;
            of later versions also `train_facts`, `dev_facts`, `steps`.
        trainings: one row for each evaluated training: `task`, `setting`, `split`, `seed`,
            `best_epoch`, `dev_score`, `test_score`; of later versions also `steps`.
        settings: one row for each setting that was tried, with `task` and `chosen`.
        curves: points of the evaluated trainings: `task`, `training`, `epoch`, `dev_score`.
    """

    benchmark: str
    task: str
    method: str
    metrics: Row
    relations: list[Row] = field(default_factory=list)
    templates: list[Row] = field(default_factory=list)
    trainings: list[Row] = field(default_factory=list)
    settings: list[Row] = field(default_factory=list)
    curves: list[Row] = field(default_factory=list)

    @property
    def name(self) -> str:
        """Name of its files: `lama/p-tuning`, `superglue/rte/p-tuning`."""
        return "/".join(filter(None, (self.benchmark, self.task, self.method)))

    @property
    def scores(self) -> list[Score]:
        """Its rows of the table of scores, with the controls."""
        return scores_of(self.metrics, self.benchmark, self.task, self.method)

    def score(self, split: str = "test") -> Score:
        """Return the number that the method is judged by."""
        metric = HEADLINE[self.benchmark]
        return next(
            score
            for score in self.scores
            if (score.method, score.split, score.metric) == (self.method, split, metric)
        )

    def as_record(self) -> Row:
        """Return what a record keeps of it."""
        values = asdict(self)
        return {
            key: values[key]
            for key in ("metrics", "relations", "templates", "trainings", "settings")
            if values[key]
        }


def from_record(benchmark: str, task: str, method: str, record: Row) -> MethodResult:
    """Return what a record kept; older records name no task in the rows of trainings."""
    rows = {key: record.get(key, []) for key in ("relations", "templates")}
    for key in ("trainings", "settings"):
        rows[key] = [{"task": task, **row} for row in record.get(key, [])]
    return MethodResult(benchmark, task, method, record["metrics"], **rows)


@dataclass(frozen=True)
class ResultFolders:
    """The folders that training and evaluation write to."""

    metrics: Path
    curves: Path
    evaluation: Path


def read_result(
    folders: ResultFolders, benchmark: str, method: str, task: str = "", *, curves: bool = True
) -> MethodResult:
    """Return what the files of one method hold, with or without its learning curves.

    Raises:
        DataError: a file is missing.
    """
    name = "/".join(filter(None, (benchmark, task, method)))
    folder = folders.evaluation / name
    trainings = read_table(folder / "trials.csv", task)
    relations: list[Row] = []
    if benchmark == "lama":
        controls, scores = (read_table(folder / f"{n}.csv") for n in ("controls", "relations"))
        relations = [control | score for control, score in zip(controls, scores, strict=True)]
    return MethodResult(
        benchmark,
        task,
        method,
        metrics=read_object(folders.metrics / f"{name}.json"),
        relations=relations,
        templates=read_table(folder / "templates.csv") if benchmark == "stability" else [],
        trainings=trainings,
        settings=read_table(folder / "settings.csv", task),
        curves=_curves(folders.curves / f"{name}.csv", task, trainings) if curves else [],
    )


def read_table(path: Path, task: str = "") -> list[Row]:
    """Return the rows of a table of an evaluation, with numbers as numbers and empty cells as None.

    A table without a column `task` gets one with the SuperGLUE task.

    Raises:
        DataError: the file is missing or has no rows.
    """
    rows: list[Row] = [
        {key: value if key in _TEXTS else _value(value) for key, value in row.items()}
        for row in read_csv(path)
    ]
    if not rows:
        raise DataError(f"{path}: no rows; run `dvc repro` to write it again")
    return [{"task": task, **row} for row in rows] if task else rows


def _value(text: str) -> Any:
    constants = {"": None, "True": True, "False": False}
    if text in constants:
        return constants[text]
    return int(text) if text.lstrip("-").isdigit() else float(text)


def _curves(path: Path, task: str, trainings: Sequence[Row]) -> list[Row]:
    """Return the points of the trainings that were evaluated."""
    evaluated = {tuple(row[key] for key in ("task", *_TRAINING[1:])) for row in trainings}
    points = []
    for row in read_csv(path):
        training = tuple(int(row[key]) for key in _TRAINING[1:])
        name = row.get("relation", task)
        if (name, *training) in evaluated:
            value = float(row.get("dev_score") or row["dev_p_at_1"])
            point = {"task": name, "training": training, "epoch": int(row["epoch"])}
            points.append({**point, "dev_score": value})
    return points


def read_answers(evaluation: Path, methods: Sequence[str], count: int) -> list[Row]:
    """Return some facts of LAMA's test set, spread over the relations, with each method's answer.

    The folder `evaluation` is not read if `count` is 0.

    Returns:
        Rows `relation`, `subject`, `object`, and the answer under each method's name.

    Raises:
        DataError: a file is missing.
    """
    facts: dict[tuple[str, str, str], Row] = {}
    for method in methods if count else ():
        path = evaluation / "lama" / method / "predictions" / "predictions.jsonl"
        for record in read_jsonl(path):
            fact = {key: record[key] for key in ("relation", "subject", "object")}
            facts.setdefault(tuple(fact.values()), fact).setdefault(method, record["answer"])
    by_relation: dict[str, list[Row]] = {}
    for fact in facts.values():
        by_relation.setdefault(fact["relation"], []).append(fact)
    turns = [fact for rank in range(count) for of in by_relation.values() for fact in of[rank:][:1]]
    return sorted(turns[:count], key=lambda fact: list(by_relation).index(fact["relation"]))


def read_nearest(evaluation: Path, results: Iterable[MethodResult]) -> list[Row]:
    """Return the words nearest to the trained vectors of each task or relation.

    Of several trainings, the first one with the best dev score is shown.

    Returns:
        Rows `task`, `method` and `nearest`: for each vector, its words, the nearest first.

    Raises:
        DataError: a file is missing.
    """
    rows = []
    for result in results:
        path = evaluation / result.name / "predictions" / "nearest.jsonl"
        nearest = {record["trial"]: record["nearest"] for record in read_jsonl(path)}
        best: dict[str, Row] = {}
        for row in result.trainings:
            current = best.setdefault(row["task"], row)
            if row["dev_score"] > current["dev_score"]:
                best[row["task"]] = row
        rows += [
            {"task": task, "method": result.method, "nearest": nearest[row["training"]]}
            for task, row in best.items()
            if row["training"] in nearest
        ]
    return rows


def count_epochs(path: Path) -> Row:
    """Count the trainings of a file of learning curves, and the epochs that they took together.

    An iteration of a search for discrete prompts counts as an epoch.

    Raises:
        DataError: the file is missing.
    """
    last: dict[tuple[str, ...], int] = {}
    for row in read_csv(path):
        training = tuple(row[key] for key in _TRAINING if key in row)
        last[training] = max(last.get(training, 0), int(row["epoch"]))
    return {"trainings": len(last), "epochs": sum(last.values())}


def setting_name(row: Row) -> str:
    """Return what distinguishes a setting: the values that were tried, or else its template."""
    return str(row["tried"] or row["template"])


def sort_relations(results: Sequence[MethodResult]) -> dict[str, list[Row]]:
    """Return method -> rows of its relations, in the order of the best score of any method."""
    best: dict[str, float] = {}
    for result in results:
        for row in result.relations:
            best[row["relation"]] = max(row["p_at_1"], best.get(row["relation"], 0.0))
    order = sorted(best, key=lambda name: best[name], reverse=True)
    return {
        result.method: sorted(result.relations, key=lambda row: order.index(row["relation"]))
        for result in results
    }


def join(columns: Mapping[str, Iterable[Row]], *keys: str) -> list[Row]:
    """Join the rows of several methods: their `p_at_1` is stored under the method's name.

    Returns:
        One row for each value of the keys, the rest from the first method that has it.
    """
    joined: dict[tuple[Any, ...], Row] = {}
    for method, rows in columns.items():
        for row in rows:
            shared = {name: value for name, value in row.items() if name != "p_at_1"}
            joined.setdefault(tuple(row[key] for key in keys), shared)[method] = row["p_at_1"]
    return list(joined.values())
