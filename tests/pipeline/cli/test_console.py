"""What commands print on stderr."""

import contextlib
import csv
import io
import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.cli.console import echo, print_columns, print_csv, print_json, print_warning
from pipeline.errors import warn
from tests.hostile import NAMES, controls_in

CODE = "from pipeline.cli.console import print_warning; print_warning('careful', color='red')"


def in_terminal(*arguments: str, **environment: str) -> bytes:
    """Return what Python, run with these arguments, writes to a terminal as standard error."""
    reader, terminal = pty.openpty()
    with subprocess.Popen(
        [sys.executable, *arguments],
        stdout=subprocess.DEVNULL,
        stderr=terminal,
        env={**os.environ, **environment},
    ) as process:
        os.close(terminal)
        shown = b""
        with contextlib.suppress(OSError):  # the end of a terminal's output, in Linux
            while part := os.read(reader, 4096):
                shown += part
    os.close(reader)
    assert process.returncode == 0
    return shown


@pytest.mark.parametrize(
    ("no_color", "shown"), [("", b"\x1b[31mcareful\x1b[0m\r\n"), ("1", b"careful\r\n")]
)
def test_a_warning_has_a_color_in_a_terminal_unless_no_color_is_set(
    no_color: str, shown: bytes
) -> None:
    assert in_terminal("-c", CODE, NO_COLOR=no_color) == shown


LIVE = """
import sys
from pipeline.cli.console import LiveLine
with LiveLine("train/rte") as line:
    line.update("bank-1", 1, 2)
    line._progress and line._progress.refresh()
    print("epoch 1", file=sys.stderr)
"""


def test_a_terminal_shows_how_far_the_work_is_and_what_is_printed() -> None:
    shown = in_terminal("-c", LIVE, TERM="xterm", COLUMNS="100").decode()
    assert "train/rte  bank-1" in shown
    assert "1/2" in shown
    assert "epoch 1" in shown


def test_a_terminal_shows_that_a_stage_imports() -> None:
    arguments = ("-m", "stages.validate", "--help")
    shown = in_terminal(*arguments, TERM="xterm", COLUMNS="100").decode()
    assert "importing torch and transformers" in shown
    assert shown.rstrip().endswith("\x1b[2K")  # the line is removed


def test_without_a_terminal_only_lines_are_printed() -> None:
    done = subprocess.run([sys.executable, "-c", LIVE], stderr=subprocess.PIPE, check=True)
    assert done.stderr == b"epoch 1\n"


HOSTILE = "a\x1b[31m\x9b2J\x7f\x07\r\u202eb\u2028"
SHOWN = "a\\x1b[31m\\x9b2J\\x7f\\x07\\x0d\\u202eb\\u2028"


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
    shown = "a\\u001b[31m\\u009b2J\\u007f\\u0007\\r\\u202eb\\u2028é"
    assert line == f'{{"a": "{shown}"}}'
    assert json.loads(line) == {"a": f"{HOSTILE}é"}


WAYS = ("typer.echo(", "\n    print(", "stderr.write(", "stdout.write(")


def test_all_commands_and_stages_print_by_these_functions() -> None:
    root = Path(__file__).parents[3]
    files = [*root.glob("pipeline/**/*.py"), *root.glob("stages/*.py")]
    others = [
        file.relative_to(root).as_posix()
        for file in files
        if any(way in file.read_text() for way in WAYS)
    ]
    assert sorted(others) == [
        "pipeline/cli/console.py",
        "pipeline/errors.py",
        "pipeline/history/store.py",  # the checkout's own path
    ]


def test_a_table_has_no_escapes_and_no_formula(capsys: pytest.CaptureFixture[str]) -> None:
    print_csv([{name: name, "probability": -0.5} for name in NAMES])
    table = capsys.readouterr().out
    assert not controls_in(table)
    rows = list(csv.reader(io.StringIO(table)))
    cells = [cell for row in rows for cell in row if cell != "-0.5"]
    assert len(rows) == 1 + len(NAMES)
    assert not [cell for cell in cells if cell[:1] in tuple("=+-@\t\r\n")]


@pytest.mark.parametrize("call", ["print_csv([row])", "print_json(row)", "echo(row['subject'])"])
def test_output_is_utf_8_in_a_locale_of_latin_1(call: str) -> None:
    code = f"""
from pipeline.cli.console import *
row = {{"subject": "\u0141\xf3d\u017a"}}
with report_errors():
    {call}
"""
    environment = {**os.environ, "PYTHONIOENCODING": "latin-1"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, check=True
    )
    assert "\u0141\xf3d\u017a" in done.stdout.decode("utf-8")


@pytest.mark.parametrize("name", NAMES)
def test_a_terminal_gets_no_control_character(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    echo(name)
    print_columns([[name, "b"]])
    print_warning(name, color="red")
    print_json({name: name})
    out, err = capsys.readouterr()
    assert not controls_in(out + err)
