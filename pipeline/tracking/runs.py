"""One MLflow run for each stage execution.

A server that cannot be reached stops a stage before it does any work; one that is lost later costs
log entries, never results.
"""

import contextlib
import importlib.metadata
import json
import os
import platform
import socket
import subprocess
import sys
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import psutil

from pipeline.errors import PipelineError, TrackingError
from pipeline.git import Commits
from pipeline.lineage import StageIdentity, folder_listings, output_hashes
from pipeline.lock import read_lock
from pipeline.provenance.tracing import Tracer
from pipeline.provenance.writing import as_tree
from pipeline.tracking.executions import READ, WROTE, TrackedHistory
from pipeline.tracking.models import link_evaluated, list_trained
from pipeline.tracking.store import connect, first_line, flat_params, without_password

# Files that decide what a stage does; a change in another one leaves the tree clean.
_SOURCES = ("dvc.yaml", "params.yaml", "pipeline", "stages", "requirements.lock")
_LIBRARIES = ("torch", "transformers", "dvc", "mlflow", "numpy", "safetensors", "tokenizers")
_MAX_TAG = 5000


@dataclass
class StageRun:
    """The MLflow run of a stage that is running.

    A call that fails warns once and lets the stage go on: results never depend on the log.

    Attributes:
        run_id: MLflow's.
        attempt: 1, and one more each time that a killed stage goes on in the same run.
    """

    run_id: str
    _mlflow: ModuleType
    attempt: int = 1
    _logged: set[tuple[str, int]] = field(default_factory=set)
    _warned: bool = field(default=False)
    _evaluated: str | None = None
    _dataset: Any = None

    def log_metrics(self, metrics: Mapping[str, float], epoch: int | None = None) -> None:
        """Log numbers, of one epoch or of the whole run.

        What an earlier attempt of a resumed run has logged for an epoch is not logged twice. The
        numbers of a whole evaluation stand in the list of models too, with their dataset.
        """
        if not self.run_id:  # of a child that could not be opened
            return
        step = epoch or 0
        new = {key: value for key, value in metrics.items() if (key, step) not in self._logged}
        listed = {"model_id": self._evaluated, "dataset": self._dataset} if epoch is None else {}
        with self._unharmed():
            self._mlflow.log_metrics(new, step=step, run_id=self.run_id, **listed)

    def log_file(self, path: Path, folder: str | None = None) -> None:
        """Log a copy of a small file that a person wants to see."""
        with self._unharmed():
            self._mlflow.log_artifact(str(path), folder)

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
        child = StageRun("", self._mlflow, _warned=self._warned)
        client = self._mlflow.MlflowClient()
        with child._unharmed():
            own = client.get_run(self.run_id)
            found = client.search_runs(
                [own.info.experiment_id],
                f"tags.`mlflow.parentRunId` = '{self.run_id}' AND tags.unit = '{name}'",
            )
            if found:
                child.run_id = found[0].info.run_id
                client.update_run(child.run_id, status="RUNNING")
                child._note_logged(found[0])
            else:
                inherited = ("mlflow.source.git.commit", "git.dirty", "dvc.run_key", "model")
                kept = {key: own.data.tags[key] for key in inherited if key in own.data.tags}
                made = client.create_run(
                    own.info.experiment_id,
                    run_name=name,
                    tags={
                        **kept, **_machine_tags(), **tags,
                        "mlflow.parentRunId": self.run_id, "unit": name,
                    },
                )  # fmt: skip
                child.run_id = made.info.run_id
            self._mlflow.log_params(flat_params(params), run_id=child.run_id)
        status = "FAILED"
        try:
            yield child
            status = "FINISHED"
        except (KeyboardInterrupt, SystemExit):
            status = "KILLED"
            raise
        finally:
            self._warned = child._warned
            with self._unharmed():
                client.set_terminated(child.run_id, status)

    def log_text(self, text: str, name: str) -> None:
        """Log text as a file."""
        with self._unharmed():
            self._mlflow.log_text(text, name)

    def log_dataset(self, name: str, path: str, digest: str | None, context: str) -> None:
        """Log what the stage read, by its content.

        Args:
            name: such as `lama/gazetteer`.
            path: the DVC output that holds it.
            digest: DVC's hash of it; None outside DVC, when nothing is logged.
            context: `training` or `evaluation`.
        """
        if digest is None:
            return
        from mlflow.data.http_dataset_source import HTTPDatasetSource
        from mlflow.data.meta_dataset import MetaDataset

        with self._unharmed():
            source = HTTPDatasetSource(f"dvc://{path}?md5={digest}")
            # MLflow marks a method abstract that the class does not need.
            dataset = MetaDataset(source, name=name, digest=digest)  # type: ignore[abstract]
            self._mlflow.log_input(dataset, context=context)
            self._dataset = dataset

    def evaluates(self, inputs: Mapping[str, str]) -> None:
        """Link what is evaluated, if it is in the list of models.

        Args:
            inputs: path -> DVC's hash of what the stage reads.
        """
        with self._unharmed():
            self._evaluated = link_evaluated(self._mlflow, self.run_id, inputs)

    def take_over(self, earlier: Any) -> None:
        """Note what the earlier attempts of this run have logged, and that it goes on."""
        with self._unharmed():
            client = self._mlflow.MlflowClient()
            self._note_logged(earlier)
            self.attempt = int(earlier.data.tags.get("attempt", "1")) + 1
            self._mlflow.set_tags({"attempt": str(self.attempt)})
            if "error" in earlier.data.tags:
                client.delete_tag(self.run_id, "error")

    def _note_logged(self, earlier: Any) -> None:
        client = self._mlflow.MlflowClient()
        for key in earlier.data.metrics:
            history = client.get_metric_history(self.run_id, key)
            self._logged |= {(key, point.step) for point in history}

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Set tags; a longer text than MLflow takes is cut."""
        with self._unharmed():
            self._mlflow.set_tags({key: value[:_MAX_TAG] for key, value in tags.items()})

    @contextlib.contextmanager
    def _unharmed(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # MLflow raises many kinds, and none may cost a result
            if not self._warned:
                self._warned = True
                sys.stderr.write(
                    f"warning: MLflow took no log entry ({first_line(error)}); "
                    "the stage goes on, its outputs are complete\n"
                )


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
    try:
        _close_killed_runs(mlflow, stage)
        earlier = _find_run(mlflow, resumes)
        active = mlflow.start_run(
            run_id=earlier.info.run_id if earlier is not None else None,
            run_name=name,
            tags={**tags, **_stage_tags(stage), **_machine_tags(), **_git_tags()},
            description=_description(name, stage),
        )
    except Exception as error:
        raise TrackingError(
            without_password(f"MLflow opens no run: {first_line(error)}")
        ) from error
    run = StageRun(active.info.run_id, mlflow)
    status = "FAILED"
    try:
        if earlier is not None:
            run.take_over(earlier)
        if stage is not None:
            with run._unharmed():
                mlflow.log_params(flat_params(stage.params))
        run.log_text(_environment(), "environment.json")
        patch = _git("diff", "HEAD", "--", *_SOURCES)
        if patch:
            run.log_text(patch, "git/diff.patch")
        if stage is not None and tags.get("stage") == "evaluate":
            run.evaluates(stage.inputs)
        yield run
        with run._unharmed():
            outputs = output_hashes()
            run.set_tags({f"{WROTE}{path}": value for path, value in outputs.items()})
            if tags.get("stage") == "train":
                list_trained(mlflow, run.run_id, outputs)
            if stage is not None:
                _log_lineage(run)
        status = "FINISHED"
    except (KeyboardInterrupt, SystemExit):
        status = "KILLED"
        raise
    except Exception as error:
        run.set_tags({"error": str(error) or repr(error)})
        if not isinstance(error, PipelineError):
            run.log_text(traceback.format_exc(), "error.txt")
        raise
    finally:
        with run._unharmed():
            mlflow.end_run(status)


def _log_lineage(run: StageRun) -> None:
    """Leave the trace back to the raw data, and a tag for each run that made an input."""
    history = TrackedHistory()
    own = history.find(run.run_id)
    if own is None:
        return
    tracer = Tracer(
        read_lock(Path("dvc.lock")),
        history,
        hash_at=Commits(Path()).hash_at,
        listing=folder_listings(),
    )
    step = tracer.back_from(own)
    run.log_text(as_tree(step), "lineage.txt")
    makers = {a.path: a.made_by.run for a in step.inputs if a.made_by is not None}
    run.set_tags({f"made_from.{path}": own.run_id for path, own in makers.items() if own})


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
    commit = _git("rev-parse", "HEAD").strip()
    if not commit:
        return {}
    changed = _git("status", "--porcelain", "--", *_SOURCES)
    return {"mlflow.source.git.commit": commit, "git.dirty": str(bool(changed.strip())).lower()}


def _git(*arguments: str) -> str:
    """Return what git prints; nothing where there is no git or no checkout."""
    try:
        done = subprocess.run(
            ["git", *arguments], capture_output=True, text=True, errors="replace", check=False
        )
    except FileNotFoundError:
        return ""
    return done.stdout if done.returncode == 0 else ""


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
