"""Write-ahead logs: each event of a run is on disk before MLflow gets it.

The log of a stage's run, and of its child runs, is `.work/unsent/<run id>/`: `entries.jsonl` with a
header line and one line per event, copies of files, and `sent.txt` with the number of events that
MLflow has. A stage, a resumed stage and `ptune send` all forward the rest with `EventLog.forward`.
The process that appends or forwards holds the lock of the folder; the folder is deleted when all
events are forwarded and the stage has ended.
"""

import contextlib
import itertools
import json
import os
import shutil
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType

from pipeline.errors import PipelineError, TrackingError, warn
from pipeline.history.derived import DERIVED
from pipeline.history.events import Event, MlflowWriter, is_refusal, merged_metrics
from pipeline.history.store import check_readable, connect, first_line, store_identity
from pipeline.workflow.project import project_root
from pipeline.workflow.workdir import entries, locked

# Metrics wait so long for others, to be sent together.
_BATCH_SECONDS = 10.0
_PAUSE_SECONDS = 60.0
# The pause after a failed try, as a multiple of the try's duration: timeouts cost at most 5% of
# a stage's time.
_PAUSE_FACTOR = 20

_UNREACHABLE = "MLflow cannot be reached, log events are kept until it can"
_REFUSED = "MLflow refuses a log event"


class EventLog:
    """The log of one stage's run on disk.

    Attributes:
        name: Of the stage's run, such as `train/lama/p-tuning`.
        store: The address of the MLflow store, without credentials.
        begun: When the first event happened, in milliseconds since 1970; 0 without events.
        pending: The events that MLflow does not have, in order.
    """

    def __init__(self, run_id: str, *, name: str = "") -> None:
        """Initialize the log of a run in the current store; `load` reads an existing one."""
        self.run_id = run_id
        self.name = name
        self.store = store_identity()
        self.folder = _logs_folder() / run_id
        self.begun = 0
        self.pending: deque[Event] = deque()
        self._events = self.folder / "entries.jsonl"
        self._position = self.folder / "sent.txt"
        self._num_sent = 0
        self._end = 0

    def lock(
        self, on_wait: Callable[[], None] | None = None
    ) -> contextlib.AbstractContextManager[None]:
        """Hold the log's lock; without `on_wait`, raise BlockingIOError if it is held."""
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        return locked(self.folder, on_wait)

    def load(self) -> None:
        """Read the log from disk.

        Raises:
            TrackingError: A line cannot be parsed.
        """
        content = _read_if_there(self._events)
        # A last line without a line end was being written when the process was killed.
        self._end = content.rfind(b"\n") + 1
        line = b""
        events = []
        try:
            sent = _read_if_there(self._position)
            # A lost position repeats events, which is harmless.
            self._num_sent = int(sent) if sent.isdigit() else 0
            for number, line in enumerate(content[: self._end].split(b"\n")[:-1]):
                if number == 0:
                    header = json.loads(line)
                    self.store, self.name = header["store"], header["name"]
                else:
                    events.append(Event.from_line(line.decode()))
        except (KeyError, TypeError, ValueError):
            raise TrackingError(
                f"{self._events}: cannot be parsed at {line[:60].decode(errors='replace')!r}; fix "
                f"the file, or drop its events: `ptune send --drop {self.run_id[:10]}`"
            ) from None
        self.begun = events[0].time if events else 0
        self.pending = deque(events[self._num_sent :])

    def append(self, event: Event) -> None:
        """Add an event, with a copy of its file; both survive a loss of power.

        Raises:
            OSError: The disk is full, or the event's file does not exist.
        """
        if self._end == 0:
            self.folder.mkdir(exist_ok=True)
            self._write_line(json.dumps({"store": self.store, "name": self.name}))
        if event.kind == "file":
            event = replace(event, values={**event.values, "path": self._copy(event)})
        self._write_line(event.to_line())
        self.pending.append(event)

    def forward(self, writer: MlflowWriter, on_refusal: Callable[[str], None]) -> None:
        """Write the pending events to MLflow, in order; metrics that follow each other together.

        Events that MLflow will never accept are dropped; `on_refusal` is called with the reason.

        Raises:
            Exception: MLflow cannot be reached; the events, and those behind them, remain pending.
        """
        while self.pending:
            first = self.pending[0]
            metrics = list(itertools.takewhile(lambda e: e.kind == "metrics", self.pending))
            for event in merged_metrics(metrics) or [first]:
                self._write(event, writer, on_refusal)
            num_events = len(metrics) or 1
            for _ in range(num_events):
                self.pending.popleft()
            self._num_sent += num_events
            self._note_position()
            if first.kind == "file":
                self._copy_of(first).unlink(missing_ok=True)

    def _write(self, event: Event, writer: MlflowWriter, on_refusal: Callable[[str], None]) -> None:
        if event.kind == "file":
            event = replace(event, values={**event.values, "path": str(self._copy_of(event))})
        try:
            writer.write(event)
        except Exception as error:
            if not is_refusal(error):
                raise
            on_refusal(f"{event.kind}: {first_line(error)}")

    def _copy_of(self, event: Event) -> Path:
        return self.folder / str(event.values["path"])

    def delete(self) -> None:
        """Delete the log, the events first: without them, the rest is meaningless."""
        self._events.unlink(missing_ok=True)
        shutil.rmtree(self.folder, ignore_errors=True)
        self.pending.clear()
        self._num_sent = self._end = 0

    def _note_position(self) -> None:
        # A lost position is harmless (see `load`), so nothing waits for the disk.
        with contextlib.suppress(OSError):
            self._position.write_text(str(self._num_sent))

    def _write_line(self, line: str) -> None:
        content = f"{line}\n".encode()
        with self._events.open("ab") as file:
            file.truncate(self._end)  # remove a line that a full disk or a kill cut
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        self._end += len(content)

    def _copy(self, event: Event) -> str:
        """Copy an event's file, and return the copy's path within the folder."""
        source = Path(event.values["path"])
        # MLflow takes the file's name from its path, so each copy has a separate folder.
        number = self._num_sent + len(self.pending)
        copy = self.folder / "files" / str(number) / source.name
        copy.parent.mkdir(parents=True, exist_ok=True)
        with source.open("rb") as reader, copy.open("wb") as writer:
            shutil.copyfileobj(reader, writer)
            writer.flush()
            os.fsync(writer.fileno())
        return copy.relative_to(self.folder).as_posix()


