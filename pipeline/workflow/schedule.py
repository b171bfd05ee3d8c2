"""In what order tasks of a graph are run side by side. It knows neither DVC nor processes."""

from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from enum import StrEnum
from time import monotonic


class TaskStatus(StrEnum):
    """How a task ended."""

    RAN = "ran"
    CACHED = "cached"
    UNCHANGED = "unchanged"
    FAILED = "failed"
    STOPPED = "stopped"
    NOT_RUN = "not run"

    @property
    def well(self) -> bool:
        """Whether what hangs on the task can be run."""
        return self in (TaskStatus.RAN, TaskStatus.CACHED, TaskStatus.UNCHANGED)


@dataclass(frozen=True)
class Task:
    """A node of the graph.

    Attributes:
        name: tells it apart.
        after: the tasks that must have ended well before it starts.
        gpu: whether it takes a GPU for itself where there are some.
    """

    name: str
    after: frozenset[str] = frozenset()
    gpu: bool = False


@dataclass(frozen=True)
class Result:
    """What became of a task.

    Attributes:
        ended: how.
        seconds: that it took.
        lacks: of one that was not run: those before it that ended otherwise than well.
    """

    ended: TaskStatus
    seconds: float = 0.0
    lacks: tuple[str, ...] = ()


Run = Callable[[Task, str | None], TaskStatus]


def run_tasks(
    tasks: Sequence[Task], run: Run, *, jobs: int, gpus: Sequence[str] = ()
) -> dict[str, Result]:
    """Run tasks side by side; what a failure leaves possible is still run.

    Args:
        tasks: each behind those that it comes after. With one job they are run in this order.
        run: runs a task, with the GPU it has for itself, and says how it ended. It is called in
            threads.
        jobs: so many at a time at most.
        gpus: without any, no task waits for one.

    Returns:
        Task -> what became of it, in the order of `tasks`.

    Raises:
        ValueError: a task stands before one that it comes after.
    """
    schedule = _Schedule(tasks, gpus)
    running: dict[Future[Result], tuple[Task, str | None]] = {}
    with ThreadPoolExecutor(jobs) as pool:
        while True:
            while len(running) < jobs and (start := schedule.take()) is not None:
                running[pool.submit(_timed, run, *start)] = start
            if not running:
                break
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                schedule.end(*running.pop(future), future.result())
    return {task.name: schedule.results[task.name] for task in tasks}


def _timed(run: Run, task: Task, gpu: str | None) -> Result:
    started = monotonic()
    ended = run(task, gpu)
    return Result(ended, monotonic() - started)


class _Schedule:
    """What has ended, what waits, and which GPUs are free."""

    def __init__(self, tasks: Sequence[Task], gpus: Sequence[str]) -> None:
        seen: set[str] = set()
        for task in tasks:
            if not task.after <= seen:
                raise ValueError(f"{task.name} stands before {sorted(task.after - seen)}")
            seen.add(task.name)
        self.results: dict[str, Result] = {}
        self._waiting = list(tasks)
        self._gpus = bool(gpus)
        self._free = list(gpus)

    def take(self) -> tuple[Task, str | None] | None:
        """Return the first task that can start, with its GPU; None if all must wait.

        A task behind one that did not end well is noted as not run.
        """
        for task in list(self._waiting):
            if not task.after <= self.results.keys():
                continue
            lacks = tuple(sorted(n for n in task.after if not self.results[n].ended.well))
            wants_gpu = task.gpu and self._gpus
            if not lacks and wants_gpu and not self._free:
                continue
            self._waiting.remove(task)
            if not lacks:
                return task, self._free.pop(0) if wants_gpu else None
            self.results[task.name] = Result(TaskStatus.NOT_RUN, lacks=lacks)
        return None

    def end(self, task: Task, gpu: str | None, result: Result) -> None:
        """Note how a task ended, and that its GPU is free."""
        self.results[task.name] = result
        if gpu is not None:
            self._free.append(gpu)
