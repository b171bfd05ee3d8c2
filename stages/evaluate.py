"""Evaluate what training left, on the test split: the only place that reads it."""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from pipeline.config.schema import LamaMethod, Params, SuperGlueMethod, load_params
from pipeline.data.lama import LamaSplits, read_lama
from pipeline.data.superglue import read_examples
from pipeline.evaluation.evaluate import (
    Evaluation,
    TaskEvaluation,
    evaluate_relation,
    evaluate_task,
)
from pipeline.evaluation.metrics import mean, task_score
from pipeline.evaluation.stability import spread_over_templates
from pipeline.evaluation.summary import setting_rows, task_summary, unit_rows
from pipeline.files import atomic_dir, read_json, write_csv, write_json, write_jsonl
from pipeline.models.dataset import classifier_labels
from pipeline.models.language_model import PromptedModel
from pipeline.models.memory import estimate_max_rows
from pipeline.prompts.store import StoredPrompt, load_prompts, weights_file
from pipeline.tasks import get_task, task_template
from pipeline.tasks.lama import POSITIONS
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

app = typer.Typer(help=__doc__, add_completion=False, no_args_is_help=True)

TrainedFolder = Annotated[Path, typer.Option("--trained", help="Folder that train wrote.")]
Metrics = Annotated[Path, typer.Option("--metrics", help="JSON file of metrics to write.")]
Relations = Annotated[Path, typer.Option("--relations", help="CSV file of P@1 to write.")]
Templates = Annotated[Path, typer.Option("--templates", help="CSV file of P@1 to write.")]
Controls = Annotated[Path, typer.Option("--controls", help="CSV file of controls to write.")]
Units = Annotated[Path, typer.Option("--units", help="CSV file to write, one row a training.")]
Settings = Annotated[Path, typer.Option("--settings", help="CSV file of settings to write.")]

Result = TypeVar("Result", Evaluation, TaskEvaluation)


@app.command()
def lama(
    method: LamaMethod,
    model: ModelFolder,
    splits: SplitsFolder,
    trained: TrainedFolder,
    out: Out,
    relations: Relations,
    controls: Controls,
    metrics: Metrics,
    params_file: ParamsFile = Path("params.yaml"),
) -> None:
    """Score P@1 of each relation over the allowed vocabulary."""
    with stage("evaluate", "lama", "", method) as this:
        params = load_params(params_file)
        data = read_lama(splits, ["train", "test"])
        this.log_dataset(f"lama/{params.lama.source}", splits, "evaluation")
        scores = _scores(this, params, data, model, trained)
        with atomic_dir(out) as folder:
            write_jsonl(
                folder / "predictions.jsonl",
                [record for score in scores.values() for record in score.predictions],
            )
        write_csv(
            relations,
            ["relation", "facts", "p_at_1"],
            [
                {"relation": name, "facts": score.asked, "p_at_1": score.test_score}
                for name, score in scores.items()
            ],
        )
        write_csv(
            controls,
            ["relation", "label", "left_out", "majority", "naive_bayes"],
            [
                {
                    "relation": name,
                    "label": data.relations[name].label,
                    "left_out": score.left_out,
                    "majority": score.majority,
                    "naive_bayes": score.naive_bayes,
                }
                for name, score in scores.items()
            ],
        )
        own = list(scores.values())
        values: dict[str, float] = {}
        if own:
            values = {
                "test/p_at_1": mean([score.test_score for score in own]),
                "dev/p_at_1": mean([score.dev_score for score in own]),
                "test/majority": mean([score.majority for score in own]),
                "test/naive_bayes": mean([score.naive_bayes for score in own]),
            }
        values["test/facts"] = sum(score.asked for score in own)
        values["test/left_out"] = sum(score.left_out for score in own)
        this.run.log_file(relations)
        this.run.log_metrics({f"test/p_at_1/{name}": s.test_score for name, s in scores.items()})
        _finish(this, values, metrics, out)


@app.command()
def stability(
    method: LamaMethod,
    model: ModelFolder,
    splits: SplitsFolder,
    trained: TrainedFolder,
    out: Out,
    templates: Templates,
    metrics: Metrics,
    params_file: ParamsFile = Path("params.yaml"),
) -> None:
    """Score P@1 of each relation under each of several manual templates."""
    with stage("evaluate", "stability", "", method) as this:
        params = load_params(params_file)
        data = read_lama(splits, ["train", "test"])
        this.log_dataset(f"lama/{params.lama.source}", splits, "evaluation")
        scores = _scores(this, params, data, model, trained)
        prompts = load_prompts(trained)
        with atomic_dir(out) as folder:
            write_jsonl(
                folder / "predictions.jsonl",
                [
                    {**record, "template": name}
                    for name, score in scores.items()
                    for record in score.predictions
                ],
            )
        rows = [
            {
                "relation": name.partition("/")[0],
                "number": int(name.partition("/")[2]),
                "template": prompts[name].template,
                "facts": score.asked,
                "p_at_1": score.test_score,
            }
            for name, score in scores.items()
        ]
        write_csv(templates, ["relation", "number", "template", "facts", "p_at_1"], rows)
        this.run.log_file(templates)
        _finish(this, spread_over_templates(rows), metrics, out)


