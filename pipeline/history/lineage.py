"""Trace content back to what produced it, and forward to what was made from it.

The links are hashes: an execution produced a file if it wrote this content to this path. There are
two records: `dvc.lock`, of what the workspace holds now, and the history in MLflow, of all that was
ever logged. A link that is in neither is reported as missing.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path, PurePosixPath

from pipeline.errors import DataError
from pipeline.history.executions import RUN_ID, TrackedHistory, TrackedRun
from pipeline.workflow.git import Commits
from pipeline.workflow.lock import Execution, folder_hash, outputs_within, read_lock
from pipeline.workflow.project import folder_listing, workspace_hashes


@dataclass(frozen=True)
class Artifact:
    """Content at a path, with what produced it.

    Attributes:
        made_by: The execution that wrote it; None if the link is missing.
        missing: Why the link is missing; empty if it is not.
    """

    path: str
    digest: str
    made_by: "LineageNode | None" = None
    missing: str = ""


@dataclass(frozen=True)
class LineageNode:
    """An execution of a stage, with its inputs in a trace back, or its outputs in one forward.

    Attributes:
        run: Its run in MLflow; None if the history has none.
        other_runs: The number of other runs that wrote the same content to the same path.
        code: Path -> whether it is as in the run's commit; None without a run or commit.
        inputs: The inputs, without code. Empty in a trace forward.
        outputs: The outputs, with their consumers. Empty in a trace back.
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
    used_by: Sequence[LineageNode] = ()


Trace = Artifact | LineageNode | Used


class Tracer:
    """Follows the links of one `dvc.lock` and one history."""

    def __init__(
        self,
        lock: Mapping[str, Execution],
        history: TrackedHistory,
        *,
        hash_at: Callable[[str, str], str | None],
        listing: Callable[[str], Sequence[tuple[str, str]] | None] = folder_listing,
        prefer_locked: bool = False,
    ) -> None:
        """Initialize with the records.

        `hash_at` returns DVC's hash of git's content in a commit at a path, None if it has none;
        `listing`, path and hash of each file in a folder with a hash, None if it is unknown. Of
        several runs that can have produced an input of a run, `prefer_locked` takes that of
        `dvc.lock`, which is right for a run that has just ended, instead of the newest.
        """
        self.lock = lock
        self.history = history
        self._hash_at = hash_at
        self._listing = listing
        self._prefer_locked = prefer_locked
        self._nodes: dict[tuple[str, str | None, datetime | None], LineageNode] = {}

    def back(self, path: str, digest: str, *, before: datetime | None = None) -> Artifact:
        """Trace content to what produced it.

        `before` is the start of a run that read it: only earlier runs can have produced it. None
        is for the content of the workspace, whose producer is in `dvc.lock`.
        """
        # No stage writes modules: to search for those of each module took most of a trace's time.
        runs = [] if path.endswith(".py") else list(self.history.producers(path, digest))
        locked = next((e for e in self.lock.values() if e.outputs.get(path) == digest), None)
        if before is not None:
            runs = [run for run in runs if run.started <= before] or runs[-1:]
        same_key = [r for r in runs if locked and r.execution.run_key == locked.run_key]
        if locked is not None and (before is None or not runs):
            node = self._node(locked, same_key[0] if same_key else None, None)
        elif runs:
            run = same_key[0] if same_key and self._prefer_locked else runs[0]
            node = self._node(run.execution, run, run.started)
        else:
            return Artifact(path, digest, missing="its producer is not in dvc.lock or the history")
        return Artifact(path, digest, replace(node, other_runs=max(0, len(runs) - 1)))

    def back_from(self, run: TrackedRun) -> LineageNode:
        """Trace a run to its origins."""
        return self._node(run.execution, run, run.started)

    def back_from_stage(self, name: str) -> LineageNode:
        """Trace a stage's execution in `dvc.lock` to its origins."""
        execution = self.lock[name]
        runs = self.history.find_by_run_key(execution.run_key) if execution.run_key else []
        return self._node(execution, runs[0] if runs else None, None)

    def forward(self, path: str, digest: str) -> Used:
        """Trace content to all that was made from it."""
        nodes = []
        for execution, run, others in self._consumers(path, digest):
            outputs = [self.forward(*output) for output in execution.outputs.items()]
            nodes.append(LineageNode(execution, run, others, outputs=outputs))
        return Used(path, digest, nodes)

    def _node(
        self, execution: Execution, run: TrackedRun | None, before: datetime | None
    ) -> LineageNode:
        """Return the node of an execution; each is traced once."""
        key = (execution.stage, execution.run_key if run is None else run.run_id, before)
        if key in self._nodes:
            return self._nodes[key]
        code: dict[str, bool | None] = {}
        inputs: list[Artifact] = []
        for path, digest in execution.inputs.items():
            if any(path.startswith(f"{other}/") for other in execution.inputs):
                continue  # listed with its folder
            # The outputs of other stages inside a folder that this one reads as a whole.
            hashes = {p: h for p, h in execution.inputs.items() if p.startswith(f"{path}/")}
            if not hashes and before is None:
                hashes = outputs_within(self.lock, [path])
            parts = [self.back(p, hashes[p], before=before) for p in sorted(hashes)]
            if parts:
                inputs += parts
                if not self._is_complete(path, digest, parts):
                    missing = "its other content is not on record"
                    inputs.append(Artifact(path, digest, missing=missing))
                continue
            artifact = self.back(path, digest, before=before)
            if artifact.made_by is None and self._is_code(path, run):
                commit = run.commit if run is not None else None
                code[path] = None if commit is None else self._hash_at(commit, path) == digest
            else:
                inputs.append(artifact)
        self._nodes[key] = LineageNode(execution, run, code=code, inputs=inputs)
        return self._nodes[key]

    def _is_complete(self, folder: str, digest: str, parts: Sequence[Artifact]) -> bool:
        """Whether the outputs inside a folder are its whole content."""
        files: list[tuple[str, str]] = []
        for artifact in parts:
            name = artifact.path.removeprefix(f"{folder}/")
            if not artifact.digest.endswith(".dir"):
                files.append((name, artifact.digest))
                continue
            listing = self._listing(artifact.digest)
            if listing is None:
                return False
            files += [(f"{name}/{inner}", file_digest) for inner, file_digest in listing]
        return folder_hash(files) == digest

    def _is_code(self, path: str, run: TrackedRun | None) -> bool:
        """Whether git has a path that is not an output; metrics and curves are in git too."""
        if any(f"{out}/".startswith(f"{path}/") for e in self.lock.values() for out in e.outputs):
            return False
        commit = run.commit if run is not None and run.commit is not None else "HEAD"
        return self._hash_at(commit, path) is not None

    def _consumers(self, path: str, digest: str) -> list[tuple[Execution, TrackedRun | None, int]]:
        """Return the executions that read content, with their newest run and number of others."""
        by_key: dict[str, list[TrackedRun]] = {}
        for run in self.history.consumers(path, digest):
            by_key.setdefault(run.execution.run_key or run.run_id, []).append(run)
        consumers: list[tuple[Execution, TrackedRun | None, int]] = [
            (runs[0].execution, runs[0], len(runs) - 1) for runs in by_key.values()
        ]
        is_current = any(e.outputs.get(path) == digest for e in self.lock.values())
        for execution in self.lock.values():
            in_input = is_current and any(path.startswith(f"{dep}/") for dep in execution.inputs)
            reads = in_input or execution.inputs.get(path) == digest
            if reads and execution.run_key not in by_key:
                consumers.append((execution, None, 0))
        return consumers


