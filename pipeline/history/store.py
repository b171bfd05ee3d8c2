"""The MLflow store that holds the history.

Without `MLFLOW_TRACKING_URI`, it is `mlflow.db` and `mlartifacts/` at the root of the main
checkout, so that `dvc exp` in a temporary folder logs there too.
"""

import contextlib
import logging
import os
import re
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

import requests
from filelock import FileLock

from pipeline.errors import TrackingError
from pipeline.history.locations import ARTIFACTS, correct_moved
from pipeline.history.views import experiment_tags
from pipeline.workflow.command import EXPERIMENTS
from pipeline.workflow.project import project_root

_FIX = "start the server, or fix or unset MLFLOW_TRACKING_URI"
_MOVE = "Restore a copy of mlflow.db, or move it away and run `ptune sync`"
_SQL = ("sqlite", "mysql", "postgresql", "mssql")
# In the query of an address.
_SECRET = re.compile(r"([?&;][^=&\s]*(?:password|passwd|pwd|token|secret)=)[^&\s]*", re.IGNORECASE)
_SQLITE_HEADER = b"SQLite format 3\0"


def connect(experiment: str | None = None) -> ModuleType:
    """Import MLflow and connect it to the store.

    Args:
        experiment: The one to log to, created if absent; None for reading.

    Raises:
        TrackingError: The tracking server or store cannot be used.
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
            store = local_store(root)
            _check_access(store, write=experiment is not None)
            if os.access(store, os.W_OK) and (count := correct_moved(root)):
                sys.stderr.write(
                    f"The checkout was moved: {count} locations of artifacts in {store} now refer "
                    f"to {root / ARTIFACTS}\n"
                )
            location = (root / ARTIFACTS / (experiment or "")).as_uri()
        else:
            _check_address(uri)
        import mlflow

        # It logs the traceback of each error of the database, and raises the error too.
        logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
        mlflow.set_tracking_uri(uri or sqlite_address(store))
        if not uri:  # MLflow sets it, and the next call would take it for the user's
            os.environ.pop("MLFLOW_TRACKING_URI", None)
        if experiment is None:
            return mlflow
        found = mlflow.get_experiment_by_name(experiment)
        if found is not None and found.lifecycle_stage == "deleted":
            raise _deleted(experiment, found.experiment_id)
        if found is None:
            # Another stage may create it at the same moment.
            with contextlib.suppress(mlflow.MlflowException):
                mlflow.create_experiment(
                    experiment, artifact_location=location, tags=experiment_tags(experiment)
                )
        mlflow.set_experiment(experiment)
    except TrackingError:
        raise
    except Exception as error:
        raise TrackingError(
            f"MLflow at {store_address()} cannot be used: {first_line(error)}\n"
            f"{_advice(error)} Nothing was run."
        ) from error
    return mlflow


def _check_address(address: str) -> None:
    """Check what MLflow would not find at once about the address of a file.

    Raises:
        TrackingError: It is another file, or its folder, which MLflow would create, is missing.
    """
    if not address.startswith("sqlite:///"):
        return
    file = Path(unquote(address.removeprefix("sqlite:///").partition("?")[0]))
    if file.is_file():
        _check_database(file)
    elif not file.parent.is_dir():
        raise TrackingError(f"{without_password(address)}: {file.parent}: no such folder; {_FIX}")


def _check_local(store: Path) -> None:
    """Check that a path, where there is something, is a database that may be read.

    Raises:
        TrackingError: It is not.
    """
    if store.is_symlink() and not store.exists():
        raise TrackingError(
            f"{store}: a link to {store.readlink()}, which is not there; mount its disk, or delete "
            "the link"
        )
    if store.exists():
        _check_access(store)
        if not store.is_file():
            raise TrackingError(f"{store}: not a file; {_MOVE}")
        _check_database(store)


def _check_access(store: Path, *, write: bool = False) -> None:
    """Check that a database may be read or written; SQLite writes a journal beside it.

    Raises:
        TrackingError: It may not.
    """
    denied = [store] if not os.access(store, os.W_OK if write else os.R_OK) else []
    if write and not os.access(store.parent, os.W_OK):
        denied.append(store.parent)
    if denied:
        raise TrackingError(
            f"{denied[0]}: no permission to {'write' if write else 'read'}; check its owner and "
            "mode. Nothing was run."
        )


def _check_database(file: Path) -> None:
    """Check that a file begins as one of SQLite; MLflow would try to open another for 100 seconds.

    Raises:
        TrackingError: It does not.
    """
    with file.open("rb") as content:
        header = content.read(len(_SQLITE_HEADER))
    if header and header != _SQLITE_HEADER:
        raise TrackingError(
            f"sqlite:///{file}: cannot be read: file is not a database\n"
            f"{_MOVE}; `ptune doctor` has details."
        )


def _advice(error: Exception) -> str:
    """Return how to fix a store that cannot be used.

    Raises:
        TrackingError: It belongs to another version of MLflow, which its own error does not say.
    """
    if getattr(error, "error_code", None) == "UNAUTHENTICATED":
        return (
            "Set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD to those of your account on "
            "that server (docs/server.md)."
        )
    if os.environ.get("MLFLOW_TRACKING_URI"):
        return f"{_next_step()} (without it the history is mlflow.db in the checkout)."
    from sqlalchemy.exc import SQLAlchemyError

    with contextlib.suppress(SQLAlchemyError):  # the same error again
        _is_usable(_address())
    return f"{_next_step()}; `ptune doctor` has details."


def _deleted(experiment: str, experiment_id: str) -> TrackingError:
    return TrackingError(
        f"{store_address()}: the experiment {experiment} was deleted. Restore it: "
        f"MLFLOW_TRACKING_URI={store_address()} mlflow experiments restore -x {experiment_id}"
    )


def store_address() -> str:
    """Return the address of the history, without credentials."""
    return without_password(_address())


def _address() -> str:
    return os.environ.get("MLFLOW_TRACKING_URI") or sqlite_address(project_root() / "mlflow.db")


def sqlite_address(file: Path) -> str:
    """Return the address of a database; in addresses, `?` begins a query, and `%` a code."""
    return f"sqlite:///{str(file).replace('%', '%25').replace('?', '%3F')}"


def history_exists() -> bool:
    """Whether there may be a history to read, which reading must not create."""
    return bool(os.environ.get("MLFLOW_TRACKING_URI")) or os.path.lexists(
        project_root() / "mlflow.db"
    )


def store_identity() -> str:
    """Return a name that distinguishes this store from others, without credentials."""
    address = _address()
    if address == sqlite_address(project_root() / "mlflow.db"):
        return "mlflow.db"
    parts = urlsplit(address)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def without_password(text: str) -> str:
    """Return text with the credentials in each of its addresses replaced by `***`."""
    return _SECRET.sub(r"\1***", re.sub(r"//[^/\s]*@", "//***@", text))


def local_store(root: Path) -> Path:
    """Create the SQLite store if it does not exist; two processes or a kill do no harm.

    MLflow creates its tables without a lock: two first users, or a kill, break the file for good.
    So the file is created under another name and renamed.
    """
    store = root / "mlflow.db"
    _check_local(store)
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
            engine = utils.create_sqlalchemy_engine(sqlite_address(partial))
            utils._initialize_tables(engine)
            engine.dispose()
            partial.replace(store)
    return store


def check_readable() -> None:
    """Check, where the history is the file of the checkout, that it may be read.

    Raises:
        TrackingError: It may not, or is no database.
    """
    if not os.environ.get("MLFLOW_TRACKING_URI"):
        _check_local(project_root() / "mlflow.db")


def check_store(timeout_seconds: float) -> bool:
    """Check that the store can be used, without changing it; return whether it has a history.

    Raises:
        TrackingError: It cannot be reached, or belongs to another version of MLflow.
    """
    address = _address()
    if not history_exists():
        return False
    try:
        check_readable()
        _check_address(address)
        if address.startswith(_SQL):
            return _is_usable(address)
        if address.startswith("http"):
            # MLflow's client would retry for a long time.
            requests.get(address, timeout=timeout_seconds).close()
        connect().MlflowClient().search_experiments(max_results=1)
    except TrackingError:
        raise
    except Exception as error:  # of MLflow, its database and its client
        reason = first_line(error)
        if isinstance(error, requests.Timeout):
            reason = f"no answer within {timeout_seconds:g} seconds"
        elif isinstance(error, requests.RequestException):
            reason = f"cannot be reached: {reason}"
        raise TrackingError(f"{store_address()}: {reason}. {_next_step()}") from error
    return True


def _is_usable(address: str) -> bool:
    """Return whether a database has tables; MLflow itself would create or migrate them.

    Raises:
        TrackingError: The tables belong to another version of MLflow, some are missing, or an
            experiment was deleted.
    """
    from mlflow.store.db import utils
    from mlflow.store.tracking.dbmodels.models import SqlExperiment
    from sqlalchemy import inspect, make_url, select

    url = make_url(address)
    if url.get_backend_name() == "sqlite" and not Path(url.database or "").is_file():
        return False
    engine = utils.create_sqlalchemy_engine(address)
    try:
        schema, current = utils._get_schema_version(engine), utils._get_latest_schema_revision()
        if schema not in (None, current):
            raise TrackingError(
                f"{without_password(address)}: schema {schema} is not {current}, that of the "
                "installed MLflow; copy the database, then run `mlflow db upgrade` on it, or "
                "install the MLflow that wrote it"
            )
        missing = set(SqlExperiment.metadata.tables).difference(inspect(engine).get_table_names())
        if schema is None and len(missing) == len(SqlExperiment.metadata.tables):
            return False
        if schema is None or missing:
            lack = f"the table {min(missing)}" if missing else "the version of its schema"
            raise TrackingError(
                f"{without_password(address)}: is damaged: it lacks {lack}. {_next_step()}"
            )
        columns: Any = select(SqlExperiment.name, SqlExperiment.experiment_id)
        with engine.connect() as connection:
            deleted = connection.execute(columns.where(SqlExperiment.lifecycle_stage == "deleted"))
            for name, number in deleted:
                if name in EXPERIMENTS.values():
                    raise _deleted(name, str(number))
    finally:
        engine.dispose()
    return True


def first_line(error: Exception) -> str:
    """Return the first line of an error's message, without passwords, at most 300 characters.

    For a failed connection it is the system's message, and for a database its own, without those of
    the libraries above.
    """
    text = str(error).strip() or repr(error)
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ConnectionError | socket.gaierror) and cause.strerror:
            text = cause.strerror
            break
        if isinstance(original := getattr(cause, "orig", None), Exception):  # of SQLAlchemy
            text = str(original)
            break
        cause = cause.__cause__ or cause.__context__
    line = without_password(text.splitlines()[0])
    return line if len(line) <= 300 else f"{line[:297]}..."


def unreadable(error: Exception) -> TrackingError:
    """Return the error of a history that could not be read."""
    return TrackingError(
        f"{store_address()}: cannot be read: {first_line(error)}\n"
        f"{_next_step()}; `ptune doctor` has details."
    )


def _next_step() -> str:
    return f"S{_FIX[1:]}" if os.environ.get("MLFLOW_TRACKING_URI") else _MOVE


def flat_params(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Return nested parameters as dotted path -> text, as MLflow stores them."""
    flat: dict[str, str] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            flat |= flat_params(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = str(value)
    return flat
