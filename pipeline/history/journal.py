"""Log entries that could not be sent: kept on disk, in order, until MLflow has them.

Those of a stage's run, and of the runs below it, are in `.work/unsent/<run id>/`: a line for each
in `entries.jsonl`, behind a first line that says where they belong; copies of files; and in
`sent.txt` how many have been sent since. Who writes or sends them holds the lock of the folder.
"""

import contextlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from pipeline.errors import TrackingError
from pipeline.files import write_text
from pipeline.history.events import Entry, Sender, is_refusal
from pipeline.history.store import first_line, without_password
from pipeline.workflow.workdir import locked

Parsed = TypeVar("Parsed")


@dataclass(frozen=True)
class Origin:
    """Where kept entries belong.

    Attributes:
        store: its address, without credentials.
        name: of the stage's run, such as `train/lama/p-tuning`.
    """

    store: str
    name: str


@dataclass(frozen=True)
class Sent:
    """What became of kept entries.

    Attributes:
        entries: so many have been sent.
        refused: why MLflow will never take the others.
    """

    entries: int
    refused: tuple[str, ...]


class Spool:
    """The kept entries of one stage's run."""

    def __init__(self, root: Path, run_id: str) -> None:
        """Take the root of the main checkout, and MLflow's id; nothing need be there."""
        self.folder = _folder_of_all(root) / run_id
        self._entries = self.folder / "entries.jsonl"
        self._sent = self.folder / "sent.txt"

    def lock(
        self, on_wait: Callable[[], None] | None = None
    ) -> contextlib.AbstractContextManager[None]:
        """Hold the folder; with nobody to tell of the wait, raise BlockingIOError at once."""
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        return locked(self.folder, on_wait)

    def begin(self, origin: Origin) -> None:
        """Make the folder."""
        self.folder.mkdir(exist_ok=True)
        self._write(json.dumps(vars(origin)))

    def append(self, entry: Entry) -> None:
        """Keep an entry, with a copy of its file; a loss of power does not undo it.

        Raises:
            OSError: the disk is full, or the entry's file is not there.
        """
        if entry.kind == "file":
            copied = self._copy(Path(entry.values["path"]))
            entry = replace(entry, values={**entry.values, "path": copied})
        self._write(entry.to_line())

    def origin(self) -> Origin | None:
        """Return where the entries belong; None if nothing is kept."""
        lines = self._lines()
        return self._parsed(lines[0], lambda line: Origin(**json.loads(line))) if lines else None

    def begun(self) -> int:
        """Return when the first entry was told, in milliseconds since 1970; 0 if none is kept."""
        first = self._lines()[1:2]
        return self._parsed(first[0], Entry.from_line).time if first else 0

    def unsent(self) -> list[Entry]:
        """Return what has not been sent, in order."""
        lines = self._lines()[1 + self._done() :]
        return [self._parsed(line, Entry.from_line) for line in lines]

    def send(self, sender: Sender) -> Sent:
        """Send what is kept, in order, then delete it.

        Raises:
            Exception: MLflow cannot be reached; what has not been sent stays.
        """
        entries, done = self.unsent(), self._done()
        refused = []
        for number, entry in enumerate(entries, done + 1):
            try:
                sender.send(self._with_file(entry))
            except Exception as error:
                if not is_refusal(error):
                    raise
                refused.append(f"{entry.kind}: {without_password(first_line(error))}")
            write_text(self._sent, str(number))
        self.delete()
        return Sent(len(entries) - len(refused), tuple(refused))

    def delete(self) -> None:
        """Delete all that is kept, the entries first: without them the rest means nothing."""
        self._entries.unlink(missing_ok=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _lines(self) -> list[str]:
        if not self._entries.exists():
            return []
        # A line without its end was being written as its writer was killed.
        return self._entries.read_text(encoding="utf-8").split("\n")[:-1]

    def _parsed(self, line: str, parse: Callable[[str], Parsed]) -> Parsed:
        try:
            return parse(line)
        except (TypeError, ValueError):
            raise TrackingError(
                f"{self._entries}: cannot be read, at {line[:60]!r}; mend the file, or give up "
                f"what is in it: `ptune send --drop {self.folder.name[:10]}`"
            ) from None

    def _done(self) -> int:
        return int(self._sent.read_text(encoding="utf-8")) if self._sent.exists() else 0

    def _write(self, line: str) -> None:
        with self._entries.open("ab") as file:
            end = file.tell()
            try:
                file.write(f"{line}\n".encode())
                file.flush()
                os.fsync(file.fileno())
            except OSError:
                file.truncate(end)  # what a full disk took of the line would spoil the next one
                raise

    def _copy(self, source: Path) -> str:
        """Copy a file, and return where in the folder the copy is."""
        files = self.folder / "files"
        files.mkdir(exist_ok=True)
        # MLflow names a file as its path does, so each has a folder of its own.
        copied = files / str(len(list(files.iterdir()))) / source.name
        copied.parent.mkdir()
        with source.open("rb") as reader, copied.open("wb") as writer:
            shutil.copyfileobj(reader, writer)
            writer.flush()
            os.fsync(writer.fileno())
        return copied.relative_to(self.folder).as_posix()

    def _with_file(self, entry: Entry) -> Entry:
        if entry.kind != "file":
            return entry
        path = str(self.folder / entry.values["path"])
        return replace(entry, values={**entry.values, "path": path})


def all_spools(root: Path) -> list[Spool]:
    """Return all that is kept, by run, what began first before the rest.

    Args:
        root: of the main checkout.
    """
    return sorted((Spool(root, run_id) for run_id in kept_runs(root)), key=Spool.begun)


def kept_runs(root: Path) -> list[str]:
    """Return MLflow's ids of the runs that have a folder here, in the order of the ids.

    Args:
        root: of the main checkout.
    """
    return sorted(path.name for path in _folder_of_all(root).glob("*") if path.is_dir())


def _folder_of_all(root: Path) -> Path:
    return root / ".work" / "unsent"