class LiveLog:
    """The log of a running stage.

    Events are forwarded at once, or later if MLflow is away; the metrics of a run at most every
    `_BATCH_SECONDS`, or with the next event of another kind.
    """

    def __init__(
        self, log: EventLog, writer: MlflowWriter, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Initialize with a log whose lock is held, and the writer to its store."""
        self._writer = writer
        self._log = log
        self._clock = clock
        self._next_try = 0.0
        self._next_metrics: dict[str, float] = {}
        self._warned: set[str] = set()

    def record(self, event: Event) -> None:
        """Append an event, and forward all pending ones unless a try failed just now."""
        try:
            self._log.append(event)
        except OSError as error:
            sent = self._send() and self._try(lambda: self._writer.write(event))
            if not sent:
                self.warn("a log event could be neither sent nor kept", first_line(error))
            return
        if self._is_due(event):
            self._send()

    def _is_due(self, event: Event) -> bool:
        if event.kind != "metrics":
            return True
        now = self._clock()
        if now < self._next_metrics.get(event.run, now):
            return False
        self._next_metrics[event.run] = now + _BATCH_SECONDS
        return True

    def _send(self) -> bool:
        """Forward what is pending, and return whether nothing is left."""
        if self._clock() < self._next_try:
            return False
        return self._try(
            lambda: self._log.forward(self._writer, lambda reason: self.warn(_REFUSED, reason))
        )

    def warn(self, problem: str, reason: str) -> None:
        """Warn the user about a problem with the log, once per problem."""
        if problem not in self._warned:
            self._warned.add(problem)
            warn(f"{problem} ({reason}); the stage continues")

    def _try(self, send: Callable[[], None]) -> bool:
        """Return whether events were sent or refused; pause after a failure."""
        started = self._clock()
        try:
            send()
        except Exception as error:  # MLflow raises many types
            if is_refusal(error):
                self.warn(_REFUSED, first_line(error))
                return True
            ended = self._clock()
            self._next_try = ended + max(_PAUSE_SECONDS, _PAUSE_FACTOR * (ended - started))
            self.warn(_UNREACHABLE, first_line(error))
            return False
        return True


@dataclass(frozen=True)
class SendReport:
    """The result of forwarding one run's log.

    Attributes:
        num_sent: The number of events that were sent.
        refused: The reason for each event that MLflow refused; these events are dropped.
        num_pending: The number of events that remain.
        trouble: Why they remain; empty if none do, or if the stage still runs.
        other_store: Whether they belong to another store.
    """

    name: str
    run_id: str
    num_sent: int = 0
    refused: tuple[str, ...] = ()
    num_pending: int = 0
    trouble: str = ""
    other_store: bool = False


def send_all() -> Iterator[SendReport]:
    """Forward all logs after checking the server, and yield a report on each; see `forward_logs`.

    Raises:
        TrackingError: The store cannot be used, or a log cannot be parsed; nothing has changed.
    """
    check_readable()
    if not logged_runs():
        return
    mlflow = connect()
    try:
        mlflow.search_experiments(max_results=1)
    except Exception as error:
        raise TrackingError(
            f"MLflow at {store_identity()} cannot be reached: {first_line(error)}\n"
            "Nothing is lost: all events are kept. Start the server and run `ptune send` again."
        ) from error
    yield from forward_logs(mlflow)


def forward_logs(mlflow: ModuleType) -> Iterator[SendReport]:
    """Forward the logs that belong to this store, in the order in which their runs began.

    Events of a run may be derived from earlier runs, so runs behind one that cannot be sent wait.
    """
    writer = MlflowWriter(mlflow, DERIVED, check_existing=True)
    blocked_by = ""
    logs = [EventLog(run_id) for run_id in logged_runs()]
    for log in logs:
        log.load()
    for log in sorted(logs, key=lambda log: log.begun):
        try:
            with log.lock():
                log.load()
                report = _forward(log, writer, blocked_by)
        except BlockingIOError:  # its stage still runs, and forwards its events itself
            report = SendReport(log.name, log.run_id, num_pending=len(log.pending))
        if report.trouble and not report.other_store and not blocked_by:
            blocked_by = f"blocked by events of {report.name} {report.run_id[:10]}"
        if report.num_sent or report.refused or report.num_pending:
            yield report


def _forward(log: EventLog, writer: MlflowWriter, blocked_by: str) -> SendReport:
    num_before = len(log.pending)
    refused: list[str] = []
    trouble = blocked_by
    other_store = log.store != store_identity()
    if other_store:
        trouble = f"they belong to {log.store}; set MLFLOW_TRACKING_URI to it"
    elif not blocked_by:
        try:
            log.forward(writer, refused.append)
        except Exception as error:  # MLflow raises many types
            trouble = first_line(error)
    num_pending = len(log.pending)
    num_sent = num_before - num_pending - len(refused)
    if not num_pending:
        log.delete()
        trouble = ""
    return SendReport(
        log.name, log.run_id, num_sent, tuple(refused), num_pending, trouble, other_store
    )


def drop_log(run: str) -> str:
    """Delete the log of a run, by its id or the beginning of it, and return the id.

    Raises:
        PipelineError: No or several logs match, or the run's stage still runs.
    """
    run_ids = logged_runs()
    matches = [run_id for run_id in run_ids if run_id.startswith(run)]
    if len(matches) != 1:
        raise PipelineError(
            f"--drop {run}: matches {len(matches)} of the runs with unsent events: "
            + (", ".join(run_ids) or "none, MLflow is up to date")
        )
    log = EventLog(matches[0])
    try:
        with log.lock():
            log.delete()
    except BlockingIOError:
        raise PipelineError(f"--drop {run}: its stage still runs; stop it first") from None
    return log.run_id


def logged_runs() -> list[str]:
    """Return MLflow's ids of the runs that have a log, sorted.

    Raises:
        OSError: the folder of the logs cannot be read.
    """
    return [path.name for path in entries(_logs_folder()) if path.is_dir()]


def _read_if_there(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:  # its stage may just have ended
        return b""


def _logs_folder() -> Path:
    return project_root() / ".work" / "unsent"
