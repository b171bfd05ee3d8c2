"""The list of tasks: one line here and one small file a task."""

from pipeline.tasks.base import Task
from pipeline.tasks.rte import RTE

TASKS: dict[str, Task] = {task.name: task for task in (RTE,)}

__all__ = ["TASKS", "Task"]
