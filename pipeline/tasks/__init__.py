"""Tasks, one file each, found by their names."""

import importlib
import pkgutil

from pipeline.errors import ParamsError
from pipeline.tasks.base import Example, Task, task_template, task_verbalizer

# Modules of this folder that are not tasks.
_SHARED = {"base", "lama", "own"}


def task_names() -> list[str]:
    """Names of all tasks, sorted; no task is imported."""
    return sorted({module.name for module in pkgutil.iter_modules(__path__)} - _SHARED)


def check_task(name: str) -> str:
    """Check that there is a task of this name, and return the name; no task is imported.

    Raises:
        ParamsError: there is none; the message lists those that there are.
    """
    if name not in task_names():
        raise ParamsError(f"unknown task '{name}'; available: {', '.join(task_names())}")
    return name


def get_task(name: str) -> Task:
    """Import the task of a name; the others are not imported.

    Raises:
        ParamsError: there is no such task.
    """
    task: Task = importlib.import_module(f"{__name__}.{check_task(name)}").TASK
    return task


__all__ = [
    "Example",
    "Task",
    "check_task",
    "get_task",
    "task_names",
    "task_template",
    "task_verbalizer",
]
