"""What a run is told, as data: to be sent to MLflow now, or kept and sent later."""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, Literal

import requests

from pipeline.errors import PipelineError, TrackingError

Kind = Literal[
    "metrics", "params", "tags", "untag", "text", "file", "dataset", "child", "end", "step"
]

# What MLflow says of an entry that it will never take; all else is the server's trouble.
_REFUSALS = {
    "ALREADY_EXISTS", "BAD_REQUEST", "INVALID_PARAMETER_VALUE", "NOT_FOUND",
    "RESOURCE_ALREADY_EXISTS", "RESOURCE_DOES_NOT_EXIST",
}  # fmt: skip
# Of a proxy's answers 400 to 499, those that an account, an address or time can mend.
_MENDABLE = {401, 403, 404, 408, 429}


def _now() -> int:
    return int(time.time() * 1000)


@dataclass(frozen=True)
class Entry:
    """One thing that a run is told.

    Attributes:
        kind: of thing.
        run: MLflow's id; of a run below a stage's, the stage's id, a slash and the unit's name.
        values: what is told; of a file, its path.
        time: when, in milliseconds since 1970.
    """

    kind: Kind
    run: str
    values: Mapping[str, Any] = field(default_factory=dict)
    time: int = field(default_factory=_now)

    def to_line(self) -> str:
        """Return it as a line of JSON."""
        return json.dumps(vars(self), ensure_ascii=False)

    @classmethod
    def from_line(cls, line: str) -> "Entry":
        """Read what `to_line` wrote."""
        return cls(**json.loads(line))


# Something that reads the history to tell of a run: of its id, with what sends an entry.
Step = Callable[[str, Callable[[Entry], None]], None]


def is_refusal(error: Exception) -> bool:
    """Whether an entry was at fault, so that to send it again would be in vain."""
    code = getattr(error, "error_code", None)
    if code is not None:
        return code in _REFUSALS
    if isinstance(error, requests.HTTPError) and error.response is not None:
        status = error.response.status_code
        return 400 <= status < 500 and status not in _MENDABLE
    if isinstance(error, TrackingError | OSError):
        return isinstance(error, FileNotFoundError)
    return isinstance(error, AttributeError | LookupError | PipelineError | TypeError | ValueError)


