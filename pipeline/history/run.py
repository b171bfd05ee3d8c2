"""One MLflow run for each stage execution.

A server that cannot be reached stops a stage before it does any work. What one that is lost later
cannot be sent is kept, to be sent when it is back; results never depend on it.
"""

import contextlib
import importlib.metadata
import json
import os
import platform
import socket
import sys
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import psutil

from pipeline.errors import PipelineError, TrackingError
from pipeline.history.derived import STEPS
from pipeline.history.events import Entry, Kind, Sender
from pipeline.history.executions import READ, WROTE
from pipeline.history.journal import Origin, Spool
from pipeline.history.machine import gpu_in_use, hardware_name
from pipeline.history.outbox import Outbox
from pipeline.history.sending import deliver
from pipeline.history.store import (
    connect,
    first_line,
    flat_params,
    store_identity,
    without_password,
)
from pipeline.workflow.git import changes, git_text
from pipeline.workflow.project import StageIdentity, output_hashes, project_root

# Files that decide what a stage does; a change in another one leaves the tree clean.
_SOURCES = ("dvc.yaml", "params.yaml", "pipeline", "stages", "requirements.lock")
_LIBRARIES = ("torch", "transformers", "dvc", "mlflow", "numpy", "safetensors", "tokenizers")
_MAX_TAG = 5000


@dataclass
class StageRun:
    """The MLflow run of a stage that is running, or one below it.

    What cannot be logged is kept and sent later; no call fails: results never depend on the log.

    Attributes:
        run_id: MLflow's; of a run below a stage's that could not be opened yet, what stands for it
            in the entries that are kept.
        attempt: 1, and one more each time that a killed stage goes on in the same run.
    """

    run_id: str
    _outbox: Outbox
    attempt: int = 1

    def log_metrics(self, metrics: Mapping[str, float], epoch: int | None = None) -> None:
        """Log numbers, of one epoch or of the whole run.

        What the run has for an epoch, also of an earlier attempt, is not logged twice.
        """
        values = {key: float(value) for key, value in metrics.items()}
        self._log("metrics", {"step": epoch or 0, "metrics": values})

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Log parameters, by their dotted paths."""
        self._log("params", _as_text(params))

    def log_file(self, path: Path, folder: str | None = None) -> None:
        """Log a copy of a small file that a person wants to see."""
        self._log("file", {"path": str(path), "folder": folder})

    @contextlib.contextmanager
    def child(
        self, name: str, *, tags: Mapping[str, str], params: Mapping[str, Any]
    ) -> Iterator["StageRun"]:
        """Open a run below this one, for one unit of its work; close it as the block ends.

        An attempt that goes on in this run goes on in its children.

        Args:
            name: of the unit, the only one of its name in this run.
            tags: what the unit is about.
            params: what tells it from the others; dotted path -> value.
        """
        run = f"{self.run_id}/{name}"
        about = {"tags": {**_machine_tags(), **tags}, "params": _as_text(params)}
        self._outbox.log(Entry("child", run, about))
        child = StageRun(self._outbox.sender.child_id(run) or run, self._outbox)
        status = "FAILED"
        try:
            yield child
            status = "FINISHED"
        except (KeyboardInterrupt, SystemExit):
            status = "KILLED"
            raise
        finally:
            child.end(status)

    def log_text(self, text: str, name: str) -> None:
        """Log text as a file."""
        self._log("text", {"text": text, "name": name})

    def log_dataset(self, name: str, path: str, digest: str | None, context: str) -> None:
        """Log what the stage read, by its content.

        Args:
            name: such as `lama/geonames`.
            path: the DVC output that holds it.
            digest: DVC's hash of it; None outside DVC, when nothing is logged.
            context: `training` or `evaluation`.
        """
        if digest is not None:
            source = json.dumps({"url": f"dvc://{path}?md5={digest}"})
            about = {"name": name, "digest": digest, "source": source, "context": context}
            self._log("dataset", about)

    def log_step(self, name: str) -> None:
        """Log what one of STEPS reads in the history."""
        self._log("step", {"name": name})

    def take_over(self, earlier: Any) -> None:
        """Note that the earlier attempts of this run are gone on with, and what they logged."""
        self._outbox.sender.doubt(self.run_id)
        self.attempt = int(earlier.data.tags.get("attempt", "1")) + 1
        self.set_tags({"attempt": str(self.attempt)})
        if "error" in earlier.data.tags:
            self._log("untag", {"name": "error"})

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Set tags; a longer text than MLflow takes is cut."""
        self._log("tags", {key: value[:_MAX_TAG] for key, value in tags.items()})

    def end(self, status: str) -> None:
        """Log how the run ended, in MLflow's words."""
        self._log("end", {"status": status})

    def _log(self, kind: Kind, values: Mapping[str, Any]) -> None:
        self._outbox.log(Entry(kind, self.run_id, values))


