"""Compare a run's outputs and metrics with those of a second execution."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from pipeline.errors import TrackingError
from pipeline.files import read_json
from pipeline.history.executions import TrackedRun
from pipeline.workflow.git import apply_patch
from pipeline.workflow.lock import Execution, content_hash, file_hashes
from pipeline.workflow.project import folder_listing


def check_reproducible(run: TrackedRun, hash_at: Callable[[str, str], str | None]) -> str:
    """Return the commit from which a stage's run can be reproduced, with its changes if it had any.

    `hash_at` returns DVC's hash of git's content in a commit at a path; None if it has none.

    Raises:
        TrackingError: The run has no result, or its code or inputs are unknown.
    """
    name = _name(run)
    if run.status != "FINISHED":
        raise TrackingError(f"{name} is {run.status}: it has no result to reproduce")
    if not run.execution.stage or run.execution.run_key is None:
        raise TrackingError(f"{name} ran outside DVC: its data and parameters are not recorded")
    if run.commit is None:
        raise TrackingError(f"{name} has no commit, so its code is unknown")
    if hash_at(run.commit, "dvc.yaml") is None:
        raise TrackingError(f"{name}: its commit {run.commit[:10]} is missing here (git fetch)")
    if not run.dirty:
        _check_code(run, lambda path: hash_at(run.commit or "", path))
    return run.commit


def restore_changes(run: TrackedRun, patch: str | None, folder: Path) -> None:
    """Apply the changes that a run's code and parameters had to a checkout of its commit.

    Args:
        run: the run.
        patch: the artifact `git/diff.patch`; None if it is missing.
        folder: the checkout, which is changed.

    Raises:
        TrackingError: the changes are missing, cannot be applied, or give other code.
    """
    name = _name(run)
    if not patch:
        raise TrackingError(
            f"{name} ran in a tree that differed from commit {(run.commit or '')[:10]}, and its "
            "changes (artifact git/diff.patch) are not in the history"
        )
    if refused := apply_patch(patch, folder):
        raise TrackingError(f"{name}: git/diff.patch cannot be applied: {refused}")
    _check_code(run, lambda path: content_hash(folder / path))


def _check_code(run: TrackedRun, hash_of: Callable[[str], str | None]) -> None:
    changed = [
        path
        for path, digest in run.execution.inputs.items()
        if path.startswith(("pipeline/", "stages/")) and hash_of(path) != digest
    ]
    if changed:
        raise TrackingError(
            f"{_name(run)}: its code is not on record: {', '.join(changed[:3])} differed from "
            f"commit {(run.commit or '')[:10]} and its recorded changes"
        )


def _name(run: TrackedRun) -> str:
    return f"run {run.run_id[:10]} ({run.name})"


def compare(run: TrackedRun, again: Execution, folder: Path) -> tuple[list[str], bool]:
    """Compare a run with a second execution of its stage, as in `dvc.lock` of `folder`.

    Returns:
        A report, line by line: inputs that differ with both hashes, then each output; of one that
        differs, the metrics with both values, or the files of the folder if DVC's cache has the
        earlier folder's listing. And whether all outputs have the same bytes.
    """
    lines = [
        f"input      {path}: {digest}, now {again.inputs.get(path, 'none')}"
        for path, digest in run.execution.inputs.items()
        if again.inputs.get(path) != digest
        and not any(path.startswith(f"{other}/") for other in again.inputs)
    ]
    before = run.execution.outputs
    same = [path for path, digest in again.outputs.items() if before.get(path) == digest]
    lines += [f"same       {path}" for path in same]
    for path in again.outputs:
        if path not in same:
            lines.append(f"different  {path}")
            details = _differences(path, before.get(path), folder / path, run.metrics)
            lines += [f"             {detail}" for detail in details]
    lines.append(f"{len(same)} of {len(again.outputs)} outputs have the same bytes")
    return lines, len(same) == len(again.outputs)


def _differences(
    path: str, digest: str | None, output: Path, metrics: Mapping[str, float]
) -> Iterator[str]:
    """Yield the metrics of a file, or the files of a folder, that differ."""
    if path.startswith("metrics/"):
        for name, value in read_json(output).items():
            if metrics.get(name) != value:
                yield f"{name}: {metrics.get(name)}, now {value}"
        return
    listing = folder_listing(digest) if digest is not None and output.is_dir() else None
    if listing is not None:
        yield from sorted({name for name, _ in {*listing} ^ {*file_hashes(output)}})
