"""MLflow's server, with accounts: history in PostgreSQL, artifacts in the object store."""

import base64
import contextlib
import importlib.util
import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tools.server.daemons import Daemon
from tools.server.folder import HOST, INSTALL, Folder, ServerError, write_private
from tools.server.objects import MLFLOW_BUCKET, REGION, Objects
from tools.server.postgres import Postgres

ADMIN = "admin"
_START_SECONDS = 120
_ANSWER_SECONDS = 30

# Whoever has an account logs into what others have made. Deleting is for who made it.
_CONFIGURATION = """[mlflow]
default_permission = EDIT
database_uri = {accounts}
admin_username = {admin}
# Checking a password takes a fifth of a second of a core, on purpose. A worker asks again after
# so many seconds: so long may a password that was changed, or an account deleted, still be good.
auth_cache_ttl_seconds = 60
"""


class History:
    """The MLflow server of a folder."""

    name = "mlflow"

    def __init__(self, folder: Folder) -> None:
        """Take the server's folder."""
        self._folder = folder
        self._postgres = Postgres(folder)

    @property
    def address(self) -> str:
        """Where it listens."""
        return f"http://{HOST}:{self._folder.ports.mlflow}"

    @property
    def daemon(self) -> Daemon:
        """Its process."""
        return Daemon("MLflow", self._folder.place("mlflow"))

    def check(self) -> None:
        """Check that it can be run here.

        Raises:
            ServerError: a library is not installed.
        """
        for library in ("boto3", "flask_wtf", "psycopg2"):
            if importlib.util.find_spec(library) is None:
                raise ServerError(f"the library {library} is not here; {INSTALL}")

    def is_running(self) -> bool:
        """Tell whether it runs."""
        return self.daemon.process() is not None

    def start(self) -> None:
        """Bring its databases to the schema of this MLflow, then start it.

        Raises:
            ServerError: the databases cannot be used, or it does not start.
        """
        daemon = self.daemon
        if not self.is_running():
            configuration = daemon.folder / "accounts.ini"
            accounts = self._postgres.uri("accounts")
            write_private(configuration, _CONFIGURATION.format(accounts=accounts, admin=ADMIN))
            self._upgrade()
            daemon.start(self._command(), self._environment())
        daemon.wait_until(self._answers, _START_SECONDS)

    def stop(self) -> bool:
        """End it; return whether it ran."""
        return self.daemon.stop()

    def add_member(self, name: str, password: str, *, renew: bool) -> None:
        """Make an account.

        Args:
            name: of the member.
            password: the first one.
            renew: whether an account that is there gets this password, too.

        Raises:
            ServerError: MLflow refuses.
        """
        account = {"username": name, "password": password}
        try:
            self._ask("GET", f"users/get?username={name}")
        except urllib.error.HTTPError as error:
            if error.code != 404:
                raise ServerError(f"MLflow does not look up {name}: {_said(error)}") from error
            self._told("POST", "users/create", account)
        else:
            if renew:
                self._told("PATCH", "users/update-password", account)

    def _command(self) -> list[str]:
        return [
            sys.executable, "-m", "mlflow", "server", "--app-name", "basic-auth",
            "--host", HOST, "--port", str(self._folder.ports.mlflow), "--workers", "2",
            "--backend-store-uri", self._postgres.uri("mlflow"),
            "--artifacts-destination", f"s3://{MLFLOW_BUCKET}/artifacts",
        ]  # fmt: skip

    def _environment(self) -> dict[str, str]:
        secrets = self._folder.secrets
        # What the caller has set to be a member or a client must not reach the server.
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW_", "AWS_"))}
        return {
            **kept,
            "MLFLOW_AUTH_CONFIG_PATH": str(self._folder.place("mlflow") / "accounts.ini"),
            "MLFLOW_AUTH_ADMIN_PASSWORD": secrets.admin,
            "MLFLOW_FLASK_SERVER_SECRET_KEY": secrets.session,
            "MLFLOW_DISABLE_TELEMETRY": "true",
            # Jobs are for what this project does not use, and take half a gigabyte.
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "MLFLOW_S3_ENDPOINT_URL": Objects(self._folder).address,
            "AWS_ACCESS_KEY_ID": secrets.objects_mlflow.access,
            "AWS_SECRET_ACCESS_KEY": secrets.objects_mlflow.secret,
            "AWS_DEFAULT_REGION": REGION,
        }

    def _upgrade(self) -> None:
        """Make the tables, or bring them to this version.

        Workers that start together would each do so, and break them for good.
        """
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
            last = done.stderr.strip().splitlines()[-1:]
            raise ServerError(f"{' '.join(command[1:6])} failed: {' '.join(last)}")

    def _answers(self) -> bool:
        with contextlib.suppress(OSError):
            self._ask("GET", f"users/get?username={ADMIN}")
            return True
        return False

    def _told(self, method: str, what: str, values: Mapping[str, str]) -> None:
        try:
            self._ask(method, what, values)
        except urllib.error.HTTPError as error:
            raise ServerError(f"MLflow refuses {what}: {_said(error)}") from error

    def _ask(self, method: str, what: str, values: Mapping[str, str] | None = None) -> Any:
        """Ask MLflow something as its admin.

        Raises:
            OSError: it does not answer, or with an error.
        """
        login = f"{ADMIN}:{self._folder.secrets.admin}"
        request = urllib.request.Request(
            f"{self.address}/api/2.0/mlflow/{what}",
            None if values is None else json.dumps(values).encode(),
            {
                "Authorization": f"Basic {base64.b64encode(login.encode()).decode()}",
                "Content-Type": "application/json",
            },
            method=method,
        )
        # Never by a proxy that the environment names.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=_ANSWER_SECONDS) as answer:
            return json.load(answer)


def _said(error: urllib.error.HTTPError) -> str:
    return error.read().decode(errors="replace")[:300] or str(error)
