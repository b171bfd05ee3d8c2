"""MLflow's server, with accounts: history in PostgreSQL, artifacts in the object store."""

import contextlib
import importlib.util
import os
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import requests

from tools.server.daemons import Daemon
from tools.server.folder import HOST, INSTALL, Folder, ServerError, write_private
from tools.server.objects import MLFLOW_BUCKET, REGION, Objects
from tools.server.postgres import Postgres

ADMIN = "admin"
_START_SECONDS = 120
_TIMEOUT_SECONDS = 30

# Members may log to experiments that others created. Only the creator may delete.
_CONFIGURATION = """[mlflow]
default_permission = EDIT
database_uri = {accounts}
admin_username = {admin}
# Checking a password takes 0.2 seconds of a core, on purpose, so workers cache the result for this
# long. A changed password or a deleted account may still work until then.
auth_cache_ttl_seconds = 60
"""


class History:
    """The MLflow server of a folder."""

    name = "mlflow"

    def __init__(self, folder: Folder) -> None:
        """Initialize with the server's folder."""
        self._folder = folder
        self._postgres = Postgres(folder)

    @property
    def address(self) -> str:
        """The address that it listens on."""
        return f"http://{HOST}:{self._folder.ports.mlflow}"

    @property
    def daemon(self) -> Daemon:
        """The process."""
        return Daemon("MLflow", self._folder.place("mlflow"))

    def check(self) -> None:
        """Check that it is installed.

        Raises:
            ServerError: A library is missing.
        """
        for library in ("boto3", "flask_wtf", "psycopg2"):
            if importlib.util.find_spec(library) is None:
                raise ServerError(f"the library {library} is missing; {INSTALL}")

    def is_running(self) -> bool:
        """Whether it is running."""
        return self.daemon.process() is not None

    def start(self) -> None:
        """Migrate the databases to the schema of this MLflow, then start it.

        Raises:
            ServerError: The databases cannot be used, or it does not start.
        """
        daemon = self.daemon
        if not self.is_running():
            configuration = daemon.folder / "accounts.ini"
            accounts = self._postgres.uri("accounts")
            write_private(configuration, _CONFIGURATION.format(accounts=accounts, admin=ADMIN))
            self._upgrade()
            daemon.start(self._command(), self._environment())
        daemon.wait_until(self._responds, _START_SECONDS)

    def stop(self) -> bool:
        """Stop it; return whether it was running."""
        return self.daemon.stop()

    def add_member(self, name: str, password: str, *, renew: bool) -> None:
        """Create an account if there is none.

        Args:
            name: The member's.
            password: The initial password.
            renew: Whether to set this password for an existing account.

        Raises:
            ServerError: MLflow rejects the request.
        """
        account = {"username": name, "password": password}
        try:
            self._request("GET", f"users/get?username={name}")
        except requests.HTTPError as error:
            if error.response is None or error.response.status_code != 404:
                raise ServerError(
                    f"MLflow rejects the lookup of {name}: {_message(error)}"
                ) from error
            self._post("POST", "users/create", account)
        else:
            if renew:
                self._post("PATCH", "users/update-password", account)

    def _command(self) -> list[str]:
        return [
            sys.executable, "-m", "mlflow", "server", "--app-name", "basic-auth",
            "--host", HOST, "--port", str(self._folder.ports.mlflow), "--workers", "2",
            "--backend-store-uri", self._postgres.uri("mlflow"),
            "--artifacts-destination", f"s3://{MLFLOW_BUCKET}/artifacts",
        ]  # fmt: skip

    def _environment(self) -> dict[str, str]:
        secrets = self._folder.secrets
        # The caller's settings as a client of MLflow or S3 must not reach the server.
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW_", "AWS_"))}
        return {
            **inherited,
            "MLFLOW_AUTH_CONFIG_PATH": str(self._folder.place("mlflow") / "accounts.ini"),
            "MLFLOW_AUTH_ADMIN_PASSWORD": secrets.admin,
            "MLFLOW_FLASK_SERVER_SECRET_KEY": secrets.session,
            "MLFLOW_DISABLE_TELEMETRY": "true",
            # Jobs are for features that this project does not use, and take 0.5 GB.
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "MLFLOW_S3_ENDPOINT_URL": Objects(self._folder).address,
            "AWS_ACCESS_KEY_ID": secrets.objects_mlflow.access,
            "AWS_SECRET_ACCESS_KEY": secrets.objects_mlflow.secret,
            "AWS_DEFAULT_REGION": REGION,
        }

    def _upgrade(self) -> None:
        """Create or migrate the tables; concurrent migrations by workers would break them."""
        python = (sys.executable, "-m")
        commands = [
            (*python, "mlflow", "db", "upgrade", self._postgres.uri("mlflow")),
            (
                *python, "mlflow.server.auth", "db", "upgrade",
                "--url", self._postgres.uri("accounts"),
            ),
        ]  # fmt: skip
        with ThreadPoolExecutor() as pool:
            list(pool.map(self._run, commands))

    def _run(self, command: tuple[str, ...]) -> None:
        done = subprocess.run(
            command, env=self._environment(), capture_output=True, text=True, check=False
        )
        if done.returncode:
            last_line = done.stderr.strip().splitlines()[-1:]
            raise ServerError(f"{' '.join(command[1:6])} failed: {' '.join(last_line)}")

    def _responds(self) -> bool:
        with contextlib.suppress(OSError):
            self._request("GET", f"users/get?username={ADMIN}")
            return True
        return False

    def _post(self, method: str, path: str, values: Mapping[str, str]) -> None:
        try:
            self._request(method, path, values)
        except requests.HTTPError as error:
            raise ServerError(f"MLflow rejects {path}: {_message(error)}") from error

    def _request(self, method: str, path: str, values: Mapping[str, str] | None = None) -> None:
        """Send a request to MLflow as its admin.

        Raises:
            OSError: It does not respond, or responds with an error.
        """
        with requests.Session() as session:
            session.trust_env = False  # ignore the environment's proxies
            session.request(
                method,
                f"{self.address}/api/2.0/mlflow/{path}",
                json=values,
                auth=(ADMIN, self._folder.secrets.admin),
                timeout=_TIMEOUT_SECONDS,
            ).raise_for_status()


def _message(error: requests.HTTPError) -> str:
    text = "" if error.response is None else error.response.text
    return text[:300] or str(error)
