"""Train the prompts of one method, the model, or both; dev chooses the epoch."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Annotated

import typer

from pipeline.data.lama import read_lama
from pipeline.data.superglue import read_splits
from pipeline.evaluation.metrics import accuracy, mean
from pipeline.files import staged_folder, write_csv
from pipeline.models.answers import AnswerModel
from pipeline.models.loading import load_model
from pipeline.params import (
    LamaMethod,
    MethodParams,
    Optimisation,
    Params,
    SuperGlueMethod,
    SuperGlueTask,
    load_params,
)
from pipeline.prompts.store import WEIGHTS, StoredPrompt, save_prompts
from pipeline.prompts.template import parse_template
from pipeline.tasks import TASKS
from pipeline.tasks.lama import manual_template, method_template
from pipeline.training.loop import EpochRecord, Problem, Trained, train
from pipeline.training.optimisers import OptimiserSettings
from pipeline.training.problems import lama_problem, task_problem
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
    """Train a prompt for each relation, all together; the language model stays as it is."""
    with stage("train", "lama", "", method) as this:
        params = load_params(params_file)
        data = read_lama(splits, ["train", "dev"])
        this.log_dataset(f"lama/{params.lama.source}", splits, "training")
        network = _load(this, params, model)
        templates = {
            name: method_template(
                method,
                manual_template(params.lama.templates.get(name, relation.template)),
                **params.lama.prompt_tokens.model_dump(),
            )
            for name, relation in data.relations.items()
        }
        problems = [
            lama_problem(network, name, template, data.facts[name], data.vocabulary)
            for name, template in templates.items()
        ]
        with staged_folder(out) as folder:
            trained = _train(
                this,
                network,
                problems,
                params,
                params.lama.training[method],
                metric="p_at_1",
                loss_over_vocabulary=True,
                weights=folder / WEIGHTS,
            )
            prompts = {
                name: StoredPrompt(
                    templates[name].source, result.vectors, result.best_epoch, result.best_score
                )
                for name, result in trained.items()
            }
            save_prompts(folder, method, prompts)
        _write_curves(this, curves, trained, unit="relation", metric="p_at_1")
        this.run.log_file(out / "prompts.json")


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
        examples = read_splits(splits, ("train", "dev"), fields=kind.fields, labels=kind.labels)
        this.log_dataset(f"{task}/{params.superglue.source}", splits, "training")
        settings = params.superglue.training[method]
        network = _load(this, params, model, tuned="model" in settings.tune)
        prompts = params.superglue.prompts[task]
        template = parse_template(prompts.templates[method], kind.fields)
        problem = task_problem(
            network,
            kind,
            template,
            examples,
            verbalizer=prompts.verbalizer,
            max_length=prompts.max_length,
        )
        with staged_folder(out) as folder:
            trained = _train(
                this,
                network,
                [problem],
                params,
                settings,
                metric="accuracy",
                loss_over_vocabulary=False,
                weights=folder / WEIGHTS,
            )
            stored = StoredPrompt(
                template.source,
                trained[task].vectors,
                trained[task].best_epoch,
                trained[task].best_score,
                prompts.verbalizer,
                prompts.max_length,
            )
            save_prompts(folder, method, {task: stored})
        _write_curves(this, curves, trained, unit="task", metric="accuracy")
        this.run.log_file(out / "prompts.json")


def _load(this: RunningStage, params: Params, folder: Path, *, tuned: bool = False) -> AnswerModel:
    this.run.set_tags({"model": params.model.name})
    return load_model(
        folder,
        device=params.runtime.device,
        dtype=params.model.dtype,
        threads=params.runtime.threads,
        tuned=tuned,
    )


def _train(
    this: RunningStage,
    network: AnswerModel,
    problems: Sequence[Problem],
    params: Params,
    method: MethodParams,
    *,
    metric: str,
    loss_over_vocabulary: bool,
    weights: Path,
) -> dict[str, Trained]:
    return train(
        network,
        problems,
        score=accuracy,
        loss_over_vocabulary=loss_over_vocabulary,
        epochs=method.epochs,
        batch=method.batch,
        patience=method.patience,
        encoder=method.prompt.encoder if method.prompt else None,
        dropout=method.prompt.dropout if method.prompt else 0.0,
        prompt_optimiser=_settings(method.prompt),
        model_optimiser=_settings(method.model),
        best_weights=weights,
        rows_per_pass=params.runtime.rows_per_pass,
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


def _write_curves(
    this: RunningStage, path: Path, trained: Mapping[str, Trained], *, unit: str, metric: str
) -> None:
    rows = [
        {
            unit: record.problem,
            "epoch": record.epoch,
            "train_loss": record.train_loss,
            "dev_loss": record.dev_loss,
            f"dev_{metric}": record.dev_score,
        }
        for result in trained.values()
        for record in result.history
    ]
    write_csv(path, [unit, "epoch", "train_loss", "dev_loss", f"dev_{metric}"], rows)
    this.run.log_file(path)
    if trained:
        scores = [result.best_score for result in trained.values()]
        this.run.log_metrics({f"dev/{metric}": mean(scores)})


if __name__ == "__main__":
    app()
