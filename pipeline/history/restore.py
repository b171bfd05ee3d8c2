"""Runs for executions that this history has none of, from what DVC and git kept of them.

After `dvc pull` in a fresh clone, or on a new server, the outputs are there and nothing says how
they came about. What `dvc.lock` records, and the metrics and curves beside it, is enough for a run
of parameters, hashes and numbers; who ran it, when and on what is lost, and is not made up.
"""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import TrackingError
from pipeline.files import read_csv, read_json
from pipeline.history.executions import READ, RESTORED, WROTE, TrackedHistory
from pipeline.history.models import list_models
from pipeline.history.store import (
    EXPERIMENTS,
    connect,
    first_line,
    flat_params,
    without_password,
)
from pipeline.workflow.command import About, about_command
from pipeline.workflow.lock import Execution, file_hash, outputs_within

_MOST_PARAMS = 100  # that MLflow takes in a call


@dataclass(frozen=True)
class Restored:
    """A run that was made afterward.

    Attributes:
        run_id: MLflow's.
        stage: of the execution.
        left_out: files whose numbers are not in it, as they are missing or not those on record.
    """

    run_id: str
    stage: str
    left_out: list[str]


def restore_missing(
    lock: Mapping[str, Execution], root: Path, *, commit_of: Mapping[str, str]
) -> Iterator[Restored]:
    """Make a run for each execution that has none; a second call makes none.

    What they trained and evaluated is put into the list of models, where it is not there.

    Args:
        lock: stage -> execution, as in `dvc.lock`.
        root: of the project.
        commit_of: stage -> the commit that holds this execution's record, where one does.

    Raises:
        TrackingError: the tracking server or store cannot be used.
    """
    history = TrackedHistory()
    for execution in lock.values():
        about = about_command(execution.command)
        if about is None or execution.run_key is None:
            continue
        runs = history.find_by_run_key(execution.run_key)
        own = [run for run in runs if run.execution.outputs == dict(execution.outputs)]
        if own:
            _list_models(own[0].run_id, execution.stage)
        else:
            within = outputs_within(lock, execution.inputs)
            yield _restore(execution, about, within, root, commit_of.get(execution.stage))


def _restore(
    execution: Execution, about: About, within: Mapping[str, str], root: Path, commit: str | None
) -> Restored:
    files = [path for path in execution.outputs if path.endswith((".csv", ".json"))]
    left_out = [path for path in files if not _is_on_record(execution, root, path)]
    try:
        mlflow = connect(EXPERIMENTS[about.kind])
        client = mlflow.MlflowClient()
        experiment = mlflow.get_experiment_by_name(EXPERIMENTS[about.kind]).experiment_id
        _forget_unfinished(client, experiment, execution)
        common = {
            **about.tags,
            **_model_tag(execution, about),
            RESTORED: "true",
            "dvc.run_key": str(execution.run_key),
            **({} if commit is None else {"mlflow.source.git.commit": commit}),
        }
        tags = {
            "dvc.stage": execution.stage,
            "dvc.command": execution.command,
            "mlflow.note.content": _NOTE.format(stage=execution.stage),
            **{f"{READ}{path}": digest for path, digest in {**execution.inputs, **within}.items()},
            **{f"{WROTE}{path}": digest for path, digest in execution.outputs.items()},
        }
        run_id = client.create_run(experiment, run_name=about.name, tags=common | tags).info.run_id
        _log_params(client, run_id, execution.params)
        for path in files:
            if path in left_out:
                continue
            client.log_artifact(run_id, str(root / path))
            for unit, points in _points(path, root / path).items():
                if not unit:
                    client.log_batch(run_id, metrics=points)
                    continue
                family = {"mlflow.parentRunId": run_id, "unit": unit}
                child = client.create_run(experiment, run_name=unit, tags=common | family)
                client.log_batch(child.info.run_id, metrics=points)
                client.set_terminated(child.info.run_id)
        client.set_terminated(run_id)
        list_models(run_id)
    except Exception as error:
        raise TrackingError(
            without_password(f"{execution.stage}: MLflow took no run ({first_line(error)}); ")
            + "run `ptune sync` again when it works, what is missing then is made"
        ) from error
    return Restored(run_id, execution.stage, left_out)


