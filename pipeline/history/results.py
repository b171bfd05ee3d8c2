"""Read the history."""

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from itertools import pairwise
from types import ModuleType
from typing import Any

from pipeline.history.executions import READ, RESTORED, WROTE
from pipeline.history.store import connect, history_exists, unreadable
from pipeline.workflow.command import EXPERIMENTS

# Metric of a training: what earlier runs spent on what this one took over from them.
SECONDS_REUSED = "seconds/taken_over"


@dataclass(frozen=True)
class Result:
    """What one evaluation gave.

    Attributes:
        run_id: MLflow's.
        ended: when, by this machine's clock.
        model: name of the language model.
        benchmark: `lama`, `stability` or `superglue`.
        task: of SuperGLUE; empty for the others.
        method: its name.
        source: where the data are from; None where the run does not say.
        params: dotted path in `params.yaml` -> value as text, of the run and of those runs that
            made the splits and the trained prompts which it read.
        contents: what was evaluated on and with, by content: DVC's hashes of splits and model, or
            the run itself where DVC does not vouch for them. Scores of other contents are not to be
            compared.
        metrics: the numbers of the metrics file.
        seconds: what it took, by stage: `train` and `evaluate`; without those that are unknown,
            with what other runs spent on trainings that were taken over from them.
        tags: of the run.
    """

    run_id: str
    ended: datetime
    model: str
    benchmark: str
    task: str
    method: str
    source: str | None
    params: Mapping[str, str]
    contents: Mapping[str, str]
    metrics: Mapping[str, float]
    seconds: Mapping[str, float]
    tags: Mapping[str, str]

    @property
    def name(self) -> str:
        """The task; the benchmark where it has no tasks."""
        return self.task or self.benchmark

    @property
    def restored(self) -> bool:
        """Whether the run was made afterward: then it ended when it was restored."""
        return self.tags.get(RESTORED) == "true"

    @property
    def relations(self) -> int:
        """How many relations of LAMA were asked."""
        return sum(key.startswith("test/p_at_1/") for key in self.metrics)

    @property
    def data(self) -> str:
        """Which data these are, in words."""
        if self.source is None:
            return "unknown data"
        if self.benchmark != "superglue":
            if self.source != "lama":
                return self.source
            return f"lama {self.params.get('lama.subset', '(subset unknown)')}"
        protocol = self.params.get("superglue.protocol", "(protocol unknown)")
        # The other protocols are the same to made examples.
        if self.source == "geonames" and protocol != "multi-split":
            return self.source
        return f"{self.source} {protocol}"


@dataclass(frozen=True)
class Wanted:
    """Which results to take; what is empty or None leaves all.

    Attributes:
        models: names of models.
        tasks: of SuperGLUE, or `lama`, or `stability`.
        methods: their names.
        since: the first day.
        until: the last day.
        tags: of the run, each with its value.
    """

    models: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    since: date | None = None
    until: date | None = None
    tags: Mapping[str, str] | None = None

    def admits(self, result: Result) -> bool:
        """Tell whether a result is wanted."""
        day = result.ended.date()
        return (
            (not self.models or result.model in self.models)
            and (not self.tasks or result.name in self.tasks)
            and (not self.methods or result.method in self.methods)
            and (self.since is None or day >= self.since)
            and (self.until is None or day <= self.until)
            and all(result.tags.get(key) == value for key, value in (self.tags or {}).items())
        )


def read_results() -> list[Result]:
    """Return what each finished evaluation gave, the newest first.

    Raises:
        TrackingError: the tracking server or store cannot be used.
    """
    if not history_exists():
        return []
    with _reading() as mlflow:
        made = _makers(mlflow)
        results = [_result(run, made) for run in _stage_runs(mlflow, "evaluate")]
    return sorted(results, key=lambda result: result.ended, reverse=True)


def newest(results: Iterable[Result]) -> list[Result]:
    """Keep, of results that come newest first, one for each model, data, task and method."""
    kept: dict[tuple[str, ...], Result] = {}
    for result in results:
        key = (result.model, result.data, result.benchmark, result.task, result.method)
        kept.setdefault(key, result)
    return list(kept.values())


