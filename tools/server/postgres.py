"""PostgreSQL: a cluster of its own, beside any that the system has."""

import os
import pwd
import re
import shutil
import subprocess
from pathlib import Path

from tools.server.folder import HOST, Folder, ServerError, write_private

USER = "ptune"
DATABASES = ("mlflow", "accounts")

_INSTALL = "install it (Debian: apt-get install postgresql)"
# The account that PostgreSQL's packages make.
_ACCOUNT = "postgres"


class Postgres:
    """The database server of a folder."""

    name = "postgres"

    def __init__(self, folder: Folder) -> None:
        """Take the server's folder."""
        self._folder = folder
        self._place = folder.root / "postgres"
        self._cluster = self._place / "cluster"
        self._pass_file = folder.root / "pgpass"

    @property
    def address(self) -> str:
        """Where it listens."""
        return f"{HOST}:{self._folder.ports.postgres}"

    def check(self) -> None:
        """Check that it can be run here.

        Raises:
            ServerError: a program is not installed, or there is no account to run it as.
        """
        for program in ("initdb", "pg_ctl", "psql"):
            _program(program)
        _account()

    def is_running(self) -> bool:
        """Tell whether it runs."""
        if not (self._cluster / "PG_VERSION").exists():
            return False
        return self._run("pg_ctl", "status", "-D", str(self._cluster)).returncode == 0

    def start(self) -> None:
        """Make the cluster and its databases if there are none; start it.

        Raises:
            ServerError: it cannot be made or does not start.
        """
        if not (self._cluster / "PG_VERSION").exists():
            self._make_cluster()
        if not self.is_running():
            port = self._folder.ports.postgres
            options = f"-p {port} -c listen_addresses={HOST} -c unix_socket_directories="
            self._checked(
                "pg_ctl", "start", "--wait", "-D", str(self._cluster),
                "-l", str(self._place / "log.txt"), "-o", options,
            )  # fmt: skip
        for database in DATABASES:
            if not self.query("postgres", f"SELECT 1 FROM pg_database WHERE datname='{database}'"):
                self.query("postgres", f"CREATE DATABASE {database}")

    def stop(self) -> bool:
        """End it; return whether it ran."""
        if not self.is_running():
            return False
        self._checked("pg_ctl", "stop", "--wait", "-m", "fast", "-D", str(self._cluster))
        return True

    def uri(self, database: str) -> str:
        """Return the address of a database for SQLAlchemy; the password is in a file it names."""
        # MLflow is tested with psycopg2; without a name, SQLAlchemy takes another driver.
        return f"postgresql+psycopg2://{USER}@{self.address}/{database}?passfile={self._pass_file}"

    def query(self, database: str, sql: str) -> str:
        """Return what a statement prints, a row a line, columns separated by `|`.

        Raises:
            ServerError: it fails.
        """
        done = subprocess.run(
            [
                _program("psql"), "--no-psqlrc", "--tuples-only", "--no-align", "--quiet",
                "--set=ON_ERROR_STOP=1", "--host", HOST,
                "--port", str(self._folder.ports.postgres), "--username", USER,
                "--no-password", "--dbname", database, "--command", sql,
            ],
            env={**os.environ, "PGPASSFILE": str(self._pass_file)},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            raise ServerError(f"PostgreSQL at {self.address}: {done.stderr.strip()}")
        return done.stdout.strip()

    def _make_cluster(self) -> None:
        password = self._folder.secrets.postgres
        write_private(self._pass_file, f"{HOST}:*:*:{USER}:{password}\n")
        # What a killed attempt left behind; a whole cluster has its version in it.
        shutil.rmtree(self._place, ignore_errors=True)
        self._place.mkdir(mode=0o700)
        first = self._place / "first-password"
        write_private(first, password)
        self._give_away()
        self._checked(
            "initdb", "-D", str(self._cluster), f"--username={USER}", f"--pwfile={first}",
            "--auth=scram-sha-256", "--encoding=UTF8", "--locale=C.UTF-8",
        )  # fmt: skip
        first.unlink()

    def _give_away(self) -> None:
        """Give its folder to the account that it runs as.

        Raises:
            ServerError: that account cannot get there.
        """
        account = _account()
        if account is None:
            return
        for path in (self._place, *self._place.iterdir()):
            os.chown(path, account.pw_uid, account.pw_gid)
        closed = [path for path in self._place.parents if not path.stat().st_mode & 0o001]
        if closed:
            raise ServerError(
                f"PostgreSQL runs as user {_ACCOUNT}, who cannot get to {self._place}: {closed[0]} "
                "lets nobody pass; choose another --data, or run this as an ordinary user"
            )

    def _checked(self, program: str, *arguments: str) -> None:
        done = self._run(program, *arguments)
        if done.returncode:
            log = self._place / "log.txt"
            hint = f"; {log} may tell why" if log.exists() else ""
            raise ServerError(f"{program} failed: {done.stderr.strip()}{hint}")

    def _run(self, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        account = _account()
        return subprocess.run(
            [_program(program), *arguments],
            cwd="/",  # the current folder may be closed to that account
            user=None if account is None else account.pw_uid,
            group=None if account is None else account.pw_gid,
            extra_groups=None if account is None else [],
            capture_output=True, text=True, check=False,
        )  # fmt: skip


def _account() -> pwd.struct_passwd | None:
    """Return the account that PostgreSQL is run as, as it refuses to run as root; None for our own.

    Raises:
        ServerError: there is none.
    """
    if os.geteuid() != 0:
        return None
    try:
        return pwd.getpwnam(_ACCOUNT)
    except KeyError:
        raise ServerError(
            f"PostgreSQL does not run as root, and there is no user {_ACCOUNT}: {_INSTALL}, or run "
            "this as an ordinary user"
        ) from None


def _program(name: str) -> str:
    """Return the path of one of PostgreSQL's programs, of the newest version that is there.

    Raises:
        ServerError: it is not installed.
    """
    # Debian keeps most of them off the PATH, in a folder for each version.
    kept = Path("/usr/lib/postgresql").glob(f"*/bin/{name}")
    newest = sorted(kept, key=lambda path: [int(n) for n in re.findall(r"\d+", str(path))])
    found = str(newest[-1]) if newest else shutil.which(name)
    if found is None:
        raise ServerError(f"{name} of PostgreSQL is not here; {_INSTALL}")
    return found
