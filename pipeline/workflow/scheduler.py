"""Run the stages that may have changed side by side, each after those that it depends on."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from enum import StrEnum
from graphlib import TopologicalSorter
from time import monotonic

from pipeline.workflow.project import StageNode


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
    """

    name: str
    after: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Result:
    """Outcome of a task; `blocked_by` has the tasks because of which it was not run."""

    status: TaskStatus
    seconds: float = 0.0
    blocked_by: tuple[str, ...] = ()


Run = Callable[[Task], TaskStatus]


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
            tasks.append(Task(node.name, after | ({first} & planned)))
            planned.add(node.name)
    return tasks


def longest_first(tasks: Sequence[Task], seconds: Mapping[str, float]) -> list[Task]:
    """Sort tasks by the time from their start to the end of the last that waits for them.

    `tasks` are each after those that they wait for. A task that is not in `seconds` takes none.
    """
    left: dict[str, float] = {}
    for task in reversed(tasks):
        behind = (left[other.name] for other in tasks if task.name in other.after)
        left[task.name] = seconds.get(task.name, 0.0) + max(behind, default=0.0)
    return sorted(tasks, key=lambda task: -left[task.name])


def run_tasks(tasks: Sequence[Task], run: Run, *, jobs: int) -> dict[str, Result]:
    """Run up to some jobs side by side; a failed task blocks only those that depend on it.

    Of the tasks that can start, the first of `tasks` does. `run` is called in threads with a task,
    and returns its status.

    Returns:
        Task -> result, in the order of `tasks`.

    Raises:
        ValueError: tasks wait for each other in a circle.
    """
    place = {task.name: number for number, task in enumerate(tasks)}
    sorter = TopologicalSorter({task.name: task.after for task in tasks})
    sorter.prepare()
    results: dict[str, Result] = {}
    ready: list[str] = []
    running: dict[Future[Result], str] = {}
    with ThreadPoolExecutor(jobs) as pool:
        while sorter.is_active():
            ready = sorted([*ready, *sorter.get_ready()], key=place.__getitem__)
            for name in list(ready):
                task = tasks[place[name]]
                blocked_by = tuple(sorted(n for n in task.after if not results[n].status.ok))
                if blocked_by:
                    results[name] = Result(TaskStatus.NOT_RUN, blocked_by=blocked_by)
                    sorter.done(name)
                elif len(running) < jobs:
                    running[pool.submit(_timed, run, task)] = name
                else:
                    continue
                ready.remove(name)
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                name = running.pop(future)
                results[name] = future.result()
                sorter.done(name)
    return {task.name: results[task.name] for task in tasks}


def _timed(run: Run, task: Task) -> Result:
    started = monotonic()
    status = run(task)
    return Result(status, monotonic() - started)
