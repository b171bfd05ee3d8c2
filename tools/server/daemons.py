"""Programs in the background: started, watched and ended by a file that names the process."""

import contextlib
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from pipeline.files import write_text
from tools.server.folder import ServerError

# What a program has for an orderly end. None of the three loses what it has confirmed to a kill.
_GRACE_SECONDS = 10.0
_PAUSE_SECONDS = 0.2
_LINES_SHOWN = 15


@dataclass(frozen=True)
class Daemon:
    """A program in the background.

    Attributes:
        name: of the program, for messages.
        folder: its own; it is the current one of the program, with its log and process id.
    """

    name: str
    folder: Path

    @property
    def log(self) -> Path:
        """What it has printed."""
        return self.folder / "log.txt"

    def process(self) -> psutil.Process | None:
        """Return its process; None where it does not run."""
        try:
            number, _, created = self._pid_file.read_text().partition(" ")
            process = psutil.Process(int(number))
            # A process id is given out again after a while.
            same = f"{process.create_time():.2f}" == created
            return process if same and process.status() != psutil.STATUS_ZOMBIE else None
        except (FileNotFoundError, psutil.NoSuchProcess):
            return None

    def start(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        """Start it; it outlives this process."""
        with self.log.open("ab") as log:
            started = subprocess.Popen(
                command, cwd=self.folder, env=environment, start_new_session=True,
                stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
            )  # fmt: skip
        created = psutil.Process(started.pid).create_time()
        started.returncode = 0  # nobody waits for it, and Python need not warn of that
        write_text(self._pid_file, f"{started.pid} {created:.2f}")

    def wait_until(self, ready: Callable[[], bool], seconds: float) -> None:
        """Wait until it answers.

        Raises:
            ServerError: it ended, or does not answer in time.
        """
        until = time.monotonic() + seconds
        while not ready():
            if self.process() is None:
                raise ServerError(
                    f"{self.name} ended; the end of {self.log}:\n{self._last_lines()}"
                )
            if time.monotonic() > until:
                raise ServerError(
                    f"{self.name} has not answered for {seconds:.0f} seconds; {self.log} may tell "
                    "why"
                )
            time.sleep(_PAUSE_SECONDS)

    def stop(self) -> bool:
        """End it and all that it has started; return whether it ran."""
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

    @property
    def _pid_file(self) -> Path:
        return self.folder / "process.txt"

    def _last_lines(self) -> str:
        lines = self.log.read_text(errors="replace").splitlines()
        return "\n".join(lines[-_LINES_SHOWN:])
