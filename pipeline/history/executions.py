"""The history as executions of stages: which run wrote which content, and which read it."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from pipeline.errors import TrackingError
from pipeline.history.store import connect, history_exists, unreadable
from pipeline.workflow.lock import Execution

# Prefixes of tags, followed by a path, that hold the hashes of a run's inputs and outputs.
READ, WROTE = "dvc.dep.", "dvc.out."
RESTORED = "dvc.restored"
# A run's id, or enough of its beginning to identify it.
RUN_ID = re.compile(r"[0-9a-f]{6,32}")
# MLflow's limit on the length of a tag.
MAX_TAG = 5000
_MAX_RUNS = 100_000
# Tags that say what a stage was about.
_SUBJECT = ("stage", "benchmark", "task", "method")


@dataclass(frozen=True)
class TrackedRun:
    """A stage's run in MLflow.

    Attributes:
        name: Such as `train/lama/p-tuning`.
        status: MLflow's, such as `FINISHED`.
        started: The start time, in UTC.
        commit: None if none was logged.
        dirty: Whether code or parameters differed from the commit; None if it was not logged.
        restored: Whether it was created by `ptune sync`.
        execution: Inputs, outputs and parameters (as text, MLflow's).
        metrics: The last value of each metric.
    """

    run_id: str
    name: str
    status: str
    started: datetime
    commit: str | None
    dirty: bool | None
    restored: bool
    execution: Execution
    metrics: Mapping[str, float] = field(default_factory=dict)


class TrackedHistory:
    """A reader of one MLflow store, which caches its searches."""

    def __init__(self) -> None:
        """Connect; a history that does not exist is not created, and reads as empty.

        Raises:
            TrackingError: The tracking server or store cannot be used.
        """
        self._mlflow = connect() if history_exists() else None
        self._searches: dict[str, list[TrackedRun]] = {}
        self._experiments: list[str] | None = None

    def producers(self, path: str, digest: str) -> Sequence[TrackedRun]:
        """Return the finished runs that wrote this content to this path, newest first."""
        return self._tagged(f"{WROTE}{path}", digest)

    def consumers(self, path: str, digest: str) -> Sequence[TrackedRun]:
        """Return the finished runs that read this content at this path, newest first."""
        return self._tagged(f"{READ}{path}", digest)

    def find_by_run_key(self, run_key: str) -> Sequence[TrackedRun]:
        """Return the finished runs with a run key, newest first."""
        return self._tagged("dvc.run_key", run_key)

    def finished(self) -> Sequence[TrackedRun]:
        """Return all finished runs of stages, newest first."""
        return self._finished("tags.stage LIKE '%'")

    def find(self, run_id: str) -> TrackedRun | None:
        """Return a stage's run by its id, or by at least the first 6 digits of it.

        Raises:
            TrackingError: Several ids begin with these digits, or it is not an id.
        """
        if RUN_ID.fullmatch(run_id) is None:
            raise TrackingError(f'invalid run id "{run_id}": expected 6 to 32 hex digits')
        runs = self._search(f"attributes.run_id LIKE '{run_id}%'")
        if len(runs) > 1:
            names = ", ".join(f"{run.run_id[:10]} {run.name}" for run in runs[:4])
            raise TrackingError(f"several run ids begin with {run_id}: {names}; add more digits")
        return runs[0] if runs else None

    def libraries(self, run: TrackedRun) -> dict[str, str]:
        """Return library -> version, as logged by a run; empty if it is not available."""
        try:
            return dict(json.loads(self.text(run, "environment.json") or "")["libraries"])
        except (ValueError, KeyError, TypeError):
            return {}

    def text(self, run: TrackedRun, name: str) -> str | None:
        """Return a run's artifact; None if it is not available."""
        try:
            return str(connect().artifacts.load_text(f"runs:/{run.run_id}/{name}"))
        except Exception:  # MLflow raises many types for a file that it does not have
            return None

    def _tagged(self, key: str, value: str) -> list[TrackedRun]:
        if "`" in key:  # MLflow's filters have no way to write it
            return []
        return self._finished(f"tags.`{key}` = '{value}'")

    def _finished(self, condition: str) -> list[TrackedRun]:
        if condition not in self._searches:
            finished = f"{condition} AND attributes.status = 'FINISHED'"
            self._searches[condition] = self._search(finished)
        return self._searches[condition]

    def _search(self, condition: str) -> list[TrackedRun]:
        if self._mlflow is None:
            return []
        try:
            if self._experiments is None:
                found = self._mlflow.search_experiments()
                self._experiments = [experiment.experiment_id for experiment in found]
            runs = self._mlflow.search_runs(
                self._experiments,
                filter_string=condition,
                order_by=["attributes.start_time DESC"],
                max_results=_MAX_RUNS,
                search_all_experiments=not self._experiments,
                output_format="list",
            )
        except Exception as error:
            raise unreadable(error) from error
        # Child runs share their stage's run key, but not its outputs.
        return [_tracked(run) for run in runs if "mlflow.parentRunId" not in run.data.tags]


def execution_tags(execution: Execution, within: Mapping[str, str]) -> dict[str, str]:
    """Return the tags that record an execution, in which this module searches.

    `within` is path -> hash of other stages' outputs inside the folders among the inputs.
    """
    inputs = {**execution.inputs, **within}
    return {
        "dvc.stage": execution.stage,
        "dvc.command": execution.command[:MAX_TAG],
        **({} if execution.run_key is None else {"dvc.run_key": execution.run_key}),
        **{f"{READ}{path}": digest for path, digest in inputs.items()},
        **{f"{WROTE}{path}": digest for path, digest in execution.outputs.items()},
    }


def tags_below(tags: Mapping[str, str], prefix: str) -> dict[str, str]:
    """Return key without prefix -> value of the tags with a prefix, sorted by key."""
    return {key.removeprefix(prefix): tags[key] for key in sorted(tags) if key.startswith(prefix)}


def _tracked(run: Any) -> TrackedRun:
    tags = run.data.tags
    dirty = tags.get("git.dirty")
    return TrackedRun(
        run_id=run.info.run_id,
        name="/".join(tags[key] for key in _SUBJECT if key in tags),
        status=run.info.status,
        started=datetime.fromtimestamp(run.info.start_time / 1000, UTC),
        commit=tags.get("mlflow.source.git.commit"),
        dirty=None if dirty is None else dirty == "true",
        restored=tags.get(RESTORED) == "true",
        execution=Execution(
            stage=tags.get("dvc.stage", ""),
            command=tags.get("dvc.command", ""),
            run_key=tags.get("dvc.run_key"),
            params=dict(sorted(run.data.params.items())),
            inputs=tags_below(tags, READ),
            outputs=tags_below(tags, WROTE),
        ),
        metrics=run.data.metrics,
    )
