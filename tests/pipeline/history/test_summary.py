from collections.abc import Callable
from pathlib import Path

import mlflow
import pytest

from pipeline.errors import printable
from pipeline.history import run as runs
from pipeline.history.restore import summarize_runs
from pipeline.history.run import stage_run
from pipeline.history.summary import short_names
from pipeline.workflow.command import StageInfo
from pipeline.workflow.project import StageIdentity
from tests.hostile import NAMES, rendered, text_of

SPLITS, OTHER_SPLITS = (f"{digit * 32}.dir" for digit in "12")
LR = "lama.training.p-tuning.prompt.learning_rate"


@pytest.fixture
def written(own_folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Hashes of the outputs of the next stage."""
    hashes: dict[str, str] = {}
    monkeypatch.setattr(runs, "output_hashes", lambda: dict(hashes))
    return hashes


Execute = Callable[..., mlflow.entities.Run]


@pytest.fixture
def execute(written: dict[str, str]) -> Execute:
    """Run a stage that logs these metrics."""

    def run(
        stage: str,
        params: dict[str, object],
        inputs: dict[str, str],
        outputs: dict[str, str],
        method: str = "p-tuning",
        **metrics: float,
    ) -> mlflow.entities.Run:
        written.clear()
        written.update(outputs)
        name = f"{stage}-lama@{method}" if stage != "splits" else "splits-lama"
        identity = StageIdentity(
            stage=name,
            command=f"python -m stages.{stage} lama {method}",
            params={"model": {"name": "tiny"}, **params},
            inputs=inputs,
            run_key="ab" * 32,
        )
        info = StageInfo(stage, "lama", method=method if stage != "splits" else "")
        with stage_run(identity, info) as current:
            current.log_metrics({key.replace("__", "/"): value for key, value in metrics.items()})
        return mlflow.get_run(current.run_id)

    return run


def experiment(execute: Execute, rate: float, splits: str = SPLITS) -> mlflow.entities.Run:
    """Split, train and evaluate; return the evaluation."""
    model = f"{str(rate).encode().hex():a<32.32}.dir"
    facts = {"lama": {"splits": {"train_facts": 8 if splits == SPLITS else 16}}}
    execute("splits", facts, {}, {"data/splits/lama": splits})
    trained = execute(
        "train",
        {"lama": {"training": {"p-tuning": {"prompt": {"learning_rate": rate}}}}},
        {"data/splits/lama": splits},
        {"models/lama/p-tuning": model},
        seconds=60.0,
        seconds__taken_over=120.0,
        dev__p_at_1=0.5,
    )
    assert trained.data.metrics["minutes"] == 3.0
    return execute(
        "evaluate",
        {"lama": {"source": "geonames"}},
        {"data/splits/lama": splits, "models/lama/p-tuning": model},
        {"metrics/lama/p-tuning.json": "3" * 32},
        seconds=30.0,
        dev__p_at_1=0.5,
        test__p_at_1=0.625,
    )


def test_an_evaluation_has_the_settings_of_its_training_and_splits(execute: Execute) -> None:
    run = experiment(execute, 0.001)
    assert run.data.params == {
        "model.name": "tiny",
        "lama.source": "geonames",
        "lama.splits.train_facts": "8",
        LR: "0.001",
    }
    assert run.data.metrics["minutes"] == 3.5
    assert (run.data.metrics["dev/score"], run.data.metrics["test/score"]) == (0.5, 0.625)


def test_a_run_is_named_by_what_differs_from_the_first(execute: Execute) -> None:
    first = experiment(execute, 0.001)
    second = experiment(execute, 0.01)
    third = experiment(execute, 0.01, OTHER_SPLITS)
    assert first.info.run_name == "p-tuning lama"
    assert first.data.tags["changed"] == ""
    assert second.info.run_name == "p-tuning lama learning_rate=0.01"
    assert third.info.run_name == "p-tuning lama learning_rate=0.01 train_facts=16"
    note = second.data.tags["mlflow.note.content"]
    facts = "**test/score 62.5 %**, **dev/score 50.0 %**, 3.5 minutes, `learning_rate=0.01`"
    assert note.startswith(f"Result: {facts}\n\nStage `evaluate-lama@p-tuning`")


def test_settings_in_a_description_are_text(execute: Execute) -> None:
    inputs = {name: f"{number:032}" for number, name in enumerate(NAMES)}
    templates = {f"template{number}": name for number, name in enumerate(NAMES)}
    execute("train", dict.fromkeys(templates, "a"), {}, {"models/lama/p-tuning": "4" * 32})
    run = execute("train", templates, inputs, {"models/lama/p-tuning": "5" * 32})
    page = text_of(rendered(run.data.tags["mlflow.note.content"]))
    for key, name in templates.items():
        line = printable(" ".join(name.split()))
        assert f"{key}={line}" in page
        assert f"\n{line}\n{inputs[name]}\n" in page


@pytest.mark.parametrize("model", ["it's", 'a "b"', 'it\'s "b"'])
def test_a_model_may_have_quotes_in_its_name(execute: Execute, model: str) -> None:
    for rate in (1, 2):
        params = {"model": {"name": model}, "rate": rate}
        run = execute("train", params, {}, {"models/lama/p-tuning": "4" * 32})
    known = "" if "'" in model and '"' in model else "rate=2"  # no filter of MLflow has both
    assert run.data.tags["changed"] == known


def test_many_changes_are_counted(execute: Execute) -> None:
    for values in (dict.fromkeys("abcdef", 1), dict.fromkeys("abcdef", 2)):
        run = execute("train", values, {}, {"models/lama/p-tuning": "4" * 32})
    assert run.info.run_name == "p-tuning lama a=2 b=2 c=2 d=2 and 2 more"
    assert run.data.tags["changed"] == "a=2, b=2, c=2, d=2, e=2, f=2"


def test_a_setting_that_is_gone_is_a_dash(execute: Execute) -> None:
    execute("train", {"a": {"b": 1}}, {}, {"models/lama/p-tuning": "4" * 32})
    run = execute("train", {}, {}, {"models/lama/p-tuning": "5" * 32})
    assert run.info.run_name == "p-tuning lama b=-"


def test_runs_of_earlier_versions_are_summarized_once(
    execute: Execute, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as earlier:
        earlier.setattr(runs, "DERIVED", {})
        earlier.setattr("pipeline.history.events.MlflowWriter._log_dataset", lambda *_: None)
        model = {"models/lama/p-tuning": f"{'6' * 32}.dir"}
        execute("train", {"rate": 1}, {}, model, seconds=60.0)
        old = execute("evaluate", {}, model, {}, seconds=60.0, test__p_at_1=0.25)
        assert "changed" not in old.data.tags
    assert summarize_runs() == 2
    run = mlflow.get_run(old.info.run_id)
    assert run.data.metrics["minutes"] == 2.0
    assert run.data.params["rate"] == "1"
    assert run.data.tags["mlflow.note.content"].count("Result: ") == 1
    assert summarize_runs() == 0


def test_short_names_are_the_shortest_ends_that_differ() -> None:
    paths = ["a.prompt.rate", "a.model.rate", "a.epochs", "b.model.rate", "rate"]
    assert short_names(paths) == {
        "a.prompt.rate": "prompt.rate",
        "a.model.rate": "a.model.rate",
        "a.epochs": "epochs",
        "b.model.rate": "b.model.rate",
        "rate": "rate",
    }
