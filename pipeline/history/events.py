"""Log events of a run as plain data, and the writer that applies them to MLflow."""

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

import requests

from pipeline.errors import PipelineError, TrackingError

if TYPE_CHECKING:
    from mlflow.entities import Run

Kind = Literal[
    "metrics", "params", "tags", "untag", "text", "file", "dataset", "child", "end", "derived"
]

# MLflow's codes for an event that it will never accept; all others mean trouble with the server.
_REFUSALS = {
    "ALREADY_EXISTS", "BAD_REQUEST", "INVALID_PARAMETER_VALUE", "NOT_FOUND",
    "RESOURCE_ALREADY_EXISTS", "RESOURCE_DOES_NOT_EXIST",
}  # fmt: skip
# A proxy's 4xx answers that a valid account, another address or a later try can fix.
_RETRIABLE = {401, 403, 404, 408, 429}
# MLflow accepts so many of a type in one request.
_BATCH = {"metrics": 1000, "params": 100, "tags": 100}
_INHERITED = ("mlflow.source.git.commit", "git.dirty", "dvc.run_key", "dvc.restored", "model")


@dataclass(frozen=True)
class Event:
    """One log event of a run.

    Attributes:
        run: MLflow's run id; for a child run, the parent's id, a slash and the child's name.
        values: The content; for a file, its path; for metrics, the `points` of `metric_points`.
        time: When it happened, in milliseconds since 1970.
    """

    kind: Kind
    run: str
    values: Mapping[str, Any] = field(default_factory=dict)
    time: int = field(default_factory=lambda: int(time.time() * 1000))

    def to_line(self) -> str:
        """Return the event as a line of JSON, in ASCII."""
        return json.dumps(vars(self))

    @classmethod
    def from_line(cls, line: str) -> "Event":
        """Return the event that `to_line` wrote.

        Raises:
            ValueError, KeyError, TypeError: the line is damaged.
        """
        event = cls(**_current(json.loads(line)))
        if not isinstance(event.run, str) or not isinstance(event.values, dict):
            raise TypeError("another kind of values")
        return event


def metric_points(metrics: Mapping[str, float], step: int) -> list[Sequence[Any]]:
    """Return the points of numbers that are measured now: key, value, step and milliseconds."""
    now = int(time.time() * 1000)
    return [(key, float(value), step, now) for key, value in metrics.items()]


def merged_metrics(events: Iterable[Event]) -> list[Event]:
    """Return metrics as one event for each run, in the order of the runs' first ones.

    For a request, MLflow takes about as long with one number as with a hundred.
    """
    points: dict[str, list[Any]] = {}
    for event in events:
        points.setdefault(event.run, []).extend(event.values["points"])
    return [Event("metrics", run, {"points": values}) for run, values in points.items()]


def _current(event: dict[str, Any]) -> dict[str, Any]:
    """Return an event of a log of this or an earlier version in this version's form."""
    values = event["values"]
    if event["kind"] == "step":
        return {**event, "kind": "derived"}
    if event["kind"] == "metrics" and "points" not in values:
        step, when = values["step"], event["time"]
        points = [(key, value, step, when) for key, value in values["metrics"].items()]
        return {**event, "values": {"points": points}}
    return event


# Computes events of a run from the history, and writes them with the function that it is passed.
Derived = Callable[[str, Callable[[Event], None]], None]


def is_refusal(error: Exception) -> bool:
    """Whether MLflow rejected the event itself, so that another try is useless."""
    code = getattr(error, "error_code", None)
    if code is not None:
        return code in _REFUSALS
    if isinstance(error, requests.HTTPError) and error.response is not None:
        status = error.response.status_code
        return 400 <= status < 500 and status not in _RETRIABLE
    if isinstance(error, TrackingError | OSError):
        return isinstance(error, FileNotFoundError)
    return isinstance(error, AttributeError | LookupError | PipelineError | TypeError | ValueError)


