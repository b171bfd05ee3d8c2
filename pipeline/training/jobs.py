"""The trials of a stage: which train together, what is reused, and which setting dev selects.

A trial is one training: task x setting x split x seed. Trials of a frozen model with equal training
settings and seed train together as a bank; a trial that tunes the model trains by itself. A bank's
progress and results are kept in a folder under the hash of all that determines them, so a killed
stage resumes, and a seed or a setting that is added trains only what is new.
"""

import math
import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from pipeline.config.grid import TrialConfig
from pipeline.config.schema import MethodParams, RuntimeParams
from pipeline.engine.units import Engine, Progress, ProgressSaved, Report, Unit
from pipeline.errors import DataError, TemplateError
from pipeline.evaluation.metrics import score_answers, task_score
from pipeline.files import link_or_copy, read_json, read_progress, sha256, write_json, write_text
from pipeline.models.dataset import PromptFormat, build_dataset, written_out
from pipeline.models.encoding import NO_SLOT, nearest_words
from pipeline.models.language_model import PromptedModel
from pipeline.models.loading import ModelCache, choose_device
from pipeline.models.memory import estimate_max_tokens, total_memory
from pipeline.prompts.store import StoredPrompt, weights_file
from pipeline.tasks import Example, Task
from pipeline.training.checkpoint import Checkpoint
from pipeline.training.loop import EpochRecord, TrainingJob, TrainingResult, train
from pipeline.training.prompt_encoders import PromptEncoder
from pipeline.training.ranks import ALONE, Ranks, run_ranks
from pipeline.workflow.workdir import unit_locked

# In training, an example's own answers compete with at most so many in all: each is a row.
_MAX_CHOICES = 4

# Share of the memory for the encoders of a bank, and the numbers kept for each of their weights:
# with its gradient and the two of Adam.
_BANK_SHARE = 0.2
_NUMBERS_PER_WEIGHT = 4

# Files in a bank's folder.
_COST = "cost.json"  # the last run that trained it, and the seconds so far
_RESULTS = "results.pt"
_CHECKPOINTS = "checkpoints"
_WEIGHTS = "weights.safetensors"
_DIGEST = "weights.sha256"


@dataclass(frozen=True)
class TrialData:
    """The examples of one task and split.

    Attributes:
        task: the task; a relation is one with an open vocabulary.
        examples: of `train` and `dev`.
        digests: file -> hash, of all files that the examples come from.
    """

    task: Task
    examples: Mapping[str, Sequence[Example]]
    digests: Mapping[str, str]


@dataclass(frozen=True, eq=False)
class Trial:
    """One training: task x setting x split x seed.

    Attributes:
        task: name, such as `rte` or `P17`; with several templates of a relation, `P17/1`.
        config: the setting.
        split: number of the train and dev set, from 1.
        seed: of the training.
        data: of the task and split.
        classifier: whether a classification head replaces the vocabulary head.
    """

    task: str
    config: TrialConfig
    split: int
    seed: int
    data: TrialData
    classifier: bool = False

    @property
    def name(self) -> str:
        """Unique within a stage, such as `rte/setting-1/split-1/seed-34`."""
        return f"{self.task}/setting-{self.config.number}/split-{self.split}/seed-{self.seed}"

    @property
    def tuned(self) -> bool:
        """Whether the trial tunes the language model."""
        return self.config.training.model is not None

    @property
    def metric(self) -> str:
        """Name of the dev score in logs."""
        return "score" if self.data.task.vocabulary is None else "p_at_1"

    @property
    def params(self) -> dict[str, Any]:
        """What distinguishes the trial from the others of its stage."""
        numbers = {"setting": self.config.number, "split": self.split, "seed": self.seed}
        return {"task": self.task, **numbers, **self.config.tried}

    @property
    def format(self) -> PromptFormat:
        """How the examples are put into words."""
        config = self.config
        return PromptFormat(
            self.data.task, config.template, config.verbalizer, config.max_length, self.classifier
        )

    @property
    def content(self) -> dict[str, Any]:
        """All that determines the result, except what its bank shares; as JSON."""
        return {
            "task": self.task,
            "template": self.config.template.source,
            "verbalizer": self.config.verbalizer,
            "max_length": self.config.max_length,
            "classifier": self.classifier,
            "data": dict(self.data.digests),
        }

    def sizes(self, result: TrainingResult) -> dict[str, int]:
        """Return the number of examples that training and dev used, and of steps that it took.

        A step is one of the optimizer, or an iteration of a search. Results of earlier versions do
        not know their examples, and give nothing.
        """
        if not result.examples:
            return {}
        training = self.config.training
        one_pass = math.ceil(result.examples["train"] / training.batch_size)
        per_epoch = 1 if training.search else training.steps_per_epoch or one_pass
        return {
            **{f"examples_{split}": number for split, number in result.examples.items()},
            "steps": result.history[-1].epoch * per_epoch,
        }

    def stored_prompt(self, result: TrainingResult) -> StoredPrompt:
        """Return the trained prompt with all that is needed to use it."""
        return StoredPrompt(
            result.template or self.config.template.source,
            result.vectors,
            result.best_epoch,
            result.best_score,
            self.config.verbalizer,
            self.config.max_length,
            result.words,
        )


