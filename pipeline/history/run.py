"""One MLflow run per stage execution.

If the server cannot be reached, a stage stops before it does any work. If it is lost later, events
are kept on disk and sent when it is back; results never depend on it.
"""

import contextlib
import json
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from pipeline.errors import PipelineError, TrackingError, warn
from pipeline.history import context
from pipeline.history.derived import DERIVED
from pipeline.history.events import Event, Kind, MlflowWriter, metric_points
from pipeline.history.executions import MAX_TAG, WROTE, execution_tags
from pipeline.history.journal import EventLog, LiveLog, forward_logs
from pipeline.history.store import connect, first_line, flat_params, without_password
from pipeline.report.markdown import code_block, code_span
from pipeline.workflow.command import StageInfo
from pipeline.workflow.git import changes, commit_problem
from pipeline.workflow.project import StageIdentity, output_hashes

_DESCRIPTION = """Stage `{stage}` of the pipeline.

{command}

| input | hash |
|---|---|
{inputs}
To reproduce it: `ptune reproduce` with this run's id."""


@dataclass
class StageRun:
    """The MLflow run of a running stage, or a child run of it.

    Events that cannot be sent are kept and sent later. No call fails, so results never depend on
    the log.

    Attributes:
        run_id: MLflow's; for a child run, its key in the log.
        attempt: 1 for a new run, and one more each time that the run is resumed.
    """

    run_id: str
    _log: LiveLog
    attempt: int = 1

    def log_metrics(self, metrics: Mapping[str, float], epoch: int | None = None) -> None:
        """Log numbers of an epoch or of the whole run.

        Values that the run already has for an epoch, also from an earlier attempt, are kept.
        """
        self._record("metrics", {"points": metric_points(metrics, epoch or 0)})

    def log_file(self, path: Path, folder: str | None = None) -> None:
        """Log a copy of a small file."""
        self._record("file", {"path": str(path), "folder": folder})

    @contextlib.contextmanager
    def child(
        self, name: str, *, tags: Mapping[str, str], params: Mapping[str, Any]
    ) -> Iterator["StageRun"]:
        """Open a child run for one unit of the stage's work; it ends with the block.

        If this run is resumed, its child runs are resumed too. `name` is unique within this run;
        `params` are those that distinguish the unit.
        """
        key = f"{self.run_id}/{name}"
        values = {"tags": {**context.machine_tags(), **tags}, "params": flat_params(params)}
        self._log.record(Event("child", key, values))
        child = StageRun(key, self._log)
        with _ending(child):
            yield child

    def log_text(self, text: str, name: str) -> None:
        """Log text as a file."""
        self._record("text", {"text": text, "name": name})

    def log_dataset(self, name: str, path: str, digest: str | None, context: str) -> None:
        """Log an input data set such as `lama/geonames`, the DVC output `path`.

        It is identified by DVC's hash; without one, outside DVC, nothing is logged. `context` is
        `training` or `evaluation`.
        """
        if digest is not None:
            source = json.dumps({"url": f"dvc://{path}?md5={digest}"})
            values = {"name": name, "digest": digest, "source": source, "context": context}
            self._record("dataset", values)

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Set tags; values that are too long for MLflow are cut."""
        self._record("tags", {key: value[:MAX_TAG] for key, value in tags.items()})

    def _record(self, kind: Kind, values: Mapping[str, Any]) -> None:
        self._log.record(Event(kind, self.run_id, values))


@contextlib.contextmanager
def stage_run(
    stage: StageIdentity | None, info: StageInfo, *, resumes: str | None = None
) -> Iterator[StageRun]:
    """Open the MLflow run of a stage; it ends with the block.

    The run ends FINISHED; KILLED after a signal; FAILED, with the error's text in the tag `error`,
    after an exception, which is raised again.

    Args:
        stage: None outside DVC.
        info: gives the run's experiment, name and tags.
        resumes: The id of an earlier attempt's run, which is opened again if the store still has
            it; None opens a new run.

    Raises:
        TrackingError: The tracking server or store cannot be used.
    """
    mlflow = connect(info.experiment)
    _forward_others(mlflow)
    with contextlib.ExitStack() as locks:
        try:
            _close_killed_runs(mlflow)
            earlier = _resume(mlflow, resumes, locks)
            run_id = _open_run(mlflow, earlier, info, _tags(stage, info))
        except Exception as error:
            raise TrackingError(f"MLflow opens no run: {first_line(error)}") from error
        log = EventLog(run_id, name=info.name)
        if earlier is None:
            locks.enter_context(log.lock())
        live = LiveLog(log, MlflowWriter(mlflow, DERIVED, check_existing=earlier is not None))
        run = StageRun(run_id, live)
        if earlier is not None:
            run.attempt = int(earlier.data.tags.get("attempt", "1")) + 1
        try:
            with _ending(run), _logging_errors(run):
                if run.attempt > 1:
                    run.set_tags({"attempt": str(run.attempt)})
                    run._record("untag", {"name": "error"})
                if stage is not None:
                    run._record("params", flat_params(stage.params))
                run.log_text(context.environment(), "environment.json")
                if patch := changes(*context.SOURCES):
                    run.log_text(patch, "git/diff.patch")
                with _system_metrics(run_id, resumed=earlier is not None):
                    yield run
                _log_outputs(run, live)
                if stage is not None:
                    for name in DERIVED:
                        run._record("derived", {"name": name})
        finally:
            if log.pending:
                warn(
                    f"{len(log.pending)} log events could not be sent to MLflow and are kept; "
                    "when it is back, send them with `ptune send`"
                )
            else:
                log.delete()


@contextlib.contextmanager
def _ending(run: StageRun) -> Iterator[None]:
    status = "FAILED"
    try:
        yield
        status = "FINISHED"
    except (KeyboardInterrupt, SystemExit):
        status = "KILLED"
        raise
    finally:
        run._record("end", {"status": status})


@contextlib.contextmanager
def _system_metrics(run_id: str, *, resumed: bool) -> Iterator[None]:
    """Have MLflow sample the machine's load until the block ends, if its switch asks for it.

    MLflow sends the samples itself: while the server is away, they are lost.
    """
    from mlflow.environment_variables import MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

    if not MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING.get():
        yield
        return
    monitor = SystemMetricsMonitor(run_id, resume_logging=resumed)
    monitor.start()
    try:
        yield
    finally:
        monitor.finish()


@contextlib.contextmanager
def _logging_errors(run: StageRun) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        run.set_tags({"error": without_password(str(error) or repr(error))})
        if not isinstance(error, PipelineError):
            run.log_text(without_password(traceback.format_exc()), "error.txt")
        raise


def _resume(mlflow: ModuleType, run_id: str | None, locks: contextlib.ExitStack) -> Any | None:
    """Return an earlier run that is to be resumed, after locking and forwarding its log.

    None without such a run. It may be finished: dvc can be killed after the stage ends and before
    dvc records it.
    """
    if run_id is None or _find_run(mlflow, run_id) is None:
        return None
    log = EventLog(run_id)
    locks.enter_context(log.lock(on_wait=lambda: None))  # `ptune send` may hold it
    log.load()
    log.forward(MlflowWriter(mlflow, DERIVED, check_existing=True), lambda _: None)
    log.delete()
    return _find_run(mlflow, run_id)


def _find_run(mlflow: ModuleType, run_id: str) -> Any | None:
    try:
        run = mlflow.get_run(run_id)
    except mlflow.MlflowException:  # another store than last time, or deleted from it
        return None
    return run if run.info.lifecycle_stage == "active" else None


def _open_run(
    mlflow: ModuleType, earlier: Any | None, info: StageInfo, tags: Mapping[str, str]
) -> str:
    """Open the earlier run again, or a new one, and return its id.

    It is not MLflow's "active run": MLflow ends that one with the process, as finished in any case,
    and slowly while the server is away.
    """
    from mlflow.entities import RunTag
    from mlflow.tracking.context.registry import resolve_tags

    client = mlflow.MlflowClient()
    if earlier is None:
        experiment = mlflow.get_experiment_by_name(info.experiment).experiment_id
        run = client.create_run(experiment, run_name=info.run_name, tags=resolve_tags(dict(tags)))
        return str(run.info.run_id)
    run_id = str(earlier.info.run_id)
    client.update_run(run_id, status="RUNNING", name=info.run_name)
    client.log_batch(run_id, tags=[RunTag(key, value) for key, value in tags.items()])
    return run_id


def _close_killed_runs(mlflow: ModuleType) -> None:
    """End the runs whose process ran on this machine and is gone: kill -9 leaves them RUNNING."""
    running = mlflow.search_runs(
        filter_string="tags.process LIKE '%' AND attributes.status = 'RUNNING'",
        search_all_experiments=True,
        output_format="list",
    )
    for run in running:
        if context.has_ended(run.data.tags):
            mlflow.MlflowClient().set_terminated(run.info.run_id, "KILLED")


def _forward_others(mlflow: ModuleType) -> None:
    """Forward the events of earlier runs: this run's lineage reads them in the history."""
    try:
        for report in forward_logs(mlflow):
            for reason in report.refused:
                warn(f"{report.name}: MLflow refuses a log event ({reason})")
            if report.trouble and not report.other_store:
                warn(
                    f"{report.name}: {report.num_pending} log events are still kept "
                    f"({report.trouble}); send them with `ptune send`"
                )
    except Exception as error:  # the logs of others may be unreadable; this stage continues
        warn(f"events of earlier runs are not sent ({first_line(error)})")


