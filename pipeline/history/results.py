"""Finished evaluations in the history, as rows of the table of scores."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from types import ModuleType
from typing import Any

from pipeline.history.executions import READ, RESTORED, WROTE, TrackedHistory, tags_below
from pipeline.history.store import connect, history_exists, unreadable
from pipeline.report.scores import HEADLINE, Score, scores_of, source_name
from pipeline.workflow.command import EXPERIMENTS

# Metric of a training: seconds of earlier runs whose results it reused.
SECONDS_REUSED = "seconds/taken_over"


@dataclass(frozen=True)
class Result:
    """One finished evaluation.

    Attributes:
        ended: time of its end, by this machine's clock.
        benchmark: `lama`, `stability`, `superglue` or `tasks`.
        task: of SuperGLUE or of the user; empty for the others.
        source: of the data, for a task of the user its file; None if the run does not record it.
        params: dotted path in `params.yaml` -> value as text, of the run and of those runs that
            made the splits and the trained prompts which it read.
        contents: hashes of the splits and the model, or the run itself without DVC. Scores on
            different contents are not comparable.
        metrics: the numbers of the metrics file.
        seconds: `train` and `evaluate`, those that are known, with the seconds of earlier runs
            whose trainings were reused.
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
        """The task; the benchmark if it has no tasks."""
        return self.task or self.benchmark

    @property
    def restored(self) -> bool:
        """Whether `ptune sync` made the run; then it ended when it was restored."""
        return self.tags.get(RESTORED) == "true"

    @property
    def relations(self) -> int:
        """Number of LAMA's relations that were evaluated."""
        return sum(key.startswith("test/p_at_1/") for key in self.metrics)

    @property
    def data(self) -> str:
        """Name of the data, with subset or protocol."""
        if self.source is None:
            return "unknown data"
        if self.benchmark == "tasks":
            return self.source
        if self.benchmark != "superglue":
            if self.source != "lama":
                return self.source
            return f"lama {self.params.get('lama.subset', '(subset unknown)')}"
        protocol = self.params.get("superglue.protocol", "(protocol unknown)")
        # For generated examples the other protocols are the same.
        if self.source == "geonames" and protocol != "multi-split":
            return self.source
        return f"{self.source} {protocol}"

    def score(self, split: str) -> Score | None:
        """Return the number that the method is judged by; None if the run has none."""
        scores = scores_of(self.metrics, self.benchmark, self.task, self.method, origin=self.run_id)
        key = (self.method, split, HEADLINE.get(self.benchmark))
        return next((s for s in scores if (s.method, s.split, s.metric) == key), None)

    def count(self, key: str) -> int | None:
        """Return a metric that counts something; None if the run has none."""
        value = self.metrics.get(key)
        return None if value is None else int(value)


def read_results() -> list[Result]:
    """Return all finished evaluations, the newest first.

    Raises:
        TrackingError: the tracking server or store cannot be used.
    """
    if not history_exists():
        return []
    mlflow = connect()
    # Path and hash of an output -> the newest run that wrote it.
    producers: dict[tuple[str, str], Any] = {}
    try:
        for run in (*_stage_runs(mlflow, "splits"), *_stage_runs(mlflow, "train")):
            for path, digest in tags_below(run.data.tags, WROTE).items():
                producers.setdefault((path, digest), run)
        results = [_result(run, producers) for run in _stage_runs(mlflow, "evaluate")]
    except Exception as error:  # of MLflow's, its database's and its client's many
        raise unreadable(error) from error
    return sorted(results, key=lambda result: result.ended, reverse=True)


def newest(results: Iterable[Result]) -> list[Result]:
    """Return the first result of each model, data, task and method, of results newest first."""
    first: dict[tuple[str, ...], Result] = {}
    for result in results:
        key = (result.model, result.data, result.benchmark, result.task, result.method)
        first.setdefault(key, result)
    return list(first.values())


def seconds_of_execution(run_key: str) -> float | None:
    """Return the seconds of the newest finished run of an execution; None if unknown.

    Raises:
        TrackingError: the tracking server or store cannot be used.
    """
    runs = TrackedHistory().find_by_run_key(run_key)
    return next((_seconds(run.metrics) for run in runs if run.metrics.get("seconds")), None)


def _stage_runs(mlflow: ModuleType, stage: str) -> list[Any]:
    """Return the finished runs of a stage, without their child runs, the newest first."""
    experiment = mlflow.get_experiment_by_name(EXPERIMENTS[stage])
    if experiment is None:
        return []
    runs = mlflow.search_runs(
        [experiment.experiment_id],
        filter_string=f"tags.stage = '{stage}' AND attributes.status = 'FINISHED'",
        order_by=["attributes.end_time DESC"],
        output_format="list",
    )
    return [run for run in runs if "mlflow.parentRunId" not in run.data.tags]


def _result(run: Any, producers: Mapping[tuple[str, str], Any]) -> Result:
    tags: dict[str, str] = run.data.tags
    params: dict[str, str] = {}
    seconds: dict[str, float] = {}
    read = tags_below(tags, READ)
    for part in filter(None, (*map(producers.get, read.items()), run)):
        params |= part.data.params
        spent = _seconds(part.data.metrics)
        if spent is not None:
            seconds[part.data.tags["stage"]] = spent
    benchmark = tags.get("benchmark", "")
    section = "superglue" if benchmark == "superglue" else "lama"
    key = f"tasks.{tags.get('task')}.data.file" if benchmark == "tasks" else f"{section}.source"
    source = params.get(key)
    # The folders that the command names as splits and model.
    options = dict(pairwise(tags.get("dvc.command", "").split()))
    folders = {part: options.get(f"--{part}", "") for part in ("splits", "model")}
    contents = {part: read[folder] for part, folder in folders.items() if folder in read}
    return Result(
        run_id=run.info.run_id,
        ended=datetime.fromtimestamp(
            (run.info.end_time or run.info.start_time) / 1000, UTC
        ).astimezone(),
        model=tags.get("model") or params.get("model.name", "unknown model"),
        benchmark=benchmark,
        task=tags.get("task", ""),
        method=tags.get("method", ""),
        source=None if source is None else source_name(source),
        params=params,
        contents=contents or {"run": run.info.run_id},
        metrics=run.data.metrics,
        seconds={stage: seconds[stage] for stage in ("train", "evaluate") if stage in seconds},
        tags=tags,
    )


def _seconds(metrics: Mapping[str, float]) -> float | None:
    if "seconds" not in metrics:
        return None
    return metrics["seconds"] + metrics.get(SECONDS_REUSED, 0.0)
