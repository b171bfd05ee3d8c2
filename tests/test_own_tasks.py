"""A task of the user, by commands and params.yaml alone: from a file to a promoted model."""

import csv
import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
from dvc.repo import Repo
from ruamel.yaml import YAML

from pipeline.files import read_json
from tests.project import edit_params, make_project, run

pytestmark = pytest.mark.slow

# Label -> the word of the second text that decides it.
_WORDS = {"Paris": "France", "Oslo": "Norway", "Lyon": "Japan"}


def write_rows(path: Path, count: int = 300) -> None:
    """Write rows of two columns of text and three labels."""
    rng = random.Random(1)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["Title", "Review Text", "Rating"])
        for number in range(count):
            label = list(_WORDS)[number % 3]
            title = " ".join(rng.choices("abcdefgh", k=4))
            writer.writerow([title, f"the city of {_WORDS[label]}, {number}", label])


@pytest.fixture(scope="module")
def project(
    tmp_path_factory: pytest.TempPathFactory, tiny_folders: dict[str, Path], empty_store: Path
) -> Path:
    """A project after `ptune task new` and `dvc repro`."""
    root = make_project(
        tmp_path_factory.mktemp("own") / "project",
        tiny_folders["gpt2"],
        lama__methods=[],
        lama__relations=[],
        superglue__tasks=[],
        superglue__methods=["manual", "p-tuning"],
    )
    shutil.copyfile(empty_store, root / "mlflow.db")
    write_rows(root / "reviews.csv")
    shown = run(root, "ptune", "task", "new", "reviews", "--from", "reviews.csv").stdout
    (root / "shown.txt").write_text(shown)
    run(root, "dvc", "repro")
    return root


def test_what_was_read_and_guessed_is_shown_and_written(project: Path) -> None:
    shown = (project / "shown.txt").read_text()
    assert "300 rows" in shown
    for label in _WORDS:
        assert [label, "100", label] in [line.split() for line in shown.splitlines()]
    assert "cuts 0 of 300 rows" in shown
    own = YAML(typ="safe").load(project / "params.yaml")["tasks"]["reviews"]
    assert own["data"]["fields"] == {"title": "Title", "review_text": "Review Text"}
    assert own["data"]["label"] == "Rating"
    assert own["prompts"]["verbalizer"] == {label: label for label in sorted(_WORDS)}


def test_a_file_of_rows_becomes_a_table_of_results(project: Path) -> None:
    for method in ("manual", "p-tuning"):
        metrics = read_json(project / f"metrics/tasks/reviews/{method}.json")
        assert metrics["test/examples"] == 60
        assert metrics["test/majority"] == metrics["test/constant"] == pytest.approx(1 / 3)
        assert metrics["test/naive_bayes"] == 1
        assert 0 <= metrics["test/score"] <= 1
    text = (project / "report/summary.md").read_text()
    for name in ("manual", "p-tuning", "majority class", "naive Bayes"):
        assert f"| reviews | {name} |" in text
    results = json.loads(run(project, "ptune", "results", "--json").stdout)
    assert {(one["task"], one["source"]) for one in results["results"]} == {
        ("reviews", "reviews.csv")
    }


def test_a_trained_task_predicts_and_is_promoted(project: Path) -> None:
    fields = ("--title", "a b", "--review-text", "the city of France, 7")
    predicted = run(project, "ptune", "predict", "reviews", *fields, "--json").stdout
    answers = [json.loads(line) for line in predicted.splitlines()]
    assert [answer["method"] for answer in answers] == ["manual", "p-tuning"]
    for answer in answers:
        assert sum(answer[f"p_{label}"] for label in _WORDS) == pytest.approx(1, abs=1e-5)
    assert "reviews" in run(project, "ptune", "predict", "--help").stdout
    (project / "new.csv").write_text("Title;Review Text\na b;the city of France, 7\n")
    of_file = ("--file", "new.csv", "--json")  # the columns are those of reviews.csv
    from_file = run(project, "ptune", "predict", "reviews", *of_file).stdout
    for line, answer in zip(from_file.splitlines(), answers, strict=True):
        assert {**json.loads(line), **answer} == json.loads(line)
    promoted = run(project, "ptune", "promote", "reviews", "--method", "p-tuning").stdout
    assert "p-tuning-reviews, version 1" in promoted
    code = (
        "import mlflow, pandas; model = mlflow.pyfunc.load_model('models:/p-tuning-reviews@best');"
        "rows = pandas.DataFrame([{'title': 'a b', 'review_text': 'the city of France, 7'}]);"
        "print(model.predict(rows)['answer'][0])"
    )
    store = f"sqlite:///{project}/mlflow.db"
    # Outside the checkout: the model brings its code.
    loaded = run(project.parent, "python", "-c", code, MLFLOW_TRACKING_URI=store)
    assert loaded.stdout.split()[-1] == answers[1]["label"]


def test_lineage_leads_to_the_file_of_the_user(project: Path) -> None:
    traced = run(project, "ptune", "lineage", "metrics/tasks/reviews/p-tuning.json").stdout
    assert "reviews.csv" in traced


def stale(root: Path) -> set[str]:
    with Repo(str(root)) as repo:
        return {name.rpartition(":")[2] for name in repo.status()}


@pytest.mark.parametrize(
    ("edits", "expected"),
    [
        (
            {"tasks__reviews__prompts__templates__manual": "{title} {review_text} {mask}"},
            {"validate", "train-tasks@reviews-manual", "report"},
        ),
        (
            {"tasks__reviews__metrics": ["f1"]},
            {"validate", "splits-tasks@reviews", "report"},
        ),
        (
            {"tasks__reviews__seeds": [1, 2]},
            {"validate", "train-tasks@reviews-manual", "train-tasks@reviews-p-tuning", "report"},
        ),
    ],
)
def test_an_edit_makes_only_what_depends_on_it_stale(
    project: Path, edits: dict[str, Any], expected: set[str]
) -> None:
    params = project / "params.yaml"
    before = params.read_bytes()
    try:
        edit_params(project, **edits)
        assert stale(project) == expected
    finally:
        params.write_bytes(before)


def test_a_changed_file_makes_its_splits_stale(project: Path) -> None:
    assert not stale(project)
    file = project / "reviews.csv"
    before = file.read_bytes()
    try:
        file.write_bytes(before + b"one,more,Paris\r\n")
        assert stale(project) == {"splits-tasks@reviews"}
    finally:
        file.write_bytes(before)
