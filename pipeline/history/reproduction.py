"""Was a run made again? Its outputs and metrics against those of a second execution."""

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
    """An output that came out otherwise.

    Attributes:
        path: of the output.
        files: those that differ, or that one side lacks; empty where the output is one file, or
            where the listing of the earlier one is not in DVC's cache.
        metrics: name -> the value then and now, of a metrics file; None where one side lacks it.
    """

    path: str
    files: Sequence[str] = ()
    metrics: Mapping[str, tuple[float | None, float | None]] = field(default_factory=dict)


@dataclass(frozen=True)
class Comparison:
    """A run against a second execution of its stage.

    Attributes:
        same: outputs with the same bytes.
        different: those with others.
        inputs: inputs and parameters that were not the same; path or name -> then and now.
    """

    same: Sequence[str]
    different: Sequence[Difference]
    inputs: Mapping[str, tuple[str, str]]


def check_reproducible(run: TrackedRun, hash_at: Callable[[str, str], str | None]) -> str:
    """Return the commit that a run can be made again from.

    Args:
        run: of a stage.
        hash_at: commit, path -> DVC's hash of what git has there; None where it has nothing.

    Raises:
        TrackingError: what the run was made of is not all known; the text says what is missing.
    """
    name = f"run {run.run_id[:10]} ({run.name})"
    if run.status != "FINISHED":
        raise TrackingError(f"{name} is {run.status}: there is no result to make again")
    if not run.execution.stage or run.execution.run_key is None:
        raise TrackingError(f"{name} was no stage of DVC's: nothing ties it to data or parameters")
    if run.commit is None:
        raise TrackingError(f"{name} names no commit, so its code is not known")
    if run.dirty:
        raise TrackingError(
            f"{name} ran in a tree with changes: commit {run.commit[:10]} is not all that it was "
            "made of. Its artifact git/diff.patch has the rest; apply it there, commit, and run "
            "`dvc repro`"
        )
    changed = [
        path
        for path, digest in run.execution.inputs.items()
        if path.startswith(("pipeline/", "stages/")) and hash_at(run.commit, path) != digest
    ]
    if changed:
        raise TrackingError(
            f"{name}: {', '.join(changed[:3])} ran in another state than commit "
            f"{run.commit[:10]} has, or git lacks the commit here (git fetch)"
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
        run: the first.
        metrics: what it logged.
        again: the second, as `dvc.lock` has it.
        folder: where the outputs of the second are.
        listing: of the first one's folders, by hash; see `folder_listings`.
    """
    then = run.execution.outputs
    same = [path for path, digest in again.outputs.items() if then.get(path) == digest]
    inputs = {
        path: (digest, again.inputs.get(path, "none"))
        for path, digest in run.execution.inputs.items()
        if again.inputs.get(path) != digest and not _lies_within(path, again.inputs)
    }
    different = [
        _difference(path, then.get(path), folder / path, metrics, listing)
        for path in again.outputs
        if path not in same
    ]
    return Comparison(same, different, inputs)


def _lies_within(path: str, folders: Mapping[str, str]) -> bool:
    return any(path.startswith(f"{folder}/") for folder in folders)


def _difference(
    path: str, digest: str | None, now: Path, metrics: Mapping[str, float], listing: Listing
) -> Difference:
    if path.startswith("metrics/"):
        values = read_json(now)
        return Difference(
            path,
            metrics={
                key: (metrics.get(key), value)
                for key, value in values.items()
                if metrics.get(key) != value
            },
        )
    listed = listing(digest) if digest is not None and now.is_dir() else None
    if listed is None:
        return Difference(path)
    before = dict(listed)
    after = {
        file.relative_to(now).as_posix(): file_hash(file.read_bytes())
        for file in now.rglob("*")
        if file.is_file()
    }
    return Difference(path, sorted({name for name, _ in before.items() ^ after.items()}))
