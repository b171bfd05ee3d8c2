"""Read the history."""

from pipeline.tracking.store import EXPERIMENTS, connect


def stage_seconds(stage: str, benchmark: str, method: str, task: str = "") -> float | None:
    """Return the seconds that the newest finished run of a stage took; None if none is known.

    A benchmark without tasks has none to name.

    Raises:
        TrackingError: the tracking server or store cannot be used.
    """
    mlflow = connect(EXPERIMENTS[stage])
    runs = mlflow.search_runs(
        filter_string=(
            f"tags.stage = '{stage}' AND tags.benchmark = '{benchmark}' "
            f"AND tags.method = '{method}' AND attributes.status = 'FINISHED' "
            "AND metrics.seconds > 0" + (f" AND tags.task = '{task}'" if task else "")
        ),
        order_by=["attributes.start_time DESC"],
        max_results=1,
        output_format="list",
    )
    return runs[0].data.metrics.get("seconds") if runs else None
