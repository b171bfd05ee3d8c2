"""Commands on the history: trace content, reproduce a run, send kept events, restore runs."""

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli.console import echo, print_json, print_warning
from pipeline.errors import PipelineError, TrackingError

if TYPE_CHECKING:
    from pipeline.history.journal import SendReport

# The commands' imports take seconds, which help must not cost.

LINEAGE_EXAMPLES = """Examples:
  ptune lineage metrics/lama/p-tuning.json
  ptune lineage train-lama@p-tuning --params
  ptune lineage 3fa9c1d2e0 --json
  ptune lineage data/splits/lama --forward"""


def lineage(
    target: Annotated[
        str,
        typer.Argument(
            help="A path (of a stage's output, or inside one), a stage, or a run's id or at least "
            "its first 6 digits."
        ),
    ],
    forward: Annotated[
        bool, typer.Option("--forward", help="Show what was made from it, not its origins.")
    ] = False,
    params: Annotated[bool, typer.Option("--params", help="Show the parameters.")] = False,
    as_data: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Trace a file, model, metric or run to its origins, by content hashes.

    For each stage, it shows the run that produced the content (even if later
    runs skipped the stage), its commit, parameters and hashes. Links that
    are not on record are reported as missing.
    """
    from pipeline.history.lineage import trace, workspace_tracer
    from pipeline.history.lineage_text import as_json, as_tree

    traces = trace(target, workspace_tracer(), forward=forward)
    if as_data:
        print_json([as_json(node) for node in traces], indent=2)
    else:
        trees = "\n".join(as_tree(node, params=params) for node in traces)
        echo(trees, nl=False)


REPRODUCE_EXAMPLES = """Examples:
  ptune reproduce 3fa9c1d2e0
  ptune reproduce 3fa9c1d2e0 --keep"""


def reproduce(
    run_id: Annotated[
        str, typer.Argument(help="The id of a stage's run, or at least its first 6 digits.")
    ],
    keep: Annotated[bool, typer.Option("--keep", help="Keep the worktree.")] = False,
) -> None:
    """Re-run one recorded stage from its commit, and compare the results.

    The commit is checked out in a separate worktree, with the changes that the
    run had. The stage and all that it depends on run there from the start,
    without DVC's cache. Outputs are compared by their bytes, metrics by value.
    The exit code is 0 if all are equal, and 1 if not.
    """
    from pipeline.history.context import library_versions
    from pipeline.history.executions import TrackedHistory
    from pipeline.history.reproduction import check_reproducible, compare, restore_changes
    from pipeline.workflow.git import Commits, worktree
    from pipeline.workflow.lock import read_lock

    history = TrackedHistory()
    run = history.find(run_id)
    if run is None:
        raise TrackingError(f"{run_id}: the history has no stage run with this id")
    commit = check_reproducible(run, Commits(Path()).hash_at)
    current = library_versions()
    libraries = history.libraries(run).items()
    changed = [f"{k} {v} (now {current.get(k)})" for k, v in libraries if current.get(k) != v]
    if changed:
        echo(f"The run used other libraries: {', '.join(changed)}")
    stage = run.execution.stage
    echo(f"{stage} at commit {commit[:10]}, with all that it depends on")
    root = Path().resolve()
    place = root / ".work" / "reproduced" / run.run_id[:10]
    with worktree(root, commit, place, keep=keep) as folder:
        if run.dirty:
            echo("with the changes that the run had (git/diff.patch)")
            restore_changes(run, history.text(run, "git/diff.patch"), folder)
        _repro(folder, root, stage)
        again = read_lock(folder / "dvc.lock")[stage]
        report, same = compare(run, again, folder)
    echo("\n".join(report))
    if keep:
        echo(f"The worktree: {place}   To remove it: git worktree remove --force {place}")
    if not same:
        raise typer.Exit(1)


def _repro(folder: Path, root: Path, stage: str) -> None:
    """Run a stage and what it depends on, with a separate history and cache."""
    downloads = root / ".work" / "downloads"
    if downloads.is_dir():  # each file's checksum is verified when it is used
        (folder / ".work").mkdir(exist_ok=True)
        (folder / ".work" / "downloads").symlink_to(downloads)
    environment = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith("DVC_") and key != "MLFLOW_TRACKING_URI"
    }
    programs = Path(sys.executable).parent
    environment["PATH"] = f"{programs}{os.pathsep}{environment.get('PATH', '')}"
    command = [sys.executable, "-m", "dvc", "repro", "--force", "--", stage]
    done = subprocess.run(command, cwd=folder, env=environment, check=False)
    if done.returncode != 0:
        raise PipelineError(f"{stage} failed (exit code {done.returncode}); see its message above")


SEND_EXAMPLES = """Examples:
  ptune send
  ptune send --drop 1f0c6a
  MLFLOW_TRACKING_URI=https://mlflow.example.org ptune send"""


def send(
    drop: Annotated[
        str | None,
        typer.Option(
            metavar="RUN",
            help="First delete the unsent events of a run (its id, or how that begins).",
        ),
    ] = None,
) -> None:
    """Send the log events that were kept while MLflow could not be reached.

    Each is sent once, in order, however often the command is run.
    """
    from pipeline.history.journal import drop_log, send_all

    if drop is not None:
        echo(f"dropped the unsent events of run {drop_log(drop)}")
    reports = list(map(_printed, send_all()))
    if not reports:
        echo("nothing to send: MLflow is up to date")
    troubled = [report for report in reports if report.trouble]
    blocking = next((report.run_id for report in troubled if not report.other_store), None)
    if blocking is not None:
        echo(
            "`ptune send` tries again; if MLflow never accepts these events, "
            f"`ptune send --drop {blocking[:10]}` deletes them and sends the rest",
            err=True,
        )
    if troubled:
        raise typer.Exit(1)


def _printed(report: "SendReport") -> "SendReport":
    echo(f"{report.name} {report.run_id[:10]}: {report.num_sent} events sent")
    for reason in report.refused:
        print_warning(f"  refused and dropped: {reason}", color="yellow")
    if report.trouble:
        print_warning(f"  {report.num_pending} kept: {report.trouble}", color="red")
    elif report.num_pending:
        echo(f"  {report.num_pending} kept: its stage still runs, and sends them itself")
    return report


SYNC_EXAMPLES = """Examples:
  dvc pull && ptune sync"""


def sync() -> None:
    """Create an MLflow run for each entry of dvc.lock that has none.

    After `dvc pull` in a fresh clone, or on a new or emptied server, results
    exist but MLflow has no record of them. Their parameters, hashes, metrics
    and curves become runs, marked as restored. A second call adds nothing.
    Events that were kept (see `ptune send`) are sent first.
    """
    from pipeline.history.journal import send_all
    from pipeline.history.restore import restore_missing, summarize_runs
    from pipeline.workflow.lock import read_lock

    for report in send_all():
        if report.other_store:
            continue
        if _printed(report).trouble:
            raise TrackingError(
                "a stage whose events are still kept would get a second run: run `ptune sync` "
                "again after `ptune send` has sent them"
            )
    lock = read_lock(Path("dvc.lock"))
    num_created = 0
    for stage, run_id, left_out in restore_missing(lock):
        echo(f"{stage}  run {run_id}")
        for path in left_out:
            echo(f"  {path} differs from dvc.lock: its numbers are left out", err=True)
        num_created += 1
    echo(f"created runs for {num_created} of {len(lock)} entries of dvc.lock")
    if num_summarized := summarize_runs():
        echo(f"summarized {num_summarized} runs: names, scores and settings (docs/history.md)")
