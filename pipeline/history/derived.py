"""Events that are derived from the history when they are written: lineage and MLflow's models.

MLflow's list of models has an entry for each content that training wrote. The files stay in DVC's
cache; an entry has their hash. Evaluations add their metrics to the entry of the model that they
evaluated, which makes the list a leaderboard.
"""

from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

from pipeline.history.events import Derived, Event
from pipeline.history.executions import READ, WROTE, tags_below
from pipeline.history.lineage import workspace_tracer
from pipeline.history.lineage_text import as_tree
from pipeline.history.store import connect
from pipeline.history.summary import log_summary
from pipeline.workflow.command import EXPERIMENTS

_NAME_TAGS = ("benchmark", "task", "method")
_RUN_TAGS = (*_NAME_TAGS, "model", "dvc.run_key")
_MAX_VALUE = 500


def log_lineage(run_id: str, write: Callable[[Event], None]) -> None:
    """Write the trace back to the raw data, and a tag for each run that produced an input."""
    tracer = workspace_tracer(prefer_locked=True)
    run = tracer.history.find(run_id)
    if run is None:
        return
    node = tracer.back_from(run)
    write(Event("text", run_id, {"text": as_tree(node), "name": "lineage.txt"}))
    producers = {a.path: a.made_by.run for a in node.inputs if a.made_by is not None}
    tags = {f"made_from.{path}": maker.run_id for path, maker in producers.items() if maker}
    write(Event("tags", run_id, tags))


def list_models(run_id: str, _: Callable[[Event], None] | None = None) -> None:
    """Add a training's output to MLflow's list of models, or an evaluation's metrics to its entry.

    A second call changes nothing; runs of other stages are left unchanged.

    Raises:
        Exception: MLflow raises many types.
    """
    mlflow = connect()
    run = mlflow.get_run(run_id)
    match run.data.tags.get("stage"):
        case "train":
            _list_trained(mlflow, run)
        case "evaluate":
            _list_evaluated(mlflow, run)


def _list_trained(mlflow: ModuleType, run: Any) -> None:
    """Link a training with the entry of each folder that it wrote; create missing entries."""
    from mlflow.entities import LoggedModelOutput

    linked = {output.model_id for output in run.outputs.model_outputs}
    tags = run.data.tags
    for path, md5 in _folders(run, WROTE).items():
        model = _find_entry(mlflow, path, md5) or mlflow.create_external_model(
            name="-".join(tags[key] for key in _NAME_TAGS if key in tags),
            source_run_id=run.info.run_id,
            experiment_id=run.info.experiment_id,
            model_type="trained-prompts",
            tags={
                **{key: tags[key] for key in _RUN_TAGS if key in tags},
                "dvc.path": path,
                "dvc.md5": md5,
            },
            params={key: value[:_MAX_VALUE] for key, value in run.data.params.items()},
        )
        if model.model_id not in linked:
            output = LoggedModelOutput(model.model_id, 0)
            mlflow.MlflowClient().log_outputs(run.info.run_id, [output])


def _list_evaluated(mlflow: ModuleType, run: Any) -> None:
    """Link an evaluation with the entry of the model that it read, and add its metrics to it."""
    from mlflow.entities import LoggedModelInput, Metric

    models = (_find_entry(mlflow, *item) for item in _folders(run, READ).items())
    model = next(filter(None, models), None)
    if model is None:
        return
    client, run_id = mlflow.MlflowClient(), run.info.run_id
    if model.model_id not in {entry.model_id for entry in run.inputs.model_inputs}:
        client.log_inputs(run_id, models=[LoggedModelInput(model.model_id)])
    data = next((entry.dataset for entry in run.inputs.dataset_inputs), None)
    dataset = {} if data is None else {"dataset_name": data.name, "dataset_digest": data.digest}
    # The run's points again, with the model's id: MLflow stores each once.
    points = [
        Metric(point.key, point.value, point.timestamp, point.step, model.model_id, **dataset)
        for key in run.data.metrics
        if key.startswith(("train/", "dev/", "test/"))
        for point in client.get_metric_history(run_id, key)[-1:]
    ]
    client.log_batch(run_id, metrics=points)


def _find_entry(mlflow: ModuleType, path: str, md5: str) -> Any | None:
    experiment = mlflow.get_experiment_by_name(EXPERIMENTS["train"])
    if experiment is None:
        return None
    models = mlflow.search_logged_models(
        experiment_ids=[experiment.experiment_id],
        filter_string=f"tags.`dvc.md5` = '{md5}' AND tags.`dvc.path` = '{path}'",
        max_results=1,
        output_format="list",
    )
    return models[0] if models else None


def _folders(run: Any, prefix: str) -> dict[str, str]:
    hashes = tags_below(run.data.tags, prefix)
    return {path: digest for path, digest in hashes.items() if digest.endswith(".dir")}


DERIVED: Mapping[str, Derived] = {
    "lineage": log_lineage,
    "summary": log_summary,
    "models": list_models,
}
