"""What MLflow's pages show of an experiment: its description, and the columns of its table.

MLflow keeps a table's columns in the browser. Only a view that was shared by a link is kept with
the experiment, as a tag; so the links here open such a view.
"""

import json

from pipeline.workflow.command import EXPERIMENTS

_KEY = "results"
_RUN_NAME, _CREATED = "attributes.`Run Name`", "attributes.start_time"

# Experiment -> its description.
_DESCRIPTIONS = {
    EXPERIMENTS["splits"]: "Checks of `params.yaml`, downloads, and splits.",
    EXPERIMENTS["train"]: "Trainings: one run for each task and method, with a child run for each "
    "bank or tuned trial. The curves are `dev/...` and `train/loss`, by epoch.",
    EXPERIMENTS["evaluate"]: "Scores of each task and method, with the settings of the training "
    "as parameters. A run's name has the settings that differ from those of the first run. "
    "`minutes` includes the training.",
    EXPERIMENTS["report"]: "Reports, with their figures.",
    EXPERIMENTS["promote"]: "Models that were registered by `ptune promote`.",
}
# Experiment -> metrics in its table.
_METRICS = {
    EXPERIMENTS["train"]: ("dev/score", "minutes"),
    EXPERIMENTS["evaluate"]: ("test/score", "dev/score", "test/majority", "minutes"),
}


def experiment_tags(experiment: str) -> dict[str, str]:
    """Return the tags of an experiment: its description and the view that its link opens."""
    tags = {
        # Runs and their charts, instead of traces of a chat application.
        "mlflow.experimentKind": "custom_model_development",
        "mlflow.note.content": _DESCRIPTIONS.get(experiment, ""),
    }
    if experiment in _METRICS:
        columns = [f"metrics.`{name}`" for name in _METRICS[experiment]]
        view = {
            "orderByKey": _CREATED,
            "orderByAsc": False,
            "startTime": "ALL",
            "selectedColumns": [*columns, "tags.`model`", "tags.`hardware`"],
            "columnOrder": [_RUN_NAME, *columns, "tags.`model`", "tags.`hardware`"],
            "columnWidths": {_RUN_NAME: 360, "tags.`model`": 190, "tags.`hardware`": 180},
        }
        tags[f"mlflow.sharedViewState.{_KEY}"] = json.dumps(view)
    return tags


def table_link(server: str, experiment_id: str) -> str:
    """Return the address of an experiment's table, as `experiment_tags` defines its view."""
    return (
        f"{server.rstrip('/')}/#/experiments/{experiment_id}/runs"
        f"?viewStateShareKey={_KEY}&workflowType=machine_learning"
    )