@dataclass(frozen=True, eq=False)
class Bank:
    """Trials that train together with a frozen model, or one trial that tunes it."""

    name: str
    trials: list[Trial]

    @property
    def config(self) -> MethodParams:
        """The training settings that the trials share."""
        config: MethodParams = self.trials[0].config.training
        return config

    @property
    def params(self) -> dict[str, Any]:
        """What all trials have in common, and how many they are."""
        first, *others = [trial.params for trial in self.trials]
        common = {
            key: value
            for key, value in first.items()
            if all(key in params and params[key] == value for params in others)
        }
        return {**common, "trials": len(self.trials)}

    @property
    def content(self) -> dict[str, Any]:
        """All that determines the results, except the stage's inputs; as JSON."""
        return {
            "training": self.config.model_dump(),
            "seed": self.trials[0].seed,
            "trials": [trial.content for trial in self.trials],
        }

    @property
    def cost(self) -> float:
        """About how long it trains, as the number of examples of all epochs."""
        examples = sum(len(own) for trial in self.trials for own in trial.data.examples.values())
        return float(max(1, self.config.epochs) * examples)


# Number of the selected setting, or split -> number.
Chosen = int | Mapping[int, int]


@dataclass(frozen=True)
class TrialSelection:
    """The results of a stage's trials.

    Attributes:
        results: trial -> result, in the order of the trials.
        chosen: task -> number of the setting that dev selected, or split -> number if each split
            selects its own; None where none was to be selected.
    """

    results: dict[Trial, TrainingResult]
    chosen: Mapping[str, Chosen | None]

    @property
    def kept(self) -> dict[Trial, TrainingResult]:
        """The trials to evaluate: of each task's chosen setting, or all."""
        return {trial: result for trial, result in self.results.items() if self._keeps(trial)}

    def _keeps(self, trial: Trial) -> bool:
        chosen = self.chosen[trial.task]
        number = chosen[trial.split] if isinstance(chosen, Mapping) else chosen
        return number in (None, trial.config.number)

    @property
    def dev_rows(self) -> list[dict[str, Any]]:
        """A row for each trial that is kept, with its dev score; see `score_points`."""
        return [
            {
                "task": trial.task,
                "setting": trial.config.number,
                "split": trial.split,
                "seed": trial.seed,
                "dev_score": result.best_score,
            }
            for trial, result in self.kept.items()
        ]

    def describe(self) -> dict[str, Any]:
        """Return the content of `trials.json`."""
        tasks: dict[str, Any] = {}
        for trial, result in self.results.items():
            task = tasks.setdefault(trial.task, {"chosen": self.chosen[trial.task], "settings": {}})
            config = trial.config
            setting = task["settings"].setdefault(
                config.number,
                {
                    "number": config.number,
                    "tried": config.tried,
                    "template": config.template.source,
                    "verbalizer": config.verbalizer,
                    "max_length": config.max_length,
                    "trials": [],
                },
            )
            if config.template.source not in setting["template"].split(" | "):  # one of its split
                setting["template"] += f" | {config.template.source}"
            setting["trials"].append(
                {
                    "name": trial.name,
                    "split": trial.split,
                    "seed": trial.seed,
                    "best_epoch": result.best_epoch,
                    "dev_score": result.best_score,
                    **trial.sizes(result),
                }
            )
        for task in tasks.values():
            task["settings"] = list(task["settings"].values())
        return {"tasks": tasks}


