"""Start, stop and inspect a shared history on this machine.

    python -m tools.server up --data /srv/p-tuning --member ada

See docs/server.md.
"""

import re
from concurrent.futures import ThreadPoolExecutor
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli.console import report_errors
from tools.server.folder import (
    Folder,
    KeyPair,
    ServerError,
    as_lines,
    from_lines,
    new_password,
    write_private,
)
from tools.server.history import ADMIN, History
from tools.server.objects import DVC_BUCKET, Objects
from tools.server.postgres import Postgres

app = typer.Typer(
    name="python -m tools.server", help=__doc__, no_args_is_help=True,
    pretty_exceptions_enable=False, add_completion=False,
)  # fmt: skip

Data = Annotated[
    Path,
    typer.Option("--data", envvar="PTUNE_SERVER_DATA", help="The server's data folder."),
]


class Service(StrEnum):
    """A program of the server."""

    POSTGRES = "postgres"
    OBJECTS = "objects"
    MLFLOW = "mlflow"


Named = Annotated[list[Service] | None, typer.Argument(help="The programs; all by default.")]


@app.command()
def up(
    data: Data,
    member: Annotated[
        list[str] | None, typer.Option("--member", help="Create an account; may be repeated.")
    ] = None,
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="MLflow's, for a new folder; 0: any.")
    ] = 5000,
    objects_port: Annotated[
        int,
        typer.Option(min=0, max=65535, help="The object store's, for a new folder; 0: any."),
    ] = 8333,
) -> None:
    """Create what is missing, and start what is not running.

    Example: python -m tools.server up --data /srv/p-tuning --member ada
    """
    with report_errors():
        for name in member or []:
            _check_name(name)
        folder = Folder(data)
        postgres, objects, mlflow = _services(folder).values()
        for service in (postgres, objects, mlflow):
            service.check()
        with folder.lock():
            folder.prepare(port=port, objects_port=objects_port)
            with ThreadPoolExecutor() as pool:
                list(pool.map(lambda service: service.start(), (postgres, objects)))
            mlflow.start()  # it needs both
            for name in member or []:
                _add_member(folder, name)
        _print_status(folder)


@app.command()
def down(data: Data, services: Named = None) -> None:
    """Stop the programs; their data is kept."""
    with report_errors():
        folder = _existing(data)
        every = _services(folder)
        with folder.lock():
            # MLflow first: it needs the others to finish its requests.
            for name in reversed(every):
                if services is None or name in services:
                    stopped = every[name].stop()
                    typer.echo(f"{name}  {'stopped' if stopped else 'was not running'}")


@app.command()
def remove(data: Data, name: Annotated[str, typer.Argument(help="The member's name.")]) -> None:
    """Delete a member's account and S3 key; what the member has logged and pushed is kept.

    The object store is restarted, so that it forgets the key at once; MLflow accepts the password
    for up to another minute.
    """
    with report_errors():
        folder = _existing(data)
        if name not in folder.members():
            known = ", ".join(folder.members()) or "none"
            raise ServerError(f"no member {name}; members: {known}")
        with folder.lock():
            History(folder).remove_member(name)
            folder.member_file(name).unlink()
            objects = Objects(folder)
            objects.stop()
            objects.start()
        typer.echo(f"{name}  removed")


@app.command()
def status(data: Data) -> None:
    """Show each program's state and address; exit with 1 if one is not running."""
    with report_errors():
        if not _print_status(_existing(data)):
            raise typer.Exit(1)


def _services(folder: Folder) -> dict[Service, Postgres | Objects | History]:
    return {
        Service.POSTGRES: Postgres(folder),
        Service.OBJECTS: Objects(folder),
        Service.MLFLOW: History(folder),
    }


def _existing(data: Path) -> Folder:
    folder = Folder(data)
    if not folder.exists:
        raise ServerError(f"no server in {data}; run `up` first")
    return folder


def _print_status(folder: Folder) -> bool:
    """Print each program's state and address; return whether all are running."""
    running = []
    for name, service in _services(folder).items():
        running.append(service.is_running())
        typer.echo(f"{name:9} {'running' if running[-1] else 'stopped':8} {service.address}")
    return all(running)


def _check_name(name: str) -> None:
    if name == ADMIN or not re.fullmatch(r"[a-z0-9][a-z0-9._-]*", name):
        raise ServerError(
            f"--member {name}: use lowercase letters, digits, '.', '_' and '-'; {ADMIN} is reserved"
        )


def _add_member(folder: Folder, name: str) -> None:
    """Create an account, and print its environment the first time.

    A member with a file may have changed the password in MLflow, which is then kept.
    """
    file = folder.member_file(name)
    exists = file.exists()
    password = (
        from_lines(file.read_text())["MLFLOW_TRACKING_PASSWORD"] if exists else new_password()
    )
    keys = folder.members()[name] if exists else KeyPair.make()
    history, objects = History(folder), Objects(folder)
    history.add_member(name, password, renew=not exists)
    environment = {
        "MLFLOW_TRACKING_URI": history.address,
        "MLFLOW_TRACKING_USERNAME": name,
        "MLFLOW_TRACKING_PASSWORD": password,
        "AWS_ACCESS_KEY_ID": keys.access,
        "AWS_SECRET_ACCESS_KEY": keys.secret,
    }
    write_private(file, as_lines(environment))
    objects.admit_members()
    if exists:
        typer.echo(f"{name}: the environment is in {file}, with the initial password")
        return
    typer.echo(
        f"The environment of {name}, printed only once and stored in {file}:\n\n"
        f"{as_lines(environment)}\n"
        "DVC's remote, once in the project:\n\n"
        f"dvc remote add --default team s3://{DVC_BUCKET}\n"
        f"dvc remote modify team endpointurl {objects.address}\n"
    )


if __name__ == "__main__":
    app()
