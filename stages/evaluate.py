"""Evaluate the trained prompts on the test split: the only place that reads it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from pipeline.config.schema import LamaMethod, Params, SuperGlueMethod, load_params
from pipeline.data.lama import LamaSplits, read_lama
from pipeline.data.superglue import read_examples
from pipeline.evaluation.evaluate import Evaluation, evaluate
from pipeline.evaluation.metrics import Row
from pipeline.evaluation.summary import (
    SETTING_COLUMNS,
    relation_rows,
    relation_summary,
    setting_rows,
    spread_over_templates,
    task_summary,
    template_rows,
    trial_columns,
    trial_rows,
)
from pipeline.files import atomic_dir, read_json, write_csv, write_json, write_jsonl
from pipeline.models.dataset import PromptFormat
from pipeline.models.loading import ModelCache, model_loader
from pipeline.models.memory import estimate_max_tokens
from pipeline.prompts.store import load_prompts, weights_file
from pipeline.tasks import Example, Task, get_task
from pipeline.tasks.lama import fact_examples, lama_task
from stages.runtime import (
    ModelFolder,
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

# Task and number of the split -> the task, and the examples of train and test.
ReadExamples = Callable[[str, int], tuple[Task, Mapping[str, Sequence[Example]]]]


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
    """Score P@1 of each relation over the allowed vocabulary."""
    with stage("evaluate", "lama", "", method) as ctx:
        params = load_params(params_file)
        ctx.log_dataset(f"lama/{params.lama.source}", splits, "evaluation")
        data = read_lama(splits, ["train", "test"])
        trials = _evaluate(ctx, params, model, trained, partial(_facts, data))
        relations = relation_rows(trials.rows, trials.evaluations)
        for row in relations:
            row["label"] = data.relations[row["relation"]].label
        controls = ("relation", "label", "left_out", "majority", "naive_bayes")
        _write_table(ctx, out / "relations.csv", ("relation", "facts", "p_at_1"), relations)
        _write_table(ctx, out / "controls.csv", controls, relations)
        ctx.run.log_metrics({f"test/p_at_1/{row['relation']}": row["p_at_1"] for row in relations})
        _write(ctx, trials, relation_summary(trials.rows, trials.evaluations), out, metrics)


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
        trials = _evaluate(ctx, params, model, trained, partial(_facts, data))
        rows = template_rows(trials.trained, trials.rows, trials.evaluations)
        columns = ("relation", "number", "template", "facts", "p_at_1")
        _write_table(ctx, out / "templates.csv", columns, rows)
        summary = relation_summary(trials.rows, trials.evaluations)
        counts = {key: summary[key] for key in ("test/trainings", "test/settings")}
        _write(ctx, trials, {**spread_over_templates(rows), **counts}, out, metrics)


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
        trials = _evaluate(
            ctx, params, model, trained, partial(_examples, splits), method == "classifier"
        )
        _write(ctx, trials, task_summary(trials.rows, trials.evaluations), out, metrics)


def _facts(data: LamaSplits, name: str, _: int) -> tuple[Task, Mapping[str, Sequence[Example]]]:
    relation = name.partition("/")[0]
    facts = {split: fact_examples(facts) for split, facts in data.facts[relation].items()}
    return lama_task(relation, data.vocabulary), facts


def _examples(splits: Path, name: str, split: int) -> tuple[Task, Mapping[str, Sequence[Example]]]:
    task = get_task(name)
    train = read_examples(splits / str(split) / "train.jsonl", task.examples)
    return task, {"train": train, "test": read_examples(splits / "test.jsonl", task.examples)}


@dataclass(frozen=True)
class _Trials:
    """The trials of a stage.

    Attributes:
        trained: the content of `trials.json`.
        evaluations: by the trials' names.
        rows: of `trial_rows`.
    """

    trained: Mapping[str, Any]
    evaluations: Mapping[str, Evaluation]
    rows: Sequence[Row]


def _evaluate(
    ctx: RunningStage,
    params: Params,
    model: Path,
    trained: Path,
    read: ReadExamples,
    classifier: bool = False,
) -> _Trials:
    """Evaluate each trial that was kept, or reuse what a killed attempt evaluated.

    Frozen ones share the loaded model.
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
    for name, prompt in load_prompts(trained).items():
        finished = ctx.work.path("evaluated", f"{name}.json")
        if not finished.exists():
            task, examples = read(*places[name])
            form = PromptFormat.from_prompt(task, prompt, classifier=classifier)
            weights = weights_file(trained, name)
            network = models.get(weights if weights.exists() else None, form.classifier_outputs)
            most = estimate_max_tokens(network, wanted=params.runtime.max_tokens_per_forward)
            evaluation = evaluate(
                network, form, prompt.vectors, examples, max_tokens_per_forward=most
            )
            # Saved before it is reported: what was reported is not computed again after a kill.
            write_json(finished, asdict(evaluation))
            metric = "score" if task.vocabulary is None else "p_at_1"
            count = f"{evaluation.num_examples} {'examples' if task.labels else 'facts'}"
            echo(f"{name}  test/{metric} {evaluation.score:.4f}  ({count})")
        # Read back in either case, so that a restart cannot make a difference.
        evaluations[name] = Evaluation(**read_json(finished))
    return _Trials(described, evaluations, trial_rows(described, evaluations))


def _write(
    ctx: RunningStage, trials: _Trials, values: Mapping[str, float], out: Path, metrics: Path
) -> None:
    """Write predictions, the tables of trials and settings, and the metrics."""
    with atomic_dir(out / "predictions") as folder:
        write_jsonl(
            folder / "predictions.jsonl",
            [
                {**record, "trial": name}
                for name, evaluation in trials.evaluations.items()
                for record in evaluation.predictions
            ],
        )
    rows = trials.rows
    scores = next(iter(trials.evaluations.values())).metrics if rows else {"p_at_1": 0.0}
    # A stage of SuperGLUE has one task.
    skipped = 0 if "p_at_1" in scores else 1
    _write_table(ctx, out / "trials.csv", trial_columns(list(scores))[skipped:], rows)
    settings = setting_rows(trials.trained, rows)
    _write_table(ctx, out / "settings.csv", SETTING_COLUMNS[skipped:], settings)
    write_json(metrics, values)
    ctx.run.log_metrics(values)
    ctx.run.log_file(out / "predictions" / "predictions.jsonl")
    echo("  ".join(f"{name} {value:.4g}" for name, value in values.items()))


def _write_table(
    ctx: RunningStage, path: Path, columns: Sequence[str], rows: Sequence[Row]
) -> None:
    """Write the named columns of rows, and log the file."""
    write_csv(path, columns, [{column: row[column] for column in columns} for row in rows])
    ctx.run.log_file(path)


if __name__ == "__main__":
    app()
