"""Kill the pipeline at random moments and resume it: are the results equal to the byte?

A tiny project runs once undisturbed. Copies of it are killed with SIGKILL (dvc, the stage, or both
together) at random moments of random stages, while they start and while they work; each time `dvc
repro` resumes them. After some kills, a loss of power is imitated: the files that were written last
become empty, are cut in half, or become NULs. When a copy has come to its end, every output file
and the MLflow history are compared with those of the undisturbed run.

    python -m benchmarks.kills --write
"""

import argparse
import contextlib
import datetime
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
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import psutil
from rich.console import Console

from benchmarks.environment import ENVIRONMENT
from pipeline.files import write_json
from pipeline.history.context import hardware_name
from pipeline.results.page import insert_between
from pipeline.workflow.lock import read_lock
from tests.project import environment_of, make_project, outputs
from tests.tiny import save_tiny
from tests.warm import Started, start_warm

FOLDER = Path(__file__).parent
BEGIN = "<!-- kills: written by `python -m benchmarks.kills --write` -->"
END = "<!-- end of kills -->"
# In turn; dvc alone takes longest.
TARGETS = ("both", "stage", "both", "stage", "dvc")

_OUTPUTS = ("data", "models", "curves", "metrics", "evaluation", "report")
_STAGE = re.compile(r"Running stage '(.+)':")
_RUN_KEY = re.compile(r"[0-9a-f]{64}")
# What a loss of power can leave of a file that was not on the disk.
_LOSSES = ("empty", "half", "NULs")
_LOSS_SHARE = 0.4
# Most time goes into imports, which most kills leave alone: those come after a line of output.
_AT_WORK_SHARE = 0.7
# A stage ends itself within a minute after its dvc; see stages/runtime.py.
_ORPHAN_SECONDS = 300.0

console = Console(width=110)


class Moment(NamedTuple):
    """When to kill what.

    Attributes:
        target: `dvc`, `stage` or `both`.
        starts: the number of stages that have started by then; 0 is dvc before the first.
        at_work: whether the time counts from the first line of the stage's output.
        share: of the time that the stage takes when it is undisturbed.
    """

    target: str
    starts: int
    at_work: bool
    share: float


class StageTime(NamedTuple):
    """Seconds until the first line of a stage's output, and until its end."""

    silent: float
    whole: float

    def after(self, moment: Moment) -> float:
        """The seconds of a moment, from the event that it counts from."""
        return moment.share * (self.whole - (self.silent if moment.at_work else 0.0))


@dataclass
class Attempt:
    """A finished or killed `dvc repro`.

    Attributes:
        lines: what it printed.
        times: stage -> its times; "" is dvc before the first stage.
        killed: what was killed: a target, or "" for nothing.
        hit: the stage that ran then, or ran last.
        orphans: commands of processes that outlived it.
        code: the exit code of dvc.
    """

    lines: list[str] = field(default_factory=list)
    times: dict[str, StageTime] = field(default_factory=dict)
    killed: str = ""
    hit: str = ""
    orphans: list[str] = field(default_factory=list)
    code: int = 0


