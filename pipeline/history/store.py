"""Where the history is: the MLflow store that all of this package talks to.

Without `MLFLOW_TRACKING_URI` the history is `mlflow.db` and `mlartifacts/` at the root of the main
checkout, so that `dvc exp` in a temporary folder logs there too.
"""

import contextlib
import logging
import os
import re
import socket
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from filelock import FileLock

from pipeline.errors import TrackingError
from pipeline.workflow.project import project_root

# Kind of stage -> the experiment of its runs, so that the columns of each fit its runs.
EXPERIMENTS = {
    "validate": "p-tuning-data",
    "download": "p-tuning-data",
    "splits": "p-tuning-data",
    "train": "p-tuning-train",
    "evaluate": "p-tuning-evaluate",
    "report": "p-tuning-report",
    "promote": "p-tuning-promote",
}

# MLflow's pages open on runs and their charts, not on traces of a chat application.
_EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development"}


def connect(experiment: str | None = None) -> ModuleType:
    """Import MLflow and point it at the store.

    Args:
        experiment: the one to log to, made if absent; None to read.

    Raises:
        TrackingError: the tracking server or store cannot be used.
    """
    for key, value in {
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",  # the default waits four minutes for a dead server
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_DISABLE_AGENT_HINT": "true",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    }.items():
        os.environ.setdefault(key, value)
    uri = os.environ.get("MLFLOW_TRACKING_URI")
    root = project_root()
    location = None
    try:
        if not uri:
            uri = f"sqlite:///{local_store(root)}"
            location = (root / "mlartifacts" / (experiment or "")).as_uri()
        import mlflow

        mlflow.set_tracking_uri(uri)
        if experiment is None:
            return mlflow
        if mlflow.get_experiment_by_name(experiment) is None:
            # Another stage may make it at the same moment.
            with contextlib.suppress(mlflow.MlflowException):
                mlflow.create_experiment(
                    experiment, artifact_location=location, tags=_EXPERIMENT_TAGS
                )
        mlflow.set_experiment(experiment)
    except Exception as error:
        raise TrackingError(
            without_password(f"MLflow at {store_address()} cannot be used: {first_line(error)}\n")
            + f"{_advice(error)} Nothing was run."
        ) from error
    return mlflow


def _advice(error: Exception) -> str:
    if getattr(error, "error_code", None) == "UNAUTHENTICATED":
        return (
            "Set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD to those of your account "
            "on that server (docs/server.md)."
        )
    return (
        "Start the server, or mend or unset MLFLOW_TRACKING_URI (without it the history is "
        "mlflow.db in the checkout)."
    )


def store_address() -> str:
    """Return where the history is, credentials included."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{project_root()}/mlflow.db"


def history_exists() -> bool:
    """Tell whether there may be a history to read; reading must not make one."""
    return bool(os.environ.get("MLFLOW_TRACKING_URI")) or (project_root() / "mlflow.db").exists()


def store_identity() -> str:
    """Return what tells this store from others; no secret is in it."""
    address = store_address()
    if address == f"sqlite:///{project_root()}/mlflow.db":
        return "mlflow.db"
    parts = urlsplit(address)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def without_password(text: str) -> str:
    """Return text with the credentials of each address in it blotted out."""
    return re.sub(r"//[^/\s]*@", "//***@", text)


def local_store(root: Path) -> Path:
    """Make the SQLite store if there is none, in a way that two processes or a kill survive.

    MLflow makes its tables without a lock: two first users break the file for good, and so does a
    kill in between. So it is made aside and renamed.
    """
    store = root / "mlflow.db"
    if store.exists():
        return store
    work = root / ".work"
    work.mkdir(exist_ok=True)
    with FileLock(work / "mlflow.lock"):
        if not store.exists():
            from mlflow.store.db import utils

            logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)
            partial = work / "mlflow.db.partial"
            partial.unlink(missing_ok=True)
            engine = utils.create_sqlalchemy_engine(f"sqlite:///{partial}")
            utils._initialize_tables(engine)
            engine.dispose()
            partial.replace(store)
    return store


def first_line(error: Exception) -> str:
    """Return what an error says, in one line that is not too long.

    Of a connection that failed it is what the system says, not what three libraries made of it.
    """
    text = _said_by_system(error) or str(error).strip() or repr(error)
    line = text.splitlines()[0]
    return line if len(line) <= 300 else f"{line[:297]}..."


def unreadable(error: Exception) -> TrackingError:
    """Return what to tell a person whose history could not be read."""
    return TrackingError(
        without_password(f"{store_address()}: cannot be read: {first_line(error)}\n")
        + "Start the server, or mend or unset MLFLOW_TRACKING_URI; `ptune doctor` says more."
    )


def _said_by_system(error: BaseException | None) -> str | None:
    while error is not None:
        if isinstance(error, ConnectionError | socket.gaierror) and error.strerror:
            return error.strerror
        error = error.__cause__ or error.__context__
    return None


def flat_params(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested parameters to dotted paths; an empty group stays as `{}`."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            flat.update(flat_params(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat
