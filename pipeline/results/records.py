"""Records: the results of one run as JSON, kept with the project."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal

from pipeline.config.schema import Params
from pipeline.data.lama import ALL
from pipeline.data.superglue import read_examples
from pipeline.errors import DataError
from pipeline.evaluation.controls import best_constant, majority
from pipeline.evaluation.metrics import task_metrics, task_score
from pipeline.files import read_json
from pipeline.history.context import git_state
from pipeline.report.markdown import escaped
from pipeline.report.scores import (
    MethodResult,
    ResultFolders,
    Row,
    from_record,
    read_result,
    source_name,
)
from pipeline.report.tables import data_name, relation_count
from pipeline.tasks import get_task, task_names

Benchmark = Literal["lama", "superglue"]
# Stage, benchmark, method, and task if any -> seconds that it took; None if unknown.
SecondsOf = Callable[..., float | None]


def collect(
    benchmark: Benchmark, params: Params, root: Path, head: Row, *, seconds_of: SecondsOf
) -> Row:
    """Return a record of what `params.yaml` lists of a benchmark, ready to be written as JSON.

    LAMA's has stability over templates too. A SuperGLUE task that has splits but was run with no
    method is recorded with its counts and constant answers.

    `params` are unchanged since the project's last `dvc repro`. `head` has the first keys of the
    record: `name`; `note`, a remark, may be empty; `date` as YYYY-MM-DD; `hardware` with
    `processor`, `cores` and `gpu` (None if none was used).

    Raises:
        DataError: nothing is listed, a file is missing, or the files are about other relations.
    """
    folders = ResultFolders(root / "metrics", root / "curves", root / "evaluation")

    def record(of: str, method: str, task: str = "") -> Row:
        result = read_result(folders, of, method, task, curves=False).as_record()
        which = (of, method, task) if task else (of, method)
        seconds = {stage: seconds_of(stage, *which) for stage in ("train", "evaluate")}
        return {"metrics": result.pop("metrics"), "seconds": seconds, **result}

    gather = _lama if benchmark == "lama" else _superglue
    commit, dirty = git_state(root) or (None, None)
    git = {"commit": commit, "dirty": dirty}
    return {**head, "git": git, **gather(params, root, record)}


def _lama(params: Params, root: Path, record: Callable[..., Row]) -> Row:
    lama = params.lama
    methods = lama.methods if lama.relations else []
    if not methods and not lama.stability.methods:
        raise DataError("params.yaml lists no method of knowledge probing; nothing to collect")
    results = {method: record("lama", method) for method in methods}
    for method, result in results.items():
        names = [row["relation"] for row in result["relations"]]
        if lama.relations != ALL and set(lama.relations) != set(names):
            raise DataError(
                f"evaluation/lama/{method} is about {', '.join(names)}, which is not "
                "lama.relations of params.yaml; run `dvc repro` first"
            )
    return {
        "params": _params(params, "lama", [*methods, *lama.stability.methods], None),
        "splits": read_json(root / "metrics" / "splits" / "lama.json"),
        "methods": results,
        "stability": {method: record("stability", method) for method in lama.stability.methods},
    }


def _superglue(params: Params, root: Path, record: Callable[..., Row]) -> Row:
    glue = params.superglue
    if not glue.tasks or not glue.methods:
        raise DataError("params.yaml lists no task or no method of SuperGLUE; nothing to collect")
    splits = root / "data" / "splits" / "superglue"
    folders = {task: splits / task for task in task_names() if (splits / task).is_dir()}
    missing = [task for task in glue.tasks if task not in folders]
    if missing:
        raise DataError(f"{splits / missing[0]}: no such folder; run `dvc repro` first")
    return {
        "params": _params(params, "superglue", glue.methods, glue.tasks),
        "tasks": {
            task: {
                "counts": read_json(folder / "counts.json"),
                **_constant_answers(task, folder),
                "methods": {
                    method: record("superglue", method, task)
                    for method in (glue.methods if task in glue.tasks else [])
                },
            }
            for task, folder in folders.items()
        },
    }


def _constant_answers(name: str, folder: Path) -> dict[str, Row]:
    """Return the metrics, on test, of the first split's majority class and the best constant."""
    task = get_task(name)
    first = min(path for path in folder.iterdir() if path.is_dir())
    train = read_examples(first / "train.jsonl", task.examples)
    test = read_examples(folder / "test.jsonl", task.examples)
    label = majority([example.label for example in train])
    metrics = task_metrics(task, test, [label] * len(test))
    return {
        "majority": {"label": label, "score": task_score(metrics), **metrics},
        "constant": best_constant(task, test),
    }


