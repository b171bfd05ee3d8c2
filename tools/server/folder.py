"""The folder that a server keeps everything in: ports, secrets, members, each program's own."""

import contextlib
import json
import os
import secrets
import socket
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from filelock import FileLock
from pydantic import TypeAdapter

from pipeline.errors import PipelineError
from pipeline.files import write_json

HOST = "127.0.0.1"
# What to do where something of the Python packages is missing.
INSTALL = "run `make server`"


class ServerError(PipelineError):
    """Something about the server that whoever runs it can mend."""


@dataclass(frozen=True)
class Ports:
    """Where each program listens; members use the first two."""

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
    """What an S3 client identifies itself with."""

    access: str
    secret: str

    @classmethod
    def make(cls) -> "KeyPair":
        """Return a new one."""
        return cls(secrets.token_hex(10), secrets.token_hex(20))


@dataclass(frozen=True)
class Secrets:
    """What no one but the server's programs may read.

    Attributes:
        admin: password of MLflow's user `admin`.
        session: what MLflow signs the forms of its pages with.
        postgres: password of the database's only user.
        objects_admin: makes buckets.
        objects_mlflow: for MLflow's bucket alone.
        objects_team: for the bucket of DVC's remote alone.
    """

    admin: str
    session: str
    postgres: str
    objects_admin: KeyPair
    objects_mlflow: KeyPair
    objects_team: KeyPair

    @classmethod
    def make(cls) -> "Secrets":
        """Return new ones."""
        pairs = (KeyPair.make(), KeyPair.make(), KeyPair.make())
        return cls(new_password(), new_password(), new_password(), *pairs)


class Folder:
    """The server's folder."""

    def __init__(self, root: Path) -> None:
        """Take its path; `prepare` makes it."""
        self.root = root.resolve()
        self._ports = self.root / "ports.json"
        self._secrets = self.root / "secrets.json"

    @property
    def exists(self) -> bool:
        """Whether a server has been set up in it."""
        return self._ports.exists()

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the folder, so that two who start or stop its programs wait for each other."""
        self.root.mkdir(parents=True, exist_ok=True)
        with FileLock(self.root / "lock"):
            yield

    def place(self, name: str) -> Path:
        """Return the folder of a program, made if absent."""
        path = self.root / name
        path.mkdir(exist_ok=True)
        return path

    def prepare(self, *, port: int, objects_port: int) -> None:
        """Make the folder; choose ports, make secrets. What is there stays.

        Args:
            port: of MLflow; 0 takes a free one.
            objects_port: of the object store, likewise.
        """
        # PostgreSQL may run as another user, who has to get to its own folder in this one.
        self.root.chmod(0o711)
        if not self._secrets.exists():
            write_private(self._secrets, json.dumps(asdict(Secrets.make()), indent=2))
        if not self._ports.exists():
            write_json(self._ports, asdict(_choose_ports(port, objects_port)))

    @property
    def ports(self) -> Ports:
        """Where its programs listen."""
        return TypeAdapter(Ports).validate_json(self._ports.read_text())

    @property
    def secrets(self) -> Secrets:
        """What its programs identify themselves with."""
        return TypeAdapter(Secrets).validate_json(self._secrets.read_text())

    def member_file(self, name: str) -> Path:
        """Return where the environment of a member is kept."""
        return self.place("members") / f"{name}.env"


def new_password() -> str:
    """Return a random one of 32 characters that a shell takes as they are."""
    return secrets.token_urlsafe(24)


def write_private(path: Path, text: str) -> None:
    """Write a file that its owner alone may read, never readable in between."""
    partial = path.with_name(f"{path.name}.partial")
    partial.unlink(missing_ok=True)
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    partial.replace(path)


def as_lines(environment: Mapping[str, str]) -> str:
    """Return variables as lines that a shell reads; the values need no quotes."""
    return "".join(f"{key}={value}\n" for key, value in environment.items())


def from_lines(text: str) -> dict[str, str]:
    """Return the variables of such lines."""
    pairs = (line.partition("=") for line in text.splitlines())
    return {key: value for key, _, value in pairs}


def _choose_ports(port: int, objects_port: int) -> Ports:
    """Return the ports that were asked for, and free ones for the rest.

    Raises:
        ServerError: one that was asked for is in use, or for both.
    """
    wanted = {"mlflow": port, "objects": objects_port}
    with contextlib.ExitStack() as bound:  # all at once, so that none is found twice
        found: dict[str, int] = {}
        for field in fields(Ports):
            taken = bound.enter_context(socket.socket())
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            number = wanted.get(field.name, 0)
            try:
                taken.bind((HOST, number))
            except OSError as error:
                raise ServerError(
                    f"port {number} of {HOST} cannot be used ({error.strerror}); choose another "
                    "with --port or --objects-port, 0 takes a free one"
                ) from error
            picked = int(taken.getsockname()[1])
            # As this address may be used again at once, Linux lets two sockets have it.
            if picked in found.values():
                raise ServerError(
                    f"port {picked} of {HOST} would be that of two programs; choose another with "
                    "--port or --objects-port, 0 takes a free one"
                )
            found[field.name] = picked
    return Ports(**found)
