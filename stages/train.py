"""Train the prompts of one method, the model, or both; dev chooses the epoch."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from pipeline.config.schema import (
    LamaMethod,
    MethodParams,
    Params,
    SearchParams,
    StabilityParams,
    SuperGlueMethod,
    load_params,
)
from pipeline.data.lama import GRADIENT, LamaSplits, read_lama
from pipeline.errors import DataError
from pipeline.evaluation.metrics import accuracy, mean, mean_and_std
from pipeline.files import atomic_dir, link_or_copy, write_csv, write_json
from pipeline.history.results import SECONDS_REUSED
from pipeline.models.language_model import PromptedModel
from pipeline.models.memory import estimate_max_rows
from pipeline.prompts.store import StoredPrompt, save_prompts, weights_file
from pipeline.prompts.template import Template
from pipeline.search.discrete import Outcome, choose_published, search_prompt, usable_templates
from pipeline.tasks.lama import POSITIONS, apply_layout, manual_template
from pipeline.training.loop import EpochRecord, TrainingJob
from pipeline.training.problems import lama_problem
from pipeline.training.selection import run_units
from stages.loading import load_network
from stages.runtime import (
    ModelFolder,
    Out,
    ParamsFile,
    RunningStage,
    SplitsFolder,
    TaskName,
    say,
    stage,
)
from stages.task_training import METRIC, TaskTraining, described
from stages.training import epoch_line, epoch_metrics, train_problems

app = typer.Typer(help=__doc__, add_completion=False, no_args_is_help=True)

_P_AT_1 = "p_at_1"

Curves = Annotated[Path, typer.Option("--curves", help="CSV file to write, one row an epoch.")]


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
    with stage("train", "lama", "", method) as this:
        params = load_params(params_file)
        data = _read_lama(this, params, splits)
        load = partial(
            load_network, this, params, model, tuned="model" in params.lama.training[method].tune
        )
        asked = {
            name: (name, manual_template(params.lama.templates.get(name, relation.template)))
            for name, relation in data.relations.items()
        }
        _lama(this, params, method, data, asked, load(), load, out=out, curves=curves)


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
    with stage("train", "stability", "", method) as this:
        params = load_params(params_file)
        data = _read_lama(this, params, splits)
        wanted = params.lama.stability
        load = partial(
            load_network, this, params, model, tuned="model" in params.lama.training[method].tune
        )
        network = load()
        asked = {
            f"{relation}/{number}": (relation, template)
            for relation in wanted.relations
            for number, template in enumerate(_paraphrases(network, wanted, data, relation), 1)
        }
        _lama(this, params, method, data, asked, network, load, out=out, curves=curves)


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
    """Train the model, and with p-tuning a prompt too, for one task."""
    with stage("train", "superglue", task, method) as this:
        params = load_params(params_file)
        this.log_dataset(f"{task}/{params.superglue.source}", splits, "training")
        training = TaskTraining(this, params, task, method, model, splits)
        selection = run_units(
            training.units,
            training.train,
            select=params.superglue.selection == "dev",
            discard=training.discard,
        )
        with atomic_dir(out) as folder:
            kept = {
                unit: training.keep(unit, selection.trained[unit], folder)
                for unit in selection.kept
            }
            selection = replace(selection, trained={**selection.trained, **kept})
            prompts = {unit.name: training.prompt(unit, own) for unit, own in kept.items()}
            save_prompts(folder, method, prompts)
            write_json(folder / "units.json", described(training.settings, selection))
        _write_curves(
            this,
            curves,
            METRIC,
            [
                ({"setting": unit.setting, "split": unit.split, "seed": unit.seed}, own.history)
                for unit, own in selection.trained.items()
            ],
        )
        this.run.log_file(out / "prompts.json")
        this.run.log_file(out / "units.json")
        this.run.log_metrics(
            {
                "trainings": len(selection.trained),
                SECONDS_REUSED: round(training.seconds_reused, 1),
            }
            | mean_and_std(f"dev/{METRIC}", [own.best_score for own in kept.values()])
        )


def _read_lama(this: RunningStage, params: Params, splits: Path) -> LamaSplits:
    this.log_dataset(f"lama/{params.lama.source}", splits, "training")
    return read_lama(splits, ["train", "dev"])


def _paraphrases(
    model: PromptedModel, wanted: StabilityParams, data: LamaSplits, relation: str
) -> list[Template]:
    """Return a relation's manual templates that this model can be asked."""
    if isinstance(wanted.templates, str):
        texts = _published(data, wanted.templates, "lama.stability.templates", relation)
    else:
        texts = wanted.templates[relation]
    usable = usable_templates(model, texts)
    if len(usable) < 2:
        raise DataError(
            f"{relation}: {len(usable)} of {len(texts)} templates can be asked of this model; "
            "stability needs two. Change lama.stability.templates or leave the relation out"
        )
    if len(usable) < len(texts):
        say(f"{relation}: {len(texts) - len(usable)} templates name the subject last; left out")
    return usable[: wanted.templates_per_relation]


