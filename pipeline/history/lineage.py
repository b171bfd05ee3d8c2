"""From content back to what it was made from, and forward to what was made from it.

The links are hashes: an execution made a file if it wrote this content to this path. Two records
are read: `dvc.lock`, for what the workspace holds now, and the history in MLflow, for all that was
ever logged. Where neither knows what made something, the link is missing, and that is said.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Protocol

from pipeline.history.executions import TrackedRun
from pipeline.workflow.lock import Execution, folder_hash, outputs_within


class History(Protocol):
    """What is read of the history; see `TrackedHistory`."""

    def makers(self, path: str, digest: str) -> Sequence[TrackedRun]: ...
    def users(self, path: str, digest: str) -> Sequence[TrackedRun]: ...
    def find_by_run_key(self, run_key: str) -> Sequence[TrackedRun]: ...


@dataclass(frozen=True)
class Artifact:
    """Content at a path.

    Attributes:
        path: from the project's root.
        digest: DVC's hash.
        made_by: the execution that wrote it; None where the link is missing.
        missing: why it is; empty where it is not.
    """

    path: str
    digest: str
    made_by: "Step | None" = None
    missing: str = ""


@dataclass(frozen=True)
class Step:
    """An execution of a stage, with what it was made from or what was made from it.

    Attributes:
        execution: what it read and wrote, and its parameters.
        run: in MLflow; None where the history has none.
        other_runs: how many more runs wrote the same content to the same path.
        code: path -> whether it is as in the run's commit; None where there is no run or commit.
        inputs: what it read, without the code. Empty in a trace forward.
        outputs: what it wrote, each with the steps that read it. Empty in a trace back.
    """

    execution: Execution
    run: TrackedRun | None
    other_runs: int = 0
    code: Mapping[str, bool | None] = field(default_factory=dict)
    inputs: Sequence[Artifact] = ()
    outputs: "Sequence[Used]" = ()


@dataclass(frozen=True)
class Used:
    """Content at a path, with the executions that read it."""

    path: str
    digest: str
    used_by: Sequence[Step] = ()


class Tracer:
    """Follows links through one lock and one history."""

    def __init__(
        self,
        lock: Mapping[str, Execution],
        history: History,
        *,
        hash_at: Callable[[str, str], str | None],
        listing: Callable[[str], Sequence[tuple[str, str]] | None],
    ) -> None:
        """Take the records.

        Args:
            lock: stage -> execution, as in `dvc.lock`.
            history: of MLflow.
            hash_at: commit, path -> DVC's hash of what git has there; None where it has nothing.
            listing: hash of a folder -> path and hash of each file in it; None where it is unknown.
        """
        self._lock = lock
        self._history = history
        self._hash_at = hash_at
        self._listing = listing
        self._steps: dict[tuple[str, str | None, datetime | None], Step] = {}

    def back(self, path: str, digest: str, *, before: datetime | None = None) -> Artifact:
        """Trace content to what it was made from.

        Args:
            path: of an output.
            digest: its hash.
            before: of what some run read: only what was there when it started counts. None for
                what the workspace holds: there `dvc.lock` says which execution made it.
        """
        runs = list(self._history.makers(path, digest))
        locked = next((e for e in self._lock.values() if e.outputs.get(path) == digest), None)
        if before is None and locked is not None:
            own = [run for run in runs if run.execution.run_key == locked.run_key]
            step = self._step(locked, own[0] if own else None, None)
            return Artifact(path, digest, _with_others(step, len(runs)))
        if before is not None:
            runs = [run for run in runs if run.started <= before] or runs[-1:]
        if runs:
            step = self._step(runs[0].execution, runs[0], runs[0].started)
            return Artifact(path, digest, _with_others(step, len(runs)))
        if locked is not None:
            return Artifact(path, digest, self._step(locked, None, None))
        return Artifact(path, digest, missing="neither dvc.lock nor the history says what made it")

    def back_from(self, run: TrackedRun) -> Step:
        """Trace a run to what it was made from."""
        return self._step(run.execution, run, run.started)

    def back_from_stage(self, name: str) -> Step:
        """Trace a stage, as `dvc.lock` has it, to what it was made from."""
        execution = self._lock[name]
        runs = self._history.find_by_run_key(execution.run_key) if execution.run_key else []
        return self._step(execution, runs[0] if runs else None, None)

    def forward(self, path: str, digest: str) -> Used:
        """Trace content to all that was made from it."""
        steps = []
        for execution, run, others in self._users(path, digest):
            outputs = [self.forward(out, made) for out, made in execution.outputs.items()]
            steps.append(Step(execution, run, others, outputs=outputs))
        return Used(path, digest, steps)

    def _step(self, execution: Execution, run: TrackedRun | None, before: datetime | None) -> Step:
        """Make the step of an execution; a run that two things need is traced once."""
        key = (execution.stage, execution.run_key if run is None else run.run_id, before)
        if key not in self._steps:
            code, inputs = self._inputs(execution, run, before)
            self._steps[key] = Step(execution, run, code=code, inputs=inputs)
        return self._steps[key]

    def _inputs(
        self, execution: Execution, run: TrackedRun | None, before: datetime | None
    ) -> tuple[dict[str, bool | None], list[Artifact]]:
        code: dict[str, bool | None] = {}
        inputs = []
        for path, digest in execution.inputs.items():
            if any(path.startswith(f"{other}/") for other in execution.inputs):
                continue  # told with the folder that it lies in
            within = self._within(path, execution, before)
            if within:
                inputs += within
                if not self._add_up(path, digest, within):
                    missing = "what lay in it then is not on record, or more than the above"
                    inputs.append(Artifact(path, digest, missing=missing))
                continue
            artifact = self.back(path, digest, before=before)
            if artifact.made_by is None and self._is_code(path, run):
                commit = run.commit if run is not None else None
                code[path] = None if commit is None else self._hash_at(commit, path) == digest
            else:
                inputs.append(artifact)
        return code, inputs

    def _within(self, folder: str, execution: Execution, before: datetime | None) -> list[Artifact]:
        """Trace the outputs of other stages that lie in a folder which a stage reads as a whole."""
        own = {
            path: digest
            for path, digest in execution.inputs.items()
            if path.startswith(f"{folder}/")
        }
        if not own and before is None:
            own = outputs_within(self._lock, [folder])
        return [self.back(path, own[path], before=before) for path in sorted(own)]

    def _add_up(self, folder: str, digest: str, within: Sequence[Artifact]) -> bool:
        """Tell whether the outputs in a folder are all that was in it."""
        files: list[tuple[str, str]] = []
        for artifact in within:
            name = artifact.path.removeprefix(f"{folder}/")
            if not artifact.digest.endswith(".dir"):
                files.append((name, artifact.digest))
                continue
            listed = self._listing(artifact.digest)
            if listed is None:
                return False
            files += [(f"{name}/{inner}", own) for inner, own in listed]
        return folder_hash(files) == digest

    def _is_code(self, path: str, run: TrackedRun | None) -> bool:
        """Tell whether git has a path that is no output; metrics and curves are in git too."""
        if any(f"{out}/".startswith(f"{path}/") for e in self._lock.values() for out in e.outputs):
            return False
        commit = run.commit if run is not None and run.commit is not None else "HEAD"
        return self._hash_at(commit, path) is not None

    def _users(self, path: str, digest: str) -> list[tuple[Execution, TrackedRun | None, int]]:
        """Return the executions that read something, each with its newest run."""
        by_key: dict[str, list[TrackedRun]] = {}
        for run in self._history.users(path, digest):
            by_key.setdefault(run.execution.run_key or run.run_id, []).append(run)
        found: list[tuple[Execution, TrackedRun | None, int]] = [
            (runs[0].execution, runs[0], len(runs) - 1) for runs in by_key.values()
        ]
        current = any(e.outputs.get(path) == digest for e in self._lock.values())
        for execution in self._lock.values():
            within = current and any(path.startswith(f"{dep}/") for dep in execution.inputs)
            reads = within or execution.inputs.get(path) == digest
            if reads and execution.run_key not in by_key:
                found.append((execution, None, 0))
        return found


def _with_others(step: Step, runs: int) -> Step:
    return replace(step, other_runs=max(0, runs - 1))
