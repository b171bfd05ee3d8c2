"""Finished evaluations in the history, as rows of the table of scores."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any

from pipeline.errors import PipelineError
from pipeline.files import read_jsonl
from pipeline.history.executions import READ, RESTORED, WROTE, TrackedHistory, tags_below
from pipeline.history.store import connect, history_exists, unreadable
from pipeline.report.scores import HEADLINE, Score, read_table, scores_of, source_name
from pipeline.report.significance import Answers, correct_answers
from pipeline.workflow.command import EXPERIMENTS
from pipeline.workflow.lock import read_lock
from pipeline.workflow.project import project_root

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
        current: whether `dvc.lock` has this execution.
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
    current: bool

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
            several = " all objects" if self.params.get("lama.objects") == "all" else ""
            if self.source != "lama":
                return f"{self.source}{several}"
            return f"lama {self.params.get('lama.subset', '(subset unknown)')}{several}"
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
        for run in (*stage_runs(mlflow, "splits"), *stage_runs(mlflow, "train")):
            for path, digest in tags_below(run.data.tags, WROTE).items():
                producers.setdefault((path, digest), run)
        locked = _locked_keys()
        results = [_result(run, producers, locked) for run in stage_runs(mlflow, "evaluate")]
    except PipelineError:
        raise
    except Exception as error:  # of MLflow's, its database's and its client's many
        raise unreadable(error) from error
    return sorted(results, key=lambda result: result.ended, reverse=True)


def read_answers(result: Result) -> Answers | None:
    """Return which test examples an evaluation got right; None if the run keeps no predictions."""
    mlflow = connect()
    with TemporaryDirectory() as folder:
        try:
            files = [
                Path(mlflow.artifacts.download_artifacts(
                    run_id=result.run_id, artifact_path=name, dst_path=folder
                ))
                for name in ("predictions.jsonl", "trials.csv")
            ]  # fmt: skip
        except (mlflow.MlflowException, OSError):
            return None
        return correct_answers(read_jsonl(files[0]), read_table(files[1], result.task))


def latest(results: Sequence[Result]) -> list[Result]:
    """Return a result of each model, data, task and method, of results newest first.

    It is the one that `dvc.lock` has, else the newest: a result that was restored from the
    cache is not run again, and newer ones are of other settings.
    """
    first: dict[tuple[str, ...], Result] = {}
    for result in sorted(results, key=lambda result: not result.current):
        first.setdefault(subject_of(result), result)
    return [result for result in results if first[subject_of(result)] is result]


def subject_of(result: Result) -> tuple[str, ...]:
    """Return what results must share to differ in settings alone: model, data, task, method."""
    return (result.model, result.data, result.benchmark, result.task, result.method)


def _locked_keys() -> set[str | None]:
    """Return the run keys of `dvc.lock`; empty without one."""
    file = project_root() / "dvc.lock"
    keys = {entry.run_key for entry in read_lock(file).values()} if file.exists() else set()
    return keys - {None}


def seconds_of_execution(run_key: str) -> float | None:
    """Return the seconds of the newest finished run of an execution; None if unknown.

    Raises:
        TrackingError: the tracking server or store cannot be used.
    """
    runs = TrackedHistory().find_by_run_key(run_key)
    return next((seconds_of(run.metrics) for run in runs if run.metrics.get("seconds")), None)


def stage_runs(mlflow: ModuleType, stage: str) -> list[Any]:
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


def _result(
    run: Any, producers: Mapping[tuple[str, str], Any], locked: Collection[str | None]
) -> Result:
    tags: dict[str, str] = run.data.tags
    params: dict[str, str] = {}
    seconds: dict[str, float] = {}
    read = tags_below(tags, READ)
    for part in filter(None, (*map(producers.get, read.items()), run)):
        params |= part.data.params
        spent = seconds_of(part.data.metrics)
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
        current=tags.get("dvc.run_key") in locked,
    )


def seconds_of(metrics: Mapping[str, float]) -> float | None:
    """Return the seconds of a stage, with those of earlier runs that it reused; None if unknown."""
    if "seconds" not in metrics:
        return None
    return metrics["seconds"] + metrics.get(SECONDS_REUSED, 0.0)
