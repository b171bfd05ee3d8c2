"""The history as executions of stages: which run made which content, and which read it."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from pipeline.errors import TrackingError
from pipeline.history.store import connect, history_exists, unreadable
from pipeline.workflow.lock import Execution

# Tags of a run, followed by a path: what it read, and what it wrote.
READ, WROTE = "dvc.dep.", "dvc.out."
RESTORED = "dvc.restored"
# A run's id, or so much of its beginning that it can be meant.
RUN_ID = re.compile(r"[0-9a-f]{6,32}")
_PAGE = 1000


@dataclass(frozen=True)
class TrackedRun:
    """A stage's run in MLflow.

    Attributes:
        run_id: MLflow's.
        name: such as `train/lama/p-tuning`.
        status: MLflow's, such as `FINISHED`.
        started: when, in UTC.
        commit: of git; None where none was logged.
        dirty: whether code or parameters differed from the commit; None where it was not logged.
        restored: whether it was made afterward, from the outputs of an execution elsewhere.
        execution: what it read and wrote, and its parameters (as text, MLflow's).
    """

    run_id: str
    name: str
    status: str
    started: datetime
    commit: str | None
    dirty: bool | None
    restored: bool
    execution: Execution


class TrackedHistory:
    """Reads of one MLflow store; what was asked once is not asked again."""

    def __init__(self) -> None:
        """Connect; where there is no history, none is made, and it is as an empty one.

        Raises:
            TrackingError: the tracking server or store cannot be used.
        """
        self._mlflow = connect() if history_exists() else None
        self._searched: dict[str, list[TrackedRun]] = {}

    def makers(self, path: str, digest: str) -> Sequence[TrackedRun]:
        """Return the finished runs that wrote this content to this path, the newest first."""
        return self._finished(f"tags.`{WROTE}{path}` = '{digest}'")

    def users(self, path: str, digest: str) -> Sequence[TrackedRun]:
        """Return the finished runs that read this content at this path, the newest first."""
        return self._finished(f"tags.`{READ}{path}` = '{digest}'")

    def find_by_run_key(self, run_key: str) -> Sequence[TrackedRun]:
        """Return the finished runs of a run key, the newest first."""
        return self._finished(f"tags.`dvc.run_key` = '{run_key}'")

    def find(self, run_id: str) -> TrackedRun | None:
        """Return a stage's run by its id, or by the beginning of its id, 6 digits or more.

        Raises:
            TrackingError: several runs begin so, or no run's id does.
        """
        if RUN_ID.fullmatch(run_id) is None:
            raise TrackingError(
                f'"{run_id}" is no id of a run, nor its beginning: 6 to 32 digits of 0-9, a-f'
            )
        found = self._search(f"attributes.run_id LIKE '{run_id}%'")
        if len(found) > 1:
            names = ", ".join(f"{run.run_id[:10]} {run.name}" for run in found[:4])
            raise TrackingError(f"several runs begin with {run_id}: {names}; write more of it")
        return found[0] if found else None

    def metrics(self, run_id: str) -> dict[str, float]:
        """Return the last value of each metric of a run.

        Raises:
            TrackingError: the tracking server or store cannot be used.
        """
        if self._mlflow is None:
            return {}
        try:
            return dict(self._mlflow.get_run(run_id).data.metrics)
        except Exception as error:  # of MLflow's, its database's and its client's many
            raise unreadable(error) from error

    def libraries(self, run_id: str) -> dict[str, str]:
        """Return library -> version that a run noted; empty where it noted none, or it is lost."""
        if self._mlflow is None:
            return {}
        try:
            text = self._mlflow.artifacts.load_text(f"runs:/{run_id}/environment.json")
            return dict(json.loads(text)["libraries"])
        except Exception:  # MLflow raises many kinds; that it is not there is all to know
            return {}

    def _finished(self, condition: str) -> list[TrackedRun]:
        if condition not in self._searched:
            self._searched[condition] = self._search(
                f"{condition} AND attributes.status = 'FINISHED'"
            )
        return self._searched[condition]

    def _search(self, condition: str) -> list[TrackedRun]:
        if self._mlflow is None:
            return []
        try:
            runs = self._mlflow.search_runs(
                filter_string=condition,
                order_by=["attributes.start_time DESC"],
                max_results=_PAGE,
                search_all_experiments=True,
                output_format="list",
            )
        except Exception as error:
            raise unreadable(error) from error
        # The trainings within a stage are runs of their own; they share its key, not its outputs.
        return [_tracked(run) for run in runs if "mlflow.parentRunId" not in run.data.tags]


def tagged(tags: Mapping[str, str], prefix: str) -> dict[str, str]:
    """Return what follows a prefix in the keys of tags -> value, in the order of the keys."""
    return {key.removeprefix(prefix): tags[key] for key in sorted(tags) if key.startswith(prefix)}


def _tracked(run: Any) -> TrackedRun:
    tags = run.data.tags

    dirty = tags.get("git.dirty")
    return TrackedRun(
        run_id=run.info.run_id,
        name=run.info.run_name,
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
            inputs=tagged(tags, READ),
            outputs=tagged(tags, WROTE),
        ),
    )
