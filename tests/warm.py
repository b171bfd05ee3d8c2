"""Programs of a project in forks of one process that has the large libraries loaded.

To import torch, transformers, and MLflow takes a stage seconds of CPU, far longer than a tiny model
takes to train. A program that is run here is the one that a user runs, with its folder, arguments,
environment, output, and exit code; it only starts as a fork, in place of a new interpreter. Its
stages are no children of dvc, but of its process group. Tests that count on what belongs to a new
process, or on which one has started which, start them by `subprocess`.

All processes of a test run share the one that forks. It ends when the last of them has ended. It is
called `dvc`: a stage looks for the dvc that started it among the processes above its own.
"""

import atexit
import contextlib
import fcntl
import gc
import importlib
import json
import os
import runpy
import select
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
import uuid
import weakref
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

sys.path.insert(0, str(Path(__file__).parents[1]))  # this file is run by its path
from tests.quick import PARSED_YAML, open_stores_quickly, remember_yaml

del sys.path[0]

_PROGRAMS = ("dvc", "ptune", "python")
# Nothing of `pipeline`: each project has its copy. Families are what tiny models are of.
_LIBRARIES = (
    "torch", "torch._dynamo", "transformers", "transformers.models.auto.modeling_auto",
    "transformers.models.auto.tokenization_auto",
    "transformers.models.bert.modeling_bert", "transformers.models.gpt2.modeling_gpt2",
    "transformers.models.llama.modeling_llama", "accelerate", "safetensors.torch",
    "sklearn.metrics", "sklearn.naive_bayes", "sklearn.feature_extraction.text",
    "mlflow", "mlflow.data", "mlflow.store.tracking.sqlalchemy_store",
    "mlflow.store.artifact.local_artifact_repo",
    "matplotlib.figure", "matplotlib.backends.backend_agg", "matplotlib.backends.backend_svg",
    "mlflow.store.tracking.sqlalchemy_workspace_store", "mlflow.tracing.processor.otel",
    "mlflow.utils.search_logged_model_utils", "sqlalchemy.dialects.sqlite", "alembic.command",
    "dvc.cli.parser", "dvc.repo", "dvc.repo.reproduce", "dvc.repo.experiments", "dvc.repo.index",
    "dvc.repo.graph", "dvc.repo.trie", "dvc.repo.open_repo", "dvc.repo.artifacts",
    "dvc.repo.datasets", "dvc.repo.plots", "dvc.repo.stage", "dvc.data_cloud", "dvc.cachemgr",
    "dvc.stage.cache", "dvc.stage.run", "dvc.commands.repro", "dvc.parsing", "dvc.schema",
    "dvc_data.hashfile.db.local", "dvc_data.hashfile.status", "git", "networkx", "flatten_dict",
    "configobj", "platformdirs.unix", "dulwich.worktree", "dulwich.ignore", "dulwich.index",
    "fsspec.implementations.memory", "markdown_it", "typer", "rich.table", "pydantic",
    "ruamel.yaml", "psutil", "tqdm",
)  # fmt: skip
# The folder of the process that forks, in the environment of all that it starts.
_FOLDER = "PTUNE_TESTS_WARM"


def can_run(command: Sequence[str]) -> bool:
    """Whether a command is a program of this environment that needs no interpreter for itself."""
    program, *arguments = command
    return program in _PROGRAMS and (program != "python" or arguments[:1] in (["-m"], ["-c"]))


class Started:
    """A program that runs as a fork.

    Attributes:
        pid: of its process.
        returncode: its exit code, once it has been waited for.
    """

    def __init__(self, connection: socket.socket) -> None:
        """Initialize with the connection on which the program was asked for."""
        self._answers = connection.makefile("r")
        self.returncode: int | None = None
        self.pid = self._answer()

    def wait(self) -> int:
        """Wait until it ends, and return its exit code."""
        if self.returncode is None:
            self.returncode = self._answer()
            self._answers.close()
        return self.returncode

    def _answer(self) -> int:
        line = self._answers.readline()
        if not line:
            raise RuntimeError("the process that forks programs ended")
        return int(line)


def start_warm(
    command: Sequence[str],
    folder: Path,
    environment: Mapping[str, str],
    stdout: int,
    stderr: int,
    *,
    group: int | None = None,
) -> Started:
    """Start a program in a folder that writes to these file descriptors.

    Args:
        command: one that `can_run` accepts.
        folder: its current folder.
        environment: all of it.
        stdout: a file descriptor.
        stderr: a file descriptor.
        group: the process group that it joins; 0 for a new one, with what it starts.
    """
    warm = os.environ.get(_FOLDER) or _start()
    request = {
        "command": list(command),
        "folder": str(folder.resolve()),
        "environment": {**environment, _FOLDER: warm},
        "group": group,
    }
    with _connect(Path(warm)) as connection:
        text = json.dumps(request).encode()
        socket.send_fds(connection, [len(text).to_bytes(8, "big")], [stdout, stderr])
        connection.sendall(text)
        return Started(connection)


@cache
def _start() -> str:
    """Start the process that forks, if this test run has none yet, and keep it alive."""
    # Short, as the path of a socket has at most about 100 characters.
    test_run = os.environ.get("PYTEST_XDIST_TESTRUNUID") or uuid.uuid4().hex
    folder = Path(tempfile.gettempdir()) / f"ptune-{test_run[:16]}"
    folder.mkdir(mode=0o700, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "server").exists():
            keep = {key: value for key, value in os.environ.items() if key != "MLFLOW_TRACKING_URI"}
            command = [sys.executable, __file__, "dvc", str(folder)]
            server = subprocess.Popen(
                command, cwd=folder, env=keep, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
            )
            _KEPT.append(server)
            assert server.stdout is not None
            assert server.stdout.readline() == b"ready\n"
        _KEPT.append(_connect(folder))
        _KEPT[-1].sendall(bytes(8))
    return str(folder)


