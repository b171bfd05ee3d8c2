"""What a stage is about, as its command says."""

from dataclasses import dataclass

from pipeline.history.store import EXPERIMENTS
from pipeline.workflow.lock import parse_command


@dataclass(frozen=True)
class About:
    """What a stage is about, as its command says.

    Attributes:
        kind: `train`, `evaluate`, ...
        benchmark: empty where there is none, as are the two below.
        task: of SuperGLUE.
        method: of `train` and `evaluate`.
    """

    kind: str
    benchmark: str = ""
    task: str = ""
    method: str = ""

    @property
    def name(self) -> str:
        """The name of its run."""
        return "/".join(filter(None, (self.kind, self.benchmark, self.task, self.method)))

    @property
    def tags(self) -> dict[str, str]:
        """The tags of its run."""
        named = {"benchmark": self.benchmark, "task": self.task, "method": self.method}
        return {"stage": self.kind} | {key: value for key, value in named.items() if value}


def about_command(command: str) -> About | None:
    """Return what a stage's command is about; None for one that is not of this pipeline."""
    module, named, _ = parse_command(command)
    kind = module.removeprefix("stages.")
    if kind == module or kind not in EXPERIMENTS:
        return None
    if kind == "report" or not named:
        return About(kind)
    benchmark, *rest = named
    task_and_method = rest if benchmark == "superglue" else ["", *rest]
    return About(kind, benchmark, *task_and_method) if len(task_and_method) <= 2 else None
