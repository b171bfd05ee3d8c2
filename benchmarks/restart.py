"""Kill the pipeline at random moments and resume it: are the results equal to the byte?

A tiny project runs once undisturbed. A copy of it is killed with SIGKILL, dvc and stage together,
at moments drawn uniformly from the duration of the undisturbed run, so that long stages are hit
more often; each time `dvc repro` resumes it. At the end, every output file and the MLflow history
are compared with those of the undisturbed run.

    python -m benchmarks.restart --kills 10
"""

import argparse
import bisect
import contextlib
import itertools
import os
import random
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

from benchmarks.environment import ENVIRONMENT
from pipeline.files import write_json
from tests.project import environment_of, make_project, outputs
from tests.tiny import save_tiny

RESULTS = Path(__file__).parent / "results" / "restart.json"

_OUTPUTS = ("data", "models", "curves", "metrics", "evaluation", "report")
_STAGE = re.compile(r"Running stage '(.+)':")
_PROGRESS = re.compile(r"(\S+) epoch (\d+) |(P\d+)\S*  test/")
_RUN_KEY = re.compile(r"[0-9a-f]{64}")
_EPOCHS = 60

console = Console(width=110)


class Moment(NamedTuple):
    """When to kill: seconds after the start of a stage; stage "" is the start of dvc."""

    stage: str
    seconds: float


@dataclass
class Kill:
    """A kill, and where the next attempt resumed.

    Attributes:
        planned: the stage to be killed.
        hit: the stage that ran; "" if none did.
        seconds: how long it had run.
        done: its last reported progress.
        then: where the next attempt resumed it.
    """

    planned: str
    hit: str
    seconds: float
    done: str
    then: str = ""


class Attempt:
    """A finished or killed `dvc repro`.

    Attributes:
        lines: stage -> lines of its output, in order; "" is dvc before the first stage.
        seconds: stage -> its duration.
        killed: whether it was killed.
    """

    def __init__(self, project: Path, moment: Moment | None = None, order: list[str] | None = None):
        """Run `dvc repro` in a project, and kill dvc and the stage together at a moment.

        The moment counts from the start of its stage, or of a later one of `order` if that is done
        already.

        Raises:
            RuntimeError: it failed without being killed.
        """
        self.lines: dict[str, list[str]] = {"": []}
        self.seconds: dict[str, float] = {}
        self.killed = False
        since = time.monotonic()
        # A process group, as a terminal would start it.
        self._process = subprocess.Popen(
            ["dvc", "repro"], cwd=project, env=environment_of(project), text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        due = order[order.index(moment.stage) :] if moment and order else []
        timer: threading.Timer | None = None
        assert self._process.stdout is not None
        for line in itertools.chain([""], self._process.stdout):
            if match := _STAGE.match(line):
                self.seconds[self.stage], since = time.monotonic() - since, time.monotonic()
                self.lines[match[1]] = []
            if moment and timer is None and self.stage in due:
                timer = threading.Timer(moment.seconds, self._kill)
                timer.start()
            self.lines[self.stage].append(line)
        self.seconds[self.stage] = time.monotonic() - since
        if timer:
            timer.cancel()
        if self._process.wait() != 0 and not self.killed:
            raise RuntimeError("".join(itertools.chain.from_iterable(self.lines.values())))

    @property
    def stage(self) -> str:
        """The stage that was started last."""
        return next(reversed(self.lines))

    def progress(self, stage: str) -> list[str]:
        """The progress that a stage has reported, as `P17 epoch 3` or `P17 evaluated`."""
        matches = filter(None, map(_PROGRESS.match, self.lines.get(stage, [])))
        return [f"{m[1]} epoch {m[2]}" if m[2] else f"{m[3]} evaluated" for m in matches]

    def _kill(self) -> None:
        self.killed = True
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)


def draw_moments(seconds: dict[str, float], kills: int, seed: int) -> list[Moment]:
    """Draw moments uniformly from the whole duration, given that of each stage; earliest first."""
    generator = random.Random(seed)
    stages, ends = list(seconds), list(itertools.accumulate(seconds.values()))
    moments = []
    for drawn in sorted(generator.uniform(0, ends[-1]) for _ in range(kills)):
        place = bisect.bisect_left(ends, drawn)
        moments.append(Moment(stages[place], drawn - ends[place] + seconds[stages[place]]))
    return moments


def run_disturbed(project: Path, moments: list[Moment], order: list[str]) -> list[Kill]:
    """Kill at each moment, then run to the end.

    Raises:
        RuntimeError: the pipeline does not resume.
    """
    kills: list[Kill] = []
    for moment in [*moments, None]:
        attempt = Attempt(project, moment, order)
        for kill in kills:
            # Once an attempt has reached its stage.
            if kill.hit and not kill.then and kill.hit in attempt.lines:
                default = "nothing left to do" if kill.done else "from its start"
                kill.then = next(iter(attempt.progress(kill.hit)), default)
            elif kill.hit and not kill.then and attempt.stage:
                kill.then = "was done"
        if moment is not None:
            hit = attempt.stage if attempt.killed else "after the end"
            done = next(reversed(attempt.progress(hit)), "")
            kills.append(Kill(moment.stage, hit, round(attempt.seconds[attempt.stage], 1), done))
            console.print(f"killed in {hit or 'dvc'}  {done}", style="dim")
    return kills