class UnitReporter(Protocol):
    """Where the progress of one bank is logged."""

    def log_metrics(self, metrics: Mapping[str, float], epoch: int | None = None) -> None:
        """Log the metrics of an epoch."""


class Reporter(Protocol):
    """Where the progress of a stage is logged."""

    @property
    def run_id(self) -> str:
        """Identifies the run of the stage."""

    def child(self, name: str, params: Mapping[str, Any]) -> AbstractContextManager[UnitReporter]:
        """Open the log of a bank."""

    def echo(self, text: str) -> None:
        """Print a line for the user."""

    def show_progress(self, text: str, done: int, total: int) -> None:
        """Show how far a bank is, in steps."""


# Searches the words of a discrete prompt. Takes model, trial, job, the file for its progress, the
# maximum number of positions in a forward pass, and what is called after each iteration.
Search = Callable[
    [PromptedModel, Trial, TrainingJob, Path, int, Callable[[EpochRecord], None]], TrainingResult
]


@dataclass(frozen=True)
class BankWaits:
    """A report: another process is at the bank."""


@dataclass(frozen=True)
class BankStarted:
    """A report: the bank is trained, or its results are reused."""

    reused: bool


@dataclass(frozen=True)
class EpochEnded:
    """A report: an epoch of the bank's trial at a position."""

    position: int
    record: EpochRecord


@dataclass(frozen=True)
class BankOutcome:
    """What a bank's unit returns.

    Attributes:
        results: of the trials, in their order.
        seconds_reused: that other runs spent on them.
    """

    results: list[TrainingResult]
    seconds_reused: float


@dataclass(frozen=True)
class BankUnit:
    """Trains a bank, resumes it, or reuses its results, in the process that an engine chooses.

    Attributes:
        bank: the trials.
        folder: of the progress; it is locked meanwhile.
        run_id: of the stage's run, for the bank's cost.
        models: see `TrialRunner`, as are runtime and search.
        weights: file to which the tuned weights are linked; None: nowhere.
    """

    bank: Bank
    folder: Path
    run_id: str
    models: ModelCache
    runtime: RuntimeParams
    search: Search | None
    weights: Path | None

    @property
    def processes(self) -> int:
        """How many processes make the training together; a search is by one."""
        return 1 if self.search is not None else self.runtime.gpus_per_training

    def __call__(self, report: Report) -> BankOutcome:
        """Report start, epochs and steps; return the outcome.

        With `weights`, a trial whose weights were deleted or altered is trained again, because its
        results are to be of the weights that are linked.
        """
        with unit_locked(self.folder, lambda: report(BankWaits())):
            results = load_results(self.folder)
            if self.weights is not None and results is not None and not _has_weights(self.folder):
                invalidate(self.folder)
                results = None
            report(BankStarted(reused=results is not None))
            spent_by, spent = read_progress(self.folder / _COST, _cost) or (self.run_id, 0.0)
            if results is None:
                with self._timed(spent):
                    results = self._train(report)
            if self.weights is not None:
                self.weights.unlink(missing_ok=True)  # of an attempt whose machine was lost
                link_or_copy(self.folder / _WEIGHTS, self.weights)
        return BankOutcome(results, spent if spent_by != self.run_id else 0.0)

    def _train(self, report: Report) -> list[TrainingResult]:
        if self.processes == 1:
            return self._train_as(report, ALONE)
        return run_ranks(self.processes, self._train_as, report, device=self.runtime.device)

    def _train_as(self, report: Report, ranks: Ranks) -> list[TrainingResult]:
        """Make one rank's part of the training."""

        def on_epoch(position: int, record: EpochRecord) -> None:
            report(EpochEnded(position, record))
            report(ProgressSaved())  # a search writes its history before

        trials, folder = self.bank.trials, self.folder
        trial = trials[0]
        shards = ranks.count > 1 and self.runtime.shard_model
        model = self.models.get(
            labels=trial.format.classifier_outputs,
            tuned=trial.tuned,
            seed=trial.seed,
            on_host=shards,
        )
        if shards:
            model.shard(choose_device(self.runtime.device), tuned=trial.tuned)
        jobs = [make_job(model, trial) for trial in trials]
        # The passes must be the same in all ranks.
        max_tokens = ranks.least(
            estimate_max_tokens(model, wanted=self.runtime.max_tokens_per_forward)
        )
        if self.search is not None:
            results = [
                self.search(
                    model, trial, job, folder / f"search-{n}.json", max_tokens, partial(on_epoch, n)
                )
                for n, (trial, job) in enumerate(zip(trials, jobs, strict=True))
            ]
        else:
            results = train_bank(
                model,
                jobs,
                self.bank.config,
                folder=folder,
                runtime=self.runtime.model_copy(update={"max_tokens_per_forward": max_tokens}),
                report=report,
                ranks=ranks,
            )
        if ranks.first:
            if trial.tuned:
                write_text(folder / _DIGEST, sha256(folder / _WEIGHTS))
            save_results(folder, results)
        return results

    @contextmanager
    def _timed(self, spent: float) -> Iterator[None]:
        """Record the seconds that the bank took, with those spent on it before."""
        started = time.monotonic()
        try:
            yield
        finally:
            seconds = spent + time.monotonic() - started
            # A full disk must not hide the error of the training.
            with suppress(OSError):
                write_json(self.folder / _COST, {"run": self.run_id, "seconds": seconds})