@contextlib.contextmanager
def stage_run(
    stage: StageIdentity | None,
    *,
    experiment: str,
    name: str,
    tags: Mapping[str, str],
    resumes: str | None = None,
) -> Iterator[StageRun]:
    """Open the MLflow run of a stage; close it as the block ends.

    The run ends FINISHED; KILLED after a signal; FAILED with the error's text in tag `error` after
    an exception, which goes on.

    Args:
        stage: who is running; None outside DVC.
        experiment: MLflow's experiment; made if absent.
        name: the run's name, such as `train/lama/p-tuning`.
        tags: what the run is about (benchmark, task, method, model).
        resumes: id of the run of an earlier attempt whose progress is gone on with; it is opened
            again, if the store still has it. None opens a new one.

    Raises:
        TrackingError: the tracking server or store cannot be used.
    """
    mlflow = connect(experiment)
    _send_others(mlflow)
    sender = Sender(mlflow, STEPS)
    try:
        _close_killed_runs(mlflow, stage)
        earlier = _find_run(mlflow, resumes)
        if earlier is not None:
            _send_kept(sender, earlier.info.run_id)
            earlier = _find_run(mlflow, resumes)  # as what was sent has left it
        about = {**tags, **_stage_tags(stage), **_machine_tags(), **_git_tags()}
        about["mlflow.note.content"] = _description(name, stage)
        run_id = _open_run(mlflow, experiment, earlier, name, about)
    except Exception as error:
        raise TrackingError(
            without_password(f"MLflow opens no run: {first_line(error)}")
        ) from error
    origin = Origin(store_identity(), name)
    outbox = Outbox(sender, Spool(project_root(), run_id), origin)
    run = StageRun(run_id, outbox)
    status = "FAILED"
    try:
        if earlier is not None:
            run.take_over(earlier)
        if stage is not None:
            run.log_params(stage.params)
        run.log_text(_environment(), "environment.json")
        patch = changes(*_SOURCES)
        if patch:
            run.log_text(patch, "git/diff.patch")
        yield run
        _log_outputs(run, outbox)
        if stage is not None:
            run.log_step("lineage")
            run.log_step("models")
        status = "FINISHED"
    except (KeyboardInterrupt, SystemExit):
        status = "KILLED"
        raise
    except Exception as error:
        run.set_tags({"error": without_password(str(error) or repr(error))})
        if not isinstance(error, PipelineError):
            run.log_text(without_password(traceback.format_exc()), "error.txt")
        raise
    finally:
        run.end(status)
        _tell_kept(outbox.close())


def _open_run(
    mlflow: ModuleType, experiment: str, earlier: Any | None, name: str, tags: Mapping[str, str]
) -> str:
    """Open a run, an earlier one again if there is one, and return its id.

    It is not MLflow's "active run": that one is ended as the process ends, which takes long while
    the server is away, and as finished, whatever it was.
    """
    from mlflow.entities import RunTag
    from mlflow.tracking.context.registry import resolve_tags

    client = mlflow.MlflowClient()
    if earlier is None:
        own = mlflow.get_experiment_by_name(experiment).experiment_id
        made = client.create_run(own, run_name=name, tags=resolve_tags(dict(tags)))
        return str(made.info.run_id)
    run_id = str(earlier.info.run_id)
    client.update_run(run_id, status="RUNNING", name=name)
    client.log_batch(run_id, tags=[RunTag(key, value) for key, value in tags.items()])
    return run_id


def _send_others(mlflow: ModuleType) -> None:
    """Send what earlier runs could not: this one reads what they left in the history."""
    try:
        for delivery in deliver(mlflow):
            for reason in delivery.refused:
                _warn(f"{delivery.name}: MLflow refuses a log entry ({reason})")
            if delivery.trouble and not delivery.elsewhere:
                _warn(
                    f"{delivery.name}: {delivery.left} log entries are kept still "
                    f"({delivery.trouble}); send them with `ptune send`"
                )
    except Exception as error:  # what others left may be unreadable; this stage can do without
        _warn(f"what earlier runs kept is not sent ({without_password(first_line(error))})")


def _send_kept(sender: Sender, run_id: str) -> None:
    """Send what an earlier attempt of a run could not: it comes before what follows."""
    spool = Spool(project_root(), run_id)
    if spool.origin() is not None:
        with spool.lock(on_wait=lambda: None):  # `ptune send` may be at it
            spool.send(sender)


