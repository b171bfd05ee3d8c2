"""Train the prompts of one method, the model, or both; dev chooses the epoch."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from torch import Tensor

from pipeline.data.lama import GRADIENT, LamaSplits, read_lama
from pipeline.data.superglue import read_examples
from pipeline.errors import DataError
from pipeline.evaluation.metrics import accuracy, answered, mean, task_metrics, task_score
from pipeline.files import link_or_copy, staged_folder, write_csv
from pipeline.models.answers import AnswerModel
from pipeline.models.capacity import rows_that_fit
from pipeline.models.loading import load_model
from pipeline.models.questions import classifier_labels
from pipeline.params import (
    LamaMethod,
    MethodParams,
    Optimisation,
    Params,
    SearchParams,
    StabilityParams,
    SuperGlueMethod,
    SuperGlueTask,
    load_params,
)
from pipeline.prompts.store import StoredPrompt, save_prompts, weights_file
from pipeline.prompts.template import Template
from pipeline.tasks import TASKS, task_template, task_verbalizer
from pipeline.tasks.lama import POSITIONS, lay_out, manual_template
from pipeline.training.discrete import Outcome, choose_published, search_prompt, usable_templates
from pipeline.training.loop import EpochRecord, Problem, Score, Trained
from pipeline.training.optimisers import OptimiserSettings
from pipeline.training.problems import lama_problem, task_problem
from pipeline.training.units import train_units
from stages.running import (
    ModelFolder,
    Out,
    ParamsFile,
    RunningStage,
    SplitsFolder,
    say,
    stage,
)

app = typer.Typer(help=__doc__, add_completion=False, no_args_is_help=True)

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
        load = partial(_load, this, params, model, params.lama.training[method])
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
        load = partial(_load, this, params, model, params.lama.training[method])
        network = load()
        asked = {
            f"{relation}/{number}": (relation, template)
            for relation in wanted.relations
            for number, template in enumerate(_paraphrases(network, wanted, data, relation), 1)
        }
        _lama(this, params, method, data, asked, network, load, out=out, curves=curves)


@app.command()
def superglue(
    task: SuperGlueTask,
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
        kind = TASKS[task]
        examples = {
            split: read_examples(splits / f"{split}.jsonl", kind.examples)
            for split in ("train", "dev")
        }
        this.log_dataset(f"{task}/{params.superglue.source}", splits, "training")
        settings = params.superglue.training[method]
        prompts = params.superglue.prompts[task]
        classifier = method == "classifier"
        template = task_template(kind, prompts.templates[method], classifier=classifier)
        verbalizer = None if classifier else task_verbalizer(kind, prompts.verbalizer)
        labels = classifier_labels(kind, template) if classifier else None
        load = partial(_load, this, params, model, settings, labels=labels)
        network = load()
        problem = task_problem(
            network,
            kind,
            template,
            examples,
            verbalizer=verbalizer,
            max_length=prompts.max_length,
            classifier=classifier,
        )

        def score(log_probs: Tensor, _: Tensor) -> float:
            return task_score(task_metrics(kind, examples["dev"], answered(kind, log_probs)))

        rows = rows_that_fit(network, prompts.max_length, wanted=params.runtime.rows_per_pass)
        trained = _train(
            this, params, settings, network, [problem],
            score=score, metric="score", loss_over_vocabulary=False, rows_per_pass=rows, load=load,
        )[task]  # fmt: skip
        stored = StoredPrompt(
            template.source,
            trained.vectors,
            trained.best_epoch,
            trained.best_score,
            verbalizer,
            prompts.max_length,
        )
        outcomes: dict[str, Outcome] = {task: (stored, trained.history)}
        _write(this, method, settings, outcomes, out, curves, unit="task", metric="score")


def _read_lama(this: RunningStage, params: Params, splits: Path) -> LamaSplits:
    this.log_dataset(f"lama/{params.lama.source}", splits, "training")
    return read_lama(splits, ["train", "dev"])


def _paraphrases(
    model: AnswerModel, wanted: StabilityParams, data: LamaSplits, relation: str
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
    network: AnswerModel,
    load: Callable[[], AnswerModel],
    *,
    out: Path,
    curves: Path,
) -> None:
    """Train one prompt, or one model, for each name: its relation and its manual template."""
    settings = params.lama.training[method]
    layout = params.lama.prompts[method]
    rows = rows_that_fit(network, POSITIONS, wanted=params.runtime.rows_per_pass)
    templates = {
        name: lay_out(layout, manual, masked=network.masked) for name, (_, manual) in asked.items()
    }

    def problem(name: str) -> Problem:
        facts = data.facts[asked[name][0]]
        return lama_problem(network, name, templates[name], facts, data.vocabulary)

    if settings.search is None:
        trained = _train(
            this, params, settings, network, list(map(problem, asked)),
            score=accuracy, metric="p_at_1", loss_over_vocabulary=True, rows_per_pass=rows,
            load=load,
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
    _write(this, method, settings, outcomes, out, curves, unit="relation", metric="p_at_1")


def _discrete(
    this: RunningStage,
    params: Params,
    search: SearchParams,
    network: AnswerModel,
    data: LamaSplits,
    problem: Problem,
    template: Template,
    rows_per_pass: int,
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
            rows_per_pass=rows_per_pass,
            on_epoch=_reporter(this, "p_at_1"),
        )
    return search_prompt(
        network,
        problem,
        template,
        score=accuracy,
        iterations=search.iterations,
        candidates=search.candidates,
        batch=search.batch,
        rows_per_pass=rows_per_pass,
        seed=params.seed,
        checkpoint=this.work.path("search", f"{relation}.json"),
        on_epoch=_reporter(this, "p_at_1"),
    )


def _load(
    this: RunningStage,
    params: Params,
    folder: Path,
    method: MethodParams,
    *,
    labels: int | None = None,
) -> AnswerModel:
    this.run.set_tags({"model": params.model.name})
    return load_model(
        folder,
        device=params.runtime.device,
        dtype=params.model.dtype,
        threads=params.runtime.threads,
        tuned="model" in method.tune,
        labels=labels,
        seed=params.seed,
    )


def _train(
    this: RunningStage,
    params: Params,
    method: MethodParams,
    network: AnswerModel,
    problems: Sequence[Problem],
    *,
    score: Score,
    metric: str,
    loss_over_vocabulary: bool,
    rows_per_pass: int,
    load: Callable[[], AnswerModel],
) -> dict[str, Trained]:
    return train_units(
        network,
        problems,
        load=load,
        folder=this.work.folder,
        checkpoint_seconds=params.runtime.checkpoint_seconds,
        score=score,
        loss_over_vocabulary=loss_over_vocabulary,
        epochs=method.epochs,
        batch=method.batch,
        patience=method.patience,
        encoder=method.prompt.encoder if method.prompt else None,
        dropout=method.prompt.dropout if method.prompt else 0.0,
        prompt_optimiser=_settings(method.prompt),
        model_optimiser=_settings(method.model),
        rows_per_pass=rows_per_pass,
        seed=params.seed,
        on_epoch=_reporter(this, metric),
    )


def _settings(section: Optimisation | None) -> OptimiserSettings | None:
    if section is None:
        return None
    return OptimiserSettings(
        **{f.name: getattr(section, f.name) for f in fields(OptimiserSettings)}
    )


def _reporter(this: RunningStage, metric: str) -> Callable[[EpochRecord], None]:
    def report(record: EpochRecord) -> None:
        values = {"dev/loss": record.dev_loss, f"dev/{metric}": record.dev_score}
        if record.train_loss is not None:
            values["train/loss"] = record.train_loss
        shown = "  ".join(f"{name} {value:.4f}" for name, value in sorted(values.items()))
        say(f"{record.problem} epoch {record.epoch}  {shown}")
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
    *,
    unit: str,
    metric: str,
) -> None:
    """Write what was trained and its curves, all at once at the end."""
    with staged_folder(out) as folder:
        save_prompts(folder, method, {name: stored for name, (stored, _) in outcomes.items()})
        for name in outcomes if "model" in settings.tune else ():
            link_or_copy(weights_file(this.work.folder, name), weights_file(folder, name))
    rows = [
        {
            unit: record.problem,
            "epoch": record.epoch,
            "train_loss": record.train_loss,
            "dev_loss": record.dev_loss,
            f"dev_{metric}": record.dev_score,
        }
        for _, history in outcomes.values()
        for record in history
    ]
    write_csv(curves, [unit, "epoch", "train_loss", "dev_loss", f"dev_{metric}"], rows)
    this.run.log_file(curves)
    this.run.log_file(out / "prompts.json")
    if outcomes:
        scores = [stored.dev_score for stored, _ in outcomes.values()]
        this.run.log_metrics({f"dev/{metric}": mean(scores)})


if __name__ == "__main__":
    app()
