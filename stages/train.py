"""Train the prompts of one method, the model, or both; dev selects the epoch and the setting."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from pipeline.config.grid import TrialConfig, lama_configs, own_configs, superglue_configs
from pipeline.config.schema import (
    LamaMethod,
    Params,
    StabilityParams,
    SuperGlueMethod,
    load_params,
)
from pipeline.data.lama import GRADIENT, OBJECTS, LamaSplits, read_lama
from pipeline.data.superglue import read_examples
from pipeline.engine.units import open_engine
from pipeline.errors import DataError, TemplateError
from pipeline.evaluation.metrics import mean_and_std, score_points
from pipeline.files import atomic_dir, sha256, write_csv, write_json
from pipeline.history.results import SECONDS_REUSED
from pipeline.models.language_model import PromptedModel
from pipeline.models.loading import ModelCache, is_masked, model_loader
from pipeline.prompts.store import save_prompts
from pipeline.prompts.template import Template
from pipeline.search.discrete import choose_published, search_prompt, usable_templates
from pipeline.tasks import Task, get_task
from pipeline.tasks.lama import fact_examples, lama_task, manual_template
from pipeline.tasks.own import DEFINITION, read_definition
from pipeline.training.jobs import Search, Trial, TrialData, TrialRunner, TrialSelection
from pipeline.training.loop import EpochRecord, TrainingJob, TrainingResult
from stages.runtime import (
    ModelFolder,
    Out,
    OwnTaskName,
    ParamsFile,
    RunningStage,
    SplitsFolder,
    TaskName,
    echo,
    stage,
)

app = typer.Typer(help=__doc__, add_completion=False, no_args_is_help=True)

Curves = Annotated[Path, typer.Option("--curves", help="CSV file to write, one row per epoch.")]


@app.command()
def lama(
    method: LamaMethod,
    model: ModelFolder,
    splits: SplitsFolder,
    out: Out,
    curves: Curves,
    params_file: ParamsFile = Path("params.yaml"),
) -> None:
    """Train a prompt for each relation, all together, or a model for each."""
    with stage("train", "lama", "", method) as ctx:
        params = load_params(params_file)
        ctx.log_dataset(f"lama/{params.lama.source}", splits, "training")
        data, masked = read_lama(splits, ["train", "dev"]), is_masked(model)
        trials: list[Trial] = []
        for name, relation in data.relations.items():
            text = params.lama.templates.get(name, relation.template)
            try:
                manual = manual_template(text)
            except TemplateError as error:
                raise TemplateError(f"{name}: {error}") from None
            configs = lama_configs(params.lama, name, method, manual, masked=masked)
            trials += _trials(name, configs, {1: _facts(data, name, splits)}, params.lama.seeds)
        paths, search = _Paths(model, splits, out, curves), partial(_search_words, data)
        selection = params.lama.selection
        _train(ctx, params, method, trials, paths, selection=selection, search=search)


@app.command()
def stability(
    method: LamaMethod,
    model: ModelFolder,
    splits: SplitsFolder,
    out: Out,
    curves: Curves,
    params_file: ParamsFile = Path("params.yaml"),
) -> None:
    """Train a prompt for each of several manual templates of a relation."""
    with stage("train", "stability", "", method) as ctx:
        params = load_params(params_file)
        ctx.log_dataset(f"lama/{params.lama.source}", splits, "training")
        data, masked = read_lama(splits, ["train", "dev"]), is_masked(model)
        trials: list[Trial] = []
        for relation in params.lama.stability.relations:
            facts = {1: _facts(data, relation, splits)}
            templates = _paraphrases(params.lama.stability, data, relation, masked=masked)
            for number, manual in enumerate(templates, 1):
                configs = lama_configs(
                    params.lama, relation, method, manual, masked=masked, grid=False
                )
                trials += _trials(f"{relation}/{number}", configs, facts, params.lama.seeds)
        paths, search = _Paths(model, splits, out, curves), partial(_search_words, data)
        _train(ctx, params, method, trials, paths, selection="dev", search=search)


@app.command()
def superglue(
    task: TaskName,
    method: SuperGlueMethod,
    model: ModelFolder,
    splits: SplitsFolder,
    out: Out,
    curves: Curves,
    params_file: ParamsFile = Path("params.yaml"),
) -> None:
    """Train the model, the prompt, or both, for one task."""
    with stage("train", "superglue", task, method) as ctx:
        params = load_params(params_file)
        glue, paths = params.superglue, _Paths(model, splits, out, curves)
        configs = superglue_configs(glue, task, method, masked=is_masked(model))
        ctx.log_dataset(f"{task}/{glue.source}", splits, "training")
        trials = _task_trials(get_task(task), method, configs, splits, glue.seeds, {})
        _train(ctx, params, method, trials, paths, selection=glue.selection)


@app.command()
def tasks(
    task: OwnTaskName,
    method: SuperGlueMethod,
    model: ModelFolder,
    splits: SplitsFolder,
    out: Out,
    curves: Curves,
    params_file: ParamsFile = Path("params.yaml"),
) -> None:
    """Train the model, the prompt, or both, for one task of the user."""
    with stage("train", "tasks", task, method) as ctx:
        params, definition = load_params(params_file), read_definition(splits)
        own, paths = params.tasks[task], _Paths(model, splits, out, curves)
        configs = own_configs(params, definition.task, method, masked=is_masked(model))
        ctx.log_dataset(task, splits, "training")
        digests = {DEFINITION: sha256(splits / DEFINITION)}
        trials = _task_trials(definition.task, method, configs, splits, own.seeds, digests)
        _train(ctx, params, method, trials, paths, selection=own.selection)


def _facts(data: LamaSplits, relation: str, splits: Path) -> TrialData:
    """Return the facts of a relation as the examples of a task with an open vocabulary."""
    files = [splits / relation / f"{split}.jsonl" for split in ("train", "dev")]
    names = ["vocabulary.txt", "prompts.json", *([OBJECTS] if data.objects else [])]
    files += [splits / name for name in names]
    return TrialData(
        lama_task(relation, data.vocabulary, data.objects.get(relation, ())),
        {split: fact_examples(facts) for split, facts in data.facts[relation].items()},
        {path.relative_to(splits).as_posix(): sha256(path) for path in files},
    )


def _task_trials(
    task: Task,
    method: str,
    configs: Sequence[TrialConfig],
    splits: Path,
    seeds: Sequence[int],
    digests: Mapping[str, str],
) -> list[Trial]:
    """List the trials of a task with all its splits; `digests` are of files besides these."""
    numbers = sorted(int(path.name) for path in splits.iterdir() if path.is_dir())
    if not numbers:
        raise DataError(f"{splits}: no numbered splits; run `dvc repro` to create them")
    data = {number: _examples(task, splits / str(number), digests) for number in numbers}
    return _trials(task.name, configs, data, seeds, classifier=method == "classifier")


def _examples(task: Task, folder: Path, digests: Mapping[str, str]) -> TrialData:
    files = {split: folder / f"{split}.jsonl" for split in ("train", "dev")}
    return TrialData(
        task,
        {split: read_examples(path, task.examples) for split, path in files.items()},
        {**digests, **{split: sha256(path) for split, path in files.items()}},
    )


def _trials(
    task: str,
    configs: Sequence[TrialConfig],
    data: Mapping[int, TrialData],
    seeds: Sequence[int],
    *,
    classifier: bool = False,
) -> list[Trial]:
    """List the trials of a task. Where nothing is random, the first seed is enough."""
    return [
        Trial(task, config.for_split(split), split, seed, data[split], classifier)
        for config in configs
        for split in data
        for seed in (seeds if _is_random(config) else seeds[:1])
    ]


def _is_random(config: TrialConfig) -> bool:
    search = config.training.search
    return bool(config.training.tune) or (search is not None and search.prompts == GRADIENT)


def _paraphrases(
    params: StabilityParams, data: LamaSplits, relation: str, *, masked: bool
) -> list[Template]:
    """Return the manual templates of a relation that suit the model."""
    if isinstance(params.templates, str):
        texts = _published(data, params.templates, "lama.stability.templates", relation)
    else:
        texts = params.templates[relation]
    usable = usable_templates(texts, masked=masked)
    if len(usable) < 2:
        raise DataError(
            f"{relation}: {len(usable)} of {len(texts)} templates can be used with this model; "
            "stability needs two. Change lama.stability.templates or leave the relation out"
        )
    if len(usable) < len(texts):
        echo(f"{relation}: {len(texts) - len(usable)} templates name the subject last; skipped")
    return usable[: params.templates_per_relation]


def _published(data: LamaSplits, collection: str, key: str, relation: str) -> list[str]:
    if collection not in data.prompts:
        choices = ", ".join(data.prompts)
        raise DataError(f"{key}: no collection '{collection}' in this data; available: {choices}")
    if relation not in data.prompts[collection]:
        choices = ", ".join(data.prompts[collection])
        raise DataError(f"{key}: '{collection}' has no template for {relation}; it has {choices}")
    return data.prompts[collection][relation]


def _search_words(
    data: LamaSplits,
    model: PromptedModel,
    trial: Trial,
    job: TrainingJob,
    checkpoint: Path,
    max_tokens: int,
    on_epoch: Callable[[EpochRecord], None],
) -> TrainingResult:
    """Search the words of a relation's prompt, or select a published one."""
    params = trial.config.training.search
    assert params is not None
    if params.prompts == GRADIENT:
        return search_prompt(
            model,
            job,
            params,
            max_tokens_per_forward=max_tokens,
            checkpoint=checkpoint,
            on_epoch=on_epoch,
        )
    key = "lama.training.discrete.search.prompts"
    texts = _published(data, params.prompts, key, trial.data.task.name)
    return choose_published(
        model, trial, texts, max_tokens_per_forward=max_tokens, on_epoch=on_epoch
    )


