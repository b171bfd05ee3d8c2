"""What commands print on stderr."""

import os
import pty
import subprocess
import sys

import pytest

from pipeline.cli.console import print_columns, print_csv, print_warning

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


def test_without_a_terminal_only_lines_are_printed() -> None:
    done = subprocess.run([sys.executable, "-c", LIVE], stderr=subprocess.PIPE, check=True)
    assert done.stderr == b"epoch 1\n"


def test_a_terminal_gets_no_escapes(capsys: pytest.CaptureFixture[str]) -> None:
    print_columns([["a\x1b[31m", "b\x9b2J"], ["long text", "c"]])
    print_warning("first\nsecond \x1b]0;title\x07", color="red")
    out, err = capsys.readouterr()
    assert out == "a\\x1b[31m  b\\x9b2J\nlong text  c\n"
    assert err == "first\nsecond \\x1b]0;title\\x07\n"


@pytest.mark.parametrize("cell", ["=1+1", "+1", "-1", "@x", "\tx"])
def test_no_cell_is_a_formula(cell: str, capsys: pytest.CaptureFixture[str]) -> None:
    print_csv([{"subject": cell, "probability": -0.5}])
    assert capsys.readouterr().out == f"subject,probability\n'{cell},-0.5\n"
