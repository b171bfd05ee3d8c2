"""Programs in the background, identified by a file with their process id."""

import contextlib
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import psutil

from pipeline.files import write_text
from tools.server.folder import ServerError

# The time for an orderly shutdown. None of the programs loses committed data when it is killed.
_GRACE_SECONDS = 10.0
_PAUSE_SECONDS = 0.2
_LINES_SHOWN = 15


class Daemon:
    """A program in the background.

    Attributes:
        name: The program's, for messages.
        place: The program's current folder, with its log and process id.
    """

    def __init__(self, name: str, place: Path) -> None:
        self.name = name
        self.place = place
        self._log = place / "log.txt"
        self._pid_file = place / "process.txt"

    def process(self) -> psutil.Process | None:
        """Return its process; None if it is not running."""
        try:
            number, _, created = self._pid_file.read_text().partition(" ")
            process = psutil.Process(int(number))
            # Process ids are reused.
            same = f"{process.create_time():.2f}" == created
            return process if same and process.status() != psutil.STATUS_ZOMBIE else None
        except (FileNotFoundError, psutil.NoSuchProcess):
            return None

    def is_running(self) -> bool:
        """Whether it is running."""
        return self.process() is not None

    def launch(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        """Start its process, which continues after this one ends."""
        with self._log.open("ab") as log:
            program = subprocess.Popen(
                command, cwd=self.place, env=environment, start_new_session=True, umask=0o077,
                stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
            )  # fmt: skip
        created = psutil.Process(program.pid).create_time()
        program.returncode = 0  # this process does not wait for it, and Python need not warn
        write_text(self._pid_file, f"{program.pid} {created:.2f}")

    def wait_until(self, ready: Callable[[], bool], seconds: float) -> None:
        """Wait until it is ready.

        Raises:
            ServerError: It ended, or was not ready in time.
        """
        until = time.monotonic() + seconds
        while not ready():
            if not self.is_running():
                lines = self._log.read_text(errors="replace").splitlines()[-_LINES_SHOWN:]
                raise ServerError(
                    f"{self.name} ended; the end of {self._log}:\n" + "\n".join(lines)
                )
            if time.monotonic() > until:
                raise ServerError(
                    f"{self.name} has not responded for {seconds:.0f} seconds; see {self._log}"
                )
            time.sleep(_PAUSE_SECONDS)

    def stop(self) -> bool:
        """Stop it with its child processes; return whether it was running."""
        process = self.process()
        if process is None:
            return False
        family = [process, *process.children(recursive=True)]
        with contextlib.suppress(psutil.NoSuchProcess):
            process.terminate()
        _, left = psutil.wait_procs(family, timeout=_GRACE_SECONDS)
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(left)
        self._pid_file.unlink(missing_ok=True)
        return True
