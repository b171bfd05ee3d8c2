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


class History(Daemon):
    """The MLflow server of a folder."""

    def __init__(self, folder: Folder) -> None:
        super().__init__("MLflow", folder.root / "mlflow")
        self._folder = folder
        self._postgres = Postgres(folder)

    @property
    def address(self) -> str:
        """The address that it listens on."""
        return f"http://{HOST}:{self._folder.ports.mlflow}"

    def check(self) -> None:
        """Check that it is installed.

        Raises:
            ServerError: A library is missing.
        """
        for library in ("boto3", "flask_wtf", "psycopg2"):
            if importlib.util.find_spec(library) is None:
                raise ServerError(f"the library {library} is missing; {INSTALL}")

    def start(self) -> None:
        """Migrate the databases to the schema of this MLflow, then start it.

        Raises:
            ServerError: The databases cannot be used, or it does not start.
        """
        if not self.is_running():
            accounts = self._postgres.uri("accounts")
            configuration = _CONFIGURATION.format(accounts=accounts, admin=ADMIN)
            write_private(self.place / "accounts.ini", configuration)
            self._upgrade()
            self.launch(self._command(), self._environment())
        self.wait_until(self._responds, _START_SECONDS)

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
        answer = self._request("GET", f"users/get?username={name}")
        if answer.status_code == 404:
            answer = self._request("POST", "users/create", account)
        elif answer.ok and renew:
            answer = self._request("PATCH", "users/update-password", account)
        if not answer.ok:
            raise ServerError(f"MLflow rejects the account {name}: {answer.text[:300]}")

    def remove_member(self, name: str) -> None:
        """Delete an account, if there is one.

        Raises:
            ServerError: MLflow rejects the request.
        """
        answer = self._request("DELETE", "users/delete", {"username": name})
        if not answer.ok and answer.status_code != 404:
            raise ServerError(f"MLflow does not delete the account {name}: {answer.text[:300]}")

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
            "MLFLOW_AUTH_CONFIG_PATH": str(self.place / "accounts.ini"),
            "MLFLOW_AUTH_ADMIN_PASSWORD": secrets.admin,
            "MLFLOW_FLASK_SERVER_SECRET_KEY": secrets.session,
            "MLFLOW_DISABLE_TELEMETRY": "true",
            # Jobs are for features that this project does not use, and take 0.5 GB.
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            # Clients may not choose where artifacts are stored: one could name the server's own
            # files, or the artifacts of others, and read and write them through MLflow.
            "MLFLOW_ARTIFACT_LOCATION_MAX_LENGTH": "0",
            "MLFLOW_S3_ENDPOINT_URL": Objects(self._folder).address,
            "AWS_ACCESS_KEY_ID": secrets.objects_mlflow.access,
            "AWS_SECRET_ACCESS_KEY": secrets.objects_mlflow.secret,
            "AWS_DEFAULT_REGION": REGION,
        }

    def _upgrade(self) -> None:
        """Create or migrate the tables; concurrent migrations by workers would break them."""
        upgrade = "db", "upgrade"
        commands = [
            ["mlflow", *upgrade, self._postgres.uri("mlflow")],
            ["mlflow.server.auth", *upgrade, "--url", self._postgres.uri("accounts")],
        ]
        with ThreadPoolExecutor() as pool:
            list(pool.map(self._run, commands))

    def _run(self, command: list[str]) -> None:
        done = subprocess.run(
            [sys.executable, "-m", *command], env=self._environment(), capture_output=True,
            text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            last_line = done.stderr.strip().splitlines()[-1:]
            raise ServerError(f"{' '.join(command[:3])} failed: {' '.join(last_line)}")

    def _responds(self) -> bool:
        with contextlib.suppress(OSError):
            return self._request("GET", f"users/get?username={ADMIN}").ok
        return False

    def _request(
        self, method: str, path: str, values: Mapping[str, str] | None = None
    ) -> requests.Response:
        """Send a request to MLflow as its admin.

        Raises:
            OSError: It does not respond.
        """
        with requests.Session() as session:
            session.trust_env = False  # ignore the environment's proxies
            return session.request(
                method,
                f"{self.address}/api/2.0/mlflow/{path}",
                json=values,
                auth=(ADMIN, self._folder.secrets.admin),
                timeout=_TIMEOUT_SECONDS,
            )