class Sender:
    """Sends entries to MLflow; one that has arrived already changes nothing there.

    A metric has one value for each step of a run: what the run has is not sent again.
    """

    def __init__(
        self, mlflow: ModuleType, steps: Mapping[str, Step], *, doubts_all: bool = False
    ) -> None:
        """Take the means.

        Args:
            mlflow: connected to the store.
            steps: name -> what an entry of kind `step` stands for.
            doubts_all: whether any run may have entries that this process has not sent.
        """
        self._client = mlflow.MlflowClient()
        self._steps = steps
        self._doubts_all = doubts_all
        self._doubted: set[str] = set()
        self._logged: dict[str, dict[str, set[int]]] = {}
        self._children: dict[str, str] = {}

    def doubt(self, run_id: str) -> None:
        """Ask MLflow what a run has, before the next metrics of it are sent."""
        self._doubted.add(run_id)
        self._logged.pop(run_id, None)

    def child_id(self, run: str) -> str | None:
        """Return MLflow's id of a run below another, if this sender has opened it."""
        return self._children.get(run)

    def send(self, entry: Entry) -> None:
        """Send an entry.

        Raises:
            Exception: of many kinds; `is_refusal` tells them apart.
        """
        if entry.kind == "child":
            self._open_child(entry)
            return
        run_id = self._id_of(entry.run)
        try:
            self._send(run_id, entry)
        except BaseException:
            self.doubt(run_id)  # it may have arrived none the less
            raise

    def _send(self, run_id: str, entry: Entry) -> None:
        values = entry.values
        match entry.kind:
            case "metrics":
                self._log_metrics(run_id, entry)
            case "params":
                self._log_params(run_id, values)
            case "tags":
                from mlflow.entities import RunTag

                tags = [RunTag(key, value) for key, value in values.items()]
                self._client.log_batch(run_id, tags=tags)
            case "untag":
                self._untag(run_id, values["name"])
            case "text":
                self._client.log_text(run_id, values["text"], values["name"])
            case "file":
                self._client.log_artifact(run_id, values["path"], values["folder"])
            case "dataset":
                self._log_dataset(run_id, values)
            case "end":
                self._client.set_terminated(run_id, values["status"], entry.time)
            case "step":
                self._steps[values["name"]](run_id, self.send)

    def _log_metrics(self, run_id: str, entry: Entry) -> None:
        from mlflow.entities import Metric

        step = entry.values["step"]
        new = {
            key: value
            for key, value in entry.values["metrics"].items()
            if step not in self._logged_steps(run_id, key)
        }
        metrics = [Metric(key, value, entry.time, step) for key, value in new.items()]
        self._client.log_batch(run_id, metrics=metrics)
        for key in new:
            self._logged_steps(run_id, key).add(step)

    def _logged_steps(self, run_id: str, key: str) -> set[int]:
        logged = self._logged.setdefault(run_id, {})
        if key not in logged:
            asks = self._doubts_all or run_id in self._doubted
            history = self._client.get_metric_history(run_id, key) if asks else []
            logged[key] = {point.step for point in history}
        return logged[key]

    def _log_params(self, run_id: str, params: Mapping[str, str]) -> None:
        from mlflow.entities import Param

        self._client.log_batch(run_id, params=[Param(key, value) for key, value in params.items()])

    def _untag(self, run_id: str, name: str) -> None:
        if name in self._client.get_run(run_id).data.tags:
            self._client.delete_tag(run_id, name)

    def _log_dataset(self, run_id: str, values: Mapping[str, str]) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag
        from mlflow.exceptions import MlflowException

        dataset = Dataset(values["name"], values["digest"], "http", values["source"])
        tag = InputTag("mlflow.data.context", values["context"])
        inputs = [DatasetInput(dataset, [tag])]
        try:
            self._client.log_inputs(run_id, inputs)
        except MlflowException:
            # Of two stages that make the same dataset at the same moment, MLflow fails one, which
            # finds it the next time.
            self._client.log_inputs(run_id, inputs)

    def _open_child(self, entry: Entry) -> None:
        """Open a run below another one, the one that is there or a new one."""
        parent = entry.run.partition("/")[0]
        child_id = self._find_child(entry.run)
        if child_id is None:
            child_id = self._make_child(parent, entry)
        else:
            self._client.update_run(child_id, status="RUNNING")
            self.doubt(child_id)
        self._log_params(child_id, entry.values["params"])
        self._children[entry.run] = child_id

    def _make_child(self, parent: str, entry: Entry) -> str:
        own = self._client.get_run(parent)
        unit = entry.run.partition("/")[2]
        inherited = ("mlflow.source.git.commit", "git.dirty", "dvc.run_key", "model")
        kept = {key: own.data.tags[key] for key in inherited if key in own.data.tags}
        made = self._client.create_run(
            own.info.experiment_id,
            start_time=entry.time,
            run_name=unit,
            tags={**kept, **entry.values["tags"], "mlflow.parentRunId": parent, "unit": unit},
        )
        return str(made.info.run_id)

    def _find_child(self, run: str) -> str | None:
        parent, _, unit = run.partition("/")
        found = self._client.search_runs(
            [self._client.get_run(parent).info.experiment_id],
            f"tags.`mlflow.parentRunId` = '{parent}' AND tags.unit = '{unit}'",
        )
        return str(found[0].info.run_id) if found else None

    def _id_of(self, run: str) -> str:
        """Return MLflow's id of a run.

        Raises:
            LookupError: of a run below another that MLflow does not have.
        """
        if "/" not in run:
            return run
        if run not in self._children:
            found = self._find_child(run)
            if found is None:
                raise LookupError(f"MLflow has no run {run}")
            self._children[run] = found
        return self._children[run]
