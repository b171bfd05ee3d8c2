from pathlib import Path

import mlflow
import pytest

from pipeline.history import derived
from pipeline.history import run as runs
from pipeline.history.journal import send_all
from pipeline.history.run import StageRun, stage_run
from pipeline.workflow.command import StageInfo
from pipeline.workflow.project import StageIdentity

MD5 = "0123456789abcdef0123456789abcdef.dir"
SPLITS = "fedcba9876543210fedcba9876543210.dir"
TRAIN = StageIdentity(
    stage="train-lama@p-tuning",
    command="python -m stages.train lama p-tuning",
    params={"seed": 34, "model": {"name": "tiny"}, "lama": {"prompts": {"p-tuning": "x" * 900}}},
    inputs={"data/splits/lama": SPLITS},
    run_key="ab" * 32,
)
EVALUATE = StageIdentity(
    stage="evaluate-lama@p-tuning",
    command="python -m stages.evaluate lama p-tuning",
    inputs={
        "data/splits/lama": SPLITS,
        "models/lama/p-tuning": MD5,
        "stages/evaluate.py": "0" * 32,
    },
    run_key="cd" * 32,
)


@pytest.fixture(autouse=True)
def _hashes(own_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = {"models/lama/p-tuning": MD5, "curves/lama/p-tuning.csv": "1" * 32}
    monkeypatch.setattr(runs, "output_hashes", lambda: written)


def train(stage: StageIdentity | None = TRAIN, *, resumes: str | None = None) -> str:
    with stage_run(stage, StageInfo("train", "lama", method="p-tuning"), resumes=resumes) as run:
        run.log_metrics({"dev/p_at_1": 0.5})
    return run.run_id


def evaluate(score: float, *, resumes: str | None = None) -> StageRun:
    with stage_run(
        EVALUATE, StageInfo("evaluate", "lama", method="p-tuning"), resumes=resumes
    ) as run:
        run.log_dataset("lama/geonames", "data/splits/lama", SPLITS, "evaluation")
        run.log_metrics({"test/p_at_1": score, "dev/p_at_1": 0.5})
        run.log_metrics({"seconds": 3.0}, 1)
    return run


def listed(**search: object) -> list[mlflow.entities.LoggedModel]:
    experiment = mlflow.get_experiment_by_name("p-tuning-train")
    return mlflow.search_logged_models(
        experiment_ids=[experiment.experiment_id], output_format="list", **search
    )


def only_listed() -> mlflow.entities.LoggedModel:
    (model,) = listed()
    return model


def test_what_was_trained_is_in_the_list_by_its_content() -> None:
    run_id = train()
    model = only_listed()
    assert model.name == "lama-p-tuning"
    assert model.source_run_id == run_id
    assert model.status.name == "READY"
    wanted = {
        "dvc.md5": MD5, "dvc.path": "models/lama/p-tuning", "dvc.run_key": TRAIN.run_key,
        "benchmark": "lama", "method": "p-tuning",
    }  # fmt: skip
    assert wanted.items() <= model.tags.items()
    assert model.params["seed"] == "34"
    assert model.params["model.name"] == "tiny"
    assert len(model.params["lama.prompts.p-tuning"]) == 500
    (output,) = mlflow.get_run(run_id).outputs.model_outputs
    assert output.model_id == model.model_id


def test_the_files_stay_where_dvc_keeps_them(own_folder: Path) -> None:
    train()
    entries = own_folder / "mlartifacts" / "p-tuning-train" / "models"
    assert {path.name for path in entries.rglob("*") if path.is_file()} == {"MLmodel"}


def test_the_same_content_is_listed_once(capsys: pytest.CaptureFixture[str]) -> None:
    first = train()
    second = train()
    model = only_listed()
    for run_id in (first, second):
        (output,) = mlflow.get_run(run_id).outputs.model_outputs
        assert output.model_id == model.model_id
    train(resumes=second)
    assert only_listed().model_id == model.model_id
    assert len(mlflow.get_run(second).outputs.model_outputs) == 1
    assert "warning" not in capsys.readouterr().err


def test_other_content_is_another_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    train()
    monkeypatch.setattr(runs, "output_hashes", lambda: {"models/lama/p-tuning": f"{'9' * 32}.dir"})
    train()
    assert len(listed()) == 2


def test_outside_dvc_nothing_is_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "output_hashes", dict)
    train(None)
    assert listed() == []


