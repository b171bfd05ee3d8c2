"""RTE: does the premise entail the hypothesis?"""

from pipeline.tasks.base import Task

RTE = Task(
    name="rte",
    fields=("premise", "hypothesis"),
    labels=("entailment", "not_entailment"),
    group="premise",
)
