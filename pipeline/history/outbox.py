"""Each log entry now, or later: an MLflow that is away costs a stage neither results nor time."""

import contextlib
import sys
import time
from collections.abc import Callable

from pipeline.history.events import Entry, Sender, is_refusal
from pipeline.history.journal import Origin, Spool
from pipeline.history.store import first_line, without_password

_PAUSE_SECONDS = 60.0
# A server that only ever times out costs a stage no more than one part in so many of its time.
_PAUSE_FACTOR = 20

_AWAY = "MLflow cannot be reached, what is logged is kept until it can"
_REFUSED = "MLflow refuses a log entry"


class Outbox:
    """Sends the entries of a stage's run, in order; keeps them while MLflow cannot be reached."""

    def __init__(
        self,
        sender: Sender,
        spool: Spool,
        origin: Origin,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take how entries are sent, and where they are kept."""
        self.sender = sender
        self._spool = spool
        self._origin = origin
        self._clock = clock
        self._kept = 0
        self._next_try = 0.0
        self._warned: set[str] = set()
        self._lock = contextlib.ExitStack()

    def log(self, entry: Entry) -> None:
        """Send an entry, or keep it behind those that are kept already."""
        try:
            sent = self._sends_kept() and self._tries(lambda: self.sender.send(entry))
        except BaseException:  # a signal, perhaps before the entry had arrived
            self._keep(entry)
            raise
        if not sent:
            self._keep(entry)

    def close(self) -> int:
        """Let others send what is kept; return how many entries that are."""
        left = len(self._spool.unsent()) if self._kept else 0
        if not left:
            self._spool.delete()
        self._lock.close()
        return left

    def warn(self, what: str, why: str) -> None:
        """Tell the user, once, that something is wrong with the log."""
        if what not in self._warned:
            self._warned.add(what)
            sys.stderr.write(f"warning: {what} ({without_password(why)}); the stage goes on\n")

    def _sends_kept(self) -> bool:
        """Return whether nothing is kept, after a try to send what is, where it is time for one."""
        if self._kept and self._clock() >= self._next_try:
            self._tries(self._send_kept)
        return not self._kept

    def _send_kept(self) -> None:
        for reason in self._spool.send(self.sender).refused:
            self.warn(_REFUSED, reason)
        self._kept = 0
        self._lock.close()

    def _tries(self, send: Callable[[], None]) -> bool:
        """Return whether something was sent, or can never be; after another end, pause."""
        started = self._clock()
        try:
            send()
        except Exception as error:  # MLflow raises many kinds
            if is_refusal(error):
                self.warn(_REFUSED, first_line(error))
                return True
            ended = self._clock()
            self._next_try = ended + max(_PAUSE_SECONDS, _PAUSE_FACTOR * (ended - started))
            self.warn(_AWAY, first_line(error))
            return False
        return True

    def _keep(self, entry: Entry) -> None:
        try:
            if not self._kept:
                self._begin()
            self._spool.append(entry)
            self._kept += 1
        except OSError as error:
            self.warn("a log entry could be neither sent nor kept", first_line(error))

    def _begin(self) -> None:
        if self._spool.origin() is None:
            self._lock.enter_context(self._spool.lock())
            self._spool.begin(self._origin)