@dataclass(frozen=True)
class _Paths:
    """What a stage reads and writes."""

    model: Path
    splits: Path
    out: Path
    curves: Path


def _train(
    ctx: RunningStage,
    params: Params,
    method: str,
    trials: Sequence[Trial],
    paths: _Paths,
    *,
    selection: str,
    search: Search | None = None,
) -> None:
    """Run the trials; write prompts, weights, `trials.json` and curves, all at once at the end."""
    ctx.run.set_tags({"model": params.model.name})
    shared = {"model": params.model.model_dump()}
    with open_engine(params.runtime, ctx.work.folder) as engine:
        runner = TrialRunner(
            ModelCache(model_loader(paths.model, params)),
            partial(ctx.unit_folder, shared=shared, excluded=paths.splits),
            ctx,
            engine,
            params.runtime,
            search if any(trial.config.training.search for trial in trials) else None,
            inputs=(paths.model,),
        )
        by_split = selection == "dev-per-split"
        selected = runner.run(trials, select=selection != "none", by_split=by_split)
        with atomic_dir(paths.out) as folder:
            selected = runner.save_weights(selected, folder)
            prompts = {
                trial.name: trial.stored_prompt(result) for trial, result in selected.kept.items()
            }
            save_prompts(folder, method, prompts)
            write_json(folder / "trials.json", selected.describe())
            # Before the folder is in place: if they cannot be written, nothing is.
            _write_curves(paths.curves, selected, "score" if search is None else "p_at_1")
    for file in (paths.out / "prompts.json", paths.out / "trials.json", paths.curves):
        ctx.run.log_file(file)
    reused = {SECONDS_REUSED: round(runner.seconds_reused, 1)}
    ctx.run.log_metrics({"trainings": len(trials), **reused})
    if prompts:
        points = score_points(selected.dev_rows, "dev_score")
        ctx.run.log_metrics(mean_and_std(f"dev/{trials[0].metric}", points))


def _write_curves(curves: Path, selection: TrialSelection, metric: str) -> None:
    """Write a row for each epoch of each trial; on LAMA with its relation."""
    relation = ["relation"] if metric == "p_at_1" else []
    losses = ["train_loss", "dev_loss", f"dev_{metric}"]
    rows = [
        {
            **dict.fromkeys(relation, trial.task),
            "setting": trial.config.number,
            "split": trial.split,
            "seed": trial.seed,
            "epoch": record.epoch,
            "train_loss": record.train_loss,
            "dev_loss": record.dev_loss,
            f"dev_{metric}": record.dev_score,
        }
        for trial, result in selection.results.items()
        for record in result.history
    ]
    write_csv(curves, [*relation, "setting", "split", "seed", "epoch", *losses], rows)


if __name__ == "__main__":
    app()
