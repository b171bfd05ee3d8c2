"""Whether the history can be used, found out without changing it."""

from dataclasses import dataclass
from pathlib import Path

import requests

from pipeline.errors import TrackingError
from pipeline.history.store import (
    connect,
    first_line,
    history_exists,
    store_address,
    without_password,
)

_NEXT = "start the server, or mend or unset MLFLOW_TRACKING_URI"
_SQL = ("sqlite", "mysql", "postgresql", "mssql")


@dataclass(frozen=True)
class Store:
    """The history.

    Attributes:
        address: without a password.
        begun: whether there is something at it.
    """

    address: str
    begun: bool


def check_store(seconds: float) -> Store:
    """Return where the history is, after asking it.

    Args:
        seconds: how long a server is waited for.

    Raises:
        TrackingError: it cannot be reached, or is of another version of MLflow.
    """
    address = store_address()
    shown = without_password(address)
    if not history_exists():
        return Store(shown, False)
    try:
        if address.startswith(_SQL):
            return Store(shown, _is_begun(address))
        if address.startswith("http"):
            # MLflow's own client tries again for long.
            requests.get(address, timeout=seconds).close()
        connect().MlflowClient().search_experiments(max_results=1)
    except TrackingError:
        raise
    except requests.RequestException as error:
        reason = f"no answer within {seconds:g} seconds"
        if not isinstance(error, requests.Timeout):
            reason = f"cannot be reached: {first_line(error)}"
        raise TrackingError(without_password(f"{shown}: {reason}; {_NEXT}")) from error
    except Exception as error:  # of MLflow's, its database's and its client's many
        raise TrackingError(without_password(f"{shown}: {first_line(error)}; {_NEXT}")) from error
    return Store(shown, True)


def _is_begun(address: str) -> bool:
    """Check the schema of a database; MLflow itself would make, or alter, what is not current."""
    from mlflow.store.db import utils
    from sqlalchemy import make_url

    url = make_url(address)
    if url.get_backend_name() == "sqlite" and not Path(url.database or "").is_file():
        return False
    engine = utils.create_sqlalchemy_engine(address)
    try:
        found, current = utils._get_schema_version(engine), utils._get_latest_schema_revision()
    finally:
        engine.dispose()
    if found not in (None, current):
        raise TrackingError(
            f"{without_password(address)}: its schema {found} is not that of the installed MLflow, "
            f"{current}; copy the database, then run `mlflow db upgrade` on it, or install the "
            "MLflow that wrote it"
        )
    return found is not None
