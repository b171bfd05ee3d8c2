"""Numbers of restored runs; the whole of `ptune sync` is tested in tests/test_pipeline.py."""

from pathlib import Path

import pytest

from pipeline.history.restore import _numbers


@pytest.mark.parametrize(
    ("path", "content", "numbers"),
    [
        ("metrics/lama/x.json", '{"test/p_at_1": 0.5}', [("", "test/p_at_1", 0.5, 0)]),
        (
            "evaluation/lama/x/relations.csv",
            "relation,p_at_1\nP17,0.25\n",
            [("", "test/p_at_1/P17", 0.25, 0)],
        ),
        (
            "curves/lama/x.csv",
            "relation,epoch,train_loss,dev_p_at_1\nP17,3,,0.5\n",
            [("", "dev/p_at_1/P17", 0.5, 3)],
        ),
        (
            "curves/lama/x.csv",
            "relation,setting,split,seed,epoch,train_loss,dev_loss\nP17,2,1,34,3,1.5,2.5\n",
            [
                ("bank-1/seed-34", "train/loss/P17/setting-2/split-1/seed-34", 1.5, 3),
                ("bank-1/seed-34", "dev/loss/P17/setting-2/split-1/seed-34", 2.5, 3),
            ],
        ),
        (
            "curves/superglue/rte/x.csv",
            "setting,split,seed,epoch,train_loss,dev_score\n1,1,34,2,,0.75\n",
            [("rte/setting-1/split-1/seed-34", "dev/score", 0.75, 2)],
        ),
        ("models/x.csv", "relation,p_at_1\nP17,0.25\n", []),
    ],
)
def test_numbers_have_the_names_of_a_logged_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, content: str, numbers: list[object]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(path).parent.mkdir(parents=True)
    Path(path).write_text(content)
    assert list(_numbers(path)) == numbers
