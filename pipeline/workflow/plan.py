"""Which stages a run has to look at, as tasks of a schedule."""

from collections.abc import Sequence

from pipeline.workflow.project import StageNode
from pipeline.workflow.schedule import Task

_TAKES_GPU = ("train", "evaluate")


def plan_tasks(nodes: Sequence[StageNode], first: str) -> list[Task]:
    """Return a task for each stage that may run, each behind those that it comes after.

    A stage that has not changed, behind none that has, needs no dvc to say so.

    Args:
        nodes: each behind those that it reads from.
        first: the stage that all others wait for.
    """
    kept: set[str] = set()
    tasks = []
    for node in sorted(nodes, key=lambda node: node.name != first):
        after = node.after & kept
        if node.changed or after:
            # Another stage need not read what the first one writes.
            wait = {first} & kept
            tasks.append(Task(node.name, after | wait, gpu=_takes_gpu(node.name)))
            kept.add(node.name)
    return tasks


def _takes_gpu(stage: str) -> bool:
    return stage.partition("-")[0] in _TAKES_GPU
