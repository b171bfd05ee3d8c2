"""Evaluate the trained prompts on the test split: the only place that reads it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from pipeline.config.schema import LamaMethod, Params, SuperGlueMethod, load_params
from pipeline.data.lama import LamaSplits, read_lama
from pipeline.data.superglue import read_examples
from pipeline.errors import ModelError
from pipeline.evaluation.evaluate import Evaluation, evaluate
from pipeline.evaluation.metrics import Row
from pipeline.evaluation.summary import (
    CONTROLS,
    ONE_TOKEN_COLUMNS,
    RELATION_COLUMNS,
    SETTING_COLUMNS,
    TEMPLATE_COLUMNS,
    relation_rows,
    relation_summary,
    setting_rows,
    spread_over_templates,
    task_summary,
    template_rows,
    trial_columns,
    trial_rows,
)
from pipeline.files import atomic_dir, read_json, read_progress, write_csv, write_json, write_jsonl
from pipeline.models.dataset import PromptFormat
from pipeline.models.loading import ModelCache, model_loader
from pipeline.models.memory import estimate_max_tokens
from pipeline.prompts.store import StoredPrompt, load_prompts
from pipeline.tasks import Example, Task, get_task
from pipeline.tasks.lama import fact_examples, lama_task
from pipeline.tasks.own import read_definition
from stages.runtime import (
    ModelFolder,
    OwnTaskName,
    ParamsFile,
    RunningStage,
    SplitsFolder,
    TaskName,
    echo,
    stage,
)

app = typer.Typer(help=__doc__, add_completion=False, no_args_is_help=True)

TrainedFolder = Annotated[Path, typer.Option("--trained", help="Folder that train wrote.")]
Out = Annotated[Path, typer.Option("--out", help="Folder for predictions and tables (CSV).")]
Metrics = Annotated[Path, typer.Option("--metrics", help="JSON file of metrics to write.")]

# The prompt of a trial, its task and the number of its split -> how the prompt puts examples into
# words, and the examples of train and test.
ReadExamples = Callable[
    [StoredPrompt, str, int], tuple[PromptFormat, Mapping[str, Sequence[Example]]]
]


@app.command()
def lama(
    method: LamaMethod,
    model: ModelFolder,
    splits: SplitsFolder,
    trained: TrainedFolder,
    out: Out,
    metrics: Metrics,
    params_file: ParamsFile = Path("params.yaml"),
) -> None:
    """Score P@1 of each relation over the allowed vocabulary, or among its objects."""
    with stage("evaluate", "lama", "", method) as ctx:
        params = load_params(params_file)
        ctx.log_dataset(f"lama/{params.lama.source}", splits, "evaluation")
        data = read_lama(splits, ["train", "test"])
        trials = _evaluate(ctx, params, model, trained, out, partial(_facts, data))
        relations = relation_rows(trials)
        for row in relations:
            row["label"] = data.relations[row["relation"]].label
        controls = ("relation", "label", "left_out", *CONTROLS)
        columns = (*RELATION_COLUMNS, *(ONE_TOKEN_COLUMNS if data.objects else ()))
        _write_table(ctx, out / "relations.csv", columns, relations)
        _write_table(ctx, out / "controls.csv", controls, relations)
        ctx.run.log_metrics({f"test/p_at_1/{row['relation']}": row["p_at_1"] for row in relations})
        _write_metrics(ctx, metrics, relation_summary(trials))


@app.command()
def stability(
    method: LamaMethod,
    model: ModelFolder,
    splits: SplitsFolder,
    trained: TrainedFolder,
    out: Out,
    metrics: Metrics,
    params_file: ParamsFile = Path("params.yaml"),
) -> None:
    """Score P@1 of each relation under each of several manual templates."""
    with stage("evaluate", "stability", "", method) as ctx:
        params = load_params(params_file)
        ctx.log_dataset(f"lama/{params.lama.source}", splits, "evaluation")
        data = read_lama(splits, ["train", "test"])
        trials = _evaluate(ctx, params, model, trained, out, partial(_facts, data))
        rows = template_rows(read_json(trained / "trials.json"), trials)
        _write_table(ctx, out / "templates.csv", TEMPLATE_COLUMNS, rows)
        summary = relation_summary(trials)
        counts = {key: summary[key] for key in ("test/trainings", "test/settings")}
        _write_metrics(ctx, metrics, {**spread_over_templates(rows), **counts})


@app.command()
def superglue(
    task: TaskName,
    method: SuperGlueMethod,
    model: ModelFolder,
    splits: SplitsFolder,
    trained: TrainedFolder,
    out: Out,
    metrics: Metrics,
    params_file: ParamsFile = Path("params.yaml"),
) -> None:
    """Score one task by its metrics, for every trial that was kept."""
    with stage("evaluate", "superglue", task, method) as ctx:
        params = load_params(params_file)
        ctx.log_dataset(f"{task}/{params.superglue.source}", splits, "evaluation")
        read = partial(_examples, get_task(task), splits, method)
        scores = get_task(task).metrics
        trials = _evaluate(ctx, params, model, trained, out, read, scores)
        _write_metrics(ctx, metrics, task_summary(trials))


@app.command()
def tasks(
    task: OwnTaskName,
    method: SuperGlueMethod,
    model: ModelFolder,
    splits: SplitsFolder,
    trained: TrainedFolder,
    out: Out,
    metrics: Metrics,
    params_file: ParamsFile = Path("params.yaml"),
) -> None:
    """Score one task of the user by its metrics, for every trial that was kept."""
    with stage("evaluate", "tasks", task, method) as ctx:
        params, own = load_params(params_file), read_definition(splits).task
        ctx.log_dataset(task, splits, "evaluation")
        read = partial(_examples, own, splits, method)
        trials = _evaluate(ctx, params, model, trained, out, read, own.metrics)
        _write_metrics(ctx, metrics, task_summary(trials))


def _facts(
    data: LamaSplits, prompt: StoredPrompt, name: str, _: int
) -> tuple[PromptFormat, Mapping[str, Sequence[Example]]]:
    relation = name.partition("/")[0]
    facts = {split: fact_examples(facts) for split, facts in data.facts[relation].items()}
    task = lama_task(relation, data.vocabulary, data.objects.get(relation, ()))
    return PromptFormat.from_prompt(task, prompt), facts


def _examples(
    task: Task, splits: Path, method: str, prompt: StoredPrompt, _: str, split: int
) -> tuple[PromptFormat, Mapping[str, Sequence[Example]]]:
    files = {"train": splits / str(split) / "train.jsonl", "test": splits / "test.jsonl"}
    examples = {name: read_examples(path, task.examples) for name, path in files.items()}
    return PromptFormat.from_prompt(task, prompt, classifier=method == "classifier"), examples


def _evaluate(
    ctx: RunningStage,
    params: Params,
    model: Path,
    trained: Path,
    out: Path,
    read: ReadExamples,
    metrics: Sequence[str] = ("p_at_1",),
) -> list[Row]:
    """Evaluate each trial that was kept, or reuse what a killed attempt evaluated.

    Trials of a frozen model share the loaded model. Predictions, the words nearest to trained
    vectors and the tables of trials and settings are written; the rows of `trial_rows` are
    returned.
    """
    ctx.run.set_tags({"model": params.model.name})
    models = ModelCache(model_loader(model, params))
    described = read_json(trained / "trials.json")
    places = {
        trial["name"]: (task, trial["split"])
        for task, content in described["tasks"].items()
        for setting in content["settings"]
        for trial in setting["trials"]
    }
    evaluations: dict[str, Evaluation] = {}
    prompts = load_prompts(trained)
    for done, (name, prompt) in enumerate(prompts.items()):
        ctx.show_progress("evaluated", done, len(prompts))
        finished = ctx.work.path("evaluated", f"{name}.json")
        evaluation = read_progress(finished, _evaluation)
        if evaluation is None:
            form, examples = read(prompt, *places[name])
            network = models.get(prompt.weights_path, form.classifier_outputs)
            most = estimate_max_tokens(network, wanted=params.runtime.max_tokens_per_forward)
            try:
                evaluation = evaluate(
                    network, form, prompt.vectors, examples, max_tokens_per_forward=most
                )
            except ModelError as error:
                raise ModelError(f"{name}: {error}") from None
            # Saved before it is reported: what was reported is not computed again after a kill.
            write_json(finished, asdict(evaluation))
            metric, unit = ("score", "examples") if form.task.labels else ("p_at_1", "facts")
            count = f"{evaluation.num_examples} {unit}"
            echo(f"{name}  test/{metric} {evaluation.score:.4f}  ({count})")
            # Read back, so that a restart cannot make a difference.
            evaluation = _evaluation(finished)
        evaluations[name] = evaluation
    predictions = out / "predictions" / "predictions.jsonl"
    with atomic_dir(predictions.parent) as folder:
        write_jsonl(
            folder / predictions.name,
            [
                {**record, "trial": name}
                for name, evaluation in evaluations.items()
                for record in evaluation.predictions
            ],
        )
        nearest = [{"trial": name, "nearest": of.nearest} for name, of in evaluations.items()]
        write_jsonl(folder / "nearest.jsonl", [row for row in nearest if row["nearest"]])
    ctx.run.log_file(predictions)
    rows = trial_rows(described, evaluations)
    # A stage of another benchmark has one task.
    skipped = 0 if "p_at_1" in metrics else 1
    _write_table(ctx, out / "trials.csv", trial_columns(metrics)[skipped:], rows)
    _write_table(
        ctx, out / "settings.csv", SETTING_COLUMNS[skipped:], setting_rows(described, rows)
    )
    return rows


def _evaluation(file: Path) -> Evaluation:
    return Evaluation(**read_json(file))


def _write_table(
    ctx: RunningStage, path: Path, columns: Sequence[str], rows: Sequence[Row]
) -> None:
    """Write the named columns of rows, and log the file."""
    write_csv(path, columns, [{column: row[column] for column in columns} for row in rows])
    ctx.run.log_file(path)


def _write_metrics(ctx: RunningStage, path: Path, values: Mapping[str, float]) -> None:
    write_json(path, values)
    ctx.run.log_metrics(values)
    echo("  ".join(f"{name} {value:.4g}" for name, value in values.items()))


if __name__ == "__main__":
    app()
