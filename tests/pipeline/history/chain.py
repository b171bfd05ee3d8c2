"""A small history by hand: raw -> split -> train -> evaluate -> report, and who logged it."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from pipeline.history.executions import TrackedRun
from pipeline.workflow.lock import Execution

CODE = {"stages/train.py": "c0de"}


def execution(
    stage: str, inputs: dict[str, str], outputs: dict[str, str], *, key: str = ""
) -> Execution:
    return Execution(
        stage, f"python -m {stage}", run_key=key or f"key of {stage}", params={"seed": 34},
        inputs=inputs, outputs=outputs,
    )  # fmt: skip


DOWNLOAD = execution("download", {"stages/download.py": "d0"}, {"data/raw": "a0.dir"})
SPLIT = execution("split", {"data/raw": "a0.dir"}, {"data/splits": "b0.dir"})
TRAIN = execution(
    "train@p", {"data/splits": "b0.dir", **CODE}, {"models/p": "e0.dir", "curves/p.csv": "f0"}
)
EVALUATE = execution(
    "evaluate@p", {"models/p": "e0.dir", "data/splits": "b0.dir"}, {"metrics/p.json": "10"}
)
CHAIN = [DOWNLOAD, SPLIT, TRAIN, EVALUATE]


def run(of: Execution, run_id: str, minute: int, **more: object) -> TrackedRun:
    made = TrackedRun(
        run_id=run_id,
        name=of.stage,
        status="FINISHED",
        started=datetime(2026, 1, 1, 10, tzinfo=UTC) + timedelta(minutes=minute),
        commit="abc123",
        dirty=False,
        restored=False,
        execution=of,
    )
    return replace(made, **more)  # type: ignore[arg-type]


@dataclass
class Runs:
    """A history that is searched from end to end."""

    runs: list[TrackedRun] = field(default_factory=list)
    by_id: dict[str, TrackedRun] = field(default_factory=dict)

    def producers(self, path: str, digest: str) -> Sequence[TrackedRun]:
        return self._where(lambda run: run.execution.outputs.get(path) == digest)

    def consumers(self, path: str, digest: str) -> Sequence[TrackedRun]:
        return self._where(lambda run: run.execution.inputs.get(path) == digest)

    def find_by_run_key(self, run_key: str) -> Sequence[TrackedRun]:
        return self._where(lambda run: run.execution.run_key == run_key)

    def find(self, run_id: str) -> TrackedRun | None:
        return self.by_id.get(run_id)

    def _where(self, condition) -> list[TrackedRun]:
        found = [run for run in self.runs if condition(run)]
        return sorted(found, key=lambda run: run.started, reverse=True)


def logged(*executions: Execution) -> Runs:
    """One run of each, a minute apart."""
    return Runs([run(e, f"run of {e.stage}", minute) for minute, e in enumerate(executions)])


def lock(*executions: Execution) -> dict[str, Execution]:
    return {execution.stage: execution for execution in executions}
