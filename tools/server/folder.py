"""The folder of a server: ports, secrets, members, and a folder for each program."""

import contextlib
import json
import os
import secrets
import socket
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from filelock import BaseFileLock, FileLock
from pydantic import TypeAdapter

from pipeline.errors import PipelineError

HOST = "127.0.0.1"
# How to install missing Python packages.
INSTALL = "run `make server`"


class ServerError(PipelineError):
    """An error of the server that its user can fix."""


@dataclass(frozen=True)
class Ports:
    """The ports of the programs; members use the first two."""

    mlflow: int
    objects: int
    postgres: int
    objects_grpc: int
    master: int
    master_grpc: int
    volume: int
    volume_grpc: int
    filer: int
    filer_grpc: int


@dataclass(frozen=True)
class KeyPair:
    """The credentials of an S3 client."""

    access: str
    secret: str

    @classmethod
    def make(cls) -> "KeyPair":
        """Return new random credentials."""
        return cls(secrets.token_hex(10), secrets.token_hex(20))


def new_password() -> str:
    """Return a random password of 32 characters that need no quotes in a shell."""
    return secrets.token_urlsafe(24)


@dataclass(frozen=True)
class Secrets:
    """Secrets of the server's programs.

    Attributes:
        admin: The password of MLflow's user `admin`.
        session: The key that signs forms of MLflow's pages.
        postgres: The password of the database's user.
        objects_admin: Creates buckets.
        objects_mlflow: For MLflow's bucket only.
    """

    admin: str
    session: str
    postgres: str
    objects_admin: KeyPair
    objects_mlflow: KeyPair

    @classmethod
    def make(cls) -> "Secrets":
        """Return new random secrets."""
        return cls(new_password(), new_password(), new_password(), KeyPair.make(), KeyPair.make())


class Folder:
    """The server's folder."""

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        self._ports = self.root / "ports.json"
        self._secrets = self.root / "secrets.json"

    @property
    def exists(self) -> bool:
        """Whether it contains a server."""
        return self._ports.exists()

    def lock(self) -> BaseFileLock:
        """Return the folder's lock, so that its programs are started and stopped by one process."""
        self.root.mkdir(parents=True, exist_ok=True)
        return FileLock(self.root / "lock")

    def prepare(self, *, port: int, objects_port: int) -> None:
        """Create the folder, with ports (0 chooses a free one) and secrets; existing ones are kept.

        Raises:
            ServerError: A port cannot be used.
        """
        # PostgreSQL may run as another user, who needs access to its folder in this one.
        self.root.chmod(0o711)
        for name in ("objects", "mlflow", "members"):
            (self.root / name).mkdir(exist_ok=True)
            (self.root / name).chmod(0o700)
        if not self._secrets.exists():
            write_private(self._secrets, json.dumps(asdict(Secrets.make()), indent=2))
        if not self._ports.exists():
            ports = _free_ports({"mlflow": port, "objects": objects_port})
            write_private(self._ports, json.dumps(asdict(ports), indent=2))

    @property
    def ports(self) -> Ports:
        """The ports of its programs."""
        return TypeAdapter(Ports).validate_json(self._ports.read_text())

    @property
    def secrets(self) -> Secrets:
        """The secrets of its programs."""
        return TypeAdapter(Secrets).validate_json(self._secrets.read_text())

    def member_file(self, name: str) -> Path:
        """Return the path of a member's environment file."""
        return self.root / "members" / f"{name}.env"

    def members(self) -> dict[str, KeyPair]:
        """Return name -> the member's S3 credentials."""
        files = sorted((self.root / "members").glob("*.env"))
        environments = {file.stem: from_lines(file.read_text()) for file in files}
        return {
            name: KeyPair(each["AWS_ACCESS_KEY_ID"], each["AWS_SECRET_ACCESS_KEY"])
            for name, each in environments.items()
        }


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner can read at any time."""
    partial = path.with_name(f"{path.name}.partial")
    partial.unlink(missing_ok=True)
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    partial.replace(path)


def as_lines(environment: Mapping[str, str]) -> str:
    """Return variables as lines for a shell; the values need no quotes."""
    return "".join(f"{key}={value}\n" for key, value in environment.items())


def from_lines(text: str) -> dict[str, str]:
    """Return the variables in the lines of `as_lines`."""
    pairs = (line.partition("=") for line in text.splitlines())
    return {key: value for key, _, value in pairs}


def _free_ports(requested: Mapping[str, int]) -> Ports:
    """Return free ports, of which some are requested.

    Raises:
        ServerError: A requested port is in use, or requested twice.
    """
    with contextlib.ExitStack() as sockets:  # all open at once, so that each port is chosen once
        ports: dict[str, int] = {}
        for part in fields(Ports):
            number = requested.get(part.name, 0)
            try:
                server = sockets.enter_context(socket.create_server((HOST, number)))
            except OSError as error:
                raise ServerError(
                    f"port {number} of {HOST} cannot be used ({os.strerror(error.errno or 0)}); "
                    "choose another with --port or --objects-port, 0 chooses a free one"
                ) from error
            ports[part.name] = int(server.getsockname()[1])
    return Ports(**ports)
