import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from pipeline.cli.app import app
from pipeline.config.schema import load_params
from tests.pipeline.params_text import write_params

ROWS = "Title,Review,Stars\n" + "".join(f"a b,words {n},{n % 3}\n" for n in range(30))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_params(tmp_path / "params.yaml")
    (tmp_path / "rows.csv").write_text(ROWS)
    return tmp_path


def new(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["task", "new", *arguments])
    assert result.exit_code == ("error: " in result.output)
    return result.output


def test_a_task_without_a_model_has_its_labels_as_words(folder: Path) -> None:
    shown = new("reviews", "--from", "rows.csv")
    assert "rows.csv: 30 rows" in shown
    assert "run `dvc repro download-model` first" in shown
    own = load_params(folder / "params.yaml").tasks["reviews"]
    assert own.data.fields == {"title": "Title", "review": "Review"}
    assert own.data.label == "Stars"
    assert own.prompts.verbalizer == {"0": "0", "1": "1", "2": "2"}
    assert own.prompts.templates["p-tuning"] == (
        "{title:shorten} {review:shorten} [P*3] Answer: {mask}."
    )


def test_words_are_single_tokens_of_the_model(folder: Path, tiny_folders: dict[str, Path]) -> None:
    write_params(folder / "params.yaml", {"model.name": str(tiny_folders["bert"])})
    (folder / "rows.csv").write_text(
        "Text,Label\n" + "".join(f"words {n},{('a_Oslo', 'No')[n % 2]}\n" for n in range(20))
    )
    shown = new("reviews", "--from", "rows.csv")
    assert "cuts 0 of 20 rows" in shown
    own = load_params(folder / "params.yaml").tasks["reviews"]
    assert own.prompts.verbalizer == {"No": "no", "a_Oslo": "Oslo"}
    assert own.prompts.max_length == 64


def test_columns_that_are_no_text_or_that_rows_lack_are_left_alone(folder: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"text": f"words {n}", "label": "ab"[n % 2], "meta": {"by": n}} for n in range(20)
    ]
    rows[7]["note"] = "a note of words"
    del rows[8]["meta"]
    (folder / "rows.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    shown = new("reviews", "--from", "rows.jsonl", "--text", "text")
    assert "rows.jsonl: 20 rows" in shown
    assert load_params(folder / "params.yaml").tasks["reviews"].data.labels == ["a", "b"]
    assert "no column meta of texts or numbers; it has text, label, note" in new(
        "other", "--from", "rows.jsonl", "--text", "meta"
    )
    (folder / "rows.jsonl").write_text(
        "".join(f"{json.dumps(row)}\n" for row in [*rows, {"text": "words", "label": None}])
    )
    assert "line 21: no label" in new("third", "--from", "rows.jsonl", "--text", "text")


def test_a_folder_of_splits_is_used_whole(folder: Path) -> None:
    for name in ("train", "test"):
        (folder / f"{name}.csv").write_text(ROWS)
    new("reviews", "--from", ".", "--text", "Review", "--label", "Stars")
    splits = load_params(folder / "params.yaml").tasks["reviews"].data.splits
    assert (splits.train, splits.dev, splits.test) == (None, 0.15, None)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["rte", "--from", "rows.csv"], "'rte' is the name of a task or benchmark already"),
        (["reviews", "--from", "none.csv"], "none.csv: no such file or folder"),
        (["reviews", "--from", "rows.csv", "--label", "Rating"], "rows.csv: no column Rating"),
        (
            ["reviews", "--from", "rows.csv", "--label", "Title"],
            "rows.csv: 1 different label (a b)",
        ),
    ],
)
def test_a_mistake_leaves_params_yaml_as_it_is(
    folder: Path, arguments: list[str], said: str
) -> None:
    before = (folder / "params.yaml").read_bytes()
    assert said in new(*arguments)
    assert (folder / "params.yaml").read_bytes() == before


def test_a_task_is_added_once_and_has_to_be_trained(folder: Path) -> None:
    new("reviews", "--from", "rows.csv")
    assert "there is a task 'reviews' already; edit or remove it" in new(
        "reviews", "--from", "rows.csv"
    )
    result = CliRunner().invoke(app, ["predict", "reviews", "--title", "a"])
    assert "reviews was not trained; `dvc repro` trains" in result.output