class _BankLog:
    """The log of a bank: opened by its first report, without what is repeated."""

    def __init__(self, bank: Bank, reporter: Reporter) -> None:
        self._bank = bank
        self._reporter = reporter
        self._stack = ExitStack()
        self._log: UnitReporter | None = None
        self._logged: set[tuple[int, int]] = set()

    def on_report(self, report: Any) -> None:
        """Print and log a report."""
        match report:
            case BankStarted(reused) if self._log is None:
                child = self._reporter.child(self._bank.name, self._bank.params)
                self._log = self._stack.enter_context(child)
                if reused:
                    self._reporter.echo(f"{self._bank.name}: trained before")
            case BankStarted():
                self._reporter.echo(f"{self._bank.name}: its machine was lost; resumed on another")
            case EpochEnded(position, record) if (position, record.epoch) not in self._logged:
                trial = self._bank.trials[position]
                self._reporter.echo(epoch_line(trial.name, record, trial.metric))
                self._log_epoch(position, record)

    def end(self, outcome: Future[BankOutcome]) -> BankOutcome:
        """Log the epochs that were not reported, and end the log; raise what the bank raised."""
        with self._stack:
            ended = outcome.result()
            for position, result in enumerate(ended.results):
                for record in result.history:
                    if (position, record.epoch) not in self._logged:
                        self._log_epoch(position, record)
            return ended

    def stop(self) -> None:
        """End the log of a bank that is stopped before its end."""
        with suppress(SystemExit), self._stack:
            raise SystemExit

    def _log_epoch(self, position: int, record: EpochRecord) -> None:
        assert self._log is not None, "a bank reports its start first"
        trial = self._bank.trials[position]
        suffix = "" if trial.tuned else f"/{trial.name}"
        metrics = epoch_metrics(record, trial.metric)
        self._log.log_metrics({f"{k}{suffix}": v for k, v in metrics.items()}, record.epoch)
        self._logged.add((position, record.epoch))