def attempt(
    project: Path, moment: Moment | None = None, times: Mapping[str, StageTime] | None = None
) -> Attempt:
    """Run `dvc repro` in a project, and kill it at a moment, if it lasts until then.

    Args:
        project: its folder.
        moment: None lets it end.
        times: those of an undisturbed attempt.
    """
    made = Attempt()
    # A stage that outlives its dvc looks for it among the processes above its own.
    cold = moment is not None and moment.target == "dvc"
    process, printed = _start(project, cold=cold)
    timers: list[threading.Timer] = []

    def kill() -> None:
        made.killed = _kill(process.pid, moment.target if moment else "both")
        deadline = threading.Timer(_ORPHAN_SECONDS, end_orphans)
        timers.append(deadline)
        deadline.start()

    def end_orphans() -> None:
        for one in _members(process.pid):
            with contextlib.suppress(psutil.Error):
                made.orphans.append(" ".join(one.cmdline()))
                one.kill()

    since, silent, starts = time.monotonic(), None, 0
    with printed:
        for line in itertools.chain([""], printed):
            now = time.monotonic()
            if match := _STAGE.match(line):
                made.times[made.hit] = StageTime(silent or now - since, now - since)
                made.hit, since, silent = match[1], now, None
                starts += 1
            elif line.strip() and not line.startswith("> ") and silent is None:
                silent = now - since
            begun = silent is not None or not made.hit or not (moment and moment.at_work)
            if moment and not timers and starts >= moment.starts and begun:
                spent = (times or {}).get(made.hit, StageTime(0.0, 1.0))
                timers.append(threading.Timer(spent.after(moment), kill))
                timers[0].start()
            made.lines.append(line)
    made.times[made.hit] = StageTime(silent or 0.0, time.monotonic() - since)
    made.code = process.wait()
    for timer in timers:
        timer.cancel()
    # What was killed may still be ending.
    psutil.wait_procs(_members(process.pid), timeout=_ORPHAN_SECONDS)
    end_orphans()
    return made


def _start(project: Path, *, cold: bool) -> tuple[subprocess.Popen[bytes] | Started, TextIO]:
    """Start `dvc repro` as the leader of a process group; return it and what it prints.

    Args:
        project: its folder.
        cold: as a new process. Otherwise dvc and its stages are forks of one that has the libraries
            loaded, and what `tools/venv.pth` does before is done here.
    """
    environment, command = environment_of(project), ["dvc", "repro"]
    reading, writing = os.pipe()
    process: subprocess.Popen[bytes] | Started
    if cold:
        process = subprocess.Popen(
            command, cwd=project, env=environment, stdout=writing, stderr=writing, process_group=0
        )
    else:
        check = ["python", "-m", "pipeline.config"]
        start_warm(check, project, environment, writing, writing).wait()
        process = start_warm(command, project, environment, writing, writing, group=0)
    os.close(writing)
    return process, os.fdopen(reading, errors="replace")


def _kill(dvc: int, target: str) -> str:
    """Kill processes with SIGKILL, and return what was killed; dvc where no stage runs."""
    stages = [one for one in _members(dvc) if one.pid != dvc]
    with contextlib.suppress(ProcessLookupError, psutil.Error):
        if target == "both":
            os.killpg(dvc, signal.SIGKILL)
        elif target == "stage" and stages:
            for one in stages:
                one.kill()
        else:
            os.kill(dvc, signal.SIGKILL)
    return target if stages else "dvc"


def _members(leader: int) -> list[psutil.Process]:
    """Return the processes of a group that are alive."""
    found = []
    for one in psutil.process_iter():
        with contextlib.suppress(psutil.Error, ProcessLookupError):
            if os.getpgid(one.pid) == leader and one.status() != psutil.STATUS_ZOMBIE:
                found.append(one)
    return found


def draw_moment(generator: random.Random, target: str) -> Moment:
    """Draw a moment of the next attempt: its start, or its first or second stage."""
    starts = generator.choices((0, 1, 2), (1, 6, 3))[0]
    return Moment(target, starts, generator.random() < _AT_WORK_SHARE, generator.random())


