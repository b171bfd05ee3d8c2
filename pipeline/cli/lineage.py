"""Show what content was made from, or what was made from it."""

import json
from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli.console import errors_told

EXAMPLES = """Examples:
  ptune lineage metrics/lama/p-tuning.json
  ptune lineage train-lama@p-tuning --params
  ptune lineage 3fa9c1d2e0 --json
  ptune lineage data/splits/lama --forward"""


def lineage(
    target: Annotated[
        str,
        typer.Argument(
            help="A path (an output of a stage, or within one), a stage, or a run's id, 6 digits "
            "of it or more."
        ),
    ],
    forward: Annotated[
        bool, typer.Option("--forward", help="What was made from it, not what it was made from.")
    ] = False,
    params: Annotated[bool, typer.Option("--params", help="Show each step's parameters.")] = False,
    as_data: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Trace a file, model, metric or run to its origin, by the hashes of contents.

    Stage by stage: the run that made it, also where later runs skipped it;
    commit, parameters, hashes. A link that is on no record is said to be
    missing.
    """
    with errors_told():
        # Imports of seconds, which help must not cost.
        from pipeline.history.executions import TrackedHistory
        from pipeline.history.lineage import Tracer
        from pipeline.history.lineage_text import as_json, as_tree
        from pipeline.history.targets import trace
        from pipeline.workflow.git import Commits
        from pipeline.workflow.lock import read_lock
        from pipeline.workflow.project import folder_listings, workspace_hashes

        lock = read_lock(Path("dvc.lock"))
        history = TrackedHistory()
        found = trace(
            target,
            Tracer(lock, history, hash_at=Commits(Path()).hash_at, listing=folder_listings()),
            lock=lock,
            find_run=history.find,
            workspace_hashes=workspace_hashes,
            forward=forward,
        )
        if as_data:
            typer.echo(json.dumps([as_json(node) for node in found], indent=2))
        else:
            typer.echo("\n".join(as_tree(node, params=params) for node in found), nl=False)
