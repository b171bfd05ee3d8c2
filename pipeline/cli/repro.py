"""`ptune repro`: independent stages side by side."""

import contextlib
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from pipeline.cli.console import print_warning, report_errors
from pipeline.workflow.schedule import Result, TaskStatus, run_tasks

EXAMPLES = """Examples:
  ptune repro -j 4
  ptune repro -j 2 --gpus 0,1 train-lama evaluate-lama"""

_FIRST = "validate"
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def repro(
    targets: Annotated[
        list[str] | None,
        typer.Argument(help="Stages, or groups such as train-lama; none stands for all."),
    ] = None,
    jobs: Annotated[int, typer.Option("--jobs", "-j", min=1, help="Stages at a time.")] = 1,
    gpus: Annotated[
        str, typer.Option("--gpus", metavar="0,1", help="GPUs to use; by default all there are.")
    ] = "",
    params_file: Annotated[Path, typer.Option("--params", help="The parameters.")] = Path(
        "params.yaml"
    ),
) -> None:
    """Do what `dvc repro` does, independent stages side by side.

    Each stage is run by a plain `dvc repro --single-item`.
    Where there are GPUs, a stage that trains or evaluates has one for itself.
    On a CPU each has its share of the cores, unless runtime.threads is set.
    A stage that fails keeps those from running that hang on it, no others.
    """
    with report_errors():
        from pipeline.config.schema import load_params
        from pipeline.workflow.plan import plan_tasks
        from pipeline.workflow.processes import StageProcesses
        from pipeline.workflow.project import stage_graph
        from pipeline.workflow.resources import gpu_slots, threads_each

        device = load_params(params_file).runtime.device
        nodes = stage_graph([_FIRST, *targets] if targets else [])
        tasks = plan_tasks(nodes, _FIRST)
        named = [gpu.strip() for gpu in gpus.split(",") if gpu.strip()]
        # One at a time, stages have all that they have under `dvc repro`.
        slots = gpu_slots(device, named) if jobs > 1 or named else []
        children = StageProcesses(
            _printer([task.name for task in tasks]),
            threads=threads_each(jobs) if jobs > 1 else None,
            folder=Path.cwd(),
        )
        with _signals(children.stop) as caught:
            results = run_tasks(tasks, children.run, jobs=jobs, gpus=slots)
        _tell_failures(results, children.tails)
        _tell_results(results, unchanged=len(nodes) - len(tasks))
    if caught:
        raise typer.Exit(128 + caught[0])
    if not all(result.ended.well for result in results.values()):
        raise typer.Exit(1)


@contextlib.contextmanager
def _signals(stop: Callable[[], None]) -> Iterator[list[int]]:
    """Call `stop` on a signal that asks for an end; yield the list that the signals come into.

    One that the caller has ignored, as nohup does, stays ignored.
    """
    caught: list[int] = []

    def note(number: int, _: FrameType | None) -> None:
        caught.append(number)
        stop()
        # The signal may say that the terminal is gone.
        with contextlib.suppress(OSError):
            typer.echo("stopping; stages end in order, within seconds", err=True)

    heeded = [number for number in _SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, note) for number in heeded}
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _printer(names: Sequence[str]) -> Callable[[str, str], None]:
    """Return what prints a line behind the name of its stage, from any thread.

    Where nobody can read it any more, it is lost: no stage is left alone for that.
    """
    width = max(map(len, names), default=0)
    lock = threading.Lock()

    def show(name: str, line: str) -> None:
        with lock, contextlib.suppress(OSError):
            typer.echo(f"{name:{width}} | {line}")

    return show


def _tell_failures(results: Mapping[str, Result], tails: Mapping[str, Sequence[str]]) -> None:
    for name, result in results.items():
        if result.ended is TaskStatus.FAILED:
            print_warning(f"\n{name} failed; its last lines:", color="red")
            for line in tails[name]:
                typer.echo(f"  {line}", err=True)


def _tell_results(results: Mapping[str, Result], *, unchanged: int) -> None:
    width = max(map(len, results), default=0)
    if results:
        typer.echo(f"\n{'stage':{width}}  ended      seconds")
    for name, result in results.items():
        seconds = f"{result.seconds:.1f}" if result.seconds else ""
        lacks = f"  for want of {', '.join(result.lacks)}" if result.lacks else ""
        typer.echo(f"{name:{width}}  {result.ended:9}{seconds:>9}{lacks}")
    counts = Counter(result.ended for result in results.values())
    counts[TaskStatus.UNCHANGED] += unchanged
    typer.echo(", ".join(f"{counts[ended]} {ended}" for ended in TaskStatus if counts[ended]))
