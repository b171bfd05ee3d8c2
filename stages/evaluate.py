"""Evaluate what training left, on the test split: the only place that reads it."""

from pathlib import Path
from typing import Annotated

import typer

from pipeline.data.lama import read_lama
from pipeline.data.superglue import read_splits
from pipeline.evaluation.answers import evaluate_relation, evaluate_task
from pipeline.evaluation.metrics import mean
from pipeline.files import staged_folder, write_csv, write_json, write_jsonl
from pipeline.models.answers import AnswerModel
from pipeline.models.loading import load_model
from pipeline.params import LamaMethod, Params, SuperGlueMethod, SuperGlueTask, load_params
from pipeline.prompts.store import WEIGHTS, load_prompts
from pipeline.tasks import TASKS
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

TrainedFolder = Annotated[Path, typer.Option("--trained", help="Folder that train wrote.")]
Metrics = Annotated[Path, typer.Option("--metrics", help="JSON file of metrics to write.")]
Relations = Annotated[Path, typer.Option("--relations", help="CSV file of P@1 to write.")]
Controls = Annotated[Path, typer.Option("--controls", help="CSV file of controls to write.")]


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
        network = _load(this, params, model)
        scores = {
            name: evaluate_relation(
                network,
                name,
                prompt,
                data.facts[name],
                data.vocabulary,
                rows_per_pass=params.runtime.rows_per_pass,
            )
            for name, prompt in load_prompts(trained).items()
        }
        with staged_folder(out) as folder:
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
            ["relation", "label", "left_out", "majority"],
            [
                {
                    "relation": name,
                    "label": data.relations[name].label,
                    "left_out": score.left_out,
                    "majority": score.majority,
                }
                for name, score in scores.items()
            ],
        )
        values: dict[str, float] = {}
        if scores:
            values = {
                "test/p_at_1": mean([score.test_score for score in scores.values()]),
                "dev/p_at_1": mean([score.dev_score for score in scores.values()]),
                "test/majority": mean([score.majority for score in scores.values()]),
            }
        values["test/facts"] = sum(score.asked for score in scores.values())
        values["test/left_out"] = sum(score.left_out for score in scores.values())
        this.run.log_file(relations)
        this.run.log_metrics({f"test/p_at_1/{name}": s.test_score for name, s in scores.items()})
        _finish(this, values, metrics, out)


@app.command()
def superglue(
    task: SuperGlueTask,
    method: SuperGlueMethod,
    model: ModelFolder,
    splits: SplitsFolder,
    trained: TrainedFolder,
    out: Out,
    metrics: Metrics,
    params_file: ParamsFile = Path("params.yaml"),
) -> None:
    """Score one task over its label words."""
    with stage("evaluate", "superglue", task, method) as this:
        params = load_params(params_file)
        kind = TASKS[task]
        examples = read_splits(splits, ("train", "test"), fields=kind.fields, labels=kind.labels)
        this.log_dataset(f"{task}/{params.superglue.source}", splits, "evaluation")
        weights = trained / WEIGHTS
        network = _load(this, params, model, weights if weights.exists() else None)
        score = evaluate_task(
            network,
            kind,
            load_prompts(trained)[task],
            examples,
            rows_per_pass=params.runtime.rows_per_pass,
        )
        with staged_folder(out) as folder:
            write_jsonl(folder / "predictions.jsonl", score.predictions)
        values = {
            "test/accuracy": score.test_score,
            "dev/accuracy": score.dev_score,
            "test/majority": score.majority,
            "test/examples": score.asked,
        }
        _finish(this, values, metrics, out)


def _load(
    this: RunningStage, params: Params, folder: Path, weights: Path | None = None
) -> AnswerModel:
    this.run.set_tags({"model": params.model.name})
    return load_model(
        folder,
        device=params.runtime.device,
        dtype=params.model.dtype,
        threads=params.runtime.threads,
        weights=weights,
    )


def _finish(this: RunningStage, values: dict[str, float], metrics: Path, out: Path) -> None:
    """Give the same numbers to the metrics file and to MLflow."""
    write_json(metrics, values)
    this.run.log_metrics(values)
    this.run.log_file(out / "predictions.jsonl")
    say("  ".join(f"{name} {value:.4g}" for name, value in values.items()))


if __name__ == "__main__":
    app()
