"""What does running units on Ray cost, and how busy would 100 GPUs be?

1,000 empty units run on this machine's Ray, started as `runtime.engine: ray` does without
RAY_ADDRESS, and 50 units of 20 epochs are logged to an MLflow store in SQLite. Then 1,000 units of
a random duration are simulated on 100 GPUs, each assigned to the first free one, as Ray does, and
logged by the stage one after the other, with what both cost. The results are written into a file
and into the README of this folder.

    python -m benchmarks.engine
"""

import argparse
import contextlib
import datetime
import heapq
import math
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.config.schema import RuntimeParams
from pipeline.engine.cluster import RayCluster
from pipeline.engine.units import Report, Unit
from pipeline.files import write_json
from pipeline.history.context import hardware_name
from pipeline.history.run import stage_run
from pipeline.results.page import insert_between
from pipeline.workflow.command import StageInfo

RESULTS = Path(__file__).parent / "results" / "engine.json"
README = Path(__file__).parent / "README.md"
BEGIN = "<!-- cost of Ray: written by `python -m benchmarks.engine` -->"
END = "<!-- end of the cost of Ray -->"

_UNITS = 1000
_GPUS = 100
_MEAN_SECONDS = (30, 60, 300, 1200)
_ORDERS = {"as given": False, "longest first": True}
# Assumed, not measured here: a worker's start, and loading a model for each unit, since Ray gives
# each unit on a GPU a new process.
_START_SECONDS = 20.0
_LOAD_SECONDS = 10.0
_LOGGED_UNITS = 50
_EPOCHS = 20


def main() -> None:
    """Measure and simulate; write the file and the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--units", type=int, default=_UNITS, help="empty units to run")
    count = parser.parse_args().units
    load = os.getloadavg()[0]
    connect, seconds = measure(count)
    each = seconds / count
    logging = {mean: measure_log(mean / _EPOCHS) for mean in _MEAN_SECONDS}
    shares = {
        mean: {
            order: share(mean, each, logging[mean], longest_first=longest)
            for order, longest in _ORDERS.items()
        }
        for mean in _MEAN_SECONDS
    }
    values = {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "hardware": hardware_name(None),
        "load_average": round(load, 1),
        "units": count,
        "connect_seconds": round(connect, 1),
        "seconds": round(seconds, 1),
        "log_seconds": {str(mean): round(own, 3) for mean, own in logging.items()},
        "simulated_share": {str(mean): own for mean, own in shares.items()},
    }
    write_json(RESULTS, values)
    text = insert_between(README.read_text("utf-8"), BEGIN, END, page(values))
    README.write_text(text, encoding="utf-8")
    sys.stdout.write(f"{page(values)}\n")


def page(values: Mapping[str, Any]) -> str:
    """Return the results of the file as Markdown."""
    each = f"{1000 * values['seconds'] / values['units']:.0f} ms"
    lines = [
        f"Measured on {values['hardware']}, {values['date']}, load average "
        f"{values['load_average']} at the start: connection and first unit "
        f"{values['connect_seconds']} s; {values['units']:,} empty units {values['seconds']} s, "
        f"{each} each.",
        "",
        f"Simulated share of the time in which {_GPUS} GPUs train. Each unit takes these {each} of "
        f"Ray and {_LOAD_SECONDS:g} s to load the model (assumed), and then the stage logs its "
        f"{_EPOCHS} epochs. Durations are log-normal with half of the mean as deviation.",
        "",
        f"| mean unit | log of a unit | {' | '.join(_ORDERS)} |",
        "| ---: | ---: | ---: | ---: |",
    ]
    for mean, shares in values["simulated_share"].items():
        log = f"{1000 * values['log_seconds'][mean]:.0f} ms"
        cells = [f"{mean} s", log, *(f"{shares[order]:.0%}" for order in _ORDERS)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def measure(count: int) -> tuple[float, float]:
    """Return the seconds until the first unit has ended, and those of so many empty units."""
    os.environ.pop("RAY_ADDRESS", None)
    runtime = RuntimeParams(
        engine="ray", device="cpu", threads=1, max_tokens_per_forward=1, checkpoint_seconds=0
    )
    with tempfile.TemporaryDirectory() as folder, RayCluster(runtime, Path(folder)) as cluster:
        seconds = []
        for units in (_empty(1), _empty(count)):
            started = time.perf_counter()
            for _, outcome in cluster.run(units, lambda *_: None):
                outcome.result()
            seconds.append(time.perf_counter() - started)
    return seconds[0], seconds[1]


def _empty(count: int) -> list[Unit]:
    return [Unit(f"unit-{number}", _nothing) for number in range(count)]


def _nothing(report: Report) -> None:
    report("started")


def measure_log(epoch_seconds: float) -> float:
    """Return the seconds that logging a unit with epochs of this duration takes."""
    epoch = 0
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder}/mlflow.db"
        with stage_run(None, StageInfo("train", "lama", method="p-tuning")) as run:
            run.clock = lambda: epoch * epoch_seconds
            started = time.perf_counter()
            for number in range(_LOGGED_UNITS):
                with run.child(f"unit-{number}", tags={}, params={"seed": number}) as child:
                    for epoch in range(_EPOCHS):
                        child.log_metrics({"train/loss": 1.0, "dev/loss": 1.0}, epoch)
            return (time.perf_counter() - started) / _LOGGED_UNITS


def share(mean: float, each: float, logging: float, *, longest_first: bool) -> float:
    """Return the share of time that the GPUs train, the mean of 20 draws of the durations.

    Args:
        mean: of the durations, in seconds; they are log-normal with half of it as deviation.
        each: seconds that Ray takes for a unit.
        logging: seconds that MLflow takes for a unit.
        longest_first: whether long units start before short ones.
    """
    shares = []
    for seed in range(20):
        spread = math.sqrt(math.log(1 + 0.5**2))
        draw = random.Random(seed).lognormvariate
        durations = [draw(math.log(mean) - spread**2 / 2, spread) for _ in range(_UNITS)]
        if longest_first:
            durations.sort(reverse=True)
        seconds = makespan(durations, _GPUS, each + _LOAD_SECONDS, logging)
        shares.append(sum(durations) / (_GPUS * seconds))
    return statistics.fmean(shares)


def makespan(durations: Sequence[float], gpus: int, overhead: float, logging: float) -> float:
    """Return the seconds until the last unit is logged.

    Args:
        durations: of the units, in seconds, in the order in which they start.
        gpus: each takes the next unit when it is free.
        overhead: seconds that each unit takes besides.
        logging: seconds that the stage takes to log each unit, one after the other.
    """
    free = [_START_SECONDS] * gpus
    ends = []
    for duration in durations:
        ends.append(free[0] + overhead + duration)
        heapq.heapreplace(free, ends[-1])
    logged = 0.0
    for end in sorted(ends):
        logged = max(logged, end) + logging
    return logged


if __name__ == "__main__":
    main()