def lose_power(project: Path, generator: random.Random) -> list[str]:
    """Damage the one to three files that were written last; return their names and damages."""
    folders = [project / name for name in (".work", "models", "metrics")]
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    files = [path for path in files if path.suffix != ".lock"]
    newest = sorted(files, key=lambda path: path.stat().st_mtime_ns, reverse=True)
    damaged = []
    for path in newest[: generator.randint(1, 3)]:
        loss, content = generator.choice(_LOSSES), path.read_bytes()
        left = {"empty": b"", "half": content[: len(content) // 2], "NULs": bytes(len(content))}
        path.write_bytes(left[loss])
        damaged.append(f"{path.name} {loss}")
    return damaged


@dataclass
class Kills:
    """What was killed, and what came of it.

    Attributes:
        targets: of each kill.
        stages: that each kill hit, without the method and task.
        written: kinds of files that kills left unfinished.
        losses: damages by losses of power.
        faults: what was not as it should be.
    """

    targets: Counter[str] = field(default_factory=Counter)
    stages: Counter[str] = field(default_factory=Counter)
    written: Counter[str] = field(default_factory=Counter)
    losses: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)

    @property
    def count(self) -> int:
        """The number of kills."""
        return self.targets.total()


def unfinished(project: Path) -> set[str]:
    """Return which kinds of files are unfinished or unsent after a kill."""
    found = {
        "a checkpoint or progress": (project / ".work").rglob("*.partial"),
        "a log": (project / ".work" / "unsent").glob("*/entries.jsonl"),
        "an output": (
            path for name in _OUTPUTS for path in (project / name).rglob(".*.partial")
        ),
    }  # fmt: skip
    return {kind for kind, files in found.items() if any(True for _ in files)}


def run_round(
    project: Path,
    kills: Kills,
    times: Mapping[str, StageTime],
    generator: random.Random,
    *,
    most: int,
) -> None:
    """Kill and resume a project until it comes to its end, at most until `most` kills in all."""
    while True:
        moment = None
        if kills.count < most:
            moment = draw_moment(generator, TARGETS[kills.count % len(TARGETS)])
        made = attempt(project, moment, times)
        kills.faults += [f"orphan of {made.hit}: {command}" for command in made.orphans]
        if not made.killed:
            if made.code != 0:
                kills.faults.append(f"does not resume: {''.join(made.lines)[-2000:]}")
            return
        kills.targets[made.killed] += 1
        kills.stages[made.hit.partition("@")[0] or "dvc"] += 1
        kills.written.update(unfinished(project))
        damaged = lose_power(project, generator) if generator.random() < _LOSS_SHARE else []
        kills.losses.update(name.rpartition(" ")[2] for name in damaged)
        console.print(
            f"{kills.count}: {made.killed} killed in {made.hit or 'dvc'}  {', '.join(damaged)}",
            style="dim", highlight=False,
        )  # fmt: skip


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
                "AND key NOT IN ('seconds', 'minutes', 'seconds/taken_over') "
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
    yield "outputs are byte-equal", sorted({path for path, _ in before.items() ^ after.items()})
    # A kill can come between the two places where dvc records a stage.
    recorded = {path.name for path in (killed / ".dvc" / "cache" / "runs").glob("*/*")}
    recorded |= {stage.run_key or "" for stage in read_lock(killed / "dvc.lock").values()}
    left = [path.name for path in (killed / ".work").iterdir() if _RUN_KEY.fullmatch(path.name)]
    yield "no progress is left that DVC has not recorded", sorted({*left} - recorded)
    unsent = [path.parent.name for path in (killed / ".work").glob("unsent/*/entries.jsonl")]
    yield "no log is left unsent", unsent
    expected, runs = history(undisturbed), history(killed)
    yield "the history has the same run keys", sorted(expected.keys() ^ runs.keys())
    every = [run for group in runs.values() for run in group]
    yield "no run is left running", [run.stage for run in every if run.status == "RUNNING"]
    finished = {key: [run for run in own if run.status == "FINISHED"] for key, own in runs.items()}
    yield "each key has a finished run", [runs[key][0].stage for key in runs if not finished[key]]
    points = [Counter((name, step) for name, step, _ in run.points) for run in every]
    again = [f"{k}" for counter in points for k, number in counter.items() if number > 1]
    yield "no run has an epoch twice", again
    other = [
        own[0].stage
        for key, own in expected.items()
        if all(run.points != own[0].points for run in finished.get(key, []))
    ]
    yield "the finished runs have the same metrics", other


def main() -> int:
    """Run the benchmark; returns 0 if nothing differs."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kills", description=__doc__)
    parser.add_argument("--kills", type=int, default=50, help="number of kills (default: 50)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments (default: 0)")
    parser.add_argument("--folder", type=Path, help="an empty folder to work in, and to keep")
    parser.add_argument("--write", action="store_true", help="write the results and the page")
    options = parser.parse_args()
    os.environ.update(ENVIRONMENT)
    with contextlib.ExitStack() as stack:
        folder = options.folder or stack.enter_context(tempfile.TemporaryDirectory(prefix="kills-"))
        # Absolute, as the model's path is part of what a stage depends on.
        folder = Path(folder).resolve()
        project = make_tiny(folder)
        kills, rounds, seconds = run_all(project, folder, options.kills, options.seed)
    result = {
        "command": f"python -m benchmarks.kills --kills {options.kills} --seed {options.seed}",
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "hardware": hardware_name(None),
        "kills": kills.count,
        "rounds": rounds,
        "seconds": round(seconds),
        "targets": dict(sorted(kills.targets.items())),
        "stages": dict(sorted(kills.stages.items())),
        "unfinished": dict(sorted(kills.written.items())),
        "power_losses": dict(sorted(kills.losses.items())),
        "faults": kills.faults,
    }
    text = table(result)
    console.print(text, markup=False, highlight=False)
    if options.write:
        write_json(FOLDER / "results" / "kills.json", result)
        readme = FOLDER / "README.md"
        page = insert_between(readme.read_text("utf-8"), BEGIN, END, text)
        readme.write_text(page, encoding="utf-8")
    for fault in kills.faults:
        console.print(f"fault: {fault}", markup=False, highlight=False)
    return 1 if kills.faults else 0


def run_all(project: Path, folder: Path, most: int, seed: int) -> tuple[Kills, int, float]:
    """Run a project undisturbed, then copies of it until so many kills; compare each.

    Returns:
        The kills, the number of copies, and the seconds that they took.

    Raises:
        RuntimeError: the undisturbed run fails.
    """
    fresh = shutil.copytree(project, folder / "fresh", symlinks=True)
    console.print("running undisturbed", style="dim")
    whole = attempt(project)
    if whole.code != 0:
        raise RuntimeError("".join(whole.lines))
    generator = random.Random(seed)
    kills, rounds, started = Kills(), 0, time.monotonic()
    while kills.count < most and not kills.faults:
        rounds += 1
        killed = shutil.copytree(fresh, folder / f"killed-{rounds}", symlinks=True)
        run_round(killed, kills, whole.times, generator, most=most)
        if not kills.faults:
            found = differences(project, killed)
            kills.faults += [f"{what}: {', '.join(map(str, bad))}" for what, bad in found if bad]
    return kills, rounds, time.monotonic() - started


def make_tiny(folder: Path, **edits: Any) -> Path:
    """Create a project with a prompt and a tuned model to train."""
    methods = ("lama__training__p-tuning", "superglue__training__p-tuning")
    values = {
        "lama__methods": ["p-tuning"],
        "superglue__tasks": ["rte"],
        "runtime__checkpoint_seconds": 0,
        **{f"{method}__{key}": 40 for method in methods for key in ("epochs", "patience")},
        **edits,
    }
    return make_project(folder / "undisturbed", save_tiny("gpt2", folder / "model"), **values)


def table(result: Mapping[str, Any]) -> str:
    """The counts in Markdown."""

    def counts(name: str) -> str:
        return ", ".join(f"{key} {number}" for key, number in result[name].items())

    lines = [
        f"{result['date']}, `{result['command']}`, {result['hardware']}: {result['seconds']} s.",
        "",
        "| | |",
        "| --- | --- |",
        f"| kills | {result['kills']}, in {result['rounds']} copies of the project |",
        f"| killed | {counts('targets')} |",
        f"| while this ran | {counts('stages')} |",
        f"| left unfinished or unsent | {counts('unfinished')} |",
        f"| files lost with the power | {counts('power_losses')} |",
        f"| faults | {len(result['faults'])} |",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
