"""Send what stages could not: see `spool.py`."""

from collections.abc import Iterator
from dataclasses import dataclass

from pipeline.errors import TrackingError
from pipeline.lineage import project_root
from pipeline.tracking.entries import Sender
from pipeline.tracking.runs import STEPS
from pipeline.tracking.spool import Spool, all_spools
from pipeline.tracking.store import connect, first_line, store_identity, without_password


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
    """

    name: str
    run_id: str
    sent: int = 0
    refused: tuple[str, ...] = ()
    left: int = 0
    trouble: str = ""


def send_all() -> Iterator[Delivery]:
    """Send all that is kept, run by run, and yield what became of each.

    Raises:
        TrackingError: the tracking server or store cannot be used; all stays as it is.
    """
    spools = all_spools(project_root())
    if not spools:
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
    sender = Sender(mlflow, STEPS, doubts_all=True)
    for spool in spools:
        try:
            with spool.lock():
                delivery = _deliver(spool, sender, here)
        except BlockingIOError:  # its stage still runs, and sends them itself when it can
            origin = spool.origin()
            name = origin.name if origin is not None else ""
            delivery = Delivery(name, spool.folder.name, left=len(spool.unsent()))
        if delivery is not None:
            yield delivery


def _deliver(spool: Spool, sender: Sender, here: str) -> Delivery | None:
    """Send one run's entries; None where a kill left a folder without any."""
    origin = spool.origin()
    run_id = spool.folder.name
    if origin is None:
        spool.delete()
        return None
    if origin.store != here:
        trouble = f"they belong to {origin.store}; set MLFLOW_TRACKING_URI to it"
        return Delivery(origin.name, run_id, left=len(spool.unsent()), trouble=trouble)
    before = len(spool.unsent())
    try:
        sent = spool.send(sender)
    except Exception as error:  # MLflow raises many kinds; the next run may be better off
        left = len(spool.unsent())
        trouble = without_password(first_line(error))
        return Delivery(origin.name, run_id, before - left, left=left, trouble=trouble)
    return Delivery(origin.name, run_id, sent.entries, sent.refused)
