"""Make a run again, and compare."""

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli.console import errors_told
from pipeline.errors import PipelineError, TrackingError

if TYPE_CHECKING:
    from pipeline.history.reproduction import Comparison


EXAMPLES = """Examples:
  ptune reproduce 3fa9c1d2e0
  ptune reproduce 3fa9c1d2e0 --keep"""


def reproduce(
    run_id: Annotated[
        str, typer.Argument(help="Id of a stage's run, or its beginning, 6 digits or more.")
    ],
    keep: Annotated[bool, typer.Option("--keep", help="Leave the worktree for a look.")] = False,
) -> None:
    """Run a run's stage again, from its commit and parameters, and compare the results.

    The commit is checked out in a worktree of its own; the stage and all that
    it depends on run there from the start, nothing is taken from DVC's cache.
    Outputs are compared byte by byte, metrics by value. Exit code 0 if all are
    the same, 1 if not.
    """
    with errors_told():
        # Imports of seconds, which help must not cost.
        from pipeline.history.executions import TrackedHistory
        from pipeline.history.reproduction import check_reproducible, compare
        from pipeline.workflow.git import Commits, worktree
        from pipeline.workflow.lock import read_lock
        from pipeline.workflow.project import folder_listings

        history = TrackedHistory()
        run = history.find(run_id)
        if run is None:
            raise TrackingError(f"{run_id}: no stage's run of the history has this id")
        commit = check_reproducible(run, Commits(Path()).hash_at)
        metrics = history.metrics(run.run_id)  # the server may be away when the work is done
        _tell_libraries(history.libraries(run.run_id))
        stage = run.execution.stage
        typer.echo(f"{stage} at commit {commit[:10]}, with all that it depends on")
        root = Path().resolve()
        place = root / ".work" / "reproduced" / run.run_id[:10]
        with worktree(root, commit, place, keep=keep) as folder:
            _repro(folder, root, stage)
            again = read_lock(folder / "dvc.lock")[stage]
            found = compare(run, metrics, again, folder, listing=folder_listings())
        _tell(found)
        if keep:
            typer.echo(f"The worktree: {place}   Remove it: git worktree remove --force {place}")
        if found.different:
            raise typer.Exit(1)


def _repro(folder: Path, root: Path, stage: str) -> None:
    """Run a stage and what it depends on, with a history and a cache of the folder's own."""
    downloads = root / ".work" / "downloads"
    if downloads.is_dir():  # each file is checked by its digest when it is used
        (folder / ".work").mkdir(exist_ok=True)
        (folder / ".work" / "downloads").symlink_to(downloads)
    own = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith("DVC_") and key != "MLFLOW_TRACKING_URI"
    }
    programs = f"{Path(sys.executable).parent}{os.pathsep}{own.get('PATH', '')}"
    command = [sys.executable, "-m", "dvc", "repro", "--force", stage]
    done = subprocess.run(command, cwd=folder, env={**own, "PATH": programs}, check=False)
    if done.returncode != 0:
        raise PipelineError(
            f"{stage} did not run through (exit code {done.returncode}); its message is above"
        )


def _tell_libraries(then: dict[str, str]) -> None:
    from pipeline.history.run import library_versions

    now = library_versions()
    differing = [f"{k} {v} (now {now.get(k)})" for k, v in then.items() if now.get(k) != v]
    if differing:
        typer.echo(f"It ran with other libraries: {', '.join(differing)}")


def _tell(found: "Comparison") -> None:
    for path, (then, now) in found.inputs.items():
        typer.echo(f"input      {path}: {then}, now {now}")
    for path in found.same:
        typer.echo(f"same       {path}")
    for difference in found.different:
        typer.echo(f"different  {difference.path}")
        for name in difference.files:
            typer.echo(f"             {name}")
        for name, (before, after) in difference.metrics.items():
            typer.echo(f"             {name}: {before}, now {after}")
    total = len(found.same) + len(found.different)
    typer.echo(f"{len(found.same)} of {total} outputs have the same bytes")