def _log_outputs(run: StageRun, outbox: Outbox) -> None:
    """Log what was written, and on what it was computed: by now it is known."""
    about = {"hardware": hardware_name(gpu_in_use())}
    try:
        outputs = output_hashes()
    except Exception as error:  # of dvc, which raises many kinds
        outbox.warn("the outputs' hashes are not logged", first_line(error))
    else:
        about |= {f"{WROTE}{path}": value for path, value in outputs.items()}
    run.set_tags(about)


def _tell_kept(entries: int) -> None:
    if entries:
        _warn(
            f"{entries} log entries could not be sent to MLflow and are kept; "
            "when it is back, send them with `ptune send`"
        )


def _warn(text: str) -> None:
    sys.stderr.write(f"warning: {text}\n")


def _find_run(mlflow: ModuleType, run_id: str | None) -> Any | None:
    """Return a run of the store; None where there is none of this id.

    It may be finished: dvc can be killed between the stage's end and its own note of it.
    """
    if run_id is None:
        return None
    try:
        run = mlflow.get_run(run_id)
    except mlflow.MlflowException:  # another store than last time, or deleted there
        return None
    return run if run.info.lifecycle_stage == "active" else None


def _close_killed_runs(mlflow: ModuleType, stage: StageIdentity | None) -> None:
    """Mark runs of the same key whose process is gone: kill -9 leaves them running for ever."""
    if stage is None or stage.run_key is None:
        return
    running = mlflow.search_runs(
        filter_string=f"tags.`dvc.run_key` = '{stage.run_key}' AND attributes.status = 'RUNNING'",
        search_all_experiments=True,
        output_format="list",
    )
    for run in running:
        tags = run.data.tags
        here = tags.get("host") == socket.gethostname()
        if here and not _is_alive(tags.get("process", "")):
            mlflow.MlflowClient().set_terminated(run.info.run_id, "KILLED")


def _process_tag() -> str:
    process = psutil.Process()
    return f"{process.pid} {process.create_time():.2f}"


def _is_alive(tag: str) -> bool:
    pid, _, created = tag.partition(" ")
    try:
        return f"{psutil.Process(int(pid)).create_time():.2f}" == created
    except (psutil.Error, ValueError):
        return False


def _stage_tags(stage: StageIdentity | None) -> dict[str, str]:
    if stage is None:
        return {"dvc.stage": "", "dvc.experiment": "outside DVC"}
    tags = {
        "dvc.stage": stage.name,
        "dvc.command": stage.command[:_MAX_TAG],
        "dvc.experiment": stage.experiment or "workspace",
        **{f"{READ}{path}": value for path, value in {**stage.inputs, **stage.within}.items()},
    }
    return tags if stage.run_key is None else {**tags, "dvc.run_key": stage.run_key}


def _machine_tags() -> dict[str, str]:
    return {"host": socket.gethostname(), "process": _process_tag()}


def _git_tags() -> dict[str, str]:
    commit = (git_text("rev-parse", "HEAD") or "").strip()
    if not commit:
        return {}
    changed = git_text("status", "--porcelain", "--", *_SOURCES) or ""
    return {"mlflow.source.git.commit": commit, "git.dirty": str(bool(changed.strip())).lower()}


def library_versions() -> dict[str, str]:
    """Return library -> version, of those that can change a result and are installed."""
    versions = {}
    for library in _LIBRARIES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[library] = importlib.metadata.version(library)
    return versions


def _environment() -> str:
    return json.dumps(
        {
            "python": platform.python_version(),
            "platform": platform.platform(),
            "cpus": os.cpu_count(),
            "libraries": library_versions(),
        },
        indent=2,
    )


def _description(name: str, stage: StageIdentity | None) -> str:
    """Return Markdown that says what the run is and how to make it again."""
    if stage is None:
        return f"**{name}**, run outside DVC: nothing ties it to data or parameters."
    lines = [
        f"Stage `{stage.name}` of the pipeline.",
        "",
        "```",
        stage.command.replace(" --", " \\\n  --"),
        "```",
        "",
        "| read | content |",
        "|---|---|",
        *(f"| `{path}` | `{value}` |" for path, value in stage.inputs.items()),
        "",
        f"To make it again: check out the commit of this run, `dvc repro -s {stage.name}`."
        + (" The tree had changes: apply `git/diff.patch` first." if _is_dirty() else ""),
    ]
    return "\n".join(lines)


def _is_dirty() -> bool:
    return _git_tags().get("git.dirty") == "true"


def _as_text(params: Mapping[str, Any]) -> dict[str, str]:
    return {key: str(value) for key, value in flat_params(params).items()}
