"""MLflow's list of models: an entry for each content that training left.

The files stay in DVC's cache; an entry has their hash. Evaluations add their metrics to the entry
of what they evaluated, so that the list is a leaderboard.
"""

from collections.abc import Mapping
from types import ModuleType
from typing import Any

from pipeline.history.executions import READ, WROTE, tagged
from pipeline.history.store import EXPERIMENTS, connect

_KIND = "trained-prompts"
_NAMED_BY = ("benchmark", "task", "method")
_OF_RUN = (*_NAMED_BY, "model", "dvc.run_key")
_MAX_VALUE = 500


def list_models(run_id: str) -> None:
    """Put what a run trained into the list, or what it evaluated under what was trained.

    A second call changes nothing. Of other runs there is nothing to do.

    Args:
        run_id: of a stage's run, with the hashes of what it read and wrote.

    Raises:
        Exception: of MLflow's many kinds.
    """
    mlflow = connect()
    run = mlflow.get_run(run_id)
    match run.data.tags.get("stage"):
        case "train":
            list_trained(mlflow, run_id, tagged(run.data.tags, WROTE))
        case "evaluate":
            list_evaluated(mlflow, run)


def list_trained(mlflow: ModuleType, run_id: str, outputs: Mapping[str, str]) -> None:
    """Put the folder that a run trained into the list, and link it with the run.

    Where the list has this content, the entry that is there is linked.

    Args:
        mlflow: connected to the store.
        run_id: of the training; the entry takes its name, tags and parameters from it.
        outputs: path -> DVC's hash of what the stage wrote; a folder's ends in `.dir`.
    """
    from mlflow.entities import LoggedModelOutput

    for path, md5 in _folders(outputs).items():
        run = mlflow.get_run(run_id)
        model = find_trained(mlflow, path, md5) or _create(mlflow, run, path, md5)
        # A run that is gone on with may have its link already.
        if model.model_id not in {output.model_id for output in run.outputs.model_outputs}:
            mlflow.MlflowClient().log_outputs(run_id, [LoggedModelOutput(model.model_id, 0)])


def list_evaluated(mlflow: ModuleType, run: Any) -> None:
    """Link what a run evaluated, and put the run's metrics there, with their dataset.

    Nothing is done where the list does not have it.

    Args:
        mlflow: connected to the store.
        run: of the evaluation, with all its metrics.
    """
    from mlflow.entities import LoggedModelInput, Metric

    found = (find_trained(mlflow, *one) for one in _folders(tagged(run.data.tags, READ)).items())
    model = next(filter(None, found), None)
    if model is None:
        return
    client, run_id = mlflow.MlflowClient(), run.info.run_id
    if model.model_id not in {entry.model_id for entry in run.inputs.model_inputs}:
        client.log_inputs(run_id, models=[LoggedModelInput(model.model_id)])
    data = next((entry.dataset for entry in run.inputs.dataset_inputs), None)
    about = {} if data is None else {"dataset_name": data.name, "dataset_digest": data.digest}
    # The same points again, now under the model too: the run has them once.
    points = [
        Metric(point.key, point.value, point.timestamp, point.step, model.model_id, **about)
        for key in run.data.metrics
        if key.startswith(("dev/", "test/"))
        for point in client.get_metric_history(run_id, key)[-1:]
    ]
    client.log_batch(run_id, metrics=points)


def find_trained(mlflow: ModuleType, path: str, md5: str) -> Any | None:
    """Return the entry of a folder with this content; None where there is none.

    Args:
        mlflow: connected to the store.
        path: of the folder, as in `dvc.lock`.
        md5: DVC's hash of it.
    """
    experiment = mlflow.get_experiment_by_name(EXPERIMENTS["train"])
    if experiment is None:
        return None
    found = mlflow.search_logged_models(
        experiment_ids=[experiment.experiment_id],
        filter_string=f"tags.`dvc.md5` = '{md5}' AND tags.`dvc.path` = '{path}'",
        max_results=1,
        output_format="list",
    )
    return found[0] if found else None


def _create(mlflow: ModuleType, run: Any, path: str, md5: str) -> Any:
    tags = run.data.tags
    return mlflow.create_external_model(
        name="-".join(tags[key] for key in _NAMED_BY if key in tags),
        source_run_id=run.info.run_id,
        experiment_id=run.info.experiment_id,
        model_type=_KIND,
        tags={
            **{key: tags[key] for key in _OF_RUN if key in tags},
            "dvc.path": path,
            "dvc.md5": md5,
        },
        params={key: value[:_MAX_VALUE] for key, value in run.data.params.items()},
    )


def _folders(hashes: Mapping[str, str]) -> dict[str, str]:
    return {path: value for path, value in hashes.items() if value.endswith(".dir")}
