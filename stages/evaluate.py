"""Evaluate the trained prompts on the test split: the only place that reads it."""

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from pipeline.config.schema import LamaMethod, Params, SuperGlueMethod, load_params
from pipeline.data.lama import Fact, LamaSplits, read_lama
from pipeline.data.superglue import read_examples
from pipeline.engine.units import Report, Unit, open_engine
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

# A stored prompt -> how it puts examples into words, and the examples of train and test.
ReadExamples = Callable[[StoredPrompt], tuple[PromptFormat, Mapping[str, Sequence[Example]]]]


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
        trials = _evaluate(
            ctx, params, _Paths(model, splits, trained, out), partial(_fact_reader, data)
        )
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
        trials = _evaluate(
            ctx, params, _Paths(model, splits, trained, out), partial(_fact_reader, data)
        )
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
        read = partial(_example_reader, get_task(task), splits, method)
        scores = get_task(task).metrics
        trials = _evaluate(ctx, params, _Paths(model, splits, trained, out), read, scores)
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
        read = partial(_example_reader, own, splits, method)
        trials = _evaluate(ctx, params, _Paths(model, splits, trained, out), read, own.metrics)
        _write_metrics(ctx, metrics, task_summary(trials))


def _fact_reader(data: LamaSplits, name: str, _: int) -> ReadExamples:
    """Return the reader of a relation; `name` may be `P17/1`, with the number of a template."""
    relation = name.partition("/")[0]
    task = lama_task(relation, data.vocabulary, data.objects.get(relation, ()))
    return partial(_facts, task, data.facts[relation])


def _facts(
    task: Task, facts: Mapping[str, Sequence[Fact]], prompt: StoredPrompt
) -> tuple[PromptFormat, Mapping[str, Sequence[Example]]]:
    examples = {split: fact_examples(own) for split, own in facts.items()}
    return PromptFormat.from_prompt(task, prompt), examples


def _example_reader(task: Task, splits: Path, method: str, _: str, split: int) -> ReadExamples:
    """Return the reader of a task's split."""
    files = {"train": splits / str(split) / "train.jsonl", "test": splits / "test.jsonl"}
    return partial(_examples, task, files, method)


def _examples(
    task: Task, files: Mapping[str, Path], method: str, prompt: StoredPrompt
) -> tuple[PromptFormat, Mapping[str, Sequence[Example]]]:
    examples = {name: read_examples(path, task.examples) for name, path in files.items()}
    return PromptFormat.from_prompt(task, prompt, classifier=method == "classifier"), examples


@dataclass(frozen=True)
class _Paths:
    """What a stage reads and writes."""

    model: Path
    splits: Path
    trained: Path
    out: Path


def _evaluate(
    ctx: RunningStage,
    params: Params,
    paths: _Paths,
    reader: Callable[[str, int], ReadExamples],
    metrics: Sequence[str] = ("p_at_1",),
) -> list[Row]:
    """Evaluate each trial that was kept, or reuse what a killed attempt evaluated.

    Trials of a frozen model share the loaded model. Predictions, the words nearest to trained
    vectors and the tables of trials and settings are written; the rows of `trial_rows` are
    returned. `reader` takes a trial's task and the number of its split.
    """
    ctx.run.set_tags({"model": params.model.name})
    models = ModelCache(model_loader(paths.model, params))
    described = read_json(paths.trained / "trials.json")
    places = {
        trial["name"]: (task, trial["split"])
        for task, content in described["tasks"].items()
        for setting in content["settings"]
        for trial in setting["trials"]
    }
    prompts = load_prompts(paths.trained)
    # Relative: the machine that evaluates may have the files elsewhere.
    files = {
        name: Path(os.path.relpath(ctx.work.path("evaluated", f"{name}.json"))) for name in prompts
    }
    found = {name: read_progress(file, _evaluation) for name, file in files.items()}
    most = params.runtime.max_tokens_per_forward
    units = [
        Unit(
            name,
            _EvaluationUnit(name, prompts[name], reader(*places[name]), models, most, file),
            reads=_inputs(paths, prompts[name]),
            writes=(file,),
        )
        for name, file in files.items()
        if found[name] is None
    ]
    before = len(prompts) - len(units)
    ctx.show_progress("evaluated", before, len(prompts))
    with open_engine(params.runtime, ctx.work.folder) as engine:
        for done, (name, line) in enumerate(engine.run(units, lambda *_: None), before + 1):
            echo(line.result())
            found[name] = _evaluation(files[name])
            ctx.show_progress("evaluated", done, len(prompts))
    evaluations = {name: own for name, own in found.items() if own is not None}
    predictions = paths.out / "predictions" / "predictions.jsonl"
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
    _write_table(ctx, paths.out / "trials.csv", trial_columns(metrics)[skipped:], rows)
    _write_table(
        ctx, paths.out / "settings.csv", SETTING_COLUMNS[skipped:], setting_rows(described, rows)
    )
    return rows


def _inputs(paths: _Paths, prompt: StoredPrompt) -> tuple[Path, ...]:
    weights = () if prompt.weights_path is None else (prompt.weights_path,)
    return (paths.model, paths.splits, *weights)


@dataclass(frozen=True)
class _EvaluationUnit:
    """Evaluates a stored prompt and saves the result; returns the line for the user.

    It is saved before it is reported: what was reported is not computed again after a kill. The
    stage reads it back, so that a restart cannot make a difference.
    """

    name: str
    prompt: StoredPrompt
    read: ReadExamples
    models: ModelCache
    max_tokens: int | Literal["auto"]
    file: Path

    def __call__(self, _: Report) -> str:
        form, examples = self.read(self.prompt)
        network = self.models.get(self.prompt.weights_path, form.classifier_outputs)
        most = estimate_max_tokens(network, wanted=self.max_tokens)
        try:
            evaluation = evaluate(
                network, form, self.prompt.vectors, examples, max_tokens_per_forward=most
            )
        except ModelError as error:
            raise ModelError(f"{self.name}: {error}") from None
        write_json(self.file, asdict(evaluation))
        metric, unit = ("score", "examples") if form.task.labels else ("p_at_1", "facts")
        count = f"{evaluation.num_examples} {unit}"
        return f"{self.name}  test/{metric} {evaluation.score:.4f}  ({count})"


def _evaluation(file: Path) -> Evaluation:
    return Evaluation(**read_json(file))


def _write_table(
    ctx: RunningStage, path: Path, columns: Sequence[str], rows: Sequence[Row]
) -> None:
    """Write the named columns of rows, and log the file."""
    write_csv(
        path, columns, [{name: _without_scripts(row[name]) for name in columns} for row in rows]
    )
    ctx.run.log_file(path)


def _without_scripts(cell: Any) -> Any:
    r"""Return a cell in which `<` ends no script: `dvc plots` puts text into one, as it is."""
    return re.sub(r"<(?=[/!])", r"<\\", cell) if isinstance(cell, str) else cell


def _write_metrics(ctx: RunningStage, path: Path, values: Mapping[str, float]) -> None:
    write_json(path, values)
    ctx.run.log_metrics(values)
    echo("  ".join(f"{name} {value:.4g}" for name, value in values.items()))


if __name__ == "__main__":
    app()
