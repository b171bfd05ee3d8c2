"""PostgreSQL: a separate cluster, independent of the system's."""

import contextlib
import os
import pwd
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

from tools.server.folder import HOST, Folder, ServerError, write_private

USER = "ptune"
DATABASES = ("mlflow", "accounts")

_INSTALL = "install it (Debian: apt-get install postgresql)"
# The account that PostgreSQL's packages create.
_ACCOUNT = "postgres"


class Postgres:
    """The database server of a folder."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._place = folder.root / "postgres"
        self._cluster = self._place / "cluster"
        self._pass_file = folder.root / "pgpass"

    @property
    def address(self) -> str:
        """The address that it listens on."""
        return f"{HOST}:{self._folder.ports.postgres}"

    def check(self) -> None:
        """Check that it is installed.

        Raises:
            ServerError: A program is missing, or there is no account to run it as.
        """
        for program in ("initdb", "pg_ctl"):
            _program(program)
        _account()

    def is_running(self) -> bool:
        """Whether it is running."""
        if not (self._cluster / "PG_VERSION").exists():
            return False
        return self._run("pg_ctl", "status", "-D", str(self._cluster)).returncode == 0

    def start(self) -> None:
        """Create the cluster and its databases if they do not exist, and start it.

        Raises:
            ServerError: It cannot be created or does not start.
        """
        if not (self._cluster / "PG_VERSION").exists():
            self._create_cluster()
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
        """Stop it; return whether it was running."""
        if not self.is_running():
            return False
        self._checked("pg_ctl", "stop", "--wait", "-m", "fast", "-D", str(self._cluster))
        return True

    def uri(self, database: str) -> str:
        """Return SQLAlchemy's address of a database; it names a file with the password."""
        # MLflow is tested with psycopg2, which is not SQLAlchemy's default driver.
        return f"postgresql+psycopg2://{USER}@{self.address}/{database}?passfile={self._pass_file}"

    def query(self, database: str, sql: str) -> list[tuple[Any, ...]]:
        """Return the rows of a statement's result.

        Raises:
            ServerError: It fails.
        """
        import psycopg2

        try:
            # libpq does not know SQLAlchemy's name of the driver.
            address = self.uri(database).replace("+psycopg2", "")
            with contextlib.closing(psycopg2.connect(address)) as connection:
                connection.autocommit = True
                with connection.cursor() as cursor:
                    cursor.execute(sql)
                    return list(cursor.fetchall()) if cursor.description else []
        except psycopg2.Error as error:
            raise ServerError(f"PostgreSQL at {self.address}: {str(error).strip()}") from error

    def _create_cluster(self) -> None:
        password = self._folder.secrets.postgres
        write_private(self._pass_file, f"{HOST}:*:*:{USER}:{password}\n")
        # Remove the rest of a killed attempt; a complete cluster has a file with its version.
        shutil.rmtree(self._place, ignore_errors=True)
        self._place.mkdir(mode=0o700)
        password_file = self._place / "first-password"
        write_private(password_file, password)
        self._change_owner()
        self._checked(
            "initdb", "-D", str(self._cluster), f"--username={USER}", f"--pwfile={password_file}",
            "--auth=scram-sha-256", "--encoding=UTF8", "--locale=C.UTF-8",
        )  # fmt: skip
        password_file.unlink()

    def _change_owner(self) -> None:
        """Make the account that it runs as the owner of its folder.

        Raises:
            ServerError: That account has no access to it.
        """
        account = _account()
        if account is None:
            return
        for path in (self._place, *self._place.iterdir()):
            os.chown(path, account.pw_uid, account.pw_gid)
        closed = [path for path in self._place.parents if not path.stat().st_mode & 0o001]
        if closed:
            raise ServerError(
                f"PostgreSQL runs as user {_ACCOUNT}, who cannot access {self._place}: {closed[0]} "
                "denies it; choose another --data, or run this as an ordinary user"
            )

    def _checked(self, program: str, *arguments: str) -> None:
        done = self._run(program, *arguments)
        if done.returncode:
            log = self._place / "log.txt"
            hint = f"; see {log}" if log.exists() else ""
            raise ServerError(f"{program} failed: {done.stderr.strip()}{hint}")

    def _run(self, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        account = _account()
        return subprocess.run(
            [_program(program), *arguments],
            cwd="/",  # that account may not have access to the current folder
            user=None if account is None else account.pw_uid,
            group=None if account is None else account.pw_gid,
            extra_groups=None if account is None else [],
            capture_output=True, text=True, check=False,
        )  # fmt: skip


def _account() -> pwd.struct_passwd | None:
    """Return the account that root runs PostgreSQL as; None for the current one.

    Raises:
        ServerError: There is no such account.
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
    """Return the path of one of PostgreSQL's programs, of the newest installed version.

    Raises:
        ServerError: It is not installed.
    """
    # Debian has most of them outside the PATH, in a folder for each version.
    paths = Path("/usr/lib/postgresql").glob(f"*/bin/{name}")
    versions = sorted(paths, key=lambda path: [int(n) for n in re.findall(r"\d+", str(path))])
    program = str(versions[-1]) if versions else shutil.which(name)
    if program is None:
        raise ServerError(f"PostgreSQL's {name} is missing; {_INSTALL}")
    return program