@app.command()
def superglue(
    task: TaskName,
    method: SuperGlueMethod,
    model: ModelFolder,
    splits: SplitsFolder,
    trained: TrainedFolder,
    out: Out,
    units: Units,
    settings: Settings,
    metrics: Metrics,
    params_file: ParamsFile = Path("params.yaml"),
) -> None:
    """Score one task by its metrics, for every training that was kept."""
    with stage("evaluate", "superglue", task, method) as this:
        params = load_params(params_file)
        this.log_dataset(f"{task}/{params.superglue.source}", splits, "evaluation")
        trainings = read_json(trained / "units.json")
        found = _task_scores(
            this, params, task, method, trainings, model=model, splits=splits, trained=trained
        )
        with atomic_dir(out) as folder:
            write_jsonl(
                folder / "predictions.jsonl",
                [
                    {**record, "unit": name}
                    for name, own in found.items()
                    for record in own.predictions
                ],
            )
        rows = unit_rows(trainings, found)
        write_csv(units, list(rows[0]), rows)
        tried = setting_rows(trainings, rows)
        write_csv(settings, list(tried[0]), tried)
        this.run.log_file(units)
        this.run.log_file(settings)
        _finish(this, task_summary(rows, found), metrics, out)


def _scores(
    this: RunningStage, params: Params, data: LamaSplits, model: Path, trained: Path
) -> dict[str, Evaluation]:
    """Evaluate each prompt, or tuned model, on the facts of its relation."""

    def evaluate(network: PromptedModel, name: str, prompt: StoredPrompt, rows: int) -> Evaluation:
        relation = name.partition("/")[0]
        return evaluate_relation(
            network,
            relation,
            prompt,
            data.facts[relation],
            data.vocabulary,
            max_rows_per_forward=rows,
        )

    def told(score: Evaluation) -> str:
        return f"test/p_at_1 {score.test_score:.4f}  ({score.asked} facts)"

    return _evaluate_each(this, params, model, trained, evaluate, told, Evaluation)


def _task_scores(
    this: RunningStage,
    params: Params,
    task: TaskName,
    method: SuperGlueMethod,
    trainings: Mapping[str, Any],
    *,
    model: Path,
    splits: Path,
    trained: Path,
) -> dict[str, TaskEvaluation]:
    """Evaluate each training on the examples of its task."""
    kind, classifier = get_task(task), method == "classifier"
    test = read_examples(splits / "test.jsonl", kind.examples)
    split_of = {
        unit["name"]: str(unit["split"])
        for setting in trainings["settings"]
        for unit in setting["units"]
    }

    def labels(prompt: StoredPrompt) -> int | None:
        if not classifier:
            return None
        return classifier_labels(kind, task_template(kind, prompt.template, classifier=True))

    def evaluate(
        network: PromptedModel, name: str, prompt: StoredPrompt, rows: int
    ) -> TaskEvaluation:
        train = read_examples(splits / split_of[name] / "train.jsonl", kind.examples)
        examples = {"train": train, "test": test}
        return evaluate_task(
            network, kind, prompt, examples, classifier=classifier, max_rows_per_forward=rows
        )

    def told(score: TaskEvaluation) -> str:
        return f"test/score {task_score(score.metrics):.4f}  ({score.asked} examples)"

    return _evaluate_each(
        this, params, model, trained, evaluate, told, TaskEvaluation, labels=labels
    )


def _evaluate_each(
    this: RunningStage,
    params: Params,
    model: Path,
    trained: Path,
    evaluate: Callable[[PromptedModel, str, StoredPrompt, int], Result],
    told: Callable[[Result], str],
    kind: type[Result],
    *,
    labels: Callable[[StoredPrompt], int | None] = lambda _: None,
) -> dict[str, Result]:
    """Evaluate each prompt, or tuned model; what a killed attempt has done is taken over.

    Frozen ones share the loaded model. `evaluate` takes the model, the prompt's name, the prompt,
    and the most rows of a pass; `told` makes a line for the terminal of what it gave; `labels`
    says how many a classifier has.
    """
    scores = {}
    network: PromptedModel | None = None
    tuned = False
    for name, prompt in load_prompts(trained).items():
        done = this.work.path("evaluated", f"{name}.json")
        if not done.exists():
            weights = weights_file(trained, name)
            if network is None or tuned or weights.exists():
                tuned = weights.exists()
                network = load_network(
                    this, params, model, weights=weights if tuned else None, labels=labels(prompt)
                )
            rows = estimate_max_rows(
                network, prompt.max_length or POSITIONS, wanted=params.runtime.max_rows_per_forward
            )
            score = evaluate(network, name, prompt, rows)
            # Noted before it is told: what was told is not done again after a kill.
            write_json(done, asdict(score))
            say(f"{name}  {told(score)}")
        # Read back in either case, so that a restart cannot make a difference.
        scores[name] = kind(**read_json(done))
    return scores


def _finish(this: RunningStage, values: dict[str, float], metrics: Path, out: Path) -> None:
    """Give the same numbers to the metrics file and to MLflow."""
    write_json(metrics, values)
    this.run.log_metrics(values)
    this.run.log_file(out / "predictions.jsonl")
    say("  ".join(f"{name} {value:.4g}" for name, value in values.items()))


if __name__ == "__main__":
    app()
