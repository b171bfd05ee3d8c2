"""Run the stages that may have changed side by side, each after those that it depends on."""

from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from enum import StrEnum
from time import monotonic

from pipeline.workflow.project import StageNode

_USES_GPU = ("train", "evaluate")


class TaskStatus(StrEnum):
    """Result of a task."""

    RAN = "ran"
    CACHED = "cached"
    UNCHANGED = "unchanged"
    FAILED = "failed"
    STOPPED = "stopped"
    NOT_RUN = "not run"

    @property
    def ok(self) -> bool:
        """Whether tasks that depend on this one can run."""
        return self in (TaskStatus.RAN, TaskStatus.CACHED, TaskStatus.UNCHANGED)


@dataclass(frozen=True)
class Task:
    """A node of the graph.

    Attributes:
        after: the tasks that must be ok before it starts.
        gpu: whether it needs a GPU for itself, if there are any.
    """

    name: str
    after: frozenset[str] = frozenset()
    gpu: bool = False


@dataclass(frozen=True)
class Result:
    """Outcome of a task; `blocked_by` has the tasks because of which it was not run."""

    status: TaskStatus
    seconds: float = 0.0
    blocked_by: tuple[str, ...] = ()


Run = Callable[[Task, str | None], TaskStatus]


def plan_tasks(nodes: Sequence[StageNode], first: str) -> list[Task]:
    """A task for each stage that may have to run, in an order that can be run.

    An unchanged stage that depends on no changed one needs no task. `nodes` are each after those
    that they depend on; all others wait for the stage `first`.
    """
    planned: set[str] = set()
    tasks = []
    for node in sorted(nodes, key=lambda node: node.name != first):
        after = node.after & planned
        if node.changed or after:
            # Also a stage that does not read the first one's output waits for it.
            gpu = node.name.partition("-")[0] in _USES_GPU
            tasks.append(Task(node.name, after | ({first} & planned), gpu))
            planned.add(node.name)
    return tasks


def run_tasks(
    tasks: Sequence[Task], run: Run, *, jobs: int, gpus: Sequence[str] = ()
) -> dict[str, Result]:
    """Run up to some jobs side by side; a failed task blocks only those that depend on it.

    Each task comes after those that it depends on; with one job they run in this order. `run` is
    called in threads with a task and the GPU that it has for itself, and returns its status.
    Without GPUs, no task waits for one.

    Returns:
        Task -> result, in the order of `tasks`.

    Raises:
        ValueError: a task precedes one that it depends on.
    """
    names = [task.name for task in tasks]
    for place, task in enumerate(tasks):
        if late := sorted(task.after - set(names[:place])):
            raise ValueError(f"{task.name} precedes {late}")
    results: dict[str, Result] = {}
    waiting, free_gpus = list(tasks), list(gpus)
    running: dict[Future[Result], tuple[Task, str | None]] = {}
    with ThreadPoolExecutor(jobs) as pool:
        while waiting or running:
            for task in list(waiting):
                if not task.after <= results.keys():
                    continue
                blocked_by = tuple(sorted(n for n in task.after if not results[n].status.ok))
                if blocked_by:
                    results[task.name] = Result(TaskStatus.NOT_RUN, blocked_by=blocked_by)
                    waiting.remove(task)
                elif len(running) < jobs and (free_gpus or not (task.gpu and gpus)):
                    gpu = free_gpus.pop(0) if task.gpu and gpus else None
                    running[pool.submit(_timed, run, task, gpu)] = task, gpu
                    waiting.remove(task)
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                task, gpu = running.pop(future)
                results[task.name] = future.result()
                if gpu is not None:
                    free_gpus.append(gpu)
    return {name: results[name] for name in names}


def _timed(run: Run, task: Task, gpu: str | None) -> Result:
    started = monotonic()
    status = run(task, gpu)
    return Result(status, monotonic() - started)