def workspace_tracer(*, prefer_locked: bool = False) -> Tracer:
    """Return the tracer of the current folder and its history; see `Tracer`."""
    lock, commits = read_lock(Path("dvc.lock")), Commits(Path())
    return Tracer(lock, TrackedHistory(), hash_at=commits.hash_at, prefer_locked=prefer_locked)


def trace(target: str, tracer: Tracer, *, forward: bool) -> list[Trace]:
    """Trace a target that a user names, or `forward` to what was made from it.

    The target is a stage of `dvc.lock`; a path relative to the project's root, of an output, inside
    one, or around some, and forward also of an input; or a run's id or its beginning.

    Returns:
        One trace, or several if a folder holds, or a stage or run wrote, several outputs.

    Raises:
        DataError: The target is none of these.
    """

    def onward(outputs: Mapping[str, str]) -> list[Trace]:
        return [tracer.forward(*output) for output in outputs.items()]

    lock = tracer.lock
    if target in lock:
        return onward(lock[target].outputs) if forward else [tracer.back_from_stage(target)]
    path = PurePosixPath(target).as_posix()
    every = {out: digest for e in lock.values() for out, digest in e.outputs.items()}
    outputs = {out: digest for out, digest in every.items() if f"{path}/".startswith(f"{out}/")}
    outputs = outputs or outputs_within(lock, [path])
    if outputs:
        # The workspace may differ from what DVC has recorded.
        present = workspace_hashes(outputs)
        hashes = {out: present.get(out) or digest for out, digest in outputs.items()}
        return onward(hashes) if forward else [tracer.back(*output) for output in hashes.items()]
    inputs = {dep: digest for e in lock.values() for dep, digest in e.inputs.items() if dep == path}
    if inputs and forward:
        return onward(inputs)
    run = tracer.history.find(target) if RUN_ID.fullmatch(target) else None
    if run is not None:
        return onward(run.execution.outputs) if forward else [tracer.back_from(run)]
    if inputs:
        raise DataError(
            f"{target}: tracked by git, not produced by a stage (`git log {target}`); to see what "
            f"was made from it: ptune lineage {target} --forward"
        )
    names = ", ".join(sorted(every)[:5]) + (", ..." if len(every) > 5 else "") or "none yet"
    raise DataError(
        f"{target}: not an output or stage of dvc.lock, nor a run of the history. Outputs: {names}"
    )