class MlflowWriter:
    """Applies events to MLflow; applying an event a second time changes nothing.

    A metric has one value per step of a run: existing values are not written again.
    """

    def __init__(
        self, mlflow: ModuleType, derived: Mapping[str, Derived], *, check_existing: bool = False
    ) -> None:
        """Initialize with MLflow, connected to the store.

        `derived` is name -> function of an event of kind `derived`; `check_existing`, whether a run
        may have metrics that this process has not written.
        """
        self._client = mlflow.MlflowClient()
        self._derived = derived
        self._check_existing = check_existing
        self._steps: dict[tuple[str, str], set[int]] = {}
        self._parents: dict[str, Run] = {}
        self._children: dict[str, str] = {}

    def write(self, event: Event) -> None:
        """Apply an event.

        Raises:
            Exception: MLflow raises many types; `is_refusal` tells which of them are final.
        """
        try:
            if event.kind == "child":
                self._open_child(event)
            else:
                self._apply(self._resolve(event.run), event)
        except BaseException:
            # The event may have arrived nevertheless.
            self._check_existing = True
            self._steps.clear()
            raise

    def _apply(self, run_id: str, event: Event) -> None:
        from mlflow.entities import RunTag

        values = event.values
        match event.kind:
            case "metrics":
                self._log_metrics(run_id, values["points"])
            case "params":
                self._log_params(run_id, values)
            case "tags":
                self._log_batches(run_id, tags=[RunTag(*item) for item in values.items()])
            case "untag":
                if values["name"] in self._client.get_run(run_id).data.tags:
                    self._client.delete_tag(run_id, values["name"])
            case "text":
                self._client.log_text(run_id, values["text"], values["name"])
            case "file":
                self._client.log_artifact(run_id, values["path"], values["folder"])
            case "dataset":
                self._log_dataset(run_id, values)
            case "end":
                self._client.set_terminated(run_id, values["status"], event.time)
            case "derived":
                self._derived[values["name"]](run_id, self.write)

    def _log_metrics(self, run_id: str, points: Iterable[Sequence[Any]]) -> None:
        from mlflow.entities import Metric

        metrics = [
            Metric(key, value, when, step)
            for key, value, step, when in points
            if step not in self._existing_steps(run_id, key)
        ]
        self._log_batches(run_id, metrics=metrics)
        for metric in metrics:
            self._existing_steps(run_id, metric.key).add(metric.step)

    def _existing_steps(self, run_id: str, key: str) -> set[int]:
        if (run_id, key) not in self._steps:
            check = self._check_existing
            points = self._client.get_metric_history(run_id, key) if check else []
            self._steps[run_id, key] = {point.step for point in points}
        return self._steps[run_id, key]

    def _log_params(self, run_id: str, params: Mapping[str, str]) -> None:
        from mlflow.entities import Param

        self._log_batches(run_id, params=[Param(*item) for item in params.items()])

    def _log_batches(self, run_id: str, **entities: list[Any]) -> None:
        """Log a list of one type, in requests that MLflow accepts."""
        for kind, values in entities.items():
            for start in range(0, len(values), _BATCH[kind]):
                self._client.log_batch(run_id, **{kind: values[start : start + _BATCH[kind]]})

    def _log_dataset(self, run_id: str, values: Mapping[str, str]) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag
        from mlflow.exceptions import MlflowException

        dataset = Dataset(values["name"], values["digest"], "http", values["source"])
        tag = InputTag("mlflow.data.context", values["context"])
        inputs = [DatasetInput(dataset, [tag])]
        try:
            self._client.log_inputs(run_id, inputs)
        except MlflowException:
            # If two stages create the same dataset at the same moment, MLflow fails one of them;
            # the second try finds the dataset.
            self._client.log_inputs(run_id, inputs)

    def _open_child(self, event: Event) -> None:
        """Open a child run: the existing one of this name, or a new one."""
        from mlflow.entities import RunTag

        parent_id, _, name = event.run.partition("/")
        try:
            child_id = self._resolve(event.run)
        except LookupError:
            parent = self._parent(parent_id)
            tags = {key: parent.data.tags[key] for key in _INHERITED if key in parent.data.tags}
            tags |= {**event.values["tags"], "mlflow.parentRunId": parent_id, "unit": name}
            child = self._client.create_run(
                parent.info.experiment_id,
                start_time=event.time,
                run_name=name,
                tags=tags,
            )
            child_id = self._children[event.run] = str(child.info.run_id)
        else:
            self._client.update_run(child_id, status="RUNNING")
            # Of the process that runs it now; an earlier one has ended, see `_close_killed_runs`.
            self._log_batches(child_id, tags=[RunTag(*tag) for tag in event.values["tags"].items()])
        self._log_params(child_id, event.values["params"])

    def _resolve(self, run: str) -> str:
        """Return MLflow's id of a run.

        Raises:
            LookupError: MLflow does not have this child run.
        """
        parent_id, slash, name = run.partition("/")
        if not slash:
            return run
        if run not in self._children:
            if not self._check_existing:  # then only this process opens child runs
                raise LookupError(f"this process has opened no run {run}")
            runs = self._client.search_runs(
                [self._parent(parent_id).info.experiment_id],
                f"tags.`mlflow.parentRunId` = '{parent_id}' AND tags.unit = '{name}'",
            )
            if not runs:
                raise LookupError(f"MLflow has no run {run}")
            self._children[run] = str(runs[0].info.run_id)
        return self._children[run]

    def _parent(self, run_id: str) -> "Run":
        if run_id not in self._parents:
            self._parents[run_id] = self._client.get_run(run_id)
        return self._parents[run_id]
