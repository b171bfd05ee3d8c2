"""The units of a SuperGLUE task and method: a training for each setting, split and seed."""

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from pipeline.config.grid import TrialConfig, superglue_configs
from pipeline.config.schema import Params, SuperGlueMethod
from pipeline.data.superglue import read_examples
from pipeline.errors import DataError
from pipeline.evaluation.metrics import answered, task_metrics, task_score
from pipeline.files import link_or_copy, read_json, sha256, write_json
from pipeline.history.run import StageRun
from pipeline.models.dataset import classifier_labels
from pipeline.models.language_model import PromptedModel
from pipeline.models.loading import is_masked
from pipeline.models.memory import estimate_max_rows
from pipeline.prompts.store import StoredPrompt, weights_file
from pipeline.tasks import Example, Task, get_task
from pipeline.training.loop import EpochRecord, Trained
from pipeline.training.problems import task_problem
from pipeline.training.selection import Selection, Unit
from pipeline.training.units import finished_unit, forget_unit
from stages.loading import load_network
from stages.runtime import RunningStage, say
from stages.training import epoch_line, epoch_metrics, train_problems

METRIC = "score"

# In a unit's folder: which run worked at it last, and the seconds that it took so far.
_COST = "cost.json"


@dataclass
class TaskTraining:
    """All that the trainings of one task and method have in common.

    Attributes:
        this: the stage.
        params: of the run.
        task: its name.
        method: its name.
        model: folder of the language model.
        splits: folder of the task's splits.
        settings: those to train under.
        seconds_reused: what other runs spent on the units that this one took over.
    """

    this: RunningStage
    params: Params
    task: str
    method: SuperGlueMethod
    model: Path
    splits: Path
    settings: list[TrialConfig] = field(init=False)
    seconds_reused: float = field(init=False, default=0.0)
    _frozen: PromptedModel | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        """Work out the settings: they hang on the model's family."""
        self.settings = superglue_configs(
            self.params.superglue, self.task, self.method, masked=is_masked(self.model)
        )

    @property
    def units(self) -> list[Unit]:
        """The trainings, those of one setting together; a seed decides nothing without one."""
        numbers = sorted(int(path.name) for path in self.splits.iterdir() if path.is_dir())
        if not numbers:
            raise DataError(f"{self.splits}: no numbered splits; run `dvc repro` for them")
        return [
            Unit(setting.number, split, seed)
            for setting in self.settings
            for split in numbers
            for seed in self.params.superglue.seeds[: None if setting.training.tune else 1]
        ]

    def train(self, unit: Unit) -> Trained:
        """Train a unit; or take over what was left of it by an earlier attempt, or another run."""
        with self._folder(unit) as folder, self._child(unit) as run:
            known = finished_unit(folder, self.task)
            if known is not None:
                say(f"{unit.name}: trained before")
            logged: set[int] = set()

            def report(record: EpochRecord) -> None:
                say(epoch_line(unit.name, record, METRIC))
                run.log_metrics(epoch_metrics(record, METRIC), record.epoch)
                logged.add(record.epoch)

            with self._timed(folder, done=known is not None):
                trained = known or self._train(unit, folder, report)
            for record in trained.history:
                if record.epoch not in logged:
                    run.log_metrics(epoch_metrics(record, METRIC), record.epoch)
            return trained

    def discard(self, unit: Unit) -> None:
        """Delete the weights of a unit that will not be evaluated; its scores stay."""
        with self._folder(unit) as folder:
            weights_file(folder, self.task).unlink(missing_ok=True)

    def keep(self, unit: Unit, trained: Trained, out: Path) -> Trained:
        """Put a unit's tuned weights, if any, into a folder; return how it ended.

        An earlier run that chose another setting may have discarded the weights. The unit is then
        trained again, and what came with the new weights takes the place of `trained`.
        """
        with self._folder(unit) as folder:
            weights = weights_file(folder, self.task)
            if "model" in self._setting(unit).training.tune:
                if not weights.exists():
                    forget_unit(folder, self.task)
                    trained = self._train(unit, folder, lambda _: None)
                link_or_copy(weights, weights_file(out, unit.name))
        return trained

    def prompt(self, unit: Unit, trained: Trained) -> StoredPrompt:
        """Return a unit's prompt."""
        setting = self._setting(unit)
        return StoredPrompt(
            setting.template.source,
            trained.vectors,
            trained.best_epoch,
            trained.best_score,
            setting.verbalizer,
            setting.max_length,
        )

    @contextlib.contextmanager
    def _timed(self, folder: Path, *, done: bool) -> Iterator[None]:
        """Note what a unit took, by all runs that worked at it, and what was not this run's."""
        file, run = folder / _COST, self.this.run.run_id
        spent: dict[str, Any] = {"run": run, "seconds": 0.0}
        if file.exists():
            spent = read_json(file)
        if spent["run"] != run:
            self.seconds_reused += spent["seconds"]
        started = time.monotonic()
        try:
            yield
        finally:
            if not done:
                seconds = spent["seconds"] + time.monotonic() - started
                write_json(file, {"run": run, "seconds": seconds})

    def _train(self, unit: Unit, folder: Path, report: Callable[[EpochRecord], None]) -> Trained:
        setting, kind = self._setting(unit), get_task(self.task)
        tuned = "model" in setting.training.tune
        classifier = self.method == "classifier"
        assert setting.max_length is not None
        load = partial(
            load_network, self.this, self.params, self.model, tuned=tuned,
            labels=classifier_labels(kind, setting.template) if classifier else None,
            seed=unit.seed,
        )  # fmt: skip
        network = load() if tuned else self._frozen or load()
        self._frozen = None if tuned else network
        examples = self._examples(unit)
        problem = task_problem(
            network,
            kind,
            setting.template,
            examples,
            verbalizer=setting.verbalizer,
            max_length=setting.max_length,
            classifier=classifier,
        )
        return train_problems(
            self.params,
            setting.training,
            network,
            [problem],
            score=partial(_score, kind, examples["dev"]),
            loss_over_vocabulary=False,
            max_rows_per_forward=estimate_max_rows(
                network, setting.max_length, wanted=self.params.runtime.max_rows_per_forward
            ),
            seed=unit.seed,
            folder=folder,
            load=load,
            on_epoch=report,
        )[self.task]

    def _setting(self, unit: Unit) -> TrialConfig:
        return self.settings[unit.setting - 1]

    def _files(self, unit: Unit) -> dict[str, Path]:
        folder = self.splits / str(unit.split)
        return {split: folder / f"{split}.jsonl" for split in ("train", "dev")}

    def _examples(self, unit: Unit) -> dict[str, list[Example]]:
        kind = get_task(self.task).examples
        return {split: read_examples(path, kind) for split, path in self._files(unit).items()}

    def _folder(self, unit: Unit) -> AbstractContextManager[Path]:
        """Lock the folder of a unit's progress, under the content of all that it depends on."""
        setting = self._setting(unit)
        content = {
            "task": self.task,
            "method": self.method,
            "model": self.params.model.model_dump(),
            "seed": unit.seed,
            "template": setting.template.source,
            "verbalizer": setting.verbalizer,
            "max_length": setting.max_length,
            "training": setting.training.model_dump(),
            "data": {split: sha256(path) for split, path in self._files(unit).items()},
        }
        return self.this.unit(unit.name, content, besides=self.splits)

    def _child(self, unit: Unit) -> AbstractContextManager[StageRun]:
        tags = {"stage": "train", "benchmark": "superglue", "task": self.task}
        params = {"setting": unit.setting, "split": unit.split, "seed": unit.seed}
        return self.this.run.child(
            unit.name,
            tags={**tags, "method": self.method},
            params={**params, **self._setting(unit).tried},
        )


def described(settings: Sequence[TrialConfig], selection: Selection) -> dict[str, Any]:
    """Return what was trained, and what dev chose, for `units.json`."""
    return {
        "chosen": selection.chosen,
        "settings": [
            {
                "number": setting.number,
                "tried": setting.tried,
                "template": setting.template.source,
                "verbalizer": setting.verbalizer,
                "max_length": setting.max_length,
                "units": [
                    {
                        "name": unit.name,
                        "split": unit.split,
                        "seed": unit.seed,
                        "best_epoch": own.best_epoch,
                        "dev_score": own.best_score,
                    }
                    for unit, own in selection.trained.items()
                    if unit.setting == setting.number
                ],
            }
            for setting in settings
        ],
    }


def _score(task: Task, dev: Sequence[Example], log_probs: Tensor, _: Tensor) -> float:
    return task_score(task_metrics(task, dev, answered(task, log_probs)))