def test_a_task_is_in_the_name() -> None:
    with stage_run(TRAIN, StageInfo("train", "superglue", "rte", "p-tuning")):
        pass
    assert only_listed().name == "superglue-rte-p-tuning"


def test_an_evaluation_is_linked_with_what_it_evaluated_and_its_dataset(
    capsys: pytest.CaptureFixture[str],
) -> None:
    train()
    run = evaluate(0.25)
    model = only_listed()
    (entry,) = mlflow.get_run(run.run_id).inputs.model_inputs
    assert entry.model_id == model.model_id
    found = {metric.key: metric for metric in model.metrics}
    assert {key: metric.value for key, metric in found.items()} == {
        "test/p_at_1": 0.25,
        "test/score": 0.25,
        "dev/p_at_1": 0.5,
        "dev/score": 0.5,
    }
    assert {metric.dataset_name for metric in found.values()} == {"lama/geonames"}
    assert {metric.dataset_digest for metric in found.values()} == {SPLITS}
    assert mlflow.get_run(run.run_id).data.metrics["test/p_at_1"] == 0.25
    history = mlflow.MlflowClient().get_metric_history(run.run_id, "test/p_at_1")
    assert len(history) == 1
    evaluate(0.25, resumes=run.run_id)
    assert len(mlflow.get_run(run.run_id).inputs.model_inputs) == 1
    assert "warning" not in capsys.readouterr().err


def test_the_list_sorts_as_a_leaderboard(monkeypatch: pytest.MonkeyPatch) -> None:
    best = []
    for number, score in enumerate((0.25, 0.75, 0.5)):
        md5 = f"{str(number) * 32}.dir"
        outputs = {"models/lama/p-tuning": md5}
        monkeypatch.setattr(runs, "output_hashes", lambda outputs=outputs: outputs)
        monkeypatch.setitem(EVALUATE.inputs, "models/lama/p-tuning", md5)
        train()
        evaluate(score)
        best.append((score, md5))
    order = {
        "field_name": "metrics.test/p_at_1",
        "dataset_name": "lama/geonames",
        "dataset_digest": SPLITS,
        "ascending": False,
    }
    ranked = [model.tags["dvc.md5"] for model in listed(order_by=[order])]
    assert ranked == [md5 for _, md5 in sorted(best, reverse=True)]


def test_what_the_list_does_not_have_is_evaluated_all_the_same(
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = mlflow.get_run(evaluate(0.25).run_id)
    assert run.data.metrics["test/p_at_1"] == 0.25
    assert run.inputs.model_inputs == []
    assert "warning" not in capsys.readouterr().err


def test_a_list_that_takes_nothing_costs_no_result_and_gets_it_later(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def gone(*_: object, **__: object) -> None:
        raise ConnectionError("the server is gone")

    with monkeypatch.context() as away:
        away.setattr(derived, "_find_entry", gone)
        train()
        run = evaluate(0.25)
    # Each says so once, and the second that what the first kept is kept still.
    assert capsys.readouterr().err.count("the server is gone") == 3
    assert mlflow.get_run(run.run_id).data.metrics["test/p_at_1"] == 0.25
    assert listed() == []
    assert [report.num_pending for report in send_all()] == [0, 0]
    assert mlflow.get_run(run.run_id).info.status == "FINISHED"
    assert {metric.key for metric in only_listed().metrics} == {
        *("test/p_at_1", "dev/p_at_1"),
        *("test/score", "dev/score"),
    }