@dataclass
class TrialRunner:
    """Runs the trials of a stage.

    Attributes:
        models: loads the language model; banks of a frozen one share it.
        unit_folder: returns the folder of a bank's progress, by its name and content.
        reporter: logs the progress.
        engine: runs the banks.
        runtime: the settings that change no result.
        search: of a method with `search`.
        inputs: files and folders that the banks read, relative to the current folder.
        seconds_reused: seconds that other runs spent on the banks that are reused.
    """

    models: ModelCache
    unit_folder: Callable[[str, Mapping[str, Any]], Path]
    reporter: Reporter
    engine: Engine
    runtime: RuntimeParams
    search: Search | None = None
    inputs: tuple[Path, ...] = ()
    seconds_reused: float = field(init=False, default=0.0)

    def run(
        self, trials: Sequence[Trial], *, select: bool, by_split: bool = False
    ) -> TrialSelection:
        """Train every trial, or reuse its result; dev selects a setting of each task.

        Args:
            trials: with different names; those of one task and setting next to each other.
            select: whether the setting with the best mean dev score over splits and seeds is
                selected (the first, if several are equal); if not, all trials are kept. The
                weights of tuned models that can no longer be selected are deleted at once.
            by_split: whether each split selects its own setting.

        Source: FewNLU (arXiv 2109.12742), section 3.3: hyper-parameters by the mean dev score over
        splits; LM-BFF (arXiv 2012.15723), section 3: on each split by its own dev set.
        """
        results: dict[Trial, TrainingResult] = {}
        deleted: set[Trial] = set()
        chosen: Mapping[str, Chosen] = {}
        banks = group_trials(trials)
        logs = {bank.name: _BankLog(bank, self.reporter) for bank in banks}
        try:
            for bank, outcome in self._run_units(
                {bank.name: (bank, None) for bank in banks},
                lambda name, report: logs[name].on_report(report),
            ):
                ended = logs.pop(bank.name).end(outcome)
                results |= zip(bank.trials, ended.results, strict=True)
                self.seconds_reused += ended.seconds_reused
                if not select:
                    continue
                chosen, rejected = select_settings(trials, results, by_split=by_split)
                for trial in rejected:
                    if trial.tuned and trial not in deleted:
                        self._delete_weights(trial)
                        deleted.add(trial)
        finally:
            for log in logs.values():
                log.stop()
        return TrialSelection(
            {trial: results[trial] for trial in trials},
            {trial.task: chosen.get(trial.task) for trial in trials},
        )

    def save_weights(self, selection: TrialSelection, out: Path) -> TrialSelection:
        """Put the tuned weights of the trials that are kept, if any, into a folder.

        An earlier run that selected another setting may have deleted the weights, and an edit of
        the folder's file in place alters them, because they are linked. The trial is then trained
        again, and its new result replaces the one that belonged to the old weights.

        Returns:
            The selection with the results that belong to the weights.
        """
        results = dict(selection.results)
        banks = group_trials([trial for trial in selection.kept if trial.tuned])
        for bank, outcome in self._run_units(
            {bank.name: (bank, weights_file(out, bank.trials[0].name)) for bank in banks},
            lambda *_: None,
        ):
            results |= zip(bank.trials, outcome.result().results, strict=True)
        return TrialSelection(results, selection.chosen)

    def _run_units(
        self,
        banks: Mapping[str, tuple[Bank, Path | None]],
        on_report: Callable[[str, Any], None],
    ) -> Iterator[tuple[Bank, Future[BankOutcome]]]:
        """Run the units of banks, which are given by name with their file of weights."""
        steps: dict[str, Progress] = {}

        def receive(name: str, report: Any) -> None:
            if isinstance(report, Progress):
                steps[name] = report
                shown = name if len(steps) == 1 else f"{len(steps)} units"
                done = sum(step.done for step in steps.values())
                total = sum(step.total for step in steps.values())
                self.reporter.show_progress(shown, done, total)
            elif isinstance(report, BankWaits):
                self._say_waiting(name)
            else:
                on_report(name, report)

        units = [self._unit(bank, weights) for bank, weights in banks.values()]
        for name, outcome in self.engine.run(units, receive):
            steps.pop(name, None)
            yield banks[name][0], outcome

    def _unit(self, bank: Bank, weights: Path | None) -> Unit:
        # Relative: the machine that runs it may have the files elsewhere.
        folder = Path(os.path.relpath(self.unit_folder(bank.name, bank.content)))
        training = BankUnit(
            bank, folder, self.reporter.run_id, self.models, self.runtime, self.search, weights
        )
        return Unit(
            bank.name,
            training,
            training.processes,
            reads=self.inputs,
            folder=folder,
            writes=() if weights is None else (weights,),
            cost=bank.cost,
        )

    def _delete_weights(self, trial: Trial) -> None:
        """Delete the weights of a trial that will not be evaluated; its result stays."""
        (bank,) = group_trials([trial])
        folder = self.unit_folder(bank.name, bank.content)
        with unit_locked(folder, lambda: self._say_waiting(bank.name)):
            (folder / _WEIGHTS).unlink(missing_ok=True)

    def _say_waiting(self, name: str) -> None:
        self.reporter.echo(f"{name}: another process is training it; waiting")


def _cost(file: Path) -> tuple[str, float]:
    """Read the run that spent the most recent seconds on a bank, and the seconds of all."""
    cost = read_json(file)
    return str(cost["run"]), float(cost["seconds"])


def group_trials(trials: Sequence[Trial]) -> list[Bank]:
    """Group trials into banks, in the order of their first trials; see `prompts_per_unit`."""
    banks: dict[str, list[Trial]] = {}
    configs: list[MethodParams] = []
    for trial in trials:
        config = trial.config.training
        if config not in configs:
            configs.append(config)
        bank = f"bank-{configs.index(config) + 1}/seed-{trial.seed}"
        banks.setdefault(trial.name if trial.tuned else bank, []).append(trial)
    return [part for name, members in banks.items() for part in _cut(Bank(name, members))]


