"""What commands print on stderr."""

import os
import pty
import subprocess
import sys

import pytest

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