# The process, where this one has started it, and a connection that keeps it alive.
_KEPT: list[Any] = []


def _connect(folder: Path) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(str(folder / "server"))
    return connection


def _serve(folder: Path) -> dict[str, Any]:
    """Fork for each request, and answer it with the exit code; return only in the forks.

    Returns:
        What is to be run.
    """
    if parsed := os.environ.get(PARSED_YAML):
        remember_yaml(Path(parsed))
    for name in _LIBRARIES:
        importlib.import_module(name)
    open_stores_quickly()
    sys.modules["sqlalchemy.orm"].configure_mappers()
    # At the end of a fork, torch would take its operators apart and count what it has compiled.
    for final in weakref.finalize._registry:  # type: ignore[attr-defined]
        final.atexit = False
    atexit.unregister(sys.modules["torch._dynamo.utils"].dump_compile_times)
    gc.collect()
    gc.freeze()  # or each fork's collections copy all of the memory
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(folder / "server"))
    listener.listen()
    woken, wake = socket.socketpair()
    for end in (woken, wake):
        end.setblocking(False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake.fileno(), warn_on_full_buffer=False)
    running: dict[int, socket.socket] = {}
    users: set[socket.socket] = set()
    os.write(1, b"ready\n")
    while True:
        ready, _, _ = select.select([listener, woken, *users], [], [])
        if woken in ready:
            woken.recv(4096)
            for child in list(running):
                ended, status = os.waitpid(child, os.WNOHANG)
                if ended:
                    with running.pop(child) as waiting, contextlib.suppress(OSError):
                        waiting.sendall(b"%d\n" % os.waitstatus_to_exitcode(status))
        for user in users.intersection(ready):
            user.close()
            users.remove(user)
            if not users:
                shutil.rmtree(folder)
                os._exit(0)
        if listener not in ready:
            continue
        connection, _ = listener.accept()
        header, streams, _, _ = socket.recv_fds(connection, 8, 2)
        if not any(header):
            users.add(connection)
            continue
        with connection.makefile("rb") as incoming:
            request: dict[str, Any] = json.loads(incoming.read(int.from_bytes(header, "big")))
        child = os.fork()
        if not child:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            for end in (listener, woken, wake, connection, *running.values(), *users):
                end.close()
            nothing = os.open(os.devnull, os.O_RDONLY)
            for number, stream in enumerate((nothing, *streams)):
                os.dup2(stream, number)
                os.close(stream)
            if request["group"] is not None:
                with contextlib.suppress(OSError):
                    os.setpgid(0, request["group"])
            return request
        for stream in streams:
            os.close(stream)
        if request["group"] is not None:
            with contextlib.suppress(OSError):  # it may have ended, as may its group
                os.setpgid(child, request["group"])
        running[child] = connection
        with contextlib.suppress(OSError):
            connection.sendall(b"%d\n" % child)


def _become(request: dict[str, Any]) -> None:
    """Run a program in this process, as a new interpreter would."""
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["folder"])
    sys.path[1:1] = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    program, *arguments = request["command"]
    _fork_what_it_starts()
    if program == "python" and arguments[0] == "-c":
        _, code, *sys.argv[1:] = arguments
        sys.argv[0] = "-c"
        sys.path[0] = ""
        exec(compile(code, "<string>", "exec"), {"__name__": "__main__"})  # noqa: S102
        return
    if program == "python":
        _, module, *sys.argv[1:] = arguments
        sys.path[0] = request["folder"]
        runpy.run_module(module, run_name="__main__", alter_sys=True)
        return
    script = shutil.which(program)
    assert script is not None
    sys.argv = [script, *arguments]
    sys.path[0] = str(Path(script).parent)
    runpy.run_path(script, run_name="__main__")


def _fork_what_it_starts() -> None:
    """Have dvc's stages forked too, and the dvc that `ptune` starts."""
    from dvc.stage import run as dvc_run
    from dvc.stage.exceptions import StageCmdFailedError

    run_stage = dvc_run._run

    def stage(executable: str, cmd: str, **more: Any) -> None:
        words = shlex.split(cmd)
        if not can_run(words):
            run_stage(executable, cmd, **more)
            return
        sys.stdout.flush()
        sys.stderr.flush()
        folder = Path(more["cwd"])
        if code := start_warm(words, folder, more["env"], 1, 2, group=os.getpgrp()).wait():
            raise StageCmdFailedError(cmd, code)

    class Program(subprocess.Popen[Any]):
        def __init__(self, args: Any, **more: Any) -> None:
            if args[:3] == [sys.executable, "-m", "dvc"]:
                client = Path(__file__).with_name("warm_client.py")
                args = [sys.executable, "-E", "-S", str(client), "python", *args[1:]]
            super().__init__(args, **more)

    dvc_run._run = stage
    subprocess.Popen = Program  # type: ignore[misc]


def _end(code: object) -> NoReturn:
    """End a fork as an interpreter ends, but leave the libraries, which may take seconds."""
    if isinstance(code, str):
        sys.stderr.write(f"{code}\n")
        code = 1
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(int(code or 0))  # type: ignore[call-overload]


if __name__ == "__main__":
    to_run = _serve(Path(sys.argv[2]))
    try:
        _become(to_run)
    except SystemExit as stopped:
        _end(stopped.code)
    except BaseException:
        traceback.print_exc()
        _end(1)
    _end(0)
