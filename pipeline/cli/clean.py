"""`ptune clean`: free the disk from kept progress and trainings."""

from collections.abc import Collection
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli.console import echo
from pipeline.errors import PipelineError

if TYPE_CHECKING:
    from pipeline.workflow.workdir import KeptWork

EXAMPLES = """Examples:
  ptune clean
  ptune clean --force"""


def clean(
    force: Annotated[bool, typer.Option("--force", help="Delete it.")] = False,
) -> None:
    """Show what kept progress and trainings take on disk; --force deletes it.

    Finished trainings stay in .work/units, so that one more seed or setting
    trains only what is new, and so does the progress of killed stages in
    .work, so that they resume. Without them, all that is left to do starts
    over; results are not touched, and nothing that a running stage uses is.
    """
    from pipeline.workflow.project import project_root
    from pipeline.workflow.workdir import delete_work, in_use, kept_work

    everything = kept_work(project_root())
    used = [work for work in everything if in_use(work)]
    unused = [work for work in everything if work not in used]
    if used:
        echo(f"in use by running stages, and left: {_summary(used)}")
    if not unused:
        echo("nothing to delete")
        return
    if not force:
        echo(f"not in use: {_summary(unused)}\n`ptune clean --force` deletes it")
        return
    deleted = [work for work in unused if delete_work(work)]
    echo(f"deleted: {_summary(deleted)}")
    if left := [str(work.folder) for work in unused if work not in deleted]:
        raise PipelineError(
            f"{len(left)} could not be deleted, such as {left[0]}: a stage that started meanwhile "
            "uses it, or its permissions do not allow it"
        )


def _summary(works: Collection["KeptWork"]) -> str:
    units = sum(work.is_unit for work in works)
    size = sum(work.num_bytes for work in works) / 1e9
    stages = len(works) - units
    return f"{units} trainings and the progress of {stages} stages, {size:.3g} GB"