def _published(data: LamaSplits, collection: str, key: str, relation: str) -> list[str]:
    if collection not in data.prompts:
        choices = ", ".join(data.prompts)
        raise DataError(f"{key}: no collection '{collection}' in this data; it has {choices}")
    if relation not in data.prompts[collection]:
        choices = ", ".join(data.prompts[collection])
        raise DataError(f"{key}: '{collection}' has no template for {relation}; it has {choices}")
    return data.prompts[collection][relation]


def _lama(
    this: RunningStage,
    params: Params,
    method: LamaMethod,
    data: LamaSplits,
    asked: Mapping[str, tuple[str, Template]],
    network: PromptedModel,
    load: Callable[[], PromptedModel],
    *,
    out: Path,
    curves: Path,
) -> None:
    """Train one prompt, or one model, for each name: its relation and its manual template."""
    settings = params.lama.training[method]
    layout = params.lama.prompts[method]
    rows = estimate_max_rows(network, POSITIONS, wanted=params.runtime.max_rows_per_forward)
    templates = {
        name: apply_layout(layout, manual, masked=network.masked)
        for name, (_, manual) in asked.items()
    }

    def problem(name: str) -> TrainingJob:
        facts = data.facts[asked[name][0]]
        return lama_problem(network, name, templates[name], facts, data.vocabulary)

    if settings.search is None:
        trained = train_problems(
            params, settings, network, list(map(problem, asked)),
            score=accuracy, loss_over_vocabulary=True, max_rows_per_forward=rows, seed=params.seed,
            folder=this.work.folder, load=load, on_epoch=_reporter(this),
        )  # fmt: skip
        outcomes = {
            name: (
                StoredPrompt(templates[name].source, own.vectors, own.best_epoch, own.best_score),
                own.history,
            )
            for name, own in trained.items()
        }
    else:
        outcomes = {
            name: _discrete(
                this, params, settings.search, network, data, problem(name), templates[name], rows
            )
            for name in asked
        }
    _write(this, method, settings, outcomes, out, curves)


def _discrete(
    this: RunningStage,
    params: Params,
    search: SearchParams,
    network: PromptedModel,
    data: LamaSplits,
    problem: TrainingJob,
    template: Template,
    max_rows_per_forward: int,
) -> Outcome:
    """Search the words of a relation's prompt, or choose one that was published."""
    relation = problem.name
    if search.prompts != GRADIENT:
        key = "lama.training.discrete.search.prompts"
        return choose_published(
            network,
            relation,
            _published(data, search.prompts, key, relation),
            data.facts[relation],
            data.vocabulary,
            score=accuracy,
            max_rows_per_forward=max_rows_per_forward,
            on_epoch=_reporter(this),
        )
    return search_prompt(
        network,
        problem,
        template,
        score=accuracy,
        iterations=search.iterations,
        candidates=search.candidates,
        batch=search.batch_size,
        max_rows_per_forward=max_rows_per_forward,
        seed=params.seed,
        checkpoint=this.work.path("search", f"{relation}.json"),
        on_epoch=_reporter(this),
    )


def _reporter(this: RunningStage) -> Callable[[EpochRecord], None]:
    def report(record: EpochRecord) -> None:
        say(epoch_line(record.problem, record, _P_AT_1))
        values = epoch_metrics(record, _P_AT_1)
        this.run.log_metrics(
            {f"{name}/{record.problem}": value for name, value in values.items()}, record.epoch
        )

    return report


def _write(
    this: RunningStage,
    method: str,
    settings: MethodParams,
    outcomes: Mapping[str, Outcome],
    out: Path,
    curves: Path,
) -> None:
    """Write what was trained on LAMA and its curves, all at once at the end."""
    with atomic_dir(out) as folder:
        save_prompts(folder, method, {name: stored for name, (stored, _) in outcomes.items()})
        for name in outcomes if "model" in settings.tune else ():
            link_or_copy(weights_file(this.work.folder, name), weights_file(folder, name))
    histories = [({"relation": name}, history) for name, (_, history) in outcomes.items()]
    _write_curves(this, curves, _P_AT_1, histories)
    this.run.log_file(out / "prompts.json")
    if outcomes:
        scores = [stored.dev_score for stored, _ in outcomes.values()]
        this.run.log_metrics({f"dev/{_P_AT_1}": mean(scores)})


def _write_curves(
    this: RunningStage,
    curves: Path,
    metric: str,
    histories: Sequence[tuple[Mapping[str, Any], Sequence[EpochRecord]]],
) -> None:
    """Write a row for each epoch, behind what tells its training apart."""
    rows = [
        {
            **about,
            "epoch": record.epoch,
            "train_loss": record.train_loss,
            "dev_loss": record.dev_loss,
            f"dev_{metric}": record.dev_score,
        }
        for about, history in histories
        for record in history
    ]
    about = list(histories[0][0]) if histories else ["relation"]
    write_csv(curves, [*about, "epoch", "train_loss", "dev_loss", f"dev_{metric}"], rows)
    this.run.log_file(curves)


if __name__ == "__main__":
    app()
