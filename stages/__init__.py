"""Stages as commands, run by DVC: `python -m stages.<name>`.

DVC runs them with the `python` of PATH. After `.venv/bin/dvc repro` without activation, that is
another one than DVC's; if it lacks the project's packages, DVC's takes its place.
"""

import importlib.util
import os
import sys
from pathlib import Path

_PACKAGES = ("mlflow", "pydantic", "torch")
# Set in the environment by a process that replaces itself, so that it does so only once.
_REPLACED = "PTUNE_PYTHON"


def _ensure_packages() -> None:
    """Continue with the interpreter that runs DVC if this one lacks the project's packages."""
    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if not missing:
        return
    python = None if _REPLACED in os.environ else _dvc_python()
    if python is not None:
        os.environ[_REPLACED] = python
        # Python before 3.10 has no sys.orig_argv.
        command = getattr(sys, "orig_argv", None) or _command("self")
        os.execv(python, [python, *command[1:]])
    sys.exit(
        f"error: {sys.executable} does not have the packages {', '.join(missing)}; activate the "
        "project's environment, as in `source .venv/bin/activate`, and run again"
    )


def _dvc_python() -> "str | None":
    """Path of the interpreter that runs DVC, or of the one that `make setup` installs."""
    pid = str(os.getppid())
    try:
        while pid not in ("0", "1"):
            command = _command(pid)
            if any(Path(argument).name == "dvc" for argument in command[1:3]):
                python = Path(f"/proc/{pid}/cwd").readlink() / command[0]
                if python.is_file():
                    return str(python)
            # The name before it, in parentheses, may contain spaces.
            pid = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]
    except OSError:
        pass  # not Linux
    python = Path(os.environ.get("DVC_ROOT", "."), ".venv", "bin", "python")
    return str(python.absolute()) if python.is_file() else None


def _command(pid: str) -> "list[str]":
    return Path(f"/proc/{pid}/cmdline").read_bytes().decode().rstrip("\0").split("\0")


_ensure_packages()