def _cut(bank: Bank) -> list[Bank]:
    """Cut a bank into units of consecutive trials, by `params.yaml` alone."""
    size = bank.config.prompts_per_unit
    if size is None or bank.trials[0].tuned:
        return [bank]
    starts = range(0, len(bank.trials), size)
    return [
        Bank(f"{bank.name}/unit-{number}", bank.trials[start : start + size])
        for number, start in enumerate(starts, 1)
    ]


def select_settings(
    trials: Sequence[Trial], results: Mapping[Trial, TrainingResult], *, by_split: bool = False
) -> tuple[Mapping[str, Chosen], list[Trial]]:
    """Select each task's setting with the best mean dev score over splits and seeds.

    Settings with a trial that has no result yet are ignored.

    Returns:
        Task -> number of the setting, the first if several are equal, or with `by_split` split ->
        number; and the trials of the settings that were not selected.
    """
    if not by_split:
        return _select_settings(trials, results)
    of_splits: dict[str, dict[int, int]] = {}
    rejected: list[Trial] = []
    for split in dict.fromkeys(trial.split for trial in trials):
        chosen, others = _select_settings([t for t in trials if t.split == split], results)
        for task, number in chosen.items():
            of_splits.setdefault(task, {})[split] = number
        rejected += others
    return of_splits, rejected


def _select_settings(
    trials: Sequence[Trial], results: Mapping[Trial, TrainingResult]
) -> tuple[dict[str, int], list[Trial]]:
    groups: dict[tuple[str, int], list[Trial]] = {}
    for trial in trials:
        groups.setdefault((trial.task, trial.config.number), []).append(trial)
    complete = {key: own for key, own in groups.items() if all(t in results for t in own)}
    means = {
        key: statistics.fmean(results[trial].best_score for trial in own)
        for key, own in complete.items()
    }
    chosen: dict[str, int] = {}
    for task, number in means:
        if task not in chosen or means[task, number] > means[task, chosen[task]]:
            chosen[task] = number
    rejected = [t for (task, n), own in complete.items() if chosen[task] != n for t in own]
    return chosen, rejected


def make_job(model: PromptedModel, trial: Trial) -> TrainingJob:
    """Encode the train and dev examples of a trial.

    Raises:
        DataError: no train or no dev example has an answer that is one token of the model.
        TemplateError: the template or the verbalizer does not fit the model, or the template has
            no words to start from.
    """
    task, template, examples = trial.data.task, trial.config.template, trial.data.examples
    if task.objects:
        train_set = written_out(model, trial.format, examples["train"])
    else:
        train_set = build_dataset(model, trial.format, examples["train"], max_choices=_MAX_CHOICES)
    dev_set = build_dataset(model, trial.format, examples["dev"])
    for split, dataset in (("train", train_set), ("dev", dev_set)):
        if not dataset.rows:
            raise DataError(
                f"{trial.task}: no {split} example has an answer that is one token of the model; "
                "use another model or leave it out"
            )
    rows = [row for example in train_set.rows for row in example.rows]
    if template.prompt_tokens and all(max(row.slots) == NO_SLOT for row in rows):
        raise TemplateError(
            f"{trial.task}, template {template.source!r}: all prompt tokens follow {{mask}}, where "
            "a causal model never sees them; put one before it, or use a masked model"
        )
    prompt = trial.config.training.prompt
    from_template = prompt is not None and prompt.start == "manual"
    dev_examples = [examples["dev"][i] for i in dev_set.kept_indices]
    return TrainingJob(
        name=trial.task,
        trial=trial.name,
        seed=trial.seed,
        prompt_tokens=template.prompt_tokens,
        train=train_set,
        dev=dev_set,
        score=partial(_dev_score, task, dev_examples),
        start_words=nearest_words(template, model.codec) if from_template else [],
        open_vocabulary=task.vocabulary is not None and not task.objects,
    )


def _dev_score(task: Task, examples: Sequence[Example], answers: Tensor, targets: Tensor) -> float:
    return task_score(score_answers(task, examples, answers, targets))


