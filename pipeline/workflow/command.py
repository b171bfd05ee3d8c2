"""The command of a stage, parsed: which stage, benchmark, task and method it runs."""

import os
import shlex
from dataclasses import dataclass, field

_PREFIX = os.environ.get("MLFLOW_EXPERIMENT_NAME") or "p-tuning"
# Stage -> the MLflow experiment of its runs, so that each experiment's columns fit its runs.
EXPERIMENTS = {
    "validate": f"{_PREFIX}-data",
    "download": f"{_PREFIX}-data",
    "splits": f"{_PREFIX}-data",
    "train": f"{_PREFIX}-train",
    "evaluate": f"{_PREFIX}-evaluate",
    "report": f"{_PREFIX}-report",
    "promote": f"{_PREFIX}-promote",
}
# Benchmarks whose stages train and evaluate one task each: SuperGLUE, and the user's tasks.
WITH_TASKS = ("superglue", "tasks")


@dataclass(frozen=True)
class StageInfo:
    """The subject of a stage.

    Attributes:
        stage: `train`, `evaluate`, or another key of EXPERIMENTS.
        benchmark: empty if the stage has none, as are `task` (of `WITH_TASKS`) and `method`.
        options: option, such as `--out` -> value; empty if not read from a command.
    """

    stage: str
    benchmark: str = ""
    task: str = ""
    method: str = ""
    options: dict[str, str] = field(default_factory=dict, compare=False)

    @classmethod
    def from_command(cls, command: str) -> "StageInfo | None":
        """Return the subject of `python -m stages.<stage> <names> --<option> <value> ...`.

        Any other command, or several lines of commands, give None.
        """
        try:
            words = shlex.split(command)
        except ValueError:  # shells accept some text that shlex does not
            return None
        if "\n" in command.strip() or words[:2] != ["python", "-m"] or len(words) < 3:
            return None
        stage = words[2].removeprefix("stages.")
        if stage == words[2] or stage not in EXPERIMENTS:
            return None
        arguments = words[3:]
        count = next((n for n, word in enumerate(arguments) if word.startswith("--")), None)
        names, rest = arguments[:count], [] if count is None else arguments[count:]
        options = dict(zip(rest[::2], rest[1::2], strict=False))
        if stage == "report" or not names:
            return cls(stage, options=options)
        benchmark, *names = names
        if benchmark not in WITH_TASKS:
            names.insert(0, "")
        if len(names) > 2:
            return None
        task, method = [*names, "", ""][:2]
        return cls(stage, benchmark, task, method, options)

    @property
    def name(self) -> str:
        """A name for messages, such as `train/lama/p-tuning`."""
        return "/".join(filter(None, (self.stage, self.benchmark, self.task, self.method)))

    @property
    def run_name(self) -> str:
        """The name of the run in MLflow, whose experiment names the stage: `p-tuning rte`."""
        return f"{self.method} {self.task or self.benchmark}" if self.method else self.name

    @property
    def experiment(self) -> str:
        """The MLflow experiment of the stage's runs."""
        return EXPERIMENTS[self.stage]

    @property
    def tags(self) -> dict[str, str]:
        """The tags that identify the subject of a run."""
        names = {"benchmark": self.benchmark, "task": self.task, "method": self.method}
        return {"stage": self.stage} | {key: value for key, value in names.items() if value}
