"""Compare a run's outputs and metrics with those of a second execution."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.errors import TrackingError
from pipeline.files import read_json
from pipeline.history.executions import TrackedRun
from pipeline.workflow.lock import Execution, file_hash

Listing = Callable[[str], Sequence[tuple[str, str]] | None]


@dataclass(frozen=True)
class Difference:
    """An output that differs.

    Attributes:
        path: The output's.
        files: Files of a folder that differ, or exist on one side only; empty for a single file,
            or if DVC's cache does not have the earlier folder's listing.
        metrics: Name -> value before and after, in a metrics file; None where it is missing.
    """

    path: str
    files: Sequence[str] = ()
    metrics: Mapping[str, tuple[float | None, float | None]] = field(default_factory=dict)


@dataclass(frozen=True)
class Comparison:
    """A run compared with a second execution of its stage.

    Attributes:
        same: Outputs with the same bytes.
        different: Outputs with other bytes.
        inputs: Path of each input that differed -> hash before and after.
    """

    same: Sequence[str]
    different: Sequence[Difference]
    inputs: Mapping[str, tuple[str, str]]


def check_reproducible(run: TrackedRun, hash_at: Callable[[str, str], str | None]) -> str:
    """Return the commit from which a run can be reproduced.

    Args:
        run: A stage's.
        hash_at: (commit, path) -> DVC's hash of git's content there; None if it has none.

    Raises:
        TrackingError: The run's code or inputs are not fully known.
    """
    name = f"run {run.run_id[:10]} ({run.name})"
    if run.status != "FINISHED":
        raise TrackingError(f"{name} is {run.status}: it has no result to reproduce")
    if not run.execution.stage or run.execution.run_key is None:
        raise TrackingError(f"{name} ran outside DVC: its data and parameters are not recorded")
    if run.commit is None:
        raise TrackingError(f"{name} has no commit, so its code is unknown")
    if run.dirty:
        raise TrackingError(
            f"{name} ran in a tree that differed from commit {run.commit[:10]}. Apply its artifact "
            "git/diff.patch to that commit, commit the result, and run `dvc repro`"
        )
    changed = [
        path
        for path, digest in run.execution.inputs.items()
        if path.startswith(("pipeline/", "stages/")) and hash_at(run.commit, path) != digest
    ]
    if changed:
        raise TrackingError(
            f"{name}: {', '.join(changed[:3])} differed from commit {run.commit[:10]}, or the "
            "commit is missing here (git fetch)"
        )
    return run.commit


def compare(
    run: TrackedRun,
    metrics: Mapping[str, float],
    again: Execution,
    folder: Path,
    *,
    listing: Listing,
) -> Comparison:
    """Compare a run with a second execution.

    Args:
        run: The first execution.
        metrics: Its logged metrics.
        again: The second execution, as in `dvc.lock`.
        folder: The root of the second execution's project.
        listing: Hash -> content of the first execution's folders; see `folder_listings`.
    """
    before = run.execution.outputs
    same = [path for path, digest in again.outputs.items() if before.get(path) == digest]
    inputs = {
        path: (digest, again.inputs.get(path, "none"))
        for path, digest in run.execution.inputs.items()
        if again.inputs.get(path) != digest
        and not any(path.startswith(f"{other}/") for other in again.inputs)
    }
    different = [
        _difference(path, before.get(path), folder / path, metrics, listing)
        for path in again.outputs
        if path not in same
    ]
    return Comparison(same, different, inputs)


def _difference(
    path: str, digest: str | None, output: Path, metrics: Mapping[str, float], listing: Listing
) -> Difference:
    if path.startswith("metrics/"):
        values = read_json(output).items()
        changed = {k: (metrics.get(k), value) for k, value in values if metrics.get(k) != value}
        return Difference(path, metrics=changed)
    files = listing(digest) if digest is not None and output.is_dir() else None
    if files is None:
        return Difference(path)
    after = {
        (file.relative_to(output).as_posix(), file_hash(file.read_bytes()))
        for file in output.rglob("*")
        if file.is_file()
    }
    return Difference(path, sorted({name for name, _ in set(files) ^ after}))
