"""MLflow's list of models: an entry for each content that training left.

The files stay in DVC's cache; an entry has their hash. Evaluations add their metrics to the entry
of what they evaluated, so that the list is a leaderboard.
"""

from collections.abc import Mapping
from types import ModuleType
from typing import Any

from pipeline.tracking.store import EXPERIMENTS

_KIND = "trained-prompts"
_NAMED_BY = ("benchmark", "task", "method")
_OF_RUN = (*_NAMED_BY, "model", "dvc.run_key")
_MAX_VALUE = 500


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


def link_evaluated(mlflow: ModuleType, run_id: str, inputs: Mapping[str, str]) -> str | None:
    """Link the entry that a run evaluates, and return its id; None where the list has none.

    Args:
        mlflow: connected to the store.
        run_id: of the evaluation.
        inputs: path -> DVC's hash of what the stage reads; a folder's ends in `.dir`.
    """
    from mlflow.entities import LoggedModelInput

    found = (find_trained(mlflow, path, md5) for path, md5 in _folders(inputs).items())
    model = next(filter(None, found), None)
    if model is None:
        return None
    model_id = str(model.model_id)
    linked = {entry.model_id for entry in mlflow.get_run(run_id).inputs.model_inputs}
    if model_id not in linked:
        mlflow.MlflowClient().log_inputs(run_id, models=[LoggedModelInput(model_id)])
    return model_id


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
