"""`ptune repro` with several stages at a time, under dvc."""

import contextlib
import os
import pty
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any

import psutil
import pytest
from ruamel.yaml import YAML

from tests.project import (
    ROOT,
    edit_params,
    environment_of,
    make_project,
    processes_where,
    run,
)

pytestmark = pytest.mark.slow

PTUNE = (sys.executable, "-c", "from pipeline.cli.app import app; app()")
TARGETS = ("train-lama", "evaluate-lama@manual")
TRAINED = ["train-lama@manual", "train-lama@p-tuning", "evaluate-lama@manual"]
OUTPUTS = ("data", "models", "curves", "metrics", "evaluation")


def files(root: Path) -> dict[str, bytes]:
    """Path -> content of each file that stages have written."""
    found = (path for folder in OUTPUTS for path in (root / folder).rglob("*") if path.is_file())
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in found}


def lock(root: Path) -> dict[str, Any]:
    stages: dict[str, Any] = YAML(typ="safe").load(root / "dvc.lock")["stages"]
    return stages


def ended(printed: str) -> dict[str, str]:
    """Stage -> how it ended, from the table at the end; without the seconds."""
    rows = printed.split("\nstage ")[1].splitlines()[1:-1]
    table = {row.split()[0]: row.split(maxsplit=1)[1] for row in rows}
    return {name: " ".join(p for p in how.split() if "." not in p) for name, how in table.items()}


def test_two_at_a_time_give_what_one_after_the_other_gives(
    tmp_path: Path, tiny_folders: dict[str, Path], empty_store: Path
) -> None:
    parallel = make_project(
        tmp_path / "parallel" / "project",
        tiny_folders["gpt2"],
        lama__methods=["manual", "p-tuning"],
        superglue__tasks=[],
    )
    shutil.copyfile(empty_store, parallel / "mlflow.db")
    first = run(parallel, "ptune", "repro", "-j", "2", "splits-lama", "download-model")
    assert list(ended(first.stdout).values()) == ["ran"] * 4
    assert first.stdout.startswith("validate       | Running stage 'validate':\n")
    serial = shutil.copytree(parallel, tmp_path / "serial" / "project", symlinks=True)
    with ThreadPoolExecutor() as pool:
        plain = pool.submit(run, serial, "dvc", "repro", *TARGETS)
        done = run(parallel, "ptune", "repro", "-j", "2", *TARGETS)
        plain.result()
    assert files(parallel) == files(serial)
    assert lock(parallel) == lock(serial)
    assert list(ended(done.stdout).values()) == ["ran"] * 3
    assert (
        "\ntrain-lama@p-tuning  | P17/setting-1/split-1/seed-34 epoch 1  dev/loss " in done.stdout
    )
    assert done.stdout.endswith("\n3 ran, 4 unchanged\n")

    assert "up to date" in run(parallel, "dvc", "status", "--with-deps", *TARGETS).stdout
    assert "Running stage" not in run(parallel, "dvc", "repro", *TARGETS).stdout
    assert run(parallel, "ptune", "repro", "-j", "2", *TARGETS).stdout == "7 unchanged\n"


def test_all_stages_share_one_pool_of_ray(
    tmp_path: Path, tiny_folders: dict[str, Path], empty_store: Path, ray_folder: Path
) -> None:
    pytest.importorskip("ray", reason="ray is not installed")
    serial = make_project(
        tmp_path / "serial" / "project",
        tiny_folders["gpt2"],
        lama__methods=["manual", "p-tuning"],
        superglue__tasks=[],
        runtime__max_tokens_per_forward=1024,
    )
    shutil.copyfile(empty_store, serial / "mlflow.db")
    run(serial, "dvc", "repro", "splits-lama", "download-model")
    shared = shutil.copytree(serial, tmp_path / "shared" / "project", symlinks=True)
    edit_params(shared, runtime__engine="ray")
    run(serial, "dvc", "repro", *TARGETS)
    done = run(shared, "ptune", "repro", "-j", "4", *TARGETS, RAY_TMPDIR=str(ray_folder))
    assert list(ray_folder.glob("ray/session_*"))
    psutil.wait_procs(processes_of(ray_folder), timeout=300)
    assert not processes_of(ray_folder)
    assert [n for n, how in ended(done.stdout).items() if how == "ran" and "lama@" in n] == TRAINED
    assert files(shared) == files(serial)