def _params(
    params: Params, benchmark: Benchmark, methods: Iterable[str], tasks: Iterable[str] | None
) -> Row:
    """Return what decided the results; a model in a folder is recorded by the folder's name."""
    model = params.model.model_dump(mode="json")
    if Path(model["name"]).expanduser().is_dir():
        model["name"] = Path(model["name"]).name
    section: dict[str, Any] = getattr(params, benchmark).model_dump(mode="json")
    by_task = ("prompts", "overrides") if tasks is not None else ()
    for key in ("prompts", "training", "grid", "overrides"):
        names = dict.fromkeys((tasks or ()) if key in by_task else methods)
        if key in section and (tasks is not None or key != "overrides"):
            section[key] = {name: section[key][name] for name in names if name in section[key]}
    return {"seed": params.seed, "model": model, benchmark: section}


def _with_constant(of: Row, result: Row) -> Row:
    """Return a method's part of a record with the task's best constant answer in its metrics."""
    known = {
        f"test/constant_{name}".removesuffix("_score"): value
        for name, value in of.get("constant", {}).items()
    }
    return {**result, "metrics": result["metrics"] | known}


class Record:
    """A record as `collect` returned it, for the pages.

    Attributes:
        name: as Markdown.
        params: the benchmark's section of `params.yaml`.
        seeds: of the trainings; older records of LAMA have one.
        data: name of LAMA's facts, as Markdown.
    """

    def __init__(self, benchmark: Benchmark, content: Row) -> None:
        """Initialize with the content of a file."""
        params = content["params"]
        self.benchmark = benchmark
        self.content = content
        self.name = f"`{content['name']}`"
        self.params: Row = params[benchmark]
        self.seed: int = params["seed"]
        self.seeds: list[int] = self.params.get("seeds") or [self.seed]
        self.model: str = params["model"]["name"]
        self.start: str | None = params["model"].get("start")  # earlier versions had none
        self.source = source_name(self.params["source"])
        self.data = data_name(
            self.source, self.params.get("subset", ""), self.params.get("objects", "")
        )

    @property
    def results(self) -> list[MethodResult]:
        """The results on the benchmark, by task."""
        tasks = {"": self.content} if self.benchmark == "lama" else self.content["tasks"]
        return [
            from_record(self.benchmark, task, method, _with_constant(of, result))
            for task, of in tasks.items()
            for method, result in of["methods"].items()
        ]

    @property
    def stability(self) -> list[MethodResult]:
        """The results of stability over templates."""
        results = self.content.get("stability", {})
        return [from_record("stability", "", method, of) for method, of in results.items()]

    @property
    def relations(self) -> str:
        """Number of relations that were evaluated, in words."""
        if not self.content["methods"]:
            return "stability only"
        return relation_count(self.source, len(self.results[0].relations))

    def minutes(self, result: MethodResult) -> list[str]:
        """Return the minutes of training and evaluation, as cells."""
        if result.benchmark == "superglue":
            methods = self.content["tasks"][result.task]["methods"]
        else:
            methods = self.content["methods" if result.benchmark == "lama" else "stability"]
        seconds = methods[result.method]["seconds"]
        times = [seconds["train"], seconds["evaluate"]]
        return ["unknown" if time is None else f"{time / 60:.1f}" for time in times]

    def provenance(self) -> list[str]:
        """Return the cells machine, date, commit, and note."""
        hardware, git = self.content["hardware"], self.content["git"]
        processor = f"{hardware['cores']} cores of {hardware['processor']}"
        commit = "unknown"
        if git["commit"] is not None:
            commit = f"{git['commit'][:10]}{' with changes' if git['dirty'] else ''}"
        machine = escaped(f"{processor}, {hardware['gpu'] or 'no GPU'}")
        return [machine, self.content["date"], commit, escaped(self.content["note"])]
