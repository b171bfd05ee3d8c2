"""`ptune repro`: run independent stages side by side."""

import contextlib
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from pipeline.cli.console import echo, print_warning
from pipeline.cli.plan import timed_stages
from pipeline.workflow.scheduler import (
    Result,
    TaskStatus,
    longest_first,
    plan_tasks,
    run_tasks,
)

EXAMPLES = """Examples:
  ptune repro -j 4
  ptune repro -j 2 train-lama evaluate-lama"""

_FIRST = "validate"
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def repro(
    targets: Annotated[
        list[str] | None,
        typer.Argument(help="Stages, or groups such as train-lama; default: all."),
    ] = None,
    jobs: Annotated[int, typer.Option("--jobs", "-j", min=1, help="Stages at a time.")] = 1,
    params_file: Annotated[Path, typer.Option("--params", help="The parameters.")] = Path(
        "params.yaml"
    ),
) -> None:
    """Like `dvc repro`, but run independent stages side by side.

    Each stage is run by `dvc repro --single-item`.
    Stages share the cores equally, unless runtime.threads is set, and share
    the GPU. With runtime.engine: ray, they share one pool of all GPUs, and
    each training or evaluation has its own. Those that the history expects
    to take longest start first.
    If a stage fails, only stages that depend on it are skipped.
    """
    from pipeline.config.schema import load_params
    from pipeline.engine.units import shared_pool
    from pipeline.workflow.processes import StageProcesses, threads_each
    from pipeline.workflow.project import repair, stage_graph

    runtime = load_params(params_file).runtime
    repair(Path.cwd())
    chosen = [_FIRST, *targets] if targets else []
    nodes = stage_graph(chosen)
    tasks = plan_tasks(nodes, _FIRST)
    if not tasks:
        _print_results({}, unchanged=len(nodes))
        return
    if jobs > 1:
        tasks = longest_first(tasks, _expected_seconds(chosen))
    with shared_pool(runtime) as environment:
        # One at a time, stages get the same resources as under `dvc repro`.
        processes = StageProcesses(
            _printer([task.name for task in tasks]),
            threads=threads_each(jobs) if jobs > 1 else None,
            folder=Path.cwd(),
            environment=environment,
        )
        with _signals(processes.stop) as caught:
            results = run_tasks(tasks, processes.run, jobs=jobs)
    for name, result in results.items():
        if result.status is TaskStatus.FAILED:
            print_warning(f"\n{name} failed; last lines of its output:", color="red")
            for line in processes.last_lines[name]:
                echo(f"  {line}", err=True)
    _print_results(results, unchanged=len(nodes) - len(tasks))
    if caught:
        raise typer.Exit(128 + caught[0])
    if not all(result.status.ok for result in results.values()):
        raise typer.Exit(1)


def _expected_seconds(targets: Sequence[str]) -> dict[str, float]:
    """Stage -> seconds, where the history knows them; empty if it cannot be read."""
    from pipeline.errors import TrackingError
    from pipeline.workflow.project import plan_stages

    with contextlib.suppress(TrackingError):
        timed = timed_stages(plan_stages(targets, constant=_FIRST))
        return {stage.name: estimate.seconds for stage, estimate in timed if estimate is not None}
    return {}


@contextlib.contextmanager
def _signals(stop: Callable[[], None]) -> Iterator[list[int]]:
    """Call `stop` on a signal to terminate; yield the list of signals received so far.

    A signal that the caller ignores, as under nohup, stays ignored.
    """
    caught: list[int] = []

    def note(number: int, _: FrameType | None) -> None:
        caught.append(number)
        stop()
        # The terminal may be gone.
        with contextlib.suppress(OSError):
            echo("stopping the running stages, which takes a few seconds", err=True)

    handled = [number for number in _SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, note) for number in handled}
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _printer(names: Sequence[str]) -> Callable[[str, str], None]:
    """Function that prints a line after the name of its stage, from any thread.

    If the output is closed, lines are lost and the stages continue.
    """
    width = max(map(len, names), default=0)
    lock = threading.Lock()

    def show(name: str, line: str) -> None:
        with lock, contextlib.suppress(OSError):
            echo(f"{name:{width}} | {line}")

    return show


def _print_results(results: Mapping[str, Result], *, unchanged: int) -> None:
    width = max(map(len, results), default=0)
    if results:
        echo(f"\n{'stage':{width}}  status     seconds")
    for name, result in results.items():
        seconds = f"{result.seconds:.1f}" if result.seconds else ""
        blocked = f"  blocked by {', '.join(result.blocked_by)}" if result.blocked_by else ""
        echo(f"{name:{width}}  {result.status:9}{seconds:>9}{blocked}")
    counts = Counter(result.status for result in results.values())
    counts[TaskStatus.UNCHANGED] += unchanged
    echo(", ".join(f"{counts[status]} {status}" for status in TaskStatus if counts[status]))