def _list_models(run_id: str, stage: str) -> None:
    """Put a run of before the list of models was kept into it."""
    try:
        list_models(run_id)
    except Exception as error:
        raise TrackingError(
            without_password(f"{stage}: MLflow lists no model: {first_line(error)}")
        ) from error


_NOTE = """Stage `{stage}`, restored from `dvc.lock` and the files beside it by `ptune sync`.

When, where and in which environment it ran is not known: this history did not see it.
"""


def _model_tag(execution: Execution, about: About) -> dict[str, str]:
    """Return the tag that a stage with a language model sets; a report tells of any."""
    name = flat_params(execution.params).get("model.name")
    return {} if name is None or about.kind == "report" else {"model": str(name)}


def _is_on_record(execution: Execution, root: Path, path: str) -> bool:
    """Tell whether a file holds what the execution wrote."""
    file = root / path
    return file.is_file() and file_hash(file.read_bytes()) == execution.outputs[path]


def _forget_unfinished(client: Any, experiment: str, execution: Execution) -> None:
    """Delete what an earlier call began and did not end; close what is not ours to delete."""
    from mlflow.exceptions import MlflowException

    for run in client.search_runs(
        [experiment],
        f"tags.`dvc.run_key` = '{execution.run_key}' AND tags.`{RESTORED}` = 'true' "
        "AND attributes.status = 'RUNNING'",
    ):
        try:
            client.delete_run(run.info.run_id)
        except MlflowException as error:
            # On a server with accounts, it takes more to delete than to log.
            if error.error_code != "PERMISSION_DENIED":
                raise
            client.set_terminated(run.info.run_id, "KILLED")


def _log_params(client: Any, run_id: str, params: Mapping[str, Any]) -> None:
    from mlflow.entities import Param

    values = [Param(key, str(value)) for key, value in flat_params(params).items()]
    for start in range(0, len(values), _MOST_PARAMS):
        client.log_batch(run_id, params=values[start : start + _MOST_PARAMS])


def _points(path: str, file: Path) -> dict[str, list[Any]]:
    """Return the numbers of a file as MLflow's points, by the unit that they belong to.

    The names and steps are those of a run that was seen; the whole stage's unit is empty.
    """
    from mlflow.entities import Metric

    now = int(time.time() * 1000)
    points: dict[str, list[Metric]] = {}
    for unit, key, value, step in _numbers(path, file):
        points.setdefault(unit, []).append(Metric(key, value, now, step))
    return points


def _numbers(path: str, file: Path) -> Iterator[tuple[str, str, float, int]]:
    """Yield unit, name, value and epoch of each number of a metrics file or a table."""
    match Path(path).parts:
        case ("metrics", *_):
            for key, value in read_json(file).items():
                yield "", key, float(value), 0
        case ("curves", *_):
            for row in read_csv(file):
                yield from _epoch(row)
        case (*_, "relations.csv"):
            for row in read_csv(file):
                yield "", f"test/p_at_1/{row['relation']}", float(row["p_at_1"]), 0


def _epoch(row: Mapping[str, str]) -> Iterator[tuple[str, str, float, int]]:
    """Yield the numbers of an epoch: of a relation in its stage, or of a training of its own."""
    relation = row.get("relation")
    unit = "" if relation else f"setting-{row['setting']}/split-{row['split']}/seed-{row['seed']}"
    for column in ("train_loss", "dev_loss", "dev_p_at_1", "dev_score"):
        if row.get(column):
            key = column.replace("_", "/", 1) + (f"/{relation}" if relation else "")
            yield unit, key, float(row[column]), int(row["epoch"])
