"""What commands print on stderr."""

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.cli.console import echo, print_columns, print_csv, print_json, print_warning
from pipeline.errors import warn

CODE = "from pipeline.cli.console import print_warning; print_warning('careful', color='red')"


@pytest.mark.parametrize(
    ("no_color", "shown"), [("", b"\x1b[31mcareful\x1b[0m\r\n"), ("1", b"careful\r\n")]
)
def test_a_warning_has_a_color_in_a_terminal_unless_no_color_is_set(
    no_color: str, shown: bytes
) -> None:
    reader, terminal = pty.openpty()
    environment = {**os.environ, "NO_COLOR": no_color}
    subprocess.run([sys.executable, "-c", CODE], stderr=terminal, env=environment, check=True)
    assert os.read(reader, 100) == shown


LIVE = """
import sys
from pipeline.cli.console import LiveLine
with LiveLine("train/rte") as line:
    line.update("bank-1", 1, 2)
    line._progress and line._progress.refresh()
    print("epoch 1", file=sys.stderr)
"""


def test_a_terminal_shows_how_far_the_work_is_and_what_is_printed() -> None:
    reader, terminal = pty.openpty()
    subprocess.run(
        [sys.executable, "-c", LIVE],
        stderr=terminal,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "100"},
        check=True,
    )
    os.close(terminal)
    shown = os.read(reader, 10_000).decode()
    assert "train/rte  bank-1" in shown
    assert "1/2" in shown
    assert "epoch 1" in shown


def test_a_terminal_shows_that_a_stage_imports() -> None:
    reader, terminal = pty.openpty()
    subprocess.run(
        [sys.executable, "-m", "stages.validate", "--help"],
        stdout=subprocess.DEVNULL,
        stderr=terminal,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "100"},
        check=True,
    )
    os.close(terminal)
    shown = os.read(reader, 10_000).decode()
    assert "importing torch and transformers" in shown
    assert shown.rstrip().endswith("\x1b[2K")  # the line is removed


def test_without_a_terminal_only_lines_are_printed() -> None:
    done = subprocess.run([sys.executable, "-c", LIVE], stderr=subprocess.PIPE, check=True)
    assert done.stderr == b"epoch 1\n"


HOSTILE = "a\x1b[31m\x9b2J\x7f\x07\r"
SHOWN = "a\\x1b[31m\\x9b2J\\x7f\\x07\\x0d"


def test_a_terminal_gets_no_escapes(capsys: pytest.CaptureFixture[str]) -> None:
    print_columns([[HOSTILE, "b"], ["c", "d"]])
    echo(f"{HOSTILE}\n\tsecond")
    print_csv([{"subject": HOSTILE}])
    print_warning(f"first\n{HOSTILE}", color="red")
    echo(HOSTILE, err=True)
    warn(HOSTILE)
    out, err = capsys.readouterr()
    widened = "c".ljust(len(SHOWN))
    assert out == f"{SHOWN}  b\n{widened}  d\n{SHOWN}\n\tsecond\nsubject\n{SHOWN}\n"
    assert err == f"first\n{SHOWN}\n{SHOWN}\nwarning: {SHOWN}\n"


def test_json_has_no_escapes_and_is_the_same_value(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"a": f"{HOSTILE}é"})
    (line,) = capsys.readouterr().out.splitlines()
    assert line == '{"a": "a\\u001b[31m\\u009b2J\\u007f\\u0007\\ré"}'
    assert json.loads(line) == {"a": f"{HOSTILE}é"}


def test_all_commands_and_stages_print_by_these_functions() -> None:
    root = Path(__file__).parents[3]
    files = [*root.glob("pipeline/**/*.py"), *root.glob("stages/*.py")]
    others = [
        file.relative_to(root).as_posix()
        for file in files
        if any(way in file.read_text() for way in ("typer.echo(", "\n    print(", "stderr.write("))
    ]
    assert sorted(others) == [
        "pipeline/cli/console.py",
        "pipeline/errors.py",
        "pipeline/history/store.py",  # the checkout's own path
    ]


@pytest.mark.parametrize("cell", ["=1+1", "+1", "-1", "@x", "\tx"])
def test_no_cell_is_a_formula(cell: str, capsys: pytest.CaptureFixture[str]) -> None:
    print_csv([{"subject": cell, "probability": -0.5}])
    assert capsys.readouterr().out == f"subject,probability\n'{cell},-0.5\n"
