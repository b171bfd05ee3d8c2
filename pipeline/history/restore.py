"""Runs for executions that the history does not have, from what DVC and git recorded.

After `dvc pull` in a fresh clone, or on a new server, the outputs exist and MLflow has no record
of them. `dvc.lock`, the metrics and the curves are enough for a run with parameters, hashes and
numbers. Who ran it, when and where is lost, and is not made up.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from pipeline.errors import TrackingError
from pipeline.files import read_csv, read_json
from pipeline.history.derived import DERIVED
from pipeline.history.events import Event, MlflowWriter, metric_points
from pipeline.history.executions import RESTORED, TrackedHistory, execution_tags
from pipeline.history.results import stage_runs
from pipeline.history.store import connect, first_line, flat_params, history_exists, unreadable
from pipeline.history.summary import CHANGED
from pipeline.workflow.command import StageInfo
from pipeline.workflow.git import Commits
from pipeline.workflow.lock import Execution, file_hash, outputs_within

_NOTE = """Stage `{stage}`, restored from `dvc.lock` and its output files by `ptune sync`.

When, where and in which environment it ran is unknown: this history did not record it.
"""


def restore_missing(lock: Mapping[str, Execution]) -> Iterator[tuple[str, str, list[str]]]:
    """Create a run for each execution of `dvc.lock` that has none; a second call creates none.

    Trained and evaluated models are added to MLflow's list where they are missing.

    Yields:
        The stage, the id of its new run, and those of its files whose numbers are not in the run,
        as they are missing or have changed.

    Raises:
        TrackingError: The tracking server or store cannot be used.
    """
    history = TrackedHistory()
    commit_of = Commits(Path()).of_entries(lock)
    for execution in lock.values():
        info = StageInfo.from_command(execution.command)
        if info is None or execution.run_key is None:
            continue
        runs = history.find_by_run_key(execution.run_key)
        run = next((r for r in runs if r.execution.outputs == dict(execution.outputs)), None)
        try:
            mlflow = connect(info.experiment)
            writer = MlflowWriter(mlflow, DERIVED)
            if run is not None:  # it may be older than the list of models
                writer.write(Event("derived", run.run_id, {"name": "models"}))
                continue
            tags = execution_tags(execution, outputs_within(lock, execution.inputs))
            tags |= _tags(execution, info, commit_of.get(execution.stage))
            run_id = _open(mlflow, info, tags)
            files = [path for path in execution.outputs if path.endswith((".csv", ".json"))]
            current = [
                path
                for path in files
                if Path(path).is_file()
                and file_hash(Path(path).read_bytes()) == execution.outputs[path]
            ]
            for event in _events(run_id, execution, info, current):
                writer.write(event)
        except Exception as error:
            raise TrackingError(
                f"{execution.stage}: MLflow failed ({first_line(error)}); run `ptune sync` again "
                "when MLflow works, to create what is missing"
            ) from error
        yield execution.stage, run_id, [path for path in files if path not in current]


def summarize_runs() -> int:
    """Write the summary of all finished trainings and evaluations without one.

    These are the runs of `restore_missing` and of earlier versions.

    Returns:
        The number of runs.

    Raises:
        TrackingError: The tracking server or store cannot be used.
    """
    count = 0
    if not history_exists():
        return count
    for stage in ("train", "evaluate"):  # an evaluation's lineage refers to its training
        try:
            mlflow = connect()
            writer = MlflowWriter(mlflow, DERIVED)
            for run in reversed(stage_runs(mlflow, stage)):
                if CHANGED not in run.data.tags:
                    for name in ("lineage", "summary"):
                        writer.write(Event("derived", run.info.run_id, {"name": name}))
                    count += 1
        except Exception as error:
            raise unreadable(error) from error
    return count


def _tags(execution: Execution, info: StageInfo, commit: str | None) -> dict[str, str]:
    note = _NOTE.format(stage=execution.stage)
    tags = {**info.tags, RESTORED: "true", "mlflow.note.content": note}
    model = flat_params(execution.params).get("model.name")
    # The report reads the results of several models.
    if model is not None and info.stage != "report":
        tags["model"] = model
    if commit is not None:
        tags["mlflow.source.git.commit"] = commit
    return tags


def _open(mlflow: ModuleType, info: StageInfo, tags: Mapping[str, str]) -> str:
    """Create a run, after removing the unfinished one of an interrupted call."""
    client = mlflow.MlflowClient()
    experiment = mlflow.get_experiment_by_name(info.experiment).experiment_id
    for run in client.search_runs(
        [experiment],
        f"tags.`dvc.run_key` = '{tags['dvc.run_key']}' AND tags.`{RESTORED}` = 'true' "
        "AND attributes.status = 'RUNNING'",
    ):
        try:
            client.delete_run(run.info.run_id)
        except mlflow.MlflowException as error:
            # On a server with accounts, deleting takes more permissions than logging.
            if error.error_code != "PERMISSION_DENIED":
                raise
            client.set_terminated(run.info.run_id, "KILLED")
    return str(client.create_run(experiment, run_name=info.run_name, tags=dict(tags)).info.run_id)


def _events(
    run_id: str, execution: Execution, info: StageInfo, files: list[str]
) -> Iterator[Event]:
    """Yield the events that the stage itself would have logged."""
    yield Event("params", run_id, flat_params(execution.params))
    children: list[str] = []
    for path in files:
        yield Event("file", run_id, {"path": path, "folder": None})
        points: dict[str, list[Sequence[Any]]] = {}
        for child, key, value, step in _numbers(path):
            points.setdefault(child, []).extend(metric_points({key: value}, step))
        for child, own in points.items():
            run = f"{run_id}/{child}" if child else run_id
            if child and child not in children:
                children.append(child)
                yield Event("child", run, {"tags": info.tags, "params": {}})
            yield Event("metrics", run, {"points": own})
    for run in (*(f"{run_id}/{child}" for child in children), run_id):
        yield Event("end", run, {"status": "FINISHED"})
    yield Event("derived", run_id, {"name": "models"})


def _numbers(path: str) -> Iterator[tuple[str, str, float, int]]:
    """Yield child run (empty for the stage), name, value and epoch of each number of a file.

    Names and epochs are those of a run that was logged by its stage.
    """
    file = Path(path)
    match file.parts:
        case ("metrics", *_):
            for key, value in read_json(file).items():
                yield "", key, float(value), 0
        case ("curves", *_):
            for row in read_csv(file):
                yield from _epoch(row, file.parent.name)
        case (*_, "relations.csv"):
            for row in read_csv(file):
                yield "", f"test/p_at_1/{row['relation']}", float(row["p_at_1"]), 0


def _epoch(row: Mapping[str, str], task: str) -> Iterator[tuple[str, str, float, int]]:
    """Yield the numbers of one row of a curve.

    Which relations trained together is not on record: one bank for each seed is assumed.
    """
    if "setting" not in row:  # a curve of an earlier version, with one training a relation
        child, suffix = "", f"/{row['relation']}"
    else:
        numbers = f"setting-{row['setting']}/split-{row['split']}/seed-{row['seed']}"
        child, suffix = f"{task}/{numbers}", ""
        if "relation" in row:
            child, suffix = f"bank-1/seed-{row['seed']}", f"/{row['relation']}/{numbers}"
    for column in ("train_loss", "dev_loss", "dev_p_at_1", "dev_score"):
        if row.get(column):
            key = column.replace("_", "/", 1) + suffix
            yield child, key, float(row[column]), int(row["epoch"])
