"""What entries of kind `step` stand for: what is read in the history only as they are sent."""

from collections.abc import Callable, Mapping
from pathlib import Path

from pipeline.history.events import Entry, Step
from pipeline.history.executions import TrackedHistory
from pipeline.history.lineage import Tracer
from pipeline.history.lineage_text import as_tree
from pipeline.history.models import list_models
from pipeline.workflow.git import Commits
from pipeline.workflow.lock import read_lock
from pipeline.workflow.project import folder_listings


def _log_lineage(run_id: str, log: Callable[[Entry], None]) -> None:
    """Leave the trace back to the raw data, and a tag for each run that made an input."""
    history = TrackedHistory()
    own = history.find(run_id)
    if own is None:
        return
    tracer = Tracer(
        read_lock(Path("dvc.lock")),
        history,
        hash_at=Commits(Path()).hash_at,
        listing=folder_listings(),
    )
    step = tracer.back_from(own)
    log(Entry("text", run_id, {"text": as_tree(step), "name": "lineage.txt"}))
    makers = {a.path: a.made_by.run for a in step.inputs if a.made_by is not None}
    tags = {f"made_from.{path}": own.run_id for path, own in makers.items() if own}
    log(Entry("tags", run_id, tags))


STEPS: Mapping[str, Step] = {
    "lineage": _log_lineage,
    "models": lambda run_id, _: list_models(run_id),
}