def train_bank(
    model: PromptedModel,
    jobs: Sequence[TrainingJob],
    config: MethodParams,
    *,
    folder: Path,
    runtime: RuntimeParams,
    report: Report,
    ranks: Ranks = ALONE,
) -> list[TrainingResult]:
    """Train jobs together, as many at a time as fit in memory.

    Args:
        model: the language model.
        jobs: one, if the model is tuned.
        config: see `train`.
        folder: of the progress. A call with the same arguments resumes from an earlier one's.
        runtime: tokens per forward pass, and seconds between checkpoints.
        report: receives each `EpochEnded`, a `ProgressSaved` after each checkpoint, and the
            `Progress` of the jobs that train at a time.
        ranks: see `train`.
    """

    def on_epoch(start: int, position: int, record: EpochRecord) -> None:
        report(EpochEnded(start + position, record))

    size = len(jobs)
    if config.prompt is not None and config.model is None:
        tokens = max(job.prompt_tokens for job in jobs)
        size = ranks.least(estimate_bank_size(model, config.prompt.encoder, tokens))
    results: list[TrainingResult] = []
    for start in range(0, len(jobs), size):
        checkpoint = folder / _CHECKPOINTS / f"{start}-{start + size}.pt"
        checkpoint.parent.mkdir(exist_ok=True)
        results += train(
            model,
            jobs[start : start + size],
            config,
            max_tokens_per_forward=int(runtime.max_tokens_per_forward),
            best_checkpoint_path=folder / _WEIGHTS,
            checkpoint=Checkpoint(
                checkpoint,
                seconds=runtime.checkpoint_seconds,
                on_save=lambda: report(ProgressSaved()),
            ),
            on_epoch=partial(on_epoch, start),
            on_step=lambda done, total: report(Progress(done, total)),
            ranks=ranks,
        )
    return results


def estimate_bank_size(model: PromptedModel, encoder: str, tokens: int) -> int:
    """Return how many prompts may train together, by the memory that their encoders need.

    Args:
        model: the language model, for its device.
        encoder: `lstm`, `mlp` or `embedding`.
        tokens: prompt tokens of the longest prompt.
    """
    with torch.device("meta"):
        size = model.embedding_size
        weights = PromptEncoder(encoder, max(1, tokens), size).parameters()
    numbers = _NUMBERS_PER_WEIGHT * sum(parameter.numel() for parameter in weights)
    available = _BANK_SHARE * total_memory(model.device)
    return max(1, int(available / (numbers * torch.float32.itemsize)))


def save_results(folder: Path, results: Sequence[TrainingResult]) -> None:
    """Save the results of a bank that is finished."""
    states = [result.state_dict() for result in results]
    Checkpoint(folder / _RESULTS, seconds=0).save({"results": states})


def load_results(folder: Path) -> list[TrainingResult] | None:
    """Return the results of a bank; None if it is not finished."""
    saved = Checkpoint(folder / _RESULTS, seconds=0).load("results")
    if saved is None:
        return None
    return [TrainingResult.from_state_dict(state) for state in saved["results"]]


def _has_weights(folder: Path) -> bool:
    """Whether a bank's weights are there as they were trained; earlier versions kept no digest."""
    if not (folder / _WEIGHTS).exists():
        return False
    digest = folder / _DIGEST
    return not digest.exists() or digest.read_bytes() == sha256(folder / _WEIGHTS).encode()


def invalidate(folder: Path) -> None:
    """Delete the results and weights of a bank, so that it is trained again.

    The results go last: until then, a call that was killed is repeated.
    """
    for checkpoint in (folder / _CHECKPOINTS).glob("*.pt"):
        checkpoint.unlink()
    for name in (_WEIGHTS, _RESULTS):
        (folder / name).unlink(missing_ok=True)


def epoch_metrics(record: EpochRecord, metric: str) -> dict[str, float]:
    """Return an epoch's metrics under their names in MLflow; `metric` names the dev score."""
    values = {"dev/loss": record.dev_loss, f"dev/{metric}": record.dev_score}
    return values if record.train_loss is None else {**values, "train/loss": record.train_loss}


def epoch_line(name: str, record: EpochRecord, metric: str) -> str:
    """Return an epoch's metrics as a line for the terminal."""
    values = sorted(epoch_metrics(record, metric).items())
    return f"{name} epoch {record.epoch}  " + "  ".join(f"{k} {v:.4f}" for k, v in values)
