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
import queue
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
from dataclasses import asdict, dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.environment import ENVIRONMENT
from pipeline.files import sha256, write_json
from tests.project import environment_of, make_project
from tests.tiny import save_tiny

RESULTS = Path(__file__).parent / "results" / "restart.json"

_OUTPUTS = ("data", "models", "curves", "metrics", "evaluation", "report")
_STAGE = re.compile(r"Running stage '(.+)':")
_EPOCH = re.compile(r"(\S+) epoch (\d+) ")
_EVALUATED = re.compile(r"(P\d+)  test/")
_RUN_KEY = re.compile(r"[0-9a-f]{64}")
_LONG = {"epochs": 60, "patience": 60}

console = Console(width=110)


@dataclass(frozen=True)
class Moment:
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


@dataclass
class Output:
    """Output of one `dvc repro`: by stage, in order, and when the last of them started."""

    lines: dict[str, list[str]] = field(default_factory=lambda: {"": []})
    since: float = field(default_factory=time.monotonic)

    @property
    def stage(self) -> str:
        """The stage that was started last."""
        return next(reversed(self.lines))

    def add(self, line: str) -> None:
        """Add a line of the output."""
        if found := _STAGE.match(line):
            self.lines[found[1]] = []
            self.since = time.monotonic()
        self.lines[self.stage].append(line)

    def progress(self, stage: str) -> list[str]:
        """The progress that a stage has reported, as `P17 epoch 3` or `P17 evaluated`."""
        progress = []
        for line in self.lines.get(stage, []):
            if found := _EPOCH.match(line):
                progress.append(f"{found[1]} epoch {found[2]}")
            elif found := _EVALUATED.match(line):
                progress.append(f"{found[1]} evaluated")
        return progress