def processes_of(sessions: Path) -> list[psutil.Process]:
    """Those of Ray that name its folder."""
    return processes_where(lambda each: any(str(sessions) in word for word in each.cmdline()))


# Stages of one line each: `out` is written, or the stage does what its name says.
WRITE = "echo {name}; echo {name} > {name}.out"
SLEEP = (
    'python -c "import time; from stages.runtime import _end_with_dvc as end; end(); '
    "print('it sleeps', flush=True); time.sleep(300)\""
)


def make_light_project(folder: Path, **stages: dict[str, Any]) -> Path:
    """Make a project of stages that only write a line; `cmd` and `deps` may differ."""
    folder.mkdir()
    shutil.copyfile(ROOT / "params.yaml", folder / "params.yaml")
    described = {
        name: {"cmd": WRITE.format(name=name), "outs": [f"{name}.out"], **more}
        for name, more in {"validate": {}, **stages}.items()
    }
    YAML(typ="safe", pure=True).dump({"stages": described}, folder / "dvc.yaml")
    run(folder, "dvc", "init", "--no-scm", "-q")
    return folder


def after(*names: str) -> list[str]:
    return [f"{name}.out" for name in names]


def repro(folder: Path, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    return run(
        folder, "ptune", "repro", *arguments, check=check, PYTHONPATH=str(ROOT), SHELL="/bin/sh"
    )


def test_a_stage_that_fails_keeps_only_its_dependents_from_running(tmp_path: Path) -> None:
    project = make_light_project(
        tmp_path / "project",
        good={},
        bad={"cmd": "echo so it begins; echo no disk; exit 3"},
        behind={"deps": after("bad", "good")},
        last={"deps": after("behind")},
        other={"deps": after("good")},
    )
    done = repro(project, "-j", "2", check=False)
    assert done.returncode == 1
    assert ended(done.stdout) == {
        "validate": "ran",
        "good": "ran",
        "bad": "failed",
        "behind": "not run blocked by bad",
        "last": "not run blocked by behind",
        "other": "ran",
    }
    assert done.stdout.index("validate | validate") < done.stdout.index("Running stage 'good'")
    assert "bad failed; last lines of its output:\n  Running stage 'bad':\n" in done.stderr
    assert "\n  so it begins\n  no disk\n  ERROR: failed to reproduce 'bad'" in done.stderr
    assert "dvc push" not in done.stdout
    assert "bad:" in run(project, "dvc", "status").stdout

    text = (project / "dvc.yaml").read_text()
    (project / "dvc.yaml").write_text(text.replace("exit 3", "echo yes > bad.out"))
    again = repro(project, "-j", "2", "last")
    assert ended(again.stdout) == {"bad": "ran", "behind": "ran", "last": "ran"}
    (project / "last.out").unlink()
    (project / "good.out").write_text("changed by hand")
    third = repro(project, "-j", "2")
    assert ended(third.stdout) == {
        "good": "ran", "behind": "unchanged", "last": "cached", "other": "unchanged",
    }  # fmt: skip
    assert "up to date" in run(project, "dvc", "status").stdout


def test_nothing_runs_where_validate_fails(tmp_path: Path) -> None:
    project = make_light_project(
        tmp_path / "project", validate={"cmd": "echo wrong; exit 1"}, one={}, two={}
    )
    done = repro(project, "-j", "3", "two", check=False)
    assert done.returncode == 1
    assert ended(done.stdout) == {"validate": "failed", "two": "not run blocked by validate"}
    assert not (project / "two.out").exists()


@contextlib.contextmanager
def sleeping(
    folder: Path, *before: str, terminal: bool = False
) -> Iterator[tuple[subprocess.Popen[str], IO[str], list[psutil.Process]]]:
    """A `ptune repro` with two stages that sleep, what it prints, and all processes below it.

    It is started by the command `before`, into a pipe or its own terminal.
    """
    project = make_light_project(
        folder, one={"cmd": SLEEP}, two={"cmd": SLEEP}, three={"deps": after("two")}
    )
    reading, writing = pty.openpty() if terminal else os.pipe()
    ptune = subprocess.Popen(
        [*before, *PTUNE, "repro", "-j", "2"], cwd=project, text=True, stdout=writing,
        stderr=writing if terminal else None,
        env=environment_of(project, PYTHONPATH=str(ROOT), SHELL="/bin/sh"),
    )  # fmt: skip
    os.close(writing)
    with os.fdopen(reading) as printed:
        seen = 0
        while seen < 2:
            seen += "it sleeps\n" in printed.readline()
        below = psutil.Process(ptune.pid).children(recursive=True)
        assert len(below) >= 4
        try:
            yield ptune, printed, below
        finally:
            for process in below:
                if process.is_running():
                    process.kill()
            ptune.kill()
            ptune.wait()


STOPPED = {
    "validate": "ran", "one": "stopped", "two": "stopped", "three": "not run blocked by two",
}  # fmt: skip


@pytest.fixture
def _signals_heeded() -> Iterator[None]:
    """Let what a test starts be ended by Ctrl-C and by a closed terminal.

    Where the tests run in the background of a shell, or under nohup, they inherit the opposite.
    """
    wanted = {signal.SIGINT: signal.default_int_handler, signal.SIGHUP: signal.SIG_DFL}
    before = {number: signal.signal(number, handler) for number, handler in wanted.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("_signals_heeded")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_nothing_runs_on_when_ptune_is_ended(tmp_path: Path, number: int) -> None:
    with sleeping(tmp_path / "project") as (ptune, printed, below):
        os.kill(ptune.pid, number)
        _, alive = psutil.wait_procs(below, timeout=300)
        assert not alive
        if number == signal.SIGKILL:
            assert ptune.wait(timeout=300) == -number
        else:
            assert ptune.wait(timeout=300) == 128 + number
            assert ended(printed.read()) == STOPPED


@pytest.mark.usefixtures("_signals_heeded")
def test_nothing_runs_on_when_the_terminal_is_closed(tmp_path: Path) -> None:
    with sleeping(tmp_path / "project", terminal=True) as (ptune, printed, below):
        printed.close()
        os.kill(ptune.pid, signal.SIGHUP)
        _, alive = psutil.wait_procs(below, timeout=300)
        assert not alive
        ptune.wait(timeout=300)


def test_stages_run_on_under_nohup_when_the_terminal_is_closed(tmp_path: Path) -> None:
    with sleeping(tmp_path / "project", "nohup") as (ptune, printed, below):
        os.kill(ptune.pid, signal.SIGHUP)
        _, alive = psutil.wait_procs(below, timeout=3)
        assert set(alive) == set(below)
        os.kill(ptune.pid, signal.SIGTERM)
        assert ptune.wait(timeout=300) == 128 + signal.SIGTERM
        assert ended(printed.read()) == STOPPED


def test_what_dvc_cannot_read_is_reported_before_anything_runs(tmp_path: Path) -> None:
    project = make_light_project(tmp_path / "project", one={})
    unknown = repro(project, "-j", "2", "tow", check=False)
    assert unknown.returncode == 1
    assert unknown.stderr.startswith("error: ")
    assert "'tow'" in unknown.stderr
    assert "Traceback" not in unknown.stderr
    text = (project / "params.yaml").read_text()
    (project / "params.yaml").write_text(text.replace("\nseed:", "\nsede:"))
    misspelled = repro(project, "-j", "2", check=False)
    assert misspelled.returncode == 1
    assert "sede: unknown key; did you mean 'seed'?" in misspelled.stderr
    assert misspelled.stdout == ""