class Logged(NamedTuple):
    """An MLflow run: its stage, its status, and each point of its metrics except durations."""

    stage: str
    status: str
    points: list[tuple[str, int, float]]


def history(project: Path) -> dict[str, list[Logged]]:
    """Run key -> its MLflow runs."""
    runs: dict[str, list[Logged]] = {}
    with contextlib.closing(sqlite3.connect(project / "mlflow.db")) as store:
        for run_id, status in store.execute(
            "SELECT run_uuid, status FROM runs ORDER BY start_time"
        ):
            tags = dict(store.execute("SELECT key, value FROM tags WHERE run_uuid = ?", [run_id]))
            points = store.execute(
                "SELECT key, step, value FROM metrics WHERE run_uuid = ? "
                "AND key NOT IN ('seconds', 'minutes') "
                "ORDER BY key, step",
                [run_id],
            ).fetchall()
            # A child run has its parent's key, and the name of a unit in place of a stage.
            unit = tags.get("unit", "")
            key = f"{tags.get('dvc.run_key', '')} {unit}"
            runs.setdefault(key, []).append(Logged(tags.get("dvc.stage", unit), status, points))
    return runs


def differences(undisturbed: Path, killed: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield each comparison and the differences."""
    before, after = outputs(undisturbed, *_OUTPUTS), outputs(killed, *_OUTPUTS)
    different = {path for path, _ in before.items() ^ after.items()}
    yield f"{len(before)} output files are byte-equal", sorted(different)
    left = [path.name for path in (killed / ".work").iterdir() if _RUN_KEY.match(path.name)]
    yield "no progress is left over", left
    expected, runs = history(undisturbed), history(killed)
    different = expected.keys() ^ runs.keys()
    yield f"the history has the same {len(expected)} run keys", sorted(different)
    every = [run for group in runs.values() for run in group]
    yield "no run is left running", [run.stage for run in every if run.status == "RUNNING"]
    finished = {key: [run for run in own if run.status == "FINISHED"] for key, own in runs.items()}
    several = [
        f"{runs[key][0].stage}: {len(own)}" for key, own in finished.items() if len(own) != 1
    ]
    yield "each key has one finished run", several
    logged = Counter(f"{run.stage} {name} {step}" for run in every for name, step, _ in run.points)
    again = Counter(f"{run.stage} {n} {s}" for run in every for n, s in {p[:2] for p in run.points})
    yield "no epoch is logged twice", sorted(logged - again)
    other = [
        own[0].stage
        for key, own in expected.items()
        if all(run.points != own[0].points for run in finished.get(key, []))
    ]
    yield "the finished runs have the same metrics", other


def main() -> int:
    """Run the benchmark; returns 0 if nothing differs."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.restart", description=__doc__)
    parser.add_argument("--kills", type=int, default=10, help="number of kills (default: 10)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments (default: 0)")
    parser.add_argument("--folder", type=Path, help="an empty folder to work in, and to keep")
    parser.add_argument("--write", action="store_true", help=f"write results/{RESULTS.name}")
    options = parser.parse_args()
    os.environ.update(ENVIRONMENT)
    with contextlib.ExitStack() as stack:
        folder = options.folder or stack.enter_context(
            tempfile.TemporaryDirectory(prefix="restart-")
        )
        # Absolute, as the model's path is part of what a stage depends on.
        folder = Path(folder).resolve()
        undisturbed, killed = _make_projects(folder)
        console.print("running undisturbed", style="dim")
        whole = Attempt(undisturbed)
        seconds = sum(whole.seconds.values())
        stages = len(whole.lines) - 1
        console.print(f"{stages} stages, {seconds:.0f} seconds", style="dim")
        moments = draw_moments(whole.seconds, options.kills, options.seed)
        started = time.monotonic()
        kills = run_disturbed(killed, moments, list(whole.lines))
        disturbed = time.monotonic() - started
        checks = dict(differences(undisturbed, killed))
    table = Table("killed stage", "after seconds", "its progress", "resumed at", box=None)
    for kill in kills:
        table.add_row(kill.hit or "dvc's start", f"{kill.seconds:.1f}", kill.done, kill.then)
    console.print(table)
    for what, wrong in checks.items():
        console.print(f"{what}: {'differs: ' + ', '.join(wrong) if wrong else 'OK'}")
    if options.write:
        write_json(
            RESULTS,
            {
                "kills": [asdict(kill) for kill in kills],
                "seed": options.seed,
                "stages": stages,
                "seconds": {"undisturbed": round(seconds), "killed": round(disturbed)},
                "checks": {what: wrong or "OK" for what, wrong in checks.items()},
            },
        )
    return 1 if any(checks.values()) else 0


def _make_projects(folder: Path) -> tuple[Path, Path]:
    """Create the same project twice."""
    trained = (
        "lama__training__p-tuning",
        "lama__training__manual-fine-tuning",
        "superglue__training__p-tuning",
    )
    undisturbed = make_project(
        folder / "undisturbed",
        save_tiny("gpt2", folder / "model"),
        lama__methods=["p-tuning", "manual-fine-tuning", "discrete"],
        runtime__checkpoint_seconds=0,
        lama__training__discrete__search__iterations=_EPOCHS,
        **{f"{method}__{key}": _EPOCHS for method in trained for key in ("epochs", "patience")},
    )
    return undisturbed, shutil.copytree(undisturbed, folder / "killed", symlinks=True)


if __name__ == "__main__":
    sys.exit(main())
