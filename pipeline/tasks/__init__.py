"""The list of tasks: one line here and one small file a task."""

from pipeline.tasks.base import Example, Task, task_template, task_verbalizer
from pipeline.tasks.boolq import BOOLQ
from pipeline.tasks.cb import CB
from pipeline.tasks.copa import COPA
from pipeline.tasks.multirc import MULTIRC
from pipeline.tasks.rte import RTE
from pipeline.tasks.wic import WIC
from pipeline.tasks.wsc import WSC

TASKS: dict[str, Task] = {task.name: task for task in (BOOLQ, CB, COPA, MULTIRC, RTE, WIC, WSC)}

__all__ = ["TASKS", "Example", "Task", "task_template", "task_verbalizer"]