def _log_outputs(run: StageRun, log: LiveLog) -> None:
    """Log the hashes of the outputs, and the hardware, which is known by now."""
    tags = {"hardware": context.hardware_name(context.gpu_in_use())}
    try:
        hashes = output_hashes()
    except Exception as error:  # dvc raises many types
        log.warn("the outputs' hashes are not logged", first_line(error))
    else:
        tags |= {f"{WROTE}{path}": digest for path, digest in hashes.items()}
    run.set_tags(tags)


def _tags(stage: StageIdentity | None, info: StageInfo) -> dict[str, str]:
    tags = {**info.tags, **context.machine_tags()}
    dirty = False
    if (state := context.git_state()) is not None:
        commit, dirty = state
        tags |= {"mlflow.source.git.commit": commit, "git.dirty": str(dirty).lower()}
    elif problem := commit_problem():
        warn(f"the run is logged without its commit: {problem}")
    if stage is None:
        note = f"**{info.name}**, run outside DVC: its data and parameters are not recorded."
        tags |= {"dvc.stage": "", "dvc.experiment": "outside DVC"}
    else:
        note = _DESCRIPTION.format(
            stage=stage.stage,
            command=code_block(stage.command.replace(" --", " \\\n  --")),
            inputs="".join(
                f"| {code_span(path, cell=True)} | `{digest}` |\n"
                for path, digest in stage.inputs.items()
            ),
        )
        tags |= execution_tags(stage, stage.within)
        tags["dvc.experiment"] = stage.experiment or "workspace"
    return {**tags, "mlflow.note.content": note}
