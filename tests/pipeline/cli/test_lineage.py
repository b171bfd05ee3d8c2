"""What is told where nothing is on record; traces are tried in tests/pipeline/history/."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipeline.cli.app import app


@pytest.mark.parametrize(
    ("command", "code", "said"),
    [
        (("lineage", "foo"), 1, "foo: not an output or stage of dvc.lock, nor a run"),
        (("lineage", "abcdef"), 1, "abcdef: not an output or stage of dvc.lock, nor a run"),
        (("reproduce", "abcdef"), 1, "abcdef: the history has no stage run with this id"),
        (("sync",), 0, "created runs for 0 of 0 entries"),
        (("send",), 0, "nothing to send"),
    ],
)
def test_a_command_that_reads_makes_no_history(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...], code: int, said: str
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, command)
    assert done.exit_code == code
    assert said in done.output
    assert list(tmp_path.iterdir()) == []