class Repro:
    """A `dvc repro` in a separate process group, as a terminal would start it."""

    def __init__(self, project: Path) -> None:
        """Start the process."""
        self.output = Output()
        self._process = subprocess.Popen(
            ["dvc", "repro"], cwd=project, env=environment_of(project), text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        self._lines: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put(None)

    def follow(self, seconds: float | None = None) -> Iterator[str]:
        """Yield lines of output, to the end or for some seconds."""
        until = None if seconds is None else time.monotonic() + seconds
        while True:
            left = None if until is None else max(0.0, until - time.monotonic())
            try:
                line = self._lines.get(timeout=left)
            except queue.Empty:
                return
            if line is None:
                self._lines.put(None)
                return
            self.output.add(line)
            yield line

    @property
    def has_ended(self) -> bool:
        """Whether the process has exited."""
        return self._process.poll() is not None

    def kill(self) -> None:
        """Kill dvc and the stage together."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for _ in self.follow():
            pass

    def end(self) -> int:
        """Wait for the process; return its exit code."""
        for _ in self.follow():
            pass
        return self._process.wait()


def timeline(project: Path) -> list[tuple[str, float]]:
    """Run a project undisturbed; return the seconds of dvc's start and of each stage, in order.

    Raises:
        RuntimeError: it fails.
    """
    repro = Repro(project)
    starts = [("", time.monotonic())]
    for line in repro.follow():
        if found := _STAGE.match(line):
            starts.append((found[1], time.monotonic()))
    if repro.end():
        raise RuntimeError("".join(map("".join, repro.output.lines.values())))
    ends = [start for _, start in starts[1:]] + [time.monotonic()]
    return [(stage, end - start) for (stage, start), end in zip(starts, ends, strict=True)]


def draw_moments(stages: list[tuple[str, float]], kills: int, seed: int) -> list[Moment]:
    """Draw moments uniformly from the whole duration, the earliest first."""
    generator = random.Random(seed)
    ends = list(itertools.accumulate(seconds for _, seconds in stages))
    moments = []
    for drawn in sorted(generator.uniform(0, ends[-1]) for _ in range(kills)):
        place = bisect.bisect_left(ends, drawn)
        stage, seconds = stages[place]
        moments.append(Moment(stage, drawn - ends[place] + seconds))
    return moments


def kill_at(project: Path, moment: Moment, order: list[str]) -> tuple[Output, float]:
    """Run `dvc repro` and kill it some seconds after a stage, or a later one, has started.

    Returns:
        Its output, and how many seconds the killed stage had run.
    """
    repro = Repro(project)
    place = order.index(moment.stage)
    for line in repro.follow() if place else ():
        if _STAGE.match(line) and order.index(repro.output.stage) >= place:
            break
    for _ in repro.follow(moment.seconds):
        pass
    seconds = time.monotonic() - repro.output.since
    if repro.has_ended:
        repro.output.lines["after the end"] = []
    repro.kill()
    return repro.output, seconds


def run_disturbed(
    project: Path, moments: list[Moment], order: list[str]
) -> tuple[list[Kill], float]:
    """Kill at each moment, then run to the end; return the kills and the seconds of all of it.

    Raises:
        RuntimeError: the pipeline does not resume.
    """
    started = time.monotonic()
    kills: list[Kill] = []
    for moment in moments:
        output, seconds = kill_at(project, moment, order)
        _note_resumed(kills, output)
        done = output.progress(output.stage)
        kills.append(Kill(moment.stage, output.stage, round(seconds, 1), done[-1] if done else ""))
        console.print(f"killed in {output.stage or 'dvc'}  {kills[-1].done}", style="dim")
    repro = Repro(project)
    code = repro.end()
    _note_resumed(kills, repro.output)
    if code:
        raise RuntimeError("".join(map("".join, repro.output.lines.values())))
    return kills, time.monotonic() - started


def _note_resumed(kills: list[Kill], output: Output) -> None:
    """Record for each kill where its stage resumed, once an attempt has reached it."""
    for kill in kills:
        if kill.hit and not kill.then and kill.hit in output.lines:
            default = "nothing left to do" if kill.done else "from its start"
            kill.then = next(iter(output.progress(kill.hit)), default)
        elif kill.hit and not kill.then and output.stage:
            kill.then = "was done"


def digests(project: Path) -> dict[str, str]:
    """Path -> SHA-256 of every file that the stages have written, partial files included."""
    return {
        path.relative_to(project).as_posix(): sha256(path)
        for folder in _OUTPUTS
        for path in sorted((project / folder).rglob("*"))
        if path.is_file()
    }


@dataclass(frozen=True)
class Logged:
    """An MLflow run: its stage, its status, and each point of its metrics except durations."""

    stage: str
    status: str
    points: list[tuple[str, int, float]]


def history(project: Path) -> dict[str, list[Logged]]:
    """Run key -> its MLflow runs."""
    with contextlib.closing(sqlite3.connect(project / "mlflow.db")) as store:
        runs: dict[str, list[Logged]] = {}
        for run_id, status in store.execute(
            "SELECT run_uuid, status FROM runs ORDER BY start_time"
        ):
            tags = dict(store.execute("SELECT key, value FROM tags WHERE run_uuid = ?", [run_id]))
            points = store.execute(
                "SELECT key, step, value FROM metrics WHERE run_uuid = ? AND key != 'seconds' "
                "ORDER BY key, step",
                [run_id],
            ).fetchall()
            key = tags.get("dvc.run_key", "")
            runs.setdefault(key, []).append(Logged(tags["dvc.stage"], status, points))
        return runs


def differences(undisturbed: Path, killed: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield each comparison and the differences."""
    before, after = digests(undisturbed), digests(killed)
    yield (
        f"{len(before)} output files are byte-equal",
        sorted(
            path for path in before.keys() | after.keys() if before.get(path) != after.get(path)
        ),
    )
    left = [path.name for path in (killed / ".work").iterdir() if _RUN_KEY.match(path.name)]
    yield "no progress is left over", left
    expected, runs = history(undisturbed), history(killed)
    yield (
        f"the history has the same {len(expected)} run keys",
        sorted(expected.keys() ^ runs.keys()),
    )
    every = [run for group in runs.values() for run in group]
    yield "no run is left running", [run.stage for run in every if run.status == "RUNNING"]
    finished = {key: [run for run in own if run.status == "FINISHED"] for key, own in runs.items()}
    yield (
        "each key has one finished run",
        [f"{runs[key][0].stage}: {len(own)}" for key, own in finished.items() if len(own) != 1],
    )
    yield (
        "no epoch is logged twice",
        [
            f"{run.stage} {name} {step}"
            for run in every
            for (name, step), count in Counter((k, s) for k, s, _ in run.points).items()
            if count > 1
        ],
    )
    yield (
        "the finished runs have the same metrics",
        [
            own[0].stage
            for key, own in expected.items()
            if all(run.points != own[0].points for run in finished.get(key, []))
        ],
    )


def show(kills: list[Kill], checks: list[tuple[str, list[str]]]) -> None:
    """Print the kills and the comparisons."""
    table = Table("killed stage", "after seconds", "its progress", "resumed at", box=None)
    for kill in kills:
        table.add_row(kill.hit or "dvc's start", f"{kill.seconds:.1f}", kill.done, kill.then)
    console.print(table)
    for what, wrong in checks:
        console.print(f"{what}: {'differs: ' + ', '.join(wrong) if wrong else 'OK'}")


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
        folder = options.folder
        if folder is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="restart-")))
        # Absolute, as the model's path is part of what a stage depends on.
        folder = folder.resolve()
        undisturbed, killed = _make_projects(folder)
        console.print("running undisturbed", style="dim")
        stages = timeline(undisturbed)
        order = [stage for stage, _ in stages]
        seconds = sum(duration for _, duration in stages)
        console.print(f"{len(order) - 1} stages, {seconds:.0f} seconds", style="dim")
        kills, disturbed = run_disturbed(
            killed, draw_moments(stages, options.kills, options.seed), order
        )
        checks = list(differences(undisturbed, killed))
    show(kills, checks)
    good = not any(wrong for _, wrong in checks)
    if options.write:
        write_json(
            RESULTS,
            {
                "kills": [asdict(kill) for kill in kills],
                "seed": options.seed,
                "stages": len(order) - 1,
                "seconds": {"undisturbed": round(seconds), "killed": round(disturbed)},
                "checks": {what: wrong or "OK" for what, wrong in checks},
            },
        )
    return 0 if good else 1


def _make_projects(folder: Path) -> tuple[Path, Path]:
    """Create the same project twice."""
    model = save_tiny("gpt2", folder / "model")
    methods = ("p-tuning", "manual-fine-tuning")
    undisturbed = make_project(
        folder / "undisturbed",
        model,
        lama__methods=[*methods, "discrete"],
        runtime__checkpoint_seconds=0,
        lama__training__discrete__search__iterations=_LONG["epochs"],
        **{
            f"lama__training__{method}__{key}": value
            for method in methods
            for key, value in _LONG.items()
        },
        **{f"superglue__training__p-tuning__{key}": value for key, value in _LONG.items()},
    )
    killed = shutil.copytree(undisturbed, folder / "killed", symlinks=True)
    return undisturbed, killed


if __name__ == "__main__":
    sys.exit(main())
