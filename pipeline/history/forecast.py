"""How long stages will probably take: as long as the recorded run most like each."""

import socket
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from pipeline.history.results import seconds_of
from pipeline.history.store import connect, flat_params, history_exists, unreadable
from pipeline.history.summary import short_names
from pipeline.workflow.project import PlannedStage

_MODEL = "model.name"


@dataclass(frozen=True)
class Estimate:
    """The time of a recorded run.

    Attributes:
        seconds: with those of earlier runs whose trainings it reused.
        differing: the settings in which that run differs from the stage now, by short names.
    """

    run_id: str
    seconds: float
    differing: tuple[str, ...]


def estimate_times(
    stages: Iterable[PlannedStage],
) -> Iterator[tuple[PlannedStage, Estimate | None]]:
    """Yield each stage with the time of the finished run of it that is most like it.

    It ran on this host with the same language model, and differs in the fewest settings; of
    several, it is the newest. None if there is no such run.

    Raises:
        TrackingError: the tracking server or store cannot be used.
    """
    mlflow = connect() if history_exists() else None
    for stage in stages:
        runs = [] if mlflow is None else _runs(mlflow, stage.name)
        yield stage, _nearest(flat_params(stage.params), runs)


def _runs(mlflow: Any, stage: str) -> list[Any]:
    try:
        return list(
            mlflow.search_runs(
                search_all_experiments=True,
                filter_string=f"tags.`dvc.stage` = '{stage}' AND attributes.status = 'FINISHED' "
                f"AND tags.host = '{socket.gethostname()}' AND metrics.seconds >= 0",
                order_by=["attributes.start_time DESC"],
                output_format="list",
            )
        )
    except Exception as error:  # MLflow, its database and its client raise many types
        raise unreadable(error) from error


def _nearest(params: dict[str, str], runs: Iterable[Any]) -> Estimate | None:
    estimates = []
    for run in runs:
        old, seconds = run.data.params, seconds_of(run.data.metrics)
        if seconds is None or old.get(_MODEL) != params.get(_MODEL):
            continue
        keys = [key for key in {**params, **old} if params.get(key) != old.get(key)]
        estimates.append(Estimate(run.info.run_id, seconds, tuple(short_names(keys).values())))
    return min(estimates, key=lambda estimate: len(estimate.differing), default=None)
