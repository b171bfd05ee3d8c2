"""Send what stages could not: see `spool.py`."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from types import ModuleType

from pipeline.errors import PipelineError, TrackingError
from pipeline.history.derived import STEPS
from pipeline.history.events import Sender
from pipeline.history.journal import Spool, all_spools, kept_runs
from pipeline.history.store import connect, first_line, store_identity, without_password
from pipeline.workflow.project import project_root


@dataclass(frozen=True)
class Delivery:
    """What became of one run's kept entries.

    Attributes:
        name: of the run.
        run_id: MLflow's.
        sent: how many entries were.
        refused: of each that MLflow will never take: why. They are gone.
        left: how many entries are still kept.
        trouble: why they are; empty if none is, or if the run is still going.
        elsewhere: whether they belong to another store.
    """

    name: str
    run_id: str
    sent: int = 0
    refused: tuple[str, ...] = ()
    left: int = 0
    trouble: str = ""
    elsewhere: bool = False


def send_all() -> Iterator[Delivery]:
    """Send all that is kept, run by run, and yield what became of each; see `deliver`.

    Raises:
        TrackingError: the tracking server or store cannot be used, or what is kept cannot be read;
            all stays as it is.
    """
    if not kept_runs(project_root()):
        return
    mlflow = connect()
    here = store_identity()
    try:
        mlflow.search_experiments(max_results=1)
    except Exception as error:
        raise TrackingError(
            without_password(f"MLflow at {here} cannot be reached: {first_line(error)}\n")
            + "Nothing is lost: what is kept stays. Start the server and send again."
        ) from error
    yield from deliver(mlflow)


def drop_kept(run: str) -> str:
    """Delete what is kept of a run, unsent and whatever state it is in; return the run's id.

    Args:
        run: its id, or the beginning of it.

    Raises:
        PipelineError: nothing is kept of such a run, of several, or its stage still runs.
    """
    kept = kept_runs(project_root())
    chosen = [run_id for run_id in kept if run_id.startswith(run)]
    if not kept:
        raise PipelineError(f"--drop {run}: nothing is kept: MLflow has all that was logged")
    if not chosen:
        raise PipelineError(f"--drop {run}: no such run; there are entries of {', '.join(kept)}")
    if len(chosen) > 1:
        raise PipelineError(f"--drop {run}: name one of the runs {', '.join(chosen)}")
    (run_id,) = chosen
    spool = Spool(project_root(), run_id)
    try:
        with spool.lock():
            spool.delete()
    except BlockingIOError:
        raise PipelineError(f"--drop {run}: its stage still runs; stop it first") from None
    return run_id


def deliver(mlflow: ModuleType) -> Iterator[Delivery]:
    """Send what is kept for this store, what was kept first before the rest.

    What a run logs may be worked out from the runs before it. So the first one that cannot be sent
    keeps back those behind it.

    Args:
        mlflow: connected to the store.
    """
    sender = Sender(mlflow, STEPS, doubts_all=True)
    here = store_identity()
    held_up = ""
    for spool in all_spools(project_root()):
        try:
            with spool.lock():
                delivery = _deliver(spool, sender, here, held_up)
        except BlockingIOError:  # its stage still runs, and sends them itself when it can
            origin = spool.origin()
            name = origin.name if origin is not None else ""
            delivery = Delivery(name, spool.folder.name, left=len(spool.unsent()))
        if delivery is None:
            continue
        yield delivery
        if delivery.trouble and not delivery.elsewhere and not held_up:
            held_up = f"they come after those of {delivery.name} {delivery.run_id[:10]}"


def _deliver(spool: Spool, sender: Sender, here: str, held_up: str) -> Delivery | None:
    """Send one run's entries, if nothing holds them up; None where a kill left none."""
    origin = spool.origin()
    if origin is None:
        spool.delete()
        return None
    before = len(spool.unsent())
    kept = Delivery(origin.name, spool.folder.name, left=before)
    if origin.store != here:
        trouble = f"they belong to {origin.store}; set MLFLOW_TRACKING_URI to it"
        return replace(kept, trouble=trouble, elsewhere=True)
    if held_up:
        return replace(kept, trouble=held_up)
    try:
        sent = spool.send(sender)
    except Exception as error:  # MLflow raises many kinds
        left = len(spool.unsent())
        trouble = without_password(first_line(error))
        return replace(kept, sent=before - left, left=left, trouble=trouble)
    return replace(kept, sent=sent.entries, refused=sent.refused, left=0)