def seconds_of_execution(run_key: str) -> float | None:
    """Return the seconds of the newest run of an execution that ended; None if none is known.

    Args:
        run_key: identity of the execution (`pipeline.workflow.lock`).

    Raises:
        TrackingError: the tracking server or store cannot be used.
    """
    if not history_exists():
        return None
    with _reading() as mlflow:
        runs = mlflow.search_runs(
            filter_string=(
                f"tags.`dvc.run_key` = '{run_key}' AND attributes.status = 'FINISHED' "
                "AND metrics.seconds > 0"
            ),
            order_by=["attributes.start_time DESC"],
            max_results=1,
            search_all_experiments=True,
            output_format="list",
        )
    return _seconds(runs[0]) if runs else None


@contextlib.contextmanager
def _reading() -> Iterator[ModuleType]:
    mlflow = connect()
    try:
        yield mlflow
    except Exception as error:  # of MLflow's, its database's and its client's many
        raise unreadable(error) from error


def _stage_runs(mlflow: ModuleType, stage: str) -> list[Any]:
    """Return the finished runs of a stage, without those of its units, the newest first."""
    found = mlflow.get_experiment_by_name(EXPERIMENTS[stage])
    if found is None:
        return []
    runs = mlflow.search_runs(
        [found.experiment_id],
        filter_string=f"tags.stage = '{stage}' AND attributes.status = 'FINISHED'",
        order_by=["attributes.end_time DESC"],
        output_format="list",
    )
    return [run for run in runs if "mlflow.parentRunId" not in run.data.tags]


def _makers(mlflow: ModuleType) -> dict[tuple[str, str], Any]:
    """Return path and hash of what splits and training wrote -> the newest run that wrote it."""
    made: dict[tuple[str, str], Any] = {}
    for stage in ("splits", "train"):
        for run in _stage_runs(mlflow, stage):
            for tag, value in run.data.tags.items():
                if tag.startswith(WROTE):
                    made.setdefault((tag.removeprefix(WROTE), value), run)
    return made


def _result(run: Any, made: Mapping[tuple[str, str], Any]) -> Result:
    tags: dict[str, str] = run.data.tags
    params: dict[str, str] = {}
    seconds: dict[str, float] = {}
    for own in (*(made.get((tag.removeprefix(READ), tags[tag])) for tag in tags), run):
        if own is not None:
            params |= own.data.params
            spent = _seconds(own)
            if spent is not None:
                seconds[own.data.tags["stage"]] = spent
    benchmark = tags.get("benchmark", "")
    section = "superglue" if benchmark == "superglue" else "lama"
    return Result(
        run_id=run.info.run_id,
        ended=datetime.fromtimestamp(
            (run.info.end_time or run.info.start_time) / 1000, UTC
        ).astimezone(),
        model=tags.get("model") or params.get("model.name", "unknown model"),
        benchmark=benchmark,
        task=tags.get("task", ""),
        method=tags.get("method", ""),
        source=params.get(f"{section}.source"),
        params=params,
        contents=_contents(tags) or {"run": run.info.run_id},
        metrics=run.data.metrics,
        seconds={stage: seconds[stage] for stage in ("train", "evaluate") if stage in seconds},
        tags=tags,
    )


def _seconds(run: Any) -> float | None:
    metrics: dict[str, float] = run.data.metrics
    if "seconds" not in metrics:
        return None
    return metrics["seconds"] + metrics.get(SECONDS_REUSED, 0.0)


def _contents(tags: Mapping[str, str]) -> dict[str, str]:
    """Return the hashes of the folders that the run's command names as splits and model."""
    named = dict(pairwise(tags.get("dvc.command", "").split()))
    found = {part: tags.get(f"{READ}{named.get(f'--{part}')}") for part in ("splits", "model")}
    return {part: value for part, value in found.items() if value is not None}
