"""What is told where nothing is on record; traces are tried in tests/pipeline/history/."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipeline.cli.app import app


@pytest.mark.parametrize(
    ("command", "code", "said"),
    [
        (("lineage", "foo"), 1, "foo: neither an output nor a stage in dvc.lock, nor a run"),
        (("lineage", "abcdef"), 1, "abcdef: neither an output nor a stage in dvc.lock, nor a run"),
        (("reproduce", "abcdef"), 1, "abcdef: no stage's run of the history has this id"),
        (("sync",), 0, "0 of 0 entries of dvc.lock got a run"),
        (("send",), 0, "nothing is kept"),
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
